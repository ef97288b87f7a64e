"""A hub that throttles, fails, stalls or cuts: what passes by itself is said to pass, and soon."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from kubequant.api.conditions import Reason
from kubequant.errors import Refused, Throttled, Unavailable
from kubequant.hub.client import Hub
from kubequant.hub.description import REQUESTS_AT_ONCE
from kubequant.hub.session import Connecting
from tests.fakehub import FakeHub, Fault, rate_limited
from tests.fakehub.tensors import Tensor
from tests.unit.hub.asking import describe, document, model, with_hub
from tests.unit.hub.test_sharing import Clock

INFO, CONFIG, SHARD, CDN = "/api/models/", r"config\.json$", r"\.safetensors$", "^/repos/"


@pytest.fixture
def hub(empty: FakeHub) -> FakeHub:
    empty.add(model())
    return empty


@pytest.mark.parametrize("path", [INFO, CONFIG, SHARD])
def test_throttled_names_the_time_of_the_ratelimit_header(hub: FakeHub, path: str) -> None:
    hub.faults.add(rate_limited(path, reset_seconds=55))
    with pytest.raises(Throttled, match="no more requests from the operator for now") as caught:
        describe(hub.url, "some/model")
    assert caught.value.reason is Reason.HUB_THROTTLED
    assert 55 <= caught.value.retry_after_seconds <= 57


@pytest.mark.parametrize(("value", "seconds"), [("7", 7), ("999999999", 3600), ("9" * 5000, 3600)])
def test_throttled_by_retry_after(hub: FakeHub, value: str, seconds: float) -> None:
    hub.faults.add(Fault(INFO, status=429, headers={"Retry-After": value}))
    with pytest.raises(Throttled) as caught:
        describe(hub.url, "some/model")
    assert caught.value.retry_after_seconds is not None
    assert seconds <= caught.value.retry_after_seconds <= seconds + 1.1


@pytest.mark.parametrize("value", ["0", "1", "soon", "", "-5", "\u00b2"])
def test_a_short_wait_is_waited_out_and_one_without_a_time_is_short_at_first(hub: FakeHub, value: str) -> None:
    hub.faults.add(Fault(CONFIG, status=429, headers={"Retry-After": value}))
    assert describe(hub.url, "some/model").repository == "some/model"
    first, again = (request.at for request in hub.requests.select(CONFIG))
    assert 0.9 <= again - first <= 3
    assert hub.requests.count(INFO) == 1


def test_short_waits_without_end_are_given_up(hub: FakeHub) -> None:
    hub.faults.add(Fault(INFO, times=10**6, status=429, headers={"Retry-After": "1"}))
    with pytest.raises(Throttled):
        describe(hub.url, "some/model", deadline_seconds=2.5)
    assert hub.requests.count() <= 4


def test_throttled_until_a_date(hub: FakeHub) -> None:
    date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 100))
    hub.faults.add(Fault(INFO, status=429, headers={"Retry-After": date}))
    with pytest.raises(Throttled) as caught:
        describe(hub.url, "some/model")
    assert caught.value.retry_after_seconds == pytest.approx(100, abs=5)


def test_after_a_429_nobody_asks_until_the_window_ends(hub: FakeHub) -> None:
    clock = Clock()
    hub.faults.add(rate_limited(INFO, times=1, reset_seconds=55))

    async def over_time(hub_client: Hub) -> str:
        for seconds, repository in ((0, "some/model"), (30, "some/model"), (15, "some/other")):
            clock.now += seconds
            with pytest.raises(Throttled):
                await hub_client.describe(repository)
        assert hub.requests.count() == 1
        clock.now += 12
        return (await hub_client.describe("some/model")).repository

    assert with_hub(hub.url, over_time, clock=clock) == "some/model"


@pytest.mark.parametrize("path", [INFO, CONFIG, SHARD, CDN])
def test_one_cut_connection_is_mended_quietly(hub: FakeHub, path: str) -> None:
    hub.faults.add(Fault(path, cut_after_bytes=0))
    assert describe(hub.url, "some/model").repository == "some/model"


def test_a_body_cut_in_the_middle_is_read_again(hub: FakeHub) -> None:
    hub.faults.add(Fault(CDN, cut_after_bytes=100))
    assert describe(hub.url, "some/model").repository == "some/model"


@pytest.mark.parametrize(("path", "most"), [(INFO, 2), (CONFIG, 2), (CDN, 2 * REQUESTS_AT_ONCE)])
def test_a_hub_that_keeps_cutting_is_unavailable(hub: FakeHub, path: str, most: int) -> None:
    hub.faults.add(Fault(path, times=100, cut_after_bytes=0))
    with pytest.raises(Unavailable, match=r"cannot be used: .*RemoteProtocolError: Server disconnected") as caught:
        describe(hub.url, "some/model")
    assert caught.value.reason is Reason.HUB_UNAVAILABLE
    assert 2 <= hub.requests.count(path) <= most


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_server_errors_are_unavailable(hub: FakeHub, status: int) -> None:
    hub.faults.add(Fault(INFO, times=2, status=status))
    with pytest.raises(Unavailable, match=f"HTTP {status}"):
        describe(hub.url, "some/model")


def test_a_shard_that_is_listed_but_gone(hub: FakeHub) -> None:
    hub.faults.add(Fault(SHARD, times=9, status=404, headers={"X-Error-Code": "EntryNotFound"}))
    with pytest.raises(Refused, match="is in the list of files, but the hub does not have it") as caught:
        describe(hub.url, "some/model")
    assert caught.value.reason is Reason.CORRUPT_CHECKPOINT


def test_the_first_failure_ends_the_requests_for_the_other_shards(empty: FakeHub) -> None:
    many = [Tensor(f"model.layers.{layer}.mlp.up_proj.weight", "BF16", (64, 32)) for layer in range(100)]
    empty.add(model(tensors=many, shard_bytes=64 * 32 * 2))
    empty.faults.add(Fault(SHARD, status=404, headers={"X-Error-Code": "EntryNotFound"}))
    empty.faults.add(Fault(SHARD, times=999, delay_seconds=0.1))

    async def ask(hub_client: Hub) -> None:
        with pytest.raises(Refused):
            await hub_client.describe("some/model")
        await asyncio.sleep(0.5)

    with_hub(empty.url, ask)
    assert empty.requests.count(SHARD) <= 2 * REQUESTS_AT_ONCE < len(many)


def test_nobody_listens() -> None:
    with pytest.raises(Unavailable, match=r"http://127\.0\.0\.1:9 cannot be used: ConnectError"):
        describe("http://127.0.0.1:9", "some/model")


def test_a_stalled_read_ends_with_its_time_out(hub: FakeHub) -> None:
    hub.faults.add(Fault(CONFIG, times=9, delay_seconds=3))
    started = time.monotonic()
    with pytest.raises(Unavailable, match="ReadTimeout"):
        describe(hub.url, "some/model", connecting=Connecting(timeout_seconds=0.2))
    assert time.monotonic() - started < 2


def test_a_slow_description_ends_with_its_deadline(hub: FakeHub) -> None:
    hub.faults.add(Fault(SHARD, times=99, delay_seconds=0.4))
    started = time.monotonic()
    with pytest.raises(Unavailable, match=r"took longer than 0\.3 s"):
        describe(hub.url, "some/model", deadline_seconds=0.3)
    assert time.monotonic() - started < 2


def test_the_event_loop_is_never_blocked(hub: FakeHub) -> None:
    hub.faults.add(Fault(INFO, times=1, delay_seconds=0.5))

    async def beside(hub_client: Hub) -> float:
        loop = asyncio.get_running_loop()
        asking, longest = asyncio.ensure_future(hub_client.describe("some/model")), 0.0
        while not asking.done():
            before = loop.time()
            await asyncio.sleep(0.01)
            longest = max(longest, loop.time() - before)
        await asking
        return longest

    assert with_hub(hub.url, beside) < 0.3


class NotAHub(BaseHTTPRequestHandler):
    """Answers every file whole, ranged or not; `info` is its answer about any model."""

    info: bytes = b""
    file_bytes = 200_000_000
    sent = 0

    def do_GET(self) -> None:
        if self.path.startswith("/api/"):
            self._send(self.info, len(self.info))
        elif self.path.endswith(".json"):
            self._send(CONFIG_TEXT, len(CONFIG_TEXT))
        else:
            self._send(b"", self.file_bytes)
            try:
                for _ in range(self.file_bytes // 1_000_000):
                    self.wfile.write(bytes(1_000_000))
                    NotAHub.sent += 1_000_000
            except OSError:
                self.close_connection = True

    def _send(self, body: bytes, length: int) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


repository = model()
CONFIG_TEXT = repository.commits[repository.branches["main"]].files["config.json"].read(0, 10**6)


@pytest.fixture
def not_a_hub() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), NotAHub) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join(5)


def test_a_server_that_ignores_ranges_is_refused_unread(not_a_hub: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"config.json": len(CONFIG_TEXT), "model.safetensors": 200_000_000}
    siblings = [{"rfilename": name, "size": size} for name, size in sizes.items()]
    info = document({"id": "some/model", "sha": "a" * 40, "siblings": siblings})
    monkeypatch.setattr(NotAHub, "info", info)
    monkeypatch.setattr(NotAHub, "sent", 0)
    with pytest.raises(Unavailable, match=r"does not serve parts of files \(HTTP 200 with 200000000 bytes"):
        describe(not_a_hub, "some/model")
    assert NotAHub.sent < 20_000_000  # what sockets buffer, not what the file has


@pytest.mark.parametrize(
    "info",
    [b"<html>", b"[]", b"{}", json.dumps({"id": "some/model"}).encode(), b'{"id": "some/model", "sha": "../main"}'],
)
def test_an_endpoint_that_is_no_hub(not_a_hub: str, info: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NotAHub, "info", info)
    with pytest.raises(Unavailable) as caught:
        describe(not_a_hub, "some/model")
    assert "speaks the Hugging Face Hub's protocol" in caught.value.message

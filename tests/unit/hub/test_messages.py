"""What a user is told who meets trouble: since when, when again, and whose fault it may be."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import pytest

from kubequant.api.conditions import Reason
from kubequant.errors import KubeQuantError, Refused, Throttled, Unavailable
from kubequant.hub.client import Hub
from kubequant.hub.outages import Outages
from kubequant.hub.session import Clocks, Connecting
from kubequant.runtime.configured import hub_client
from kubequant.runtime.settings import Settings
from tests.fakehub import FakeHub, Fault
from tests.fakehub.faults import ALWAYS
from tests.fakehub.tensors import Tensor
from tests.unit.hub.asking import describe, model, with_hub
from tests.unit.hub.networks import forward_proxy

START = datetime(2026, 5, 4, 12, 0, 30, tzinfo=UTC)
INFO, SHARD, CDN = "/api/models/", r"\.safetensors$", "^/repos/"


class Time:
    """A clock, and the time of day that goes with it."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds

    def now(self) -> datetime:
        return START + timedelta(seconds=self.seconds - 1000.0)

    def clocks(self) -> Clocks:
        return Clocks(self, self.now, Random(1), sleep=lambda _: None)


@pytest.fixture
def hub(empty: FakeHub) -> FakeHub:
    empty.add(model())
    return empty


def looks(hub: FakeHub, *pauses: float) -> list[KubeQuantError]:
    """What each look at a model meets, the next after a pause in seconds."""
    time = Time()

    async def ask(client: Hub) -> list[KubeQuantError]:
        met: list[KubeQuantError] = []
        for pause in pauses:
            time.seconds += pause
            try:
                await client.describe("some/model", fresh=True)
            except KubeQuantError as error:
                met.append(error)
        return met

    return with_hub(hub.url, ask, clock=time, clocks=time.clocks())


def test_a_failure_says_since_when_and_when_again(hub: FakeHub) -> None:
    hub.faults.add(Fault(SHARD, times=ALWAYS, status=500))
    first, second, third = looks(hub, 0, 11, 60)
    assert isinstance(first, Unavailable)
    assert first.message == (
        f"The hub at {hub.url} cannot be used: HTTP 500 'a fault on demand'. "
        "Failing since 2026-05-04 12:00 UTC. Asked again about 2026-05-04 12:01 UTC."
    )
    assert second.message == first.message
    assert "Failing since 2026-05-04 12:00 UTC. Asked again about 2026-05-04 12:02 UTC." in third.message


def test_looks_during_an_hours_pause_are_told_the_same(hub: FakeHub) -> None:
    hub.faults.add(Fault(INFO, status=429, headers={"Retry-After": "3600"}))
    met = looks(hub, 0, 29.9, 0.2, 1800, 1700)
    assert len(met) == 5 and all(isinstance(one, Throttled) for one in met)
    assert "Failing since 2026-05-04 12:00 UTC. Asked again about 2026-05-04 13:01 UTC." in met[0].message
    assert {one.message for one in met} == {met[0].message}


def test_an_answer_between_ends_a_failure(hub: FakeHub) -> None:
    for _ in range(2):
        hub.faults.add(Fault(INFO, times=2, status=500))
    time = Time()

    async def ask(client: Hub) -> list[str]:
        said = []
        for pause in (0, 11, 300):
            time.seconds += pause
            if pause == 11:
                hub.faults.clear()
                await client.describe("some/model", fresh=True)
                hub.faults.add(Fault(INFO, times=2, status=500))
            else:
                with pytest.raises(Unavailable) as caught:
                    await client.describe("some/model", fresh=True)
                said.append(caught.value.message)
        return said

    before, after = with_hub(hub.url, ask, clock=time, clocks=time.clocks())
    assert "since 2026-05-04 12:00 UTC" in before and "since 2026-05-04 12:05 UTC" in after


def test_an_open_breaker_keeps_its_own_words(hub: FakeHub) -> None:
    hub.faults.add(Fault(times=ALWAYS, cut_after_bytes=0))
    last = looks(hub, 0, 11, 11, 1)[-1]
    assert "it has failed since" in last.message and "Failing since" not in last.message


def test_a_time_that_wavers_about_the_full_minute_stays() -> None:
    now = START
    outages = Outages(4, lambda: 0.0, lambda: now)
    told = outages.failed("q", 29.0)
    assert told == (START, START + timedelta(seconds=30))
    assert outages.failed("q", 31.5) == told
    assert outages.failed("q", 40.0)[1] == START + timedelta(seconds=90)


HTML = {"Content-Type": "text/html"}
NOT_A_HUB = "has none of the Hub's headers. Then correct hub.endpoint"


@pytest.mark.parametrize("status", [401, 403, 404])
def test_an_answer_that_nothing_marks_as_a_hubs(hub: FakeHub, status: int) -> None:
    hub.faults.add(Fault(INFO, status=status, headers=HTML))
    with pytest.raises(Refused) as caught:
        describe(hub.url, "some/model")
    assert f"(HTTP {status}) {NOT_A_HUB}" in caught.value.message


def test_a_path_below_which_no_hub_is(hub: FakeHub) -> None:
    with pytest.raises(Refused) as caught:
        describe(f"{hub.url}/wrong/path", "some/model")
    assert f"Or nothing at {hub.url}/wrong/path is a hub" in caught.value.message


def test_a_hubs_own_refusal_does_not_doubt_the_endpoint(hub: FakeHub) -> None:
    with pytest.raises(Refused) as caught:
        describe(hub.url, "some/other")
    assert "some/other is not at" in caught.value.message and "hub.endpoint" not in caught.value.message


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_does_not_answer_is_named_without_its_password(scheme: str) -> None:
    with pytest.raises(Unavailable) as caught:
        describe(f"{scheme}://hub.test", "some/model", connecting=Connecting(proxy="http://127.0.0.1:1"))
    assert "ConnectError: [Errno 111] Connection refused, through the proxy http://127.0.0.1:1 (by hub.proxy)" in (
        caught.value.message
    )


def test_a_proxy_of_the_environment_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "no_proxy", "NO_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "http://user:geheim@127.0.0.1:1")
    with pytest.raises(Unavailable, match=r"through the proxy http://127\.0\.0\.1:1 \(by HTTPS_PROXY") as caught:
        describe("https://hub.test", "some/model")
    assert "geheim" not in caught.value.message


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_wants_a_password(scheme: str) -> None:
    with forward_proxy({}, "geheim") as running, pytest.raises(Unavailable) as caught:
        describe(f"{scheme}://hub.test", "some/model", connecting=Connecting(proxy=f"http://127.0.0.1:{running.port}"))
    assert re.search(r"ProxyError: 407 .*through the proxy http://127\.0\.0\.1:\d+", caught.value.message)
    assert "its user:password go into hub.proxyCredentialsFile" in caught.value.message


def test_a_token_file_that_is_missing_is_warned_of_once_and_said(
    hub: FakeHub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "token"

    async def ask(client: Hub) -> list[str]:
        said = []
        for content in (None, None, "", "hf_operator"):
            if content is not None:
                file.write_text(content)
            with pytest.raises(Refused) as caught:
                await client.describe("some/other", fresh=True)
            said.append(caught.value.message)
        await client.close()
        return said

    settings = Settings.model_validate({"hub": {"endpoint": hub.url, "tokenFile": str(file)}})
    missing, again, empty, opened = asyncio.run(_asked(settings, ask))
    assert f"its token file {file} (hub.tokenFile) cannot be read: No such file or directory" in missing
    assert again == missing
    assert f"its token file {file} (hub.tokenFile) is empty" in empty
    assert "the operator's token does not open it" in opened
    assert len(caplog.records) == 2


async def _asked(settings: Settings, ask: Callable[[Hub], Awaitable[list[str]]]) -> list[str]:
    return await ask(hub_client(settings))


WRONG_RANGES = {
    "another start": "bytes 1-{last}/{size}",
    "another end": "bytes 0-{before}/{size}",
    "an end beyond what was asked for": "bytes 0-99999999/{size}",
    "no total": "bytes 0-{last}/*",
    "garbage": "a few bytes",
    "empty": "",
}


@pytest.mark.parametrize("said", WRONG_RANGES.values(), ids=WRONG_RANGES)
def test_a_range_other_than_asked_for_is_one_clear_error(empty: FakeHub, said: str) -> None:
    empty.add(model(shard_bytes=10**9))
    size = len(one_shard(empty))
    value = said.format(last=size - 1, before=size - 2, size=size)
    empty.faults.add(Fault(CDN, times=ALWAYS, headers={"Content-Range": value}))
    with pytest.raises(Unavailable, match="it does not serve parts of files") as caught:
        describe(empty.url, "some/model")
    assert f"Content-Range {value!r}, bytes 0-99999 were asked for" in caught.value.message
    assert empty.requests.count(CDN) == 1


def test_a_part_that_does_not_say_which(empty: FakeHub) -> None:
    empty.add(model(shard_bytes=10**9))
    empty.faults.add(Fault(CDN, times=ALWAYS, status=206))
    with pytest.raises(Unavailable, match=r"Content-Range 'none', bytes 0-99999 were asked for"):
        describe(empty.url, "some/model")
    assert empty.requests.count(CDN) == 1


def test_a_total_that_is_not_the_lists_is_no_such_range(empty: FakeHub) -> None:
    empty.add(model(shard_bytes=10**9))
    size = len(one_shard(empty))
    total = f"bytes 0-{size - 1}/{size + 1}"
    empty.faults.add(Fault(CDN, times=ALWAYS, headers={"Content-Range": total}))
    with pytest.raises(Unavailable, match="Content-Range"):  # those bytes would not be all of so long a file
        describe(empty.url, "some/model")
    assert empty.requests.count(CDN) == 1


def test_a_total_that_changes_between_two_ranges(empty: FakeHub) -> None:
    """The header takes two requests, and the second names another length."""
    empty.add(model(tensors=[Tensor(f"t{number:05d}", "BF16", (8,)) for number in range(3000)], shard_bytes=10**9))
    size = len(one_shard(empty))
    empty.faults.add(Fault(CDN))
    empty.faults.add(
        Fault(CDN, times=ALWAYS, headers={"Content-Range": f"bytes 100000-{header_end(empty) - 1}/{size + 1}"})
    )
    with pytest.raises(KubeQuantError) as caught:
        describe(empty.url, "some/model")
    assert caught.value.reason == Reason.REPOSITORY_CHANGED
    assert f"has {size + 1:,} bytes now, the list of files says {size:,}" in caught.value.message
    assert empty.requests.count(CDN) == 2


def one_shard(hub: FakeHub) -> bytes:
    commit = hub.catalogue.repositories["some/model"].find("main")
    assert commit is not None
    (content,) = (content for name, content in commit.files.items() if name.endswith(".safetensors"))
    return content.read(0, content.size)


def header_end(hub: FakeHub) -> int:
    return 8 + int.from_bytes(one_shard(hub)[:8], "little")

"""Trouble on demand, as a plain HTTP client and the real huggingface_hub client meet it."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, RevisionNotFoundError
from huggingface_hub.utils import parse_ratelimit_headers

from tests.fakehub import FakeHub, Fault, Repository, rate_limited
from tests.fakehub.content import SparseContent
from tests.fakehub.faults import ALWAYS, redirected
from tests.fakehub.limits import Limits

SMALL = "example/small"
CONFIG = b'{"model_type": "llama"}'
WEIGHTS = bytes(range(256)) * 4096
INFO = f"/api/models/{SMALL}"
FILE = f"/{SMALL}/resolve/main/config.json"
LFS_FILE = f"/{SMALL}/resolve/main/weights.bin"


@pytest.fixture(scope="module")
def running() -> Iterator[FakeHub]:
    with FakeHub() as hub:
        yield hub


@pytest.fixture
def hub(running: FakeHub) -> FakeHub:
    running.add(Repository.from_files(SMALL, {"config.json": CONFIG, "weights.bin": WEIGHTS}))
    running.faults.clear()
    running.requests.clear()
    running.limits.clear()
    return running


@pytest.fixture
def client(hub: FakeHub) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=hub.url, timeout=5) as client:
        yield client


def test_answers_of_the_api_have_a_weak_etag_and_are_not_sent_twice(hub: FakeHub, client: httpx.Client) -> None:
    for path in (INFO, f"{INFO}?blobs=true", "/api/models", f"{INFO}/tree/main", f"{INFO}/refs"):
        first = client.get(path)
        etag = first.headers["ETag"]
        assert first.status_code == 200 and etag.startswith('W/"')
        again = client.get(path, headers={"If-None-Match": f'"other", {etag}'})
        assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", etag)
        assert client.get(path, headers={"If-None-Match": '"other"'}).status_code == 200
    hub.catalogue.repositories[SMALL].commit({"config.json": b"{}"})
    assert client.get(INFO, headers={"If-None-Match": client.get(INFO).headers["ETag"]}).status_code == 304
    assert client.get("/api/models/no/body").headers.get("ETag") is None


def test_etag_changes_with_the_commit(hub: FakeHub, client: httpx.Client) -> None:
    before = client.get(INFO).headers["ETag"]
    hub.catalogue.repositories[SMALL].commit({"config.json": b"{}"})
    after = client.get(INFO, headers={"If-None-Match": before})
    assert after.status_code == 200 and after.headers["ETag"] != before


def test_files_have_a_strong_etag_and_are_not_sent_twice(client: httpx.Client) -> None:
    for path in (FILE, client.get(LFS_FILE).headers["Location"]):
        etag = client.get(path).headers["ETag"]
        assert not etag.startswith("W/")
        assert client.get(path, headers={"If-None-Match": etag}).status_code == 304


def test_quota_is_told_in_every_answer_and_refuses_what_is_beyond(hub: FakeHub, client: httpx.Client) -> None:
    hub.limits.set("api", requests=3, window_seconds=300)
    answers = [client.get(INFO) for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
    told = [parse_ratelimit_headers(answer.headers) for answer in answers]
    assert [one.remaining for one in told if one] == [2, 1, 0, 0, 0]
    assert told[0] and (told[0].resource_type, told[0].limit, told[0].window_seconds) == ("api", 3, 300)
    assert told[4] and 295 <= told[4].reset_in_seconds <= 300
    files = client.get(FILE)
    assert files.status_code == 200 and "RateLimit" not in files.headers
    with pytest.raises(
        HfHubHTTPError, match=r"(?s)'api' rate limit.*\(0/3 requests remaining in current 300s window\)"
    ):
        HfApi(endpoint=hub.url, token=False).model_info(SMALL)


def test_files_have_a_quota_of_their_own(hub: FakeHub, client: httpx.Client) -> None:
    hub.limits.set("resolvers", requests=1, window_seconds=60)
    assert client.get(FILE).headers["RateLimit"].startswith('"resolvers";r=0;t=')
    assert client.get(LFS_FILE).status_code == 429
    assert client.get(INFO).status_code == 200


def test_window_ends() -> None:
    now = [100.0]
    limits = Limits(clock=lambda: now[0])
    limits.set("api", requests=2, window_seconds=10)
    assert [limits.take("api")[0] for _ in range(3)] == [True, True, False]
    now[0] = 109.9
    assert limits.take("api") == (
        False,
        {"RateLimit": '"api";r=0;t=1', "RateLimit-Policy": '"fixed window";"api";q=2;w=10'},
    )
    now[0] = 110.0
    assert [limits.take("api")[0] for _ in range(3)] == [True, True, False]


def test_share_of_the_requests_is_refused_the_same_in_every_run(hub: FakeHub, client: httpx.Client) -> None:
    def statuses(seed: int) -> list[int]:
        hub.faults.clear()
        hub.faults.add(rate_limited("/api/", share=0.3, seed=seed, reset_seconds=1))
        return [client.get(INFO).status_code for _ in range(200)]

    first = statuses(7)
    assert first == statuses(7) != statuses(8)
    assert set(first) == {200, 429} and 40 <= first.count(429) <= 80


def test_refusal_on_demand_keeps_its_headers_beside_a_quota(hub: FakeHub, client: httpx.Client) -> None:
    hub.limits.set("api", requests=100, window_seconds=300)
    hub.faults.add(rate_limited(INFO, reset_seconds=7))
    assert client.get(INFO).headers["RateLimit"] == '"api";r=0;t=7'
    assert client.get(INFO).headers["RateLimit"].startswith('"api";r=98;')


def test_retry_after_stands_alone_when_asked_for(hub: FakeHub, client: httpx.Client) -> None:
    hub.faults.add(rate_limited(INFO, retry_after="7"))
    refused = client.get(INFO)
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "7") and "RateLimit" not in refused.headers
    assert client.get(INFO).status_code == 200


def test_dead_hub_refuses_resets_and_comes_back_at_the_same_ports(hub: FakeHub, client: httpx.Client) -> None:
    link = client.get(LFS_FILE).headers["Location"]
    address = (urlsplit(hub.url).hostname or "", hub.port)
    with socket.create_connection(address) as idle:
        hub.dead()
        try:
            hub.dead()  # already is
            for url in (hub.url, link):
                with pytest.raises(httpx.ConnectError):
                    httpx.get(url)
            with pytest.raises(httpx.NetworkError):
                client.get(INFO)
            idle.settimeout(5)
            with contextlib.suppress(ConnectionResetError):
                assert idle.recv(1) == b""
        finally:
            hub.alive()
    hub.alive()
    assert client.get(INFO).status_code == 200 and client.get(link).content == WEIGHTS


def test_dead_hub_cuts_a_download_that_is_under_way(hub: FakeHub) -> None:
    hub.faults.add(Fault("/repos/", bytes_per_second=len(WEIGHTS)))
    try:
        with (
            pytest.raises(httpx.NetworkError),
            httpx.stream("GET", hub.url + LFS_FILE, follow_redirects=True) as answer,
        ):
            for number, _ in enumerate(answer.iter_raw()):
                if number == 0:
                    hub.dead()
    finally:
        hub.alive()


def test_gzip_though_identity_was_asked_for(hub: FakeHub, client: httpx.Client) -> None:
    hub.faults.add(Fault(times=ALWAYS, gzip=True))
    for path in (INFO, FILE):
        answer = client.get(path, headers={"Accept-Encoding": "identity"})
        assert answer.headers["Content-Encoding"] == "gzip" and "llama" in answer.text


def test_bomb_is_small_on_the_wire(hub: FakeHub, client: httpx.Client) -> None:
    hub.add(Repository.from_files("example/bomb", {"config.json": SparseContent(b"{", 100_000_000)}))
    hub.faults.add(Fault("config.json", gzip=True))
    with client.stream("GET", "/example/bomb/resolve/main/config.json") as answer:
        assert sum(map(len, answer.iter_raw())) < 200_000
        assert answer.num_bytes_downloaded < 200_000


@pytest.mark.parametrize("path", [INFO, FILE])
def test_endless_body(hub: FakeHub, client: httpx.Client, path: str) -> None:
    hub.faults.add(Fault(path, endless=b"[ "))
    received = 0
    with client.stream("GET", path) as answer:
        assert "Content-Length" not in answer.headers
        for chunk in answer.iter_raw():
            received += len(chunk)
            if received > 20_000_000:
                break
    assert received > 20_000_000
    assert client.get(path).status_code == 200


def test_slow_and_cut_answers_of_the_api(hub: FakeHub, client: httpx.Client) -> None:
    size = len(client.get(INFO).content)
    hub.faults.add(Fault(INFO, bytes_per_second=size * 2))
    started = time.monotonic()
    assert len(client.get(INFO).content) == size and 0.3 < time.monotonic() - started < 3
    hub.faults.add(Fault(INFO, cut_after_bytes=100))
    with pytest.raises(httpx.RemoteProtocolError):
        client.get(INFO)
    hub.faults.add(Fault(INFO, truncate_to_bytes=100))
    assert len(client.get(INFO).content) == 100


def test_range_is_ignored_or_answered_with_another(hub: FakeHub, client: httpx.Client) -> None:
    asked = {"Range": "bytes=4-7"}
    assert client.get(FILE, headers=asked).headers["Content-Range"] == f"bytes 4-7/{len(CONFIG)}"
    hub.faults.add(Fault(FILE, ignore_range=True))
    whole = client.get(FILE, headers=asked)
    assert (whole.status_code, whole.content) == (200, CONFIG) and "Content-Range" not in whole.headers
    hub.faults.add(Fault(FILE, headers={"Content-Range": "bytes 0-3/9999"}))
    assert client.get(FILE, headers=asked).headers["Content-Range"] == "bytes 0-3/9999"


def test_redirects_in_a_circle_to_another_host_and_to_another_scheme(hub: FakeHub, client: httpx.Client) -> None:
    hub.faults.add(redirected(INFO, "?"))
    with pytest.raises(httpx.TooManyRedirects):
        client.get(INFO, follow_redirects=True)
    hub.faults.clear()
    hub.faults.add(redirected(INFO, "ftp://example.invalid/", times=1))
    with pytest.raises(httpx.UnsupportedProtocol):
        client.get(INFO, follow_redirects=True)
    with FakeHub([Repository.from_files(SMALL, {"config.json": b"{}"})]) as other:
        hub.faults.add(redirected(INFO, other.url + INFO))
        client.get(INFO, follow_redirects=True, headers={"Authorization": "Bearer x"})
        assert [request.authorized for request in other.requests.select()] == [False]


def test_history_that_was_squashed(hub: FakeHub, tmp_path: Path) -> None:
    repository, api = hub.catalogue.repositories[SMALL], HfApi(endpoint=hub.url, token=False)
    before = api.model_info(SMALL).sha
    after = repository.squash()
    assert before and before != after == api.model_info(SMALL).sha
    with pytest.raises(RevisionNotFoundError):
        api.model_info(SMALL, revision=before)
    with pytest.raises(RevisionNotFoundError):
        list(api.list_repo_tree(SMALL, revision=before))
    with pytest.raises(RevisionNotFoundError):
        api.hf_hub_download(SMALL, "config.json", revision=before, cache_dir=tmp_path)


def test_squashing_keeps_what_a_tag_leads_to(hub: FakeHub) -> None:
    repository = hub.catalogue.repositories[SMALL]
    before = repository.tags["v1"] = repository.branches["main"]
    repository.squash()
    assert HfApi(endpoint=hub.url, token=False).model_info(SMALL, revision="v1").sha == before


def test_forged_file_keeps_the_commit(hub: FakeHub, client: httpx.Client) -> None:
    repository = hub.catalogue.repositories[SMALL]
    sha = repository.branches["main"]
    for path, url in (("config.json", FILE), ("weights.bin", LFS_FILE)):
        before = client.get(url, follow_redirects=True)
        repository.forge(sha, path, b"forged")
        after = client.get(url, follow_redirects=True)
        assert (after.headers["X-Repo-Commit"], after.content) == (before.headers["X-Repo-Commit"], b"forged")
        assert after.headers["ETag"] != before.headers["ETag"]
    assert client.get(INFO).json()["sha"] == sha


def test_repository_changes_between_two_reads(hub: FakeHub, client: httpx.Client) -> None:
    repository = hub.catalogue.repositories[SMALL]
    first = repository.branches["main"]
    hub.faults.add(Fault(FILE, act=lambda: repository.commit({"config.json": b"newer"})))
    assert client.get(INFO).json()["sha"] == first
    read = client.get(FILE)
    assert read.content == b"newer" and read.headers["X-Repo-Commit"] == repository.branches["main"] != first


def test_hostile_files_are_served_like_any_other(hub: FakeHub, client: httpx.Client) -> None:
    deep = b"[" * 100_000
    hub.add(Repository.from_files("example/hostile", {"config.json": deep, "README.md": b"---\n{[\n---\n"}))
    assert client.get("/api/models/example/hostile").json()["config"] == {}
    assert client.get("/example/hostile/resolve/main/config.json").content == deep
    assert client.get("/api/models", params={"author": "example", "expand": "safetensors"}).status_code == 200


def test_commit_that_a_file_does_not_come_from(hub: FakeHub, client: httpx.Client) -> None:
    hub.faults.add(Fault(FILE, headers={"X-Repo-Commit": "f" * 40}))
    assert client.get(FILE).headers["X-Repo-Commit"] == "f" * 40
    assert client.get(FILE).headers["X-Repo-Commit"] == client.get(INFO).json()["sha"]


def test_log_says_when(hub: FakeHub, client: httpx.Client) -> None:
    client.get(INFO)
    time.sleep(0.05)
    client.get(INFO)
    first, second = hub.requests.select(INFO)
    assert 0.04 < second.at - first.at < 5

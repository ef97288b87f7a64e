"""What an endpoint may send and where it may lead: redirects, bodies without end, files that change while they are read."""

from __future__ import annotations

import asyncio
import gzip
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random

import pytest
from huggingface_hub import HfApi

from kubequant.api.conditions import Reason
from kubequant.errors import Refused, Unavailable, Waiting
from kubequant.hub.answers import InMemory
from kubequant.hub.client import Hub
from kubequant.hub.pinned import Kept, PinnedFiles
from kubequant.hub.repository import Listing
from kubequant.hub.session import CONNECTIONS, MAX_REDIRECTS, Clocks, Connecting, Session
from kubequant.hub.transport import ChangedError, FileTooLargeError, NotAHubError, Piece, RangeIgnoredError, Transport
from tests.fakehub import FakeHub, Fault
from tests.fakehub.faults import ALWAYS, redirected
from tests.unit.hub.asking import changed, describe, model, with_hub

INFO, CONFIG, SHARD, CDN = "/api/models/", r"config\.json$", r"\.safetensors$", "^/repos/"


@pytest.fixture
def hub(empty: FakeHub) -> FakeHub:
    empty.add(model())
    return empty


@contextmanager
def transport(url: str, token: str | None = None, **connecting: object) -> Iterator[Transport]:
    session = Session(url, Connecting(**connecting), Clocks())  # type: ignore[arg-type]
    try:
        yield Transport(session, token, InMemory(10**6), Random(1))
    finally:
        session.close()


@contextmanager
def raw_server(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """A socket that gives each connection to `answer`, request unread."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=one, args=(connection,), daemon=True).start()

    def one(connection: socket.socket) -> None:
        with connection:
            try:
                answer(connection)
            except OSError:
                return

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join(5)


# The words of the Hub: the same requests as its own client's


def test_information_and_lists_are_asked_for_as_huggingface_hub_asks(standard: FakeHub) -> None:
    query = {"author": "Qwen", "search": "qwen", "expand": ["sha", "tags", "siblings"], "sort": "downloads"}
    filters = ["safetensors", "text-generation"]
    api = HfApi(endpoint=standard.url, token=False)
    with transport(standard.url) as ours:
        found = ours.list_models(limit=5, filter=filters, **query)
        expected = list(api.list_models(limit=5, filter=filters, **query))
        name = expected[0].id if expected else ours.list_models(limit=1)[0].id
        informed = (
            ours.model_info(name, "main"),
            api.model_info(name, revision="main", files_metadata=True, securityStatus=True),
        )
    assert found == expected
    assert informed[0] == informed[1]
    asked = [(request.path, sorted(request.query.split("&"))) for request in standard.requests.select("^/api/")]
    half = len(asked) // 2
    assert [asked[0], asked[-2]] == [asked[1], asked[-1]] and half >= 2


def test_a_list_is_one_page_at_most(standard: FakeHub) -> None:
    with transport(standard.url) as ours:
        assert len(ours.list_models(limit=3)) == 3
        assert standard.requests.count() == 1


@pytest.mark.parametrize("body", [b"{}", b'{"error": "x"}', b"[" * 100_000, b"\xff", b"1"])
def test_a_list_that_is_none(hub: FakeHub, body: bytes) -> None:
    with raw_server(answering(body)) as url, transport(url) as ours, pytest.raises(NotAHubError):
        ours.list_models(limit=3)


def answering(body: bytes, *headers: str) -> Callable[[socket.socket], None]:
    lines = ["HTTP/1.1 200 OK", f"Content-Length: {len(body)}", "Connection: close", *headers]

    def answer(connection: socket.socket) -> None:
        connection.recv(65_536)
        connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    return answer


def test_nothing_tells_what_else_is_installed_here(hub: FakeHub) -> None:
    describe(hub.url, "some/model")
    agents = {request.user_agent for request in hub.requests.select()}
    assert len(agents) == 1 and agents.pop().startswith("kubequant/")


def test_one_pool_of_connections_for_all_descriptions(empty: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(12):
        empty.add(model(f"some/model{number}", shard_bytes=10_000))
    opened, connect = [], socket.create_connection
    monkeypatch.setattr(
        socket, "create_connection", lambda *args, **more: (opened.append(args[0]), connect(*args, **more))[1]
    )

    async def crowd(hub: Hub) -> None:
        await asyncio.gather(*(hub.describe(f"some/model{number}") for number in range(12)))

    with_hub(empty.url, crowd)
    assert empty.requests.count() > 6 * CONNECTIONS
    assert 0 < len(opened) <= 2 * CONNECTIONS


# Redirects


def test_a_circle(hub: FakeHub) -> None:
    hub.faults.add(redirected(CONFIG, "?"))
    with pytest.raises(Unavailable, match="redirects in a circle, back to 127"):
        describe(hub.url, "some/model")
    assert hub.requests.count(CONFIG) <= 2


def test_too_many_redirects(hub: FakeHub) -> None:
    for number in range(20):
        hub.faults.add(redirected(CONFIG, f"?{number}", times=1))
    with pytest.raises(Unavailable, match=rf"redirects more than {MAX_REDIRECTS} times"):
        describe(hub.url, "some/model")
    assert hub.requests.count(CONFIG) == MAX_REDIRECTS + 1


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("ftp://127.0.0.1/x", "redirects from http to ftp://127.0.0.1, which is not followed"),
        ("file:///etc/passwd", "redirects from http to file://"),
        ("gopher://x/", "redirects from http to gopher"),
        ("javascript:alert(1)", "without a place to go to"),
        ("http://[bad", "ConnectError"),
        ("http://127.0.0.1:x/", "without a place to go to"),
    ],
)
def test_a_redirect_to_another_scheme_or_nowhere(hub: FakeHub, location: str, said: str) -> None:
    hub.faults.add(redirected(CONFIG, location))
    with pytest.raises(Unavailable) as caught:
        describe(hub.url, "some/model")
    assert said in caught.value.message


def test_a_redirect_without_a_location(hub: FakeHub) -> None:
    hub.faults.add(Fault(CONFIG, times=ALWAYS, status=302))
    with pytest.raises(Unavailable, match="HTTP 302, a redirect, without a place"):
        describe(hub.url, "some/model")


def test_a_redirect_with_an_endless_body_is_not_read_to_its_end() -> None:
    def endless(connection: socket.socket) -> None:
        connection.recv(65_536)
        connection.sendall(
            b"HTTP/1.1 302 Found\r\nLocation: /elsewhere?" + str(time.monotonic()).encode() + b"\r\n\r\n"
        )
        while True:
            connection.sendall(bytes(65_536))

    started = time.monotonic()
    with raw_server(endless) as url, pytest.raises(Unavailable, match="more than 5 times"):
        describe(url, "some/model")
    assert time.monotonic() - started < 5


def test_only_the_hosts_of_the_setting_are_followed(hub: FakeHub) -> None:
    hub.faults.add(redirected(CDN, "http://localhost:9/x"))
    with pytest.raises(Unavailable) as caught:
        describe(hub.url, "some/model", connecting=Connecting(redirect_hosts=("cdn.example.com", "*.example.org")))
    assert (
        "redirects to localhost, which hub.redirectHosts (cdn.example.com, *.example.org) does not name. "
        "Add the host to that setting" in caught.value.message
    )


@pytest.mark.parametrize("allowed", [("localhost",), ("x.example", "LOCALHOST"), ()])
def test_a_host_of_the_setting_is_followed(hub: FakeHub, allowed: tuple[str, ...]) -> None:
    with FakeHub([model()]) as other:
        path = "/api/models/some/model/revision/main?blobs=true"
        hub.faults.add(redirected("^/api/", f"{other.url.replace('127.0.0.1', 'localhost')}{path}"))
        found = describe(hub.url, "some/model", connecting=Connecting(redirect_hosts=allowed))
        assert found.repository == "some/model"
        assert other.requests.count("^/api/") == 1


def test_the_endpoints_own_host_is_always_followed(hub: FakeHub) -> None:
    """Its content network is another port here."""
    found = describe(hub.url, "some/model", connecting=Connecting(redirect_hosts=("nowhere.example",)))
    assert found.repository == "some/model"
    assert hub.requests.count(role="cdn") > 0


# Bodies


@pytest.mark.parametrize("path", [INFO, CONFIG])
def test_a_body_without_end_is_given_up(hub: FakeHub, path: str) -> None:
    hub.faults.add(Fault(path, times=ALWAYS, endless=b" " * 65_536))
    started = time.monotonic()
    with pytest.raises((Refused, Waiting)):
        describe(hub.url, "some/model")
    assert time.monotonic() - started < 10


def test_of_a_range_without_end_the_range_is_taken(hub: FakeHub) -> None:
    hub.faults.add(Fault(CDN, times=ALWAYS, endless=b" " * 65_536))
    assert describe(hub.url, "some/model").repository == "some/model"


def bomb(megabytes: int) -> bytes:
    return gzip.compress(bytes(megabytes * 2**20))


def test_a_bomb_in_gzip_is_read_up_to_the_bound_only() -> None:
    body = bomb(200)
    assert len(body) < 250_000
    with raw_server(answering(body, "Content-Encoding: gzip")) as url, transport(url) as ours:
        before = peak_mib()
        with pytest.raises(FileTooLargeError):
            ours.read_file("some/model", "a" * 40, "config.json", 5_000_000)
        with pytest.raises(NotAHubError):
            ours.list_models(limit=1)
        with pytest.raises(RangeIgnoredError):
            ours.read_range("some/model", "a" * 40, "x.safetensors", 0, 100_000)
        assert peak_mib() - before < 80


def peak_mib() -> float:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def test_what_is_compressed_without_being_asked_for_is_understood(hub: FakeHub) -> None:
    hub.faults.add(Fault(INFO, gzip=True))
    hub.faults.add(Fault(CONFIG, gzip=True))
    assert describe(hub.url, "some/model").repository == "some/model"


def test_a_compressed_range_is_no_range(hub: FakeHub) -> None:
    hub.faults.add(Fault(CDN, times=ALWAYS, gzip=True))
    with pytest.raises(Unavailable, match="Content-Encoding 'gzip', though identity was asked for"):
        describe(hub.url, "some/model")


def dripping(head: bytes, drip: bytes) -> Callable[[socket.socket], None]:
    def answer(connection: socket.socket) -> None:
        connection.recv(65_536)
        connection.sendall(head)
        while True:
            connection.sendall(drip)
            time.sleep(0.05)

    return answer


@pytest.mark.parametrize(
    ("head", "drip"),
    [
        (b"HTTP/1.1 200 OK\r\nX-Slow: ", b"x"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n", b"x"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 10000\r\n\r\n", b"x"),
        (b"HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 10000\r\n\r\n", b"x"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    ],
    ids=["headers", "body", "chunks", "error", "redirect", "interim"],
)
def test_an_answer_that_drips_in_ends_with_the_deadline(head: bytes, drip: bytes) -> None:
    """Each byte comes in time: no time-out between two reads would ever end it, nor free its thread."""
    with raw_server(dripping(head, drip)) as url, transport(url, request_seconds=0.5) as ours:
        started = time.monotonic()
        with pytest.raises(Exception, match=r"took longer than 0\.5 s"):
            ours.read_file("some/model", "a" * 40, "config.json", 10**7)
        assert time.monotonic() - started < 2.5


def test_an_error_with_an_endless_body_is_still_that_error() -> None:
    def answer(connection: socket.socket) -> None:
        connection.recv(65_536)
        connection.sendall(b"HTTP/1.1 404 Not Found\r\nX-Error-Code: RevisionNotFound\r\n\r\n")
        while True:
            connection.sendall(bytes(65_536))

    with raw_server(answer) as url, pytest.raises(Refused, match="has no branch or tag 'v9'") as caught:
        describe(url, "some/model", "v9")
    assert caught.value.reason is Reason.REVISION_NOT_FOUND


# Changes between two reads


def waiting(url: str, **options: object) -> Waiting:
    with pytest.raises(Waiting) as caught:
        describe(url, "some/model", **options)
    assert caught.value.reason is Reason.REPOSITORY_CHANGED
    assert caught.value.message.startswith("some/model changed while it was read: ")
    assert caught.value.message.endswith("It is read again from the start.")
    return caught.value


def test_an_answer_of_another_commit(hub: FakeHub) -> None:
    hub.faults.add(Fault(CONFIG, headers={"X-Repo-Commit": "b" * 40}))
    assert f"'config.json' of commit '{'b' * 40}'" in waiting(hub.url).message


@pytest.mark.parametrize("path", [CONFIG, SHARD])
def test_a_file_of_another_size_than_listed(empty: FakeHub, path: str) -> None:
    repository = model()
    empty.add(repository)
    commit = repository.branches["main"]
    name = next(name for name in repository.commits[commit].files if name.endswith(path.strip("$").replace("\\", "")))

    original = repository.commits[commit].files[name].size

    def change() -> None:
        content = repository.commits[commit].files[name]
        repository.forge(commit, name, content.read(0, content.size) + b" ")

    async def changed_between(hub: Hub) -> None:
        empty.faults.add(Fault(CONFIG, act=change))
        with pytest.raises(Waiting, match=f"{original + 1:,} bytes now, the list of files says {original:,}") as caught:
            await hub.describe("some/model")
        assert caught.value.reason is Reason.REPOSITORY_CHANGED

    with_hub(empty.url, changed_between)


def test_a_commit_that_goes_while_it_is_read_and_one_that_is_gone(empty: FakeHub) -> None:
    repository = model()
    empty.add(repository)
    old = repository.branches["main"]

    async def squashed(hub: Hub) -> None:
        empty.faults.add(Fault(CONFIG, delay_seconds=0.3))
        asking = asyncio.ensure_future(hub.describe("some/model"))
        await asyncio.sleep(0.15)
        repository.squash()
        with pytest.raises(Waiting, match=f"commit {old[:12]}, which the hub named just now, is gone") as caught:
            await asking
        assert caught.value.reason is Reason.REPOSITORY_CHANGED
        assert (await hub.describe("some/model")).commit == repository.branches["main"] != old

    with_hub(empty.url, squashed)
    with pytest.raises(
        Refused, match=f"some/model has no commit {old} .any more.: .* history has been rewritten"
    ) as gone:
        describe(empty.url, "some/model", old)
    assert gone.value.reason is Reason.REVISION_NOT_FOUND


def test_a_repository_that_changed_is_read_from_the_start(hub: FakeHub) -> None:
    hub.faults.add(Fault(SHARD, headers={"X-Repo-Commit": "c" * 40}))

    async def ask(hub_client: Hub) -> None:
        with pytest.raises(Waiting):
            await hub_client.describe("some/model")
        hub.requests.clear()
        await hub_client.describe("some/model")

    with_hub(hub.url, ask)
    assert hub.requests.count("^/api/models") == hub.requests.count(CONFIG) == 1


class Reads:
    """A transport in the place of the real one, for two reads of one file that do not fit each other."""

    def __init__(self, *pieces: Piece) -> None:
        self._pieces = iter(pieces)

    def read_range(self, *_: object) -> Piece:
        return next(self._pieces)


@pytest.mark.parametrize(
    ("second", "said"),
    [
        (Piece(b"b", 101, '"x"'), "had 100 bytes, and now 101"),
        (Piece(b"b", 100, '"y"'), "had the ETag '\"x\"', and now '\"y\"'"),
    ],
)
def test_two_reads_of_one_file_that_do_not_fit(second: Piece, said: str) -> None:
    listing = Listing("some/model", "a" * 40, "", {"x.safetensors": None})
    source = PinnedFiles(Reads(Piece(b"a", 100, '"x"'), second), listing, Kept())  # type: ignore[arg-type]
    source.read_range("some/model", "a" * 40, "x.safetensors", 0, 10)
    with pytest.raises(ChangedError) as caught:
        source.read_range("some/model", "a" * 40, "x.safetensors", 10, 20)
    assert said in str(caught.value)


def test_two_threads_that_want_the_same_piece_read_it_once() -> None:
    """A description that was given up and the next one overlap."""
    asked: list[int] = []

    class Slow:
        def read_range(self, *_: object) -> Piece:
            asked.append(1)
            time.sleep(0.1)
            return Piece(b"a", 100, "")

    source = PinnedFiles(Slow(), Listing("some/model", "a" * 40, "", {}), Kept())  # type: ignore[arg-type]
    threads = [
        threading.Thread(target=source.read_range, args=("some/model", "a" * 40, "x.safetensors", 0, 10))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert len(asked) == 1


# A revision that moved


def test_moved_asks_once_and_names_the_new_commit(empty: FakeHub) -> None:
    repository = model()
    empty.add(repository)

    async def ask(hub: Hub) -> None:
        pinned = (await hub.describe("some/model")).commit
        assert await hub.moved("some/model", "main", pinned) is None
        assert await hub.moved("some/model", pinned, pinned) is None
        assert await hub.moved("some/model", "main", "0" * 40) == pinned

    with_hub(empty.url, ask)
    assert empty.requests.count("^/api/") == 1
    old = repository.branches["main"]
    changed(repository, chat_template__jinja=b"x")
    empty.requests.clear()

    async def crowd(hub: Hub) -> set[str | None]:
        return set(await asyncio.gather(*(hub.moved("some/model", "main", old) for _ in range(50))))

    assert with_hub(empty.url, crowd) == {repository.branches["main"]}
    assert empty.requests.count() == 1


def test_moved_raises_as_describe_does(empty: FakeHub) -> None:
    empty.add(model())
    with pytest.raises(Refused) as caught:
        with_hub(empty.url, lambda hub: hub.moved("some/model", "v1", "0" * 40))
    assert caught.value.reason is Reason.REVISION_NOT_FOUND
    empty.dead()
    with pytest.raises(Unavailable) as away:
        with_hub(empty.url, lambda hub: hub.moved("some/model", "main", "0" * 40))
    assert away.value.retry_after_seconds is not None

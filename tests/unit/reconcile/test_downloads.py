"""Progress of downloads: asked outside of reconciles, told in steps, and forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import ClientSession, web

from kubequant.api.conditions import Reason
from kubequant.reconcile import downloads
from kubequant.reconcile.diagnosis import Finding
from kubequant.reconcile.downloads import Downloads, Progress
from kubequant.reconcile.kinds import QUANTIZED_MODEL
from kubequant.reconcile.rollout import Rollout
from kubequant.reconcile.status import Known, build_status
from kubequant.runtime import download_progress
from kubequant.runtime.download_progress import progress_in, read_download_progress
from tests.unit.fakes import FakeClock
from tests.unit.manifests.making import GIB, OWNER
from tests.unit.reconcile.making import KEY, World, running

A, B = Progress(10 * GIB, 40 * GIB), Progress(11 * GIB, 40 * GIB)


class Reading:
    """What a pod answers, one answer a question; the last one for ever."""

    def __init__(self, *answers: Progress | None) -> None:
        self.answers, self.asked, self.woken = list(answers), 0, 0

    async def __call__(self, _address: str) -> Progress | None:
        self.asked += 1
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def wake(self, _key: Any) -> None:
        self.woken += 1


def followed(reading: Reading, use: Callable[[Downloads, FakeClock], Awaitable[None]]) -> None:
    async def main() -> None:
        clock = FakeClock()
        following = Downloads(reading, reading.wake, clock)
        assert following.follow(KEY, "10.0.0.1") is None, "nothing is known at first"
        try:
            await use(following, clock)
        finally:
            await following.close()

    asyncio.run(main())


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "POLL_SECONDS", 0.001)


async def after(reading: Reading, questions: int) -> None:
    async with asyncio.timeout(5):
        while reading.asked < questions:  # noqa: ASYNC110 - what is waited for is not ours to signal
            await asyncio.sleep(0.001)


def test_what_is_told_changes_in_steps_only(quick: None) -> None:
    small = Progress(A.downloaded_bytes + GIB, A.total_bytes)  # 2.5 % more
    large = Progress(A.downloaded_bytes + 2 * GIB, A.total_bytes)  # 5 % more
    reading = Reading(A, small, small, large, large)

    async def use(following: Downloads, _clock: FakeClock) -> None:
        await after(reading, 3)
        assert (following.follow(KEY, "10.0.0.1"), reading.woken) == (A, 1)
        await after(reading, 6)
        assert (following.follow(KEY, "10.0.0.1"), reading.woken) == (large, 2)

    followed(reading, use)


def test_a_slow_download_is_told_every_half_minute_and_one_that_stands_still_is_not(quick: None) -> None:
    reading = Reading(A, B, B)

    async def use(following: Downloads, clock: FakeClock) -> None:
        await after(reading, 2)
        clock.now += 30
        await after(reading, 5)
        assert following.follow(KEY, "10.0.0.1") == B
        clock.now += 300
        await after(reading, 9)
        assert reading.woken == 2

    followed(reading, use)


def test_no_answer_is_unknown_and_asked_again(quick: None) -> None:
    reading = Reading(None, None, A)

    async def use(following: Downloads, _clock: FakeClock) -> None:
        await after(reading, 4)
        assert following.follow(KEY, "10.0.0.1") == A

    followed(reading, use)


def test_another_pod_is_another_download_and_a_forgotten_one_is_not_asked(quick: None) -> None:
    reading = Reading(A)

    async def use(following: Downloads, _clock: FakeClock) -> None:
        await after(reading, 2)
        assert following.follow(KEY, "10.0.0.2") is None
        following.forget(KEY)
        asked = reading.asked
        await asyncio.sleep(0.05)
        assert reading.asked <= asked + 1, "at most the one under way"

    followed(reading, use)


def known(progress: Progress | None, reason: Reason = Reason.DOWNLOADING) -> dict[str, Any]:
    finding = Finding(reason, "the checkpoint is being downloaded", failed=False)
    rollout = Rollout(1, 0, 0, finding, None, "")
    return build_status(Known(OWNER, 1, False, None, "r", "", rollout=rollout, progress=progress))


def available(status: dict[str, Any]) -> str:
    return next(str(one["message"]) for one in status["conditions"] if one["type"] == "Available")


def test_status_tells_bytes_of_bytes() -> None:
    status = known(Progress(int(12.3 * GIB), int(39.8 * GIB)))
    assert status["progress"] == {"downloadedBytes": int(12.3 * GIB), "totalBytes": int(39.8 * GIB)}
    assert available(status) == "the checkpoint is being downloaded: 12.3 of 39.8 GiB"


def test_status_without_a_download_tells_nothing() -> None:
    assert "progress" not in known(None)
    assert "GiB" not in available(known(A, Reason.LOADING))


UNREADABLE = {
    "no JSON": b"<html>",
    "deep": b"[" * 60_000,
    "another shape": b"[1]",
    "an engine": b'{"version":1,"phase":"Ready"}',
    "text for a number": b'{"phase":"Downloading","downloaded_bytes":"1","total_bytes":2}',
    "true for a number": b'{"phase":"Downloading","downloaded_bytes":true,"total_bytes":2}',
    "more than all": b'{"phase":"Downloading","downloaded_bytes":3,"total_bytes":2}',
    "less than nothing": b'{"phase":"Downloading","downloaded_bytes":-1,"total_bytes":2}',
    "of nothing": b'{"phase":"Downloading","downloaded_bytes":0,"total_bytes":0}',
    "of everything": b'{"phase":"Downloading","downloaded_bytes":0,"total_bytes":1' + b"0" * 400 + b"}",
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_whatever_a_pod_answers_is_unknown_or_a_progress(name: str) -> None:
    assert progress_in(UNREADABLE[name]) is None


def test_a_progress_is_read() -> None:
    assert progress_in(b'{"version":1,"phase":"Downloading","downloaded_bytes":1,"total_bytes":2}') == Progress(1, 2)


ANSWERS = {
    "a progress": (web.Response(text='{"phase":"Downloading","downloaded_bytes":1,"total_bytes":2}'), Progress(1, 2)),
    "an error": (web.Response(status=500, text='{"phase":"Downloading","downloaded_bytes":1,"total_bytes":2}'), None),
    "a redirect": (web.Response(status=302, headers={"Location": "http://elsewhere.invalid/"}), None),
    "too much": (web.Response(body=b" " * (2 * download_progress.MAX_BYTES)), None),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_a_pod_is_asked_on_its_small_port(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    answer, expected = ANSWERS[name]

    async def main() -> Progress | None:
        async def status(_request: web.Request) -> web.Response:
            return answer

        application = web.Application()
        application.router.add_get("/status", status)
        runner = web.AppRunner(application)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        assert site._server is not None
        monkeypatch.setattr(download_progress, "STATUS_PORT", site._server.sockets[0].getsockname()[1])  # type: ignore[attr-defined]
        try:
            async with ClientSession() as session:
                return await read_download_progress(session, "127.0.0.1")
        finally:
            await runner.cleanup()

    assert asyncio.run(main()) == expected


def test_nobody_there_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> Progress | None:
        async with ClientSession() as session:
            return await read_download_progress(session, "127.0.0.1")

    monkeypatch.setattr(download_progress, "STATUS_PORT", 9)
    assert asyncio.run(main()) is None


class TestInAReconcile:
    """Over a whole reconciler: who is asked, what status says, and when it ends."""

    def downloading(self) -> World:
        world = World().model("m")
        world.settle()
        world.progress = A
        return world.pod(download=running())

    def progress(self, world: World) -> Any:
        return world.body(QUANTIZED_MODEL)["status"].get("progress")

    def test_the_pod_that_downloads_is_asked_and_status_tells(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(downloads, "POLL_SECONDS", 0)
        world = self.downloading()
        world.settle()
        assert set(world.asked) == {"10.0.0.1"}
        assert self.progress(world) == {"downloadedBytes": A.downloaded_bytes, "totalBytes": A.total_bytes}
        assert world.message("Ready").endswith("10.0 of 40.0 GiB")

    def test_it_ends_with_the_download(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(downloads, "POLL_SECONDS", 0)
        world = self.downloading()
        world.settle()
        world.pod(engine=running())
        world.settle()
        assert self.progress(world) is None
        assert "GiB" not in world.message("Available")
        world.pod(ready=True)
        world.settle()
        asked = len(world.asked)
        assert world.settle() == []
        assert len(world.asked) == asked, "nobody asks a model that is ready"

    def test_a_short_download_is_never_asked(self) -> None:
        world = self.downloading()
        world.settle()
        assert (world.asked, self.progress(world)) == ([], None)

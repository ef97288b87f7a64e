"""A branch that moves is noticed, said, and not followed; models of one repository share a look."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from kubequant.api.conditions import Reason
from kubequant.errors import Unavailable
from kubequant.reconcile.upstream import Pinned, Upstream

PINNED = Pinned("org/model", "main", "a" * 40)
NEWER = "b" * 40
A, B = ("ns", "a"), ("ns", "b")


class CountingHub:
    def __init__(self) -> None:
        self.newer: str | None = None
        self.problem: Unavailable | None = None
        self.looks: list[tuple[str, str, str]] = []

    async def moved(self, repository: str, revision: str, pinned_commit: str) -> str | None:
        self.looks.append((repository, revision, pinned_commit))
        if self.problem:
            raise self.problem
        return self.newer


def with_upstream(play: Callable[[Upstream, CountingHub, list[tuple[str, str]]], Awaitable[None]]) -> None:
    async def main() -> None:
        hub, woken = CountingHub(), list[tuple[str, str]]()
        upstream = Upstream(hub, woken.append, interval_seconds=0.02)
        try:
            await asyncio.wait_for(play(upstream, hub, woken), 5)
        finally:
            await upstream.close()

    asyncio.run(main())


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - the condition is of several things, none an event
        await asyncio.sleep(0.005)


def test_the_models_of_a_branch_that_moved_are_woken_once() -> None:
    async def play(upstream: Upstream, hub: CountingHub, woken: list[tuple[str, str]]) -> None:
        assert upstream.newer(A, PINNED) is None
        assert upstream.newer(B, PINNED) is None
        assert hub.looks == [], "nothing is asked at a start"
        await until(lambda: len(hub.looks) >= 2)
        assert woken == []
        hub.newer = NEWER
        await until(lambda: bool(woken))
        assert sorted(woken) == [A, B]
        assert upstream.newer(A, PINNED) == NEWER
        looks = len(hub.looks)
        await until(lambda: len(hub.looks) >= looks + 2)
        assert len(woken) == 2
        assert set(hub.looks) == {("org/model", "main", "a" * 40)}

    with_upstream(play)


def test_a_model_that_is_pinned_anew_is_watched_there() -> None:
    async def play(upstream: Upstream, hub: CountingHub, woken: list[tuple[str, str]]) -> None:
        hub.newer = NEWER
        upstream.newer(A, PINNED)
        await until(lambda: bool(woken))
        hub.newer = None
        again = Pinned("org/model", "main", NEWER)
        assert upstream.newer(A, again) is None
        hub.looks.clear()
        await until(lambda: len(hub.looks) >= 2)
        assert set(hub.looks) == {("org/model", "main", NEWER)}

    with_upstream(play)


def test_what_is_not_known_changes_nothing() -> None:
    async def play(upstream: Upstream, hub: CountingHub, woken: list[tuple[str, str]]) -> None:
        hub.newer = NEWER
        upstream.newer(A, PINNED)
        await until(lambda: bool(woken))
        hub.problem = Unavailable(Reason.HUB_UNAVAILABLE, "away")
        looks = len(hub.looks)
        await until(lambda: len(hub.looks) >= looks + 2)
        assert upstream.newer(A, PINNED) == NEWER
        assert woken == [A]

    with_upstream(play)


def test_a_restart_takes_back_nothing_that_was_told() -> None:
    async def play(upstream: Upstream, hub: CountingHub, woken: list[tuple[str, str]]) -> None:
        assert upstream.newer(A, PINNED, known=NEWER) == NEWER
        assert upstream.newer(B, PINNED) == NEWER
        hub.newer = NEWER
        await until(lambda: len(hub.looks) >= 2)
        assert woken == []
        hub.newer = None  # moved back
        await until(lambda: bool(woken))
        assert upstream.newer(A, PINNED, known=NEWER) is None

    with_upstream(play)


def test_nothing_is_asked_for_models_that_are_gone_or_pinned_by_commit() -> None:
    async def play(upstream: Upstream, hub: CountingHub, woken: list[tuple[str, str]]) -> None:
        upstream.newer(A, PINNED)
        upstream.newer(B, None)
        upstream.forget(A)
        await asyncio.sleep(0.1)
        assert hub.looks == []

    with_upstream(play)

"""The work queue: once for many adds, one key at a time, later and again, and never ended by a failure."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from kubequant.runtime import queue as queue_module
from kubequant.runtime.queue import WorkQueue
from tests.unit.cluster.test_lease import in_virtual_time


class Bench:
    """A queue whose work is noted as (key, time) and takes a second."""

    def __init__(self, workers: int = 2, answer: Callable[[str], float | None] = lambda _: None) -> None:
        self.done: list[tuple[str, float]] = []
        self.under_way: list[str] = []
        self.answer = answer
        self.queue: WorkQueue[str] = WorkQueue(self._work, workers=workers)
        self.queue.start()
        self.queue.resume()

    async def _work(self, key: str) -> float | None:
        assert key not in self.under_way, "one key is worked on twice at once"
        self.under_way.append(key)
        self.done.append((key, round(asyncio.get_running_loop().time(), 1)))
        await asyncio.sleep(1)
        self.under_way.remove(key)
        return self.answer(key)

    @property
    def keys(self) -> list[str]:
        return [key for key, _ in self.done]


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    in_virtual_time(main)


def test_many_adds_are_one_piece_of_work() -> None:
    async def main() -> None:
        bench = Bench()
        for _ in range(5):
            bench.queue.add("a")
        assert len(bench.queue) == 1
        await asyncio.sleep(10)
        assert bench.keys == ["a"]

    run(main)


def test_added_while_it_runs_it_runs_once_more() -> None:
    async def main() -> None:
        bench = Bench(workers=4)
        bench.queue.add("a")
        await asyncio.sleep(0.5)
        for _ in range(5):
            bench.queue.add("a")
        await asyncio.sleep(10)
        assert bench.done == [("a", 0.0), ("a", 1.0)]

    run(main)


def test_the_order_is_fair() -> None:
    async def main() -> None:
        bench = Bench(workers=1)
        for key in "abc":
            bench.queue.add(key)
        await asyncio.sleep(0.5)
        bench.queue.add("a")  # runs; comes after those that wait
        await asyncio.sleep(10)
        assert bench.keys == ["a", "b", "c", "a"]

    run(main)


def test_as_many_at_once_as_there_are_workers() -> None:
    async def main() -> None:
        bench = Bench(workers=3)
        for key in "abcdef":
            bench.queue.add(key)
        await asyncio.sleep(10)
        assert [time for _, time in bench.done] == [0.0] * 3 + [1.0] * 3

    run(main)


@pytest.mark.parametrize(("first", "second"), [(5, 20), (20, 5)])
def test_the_earlier_date_stands(first: float, second: float) -> None:
    async def main() -> None:
        bench = Bench()
        bench.queue.add_after("a", first)
        bench.queue.add_after("a", second)
        await asyncio.sleep(60)
        assert bench.done == [("a", 5.0)]

    run(main)


def test_an_add_comes_before_any_date() -> None:
    async def main() -> None:
        bench = Bench()
        bench.queue.add_after("a", 5)
        bench.queue.add("a")
        await asyncio.sleep(60)
        assert bench.done == [("a", 0.0)]

    run(main)


def test_work_may_ask_to_be_called_again() -> None:
    async def main() -> None:
        bench = Bench(answer=lambda _: 9)
        bench.queue.add("a")
        await asyncio.sleep(25)
        assert bench.done == [("a", 0.0), ("a", 10.0), ("a", 20.0)]

    run(main)


def test_nothing_is_worked_on_in_a_pause_and_nothing_is_lost() -> None:
    async def main() -> None:
        bench = Bench()
        bench.queue.pause()
        for key in "abcab":
            bench.queue.add(key)
        await asyncio.sleep(100)
        assert bench.done == []
        bench.queue.resume()
        await asyncio.sleep(10)
        assert sorted(bench.keys) == ["a", "b", "c"]

    run(main)


def test_failures_are_answered_with_growing_pauses_and_forgiven(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_module.random, "uniform", lambda *_: 1.0)

    async def main() -> None:
        broken = True

        def answer(key: str) -> None:
            if broken and key == "bad":
                raise RuntimeError("a bug")

        bench = Bench(workers=1, answer=answer)
        bench.queue.add("bad")
        bench.queue.add("good")
        await asyncio.sleep(60)
        times = [time for key, time in bench.done if key == "bad"]
        pauses = [round(b - a - 1, 1) for a, b in itertools.pairwise(times)]
        assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0]
        assert "good" in bench.keys, "the worker lives on"
        broken = False
        await asyncio.sleep(600)
        assert bench.queue._failures == {}

    run(main)


def test_the_pause_has_a_limit() -> None:
    async def main() -> None:
        bench = Bench(answer=lambda _: 1 / 0)
        bench.queue.add("a")
        await asyncio.sleep(5000)
        times = [time for _, time in bench.done]
        assert max(b - a for a, b in itertools.pairwise(times)) <= queue_module.LONGEST_BACKOFF_SECONDS * 1.25 + 1
        assert len(times) > 20

    run(main)


def test_stopped_it_works_no_more() -> None:
    async def main() -> None:
        bench = Bench()
        bench.queue.add("a")
        bench.queue.add_after("b", 5)
        await asyncio.sleep(0.5)
        await bench.queue.stop()
        await bench.queue.stop()
        await asyncio.sleep(60)
        assert bench.keys == ["a"]

    run(main)


def test_stuck_work_shows() -> None:
    async def main() -> None:
        queue: WorkQueue[str] = WorkQueue(lambda _: asyncio.sleep(1000), workers=1)
        queue.start()
        queue.resume()
        assert queue.longest_running_seconds() == 0
        queue.add("a")
        await asyncio.sleep(400)
        assert queue.longest_running_seconds() == pytest.approx(400)

    run(main)

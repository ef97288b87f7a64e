"""The keyed work queue: deduplicated, serial per key, N workers, back-off per key, `add_after`.

Belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from kubequant.cluster.api import ApiError

log = logging.getLogger(__name__)

K = TypeVar("K")

FIRST_BACKOFF_SECONDS = 0.5
LONGEST_BACKOFF_SECONDS = 300.0


class WorkQueue(Generic[K]):
    """`work` returns the seconds after which the key is due again, None when it is not. What it raises is answered with back-off."""

    def __init__(self, work: Callable[[K], Awaitable[float | None]], *, workers: int) -> None:
        self._work = work
        self._worker_count = workers
        self._ready: asyncio.Queue[K] = asyncio.Queue()
        self._queued: set[K] = set()
        self._running: set[K] = set()
        self._again: set[K] = set()  # asked for while running
        self._timers: dict[K, asyncio.TimerHandle] = {}
        self._failures: dict[K, int] = {}
        self._open = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._tasks: list[asyncio.Task[None]] = []
        self.started_at: dict[K, float] = {}  # loop time at which a key's present work began

    def start(self) -> None:
        self._tasks = [self._loop.create_task(self._worker(), name=f"worker-{i}") for i in range(self._worker_count)]

    async def stop(self) -> None:
        """Ends the workers; what is under way is cancelled: every step can be repeated."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for timer in self._timers.values():
            timer.cancel()

    def pause(self) -> None:
        """Keys are still taken in, nothing is worked on."""
        self._open.clear()

    def resume(self) -> None:
        self._open.set()

    def add(self, key: K) -> None:
        timer = self._timers.pop(key, None)
        if timer:
            timer.cancel()
        if key in self._running:
            self._again.add(key)
        elif key not in self._queued:
            self._queued.add(key)
            self._ready.put_nowait(key)

    def add_after(self, key: K, seconds: float) -> None:
        """Due later; an earlier date stands, and any `add` comes first."""
        due = self._loop.time() + seconds
        timer = self._timers.get(key)
        if timer is not None and timer.when() <= due:
            return
        if timer is not None:
            timer.cancel()
        self._timers[key] = self._loop.call_at(due, self.add, key)

    def __len__(self) -> int:
        return len(self._queued)

    def longest_running_seconds(self) -> float:
        """How long the oldest piece of work has been under way: a stuck queue shows here."""
        return max((self._loop.time() - start for start in self.started_at.values()), default=0.0)

    async def _worker(self) -> None:
        while True:
            key = await self._ready.get()
            await self._open.wait()
            self._queued.discard(key)
            self._running.add(key)
            self.started_at[key] = self._loop.time()
            try:
                await self._one(key)
            finally:
                self._running.discard(key)
                self.started_at.pop(key, None)
                if key in self._again:
                    self._again.discard(key)
                    self.add(key)

    async def _one(self, key: K) -> None:
        try:
            after = await self._work(key)
        except Exception as error:  # a bug in one model must not end the others' worker
            failures = self._failures[key] = self._failures.get(key, 0) + 1
            pause = min(LONGEST_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2**failures) * random.uniform(0.75, 1.25)  # noqa: S311
            log.warning("failed, again in %.1f s: %s", pause, error, exc_info=not isinstance(error, ApiError))
            self.add_after(key, pause)
            return
        self._failures.pop(key, None)
        if after is not None:
            self.add_after(key, after)

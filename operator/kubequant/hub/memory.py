"""What is remembered between questions: an expiring LRU, and one flight for all who ask the same at once."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class ExpiringCache(Generic[Key, Value]):
    """At most `entries` values, the least recently used goes first; each lives `lifetime_seconds` (None: for ever)."""

    def __init__(self, entries: int, clock: Callable[[], float], lifetime_seconds: float | None = None) -> None:
        self._entries = entries
        self._clock = clock
        self._lifetime_seconds = float("inf") if lifetime_seconds is None else lifetime_seconds
        self._values: OrderedDict[Key, tuple[float, Value]] = OrderedDict()

    def get(self, key: Key) -> Value | None:
        found = self._values.get(key)
        if found is None:
            return None
        expires, value = found
        if self._clock() >= expires:
            del self._values[key]
            return None
        self._values.move_to_end(key)
        return value

    def put(self, key: Key, value: Value) -> None:
        self._values[key] = (self._clock() + self._lifetime_seconds, value)
        self._values.move_to_end(key)
        if len(self._values) > self._entries:
            self._values.popitem(last=False)

    def discard(self, key: Key) -> None:
        self._values.pop(key, None)

    def discard_where(self, is_one: Callable[[Key], bool]) -> None:
        for key in list(filter(is_one, self._values)):
            del self._values[key]

    def __len__(self) -> int:
        return len(self._values)


class SingleFlight(Generic[Key, Value]):
    """Concurrent callers with one key share one task, its result and its failure. Nothing is kept afterwards."""

    def __init__(self) -> None:
        self._tasks: dict[Key, asyncio.Task[Value]] = {}

    async def run(self, key: Key, work: Callable[[], Awaitable[Value]]) -> Value:
        task = self._tasks.get(key)
        if task is None:
            task = asyncio.ensure_future(self._flight(key, work))
            self._tasks[key] = task
            # A failure that nobody waits for any more (all callers cancelled) is no "exception was never retrieved".
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(task)  # one caller's cancellation is not the others'

    async def _flight(self, key: Key, work: Callable[[], Awaitable[Value]]) -> Value:
        try:
            return await work()
        finally:
            del self._tasks[key]

    async def close(self) -> None:
        """Ends every flight; their callers see CancelledError."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

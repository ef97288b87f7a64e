"""Follows downloads while they last, outside of the reconcile workers. No answer means unknown, never wrong.

What it tells changes in steps, so that a status which shows it is written rarely: by 5 % of the whole, or every 30 s.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from kubequant.reconcile.records import Key

ASKED_AT_ONCE = 8
POLL_SECONDS = 10.0  # the first question too: what takes no longer than that needs no progress
STEP_SECONDS = 30.0
STEPS = 20


@dataclass(frozen=True)
class Progress:
    """Of one download, in bytes."""

    downloaded_bytes: int
    total_bytes: int


@dataclass
class _Followed:
    address: str
    told: Progress | None = None
    told_at: float = 0.0
    task: asyncio.Task[None] | None = None


class Downloads:
    """`read` gives the progress of the download at an address, or None; `enqueue` wakes the model up after a step.

    `clock` gives seconds.
    """

    def __init__(
        self,
        read: Callable[[str], Awaitable[Progress | None]],
        enqueue: Callable[[Key], None],
        clock: Callable[[], float],
    ) -> None:
        self._read = read
        self._enqueue = enqueue
        self._clock = clock
        self._slots = asyncio.Semaphore(ASKED_AT_ONCE)
        self._followed: dict[Key, _Followed] = {}

    def follow(self, key: Key, address: str) -> Progress | None:
        """How far the model's download is, as last told; asks on until `forget`."""
        followed = self._followed.get(key)
        if followed is None or followed.address != address:  # another pod
            self.forget(key)
            followed = self._followed[key] = _Followed(address)
            followed.task = asyncio.create_task(self._until_forgotten(key, followed))
        return followed.told

    def forget(self, key: Key) -> None:
        followed = self._followed.pop(key, None)
        if followed and followed.task:
            followed.task.cancel()

    async def close(self) -> None:
        """Stops asking."""
        tasks = [followed.task for followed in self._followed.values() if followed.task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _until_forgotten(self, key: Key, followed: _Followed) -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS)
            async with self._slots:
                progress = await self._read(followed.address)
            now = self._clock()
            if progress is not None and _is_step(followed.told, progress, now - followed.told_at):
                followed.told, followed.told_at = progress, now
                self._enqueue(key)


def _is_step(before: Progress | None, now: Progress, seconds: float) -> bool:
    if before is None or before == now:
        return before is None
    grown = now.downloaded_bytes - before.downloaded_bytes
    return seconds >= STEP_SECONDS or grown * STEPS >= now.total_bytes

"""Asks running engines what they measured, outside of the reconcile workers. No answer means unknown, never wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from kubequant.reconcile.records import Key

ASKED_AT_ONCE = 8
FIRST_PAUSE_SECONDS = 5.0
LONGEST_PAUSE_SECONDS = 600.0


@dataclass
class _Question:
    task: asyncio.Task[None]
    key: Key


class Measuring:
    """`read` gives the KV-cache tokens of the engine at an address, or None; `enqueue` wakes the model up afterwards."""

    def __init__(self, read: Callable[[str], Awaitable[int | None]], enqueue: Callable[[Key], None]) -> None:
        self._read = read
        self._enqueue = enqueue
        self._slots = asyncio.Semaphore(ASKED_AT_ONCE)
        self._answers: dict[str, tuple[Key, int]] = {}  # by revision
        self._questions: dict[str, _Question] = {}

    def ask(self, key: Key, revision: str, address: str) -> None:
        """Starts asking, with growing pauses until there is an answer; once a revision."""
        if revision not in self._questions and revision not in self._answers:
            self._questions[revision] = _Question(
                asyncio.create_task(self._until_answered(key, revision, address)), key
            )

    def answer(self, revision: str) -> int | None:
        known = self._answers.get(revision)
        return known[1] if known else None

    def forget(self, key: Key) -> None:
        for revision in [name for name, question in self._questions.items() if question.key == key]:
            self._questions.pop(revision).task.cancel()
        self._answers = {name: known for name, known in self._answers.items() if known[0] != key}

    async def close(self) -> None:
        """Stops asking."""
        tasks = [question.task for question in self._questions.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _until_answered(self, key: Key, revision: str, address: str) -> None:
        pause = FIRST_PAUSE_SECONDS
        while True:
            async with self._slots:
                tokens = await self._read(address)
            if tokens is not None:
                self._answers[revision] = (key, tokens)
                self._questions.pop(revision, None)
                self._enqueue(key)
                return
            if pause > LONGEST_PAUSE_SECONDS:  # asked anew by a later reconcile, perhaps of another pod
                self._questions.pop(revision, None)
                return
            await asyncio.sleep(pause)
            pause *= 2

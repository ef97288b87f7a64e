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
    key: Key
    address: str
    task: asyncio.Task[None] | None = None


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
        if revision in self._answers:
            return
        question = self._questions.get(revision)
        if question:
            question.address = address  # the pod asked before may be gone, and its address another model's
            return
        question = self._questions[revision] = _Question(key, address)
        question.task = asyncio.create_task(self._until_answered(revision, question))

    def answer(self, revision: str) -> int | None:
        known = self._answers.get(revision)
        return known[1] if known else None

    def forget(self, key: Key) -> None:
        for revision in [name for name, question in self._questions.items() if question.key == key]:
            _cancel(self._questions.pop(revision))
        self._answers = {name: known for name, known in self._answers.items() if known[0] != key}

    async def close(self) -> None:
        """Stops asking."""
        tasks = [question.task for question in self._questions.values() if question.task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _until_answered(self, revision: str, question: _Question) -> None:
        pause = FIRST_PAUSE_SECONDS
        while True:
            async with self._slots:
                tokens = await self._read(question.address)
            if tokens is not None:
                self._answers[revision] = (question.key, tokens)
                self._questions.pop(revision, None)
                self._enqueue(question.key)
                return
            if pause > LONGEST_PAUSE_SECONDS:  # asked anew by a later reconcile, perhaps of another pod
                self._questions.pop(revision, None)
                return
            await asyncio.sleep(pause)
            pause *= 2


def _cancel(question: _Question) -> None:
    if question.task:
        question.task.cancel()

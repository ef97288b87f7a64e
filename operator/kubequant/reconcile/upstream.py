"""Whether a branch or tag still names the commit that was pinned: looked at now and then, reported, never followed.

Models of one repository share a look. The first comes a random part of the interval after a start, so that a restart with a
thousand models asks nobody anything.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from kubequant.errors import KubeQuantError
from kubequant.reconcile.records import Key

log = logging.getLogger(__name__)


class Hub(Protocol):
    """Who knows what a branch or tag names now. None: still the pinned commit."""

    async def moved(self, repository: str, revision: str, pinned_commit: str) -> str | None: ...


@dataclass(frozen=True)
class Pinned:
    """A repository, the branch or tag that was asked for, and the commit that it named when it was."""

    repository: str
    revision: str
    commit: str


@dataclass
class _Watched:
    keys: set[Key] = field(default_factory=set)
    newer: str | None = None
    looked: bool = False  # in this process
    task: asyncio.Task[None] | None = None


class Upstream:
    """`enqueue` wakes the models up whose branch has moved. Belongs to one event loop."""

    def __init__(self, hub: Hub, enqueue: Callable[[Key], None], interval_seconds: float) -> None:
        self._hub = hub
        self._enqueue = enqueue
        self._interval_seconds = interval_seconds
        self._watched: dict[Pinned, _Watched] = {}
        self._of_model: dict[Key, Pinned] = {}

    def newer(self, key: Key, pinned: Pinned | None, known: str | None = None) -> str | None:
        """The commit that the branch names by the last look, None where that is the pinned one. Watches it from now on.

        `known` is what a look before this process's first one found: a restart must not take it back.
        """
        if self._of_model.get(key) != pinned:
            self.forget(key)
        if pinned is None:
            return None
        watched = self._watched.get(pinned)
        if watched is None:
            watched = self._watched[pinned] = _Watched(newer=known)
            watched.task = asyncio.create_task(self._look(pinned, watched))
        elif known and not watched.looked:
            watched.newer = known
        watched.keys.add(key)
        self._of_model[key] = pinned
        return watched.newer

    def forget(self, key: Key) -> None:
        """The model is gone, or has been pinned anew."""
        pinned = self._of_model.pop(key, None)
        watched = self._watched.get(pinned) if pinned else None
        if pinned is None or watched is None:
            return
        watched.keys.discard(key)
        if not watched.keys:
            del self._watched[pinned]
            if watched.task:
                watched.task.cancel()

    async def close(self) -> None:
        """Stops looking."""
        tasks = [watched.task for watched in self._watched.values() if watched.task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _look(self, pinned: Pinned, watched: _Watched) -> None:
        pause = self._interval_seconds * random.uniform(0.1, 1)  # noqa: S311
        while True:
            await asyncio.sleep(pause)
            pause = self._interval_seconds * random.uniform(0.75, 1.25)  # noqa: S311
            try:
                newer = await self._hub.moved(pinned.repository, pinned.revision, pinned.commit)
            except KubeQuantError as error:
                log.info("what %s of %s names now is not known: %s", pinned.revision, pinned.repository, error.message)
                continue
            except Exception:
                log.exception("what %s of %s names now is not known", pinned.revision, pinned.repository)
                continue
            watched.looked = True
            if newer != watched.newer:
                watched.newer = newer
                for key in watched.keys:
                    self._enqueue(key)

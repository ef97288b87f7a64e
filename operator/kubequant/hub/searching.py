"""Searches for checkpoints: one of a base at a time, whoever asks for it, and a few at once.

A search of a slow hub takes minutes. It goes on while those who asked have gone, and tells those who come back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from kubequant.api.conditions import Reason
from kubequant.errors import KubeQuantError, Waiting
from kubequant.hub import failures
from kubequant.hub.discovery import fingerprint, search
from kubequant.hub.memory import SingleFlight
from kubequant.hub.remembered import Remembered
from kubequant.hub.requests import Progress, Requests
from kubequant.planning.values import Found, ModelFacts

DEADLINE_SECONDS = 600.0
SEARCHES_AT_ONCE = 4
COME_BACK_SECONDS = 15.0

log = logging.getLogger(__name__)


class Searches:
    """Of one hub, in one event loop."""

    def __init__(self, publishers: Sequence[str]) -> None:
        self._publishers = tuple(publishers)
        self._slots = asyncio.Semaphore(SEARCHES_AT_ONCE)
        self._flights: SingleFlight[tuple[str, str, str], Found] = SingleFlight()

    async def found(
        self, told: Remembered, requests_of: Callable[[Progress], Requests], base: ModelFacts, *, fresh: bool
    ) -> Found:
        """As remembered, or of a search: that under way for `told`, or a new one. Whoever gives up ends no search.

        Raises Throttled and Unavailable.
        """
        key = fingerprint(base)
        if fresh:  # also for those who come back before the search has ended
            told.found.discard(key)
            told.found_in_part.discard(key)
        found = told.found.get(key) or told.found_in_part.get(key)
        if found:
            return found
        failed = told.failed.get(key)
        if failed:  # after those who asked had gone: told once, or the cause would stand in no status
            told.failed.discard(key)
            raise type(failed)(failed.reason, failed.message, failed.retry_after_seconds)
        return await self._flights.run((told.identity, *key), lambda: self._logged(told, requests_of, base, fresh))

    async def close(self) -> None:
        await self._flights.close()

    async def _logged(
        self, told: Remembered, requests_of: Callable[[Progress], Requests], base: ModelFacts, fresh: bool
    ) -> Found:
        """Perhaps nobody waits for its failure any more."""
        try:
            return await self._search(told, requests_of, base, fresh)
        except KubeQuantError as error:
            log.info("the search for checkpoints of %s was cut short: %s", base.repository, error.message)
            if isinstance(error, Waiting):
                told.failed.put(fingerprint(base), error)
            raise
        except Exception:
            log.exception("the search for checkpoints of %s failed", base.repository)
            raise

    async def _search(
        self, told: Remembered, requests_of: Callable[[Progress], Requests], base: ModelFacts, fresh: bool
    ) -> Found:
        key = fingerprint(base)
        async with self._slots:
            progress = told.progress.get(key)
            if progress is None:
                progress = Progress()
                told.progress.put(key, progress)
            if fresh:
                progress.forget_names()
                told.verdicts.discard_where(lambda verdict: verdict[:2] == key)
            requests = requests_of(progress)
            try:
                async with asyncio.timeout(DEADLINE_SECONDS):
                    found = await search(requests, base, self._publishers, told.verdicts)
            except TimeoutError:
                raise failures.timed_out(requests.question(base.repository, base.commit), DEADLINE_SECONDS) from None
        (told.found_in_part if found.partial else told.found).put(key, found)
        told.progress.discard(key)
        return found


def goes_on(base: ModelFacts) -> Waiting:
    return Waiting(
        Reason.DISCOVERING,
        f"Published checkpoints of {base.repository} are being looked for and compared with it. It is planned when that is done.",
        COME_BACK_SECONDS,
    )

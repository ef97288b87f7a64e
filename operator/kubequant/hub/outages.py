"""Since when a question fails and when it is asked again: one wording from look to look, for each new one is written into
the status of every model that waits for it."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from datetime import datetime, timedelta

from kubequant.hub.memory import ExpiringCache

FORGOTTEN_SECONDS = 7200.0  # longer than any pause that a hub may ask for
_TOLD_FOR = timedelta(minutes=1)
_SLACK = timedelta(seconds=3)  # a pause, computed anew at each look, ends a little earlier or later


class Outages:
    """Of questions, by any key. `clock` in seconds, `now` the time of day in UTC."""

    def __init__(self, entries: int, clock: Callable[[], float], now: Callable[[], datetime]) -> None:
        self._now = now
        self._known: ExpiringCache[Hashable, tuple[datetime, datetime]] = ExpiringCache(
            entries, clock, FORGOTTEN_SECONDS
        )

    def failed(self, question: Hashable, again_seconds: float) -> tuple[datetime, datetime]:
        """Since when it fails without an answer between, and the full minute by which it may be asked again."""
        now = self._now()
        since, told = self._known.get(question) or (now, now)
        due = now + timedelta(seconds=again_seconds)
        if not told - _TOLD_FOR - _SLACK <= due <= told + _SLACK:
            told = _full_minute(due)
        self._known.put(question, (since, told))
        return since, told

    def answered(self, question: Hashable) -> None:
        self._known.discard(question)


def _full_minute(time: datetime) -> datetime:
    """The next one, or `time` itself where it is one."""
    begun = time.replace(second=0, microsecond=0)
    return begun if begun == time else begun + timedelta(minutes=1)

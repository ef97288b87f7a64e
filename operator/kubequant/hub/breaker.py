"""A circuit breaker: who asks a host that does not answer is told so at once, and one request in a while finds out whether it does again.

    closed --so many failures in a row--> open --pause over--> one probe --success--> closed
                                           ^------------- failure, a longer pause -----+

Small and our own: kept libraries of the kind are for coroutines or for threads with a call to wrap, tell no times and
let everybody probe; here a request is streamed, and status must say since when and when next.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random

FAILURES_IN_A_ROW = 5
FIRST_PAUSE_SECONDS = 5.0
MAX_PAUSE_SECONDS = 60.0


class OpenError(Exception):
    """Nothing was asked. The text stays the same until the next probe has failed."""

    def __init__(self, host: str, since: datetime, again: datetime, cause: str, retry_after_seconds: float) -> None:
        super().__init__(f"{host} has failed since {_utc(since)}: {cause}. Asked again after {_utc(again)}.")
        self.retry_after_seconds = retry_after_seconds


@dataclass
class _Outage:
    since: datetime
    failures: int = 0
    pauses: int = 0
    probing: bool = False
    cause: str = ""
    again: datetime | None = None  # None while closed
    ends: float = 0.0  # the pause, on the clock
    repositories: set[str] = field(default_factory=set)  # that were counted


class Breaker:
    """Of one host, for all threads. `clock` in seconds, `now` the time of day in UTC."""

    def __init__(self, host: str, clock: Callable[[], float], now: Callable[[], datetime], random: Random) -> None:
        self._host = host
        self._clock = clock
        self._now = now
        self._random = random
        self._lock = threading.Lock()
        self._outage: _Outage | None = None

    def enter(self) -> bool:
        """Before a request; says whether it is the probe. `succeeded` or `failed` follows. Raises OpenError."""
        with self._lock:
            outage = self._outage
            if outage is None or outage.again is None:
                return False
            if outage.probing or self._clock() < outage.ends:
                raise self._open(outage, outage.again)
            outage.probing = True
            return True

    def succeeded(self) -> None:
        with self._lock:
            self._outage = None

    def failed(self, probe: bool, cause: str, repository: str = "") -> None:
        """A `repository` whose files alone may be what fails counts once in a row.

        Raises OpenError where the breaker is open now, so that all are told the same.
        """
        with self._lock:
            outage = self._outage = self._outage or _Outage(self._now())
            if repository not in outage.repositories:
                outage.failures += 1
            if repository:
                outage.repositories.add(repository)
            # Those under way when it opened fail, too: they are no news.
            if probe or (outage.again is None and outage.failures >= FAILURES_IN_A_ROW):
                self._pause(outage, cause)
            if outage.again is not None:
                raise self._open(outage, outage.again)

    def _pause(self, outage: _Outage, cause: str) -> None:
        longest = min(MAX_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** min(outage.pauses, 30))
        seconds = self._random.uniform(longest / 2, longest)
        outage.probing, outage.cause, outage.pauses = False, cause, outage.pauses + 1
        outage.again, outage.ends = self._now() + timedelta(seconds=seconds), self._clock() + seconds

    def _open(self, outage: _Outage, again: datetime) -> OpenError:
        return OpenError(self._host, outage.since, again, outage.cause, max(1.0, outage.ends - self._clock()))


def _utc(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M:%S} UTC"

"""What a hub's rate limits allow the whole process: nobody asks after a 429 until the window ends, nobody oversteps it.

The hub says with each answer how many requests are left in a window and when that ends (RateLimit, RateLimit-Policy),
for its API and for files apart. Requests that are on their way are taken off what is left, so that the many threads
together stay within it; what is left of a window that runs low is spread over the time until its end.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from random import Random

from huggingface_hub.utils import RateLimitInfo, parse_ratelimit_headers

API, FILES, ELSEWHERE = "api", "files", "elsewhere"  # kinds of requests: the hub counts the first two apart
MAX_RETRY_AFTER_SECONDS = 3600.0  # a header that says more is not believed
LOW_SHARE = 0.1  # of a window's requests: the last ones are spread
LOW_REQUESTS = 10  # likewise, where the hub does not say how many a window has
PATIENCE_SECONDS = 5.0  # a request waits so long for its turn in a thread; those with a later turn come back
_ROUNDING_SECONDS = 1.0  # the header counts whole seconds, and does not say whether up or down
_BACK_OFF_SECONDS, _MAX_BACK_OFF_SECONDS = 2.0, 300.0  # after a 429 that names no time
RETURNS_PER_SECOND = 20.0  # of those who were told to wait
_MAX_SPREAD_SECONDS = 60.0
UNNAMED_SECONDS = 10.0  # for those who were told no time


class ThrottledError(Exception):
    """No request may be sent for `retry_after_seconds`."""

    def __init__(self, retry_after_seconds: float) -> None:
        super().__init__(f"no request for {retry_after_seconds:.0f} s")
        self.retry_after_seconds = retry_after_seconds


@dataclass
class _Window:
    remaining: int  # the least that was answered in it
    limit: int | None
    seconds: int | None
    ends: float
    next_turn: float = 0.0


class RateLimits:
    """Of one hub, for all threads. `clock` in seconds."""

    def __init__(self, clock: Callable[[], float], random: Random) -> None:
        self._clock = clock
        self._random = random
        self._lock = threading.Lock()
        self._windows: dict[str, _Window] = {}
        self._under_way: dict[str, int] = {}
        self._silent_until = dict.fromkeys((API, FILES, ELSEWHERE), 0.0)
        self._refusals = 0  # 429s in a row

    @property
    def is_refusing(self) -> bool:
        """The last answer was a 429."""
        return self._refusals > 0

    def take(self, kind: str) -> float:
        """One request's turn in the window of its kind: seconds until then, PATIENCE_SECONDS at most. Raises ThrottledError.

        Who took one calls `answered` or `lost` afterwards.
        """
        with self._lock:
            now = self._clock()
            if now < self._silent_until[kind]:
                raise ThrottledError(self._silent_until[kind] - now)
            wait = self._turn(self._window(kind, now), self._under_way.get(kind, 0), now)
            if wait > PATIENCE_SECONDS:
                raise ThrottledError(wait)
            self._under_way[kind] = self._under_way.get(kind, 0) + 1
            return wait

    def answered(self, kind: str, headers: Mapping[str, str], *, refused: bool) -> None:
        """The answer to one that was taken; `refused` with a 429. Raises ThrottledError then."""
        with self._lock:
            now = self._clock()
            self._under_way[kind] -= 1
            self._note(kind, headers, now)
            if not refused:
                self._refusals = 0
                return
            self._refusals += 1
            silence = retry_after(headers) or self._back_off()
            # What the hub has redirected is paid for: it may be fetched from where that is.
            for silent in (API, FILES) if kind != ELSEWHERE else (API, FILES, ELSEWHERE):
                self._silent_until[silent] = max(self._silent_until[silent], now + silence)
            raise ThrottledError(self._silent_until[kind] - now)

    def lost(self, kind: str, *, sent: bool = True) -> None:
        """One that was taken got no answer; where it was `sent` the hub may have counted it."""
        with self._lock:
            self._under_way[kind] -= 1
            if sent and kind in self._windows:
                self._windows[kind].remaining -= 1

    def _window(self, kind: str, now: float) -> _Window | None:
        window = self._windows.get(kind)
        if window is None or now < window.ends:
            return window
        del self._windows[kind]
        if window.limit is None or not window.seconds:
            return None
        return self._windows.setdefault(kind, _Window(window.limit, window.limit, window.seconds, now + window.seconds))

    def _turn(self, window: _Window | None, under_way: int, now: float) -> float:
        if window is None:
            return 0.0
        left, lasts = window.remaining - under_way, window.ends - now
        if left <= 0:
            raise ThrottledError(lasts)
        low = LOW_REQUESTS if window.limit is None else max(1, int(window.limit * LOW_SHARE))
        if left > low:
            return 0.0
        turn = max(now, window.next_turn)
        if turn - now <= PATIENCE_SECONDS:
            window.next_turn = turn + lasts / left
        return turn - now

    def _note(self, kind: str, headers: Mapping[str, str], now: float) -> None:
        said = _said(headers)
        if said is None:
            return
        ends = now + min(said.reset_in_seconds, MAX_RETRY_AFTER_SECONDS) + _ROUNDING_SECONDS
        old = self._windows.get(kind)
        same = old is not None and ends <= old.ends + 2 * _ROUNDING_SECONDS
        # Answers overtake one another: within a window the least that was said is the newest.
        remaining = min(said.remaining, old.remaining) if old and same else said.remaining
        next_turn = old.next_turn if old and same else 0.0
        self._windows[kind] = _Window(remaining, said.limit, said.window_seconds, ends, next_turn)

    def _back_off(self) -> float:
        return max(1.0, full_jitter(self._random, self._refusals, _BACK_OFF_SECONDS, _MAX_BACK_OFF_SECONDS))


class Returns:
    """Spreads those who were told to wait: so many come back a second, each with a jitter of its own."""

    def __init__(self, clock: Callable[[], float], random: Random) -> None:
        self._clock = clock
        self._random = random
        self._due: list[float] = []  # a heap: when those who wait come back

    def after(self, seconds: float) -> float:
        """For one of them, in place of the `seconds` that all were told."""
        now = self._clock()
        while self._due and self._due[0] <= now:
            heapq.heappop(self._due)
        queue = len(self._due) / RETURNS_PER_SECOND
        if queue > _MAX_SPREAD_SECONDS:
            queue = self._random.uniform(0.0, _MAX_SPREAD_SECONDS)
        seconds += queue + self._random.uniform(0.0, 1.0)
        heapq.heappush(self._due, now + seconds)
        return seconds


def full_jitter(random: Random, attempt: int, base_seconds: float, cap_seconds: float) -> float:
    """Between nothing and `base_seconds`, doubled with each attempt after the first up to the cap."""
    return random.uniform(0.0, min(cap_seconds, base_seconds * 2.0 ** min(attempt - 1, 30)))


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait: of the RateLimit header where it is the cause, else of Retry-After (seconds or a date)."""
    limit = _said(headers)
    if limit is not None and limit.remaining == 0:
        return _bounded(limit.reset_in_seconds)
    value = headers.get("retry-after", "").strip()
    if value.isdecimal():
        return _bounded(int(value[:9]))
    try:
        return _bounded(parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _said(headers: Mapping[str, str]) -> RateLimitInfo | None:
    try:
        return parse_ratelimit_headers(headers)
    except ValueError:  # an integer of thousands of digits
        return None


def _bounded(seconds: float) -> float:
    return min(max(float(seconds), 1.0), MAX_RETRY_AFTER_SECONDS)

"""Trouble on demand: what the hub does to the next requests that match."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

ALWAYS = 1 << 62
"""As `times`: until the faults are cleared."""


@dataclass(frozen=True)
class Fault:
    """One kind of trouble, for the next `times` requests whose path the regular expression `path` finds something in.

    Without `status` the request is answered, with what the other fields do to that answer.
    """

    path: str = ""
    times: int = 1
    method: str | None = None
    share: float = 1.0
    """Of the requests that match, so many meet it: drawn with `seed`, the same ones in every run."""
    seed: int = 0
    status: int | None = None
    """Answer with this status instead."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Headers of that answer; of the true one, in the place of its own, when there is no status."""
    delay_seconds: float = 0.0
    """Wait before the answer."""
    bytes_per_second: int | None = None
    """Send the body no faster than this."""
    cut_after_bytes: int | None = None
    """Close the connection after so many bytes of the body; at 0, before the headers."""
    truncate_to_bytes: int | None = None
    """Send only so many bytes and say with Content-Length that this was all."""
    endless: bytes = b""
    """Send this after the body, again and again, until the client goes."""
    gzip: bool = False
    """Compress the body, whatever encodings the client accepts."""
    act: Callable[[], object] | None = None
    """Call this before the answer: to change a repository between two reads, or to let the hub die."""
    ignore_range: bool = False
    """Answer 200 with the whole file to a request for a range."""


def rate_limited(
    path: str = "",
    times: int | None = None,
    reset_seconds: int = 55,
    *,
    share: float = 1.0,
    seed: int = 0,
    retry_after: str | None = None,
) -> Fault:
    """429 as the Hub sends it: nothing left of 500 requests in 5 minutes, the window ends in `reset_seconds`.

    `times` is 1, or without end for a `share` below 1. With `retry_after` that header stands in the place of the Hub's.
    """
    headers = {"RateLimit": f'"api";r=0;t={reset_seconds}', "RateLimit-Policy": '"fixed window";"api";q=500;w=300'}
    if retry_after is not None:
        headers = {"Retry-After": retry_after}
    if times is None:
        times = 1 if share == 1.0 else ALWAYS
    return Fault(path, times, share=share, seed=seed, status=429, headers=headers)


def redirected(path: str, location: str, times: int = ALWAYS) -> Fault:
    """302 to a location, which may be another host, another scheme, or "?", which is a circle."""
    return Fault(path, times, status=302, headers={"Location": location})


class Faults:
    """Faults that wait for their requests, in the order in which they were added."""

    def __init__(self) -> None:
        self._waiting: list[_Waiting] = []

    def add(self, fault: Fault) -> None:
        self._waiting.append(_Waiting(fault))

    def clear(self) -> None:
        self._waiting.clear()

    def take(self, method: str, path: str) -> Fault | None:
        """The fault for this request, used up by one."""
        for waiting in list(self._waiting):
            if waiting.meets(method, path):
                waiting.left -= 1
                if waiting.left == 0 and waiting in self._waiting:
                    self._waiting.remove(waiting)
                return waiting.fault
        return None


class _Waiting:
    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self.left = fault.times
        self._random = random.Random(fault.seed)

    def meets(self, method: str, path: str) -> bool:
        fault = self.fault
        matches = fault.method in (None, method) and re.search(fault.path, path) is not None
        return matches and (fault.share == 1.0 or self._random.random() < fault.share)

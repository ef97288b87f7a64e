"""Trouble on demand: what the hub does to the next requests that match."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Fault:
    """One kind of trouble, for the next `times` requests whose path the regular expression `path` finds something in.

    A fault with neither status, cut nor truncation only slows down.
    """

    path: str = ""
    times: int = 1
    method: str | None = None
    status: int | None = None
    """Answer with this status instead."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Headers of that answer."""
    delay_seconds: float = 0.0
    """Wait before the answer."""
    bytes_per_second: int | None = None
    """Send the body of a file no faster than this."""
    cut_after_bytes: int | None = None
    """Close the connection after so many bytes of the body; at 0, before the headers."""
    truncate_to_bytes: int | None = None
    """Send only so many bytes and say with Content-Length that this was all."""


def rate_limited(path: str = "", times: int = 1, reset_seconds: int = 55) -> Fault:
    """429 as the Hub sends it: nothing left of 500 requests in 5 minutes, the window ends in `reset_seconds`."""
    headers = {"RateLimit": f'"api";r=0;t={reset_seconds}', "RateLimit-Policy": '"fixed window";"api";q=500;w=300'}
    return Fault(path, times, status=429, headers=headers)


class Faults:
    """Faults that wait for their requests, in the order in which they were added."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Fault, int]] = []

    def add(self, fault: Fault) -> None:
        self._waiting.append((fault, fault.times))

    def clear(self) -> None:
        self._waiting.clear()

    def take(self, method: str, path: str) -> Fault | None:
        """The fault for this request, used up by one."""
        for position, (fault, left) in enumerate(self._waiting):
            if fault.method in (None, method) and re.search(fault.path, path):
                self._waiting[position : position + 1] = [(fault, left - 1)] if left > 1 else []
                return fault
        return None

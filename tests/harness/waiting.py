"""Bounded waiting that says what it waited for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_for(what: str, probe: Callable[[], T | None], *, seconds: float = 30, every: float = 0.2) -> T:
    """The first truthy answer of `probe`. Raises TimeoutError with what was waited for and the last answer."""
    end = time.monotonic() + seconds
    while True:
        answer = probe()
        if answer:
            return answer
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds:g} s for {what}; last answer: {answer!r}")
        time.sleep(every)

"""How many requests the hub answers in a window, said in the headers of every answer."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Resource = Literal["api", "resolvers"]


@dataclass(frozen=True)
class Quota:
    """So many requests in each window."""

    requests: int
    window_seconds: float


class Limits:
    """Fixed windows, one a resource: `api` for what is under /api, `resolvers` for files. Without quota no limit.

    A window begins with the first request after the one before it. Requests that are refused count nothing.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._quotas: dict[Resource, Quota] = {}
        self._windows: dict[Resource, tuple[float, int]] = {}
        self.overstepped: list[Resource] = []
        """Requests that were refused: the headers had told that nothing was left."""

    def set(self, resource: Resource, requests: int, window_seconds: float) -> None:
        self._quotas[resource] = Quota(requests, window_seconds)
        self._windows.pop(resource, None)

    def clear(self) -> None:
        self._quotas.clear()
        self._windows.clear()

    def take(self, resource: Resource) -> tuple[bool, dict[str, str]]:
        """Whether one more request is answered, and the headers that say what is left."""
        quota = self._quotas.get(resource)
        if quota is None:
            return True, {}
        now = self._clock()
        end, used = self._windows.get(resource, (0.0, 0))
        if now >= end:
            end, used = now + quota.window_seconds, 0
        allowed = used < quota.requests
        used += allowed
        if not allowed:
            self.overstepped.append(resource)
        self._windows[resource] = (end, used)
        return allowed, _headers(resource, quota, quota.requests - used, math.ceil(end - now))


def _headers(resource: Resource, quota: Quota, remaining: int, reset_seconds: int) -> dict[str, str]:
    window = math.ceil(quota.window_seconds)
    return {
        "RateLimit": f'"{resource}";r={remaining};t={reset_seconds}',
        "RateLimit-Policy": f'"fixed window";"{resource}";q={quota.requests};w={window}',
    }

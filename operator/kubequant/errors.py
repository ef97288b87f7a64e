"""What can go wrong, as one small tree. `reconcile.outcome` maps it to a condition and a requeue, in one place.

    KubeQuantError            has `reason` (one word of api.conditions.Reason) and `message` (what, the number, what to do)
    ├── Refused               permanent until the user's inputs, the fleet or the repository change
    ├── Conflict              an object of our name that we do not control stands in the way
    └── Waiting               passing: tried again, after `retry_after_seconds` where the other side named a time
        ├── Throttled         the other side asked for patience (HTTP 429)
        └── Unavailable       the other side does not answer (connection, time-out, HTTP 5xx)

The API server's own errors (`cluster.ApiError`) stand beside this tree: they know no domain words.
"""

from __future__ import annotations


class KubeQuantError(Exception):
    """Base of the tree. `reason` is one CamelCase word of the documented list."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class Refused(KubeQuantError):
    """Permanent until the user's inputs, the fleet or the repository change."""


class Conflict(KubeQuantError):
    """An object of our name that we do not control stands in the way."""


class Waiting(KubeQuantError):
    """Passing. `retry_after_seconds` is the time the other side named, None when it named none."""

    def __init__(self, reason: str, message: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(reason, message)
        self.retry_after_seconds = retry_after_seconds


class Throttled(Waiting):
    """The other side asked for patience (HTTP 429)."""


class Unavailable(Waiting):
    """The other side does not answer (connection, time-out, HTTP 5xx)."""

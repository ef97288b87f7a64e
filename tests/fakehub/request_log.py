"""What clients asked of the hub, for tests to read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Role = Literal["hub", "cdn"]


@dataclass(frozen=True)
class LoggedRequest:
    """A request and how it was answered."""

    role: Role
    method: str
    path: str
    query: str
    host: str
    """The Host header: where the client thought it was."""
    range: str | None
    authorized: bool
    """Whether it carried an Authorization header. What was in it is not kept."""
    user_agent: str
    status: int
    """0 when the connection was cut before an answer."""
    at: float
    """When its answer began, in seconds of the monotonic clock."""


class RequestLog:
    """Requests in the order of their answers."""

    def __init__(self) -> None:
        self._requests: list[LoggedRequest] = []

    def add(self, request: LoggedRequest) -> None:
        self._requests.append(request)

    def clear(self) -> None:
        self._requests.clear()

    def select(self, path: str = "", *, method: str | None = None, role: Role | None = None) -> list[LoggedRequest]:
        """Requests whose path the regular expression `path` finds something in, of this method and role if given."""
        return [
            request
            for request in list(self._requests)
            if re.search(path, request.path) and method in (None, request.method) and role in (None, request.role)
        ]

    def count(self, path: str = "", *, method: str | None = None, role: Role | None = None) -> int:
        return len(self.select(path, method=method, role=role))

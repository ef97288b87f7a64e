"""A deadline over everything that one request waits for, headers that drip in included.

httpx2 knows time-outs between two reads only: a server that sends a byte in time, again and again, would keep its
thread for ever. Here each wait of a thread's sockets ends with the deadline that the thread has set.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import httpcore2

_thread = threading.local()


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """This thread's connections raise a time-out after so many seconds."""
    _thread.seconds, _thread.ends = seconds, time.monotonic() + seconds
    try:
        yield
    finally:
        del _thread.seconds, _thread.ends


@contextmanager
def _timed(timeout: float | None) -> Iterator[float | None]:
    """The seconds that one operation may take. Raises httpcore2.ReadTimeout once the thread's deadline has passed."""
    ends: float | None = getattr(_thread, "ends", None)
    if ends is None:
        yield timeout
        return
    late = httpcore2.ReadTimeout(f"the request took longer than {_thread.seconds:g} s")
    left = ends - time.monotonic()
    if left <= 0:
        raise late
    try:
        yield left if timeout is None else min(left, timeout)
    except httpcore2.TimeoutException as error:
        if time.monotonic() < ends:
            raise
        raise late from error


class Backend(httpcore2.NetworkBackend):
    """Connections that keep their thread's deadline."""

    def __init__(self) -> None:
        self._plain = httpcore2.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        with _timed(timeout) as seconds:
            return _Stream(self._plain.connect_tcp(host, port, seconds, local_address, socket_options))


class _Stream(httpcore2.NetworkStream):
    def __init__(self, plain: httpcore2.NetworkStream) -> None:
        self._plain = plain

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        with _timed(timeout) as seconds:
            return self._plain.read(max_bytes, seconds)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        with _timed(timeout) as seconds:
            self._plain.write(buffer, seconds)

    def close(self) -> None:
        self._plain.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        with _timed(timeout) as seconds:
            return _Stream(self._plain.start_tls(ssl_context, server_hostname, seconds))

    def get_extra_info(self, info: str) -> Any:
        return self._plain.get_extra_info(info)

"""Blocking requests to one hub through `huggingface_hub`'s own session: bounded in bytes and time, never sleeping long.

`model_info` is the client's. Files are streamed here, because the client's `hf_hub_download` writes to a disk cache and
its `parse_safetensors_file_metadata` reads whatever a server sends that ignores `Range`, a whole shard if need be.
Neither goes through `http_backoff`, which sleeps until a rate limit resets (up to five minutes).

The token is sent to the endpoint's origin alone: httpx2 drops `Authorization` when a redirect leaves it (a test holds it
to that). It is always given explicitly, so that no token of the environment or the disk is picked up.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from http import HTTPStatus
from typing import TypeVar

import httpx2
from huggingface_hub import HfApi, ModelInfo, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

TIMEOUT_SECONDS = 10.0  # to connect, and between two reads
PAUSE_SECONDS = 0.3  # before the one repetition after a cut connection or a 5xx
_LIBRARY_NAME = "kubequant"
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")

Answer = TypeVar("Answer")


class FileTooLargeError(Exception):
    """A small file is larger than it may be. `limit` in bytes."""

    def __init__(self, name: str, limit: int) -> None:
        super().__init__(f"{name} is larger than {limit:,} bytes")
        self.name = name
        self.limit = limit


class NotAHubError(Exception):
    """The endpoint answered, but not as a hub does."""


class RangeIgnoredError(Exception):
    """The server answered a ranged request with something else than that range."""


@dataclass(frozen=True)
class Piece:
    """Some bytes of a file, and how many the whole file has."""

    data: bytes
    file_bytes: int


class Transport:
    """One hub, as one identity. Each method blocks: call it in a thread."""

    def __init__(self, endpoint: str, token: str | None, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        self.endpoint = endpoint
        self.authenticated = bool(token)
        self._timeout_seconds = timeout_seconds
        # False, not None: None makes the client look for a token in the environment and on the disk.
        self._api = HfApi(endpoint=endpoint, token=token or False, library_name=_LIBRARY_NAME)
        headers = build_hf_headers(token=token or False, library_name=_LIBRARY_NAME)
        self._headers = headers | {"accept-encoding": "identity"}  # a range of compressed bytes is no range of the file

    def model_info(self, repository: str, revision: str) -> ModelInfo:
        """The repository at a revision: its commit and its files with their sizes. Raises NotAHubError."""
        try:
            return _twice(
                lambda: self._api.model_info(
                    repository, revision=revision, files_metadata=True, timeout=self._timeout_seconds
                )
            )
        except HFValidationError:
            raise
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise NotAHubError(
                f"its answer is no model's information: {type(error).__name__}: {error}"[:200]
            ) from error

    def read_file(self, repository: str, commit: str, name: str, limit: int) -> bytes:
        """A whole small file. Raises FileTooLargeError after `limit` bytes, unread beyond them."""

        def attempt() -> bytes:
            with self._get(repository, commit, name, {}) as response:
                hf_raise_for_status(response)
                data = _read_at_most(response, limit)
            if len(data) > limit:
                raise FileTooLargeError(name, limit)
            return data

        return _twice(attempt)

    def read_range(self, repository: str, commit: str, name: str, start: int, end: int) -> Piece:
        """Bytes `start` up to, not including, `end`; fewer where the file ends. Raises RangeIgnoredError."""

        def attempt() -> Piece:
            with self._get(repository, commit, name, {"range": f"bytes={start}-{end - 1}"}) as response:
                if response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                    return Piece(b"", _whole_size(response))
                hf_raise_for_status(response)
                file_bytes = _size_of_ranged(response, start, end)
                return Piece(_read_at_most(response, end - start)[: end - start], file_bytes)

        return _twice(attempt)

    def _get(
        self, repository: str, commit: str, name: str, headers: dict[str, str]
    ) -> AbstractContextManager[httpx2.Response]:
        url = hf_hub_url(repository, name, revision=commit, endpoint=self.endpoint)
        return get_session().stream("GET", url, headers=self._headers | headers, timeout=self._timeout_seconds)


def _twice(attempt: Callable[[], Answer]) -> Answer:
    """Once more after what passes by itself: one cut connection must not throw away forty shards that were read."""
    try:
        return attempt()
    except (httpx2.NetworkError, httpx2.RemoteProtocolError):
        pass
    except HfHubHTTPError as error:
        if error.response.status_code < HTTPStatus.INTERNAL_SERVER_ERROR:
            raise
    time.sleep(PAUSE_SECONDS)
    return attempt()


def _read_at_most(response: httpx2.Response, limit: int) -> bytes:
    """The body; of one longer than `limit` bytes a little more than those, and its connection is closed unread."""
    data = bytearray()
    for chunk in response.iter_bytes():
        data += chunk
        if len(data) > limit:
            break
    return bytes(data)


def _size_of_ranged(response: httpx2.Response, start: int, end: int) -> int:
    """The file's size in bytes, when the answer is the range asked for, or a whole file no longer than it."""
    if response.status_code == HTTPStatus.PARTIAL_CONTENT:
        match = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
        if match is None or int(match[1]) != start:
            raise RangeIgnoredError(f"Content-Range {response.headers.get('content-range')!r:.80}")
        return int(match[3])
    length = response.headers.get("content-length", "")
    if start == 0 and length.isdigit() and int(length) <= end:
        return int(length)
    raise RangeIgnoredError(f"HTTP {response.status_code} with {length or 'an unknown number of'} bytes")


def _whole_size(response: httpx2.Response) -> int:
    """416 names the size as `bytes */N`; an empty file is the usual cause."""
    total = response.headers.get("content-range", "").rpartition("/")[2]
    return int(total) if total.isdigit() else 0

"""Blocking requests to one hub as one identity: bounded in bytes, in time and in what they may lead to.

The token is always given explicitly, so that none of the environment or the disk is picked up. Answers of the API are
kept with their ETag and asked for anew with it; files are asked for at a commit, and an answer that names another one
is not taken.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from importlib.metadata import version
from random import Random
from typing import Any, TypeVar
from urllib.parse import quote

import httpx2
from huggingface_hub import ModelInfo, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import hf_raise_for_status, validate_repo_id

from kubequant.hub.answers import Answers
from kubequant.hub.limits import PATIENCE_SECONDS, ThrottledError
from kubequant.hub.session import Session, read_at_most

MAX_ANSWER_BYTES = 20_000_000  # of the API; a listing of 10,000 files takes 3 MB
MAX_LISTED = 1000  # models; the Hub's own page
PAUSE_SECONDS = 0.6  # at most, before the one repetition after a cut connection or a 5xx
NO_TOKEN = "the operator has no token"  # noqa: S105 - words
_ATTEMPTS = 5  # before the last one
_ERROR_BYTES = 65_536
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})")
_USER_AGENT = f"kubequant/{version('kubequant')}"  # and no word of what else is installed

Answer = TypeVar("Answer")
Words = str | Sequence[str]


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


class ChangedError(Exception):
    """What is read now does not belong to what was read before. The text says how it shows."""


@dataclass(frozen=True)
class Piece:
    """Some bytes of a file, how many the whole file has, and what the server calls this content."""

    data: bytes
    file_bytes: int
    etag: str = ""


class Transport:
    """One hub, as one identity. Each method blocks: call it in a thread.

    All raise HfHubHTTPError, httpx2.TransportError, NotAHubError and what `Session.get` raises.
    """

    def __init__(
        self, session: Session, token: str | None, answers: Answers, random: Random, no_token: str = NO_TOKEN
    ) -> None:
        self.endpoint = session.endpoint
        self.authenticated = bool(token)
        self.no_token = no_token  # why, for messages
        self.identity = hashlib.sha256(token.encode()).hexdigest() if token else "anonymous"
        self._session = session
        self._answers = answers
        self._random = random
        # A range of compressed bytes is no range of the file, and what unfolds has no bound.
        self._headers = {"accept-encoding": "identity", "user-agent": _USER_AGENT}
        if token:
            self._headers["authorization"] = f"Bearer {token}"

    def model_info(self, repository: str, revision: str) -> ModelInfo:
        """The repository at a revision: its commit and its files with their sizes. Raises HFValidationError for a bad name."""
        validate_repo_id(repository)
        return self._api(
            f"models/{repository}/revision/{quote(revision, safe='')}",
            {"blobs": True, "securityStatus": True},
            _information,
        )

    def list_models(self, *, limit: int, **query: Words) -> list[ModelInfo]:
        """At most `limit` models (up to MAX_LISTED), by the parameters of the Hub's GET /api/models: `filter`, `author`,
        `search`, `sort`, `expand`. One request. Entries that are no model's information are left out."""
        limit = min(limit, MAX_LISTED)
        return self._api(
            "models",
            {**query, "limit": limit},
            lambda documents: list(filter(None, map(_information_or_none, documents[:limit]))),
        )

    def read_file(self, repository: str, commit: str, name: str, limit: int) -> bytes:
        """A whole small file. Raises FileTooLargeError after `limit` bytes, unread beyond them; ChangedError."""

        def attempt() -> bytes:
            with self._file(repository, commit, name, {}) as response:
                _raise_for_status(response)
                data = read_at_most(response, limit)
            if len(data) > limit:
                raise FileTooLargeError(name, limit)
            return data

        return self._patiently(attempt)

    def read_range(self, repository: str, commit: str, name: str, start: int, end: int) -> Piece:
        """Bytes `start` up to, not including, `end`; fewer where the file ends. Raises RangeIgnoredError, ChangedError."""

        def attempt() -> Piece:
            with self._file(repository, commit, name, {"range": f"bytes={start}-{end - 1}"}) as response:
                etag = _etag(response)
                if response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                    return Piece(b"", _whole_size(response), etag)
                _raise_for_status(response)
                file_bytes = _size_of_ranged(response, start, end)
                return Piece(read_at_most(response, end - start)[: end - start], file_bytes, etag)

        return self._patiently(attempt)

    def _api(self, path: str, params: Mapping[str, Any], parse: Callable[[Any], Answer]) -> Answer:
        try:
            return parse(json.loads(self._patiently(lambda: self._answer(f"{self.endpoint}/api/{path}", params))))
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise NotAHubError(
                f"its answer is no model's information: {type(error).__name__}: {error}"[:200]
            ) from error

    def _answer(self, url: str, params: Mapping[str, Any]) -> bytes:
        """The body of an answer, from what is kept where the hub says that it still holds."""
        name = f"answer {self.identity} {httpx2.URL(url, params=params)}"
        etag, _, kept = (self._answers.get(name) or b"").partition(b"\n")
        condition = {"if-none-match": etag.decode("ascii")} if etag else {}
        with self._session.get(url, self._headers | condition, params) as response:
            if etag and response.status_code == HTTPStatus.NOT_MODIFIED:
                return kept
            _raise_for_status(response)
            body = read_at_most(response, MAX_ANSWER_BYTES)
            etag = response.headers.get("etag", "").encode("ascii", "ignore")
        if len(body) > MAX_ANSWER_BYTES:
            raise NotAHubError(f"its answer is longer than {MAX_ANSWER_BYTES:,} bytes")
        if etag:
            self._answers.put(name, etag + b"\n" + body)
        return body

    @contextmanager
    def _file(self, repository: str, commit: str, name: str, headers: dict[str, str]) -> Iterator[httpx2.Response]:
        url = hf_hub_url(repository, name, revision=commit, endpoint=self.endpoint)
        with self._session.get(url, self._headers | headers) as response:
            for one in (*response.history, response):
                said = one.headers.get("x-repo-commit")
                if said and said != commit:
                    raise ChangedError(f"the hub answers with {name!r:.80} of commit {said!r:.42}")
            yield response

    def _patiently(self, attempt: Callable[[], Answer]) -> Answer:
        """Once more after what passes by itself: one cut connection must not throw away forty shards that were read.

        And again after each 429 that asks for a short wait, which the session waits out.
        """
        mended = False
        for _ in range(_ATTEMPTS):
            try:
                return attempt()
            except ThrottledError as throttled:
                if throttled.retry_after_seconds > PATIENCE_SECONDS:
                    raise
            except (httpx2.NetworkError, httpx2.RemoteProtocolError, HfHubHTTPError) as error:
                if mended or not _passes(error):
                    raise
                mended = True
                time.sleep(self._random.uniform(PAUSE_SECONDS / 3, PAUSE_SECONDS))
        return attempt()


def _passes(error: httpx2.HTTPError) -> bool:
    return not isinstance(error, HfHubHTTPError) or error.response.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR


def _information(document: Any) -> ModelInfo:
    return ModelInfo(**{"siblings": None, **document})  # type: ignore[no-untyped-call]


def _information_or_none(document: Any) -> ModelInfo | None:
    """One stranger's odd card must not hide all others."""
    try:
        return _information(document)
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def _etag(response: httpx2.Response) -> str:
    """Of the content: as the hub says where it leads elsewhere, else as who serves it says."""
    linked = (one.headers.get("x-linked-etag", "") for one in response.history)
    return next(filter(None, linked), response.headers.get("etag", ""))


def _raise_for_status(response: httpx2.Response) -> None:
    """huggingface_hub tells errors apart, and reads a streamed body without a bound to do so."""
    if response.is_success:
        return
    headers = {name: value for name, value in response.headers.items() if name != "content-encoding"}
    body = read_at_most(response, _ERROR_BYTES)[:_ERROR_BYTES]
    bounded = httpx2.Response(response.status_code, headers=headers, content=body, request=response.request)
    hf_raise_for_status(bounded)
    raise NotAHubError(f"it answers HTTP {response.status_code}, which no hub does here")


def _size_of_ranged(response: httpx2.Response, start: int, end: int) -> int:
    """The file's size in bytes, when the answer is the range asked for, or a whole file no longer than it."""
    encoding = response.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise RangeIgnoredError(f"Content-Encoding {encoding!r:.40}, though identity was asked for")
    if response.status_code == HTTPStatus.PARTIAL_CONTENT:
        match = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
        if match is None or int(match[1]) != start or int(match[2]) != min(end, int(match[3])) - 1:
            said = response.headers.get("content-range", "none")
            raise RangeIgnoredError(f"Content-Range {said!r:.80}, bytes {start}-{end - 1} were asked for")
        return int(match[3])
    length = response.headers.get("content-length", "")
    if start == 0 and length.isdecimal() and int(length[:18]) <= end:
        return int(length[:18])
    raise RangeIgnoredError(f"HTTP {response.status_code} with {length[:20] or 'an unknown number of'} bytes")


def _whole_size(response: httpx2.Response) -> int:
    """416 names the size as `bytes */N`; an empty file is the usual cause."""
    total = response.headers.get("content-range", "").rpartition("/")[2]
    return int(total[:18]) if total.isdecimal() else 0

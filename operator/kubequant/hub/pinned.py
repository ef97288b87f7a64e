"""The files of one listing, all at its commit: each answer must fit the listing and those before it.

What was read is kept until the description is done: one that was cut short by a rate limit goes on where it stopped.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from importlib.metadata import version

from huggingface_hub.errors import RevisionNotFoundError

from kubequant.hub.answers import Answers
from kubequant.hub.repository import Listing
from kubequant.hub.transport import ChangedError, Piece, Transport
from kubequant.planning.facts_json import VERSION, facts_from_json, facts_to_json
from kubequant.planning.values import ModelFacts

MAX_KEPT_BYTES = 8_000_000  # of one description
MAX_UNFINISHED = 256  # repositories at a commit
MAX_UNFINISHED_BYTES = 32_000_000  # of all
_PREFIX_BYTES = 8


def known_facts(answers: Answers, transport: Transport, repository: str, commit: str) -> ModelFacts | None:
    """What was described at that commit before, by this release and for this identity."""
    text = answers.get(_facts_name(transport, repository, commit))
    try:
        facts = facts_from_json(text.decode()) if text else None
    except ValueError:
        return None
    return facts if facts and (facts.repository, facts.commit) == (repository, commit) else None


def remember_facts(answers: Answers, transport: Transport, facts: ModelFacts) -> None:
    answers.put(_facts_name(transport, facts.repository, facts.commit), facts_to_json(facts).encode())


def _facts_name(transport: Transport, repository: str, commit: str) -> str:
    # The next release may read more in the same files.
    release = f"{version('kubequant')}/{VERSION}"
    return f"facts {release} {transport.identity} {transport.endpoint} {repository} {commit}"


class Kept:
    """What one description has read so far. For all its threads."""

    def __init__(self) -> None:
        self.bytes = 0
        self.seen: dict[str, Piece] = {}  # by file: the first that was read of it, without its data
        self._pieces: dict[tuple[str, int, int], Piece] = {}
        self._turns: dict[tuple[str, int, int], threading.Lock] = {}
        self._lock = threading.Lock()

    def turn(self, name: str, start: int, end: int) -> threading.Lock:
        """Entered to read: a thread of an attempt that was given up may still be reading the same."""
        with self._lock:
            return self._turns.setdefault((name, start, end), threading.Lock())

    def get(self, name: str, start: int, end: int) -> Piece | None:
        return self._pieces.get((name, start, end))

    def put(self, name: str, start: int, end: int, piece: Piece) -> None:
        with self._lock:
            if (name, start, end) not in self._pieces and self.bytes + len(piece.data) <= MAX_KEPT_BYTES:
                self.bytes += len(piece.data)
                self._pieces[name, start, end] = piece


class Unfinished:
    """What descriptions have read that are not done, by repository and commit; the least recently used goes first. For all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, str], Kept] = OrderedDict()

    def of(self, key: tuple[str, str]) -> Kept:
        with self._lock:
            kept = self._kept.setdefault(key, Kept())
            self._kept.move_to_end(key)
            while len(self._kept) > MAX_UNFINISHED or (
                len(self._kept) > 1 and sum(one.bytes for one in self._kept.values()) > MAX_UNFINISHED_BYTES
            ):
                self._kept.popitem(last=False)
            return kept

    def discard(self, key: tuple[str, str]) -> None:
        with self._lock:
            self._kept.pop(key, None)


class PinnedFiles:
    """A `description.Source` of one listing."""

    def __init__(self, transport: Transport, listing: Listing, kept: Kept) -> None:
        self._transport = transport
        self._listing = listing
        self._kept = kept

    def read_file(self, repository: str, commit: str, name: str, limit: int) -> bytes:
        """A whole small file. Raises ChangedError, and what the transport raises."""

        def read() -> Piece:
            data = self._transport.read_file(repository, commit, name, limit)
            return Piece(data, len(data))

        return self._once(name, 0, limit, read).data

    def read_range(self, repository: str, commit: str, name: str, start: int, end: int) -> Piece:
        """Bytes `start` up to, not including, `end`. Raises ChangedError, and what the transport raises."""
        return self._once(name, start, end, lambda: self._transport.read_range(repository, commit, name, start, end))

    def _once(self, name: str, start: int, end: int, read: Callable[[], Piece]) -> Piece:
        with self._kept.turn(name, start, end):
            kept = self._kept.get(name, start, end)
            if kept:
                return kept
            try:
                piece = read()
            except RevisionNotFoundError as error:
                raise _gone(self._listing.commit) from error
            self._check(name, piece)
            self._kept.put(name, start, end, _worth_keeping(name, start, piece))
            return piece

    def _check(self, name: str, piece: Piece) -> None:
        listed = self._listing.files.get(name)
        if listed is not None and piece.file_bytes != listed:
            raise ChangedError(f"{name!r:.80} has {piece.file_bytes:,} bytes now, the list of files says {listed:,}")
        first = self._kept.seen.setdefault(name, Piece(b"", piece.file_bytes, piece.etag))
        if first.file_bytes != piece.file_bytes:
            raise ChangedError(f"{name!r:.80} had {first.file_bytes:,} bytes, and now {piece.file_bytes:,}")
        if first.etag and piece.etag and first.etag != piece.etag:
            raise ChangedError(f"{name!r:.80} had the ETag {first.etag!r:.80}, and now {piece.etag!r:.80}")


def _gone(commit: str) -> ChangedError:
    return ChangedError(f"commit {commit[:12]}, which the hub named just now, is gone")


def _worth_keeping(name: str, start: int, piece: Piece) -> Piece:
    """Of a safetensors file its header: the weights behind it would be most of what is kept."""
    if start or not name.endswith(".safetensors") or len(piece.data) < _PREFIX_BYTES:
        return piece
    claimed = int.from_bytes(piece.data[:_PREFIX_BYTES], "little")
    return Piece(piece.data[: _PREFIX_BYTES + claimed], piece.file_bytes, piece.etag)

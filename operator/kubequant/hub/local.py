"""`describe_folder`: a model's folder on this machine becomes ModelFacts, on the Hub's own path; only the reading differs.

A folder is what a download leaves: config.json beside safetensors files, or a snapshot of the Hugging Face cache, whose
files are symbolic links. Files may end after their headers: planning reads nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from kubequant.api.conditions import Reason
from kubequant.hub.description import describe_at
from kubequant.hub.failures import Question
from kubequant.hub.repository import INDEX, Listing
from kubequant.hub.transport import FileTooLargeError, Piece
from kubequant.planning.values import ModelFacts

log = logging.getLogger(__name__)

LOCAL_COMMIT = "local"
MAX_FILES = 10_000

_CACHED = re.compile(r"models--(?P<owner>.+)--(?P<name>.+)")
_COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
Answer = TypeVar("Answer")


def describe_folder(path: Path) -> ModelFacts:
    """The facts of the model in a folder. Call it outside of an event loop.

    A snapshot of the Hugging Face cache keeps its repository and commit; any other folder is called by its own name, at
    the commit "local". Raises Refused as for a repository of the Hub, and OSError where files cannot be read.
    """
    listing = _listing(path)
    _refuse_index_alone(listing)
    question = Question(endpoint="", repository=listing.repository, revision=listing.commit, authenticated=False)
    described = describe_at(_here, _Folder(path), question, listing, nullcontext(), data_required=False)
    facts = asyncio.run(described)
    missing = facts.weight_bytes - sum(size or 0 for name, size in listing.files.items() if _is_weights(name))
    if missing > 0:
        log.warning("%s: %s bytes of weights are not there; planned from the headers alone", path, f"{missing:,}")
        facts = replace(facts, download_bytes=facts.download_bytes + missing)
    return facts


def _listing(path: Path) -> Listing:
    repository, commit = identity_of(path)
    return Listing(repository=repository, commit=commit, page=str(path), files=dict(_sizes(path)))


def _refuse_index_alone(listing: Listing) -> None:
    """An index names tensors and files; dtypes and shapes stand in the headers alone."""
    if INDEX in listing.files and not any(map(_is_weights, listing.files)):
        raise listing.refused(
            Reason.CORRUPT_CHECKPOINT,
            f"{INDEX} is there and not one of the files that it names: what weights take stands in their headers. Put "
            f"the files beside it, or of each as many bytes as its header has ({listing.page}).",
        )


def identity_of(path: Path) -> tuple[str, str]:
    folder = path.resolve()
    cached = _CACHED.fullmatch(folder.parent.parent.name)
    if cached and folder.parent.name == "snapshots" and _COMMIT.fullmatch(folder.name):
        return f"{cached['owner']}/{cached['name']}", folder.name
    return re.sub(r"[^A-Za-z0-9._-]+", "-", folder.name).strip("-._") or "model", LOCAL_COMMIT


def _sizes(path: Path) -> Iterable[tuple[str, int]]:
    """Files at the top, with their sizes; links count as what they lead to, and not where that is missing."""
    with os.scandir(path) as entries:
        for number, entry in enumerate(entries):
            if number >= MAX_FILES:
                raise OSError(f"{path} holds more than {MAX_FILES:,} files: it is no model's folder")
            if entry.is_file():
                yield entry.name, entry.stat().st_size


def _is_weights(name: str) -> bool:
    return name.endswith(".safetensors")


async def _here(work: Callable[[], Answer]) -> Answer:
    """A disk answers at once: no threads."""
    return work()


class _Folder:
    """`description.Source` over a folder. File names come from `_sizes` or are checked to stand beside it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read_file(self, repository: str, commit: str, name: str, limit: int) -> bytes:
        with (self._path / name).open("rb") as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise FileTooLargeError(name, limit)
        return data

    def read_range(self, repository: str, commit: str, name: str, start: int, end: int) -> Piece:
        with (self._path / name).open("rb") as file:
            file.seek(start)
            return Piece(file.read(end - start), os.fstat(file.fileno()).st_size)

"""A model's folder on this machine becomes ModelFacts, on the Hub's own path; only the reading differs.

A folder is what a download leaves: config.json beside safetensors files, or a snapshot of the Hugging Face cache, whose
files are symbolic links. `describe_folder` is for planning, and takes files that end after their headers;
`describe_volume` for a mounted volume that pods will serve from: whole files, none of them outside of the volume.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TypeVar

from kubequant.api.conditions import Reason
from kubequant.errors import Refused
from kubequant.hub.description import describe_at
from kubequant.hub.documents import quoted
from kubequant.hub.failures import Question
from kubequant.hub.patterns import downloaded
from kubequant.hub.repository import INDEX, Listing
from kubequant.hub.transport import FileTooLargeError, Piece
from kubequant.planning.values import ModelFacts

log = logging.getLogger(__name__)

LOCAL_COMMIT = "local"
MAX_FILES = 10_000
SHOWN_ENTRIES = 8
IDENTITY_FILE_BYTES = 64 * 2**20  # of a file that is no weights; beyond them its size must do
IDENTITY_HEADER_BYTES = 2**25
_CHUNK_BYTES = 2**20

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
    facts = _described(path, listing, data_required=False)
    missing = facts.weight_bytes - sum(size or 0 for name, size in listing.files.items() if _is_weights(name))
    if missing > 0:
        log.warning("%s: %s bytes of weights are not there; planned from the headers alone", path, f"{missing:,}")
        facts = replace(facts, download_bytes=facts.download_bytes + missing)
    return facts


def describe_volume(folder: Path, volume: Path) -> ModelFacts:
    """The facts of the model in a folder of a mounted volume, pinned by its content.

    The commit is 40 hex digits over the names and sizes of its files, the bytes of all but the weights, and the weights'
    headers; not over the weights' numbers, which would take as long to read as to serve. Raises Refused, and OSError
    where files cannot be read.
    """
    _refuse_outside(folder, folder, volume)
    if not folder.is_dir():
        raise _no_folder(folder, volume)
    for name in downloaded(path.name for path in islice(folder.iterdir(), MAX_FILES)):
        _refuse_outside(folder / name, folder, volume)
    files = dict(_sizes(folder))
    if not files:
        raise _no_files(folder)
    name, _ = identity_of(folder)
    listing = Listing(repository=name, commit=content_identity(folder, files), page=str(folder), files=files)
    _refuse_index_alone(listing)
    return _described(folder, listing, data_required=True)


def content_identity(folder: Path, files: Mapping[str, int]) -> str:
    """40 hex digits that tell one content of a folder from another, the weights' numbers aside. Raises OSError."""
    total = hashlib.sha256()
    for name in sorted(downloaded(files)):
        digest = _digest_of(folder / name, _bytes_that_count(folder / name))
        total.update(f"{name}\0{files[name]}\0{digest}\n".encode())
    return total.hexdigest()[:40]


def _bytes_that_count(file: Path) -> int:
    """Of weights the header; a header that lies counts with the length that it states."""
    if not _is_weights(file.name):
        return IDENTITY_FILE_BYTES
    with file.open("rb") as opened:
        stated = int.from_bytes(opened.read(8), "little")
    return 8 + stated if stated <= IDENTITY_HEADER_BYTES else 8


def _digest_of(file: Path, limit: int) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while limit > 0 and (chunk := opened.read(min(limit, _CHUNK_BYTES))):
            digest.update(chunk)
            limit -= len(chunk)
    return digest.hexdigest()


def _refuse_outside(path: Path, folder: Path, volume: Path) -> None:
    """Links may lead anywhere within the volume, which is mounted as a whole; elsewhere they lead to other files in a pod."""
    target = Path(os.path.realpath(path))
    if not target.is_relative_to(os.path.realpath(volume)):
        raise Refused(
            Reason.INSPECTION_FAILED,
            f"{path} is a link that leads out of the volume, to {quoted(target)}. Copy what it leads to into the volume.",
        )
    if path.is_symlink() and not target.exists():
        raise Refused(
            Reason.INSPECTION_FAILED,
            f"{path} is a link that leads nowhere, to {quoted(path.readlink())}. Copy the file itself into {folder}.",
        )


def _no_folder(folder: Path, volume: Path) -> Refused:
    if folder.exists():
        return Refused(Reason.INSPECTION_FAILED, f"{folder} is a file. Name the folder that holds config.json.")
    return Refused(
        Reason.INSPECTION_FAILED,
        f"the volume has no folder {folder.relative_to(volume)}; at its top there is {_entries(volume) or 'nothing'}. "
        "Correct persistentVolumeClaim.path, or copy the model there.",
    )


def _no_files(folder: Path) -> Refused:
    entries = _entries(folder)
    if not entries:
        return Refused(Reason.NO_SAFETENSORS, f"the folder {folder} is empty. Copy the model's files into it.")
    return Refused(
        Reason.NO_SAFETENSORS,
        f"the folder {folder} has no files; it holds {entries}. Name the one with the model in persistentVolumeClaim.path.",
    )


def _entries(folder: Path) -> str:
    names = sorted(entry.name for entry in islice(folder.iterdir(), MAX_FILES))
    more = f" and {len(names) - SHOWN_ENTRIES:,} more" if len(names) > SHOWN_ENTRIES else ""
    return ", ".join(map(quoted, names[:SHOWN_ENTRIES])) + more


def _described(path: Path, listing: Listing, *, data_required: bool) -> ModelFacts:
    question = Question(endpoint="", repository=listing.repository, revision=listing.commit, authenticated=False)
    described = describe_at(_here, _Folder(path), question, listing, nullcontext(), data_required=data_required)
    return asyncio.run(described)


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

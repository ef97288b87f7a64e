"""The bytes of a file in a repository, wherever they come from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol


class Content(Protocol):
    """Bytes that are read by range."""

    @property
    def size(self) -> int:
        """Bytes in all."""

    @property
    def git_oid(self) -> str:
        """Git's name for it as a blob, 40 hex digits: the ETag of a small file."""

    @property
    def sha256(self) -> str:
        """64 hex digits: the ETag of a file in LFS."""

    def read(self, start: int, length: int) -> bytes:
        """At most `length` bytes from `start`; fewer only at the end."""


@dataclass(frozen=True)
class BytesContent:
    """A small file, held in memory."""

    data: bytes

    @property
    def size(self) -> int:
        return len(self.data)

    @cached_property
    def git_oid(self) -> str:
        return hashlib.sha1(f"blob {len(self.data)}\0".encode() + self.data).hexdigest()

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    def read(self, start: int, length: int) -> bytes:
        return self.data[start : start + length]


@dataclass(frozen=True)
class FileContent:
    """A file on the disk, which must not change while the hub serves it."""

    path: Path

    @cached_property
    def size(self) -> int:
        return self.path.stat().st_size

    @cached_property
    def git_oid(self) -> str:
        return BytesContent(self.path.read_bytes()).git_oid

    @cached_property
    def sha256(self) -> str:
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def read(self, start: int, length: int) -> bytes:
        with self.path.open("rb") as file:
            file.seek(start)
            return file.read(length)


@dataclass(frozen=True)
class SparseContent:
    """A few true bytes and then zeros up to `size`: takes neither memory nor disk.

    Its digests are of head and size and not of the data: hashing 16 GB of zeros would take half a minute a file.
    """

    head: bytes
    size: int

    @cached_property
    def git_oid(self) -> str:
        return hashlib.sha1(self._identity).hexdigest()

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self._identity).hexdigest()

    @property
    def _identity(self) -> bytes:
        return f"sparse {self.size}\0".encode() + self.head

    def read(self, start: int, length: int) -> bytes:
        wanted = max(0, min(length, self.size - start))
        true_bytes = self.head[start : start + wanted]
        return true_bytes + bytes(wanted - len(true_bytes))

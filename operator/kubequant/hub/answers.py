"""What a hub has said, kept by name in memory or in a folder, bounded in bytes.

Files of our own rather than a library: `diskcache` and `hishel` keep a SQLite database, which one broken page makes
unreadable as a whole and which network file systems lock badly, and `diskcache` may unpickle what it finds. A file here
carries its digest: one that is broken, cut or not ours is as good as none.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Protocol

log = logging.getLogger(__name__)

_DIGEST_BYTES = hashlib.sha256().digest_size
_LARGEST_SHARE = 0.25  # of the bound: one value does not drive out all others
_KEPT_SHARE = 0.8  # what is left when the bound was passed
_SWEEP_SHARE = 0.02  # so much is written between two looks at the whole folder
_STALE_SECONDS = 3600.0  # of a file that its writer never finished
_SUFFIX, _UNFINISHED = ".kept", ".part"


class Answers(Protocol):
    """Values by name, each as it was put or gone. For all threads; nothing here raises."""

    def get(self, name: str) -> bytes | None: ...

    def put(self, name: str, value: bytes) -> None: ...


class InMemory:
    """At most `max_bytes` of values, the least recently used goes first."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._values: OrderedDict[str, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, name: str) -> bytes | None:
        with self._lock:
            if name in self._values:
                self._values.move_to_end(name)
            return self._values.get(name)

    def put(self, name: str, value: bytes) -> None:
        if len(value) > self._max_bytes * _LARGEST_SHARE:
            return
        with self._lock:
            self._bytes += len(value) - len(self._values.pop(name, b""))
            self._values[name] = value
            while self._bytes > self._max_bytes:
                self._bytes -= len(self._values.popitem(last=False)[1])


class OnDisk:
    """Files of a folder, which several processes may share. `max_bytes` may be passed by a few hundredths.

    Nothing in a file's name or content tells for which identity it was kept: that is part of the name's digest.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        """Raises OSError where the folder cannot be made or written to, with the setting's name."""
        self._folder = folder
        self._max_bytes = max_bytes
        self._written = 0
        self._lock = threading.Lock()
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise OSError(f"hub.cacheFolder {folder} cannot be written to: {error.strerror}") from error
        self._sweep()

    def get(self, name: str) -> bytes | None:
        file = self._file(name)
        try:
            content = file.read_bytes()
            if content[:_DIGEST_BYTES] == _digest(name, content[_DIGEST_BYTES:]):
                os.utime(file)  # the least recently used goes first
                return content[_DIGEST_BYTES:]
            log.warning("%s is broken and is left out of account", file)
            file.unlink()
        except FileNotFoundError:
            pass
        except OSError as error:
            log.warning("%s cannot be read: %s", file, error)
        return None

    def put(self, name: str, value: bytes) -> None:
        if len(value) > self._max_bytes * _LARGEST_SHARE:
            return
        try:
            self._write(self._file(name), _digest(name, value) + value)
        except OSError as error:
            log.warning("nothing can be kept in %s: %s", self._folder, error)
            return
        with self._lock:
            self._written += len(value)
            if self._written > self._max_bytes * _SWEEP_SHARE:
                self._sweep()

    def _file(self, name: str) -> Path:
        return self._folder / (hashlib.sha256(name.encode()).hexdigest() + _SUFFIX)

    def _write(self, file: Path, content: bytes) -> None:
        """Whole or not at all: another process may be reading it."""
        with tempfile.NamedTemporaryFile(dir=self._folder, suffix=_UNFINISHED, delete=False) as unfinished:
            try:
                unfinished.write(content)
                unfinished.flush()
                Path(unfinished.name).replace(file)
            except BaseException:
                Path(unfinished.name).unlink(missing_ok=True)
                raise

    def _sweep(self) -> None:
        """Looks at the whole folder, whoever wrote there, and removes the oldest where they are too many."""
        self._written = 0
        kept = sorted(self._entries())
        total = sum(size for _, size, _ in kept)
        if total <= self._max_bytes:
            return
        for _, size, path in kept:
            if total <= self._max_bytes * _KEPT_SHARE:
                break
            with suppress(OSError):
                path.unlink(missing_ok=True)
            total -= size

    def _entries(self) -> Iterator[tuple[float, int, Path]]:
        """When used, bytes and path of each file; what nobody finished is removed."""
        with suppress(OSError), os.scandir(self._folder) as found:
            for entry in found:
                with suppress(OSError):
                    stat = entry.stat(follow_symlinks=False)
                    if entry.name.endswith(_SUFFIX):
                        yield stat.st_mtime, stat.st_size, Path(entry.path)
                    elif entry.name.endswith(_UNFINISHED) and stat.st_mtime < time.time() - _STALE_SECONDS:
                        Path(entry.path).unlink(missing_ok=True)


def _digest(name: str, value: bytes) -> bytes:
    """Of both: a file under another's name is broken, too."""
    return hashlib.sha256(hashlib.sha256(name.encode()).digest() + value).digest()

"""The cache folder: slow things made once, named by what they are made from, safe between processes."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

_KEY_LENGTH = 16
_UNFINISHED = ".unfinished"
_HELD: dict[Path, TextIO] = {}


def cache_folder() -> Path:
    """`$KUBEQUANT_CACHE`, else `kubequant` in the user's cache folder. Not created here."""
    if named := os.environ.get("KUBEQUANT_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kubequant"


def content_key(paths: Iterable[Path], *extra: str) -> str:
    """A short digest of the files' names and bytes (folders are walked), and of any further strings."""
    digest = hashlib.sha256()
    for root in paths:
        files = sorted(path for path in root.rglob("*") if path.is_file()) if root.is_dir() else [root]
        for path in files:
            name = path.relative_to(root.parent).as_posix()
            digest.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\0".encode())
    for text in extra:
        digest.update(f"{text}\0".encode())
    return digest.hexdigest()[:_KEY_LENGTH]


def made_once(name: str, make: Callable[[Path], None]) -> Path:
    """The folder `name` in the cache; if it is not there yet, `make(folder)` fills it.

    `make` works in a folder beside the final one, which is renamed at the end: a folder under its final name is
    always whole. Other processes that want the same folder wait meanwhile.
    """
    final = cache_folder() / name
    if final.is_dir():
        return final
    final.parent.mkdir(parents=True, exist_ok=True)
    with _locked(final.parent / f".{final.name}.lock"):
        if not final.is_dir():
            report(f"making {final} (once)")
            _make_and_rename(final, make)
    return final


def held(name: str) -> None:
    """Until this process ends, `remove_older` leaves the folder `name` of the cache alone, be it there already or not."""
    path = cache_folder() / name
    lock = _user_lock(path)
    if lock not in _HELD:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = lock.open("w")
        fcntl.flock(handle, fcntl.LOCK_SH)
        _HELD[lock] = handle


def remove_older(pattern: str, keep: int) -> None:
    """Of the cache's folders that match, all go but the `keep` that were touched last and those that a process holds."""
    with _locked(cache_folder() / ".removing.lock"):
        found = [path for path in cache_folder().glob(pattern) if path.is_dir() and not path.name.startswith(".")]
        for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)[keep:]:
            with _user_lock(path).open("w") as handle:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                report(f"removing {path}, which is out of date")
                # Under its final name a folder is always whole.
                shutil.rmtree(path.rename(path.with_name(f".{path.name}.{os.getpid()}{_UNFINISHED}")))


def report(message: str) -> None:
    """Progress goes to stderr: stdout belongs to the caller."""
    print(f"kubequant tests: {message}", file=sys.stderr, flush=True)


def _make_and_rename(final: Path, make: Callable[[Path], None]) -> None:
    """To be called under the lock: whatever lies there unfinished belongs to a process that was killed."""
    for left_over in final.parent.glob(f".{final.name}.*{_UNFINISHED}"):
        shutil.rmtree(left_over)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{final.name}.", suffix=_UNFINISHED, dir=final.parent))
    try:
        make(unfinished)
        unfinished.chmod(0o755)
        unfinished.rename(final)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def _user_lock(path: Path) -> Path:
    return path.with_name(f".{path.name}.used")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield

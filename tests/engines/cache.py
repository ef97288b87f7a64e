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

_KEY_LENGTH = 16
_UNFINISHED = ".unfinished"


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


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield

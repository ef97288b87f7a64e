"""Where everything slow or living lies, outside the checkout, and the locks that guard it."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from .errors import WaitTimeoutError

PACKAGE = Path(__file__).resolve().parent


def cache_root() -> Path:
    """`$KUBEQUANT_CACHE`, or `kubequant` in the user's cache folder; made when absent."""
    configured = os.environ.get("KUBEQUANT_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    root = Path(configured) if configured else Path(base) / "kubequant"
    root.mkdir(parents=True, exist_ok=True)
    return root.resolve()


def clusters_root() -> Path:
    """Folder with one sub-folder per local cluster."""
    return cache_root() / "clusters"


@contextlib.contextmanager
def file_lock(path: Path, purpose: str, timeout: float) -> Iterator[None]:
    """Hold an exclusive lock on `path`, waiting at most `timeout` seconds for another holder.

    The kernel drops the lock when its holder dies, however it dies, so a stale lock cannot exist.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as handle:
        _acquire(handle.fileno(), path, purpose, timeout)
        yield


def _acquire(descriptor: int, path: Path, purpose: str, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise WaitTimeoutError(f"gave up after {timeout:.0f} s waiting for {purpose}: {path} is held") from None
            time.sleep(0.2)

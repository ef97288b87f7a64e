"""A helper process that takes a cluster down when the process that answers for it dies without doing so.

The owner holds the write end of a pipe. When the owner ends, in whatever way, the kernel closes it and the guardian,
which reads from the other end, wakes; a word written before tells it that all is well.
"""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

_ALL_IS_WELL = b"well"
_REPOSITORY = Path(__file__).resolve().parents[2]


class Guardian:
    """Context manager: while it is open, the cluster in `directory` does not outlive this process."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-P", __file__, self._directory.name], cwd=_REPOSITORY,
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is meant for the owner alone
        )  # fmt: skip
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(_ALL_IS_WELL)
            self._process.stdin.close()
        self._process.wait(timeout=30)


def main(name: str) -> None:
    """Wait for the owner's end or word; in the first case take the cluster down.

    Runs as a script, without the package: every start of a cluster waits for it.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # nothing but the owner's end may end the guardian
    if not os.read(sys.stdin.fileno(), len(_ALL_IS_WELL)):
        os.execv(sys.executable, [sys.executable, "-m", "tests.localcluster", "down", "--name", name])


if __name__ == "__main__":
    main(sys.argv[1])

"""Where answers are written: the standard output, which may be closed, full, or read by nobody any more."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click


@contextmanager
def answering() -> Iterator[None]:
    """Around the writing of an answer. Raises click.ClickException where it cannot be written.

    A reader that has gone away (`| head -1`) has what it wanted, and who closed the standard output (`>&-`) wants
    nothing: for both the answer was made.
    """
    if sys.stdout is None:
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - it lives as long as the process
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        _discard()
    except OSError as error:
        _discard()
        raise click.ClickException(f"cannot write the answer: {error.strerror or error}") from error


def _discard() -> None:
    """What is still buffered must not fail once more at the end of the process."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

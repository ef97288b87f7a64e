"""Runs one target for a time; ends with 0 where nothing was found, and otherwise leaves the input in the working folder."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

NAMES = ("header", "documents", "facts")


def main(arguments: Sequence[str]) -> None:
    """atheris takes the process over, and ends it."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", choices=NAMES)
    parser.add_argument("--seconds", type=int, default=60, metavar="N", help="how long (60)")
    parser.add_argument("--found", type=Path, metavar="FOLDER", help="keeps new inputs that reach new code")
    options = parser.parse_args(arguments)
    atheris = import_module("atheris")  # has no types, and is no part of what the unit tests need
    with atheris.instrument_imports(include=["kubequant"]):
        targets = import_module("tests.fuzz.targets")
    found = options.found or Path(tempfile.mkdtemp(prefix="kubequant-fuzz-"))
    found.mkdir(parents=True, exist_ok=True)
    limits = [f"-max_total_time={options.seconds}", "-timeout=10", "-rss_limit_mb=1500", "-max_len=32768"]
    folders = [str(found), str(targets.CORPUS / options.target)]
    atheris.Setup([sys.argv[0], *limits, f"-artifact_prefix={found}/", *folders], targets.TARGETS[options.target])
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])

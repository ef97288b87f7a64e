"""Runs the two programs of the engine's container as the kubelet would: as processes, with a termination log that exists."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILES = Path(__file__).parents[3] / "operator" / "kubequant" / "manifests" / "files"
LOGS = Path(__file__).parent / "logs"
DEADLINE_SECONDS = 20.0


@dataclass
class Ended:
    """What a finished launcher left behind."""

    code: int
    stdout: bytes
    stderr: bytes
    log: Path

    @property
    def text(self) -> str:
        return self.log.read_text()

    @property
    def message(self) -> dict[str, Any]:
        document = json.loads(self.text)
        assert isinstance(document, dict)
        return document


def start(log: Path, *command: str, options: tuple[str, ...] = (), **variables: str) -> subprocess.Popen[bytes]:
    """Starts the launcher round a command."""
    log.touch()
    arguments = [sys.executable, str(FILES / "launcher.py"), "--termination-log", str(log)]
    arguments += ["--cgroup", str(log.parent / "no-cgroup"), *options, "--", *command]
    environment = {**os.environ, **variables}
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)


def finish(process: subprocess.Popen[bytes], log: Path) -> Ended:
    try:
        stdout, stderr = process.communicate(timeout=DEADLINE_SECONDS)
    finally:
        process.kill()
    return Ended(process.returncode, stdout, stderr, log)


def launch(log: Path, *command: str, options: tuple[str, ...] = (), **variables: str) -> Ended:
    return finish(start(log, *command, options=options, **variables), log)


def python(source: str) -> tuple[str, ...]:
    """A child that is a few lines of Python."""
    return (sys.executable, "-c", source)


def replay(name: str, code: int) -> tuple[str, ...]:
    """A child that prints a log and ends. Half goes to stderr, as with a real engine."""
    source = f"""
import sys
for number, line in enumerate(open({str(LOGS / (name + ".log"))!r})):
    if number:  # the first says where the extract is from
        stream = sys.stdout if " INFO " in line else sys.stderr
        stream.write(line)
        stream.flush()
sys.exit({code})
"""
    return python(source)


def wait_until(holds: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + DEADLINE_SECONDS
    while not holds():
        assert time.monotonic() < end, f"waited {DEADLINE_SECONDS} s for {what}"
        time.sleep(0.02)

"""The standard output of a real process: closed, full, or read by nobody any more."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.cli.making import llama_70b_awq

COMMANDS = {
    "text": (("plan", "--gpu", "RTX-4090:4"), 0),
    "json": (("plan", "--gpu", "RTX-4090:4", "-o", "json"), 0),
    "refused": (("plan", "--gpu", "RTX-4090"), 3),
    "gpus": (("gpus", "--known"), 0),
    "crds": (("crds",), 0),
}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llama_70b_awq(tmp_path_factory.mktemp("models") / "llama-70b-awq")


def started(name: str, model: Path, redirection: str, stdout: int | None = None) -> tuple[int, str]:
    """Exit code and standard error of the command, behind a shell's redirection."""
    arguments, _ = COMMANDS[name]
    model_path = ("--model-path", str(model)) if arguments[0] == "plan" else ()
    command = (sys.executable, "-c", "from kubequant.cli.main import main; main()", *arguments, *model_path)
    shell = ("/bin/sh", "-c", f'exec "$@" {redirection}', "sh", *command)
    done = subprocess.run(shell, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=120, check=False)
    return done.returncode, "".join(line for line in done.stderr.splitlines() if "headers alone" not in line)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_closed_output_changes_nothing(llama: Path, name: str) -> None:
    assert started(name, llama, ">&-") == (COMMANDS[name][1], "")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_reader_that_has_gone_changes_nothing(llama: Path, name: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        assert started(name, llama, "", writing) == (COMMANDS[name][1], "")
    finally:
        os.close(writing)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is of Linux")
@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk_is_said(llama: Path, name: str) -> None:
    code, said = started(name, llama, ">/dev/full")
    assert code == 1 and said == "Error: cannot write the answer: No space left on device"

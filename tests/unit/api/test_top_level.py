"""The folder operator/ must never become a module: it would hide the standard library's `operator` from everybody."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_operator_is_a_folder_and_no_module() -> None:
    assert [path.name for path in (ROOT / "operator").iterdir() if path.suffix == ".py"] == []


def test_the_standard_library_is_found_with_operator_on_the_path() -> None:
    code = "import collections, operator; print(operator.__file__); import kubequant"
    for place in (ROOT, ROOT / "operator"):
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=place, capture_output=True, text=True, timeout=30, check=False
        )
        assert done.returncode == 0, done.stderr
        assert not done.stdout.startswith(str(ROOT / "operator"))

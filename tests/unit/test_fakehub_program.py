"""The fake Hub as a program, as the demo and people start it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.fakehub.family import BASE

ROOT = Path(__file__).parents[2]


@contextmanager
def program(folder: Path, *arguments: str) -> Iterator[str]:
    """The URL that it wrote; ends it with SIGTERM, and it must end well."""
    url_file = folder / "url"
    command = [sys.executable, "-m", "tests.fakehub", "--port", "0", "--url-file", str(url_file), *arguments]
    with subprocess.Popen(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}) as process:
        try:
            deadline = time.monotonic() + 30
            while not url_file.exists() and time.monotonic() < deadline:
                time.sleep(0.05)
            yield url_file.read_text()
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_it_writes_its_url_serves_the_standard_set_and_ends_on_sigterm(tmp_path: Path) -> None:
    with program(tmp_path) as url:
        for repo_id in ("Qwen/Qwen2.5-7B-Instruct-AWQ", BASE):
            assert httpx.get(f"{url}/api/models/{repo_id}").json()["id"] == repo_id


def test_folders_are_served_and_found_by_their_base(tmp_path: Path) -> None:
    for name in ("base", "awq"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    folders = [f"--folder=us/tiny={tmp_path / 'base'}", f"--folder=us/tiny-AWQ={tmp_path / 'awq'}"]
    with program(tmp_path, *folders, "--quantized-of", "us/tiny-AWQ=us/tiny") as url:
        found = httpx.get(f"{url}/api/models", params={"filter": "base_model:quantized:us/tiny"}).json()
        assert [info["id"] for info in found] == ["us/tiny-AWQ"]
        assert httpx.get(f"{url}/us/tiny/resolve/main/config.json").text == "{}"


def test_what_is_no_pair_is_refused() -> None:
    command = [sys.executable, "-m", "tests.fakehub", "--folder", "us/tiny"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2 and "'us/tiny' is no ID=VALUE" in done.stderr

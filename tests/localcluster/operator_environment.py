"""The operator as users install it: a wheel of this checkout and what uv.lock pins for it, without the tools of developers."""

import os
import subprocess
from pathlib import Path

from tests.engines.cache import cache_folder, content_key, held, made_once, remove_older, report

ROOT = Path(__file__).resolve().parents[2]
_PYTHON_VERSION = "3.11"  # of the image's Debian
_TIMEOUT_SECONDS = 600
_KEPT = 2  # each takes 134 MB, and every change of operator/ makes one


def operator_environment() -> Path:
    """The virtual environment with `bin/kubequant`, named by the content of what it is made from; seconds, once each.

    It stays while this process lives, and while it is one of the two that were asked for last.
    """
    sources = [path for path in sorted((ROOT / "operator").rglob("*")) if path.is_file() and path.suffix != ".pyc"]
    key = content_key([ROOT / "uv.lock", ROOT / "pyproject.toml", *sources], _PYTHON_VERSION)
    name = f"environments/operator-{key}"
    held(name)
    environment = made_once(name, _install)
    environment.touch()
    remove_older("environments/operator-*", _KEPT)
    return environment


def _install(folder: Path) -> None:
    report("installing the operator from its lock")
    # Relocatable, because the folder gets its final name, and its place in an image, only afterwards.
    _uv("venv", "--quiet", "--relocatable", "--allow-existing", "--python", _PYTHON_VERSION, str(folder))
    # Of this checkout as it is now: a wheel that uv has built of it before may be an older one.
    _uv(
        "sync", "--quiet", "--frozen", "--no-dev", "--no-editable", "--refresh-package", "kubequant", environment=folder
    )


def _uv(*arguments: str, environment: Path | None = None) -> None:
    variables = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    variables |= {"UV_CACHE_DIR": str(cache_folder() / "uv"), "UV_LINK_MODE": "hardlink"}
    if environment is not None:
        variables["UV_PROJECT_ENVIRONMENT"] = str(environment)
    subprocess.run(["uv", *arguments], cwd=ROOT, env=variables, check=True, timeout=_TIMEOUT_SECONDS)

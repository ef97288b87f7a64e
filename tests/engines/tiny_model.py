"""A tiny Llama and its quantised checkpoints, made by the real tools: a base for tests that load and serve."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.engines.cache import content_key, made_once, report
from tests.engines.environments import LLM_COMPRESSOR_REQUIREMENTS, llm_compressor_environment, run_in

_SCRIPTS = Path(__file__).parent / "scripts"
_TRAIN = _SCRIPTS / "train_tiny_llama.py"
_QUANTISE = _SCRIPTS / "quantise_tiny_llama.py"
_TIMEOUT_SECONDS = 600


@dataclass(frozen=True)
class TinyModels:
    """Folders as a checkpoint on the Hub would have them: config, safetensors, tokenizer, chat template."""

    base: Path
    """bfloat16, 2 layers, hidden size 256, vocabulary 1024, 32768 positions; and `held_out.json`, texts not seen."""
    awq: Path
    """AWQ W4A16, group size 128, symmetric, compressed-tensors."""
    awq_fp8_kv: Path
    """The same with calibrated FP8 KV cache scales."""


def tiny_models() -> TinyModels:
    """The three checkpoints; made in about 40 s the first time, and again whenever a script or a lock changes."""
    key = content_key([_TRAIN, _QUANTISE, LLM_COMPRESSOR_REQUIREMENTS / "requirements.lock"])
    return _models_in(made_once(f"tiny-llama/{key}", _make))


def _models_in(folder: Path) -> TinyModels:
    return TinyModels(base=folder / "base", awq=folder / "awq", awq_fp8_kv=folder / "awq-fp8-kv")


def _make(folder: Path) -> None:
    models = _models_in(folder)
    environment = llm_compressor_environment()
    report("training a tiny Llama")
    _run(environment, [_TRAIN, models.base])
    report("quantising it with llm-compressor: AWQ W4A16, then the same with FP8 KV scales")
    _run(environment, [_QUANTISE, models.base, models.awq, models.awq_fp8_kv])


def _run(environment: Path, arguments: list[Path]) -> None:
    with tempfile.TemporaryDirectory() as empty:
        # llm-compressor writes its logs into the folder that it is started in.
        variables = {"HF_HUB_OFFLINE": "1", "LLM_COMPRESSOR_LOG_DISABLED": "true", "HF_HOME": empty}
        run_in(environment, [str(path) for path in arguments], timeout_seconds=_TIMEOUT_SECONDS, variables=variables)

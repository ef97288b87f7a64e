"""Predicted checkpoints against what llm-compressor really writes: every tensor's name, dtype, shape and bytes.

The models are tiny and random: numbers do not matter here, only how they are stored. AWQ wants an accelerator for its
cache, which `quantize_tiny.py` talks it out of; GPTQ and rounding run as they are.
"""

from __future__ import annotations

import json
import struct
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kubequant.planning.prediction import (
    IGNORED_MODULES,
    PREDICTABLE_SCHEMES,
    layout_of,
    predicted,
    prediction_obstacle,
)
from kubequant.planning.quantization import stored_quantization
from kubequant.planning.tensors import classes_of
from kubequant.planning.values import Experts, ModelFacts, ModelShape, TensorClass
from tests.engines.cache import content_key, made_once, report
from tests.engines.environments import LLM_COMPRESSOR_REQUIREMENTS, llm_compressor_environment, run_in

# The first test of the module asks the engine everything, where nobody has yet.
FIRST_TIME_SECONDS = 3600

pytestmark = [pytest.mark.engine, pytest.mark.timeout(FIRST_TIME_SECONDS)]

SCRIPT = Path(__file__).parents[1] / "engines" / "scripts" / "quantize_tiny.py"
OTHER_FILES_BYTES = 1000
LAYERS = 2  # of every model in it

BASES = ("llama", "llama-odd", "qwen2-tied", "qwen3-moe", "mixtral", "deepseek-v3", "qwen3-next", "llava")
LONG_CALIBRATIONS = [("W8A16", "GPTQ"), ("W8A8", "GPTQ")]  # the same layouts as by rounding: once is enough
JOBS = [
    (base, scheme, method)
    for base in BASES
    for scheme, method in PREDICTABLE_SCHEMES
    if base == "llama" or (scheme, method) not in LONG_CALIBRATIONS
]
REFUSED = [
    *(("llama-odd", scheme, method) for scheme, method in PREDICTABLE_SCHEMES if scheme in ("W4A16", "MXFP4")),
    ("llama-odd", "W8A16", "RoundToNearest"),
    ("deepseek-v3", "W4A16", "AWQ"),
    ("llava", "W4A16", "AWQ"),
]
MADE_BUT_WRONG = [("mixtral", "W4A16", "AWQ"), ("qwen3-next", "W4A16", "AWQ")]  # the router is left out of the mapping
MADE = [job for job in JOBS if job not in REFUSED + MADE_BUT_WRONG]


@pytest.fixture(scope="module")
def checkpoints() -> Path:
    """Folders BASE/base and BASE/SCHEME-METHOD; about a minute the first time."""
    jobs = json.dumps([_job(*job) for job in JOBS])
    key = content_key([SCRIPT, LLM_COMPRESSOR_REQUIREMENTS / "requirements.lock"], jobs)
    return made_once(f"tiny-quantized/{key}", lambda folder: _make(folder, jobs))


def _job(base: str, scheme: str, method: str) -> dict[str, object]:
    preset = layout_of(scheme, method).preset
    return {"base": base, "name": f"{scheme}-{method}", "preset": preset, "method": method, "ignore": IGNORED_MODULES}


def _make(folder: Path, jobs: str) -> None:
    report(f"quantising {len(BASES)} tiny models in {len(JOBS)} ways with llm-compressor")
    with tempfile.TemporaryDirectory() as empty:
        variables = {
            "HF_HUB_OFFLINE": "1",
            "LLM_COMPRESSOR_LOG_DISABLED": "true",
            "HF_HOME": empty,
            "OMP_NUM_THREADS": "1",  # threads of so small models only wait for each other: minutes on a busy machine
        }
        arguments = [str(SCRIPT), str(folder)]
        run_in(llm_compressor_environment(), arguments, timeout_seconds=1800, stdin=jobs, variables=variables)


@pytest.mark.parametrize(("base", "scheme", "method"), MADE)
def test_every_tensor_is_as_predicted(checkpoints: Path, base: str, scheme: str, method: str) -> None:
    facts = facts_of(checkpoints / base / "base")
    real = tensor_classes(checkpoints / base / f"{scheme}-{method}")
    prediction = predicted(facts, scheme, method)
    assert prediction.tensors == real
    assert prediction.download_bytes == sum(tensor.bytes for tensor in real) + OTHER_FILES_BYTES


@pytest.mark.parametrize(("base", "scheme", "method"), MADE)
def test_what_is_stored_reads_as_predicted(checkpoints: Path, base: str, scheme: str, method: str) -> None:
    made = checkpoints / base / f"{scheme}-{method}"
    stored = stored_quantization(config_of(made), tensor_classes(made))
    prediction = predicted(facts_of(checkpoints / base / "base"), scheme, method).stored
    assert stored and prediction
    assert replace(stored, ignored=()) == replace(prediction, ignored=())


@pytest.mark.parametrize(("base", "scheme", "method"), REFUSED)
def test_what_the_tool_refuses_is_an_obstacle(checkpoints: Path, base: str, scheme: str, method: str) -> None:
    assert (checkpoints / base / f"{scheme}-{method}" / "refused.txt").exists()
    assert prediction_obstacle(facts_of(checkpoints / base / "base"), scheme, method)


@pytest.mark.parametrize(("base", "scheme", "method"), MADE_BUT_WRONG)
def test_mappings_that_change_the_model_are_an_obstacle(checkpoints: Path, base: str, scheme: str, method: str) -> None:
    assert not (checkpoints / base / f"{scheme}-{method}" / "refused.txt").exists()
    assert "AWQ mapping" in (prediction_obstacle(facts_of(checkpoints / base / "base"), scheme, method) or "")


def config_of(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return config


def tensor_classes(folder: Path) -> tuple[TensorClass, ...]:
    with (folder / "model.safetensors").open("rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    del header["__metadata__"]
    tensors = (
        (name, tensor["dtype"], tuple(tensor["shape"]), tensor["data_offsets"][1] - tensor["data_offsets"][0])
        for name, tensor in header.items()
    )
    return classes_of(tensors, LAYERS)


def facts_of(folder: Path) -> ModelFacts:
    config = config_of(folder)
    text = {**config, **config.get("text_config", {})}
    experts = next((text[name] for name in ("num_experts", "num_local_experts", "n_routed_experts") if name in text), 0)
    moe_layers = text["num_hidden_layers"] - text.get("first_k_dense_replace", 0)
    shape = ModelShape(
        architecture=config["architectures"][0],
        model_type=text["model_type"],
        num_hidden_layers=text["num_hidden_layers"],
        hidden_size=text["hidden_size"],
        intermediate_size=text["intermediate_size"],
        num_attention_heads=text["num_attention_heads"],
        num_key_value_heads=text["num_key_value_heads"],
        head_dim=text["head_dim"] if text.get("head_dim") else text["hidden_size"] // text["num_attention_heads"],
        vocab_size=text["vocab_size"],
        max_position_embeddings=text["max_position_embeddings"],
        tie_word_embeddings=config["tie_word_embeddings"],
        dtype="BF16",
        experts=Experts(experts, text["num_experts_per_tok"], moe_layers, 128) if experts else None,
    )
    tensors = tensor_classes(folder)
    size = sum(tensor.bytes for tensor in tensors) + OTHER_FILES_BYTES
    return ModelFacts(f"test/{folder.parent.name}", "0" * 40, shape, tensors, stored=None, download_bytes=size)

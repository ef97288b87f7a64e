"""What we say a rank holds against what vLLM's own models hold, to the byte: headers as transformers would store them,
parameters of vLLM's classes built on the meta device. No weights, no GPU."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from kubequant.planning.architectures import shape_of
from kubequant.planning.tensors import classes_of, disagreement, weights_per_rank
from kubequant.planning.values import ModelFacts
from tests.engines.environments import run_in, vllm_environment
from tests.engines.oracle import OracleAnswer, OracleModel, describe_with_vllm
from tests.unit.planning.models import ModelBuilder, model

# The first test of the module asks the engine everything, where nobody has yet.
FIRST_TIME_SECONDS = 3600

pytestmark = [pytest.mark.engine, pytest.mark.timeout(FIRST_TIME_SECONDS)]

LIST_HEADERS = Path(__file__).parents[1] / "engines" / "scripts" / "list_headers.py"
ARCHITECTURES = Path(__file__).parents[1] / "data" / "architectures"
AT_ONCE = 12  # models that one process lists
RANKS = (1, 2, 4)

# Nothing to compare with, or nothing to compare.
SKIPPED = {
    "longcat-flash": "transformers writes a third of the experts' gates too many: its zero experts have none",
    "kimi-vl-a3b": "transformers does not know it: vLLM brings the class",
    "minicpm3-4b": "transformers cannot read its rope_scaling",
    "phi-3.5-moe": "transformers has the class under another name",
    "stablelm-2-12b": "vLLM's class knows no norms by head, and none of its parallel residual",
}
# vLLM says no: on a CPU, or for good reason.
NOT_BUILT = {
    "deepseek-v3.2": "Sparse Attention is not supported on CPU",
    "kimi-linear-48b": "No module named 'cutlass'",
    "olmo-hybrid-7b at 1": "module 'triton' has no attribute",
    "olmo-hybrid-7b at 2": "module 'triton' has no attribute",
    "olmo-hybrid-7b at 4": "Total number of attention heads (30)",
    "gpt2-xl at 2": "Total number of attention heads (25)",
    "gpt2-xl at 4": "Total number of attention heads (25)",
    "falcon-7b at 2": "must be divisible by tensor parallel size",
    "falcon-7b at 4": "must be divisible by tensor parallel size",
    "gpt-oss-120b at 4": "No Unquantized MoE backend",
    "gptoss-20b-bf16 at 4": "No Unquantized MoE backend",
    "phi-4 at 4": "AssertionError",  # 10 KV heads
}
# Stored, and never built by vLLM.
NOT_LOADED = {
    # LLaVA takes its pictures from the last layer of the tower but one.
    "llava-v1.6-mistral-7b": re.compile(r"vision_tower\..*(encoder\.layers\.23\.|post_layernorm)"),
    # Phi runs through transformers, where vLLM's head has no bias.
    "phi-2": re.compile(r"^lm_head\.bias$"),
}

# Places for scales of the KV cache, which a checkpoint may fill; and the sizes of packed matrices, two numbers each.
NO_WEIGHTS = re.compile(r"\.attn\.(q|k|v|prob)_(scale|zero_point)$|\.weight_shape$")

NAMES = sorted(file.stem for file in ARCHITECTURES.glob("*.json") if file.stem not in SKIPPED)


@cache
def config(name: str) -> Mapping[str, Any]:
    document: dict[str, Any] = json.loads((ARCHITECTURES / f"{name}.json").read_text())
    return document


@cache
def headers() -> Mapping[str, list[list[Any]] | str]:
    found: dict[str, list[list[Any]] | str] = {}
    for start in range(0, len(NAMES), AT_ONCE):
        batch = NAMES[start : start + AT_ONCE]
        asked = json.dumps([config(name) for name in batch])
        output = run_in(vllm_environment(), [str(LIST_HEADERS)], stdin=asked, timeout_seconds=1800)
        found |= dict(zip(batch, json.loads(output.splitlines()[-1]), strict=True))
    return found


@cache
def answers() -> Mapping[tuple[str, int], OracleAnswer]:
    asked = [(name, ranks) for name in NAMES for ranks in RANKS]
    models = [OracleModel(name, config(name), ranks, max_model_len=1024) for name, ranks in asked]
    return dict(zip(asked, describe_with_vllm(models), strict=True))


def facts_of(name: str) -> ModelFacts:
    listed = headers()[name]
    assert not isinstance(listed, str), listed
    shape, unloaded = shape_of(config(name)), NOT_LOADED.get(name)
    tensors = classes_of(
        ((tensor, dtype, tuple(sides), size) for tensor, dtype, sides, size in listed
         if not (unloaded and unloaded.search(tensor))),
        shape.num_hidden_layers,
    )  # fmt: skip
    return ModelFacts(name, "0" * 40, shape, tensors, None, 0)


def weights_of(answer: OracleAnswer) -> int:
    return sum(
        tensor["bytes"]
        for tensor in answer.tensors
        if tensor["role"] == "parameter" and not NO_WEIGHTS.search(tensor["name"])
    )


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("name", NAMES)
def test_a_rank_holds_what_vllm_holds(name: str, ranks: int) -> None:
    answer = answers()[name, ranks]
    refusal = NOT_BUILT.get(name, NOT_BUILT.get(f"{name} at {ranks}"))
    if refusal is not None:
        assert answer.error
        assert refusal in answer.error
        return
    assert not answer.error
    assert weights_per_rank(facts_of(name), ranks) == weights_of(answer)


@pytest.mark.parametrize("name", NAMES)
def test_config_and_headers_of_real_models_agree(name: str) -> None:
    assert disagreement(facts_of(name)) is None


# --- quantised -------------------------------------------------------------------------------------------------------

SCHEMES = ("AWQ", "GPTQ", "W4A16", "FP8", "FP8_BLOCK", "W8A8")


@cache
def quantised(scheme: str) -> tuple[ModelBuilder, Mapping[int, OracleAnswer]]:
    builder = model("Qwen2.5-7B").stored_as(scheme).with_config(model_type="qwen2")
    asked = [OracleModel(scheme, builder.full_config(), ranks, max_model_len=1024) for ranks in RANKS]
    return builder, dict(zip(RANKS, describe_with_vllm(asked), strict=True))


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_rank_holds_what_vllm_holds_of_a_quantised_model(scheme: str, ranks: int) -> None:
    builder, answered = quantised(scheme)
    assert not answered[ranks].error
    facts = builder.facts()
    shapes = sum(tensor.bytes for tensor in facts.tensors if tensor.pattern.endswith(".weight_shape"))
    assert weights_per_rank(facts, ranks) - shapes == weights_of(answered[ranks])

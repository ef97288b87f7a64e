"""Our KV cache against vLLM's own: bytes of every layer, block and blocks of a request, without a GPU or weights.

What the CPU build of vLLM 0.32 cannot build, and why, is in NOT_BUILT: a model that newly fails fails the test.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import pytest

from kubequant.planning.architectures import shape_of
from kubequant.planning.kv_cache import kv_layout, state_bytes, token_bytes
from kubequant.planning.values import CacheKind, ModelShape
from tests.engines.oracle import OracleAnswer, OracleModel, describe_with_vllm

# The first test of the module asks the engine everything, where nobody has yet.
FIRST_TIME_SECONDS = 3600

pytestmark = [pytest.mark.engine, pytest.mark.timeout(FIRST_TIME_SECONDS)]

CONFIGS: dict[str, dict[str, Any]] = {
    path.stem: json.loads(path.read_text())
    for path in sorted((Path(__file__).parents[1] / "data" / "architectures").glob("*.json"))
}
RANKS = (1, 4)
NOT_BUILT = {
    ("deepseek-v3.2", 1): "Sparse Attention is not supported on CPU",
    ("deepseek-v3.2", 4): "Sparse Attention is not supported on CPU",
    ("kimi-linear-48b", 1): "No module named 'cutlass'",
    ("kimi-linear-48b", 4): "No module named 'cutlass'",
    ("gpt-oss-120b", 4): "No Unquantized MoE backend supports",
    ("gptoss-20b-bf16", 4): "No Unquantized MoE backend supports",
    ("falcon-7b", 4): "attention heads (71) must be divisible",
    ("gpt2-xl", 4): "attention heads (25) must be divisible",
    ("olmo-hybrid-7b", 1): "module 'triton' has no attribute",
    ("olmo-hybrid-7b", 4): "attention heads (30) must be divisible",
    ("phi-4", 4): "AssertionError",  # 10 KV heads
}
DTYPES = {"bfloat16": ("BF16", 2), "float16": ("F16", 2), "float32": ("BF16", 4)}
# vLLM starts a LongRoPE model at its original length; asked for, it goes up to the longest.
SHORTER_UNASKED = {"phi-3.5-moe"}

FP8_KV = (
    "deepseek-v3",
    "gemma-3-27b",
    "gpt-oss-120b",
    "granite-4-h-tiny",
    "jamba-mini",
    "llama-4-scout",
    "llama31-8b",
    "qwen3next-80b",
)

CASES = [(name, ranks) for name in CONFIGS for ranks in RANKS]
BUILT = [case for case in CASES if case not in NOT_BUILT]


@pytest.fixture(scope="module")
def answers() -> dict[tuple[str, int], OracleAnswer]:
    models = [OracleModel(name, CONFIGS[name], ranks) for name, ranks in CASES]
    return dict(zip(CASES, describe_with_vllm(models), strict=True))


def test_enough_architectures_are_compared() -> None:
    assert len({CONFIGS[name]["architectures"][0] for name, _ in BUILT}) >= 50


@pytest.mark.parametrize(("name", "ranks"), BUILT)
def test_every_layer_to_the_byte(name: str, ranks: int, answers: dict[tuple[str, int], OracleAnswer]) -> None:
    answer = answers[name, ranks]
    assert answer.error == ""
    assert our_layers(shape(name), DTYPES[answer.dtype][0], ranks) == their_layers(answer)


@pytest.mark.parametrize(("name", "ranks"), BUILT)
def test_the_pool_as_the_planner_cuts_it(name: str, ranks: int, answers: dict[tuple[str, int], OracleAnswer]) -> None:
    answer = answers[name, ranks]
    pool = answer.pool
    layout = kv_layout(
        shape(name),
        DTYPES[answer.dtype][0],
        ranks,
        max_num_batched_tokens=pool["max_num_batched_tokens"],
        prefix_caching=pool["prefix_caching"],
    )
    assert layout.block_bytes == pool["block_bytes"]
    assert layout.blocks_for(answer.max_model_len) == pool["blocks_per_request"]


@pytest.fixture(scope="module")
def fp8_answers() -> dict[str, OracleAnswer]:
    models = [OracleModel(name, CONFIGS[name], kv_cache_dtype="fp8") for name in FP8_KV]
    return dict(zip(FP8_KV, describe_with_vllm(models), strict=True))


@pytest.mark.parametrize("name", FP8_KV)
def test_fp8_halves_attention_and_leaves_states(name: str, fp8_answers: dict[str, OracleAnswer]) -> None:
    answer = fp8_answers[name]
    assert answer.error == ""
    assert our_layers(shape(name), "FP8", 1) == their_layers(answer)
    layout = kv_layout(shape(name), "FP8", max_num_batched_tokens=answer.pool["max_num_batched_tokens"])
    assert layout.block_bytes == answer.pool["block_bytes"]
    assert layout.blocks_for(answer.max_model_len) == answer.pool["blocks_per_request"]


@pytest.mark.parametrize("name", [name for name in CONFIGS if (name, 1) in BUILT and name not in SHORTER_UNASKED])
def test_longest_context(name: str, answers: dict[tuple[str, int], OracleAnswer]) -> None:
    assert shape(name).max_position_embeddings == answers[name, 1].max_model_len


@pytest.mark.parametrize(("name", "ranks"), NOT_BUILT)
def test_what_this_platform_cannot_build(name: str, ranks: int, answers: dict[tuple[str, int], OracleAnswer]) -> None:
    assert NOT_BUILT[name, ranks] in answers[name, ranks].error


def shape(name: str) -> ModelShape:
    """As planned, but for one thing: on a CPU the prefill of delta attention exports no state."""
    planned = shape_of(CONFIGS[name])
    if "Qwen3" not in planned.architecture:
        return planned
    return replace(planned, caches=tuple(replace(cache, states=2) for cache in planned.caches))


def our_layers(shape: ModelShape, kv_cache_dtype: str, ranks: int) -> Counter[tuple[int, int]]:
    """How many layers there are of each (bytes of a token or state, window)."""
    layers: Counter[tuple[int, int]] = Counter()
    for cache in shape.caches:
        stateful = cache.kind is CacheKind.STATE
        size = state_bytes(cache, shape.dtype, ranks) if stateful else token_bytes(cache, kv_cache_dtype, ranks)
        layers[size, cache.window] += cache.layers
    return layers


def their_layers(answer: OracleAnswer) -> Counter[tuple[int, int]]:
    layers: Counter[tuple[int, int]] = Counter()
    for spec in answer.kv_cache:
        if spec["kind"] == "MambaSpec":
            pairs = zip(spec["shapes"], spec["dtypes"], strict=True)
            layers[sum(prod(shape) * DTYPES[dtype][1] for shape, dtype in pairs), 0] += 1
        else:
            size, rest = divmod(spec["page_size_bytes"], spec["block_size"])
            assert rest == 0
            layers[size, spec.get("sliding_window") or spec.get("attention_chunk_size") or 0] += 1
    return layers

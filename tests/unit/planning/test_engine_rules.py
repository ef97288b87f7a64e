"""What vLLM 0.33 would not start: attention without a backend, methods below their floor, towers and states that do not split."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kubequant.planning.architectures import shape_of
from kubequant.planning.candidates import Candidate, kv_cache_dtypes
from kubequant.planning.divisibility import heads_divide, states_divide, vision_heads_divide
from kubequant.planning.engines import vllm
from kubequant.planning.facts_json import packed_facts, unpacked_facts
from kubequant.planning.refusing import REASONS, Rule
from kubequant.planning.rules import attention_possible, capability_floor, first_refusal, kv_cache_dtype_possible
from kubequant.planning.values import (
    ComputeCapability,
    Intent,
    KvCacheDtype,
    ModelShape,
    StoredMethod,
    StoredQuantization,
)
from tests.unit.planning.models import fleet, model, node

DATA = Path(__file__).parents[2] / "data" / "architectures"
LLAMA = model("Llama-3.1-8B")


def shape(name: str, **fields: Any) -> ModelShape:
    return shape_of({**json.loads((DATA / f"{name}.json").read_text()), **fields})


def candidate(
    found: ModelShape,
    capability: str = "8.9",
    *,
    gpus: int = 1,
    kv_cache_dtype: str = "BF16",
    stored: StoredQuantization | None = None,
) -> Candidate:
    (gpu,) = fleet(node("NVIDIA-L4", gpus=16)).classes
    gpu = replace(gpu, compute_capability=ComputeCapability.parse(capability))
    facts = replace(LLAMA.facts(), shape=found, stored=stored)
    return Candidate(Intent("org/base"), facts, vllm.VLLM_0_33, gpu, gpus, 2048, kv_cache_dtype)


def said(rule: Rule, found: Candidate) -> str | None:
    """The rule's message; the chain as a whole then has that refusal too, with the reason."""
    refusal = rule(found)
    if refusal is None:
        return None
    assert first_refusal(found) == refusal
    assert refusal.reason == REASONS[refusal.rule]
    return refusal.message


SPARSE, DENSE, PLAIN, STATES = "deepseek-v3.2", "deepseek-v3", "llama31-8b", "kimi-linear-48b"


@pytest.mark.parametrize(
    ("name", "capability", "kv_cache_dtype", "words"),
    [
        (PLAIN, "7.5", "F16", None),
        (DENSE, "7.5", "F16", "latent attention (MLA) needs compute capability 8.0, this GPU has 7.5"),
        (STATES, "7.5", "F16", "latent attention (MLA) needs compute capability 8.0, this GPU has 7.5"),
        (DENSE, "8.0", "BF16", None),
        (DENSE, "8.9", "FP8", None),
        (DENSE, "12.0", "BF16", None),
        (SPARSE, "7.5", "F16", "latent attention (MLA) needs compute capability 8.0, this GPU has 7.5"),
        (SPARSE, "8.0", "BF16", "needs compute capability 9, 10 or 12, this GPU has 8.0"),
        (SPARSE, "8.9", "FP8", "needs compute capability 9, 10 or 12, this GPU has 8.9"),
        (SPARSE, "9.0", "BF16", None),
        (SPARSE, "9.0", "FP8", None),
        (SPARSE, "10.3", "FP8", None),
        (SPARSE, "11.0", "FP8", "needs compute capability 9, 10 or 12, this GPU has 11.0"),
        (SPARSE, "12.0", "FP8", None),
        (SPARSE, "12.1", "BF16", "needs an FP8 KV cache at compute capability 12.1, not BF16"),
    ],
)
def test_attention_backends(name: str, capability: str, kv_cache_dtype: str, words: str | None) -> None:
    message = said(attention_possible, candidate(shape(name), capability, kv_cache_dtype=kv_cache_dtype))
    assert (message is None) if words is None else (message is not None and words in message)


@pytest.mark.parametrize(
    ("method", "scheme", "capability", "words"),
    [
        (StoredMethod.MODELOPT, "FP8", "7.5", "vLLM 0.33.0 needs 8.0 for FP8 as ModelOpt stores it"),
        (StoredMethod.MODELOPT, "FP8", "8.0", None),
        (StoredMethod.FP8, "FP8", "7.5", None),
        (StoredMethod.MXFP4, "MXFP4", "7.5", "vLLM 0.33.0 needs 8.0 for MXFP4"),
        (StoredMethod.COMPRESSED_TENSORS, "MXFP4", "7.5", "needs 8.0 for MXFP4 as CompressedTensors stores it"),
        (StoredMethod.COMPRESSED_TENSORS, "MXFP4", "8.0", None),
        (StoredMethod.AWQ, "W4A16", "7.0", "has compute capability 7.0, vLLM 0.33.0 needs 7.5"),
    ],
)
def test_floors(method: StoredMethod, scheme: str, capability: str, words: str | None) -> None:
    stored = StoredQuantization(method, scheme, 8)
    message = said(capability_floor, candidate(LLAMA.shape(), capability, stored=stored))
    if words is None:
        assert message is None
    else:
        assert message is not None and words.lower() in message.lower()


@pytest.mark.parametrize("capability", ["8.0", "8.9", "9.0", "10.0", "12.0"])
def test_alibi_keeps_the_kv_cache_in_16_bit(capability: str) -> None:
    pair = ComputeCapability.parse(capability)
    alibi = replace(LLAMA.shape(), alibi=True)
    assert kv_cache_dtypes(Intent("org/base"), alibi, pair) == ("BF16",)
    asked = replace(candidate(alibi, capability, kv_cache_dtype="FP8"))
    asked = replace(asked, intent=replace(asked.intent, kv_cache_dtype=KvCacheDtype.FP8))
    assert "ALiBi" in (said(kv_cache_dtype_possible, asked) or "")


@pytest.mark.parametrize(("heads", "gpus", "divides"), [(12, 4, True), (12, 8, False), (0, 8, True), (16, 8, True)])
def test_vision_heads(heads: int, gpus: int, divides: bool) -> None:
    found = candidate(replace(LLAMA.shape(), vision_heads=heads), gpus=gpus)
    message = said(vision_heads_divide, found)
    expected = None if divides else f"NVIDIA-L4 x{gpus}: {heads} heads of the vision tower do not divide by {gpus}"
    assert message == expected


@pytest.mark.parametrize("name", ["mamba-2.8b", "mamba-codestral-7b"])
def test_states_have_no_attention_heads(name: str) -> None:
    found = candidate(shape(name), gpus=2)
    assert heads_divide(found) is None
    assert states_divide(found) is None


@pytest.mark.parametrize(
    ("name", "gpus", "units"),
    [
        ("mamba-codestral-7b", 8, None),
        ("mamba-codestral-7b", 16, 8),  # groups
        ("granite-4-h-tiny", 4, None),  # a single group is replicated
        ("granite-4-h-tiny", 5, 3072),  # channels
        ("qwen3next-80b", 8, None),
    ],
)
def test_states_divide(name: str, gpus: int, units: int | None) -> None:
    refusal = states_divide(candidate(shape(name), gpus=gpus))
    assert (dict(refusal.numbers)["units"] if refusal else None) == units


def test_facts_carry_what_these_rules_need() -> None:
    facts = replace(LLAMA.facts(), shape=replace(LLAMA.shape(), alibi=True, vision_heads=12))
    assert unpacked_facts(packed_facts(facts)) == facts

"""Classes of tensors, what a rank keeps of them, KV bytes, and the facts as JSON."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kubequant.errors import Refused
from kubequant.planning import kv_cache
from kubequant.planning.tensors import classes_of, largest_layer_per_rank, weights_per_rank
from kubequant.planning.values import (
    TensorClass,
)
from tests.unit.planning.models import GIB, model

SCHEMES = ("Unquantized", "AWQ", "GPTQ", "W4A16", "FP8", "FP8_BLOCK", "W8A8")


def test_layers_and_experts_are_starred() -> None:
    tensors = [
        (f"model.layers.{layer}.mlp.experts.{e}.w1.weight", "BF16", (4, 4), 32) for layer in (0, 11) for e in (0, 1)
    ]
    (found,) = classes_of(tensors)
    assert found == TensorClass("model.layers.*.mlp.experts.*.w1.weight", "BF16", (4, 4), 4, 128)


def test_other_shape_or_dtype_is_another_class() -> None:
    found = classes_of([("a.0.w", "BF16", (1,), 2), ("a.1.w", "F32", (1,), 4), ("a.2.w", "BF16", (2,), 4)])
    assert [(tensor.dtype, tensor.shape) for tensor in found] == [("BF16", (1,)), ("BF16", (2,)), ("F32", (1,))]


def test_hostile_headers_are_bounded() -> None:
    with pytest.raises(Refused, match="more than 256 kinds"):
        classes_of((f"tensor_{number}", "BF16", (1,), 2) for number in range(100_000))


# meta-device totals of the engine itself, and sums of safetensors headers
@pytest.mark.parametrize(
    ("name", "scheme", "gib"),
    [
        ("Qwen2.5-7B", "Unquantized", 14.19),
        ("Qwen2.5-7B", "AWQ", 5.19),
        ("Qwen2.5-7B", "GPTQ", 5.19),
        ("Llama-3.1-8B", "Unquantized", 14.96),
        ("Llama-3.1-8B", "FP8", 8.46),
        ("Llama-3.1-70B", "AWQ", 37.04),
        ("Llama-3.1-70B", "FP8", 67.68),
    ],
)
def test_weights_of_real_models(name: str, scheme: str, gib: float) -> None:
    assert weights_per_rank(model(name).stored_as(scheme).facts(), 1) / GIB == pytest.approx(gib, rel=0.002)


def test_awq_over_four_ranks() -> None:
    assert weights_per_rank(model("Qwen2.5-7B").stored_as("AWQ").facts(), 4) / GIB == pytest.approx(1.30, abs=0.01)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_ranks_share_all_but_norms(scheme: str, ranks: int) -> None:
    facts = model("Llama-3.1-8B").stored_as(scheme).facts()
    whole, each = weights_per_rank(facts, 1), weights_per_rank(facts, ranks)
    assert whole / ranks <= each <= whole / ranks * 1.01


def test_kv_projections_are_replicated_beyond_their_heads() -> None:
    facts = model("Qwen2.5-7B").facts()  # 4 KV heads
    kv = sum(tensor.bytes for tensor in facts.tensors if ".k_proj." in tensor.pattern or ".v_proj." in tensor.pattern)
    assert weights_per_rank(facts, 8) - weights_per_rank(facts, 4) // 2 == pytest.approx(kv / 8, rel=0.02)


def test_tied_head_counts_once_even_when_stored_twice() -> None:
    tied = model("Qwen2.5-0.5B").facts()
    head = TensorClass("lm_head.weight", "BF16", (151936, 896), 1, 151936 * 896 * 2)
    stored_twice = replace(tied, tensors=(*tied.tensors, head))
    assert weights_per_rank(stored_twice, 1) == weights_per_rank(tied, 1)
    untied = replace(stored_twice, shape=replace(tied.shape, tie_word_embeddings=False))
    assert weights_per_rank(untied, 1) == weights_per_rank(tied, 1) + head.bytes


def test_vocabulary_is_padded_to_64() -> None:
    facts = model("Tiny").with_config(vocab_size=1025).facts()
    padded = model("Tiny").with_config(vocab_size=1088).facts()
    assert weights_per_rank(facts, 2) == weights_per_rank(padded, 2)


def test_fused_projections_are_split_like_their_parts() -> None:
    facts = model("Llama-3.1-8B").facts()
    parts = [t for t in facts.tensors if ".q_proj." in t.pattern or ".k_proj." in t.pattern or ".v_proj." in t.pattern]
    fused = TensorClass(
        "model.layers.*.self_attn.qkv_proj.weight", "BF16", (6144, 4096), 32, sum(t.bytes for t in parts)
    )
    with_fused = replace(facts, tensors=(*(t for t in facts.tensors if t not in parts), fused))
    for ranks in (1, 2, 8, 16):
        assert weights_per_rank(with_fused, ranks) == weights_per_rank(facts, ranks)


def test_float32_model_runs_in_16_bit() -> None:
    assert weights_per_rank(model("Tiny").with_config(torch_dtype="float32").facts(), 1) == weights_per_rank(
        model("Tiny").facts(), 1
    )


def test_one_layer_is_a_layers_share() -> None:
    facts = model("Llama-3.1-8B").facts()
    outside = sum(tensor.bytes for tensor in facts.tensors if "layers" not in tensor.pattern)
    assert largest_layer_per_rank(facts, 1) * 32 == pytest.approx(facts.weight_bytes - outside, abs=32)


# --- KV cache --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "token_bytes"),
    [("Qwen2.5-7B", 57344), ("Llama-3.1-8B", 131072), ("Llama-3.1-70B", 327680), ("Phi-4", 204800)],
)
def test_kv_bytes_per_token(name: str, token_bytes: int) -> None:
    shape = model(name).shape()
    assert kv_cache.bytes_per_token(shape, "BF16") == token_bytes
    assert kv_cache.bytes_per_token(shape, "FP8") == token_bytes // 2
    assert kv_cache.bytes_per_token(shape, "F16", 2) == token_bytes // 2


def test_kv_heads_are_replicated_beyond_their_number() -> None:
    shape = model("Llama-3.1-8B").shape()
    assert kv_cache.bytes_per_token(shape, "BF16", 8) == kv_cache.bytes_per_token(shape, "BF16", 16) == 16384

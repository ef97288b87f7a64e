"""What a rank keeps of each kind of tensor: by family, over ranks, stages and experts. The oracle for it is vLLM itself
(tests/engine/test_parameter_oracle.py); these are the rules one by one."""

from __future__ import annotations

import json
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.checkpoints import gpt_oss_checkpoint, mixtral_checkpoint
from bench.dense_checkpoints import Tensor, dense_checkpoint, tensor
from kubequant.planning.architectures import shape_of
from kubequant.planning.tensors import classes_of, disagreement, largest_layer_per_rank, weights_per_rank
from kubequant.planning.values import (
    CacheKind,
    CacheLayers,
    Experts,
    ModelFacts,
    ModelShape,
    StateTensor,
    StoredMethod,
    StoredQuantization,
    TensorClass,
)
from tests.unit.planning.models import GIB, model

ARCHITECTURES = Path(__file__).parents[2] / "data" / "architectures"


def facts_of(shape: ModelShape, *tensors: Tensor, stored: StoredQuantization | None = None) -> ModelFacts:
    return ModelFacts("org/model", "0" * 40, shape, classes_of(tensors, shape.num_hidden_layers), stored, 0)


def architecture(name: str) -> ModelShape:
    return shape_of(json.loads((ARCHITECTURES / f"{name}.json").read_text()))


TINY = replace(model("Tiny").shape(), experts=Experts(8, 2, 2, 512))  # 4 heads, 2 KV heads, 2 layers

# (name, shape, share at 2 ranks, share at 4 ranks): of one tensor in a decoder with 2 KV heads
BY_FAMILY = {
    "query": ("model.layers.0.self_attn.q_proj.weight", (256, 256), 1 / 2, 1 / 4),
    "query bias": ("model.layers.0.self_attn.q_proj.bias", (256,), 1 / 2, 1 / 4),
    "key, replicated beyond its heads": ("model.layers.0.self_attn.k_proj.weight", (128, 256), 1 / 2, 1 / 2),
    "attention output": ("model.layers.0.self_attn.o_proj.weight", (256, 256), 1 / 2, 1 / 4),
    "attention output bias": ("model.layers.0.self_attn.o_proj.bias", (256,), 1, 1),
    "query norm": ("model.layers.0.self_attn.q_norm.weight", (64,), 1, 1),
    "GPT-NeoX attention output": ("gpt_neox.layers.0.attention.dense.weight", (256, 256), 1 / 2, 1 / 4),
    "GPT-NeoX MLP": ("gpt_neox.layers.0.mlp.dense_h_to_4h.weight", (1024, 256), 1 / 2, 1 / 4),
    "GPT-2 MLP": ("transformer.h.0.mlp.c_fc.weight", (256, 1024), 1 / 2, 1 / 4),
    "OPT MLP bias": ("model.decoder.layers.0.fc2.bias", (256,), 1, 1),
    "Phi-3 MLP": ("model.layers.0.mlp.gate_up_proj.weight", (1024, 256), 1 / 2, 1 / 4),
    "latent, compressed": ("model.layers.0.self_attn.kv_a_proj_with_mqa.weight", (576, 256), 1, 1),
    "latent query, compressed": ("model.layers.0.self_attn.q_a_proj.weight", (128, 256), 1, 1),
    "latent, expanded": ("model.layers.0.self_attn.kv_b_proj.weight", (1024, 512), 1 / 2, 1 / 4),
    "router": ("model.layers.0.mlp.gate.weight", (8, 256), 1, 1),
    "expert": ("model.layers.0.mlp.experts.0.down_proj.weight", (256, 512), 1 / 2, 1 / 4),
    "experts in one tensor": ("model.layers.0.mlp.experts.gate_up_proj", (8, 256, 1024), 1 / 2, 1 / 4),
    "output bias of experts": ("model.layers.0.mlp.experts.down_proj_bias", (8, 256), 1, 1),
    "shared expert": ("model.layers.0.mlp.shared_experts.up_proj.weight", (512, 256), 1 / 2, 1 / 4),
    "gate of the shared expert": ("model.layers.0.mlp.shared_expert_gate.weight", (1, 256), 1, 1),
    "delta net": ("model.layers.0.linear_attn.in_proj_qkvz.weight", (1024, 256), 1 / 2, 1 / 4),
    "delta net norm": ("model.layers.0.linear_attn.norm.weight", (128,), 1, 1),
    "state decay": ("model.layers.0.linear_attn.dt_bias", (32,), 1 / 2, 1 / 4),
    "Mamba 1, its steps": ("backbone.layers.0.mixer.x_proj.weight", (80, 512), 1 / 2, 1 / 4),
    "vision query": ("visual.blocks.0.attn.qkv.weight", (768, 256), 1 / 2, 1 / 4),
    "vision key, never replicated": ("vision_tower.layers.0.self_attn.k_proj.weight", (256, 256), 1 / 2, 1 / 4),
    "vision output": ("visual.blocks.0.attn.proj.weight", (256, 256), 1 / 2, 1 / 4),
    "patches": ("visual.patch_embed.proj.weight", (256, 3, 2, 14, 14), 1, 1),
    "projector": ("multi_modal_projector.linear_1.weight", (256, 256), 1 / 2, 1 / 4),
    "embedding by layer": ("model.embed_tokens_per_layer.weight", (1024, 512), 1 / 2, 1 / 4),
    "a name that nobody knows": ("model.layers.0.wheel.weight", (256, 256), 1, 1),
}


@pytest.mark.parametrize("case", BY_FAMILY)
def test_share_of_a_rank(case: str) -> None:
    name, shape, at_two, at_four = BY_FAMILY[case]
    facts = facts_of(TINY, tensor(name, "BF16", *shape))
    whole = prod(shape) * 2
    assert [weights_per_rank(facts, ranks) for ranks in (1, 2, 4)] == [whole, whole * at_two, whole * at_four]


QUANTISED_ROW = {
    "AWQ scales of groups": ("scales", "F16", (2, 256), 1 / 2),
    "AWQ zero points": ("qzeros", "I32", (2, 32), 1 / 2),
    "one scale an output": ("weight_scale", "F32", (256, 1), 1),
    "one scale": ("weight_scale", "F32", (1,), 1),
    "order of groups, which the engine drops": ("g_idx", "I32", (256,), 0),
    "its shape": ("weight_shape", "I64", (2,), 1),
    "NVFP4": ("weight_packed", "U8", (256, 128), 1 / 2),
    "NVFP4 scales": ("weight_scale", "F8_E4M3", (256, 16), 1 / 2),
    "NVFP4 global scale": ("weight_global_scale", "F32", (1,), 1),
}


@pytest.mark.parametrize("case", QUANTISED_ROW)
def test_share_of_a_row_parallel_layer_that_is_quantised(case: str) -> None:
    parameter, dtype, shape, share = QUANTISED_ROW[case]
    one = tensor(f"model.layers.0.mlp.down_proj.{parameter}", dtype, *shape)
    facts = facts_of(TINY, one, stored=StoredQuantization(StoredMethod.AWQ, "W4A16", 4, 128))
    assert weights_per_rank(facts, 2) == one[3] * share


def test_quantised_latent_attention_keeps_a_16_bit_copy() -> None:
    stored = StoredQuantization(StoredMethod.FP8, "FP8", 8, block=(128, 128))
    facts = facts_of(TINY, tensor("model.layers.0.self_attn.kv_b_proj.weight", "F8_E4M3", 1024, 512), stored=stored)
    assert weights_per_rank(facts, 2) == 1024 * 512 * (1 + 2) // 2


# --- recurrent layers ------------------------------------------------------------------------------------------------


def mamba2(groups: int) -> ModelFacts:
    """8 heads of 64, a state of 128."""
    state = (StateTensor(8, 64 * 128, "F32"),)
    shape = replace(TINY, caches=(CacheLayers(CacheKind.STATE, 1, state=state),))
    conv, prefix = 512 + 2 * groups * 128, "model.layers.0.mamba."
    return facts_of(
        shape,
        tensor(prefix + "in_proj.weight", "BF16", 512 + conv + 8, 256),
        tensor(prefix + "conv1d.weight", "BF16", conv, 1, 4),
        tensor(prefix + "A_log", "BF16", 8),
    )


@pytest.mark.parametrize(("groups", "group_rows"), [(1, 256), (4, 512)])
def test_groups_of_mamba2_are_never_cut(groups: int, group_rows: int) -> None:
    rows_of_heads = (512 + 512 + 8) // 2, 512 // 2
    in_proj, conv = (rows + group_rows for rows in rows_of_heads)
    assert weights_per_rank(mamba2(groups), 2) == in_proj * 256 * 2 + conv * 4 * 2 + 4 * 4


# --- experts ---------------------------------------------------------------------------------------------------------


def mixtral() -> ModelFacts:
    shape = architecture("mixtral-8x7b")
    stored = StoredQuantization(StoredMethod.AWQ, "W4A16", 4, 128, symmetric=False)
    return ModelFacts("org/mixtral", "0" * 40, shape, classes_of(mixtral_checkpoint(shape, "AWQ")), stored, 0)


def test_mixtral_in_awq_is_24_65_gb() -> None:
    assert mixtral().weight_bytes / 1e9 == pytest.approx(24.65, abs=0.005)


def test_whole_experts_take_what_their_slices_take() -> None:
    facts = mixtral()
    for ranks in (2, 4, 8):
        sliced, dealt = weights_per_rank(facts, ranks), weights_per_rank(facts, ranks, expert_parallel=True)
        assert dealt == pytest.approx(sliced, rel=0.001)
    assert weights_per_rank(facts, 16, expert_parallel=True) > weights_per_rank(facts, 16)  # 8 experts: one each


def test_largest_layer_holds_all_its_experts() -> None:
    facts = mixtral()
    experts = sum(one.bytes for one in facts.tensors if ".experts." in one.pattern)
    assert largest_layer_per_rank(facts, 1) >= experts // 32
    assert largest_layer_per_rank(facts, 1) == pytest.approx(facts.weight_bytes / 32, rel=0.05)
    assert largest_layer_per_rank(facts, 4) == pytest.approx(largest_layer_per_rank(facts, 1) / 4, rel=0.01)


def test_largest_layer_of_few_dense_and_many_sparse_ones() -> None:
    shape = replace(TINY, num_hidden_layers=3, experts=Experts(8, 2, 2, 512))
    dense = [tensor("model.layers.0.mlp.down_proj.weight", "BF16", 256, 2048)]
    sparse = [
        tensor(f"model.layers.{layer}.mlp.experts.{number}.down_proj.weight", "BF16", 256, 512)
        for layer in (1, 2) for number in range(8)
    ]  # fmt: skip
    assert largest_layer_per_rank(facts_of(shape, *dense, *sparse), 1) == 8 * 256 * 512 * 2


@pytest.mark.parametrize(("padded", "gib"), [(False, 12.82), (True, 13.67)])
def test_gpt_oss_is_what_the_engine_takes(padded: bool, gib: float) -> None:
    shape = replace(architecture("gptoss-20b-bf16"), dtype="BF16")
    stored = StoredQuantization(StoredMethod.MXFP4, "MXFP4", 4, 32)
    facts = ModelFacts("openai/gpt-oss", "0" * 40, shape, classes_of(gpt_oss_checkpoint(shape)), stored, 0)
    assert weights_per_rank(facts, 1, padded_experts=padded) / GIB == pytest.approx(gib, abs=0.005)


@pytest.mark.parametrize(("padded", "ranks", "inner"), [
    (False, 2, 1472), (True, 2, 1536), (False, 4, 768), (True, 4, 768), (False, 8, 384), (True, 8, 384),
])  # fmt: skip
def test_mxfp4_experts_are_rounded_up_on_each_rank(padded: bool, ranks: int, inner: int) -> None:
    stored = StoredQuantization(StoredMethod.MXFP4, "MXFP4", 4, 32)
    prefix, hidden = "model.layers.0.mlp.experts.", 3072 if padded else 2880
    facts = facts_of(
        TINY,
        tensor(prefix + "gate_up_proj_blocks", "U8", 8, 5760, 90, 16),
        tensor(prefix + "gate_up_proj_scales", "U8", 8, 5760, 90),
        tensor(prefix + "down_proj_blocks", "U8", 8, 2880, 90, 16),
        tensor(prefix + "down_proj_scales", "U8", 8, 2880, 90),
        stored=stored,
    )
    weights = 8 * 3 * hidden * inner
    assert weights_per_rank(facts, ranks, padded_experts=padded) == weights // 2 + weights // 32


@pytest.mark.parametrize(("ranks", "times"), [(1, 1), (2, 1), (4, 2), (8, 4)])
def test_scales_of_experts_are_repeated_for_smaller_groups(ranks: int, times: int) -> None:
    """768 over 4 ranks are 192: groups of 64 in place of 128."""
    shape = replace(TINY, experts=Experts(8, 2, 2, 768))
    stored = StoredQuantization(StoredMethod.AWQ, "W4A16", 4, 128)
    facts = facts_of(shape, tensor("model.layers.0.mlp.experts.0.down_proj.scales", "F16", 6, 256), stored=stored)
    assert weights_per_rank(facts, ranks) == 6 * 256 * 2 * times // ranks


@pytest.mark.parametrize("shape", [(), (1,), (8, 1, 5), (8, 1, 1, 1)])
def test_odd_shapes_of_experts_are_survived(shape: tuple[int, ...]) -> None:
    stored = StoredQuantization(StoredMethod.MXFP4, "MXFP4", 4, 32)
    facts = facts_of(TINY, tensor("model.layers.0.mlp.experts.gate_up_proj_blocks", "U8", *shape), stored=stored)
    for expert_parallel in (False, True):
        assert weights_per_rank(facts, 2, expert_parallel=expert_parallel) <= prod(shape)


# --- layers that are not loaded --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "extra",
    [
        "model.layers.2.eh_proj.weight",
        "model.layers.2.shared_head.head.weight",
        "mtp.layers.0.mlp.down_proj.weight",
        "model.mtp_layers.0.mlp.down_proj.weight",
        "language_model.model.layers.3.eh_proj.weight",
        "model.layers.0.self_attn.rotary_emb.inv_freq",
    ],
)
def test_what_only_speculation_needs_is_not_loaded(extra: str) -> None:
    tensors = list(dense_checkpoint(TINY))
    plain, more = facts_of(TINY, *tensors), facts_of(TINY, *tensors, tensor(extra, "BF16", 256, 512))
    assert more.weight_bytes > plain.weight_bytes
    assert disagreement(more) is None
    for ranks in (1, 2):
        assert weights_per_rank(more, ranks) == weights_per_rank(plain, ranks)


def test_what_else_such_a_layer_holds_is_not_loaded() -> None:
    extra = [
        tensor("model.layers.2.enorm.weight", "BF16", 256),
        tensor("model.layers.2.embed_tokens.weight", "BF16", 4096, 256),
        tensor("model.layers.2.mlp.experts.7.down_proj.weight", "BF16", 256, 512),
    ]
    tensors = list(dense_checkpoint(TINY))
    facts = facts_of(TINY, *tensors, *extra)
    assert weights_per_rank(facts, 1) == weights_per_rank(facts_of(TINY, *tensors), 1)
    assert disagreement(facts) is None


@pytest.mark.parametrize("number", ["9" * 5000, "\u00b2", "\u0663"])
def test_odd_layer_numbers_are_survived(number: str) -> None:
    (found,) = classes_of([(f"model.layers.{number}.norm.weight", "BF16", (4,), 8)], 80)
    assert found.pattern == "model.layers.*.norm.weight"


def test_more_decoder_layers_than_the_config_says_are_noticed() -> None:
    facts = facts_of(replace(TINY, num_hidden_layers=1), *dense_checkpoint(TINY))
    assert disagreement(facts) == "config.json says 1 layers, the headers hold 2"


def test_deeper_towers_than_decoders_are_no_extra_layers() -> None:
    (found,) = classes_of((f"vision_tower.layers.{layer}.norm.weight", "BF16", (4,), 8) for layer in range(40))
    assert (found.pattern, found.count) == ("vision_tower.layers.*.norm.weight", 40)


# --- config and headers that disagree --------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "language_model.", "model.language_"])
def test_layers_are_counted_whatever_they_are_nested_in(prefix: str) -> None:
    tensors = [(prefix + name, *rest) for name, *rest in dense_checkpoint(TINY)]
    tower = [tensor(f"vision_tower.layers.{layer}.norm.weight", "BF16", 4) for layer in range(30)]
    agreed = facts_of(TINY, *tensors, *tower)  # type: ignore[arg-type]
    assert disagreement(agreed) is None
    missing = replace(agreed, shape=replace(TINY, num_hidden_layers=3))
    assert disagreement(missing) == "config.json says 3 layers, the headers hold 2"


def test_another_vocabulary_is_noticed() -> None:
    facts = facts_of(replace(TINY, vocab_size=2048), *dense_checkpoint(TINY))
    assert "2048 tokens x 256, the headers hold 1024 x 256" in (disagreement(facts) or "")


@pytest.mark.parametrize(
    ("pattern", "dtype", "shape", "said"),
    [
        ("model.layers.*.mixer.in_proj.weight", "BF16", (0, 4), "0 x 4"),
        ("model.layers.*.mlp.experts.gate_up_proj_blocks", "U8", (8, 0, 90, 16), "8 x 0 x 90 x 16"),
        ("model.layers.*.mlp.experts.*.w1.qweight", "I32", (0,), "0"),
    ],
)
def test_a_tensor_without_numbers_contradicts_any_config(
    pattern: str, dtype: str, shape: tuple[int, ...], said: str
) -> None:
    facts = facts_of(TINY, *dense_checkpoint(TINY))
    empty = replace(facts, tensors=(*facts.tensors, TensorClass(pattern, dtype, shape, 1, 0)))
    assert disagreement(empty) == f"the tensor {pattern} holds no numbers (shape {said})"


SMALL = model("Tiny").shape()  # 4 heads and 2 KV heads of 64, a hidden size of 256, an inner size of 512
CONTRADICTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "KV heads": (
        {"num_key_value_heads": 1}, "k_proj of 64 x 256 (num_key_value_heads 1, head_dim 64), the headers hold 128 x 256",
    ),
    "head size": (
        {"head_dim": 32}, "k_proj of 64 x 256 (num_key_value_heads 2, head_dim 32), the headers hold 128 x 256",
    ),
    "heads": ({"num_attention_heads": 8}, "o_proj of 256 x 512 (num_attention_heads 8, head_dim 64), the headers hold 256 x 256"),
    "inner size": ({"intermediate_size": 100}, "down_proj of 256 x 100 (intermediate_size 100), the headers hold 256 x 512"),
}  # fmt: skip


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_a_config_that_contradicts_its_matrices_is_noticed(case: str) -> None:
    fields, said = CONTRADICTIONS[case]
    facts = facts_of(replace(SMALL, caches=(), **fields), *dense_checkpoint(SMALL))
    assert disagreement(facts) == f"config.json says {said}"


@pytest.mark.parametrize("scheme", ["AWQ", "GPTQ", "W4A16", "FP8", "FP8_BLOCK", "W8A8"])
def test_packed_matrices_are_compared_unpacked(scheme: str) -> None:
    facts = model("Tiny").stored_as(scheme).facts()
    assert disagreement(facts) is None
    for fields in ({"num_key_value_heads": 1}, {"head_dim": 32}, {"intermediate_size": 256}):
        other = replace(facts.shape, caches=(), **fields)
        assert "the headers hold" in (disagreement(replace(facts, shape=other)) or "")


def test_fused_projections_are_compared() -> None:
    fused = [
        tensor("model.layers.0.self_attn.qkv_proj.weight", "BF16", 512, 256),
        tensor("model.layers.0.mlp.gate_up_proj.weight", "BF16", 1024, 256),
    ]
    one = replace(SMALL, num_hidden_layers=1, caches=())
    assert disagreement(facts_of(one, *fused)) is None
    assert "qkv_proj of 384 x 256" in (
        disagreement(facts_of(replace(one, num_key_value_heads=1, caches=()), *fused)) or ""
    )
    assert "gate_up_proj of 200 x 256" in (disagreement(facts_of(replace(one, intermediate_size=100), *fused)) or "")


def test_layers_without_an_mlp_are_noticed() -> None:
    facts = facts_of(SMALL, *(one for one in dense_checkpoint(SMALL) if ".mlp." not in one[0]))
    assert disagreement(facts) == "config.json says MLPs of 512 in its layers, the headers hold none"


def test_where_layers_differ_nothing_is_said() -> None:
    """Two kinds of layers, an unknown architecture, a name that is another's: in doubt it is not refused."""
    tensors = list(dense_checkpoint(SMALL))
    wrong = replace(SMALL, intermediate_size=100)
    wide = tensor("model.layers.0.mlp.down_proj.weight", "BF16", 256, 1024)
    narrow = [one for one in tensors if "down_proj" in one[0] and ".0." not in one[0]]
    assert disagreement(facts_of(wrong, *narrow, wide)) is None
    assert disagreement(facts_of(replace(wrong, upper_bound=True), *tensors)) is None
    elsewhere = [(name.replace(".mlp.", ".feed_forward."), *rest) for name, *rest in tensors]
    assert disagreement(facts_of(wrong, *elsewhere)) is None  # type: ignore[arg-type]


# --- stages of a pipeline --------------------------------------------------------------------------------------------


def test_a_stage_has_its_layers_and_one_end() -> None:
    facts = model("Llama-3.1-8B").facts()
    ends = facts.shape.vocab_size * facts.shape.hidden_size * 2
    layers = facts.weight_bytes - 2 * ends
    assert weights_per_rank(facts, 1, 2) == pytest.approx(layers / 2 + ends, rel=0.001)
    assert weights_per_rank(facts, 2, 2) == pytest.approx((layers / 2 + ends) / 2, rel=0.001)


def test_layers_left_over_go_before_the_last_stage() -> None:
    shape = replace(model("Llama-3.1-8B").shape(), num_hidden_layers=9)
    facts = facts_of(shape, *dense_checkpoint(shape))
    ends = shape.vocab_size * shape.hidden_size * 2
    layer = (facts.weight_bytes - 2 * ends) / 9
    assert weights_per_rank(facts, 1, 2) == pytest.approx(5 * layer + ends, rel=0.001)


# --- properties ------------------------------------------------------------------------------------------------------

SCHEMES = [
    "Unquantized",
    "AWQ",
    "GPTQ",
    "W4A16",
    "FP8",
    "FP8_BLOCK",
    "W8A8",
    "NVFP4",
    "MXFP4",
    "MODELOPT_FP8",
    "MODELOPT_NVFP4",
]


@st.composite
def models(draw: st.DrawFn) -> ModelFacts:
    kv_heads = draw(st.sampled_from([1, 2, 4, 8]))
    shape = replace(
        model("Tiny").shape(),
        num_hidden_layers=draw(st.integers(1, 6)),
        num_attention_heads=kv_heads * draw(st.sampled_from([1, 2, 7])),
        num_key_value_heads=kv_heads,
        head_dim=128,
        hidden_size=draw(st.sampled_from([1024, 3584])),
        intermediate_size=draw(st.sampled_from([1024, 2816, 18944])),
        vocab_size=draw(st.integers(64, 200_000)),
        tie_word_embeddings=draw(st.booleans()),
        experts=draw(
            st.none() | st.builds(Experts, st.integers(1, 9), st.just(1), st.just(6), st.sampled_from([256, 768]))
        ),
    )
    scheme = draw(st.sampled_from(SCHEMES))
    checkpoint = mixtral_checkpoint(shape, scheme) if shape.experts else dense_checkpoint(shape, scheme)
    bits = {"Unquantized": None, "AWQ": 4, "GPTQ": 4, "W4A16": 4}.get(scheme, 8)
    stored = StoredQuantization(StoredMethod.COMPRESSED_TENSORS, scheme, bits) if bits else None
    return facts_of(shape, *checkpoint, stored=stored)


@given(models(), st.booleans())
def test_more_ranks_never_hold_more_each(facts: ModelFacts, expert_parallel: bool) -> None:
    held = [weights_per_rank(facts, ranks, expert_parallel=expert_parallel) for ranks in (1, 2, 4, 8, 16)]
    assert held == sorted(held, reverse=True)


@given(models(), st.sampled_from([1, 2, 4, 8, 16]), st.booleans())
def test_all_ranks_together_hold_all(facts: ModelFacts, ranks: int, expert_parallel: bool) -> None:
    tied = facts.shape.tie_word_embeddings
    loaded = sum(
        one.bytes
        for one in facts.tensors
        if not one.pattern.endswith("g_idx") and not (tied and one.pattern == "lm_head.weight")
    )
    assert weights_per_rank(facts, ranks, expert_parallel=expert_parallel) * ranks >= loaded


@given(models(), st.integers(1, 6))
def test_more_stages_never_hold_more_each(facts: ModelFacts, stages: int) -> None:
    stages = min(stages, facts.shape.num_hidden_layers)
    whole, each = weights_per_rank(facts, 1), weights_per_rank(facts, 1, stages)
    assert each <= whole
    assert each * stages >= whole


@given(models(), st.sampled_from([1, 2, 4]))
def test_no_layer_is_larger_than_the_model(facts: ModelFacts, ranks: int) -> None:
    assert 0 < largest_layer_per_rank(facts, ranks) <= weights_per_rank(facts, ranks)

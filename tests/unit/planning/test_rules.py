"""What must divide and what must fit, rule by rule: a shape that breaks exactly one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bench.dense_checkpoints import Tensor, tensor
from kubequant.planning.candidates import Candidate
from kubequant.planning.divisibility import blocks_divide, groups_divide
from kubequant.planning.engines.vllm import VLLM_0_33
from kubequant.planning.rules import RULES, first_refusal, load_peak_fits
from kubequant.planning.tensors import classes_of, largest_layer_per_rank
from kubequant.planning.values import (
    CacheKind,
    CacheLayers,
    ComputeCapability,
    Experts,
    Intent,
    Refusal,
    StoredMethod,
    StoredQuantization,
)
from tests.unit.planning.models import GIB, fleet, model, node

SMALL = model("Tiny").with_config(
    hidden_size=1024, intermediate_size=4096, num_attention_heads=16, num_key_value_heads=8, head_dim=64
)


def candidate(scheme: str = "Unquantized", gpus: int = 2, **config: Any) -> Candidate:
    (gpu,) = fleet(node("NVIDIA-L4", gpus=8)).classes
    facts = SMALL.with_config(**config).stored_as(scheme).facts()
    return Candidate(Intent("org/base"), facts, VLLM_0_33, gpu, gpus, 2048, "BF16")


def refusal_of(found: Candidate) -> Refusal:
    refusal = first_refusal(found)
    assert refusal is not None
    return refusal


DIVIDE: dict[str, tuple[Candidate, str, str]] = {
    "heads": (candidate(gpus=3), "heads", "16 attention heads do not divide by 3"),
    "KV heads that do not replicate": (
        candidate(gpus=8, num_attention_heads=24, num_key_value_heads=6), "kvHeads", "6 KV heads and 8 GPUs",
    ),
    "KV heads that do not split": (
        candidate(gpus=4, num_attention_heads=12, num_key_value_heads=6), "kvHeads", "6 KV heads and 4 GPUs",
    ),
    "vocabulary": (
        candidate(gpus=3, num_attention_heads=12, num_key_value_heads=3, intermediate_size=3072), "vocabulary",
        "the vocabulary, padded to 1024, does not divide by 3",
    ),
    "intermediate size": (candidate(gpus=8, intermediate_size=4100), "intermediate", "4100 does not divide by 8"),
    "groups in the MLP": (
        candidate("AWQ", gpus=2, intermediate_size=4480), "groupSize", "mlp inputs 4480 over 2 GPUs are 2240 each",
    ),
    "groups in attention": (
        candidate("GPTQ", gpus=8, num_attention_heads=8), "groupSize", "attention inputs 512 over 8 GPUs are 64 each",
    ),
    "blocks": (
        candidate("FP8_BLOCK", gpus=2, intermediate_size=4480), "block", "2240 inputs of down_proj on each GPU are not whole FP8 blocks of 128",
    ),
    "blocks of a replicated KV head": (
        candidate("FP8_BLOCK", gpus=8), "block", "64 outputs of k_proj on each GPU",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", DIVIDE)
def test_what_does_not_divide(case: str) -> None:
    found, rule, said = DIVIDE[case]
    refusal = refusal_of(found)
    assert refusal.rule == rule
    assert said in refusal.message
    assert refusal.message.startswith(f"NVIDIA-L4 x{found.gpus}: ")


@pytest.mark.parametrize("scheme", ["Unquantized", "AWQ", "GPTQ", "W4A16", "FP8", "FP8_BLOCK", "W8A8"])
@pytest.mark.parametrize("gpus", [1, 2, 4])
def test_what_divides_passes(scheme: str, gpus: int) -> None:
    assert first_refusal(candidate(scheme, gpus)) is None


def test_one_scale_per_channel_has_no_groups_to_split() -> None:
    assert first_refusal(candidate("FP8", gpus=2, intermediate_size=4480)) is None


def test_odd_blocks_are_fine_on_one_gpu() -> None:
    assert first_refusal(candidate("FP8_BLOCK", gpus=1, intermediate_size=4480)) is None


# --- experts ---------------------------------------------------------------------------------------------------------


def sparse(
    method: StoredMethod,
    gpus: int,
    inner: int,
    *,
    hidden: int = 1024,
    shared: int = 0,
    capability: str = "8.9",
    **of: Any,
) -> Candidate:
    """A mixture of experts only, each of `inner`."""
    found = candidate(gpus=gpus, hidden_size=hidden, intermediate_size=inner)
    shape = replace(found.facts.shape, experts=Experts(8, 2, 2, inner, shared))
    stored = StoredQuantization(method, "test", 4, **of)
    gpu = replace(found.gpu, compute_capability=ComputeCapability.parse(capability))
    return replace(found, gpu=gpu, facts=replace(found.facts, shape=shape, stored=stored, tensors=()))


@pytest.mark.parametrize("gpus", [2, 4, 8])
def test_mxfp4_experts_are_dealt_out_in_whole_blocks(gpus: int) -> None:
    """gpt-oss: 2880 over 4 ranks are 720, which vLLM makes 23 blocks of 32."""
    assert groups_divide(sparse(StoredMethod.MXFP4, gpus, 2880, group_size=32)) is None


@pytest.mark.parametrize(
    ("method", "gpus", "inner", "hidden", "passes"),
    [
        (StoredMethod.AWQ, 4, 768, 1024, True),  # 192: groups of 64
        (StoredMethod.GPTQ, 8, 768, 1024, True),  # 96: groups of 32
        (StoredMethod.AWQ, 8, 640, 1024, False),  # 80: groups of 16 would do
        (StoredMethod.AWQ, 4, 768, 1040, False),  # 1040 inputs of the gate need groups of 16
        (StoredMethod.COMPRESSED_TENSORS, 4, 768, 1024, False),  # no kernel repeats its scales
    ],
)
def test_experts_take_smaller_groups_where_theirs_cannot_be_cut(
    method: StoredMethod, gpus: int, inner: int, hidden: int, passes: bool
) -> None:
    assert (groups_divide(sparse(method, gpus, inner, hidden=hidden, group_size=128)) is None) is passes


def test_shared_experts_are_dense_layers() -> None:
    refusal = groups_divide(sparse(StoredMethod.AWQ, 4, 768, shared=768, group_size=128))
    assert refusal is not None
    assert "mlp inputs 768 over 4 GPUs are 192 each" in refusal.message


@pytest.mark.parametrize(
    ("method", "inner", "capability", "passes"),
    [
        (StoredMethod.FP8, 1024, "8.0", True),
        (StoredMethod.FP8, 768, "8.9", True),  # 192: blocks of 64, which only Triton has
        (StoredMethod.FP8, 768, "8.0", False),
        (StoredMethod.FP8, 640, "8.9", True),  # 160: blocks of 32
        (StoredMethod.FP8, 704, "8.9", False),  # 176: blocks of 16 would do
        (StoredMethod.COMPRESSED_TENSORS, 768, "8.9", False),
    ],
)
def test_experts_take_smaller_blocks_where_theirs_cannot_be_cut(
    method: StoredMethod, inner: int, capability: str, passes: bool
) -> None:
    refusal = blocks_divide(sparse(method, 4, inner, capability=capability, block=(128, 128)))
    assert (refusal is None) is passes
    assert refusal is None or f"{inner // 4} inputs of an expert on each GPU" in refusal.message


# --- blocks of dense layers ------------------------------------------------------------------------------------------


def blocks(gpus: int, *tensors: Tensor, latent: bool = False) -> Refusal | None:
    found = candidate("FP8_BLOCK", gpus=gpus)
    shape = found.facts.shape
    if latent:
        shape = replace(shape, caches=(CacheLayers(CacheKind.LATENT, 2, 1, 576),))
    return blocks_divide(replace(found, facts=replace(found.facts, shape=shape, tensors=classes_of(tensors))))


def f8(module: str, outputs: int, inputs: int) -> Tensor:
    return tensor(f"model.layers.0.{module}.weight", "F8_E4M3", outputs, inputs)


def test_a_side_that_is_not_cut_may_end_in_a_part_of_a_block() -> None:
    """gpt-oss and others with a hidden size of 2880: inputs of columns, outputs of rows."""
    odd = f8("self_attn.q_proj", 2048, 2880), f8("self_attn.o_proj", 2880, 2048), f8("mlp.up_proj", 4096, 2880)
    assert blocks(2, *odd) is None


@pytest.mark.parametrize(
    ("gpus", "module", "sides", "said"),
    [
        (1, "self_attn.k_proj", (192, 1024), "192 outputs of k_proj"),  # q, k and v are one layer
        (1, "self_attn.v_proj", (192, 1024), None),  # the last of them
        (1, "mlp.gate_proj", (192, 1024), "192 outputs of gate_proj"),
        (1, "mlp.up_proj", (192, 1024), None),
        (2, "mlp.up_proj", (384, 1024), "192 outputs of up_proj"),
        (1, "mlp.gate_up_proj", (384, 1024), "192 outputs of gate_up_proj"),
        (2, "self_attn.qkv_proj", (1536, 1024), "192 outputs of qkv_proj"),  # 768 of queries, 384 of keys and of values
        (2, "self_attn.o_proj", (1024, 384), "192 inputs of o_proj"),
        (1, "self_attn.o_proj", (1024, 192), None),
        (2, "linear_attn.in_proj_ba", (64, 1024), None),
    ],
)
def test_blocks_are_whole_where_a_layer_is_cut(
    gpus: int, module: str, sides: tuple[int, int], said: str | None
) -> None:
    refusal = blocks(gpus, f8(module, *sides))
    assert (refusal.message if refusal else None) == (
        f"NVIDIA-L4 x{gpus}: {said} on each GPU are not whole FP8 blocks of 128" if said else None
    )


@pytest.mark.parametrize(
    ("gpus", "module", "broken"), [(2, "q_b_proj", True), (2, "kv_b_proj", True), (1, "q_proj", False)]
)
def test_projections_of_latent_attention_are_checked_too(gpus: int, module: str, broken: bool) -> None:
    assert (blocks(gpus, f8(f"self_attn.{module}", 384 if gpus == 2 else 192, 512), latent=True) is not None) is broken


def test_what_is_stored_in_16_bit_has_no_blocks() -> None:
    assert blocks(2, tensor("model.layers.0.mlp.up_proj.weight", "BF16", 384, 1024)) is None


def test_repacking_needs_one_layer_twice() -> None:
    fits = replace(candidate("AWQ", gpus=1), facts=model("Llama-3.1-8B").stored_as("AWQ").facts())
    layer = largest_layer_per_rank(fits.facts, 1)
    spare = fits.budget.usable_bytes - fits.budget.weights_bytes
    assert load_peak_fits(fits) is None
    tight = replace(fits, intent=replace(fits.intent, reserved_memory_bytes=spare - layer // 2))
    refusal = load_peak_fits(tight)
    assert refusal is not None
    assert "loading and repacking peak at" in refusal.message
    unquantised = replace(tight, facts=replace(tight.facts, stored=None))
    assert load_peak_fits(unquantised) is None


def test_memory_comes_after_everything_else() -> None:
    """A refusal for memory must mean that the engine would otherwise load it."""
    names = [rule.__name__ for rule in RULES]
    assert names[-4:] == ["weights_fit", "load_peak_fits", "context_fits", "demand_fits"]
    too_small = candidate(gpus=3)
    too_small = replace(too_small, gpu=replace(too_small.gpu, memory_bytes=GIB))
    assert refusal_of(too_small).rule == "heads"

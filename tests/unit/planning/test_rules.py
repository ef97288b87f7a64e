"""What must divide and what must fit, rule by rule: a shape that breaks exactly one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kubequant.planning.candidates import Candidate
from kubequant.planning.engines.vllm import VLLM_0_33
from kubequant.planning.rules import RULES, first_refusal, load_peak_fits
from kubequant.planning.tensors import largest_layer_per_rank
from kubequant.planning.values import Intent, Refusal
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
        candidate("FP8_BLOCK", gpus=2, intermediate_size=4480), "block", "a layer of 1024 x 2240 on each GPU is not made of whole",
    ),
    "blocks of a replicated KV head": (
        candidate("FP8_BLOCK", gpus=8), "block", "a layer of 1024 x 64 on each GPU",
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

"""What is chosen where several things fit: objectives, schemes that would have to be made, prices, speed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubequant.api.conditions import Reason
from kubequant.planning.engines.vllm import VLLM_0_33
from kubequant.planning.gpu_table import gpu_class_of, known_gpus
from kubequant.planning.plan import Measured, plan
from kubequant.planning.roofline import kv_bytes_read, roofline, work_of
from kubequant.planning.values import (
    CacheKind,
    CacheLayers,
    ComputeCapability,
    Evidence,
    Experts,
    Fleet,
    GpuClass,
    GpuOrigin,
    Intent,
    Measurement,
    ModelFacts,
    Objective,
    Plan,
    Refused,
    TensorClass,
)
from tests.unit.planning.golden import facts
from tests.unit.planning.models import GIB, ModelBuilder, model

INTENT = Intent(repository="org/base")


def card(
    product: str = "Card",
    memory_gib: int = 24,
    capability: str = "8.9",
    price: float | None = None,
    gpus: int = 1,
    nodes: int = 1,
) -> GpuClass:
    """1 TB/s, 165 TFLOPS in 16 bit and twice that in 8: an RTX 4090 by rates."""
    return GpuClass(
        product=product,
        label_memory_bytes=memory_gib * GIB,
        memory_bytes=memory_gib * GIB - GIB // 2,
        compute_capability=ComputeCapability.parse(capability),
        per_node=gpus,
        nodes=nodes,
        origin=GpuOrigin.TABLE,
        bandwidth_bytes_per_second=10**12,
        flops_16bit=165 * 10**12,
        flops_fp8=330 * 10**12,
        ops_int8=330 * 10**12,
        price_per_hour=price,
    )


def outcome(what: str | ModelBuilder, intent: Intent, *cards: GpuClass) -> Plan | Refused:
    builder = model(what) if isinstance(what, str) else what
    return plan(intent, builder.facts(), Fleet(tuple(cards), nodes=sum(card.nodes for card in cards)), VLLM_0_33)


def planned(what: str | ModelBuilder, intent: Intent, *cards: GpuClass) -> Plan:
    found = outcome(what, intent, *cards)
    assert isinstance(found, Plan), found
    return found


# --- schemes that would have to be made ------------------------------------------------------------------------------


def test_the_least_lossy_scheme_that_fits_is_taken_on_the_cheapest_card() -> None:
    by_memory = {24: "Unquantized", 16: "FP8", 12: "W4A16"}
    intent = replace(INTENT, concurrent_requests=4)
    found = {memory: planned("Llama-3.1-8B", intent, card(memory_gib=memory)) for memory in by_memory}
    assert {memory: plan.scheme for memory, plan in found.items()} == by_memory
    assert [plan.predicted for plan in found.values()] == [False, True, True]


def test_a_predicted_checkpoint_is_said_to_be_one() -> None:
    found = planned("Llama-3.1-8B", replace(INTENT, concurrent_requests=4), card(memory_gib=12))
    assert "no W4A16 checkpoint of org/Llama-3.1-8B was named: 5.3 GiB of weights are predicted" in found.notes[0]
    assert found.weight_bytes == pytest.approx(5.3 * GIB, rel=0.02)


def test_what_exists_goes_first_where_nothing_can_be_made() -> None:
    """A larger card with the 16-bit original before a smaller one with a checkpoint that nobody has."""
    cards = card("Large", 48), card("Small", 12)
    intent = replace(INTENT, concurrent_requests=4)
    assert planned("Llama-3.1-8B", intent, *cards).gpu.product == "Small"
    found = planned("Llama-3.1-8B", replace(intent, prefer_existing=True), *cards)
    assert (found.gpu.product, found.predicted) == ("Large", False)
    assert {other.gpu for other in found.alternatives} == {"Large", "Small"}


def test_below_native_fp8_four_bits_go_first() -> None:
    found = planned("Llama-3.1-8B", INTENT, card(memory_gib=20, capability="8.6"))
    assert (found.scheme, found.kernel) == ("W4A16", "Marlin")
    assert [other.scheme for other in found.alternatives] == ["W8A8"]
    assert [refusal.scheme for refusal in found.refusals if refusal.rule == "slower"] == ["FP8"]


def test_w4a16_is_refused_where_it_loses() -> None:
    """At 64 concurrent requests arithmetic binds, and W4A16 computes in 16 bit; at one request memory does."""
    busy = replace(INTENT, concurrent_requests=64, tokens_per_request=1024)
    found = planned("Llama-3.1-8B", busy, card(memory_gib=20))
    assert found.scheme == "FP8"
    (slower,) = [refusal for refusal in found.refusals if refusal.rule == "slower"]
    assert (slower.scheme, slower.reason) == ("W4A16", "SlowerThanAlternative")
    assert "FP8 fits and goes before it; W4A16 would take 1." in slower.message
    assert "times as long at 64 concurrent requests" in slower.message
    alone = planned("Llama-3.1-8B", replace(INTENT, concurrent_requests=1), card(memory_gib=20))
    assert "W4A16" in {other.scheme for other in alone.alternatives}


def test_small_models_keep_eight_bits_where_they_fit() -> None:
    found = planned("Qwen2.5-0.5B", INTENT, card())
    (small,) = [refusal for refusal in found.refusals if refusal.rule == "smallModel"]
    assert "a model of 0.5 billion weights 4 to 14 %" in small.message
    assert small.reason == "QualityTooLow"


def test_four_bit_floats_wait_for_a_gate_unless_asked_for() -> None:
    blackwell = card(memory_gib=32, capability="12.0")
    found = planned("Llama-3.1-8B", INTENT, blackwell)
    assert [refusal.reason for refusal in found.refusals if refusal.scheme == "NVFP4"] == ["NeedsQualityGate"]
    asked = planned("Llama-3.1-8B", replace(INTENT, scheme="NVFP4"), blackwell)
    assert (asked.scheme, asked.kernel, asked.predicted) == ("NVFP4", "FlashInfer CUTLASS", True)


def test_what_fits_only_in_a_gated_scheme_is_refused_with_the_way_to_ask_for_it() -> None:
    blackwell = replace(card(memory_gib=14, capability="12.0"), flops_fp4=1300 * 10**12)
    lite = facts("DeepSeek-V2-Lite")
    result = plan(INTENT, lite, Fleet((blackwell,), nodes=1), VLLM_0_33)
    assert isinstance(result, Refused)
    assert "Closest is Card x1 in NVFP4: NVFP4 fits, but is taken only when asked for" in result.message
    asked = plan(replace(INTENT, scheme="NVFP4"), lite, Fleet((blackwell,), nodes=1), VLLM_0_33)
    assert isinstance(asked, Plan)


@pytest.mark.parametrize("requests", [1, 4, 8, 12, 16])
def test_nothing_is_refused_for_something_that_is_refused_itself(requests: int) -> None:
    """A 32B on an RTX 5090 fits in W4A16 and NVFP4; the second waits for its gate and so is no reason against the first."""
    intent = replace(INTENT, concurrent_requests=requests)
    gpu = gpu_class_of(known_gpus()["NVIDIA-GeForce-RTX-5090"], 1)
    found = plan(intent, facts("Qwen2.5-32B"), Fleet((gpu,), nodes=1), VLLM_0_33)
    assert isinstance(found, Plan)
    assert found.scheme == "W4A16"
    assert {refusal.rule for refusal in found.refusals if refusal.scheme == "NVFP4"} == {"qualityGate"}


def test_a_scheme_that_cannot_be_made_is_refused_with_the_tensor() -> None:
    odd = model("Llama-3.1-8B").with_config(intermediate_size=14400)
    result = outcome(odd, replace(INTENT, scheme="W4A16"), card())
    assert isinstance(result, Refused)
    assert result.reason == Reason.NOT_QUANTIZABLE
    assert "14,400 inputs" in result.message
    assert planned(odd, INTENT, card(memory_gib=16)).scheme == "FP8"


def test_a_method_contradicting_the_checkpoint_is_refused() -> None:
    result = outcome(model("Llama-3.1-8B").stored_as("AWQ"), replace(INTENT, method="GPTQ"), card())
    assert isinstance(result, Refused)
    assert result.reason == Reason.SCHEME_MISMATCH
    assert "was made with AWQ" in result.message


# --- objectives ------------------------------------------------------------------------------------------------------


def test_prices_decide_where_all_are_given() -> None:
    cheap, dear = card("Big-and-cheap", 48, price=0.5), card("Small-and-dear", 24, price=0.9)
    found = planned("Llama-3.1-8B", INTENT, cheap, dear)
    assert (found.gpu.product, found.price_per_hour) == ("Big-and-cheap", 0.5)
    assert not [note for note in found.notes if "prices" in note]


def test_without_all_prices_memory_decides_and_that_is_said() -> None:
    found = planned("Llama-3.1-8B", INTENT, card("Priced", 48, price=0.1), card("Unpriced", 24))
    assert found.gpu.product == "Unpriced"
    assert "prices are given for some of the GPUs only, so GPU memory taken was compared instead" in found.notes


def test_objectives_choose_differently() -> None:
    cards = card("One", 24), card("Four", 24, gpus=4)
    one = replace(INTENT, concurrent_requests=1)
    found = {objective: planned("Llama-3.1-8B", replace(one, objective=objective), *cards) for objective in Objective}
    assert [(plan.scheme, plan.gpus_per_replica) for plan in found.values()] == [
        ("Unquantized", 1),
        ("W4A16", 4),
        ("W4A16", 4),
        ("Unquantized", 1),
    ]
    assert [plan.kv_cache_dtype for plan in found.values()] == ["FP8", "FP8", "FP8", "BF16"]
    busy = replace(INTENT, concurrent_requests=128, tokens_per_request=1024, objective=Objective.HIGHEST_THROUGHPUT)
    assert (planned("Llama-3.1-8B", busy, *cards).scheme, planned("Llama-3.1-8B", busy, *cards).gpus_per_replica) == (
        "FP8",
        4,
    )


def test_quality_goes_before_cost_only_where_it_is_asked() -> None:
    cards = card("Small", 12), card("Large", 80)
    cheap = planned("Llama-3.1-8B", replace(INTENT, concurrent_requests=4), *cards)
    best = planned("Llama-3.1-8B", replace(INTENT, concurrent_requests=4, objective=Objective.HIGHEST_QUALITY), *cards)
    assert (cheap.scheme, best.scheme, best.gpu.product) == ("W4A16", "Unquantized", "Large")


def test_unknown_rates_are_said_and_decide_nothing() -> None:
    unknown = replace(card(), bandwidth_bytes_per_second=None)
    found = planned("Llama-3.1-8B", replace(INTENT, objective=Objective.LOWEST_LATENCY), unknown)
    assert found.bounds is None
    assert "the bandwidth or peak of Card is not known: speed was not compared" in found.notes


@given(st.permutations([("A", 24), ("B", 24), ("C", 48), ("D", 80)]), st.sampled_from(list(Objective)))
def test_the_order_of_the_fleet_does_not_matter(names: list[tuple[str, int]], objective: Objective) -> None:
    intent = replace(INTENT, objective=objective)
    cards = [card(name, memory, gpus=2) for name, memory in names]
    found = planned("Llama-3.1-8B", intent, *cards)
    same = planned("Llama-3.1-8B", intent, *sorted(cards, key=lambda card: card.product))
    assert (found.gpu, found.scheme, found.arguments) == (same.gpu, same.scheme, same.arguments)
    assert {other.message for other in found.alternatives} == {other.message for other in same.alternatives}


# --- bounds ----------------------------------------------------------------------------------------------------------


def test_the_bound_of_decoding_is_bytes_over_bandwidth() -> None:
    """14B AWQ at batch 1 on 1,008 GB/s: 8.42 GB a token, so at most 120 tokens a second; a seed says 135."""
    qwen = replace(model("Qwen2.5-7B"), config={**model("Qwen2.5-7B").config, "num_hidden_layers": 48, "hidden_size": 5120,
        "intermediate_size": 13824, "num_attention_heads": 40, "num_key_value_heads": 8}).stored_as("AWQ")  # fmt: skip
    gpu = replace(card(), bandwidth_bytes_per_second=1_008 * 10**9)
    found = roofline(work_of(qwen.facts(), "BF16", 1, 1), gpu, 1, "W4A16", 1, 48)
    assert found is not None
    assert found.bounds().decode_tokens_per_second == pytest.approx(120, rel=0.01)


def test_only_experts_that_are_asked_are_read() -> None:
    dense = TensorClass("model.layers.*.self_attn.q_proj.weight", "BF16", (100, 100), 1, 20_000)
    experts = TensorClass("model.layers.*.mlp.experts.*.up_proj.weight", "BF16", (100, 100), 8, 160_000)
    shape = replace(model("Tiny").shape(), experts=Experts(8, 2, 1, 100))
    mixture = ModelFacts("org/moe", "0" * 40, shape, (dense, experts), None, 0)
    one, many = work_of(mixture, "BF16", 1, 1), work_of(mixture, "BF16", 64, 1)
    assert one.weight_bytes == pytest.approx(20_000 + 160_000 * 2 / 8)
    assert many.weight_bytes == pytest.approx(180_000, rel=1e-6)
    assert one.flops_per_token == many.flops_per_token == 2 * (10_000 + 80_000 * 2 / 8)


def work_bytes(*tensors: TensorClass, **fields: Any) -> float:
    """Of one step with one request."""
    shape = replace(model("Tiny").shape(), **fields)
    facts = ModelFacts("org/model", "0" * 40, shape, tensors, None, 0)
    return work_of(facts, "BF16", 1, 1).weight_bytes


LAYER = TensorClass("model.layers.*.self_attn.q_proj.weight", "BF16", (256, 256), 2, 1000)


def test_experts_under_any_name_are_read_by_those_asked() -> None:
    granite = TensorClass("model.layers.*.block_sparse_moe.input_linear.weight", "BF16", (8, 1024, 256), 2, 80_000)
    router = TensorClass("model.layers.*.block_sparse_moe.router.layer.weight", "BF16", (8, 256), 2, 8_000)
    assert work_bytes(granite, router, experts=Experts(8, 2, 2, 512)) == pytest.approx(80_000 * 2 / 8 + 8_000)


@pytest.mark.parametrize(
    "unread",
    [
        "visual.blocks.*.mlp.fc1.weight",
        "model.vision_tower.layers.*.self_attn.q_proj.weight",
        "multi_modal_projector.linear_1.weight",
        "model.layers.+.mlp.down_proj.weight",
        "mtp.layers.*.mlp.down_proj.weight",
        "model.layers.*.self_attn.rotary_emb.inv_freq",
        "gpt_neox.embed_in.weight",
        "backbone.embeddings.weight",
        "transformer.wte.weight",
    ],
)
def test_what_decoding_does_not_touch_is_not_read(unread: str) -> None:
    assert work_bytes(LAYER, TensorClass(unread, "BF16", (256, 256), 1, 500)) == 1000


def test_a_tied_embedding_is_read_once_as_the_head() -> None:
    embedding = TensorClass("model.embed_tokens.weight", "BF16", (1024, 256), 1, 500)
    head = TensorClass("lm_head.weight", "BF16", (1024, 256), 1, 500)
    by_layer = TensorClass("model.embed_tokens_per_layer.weight", "BF16", (1024, 256), 1, 700)
    assert work_bytes(LAYER, embedding, head, by_layer, tie_word_embeddings=True) == 1500
    assert work_bytes(LAYER, embedding, head, by_layer) == 1500


def test_a_float32_model_is_read_in_16_bit() -> None:
    assert work_bytes(replace(LAYER, dtype="F32")) == 500


def test_windows_bound_what_attention_reads() -> None:
    caches = (
        CacheLayers(CacheKind.FULL, 1, 8, 64, 64),
        CacheLayers(CacheKind.SLIDING, 1, 8, 64, 64, window=128),
        CacheLayers(CacheKind.LATENT, 1, 1, 576),
    )
    shape = replace(model("Tiny").shape(), caches=caches)
    assert kv_bytes_read(shape, "BF16", 1000) == 2 * (1000 * 8 * 128 + 128 * 8 * 128 + 1000 * 576)
    assert kv_bytes_read(shape, "FP8", 1000) == kv_bytes_read(shape, "BF16", 1000) / 2


# --- placement -------------------------------------------------------------------------------------------------------


def test_several_nodes_would_do_but_need_a_leader_worker_set() -> None:
    result = outcome("Llama-3.1-70B", replace(INTENT, scheme="Unquantized"), card(gpus=4, nodes=4))
    assert isinstance(result, Refused)
    assert result.reason == Reason.DOES_NOT_FIT
    assert result.refusals[0].reason == "NeedsLeaderWorkerSet"
    assert "Card x8: the largest node has 4; a replica over several nodes needs pipeline parallelism" in result.message
    alone = outcome("Llama-3.1-70B", replace(INTENT, scheme="Unquantized"), card(gpus=4, nodes=1))
    assert isinstance(alone, Refused)
    assert "LeaderWorkerSet" not in alone.message


def test_ranks_do_not_span_mig_slices() -> None:
    slices = replace(card("A100-MIG-3g.40gb", 40), mig_profile="3g.40gb")
    result = outcome("Llama-3.1-8B", replace(INTENT, gpus_per_replica=2), replace(slices, per_node=2))
    assert isinstance(result, Refused)
    assert {refusal.reason for refusal in result.refusals} == {"NotWanted", "SliceCannotBeSpanned"}
    assert planned("Llama-3.1-8B", INTENT, slices).gpu.mig_profile == "3g.40gb"


def test_the_gain_of_an_fp8_kv_cache_is_reported() -> None:
    found = planned("Llama-3.1-8B", INTENT, card())
    assert found.kv_cache_dtype == "FP8"
    assert found.kv_cache_tokens_16bit is not None
    assert found.kv_cache_tokens / found.kv_cache_tokens_16bit == pytest.approx(2, rel=0.1)
    on_ampere = planned("Llama-3.1-8B", INTENT, card(capability="8.6"))
    assert (on_ampere.kv_cache_dtype, on_ampere.kv_cache_tokens_16bit) == ("BF16", None)


# --- evidence --------------------------------------------------------------------------------------------------------


def test_a_measured_start_up_replaces_the_extrapolation_where_it_holds() -> None:
    before = planned("Llama-3.1-8B", INTENT, card())
    found = Measurement(before.budget.expected_kv_cache_bytes, before.budget.expected_kv_cache_bytes + GIB // 4)
    here = Measured(VLLM_0_33.version, "Card", 1, "Unquantized", found)
    fleet = Fleet((card(),), nodes=1)
    after = plan(INTENT, model("Llama-3.1-8B").facts(), fleet, VLLM_0_33, (here,))
    assert isinstance(after, Plan)
    assert (before.evidence, after.evidence) == (Evidence.EXTRAPOLATED, Evidence.MEASURED)
    assert after.budget.margin_bytes < before.budget.margin_bytes
    assert after.budget.kv_cache_bytes > before.budget.kv_cache_bytes
    absurd = replace(here, measurement=replace(found, measured_kv_cache_bytes=500 * GIB))
    believed = plan(INTENT, model("Llama-3.1-8B").facts(), fleet, VLLM_0_33, (absurd,))
    assert isinstance(believed, Plan)
    assert believed.budget.non_torch_bytes == 0, "no measurement makes the computed lines smaller"
    assert believed.budget.expected_kv_cache_bytes < before.budget.usable_bytes - before.budget.weights_bytes
    for elsewhere in (replace(here, gpu="Other"), replace(here, engine_version="0.32.0"), replace(here, scheme="FP8")):
        same = plan(INTENT, model("Llama-3.1-8B").facts(), fleet, VLLM_0_33, (elsewhere,))
        assert isinstance(same, Plan)
        assert same.budget == before.budget

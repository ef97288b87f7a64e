"""Decisions: oracles from real models and cards, refusals with their numbers, the order of choice."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubequant.api.conditions import Reason
from kubequant.planning.engines.vllm import VLLM_0_33
from kubequant.planning.gpus import NodeFacts, known_gpus
from kubequant.planning.plan import plan
from kubequant.planning.values import (
    ComputeCapability,
    Evidence,
    Fleet,
    Intent,
    KvCacheDtype,
    ModelFacts,
    Plan,
    Refused,
)
from tests.unit.planning.models import GIB, ModelBuilder, fleet, model, node

RTX_4090 = "NVIDIA-GeForce-RTX-4090"
INTENT = Intent(repository="org/base")


def planned(what: ModelBuilder | ModelFacts, gpus: Fleet, intent: Intent = INTENT) -> Plan:
    result = plan(intent, what.facts() if isinstance(what, ModelBuilder) else what, gpus, VLLM_0_33)
    assert isinstance(result, Plan), result
    return result


def refused(what: ModelBuilder | ModelFacts, gpus: Fleet, intent: Intent = INTENT) -> Refused:
    result = plan(intent, what.facts() if isinstance(what, ModelBuilder) else what, gpus, VLLM_0_33)
    assert isinstance(result, Refused), result
    return result


def argument(found: Plan, name: str) -> str | None:
    pairs = dict(zip(found.arguments, found.arguments[1:], strict=False))
    return pairs.get(name)


# --- oracles ---------------------------------------------------------------------------------------------------------


def test_70b_awq_is_refused_on_one_24_gb_card_with_the_numbers() -> None:
    result = refused(model("Llama-3.1-70B").stored_as("AWQ"), fleet(node(RTX_4090)))
    assert result.reason == Reason.DOES_NOT_FIT
    assert f"{RTX_4090} x1: W4A16 weights need 37.1 GiB, 22.5 GiB available" in result.message
    assert f"4 {RTX_4090} in one node (the largest has 1)" in result.message
    assert "one GPU of at least 52 GiB" in result.message
    (only,) = result.refusals
    assert only.rule == "weights"
    assert dict(only.numbers)["weights_bytes"] / GIB == pytest.approx(37.1, abs=0.05)


def test_advice_holds() -> None:
    """What a refusal says would help does help."""
    awq = model("Llama-3.1-70B").stored_as("AWQ")
    assert planned(awq, fleet(node(RTX_4090, gpus=4))).gpus_per_replica == 4
    assert planned(awq, fleet(node("Some-GPU", memory_mib=52 * 1024, capability="8.9"))).gpus_per_replica == 1


def test_group_across_ranks_is_refused_and_padded_model_is_not() -> None:
    """29,568 = 231 x 128 does not split in two; the GPTQ export is padded to 29,696 = 232 x 128."""
    two = replace(INTENT, gpus_per_replica=2)
    cards = fleet(node("NVIDIA-A100-SXM4-80GB", gpus=8))
    result = refused(model("Qwen2.5-72B").stored_as("AWQ"), cards, two)
    split = next(refusal for refusal in result.refusals if refusal.gpus == 2)
    assert split.rule == "groupSize"
    assert "29568 over 2 GPUs are 14784 each, which groups of 128 do not divide" in split.message
    assert result.message.endswith(split.message)
    found = planned(model("Qwen2.5-72B-padded").stored_as("GPTQ"), cards, two)
    assert (found.gpus_per_replica, found.method, found.kernel) == (2, "GPTQ", "Marlin")


def test_70b_fp8_on_one_h200() -> None:
    demand = replace(INTENT, kv_cache_dtype=KvCacheDtype.BF16)
    bf16 = planned(model("Llama-3.1-70B").stored_as("FP8"), fleet(node("NVIDIA-H200")), demand)
    fp8 = planned(model("Llama-3.1-70B").stored_as("FP8"), fleet(node("NVIDIA-H200")))
    assert (bf16.kv_cache_dtype, fp8.kv_cache_dtype, bf16.kernel) == ("BF16", "FP8", "CUTLASS")
    # engine defaults of old gave 174,336 at 0.9 and 1,024 sequences
    assert 174_336 < bf16.kv_cache_tokens < bf16.expected_kv_cache_tokens < 230_000
    assert fp8.kv_cache_tokens / bf16.kv_cache_tokens == pytest.approx(2, abs=0.01)
    assert fp8.context_tokens == 131072
    assert fp8.evidence is Evidence.EXTRAPOLATED


def test_int8_does_not_run_on_blackwell() -> None:
    result = refused(model("Llama-3.1-8B").stored_as("W8A8"), fleet(node("NVIDIA-B200")))
    assert "no kernel for W8A8 at compute capability 10.0" in result.message


def test_fictional_card_is_planned_like_any_other() -> None:
    found = planned(model("Tiny"), fleet(node("Example-Fake-GPU", memory_mib=3072, capability="8.9")))
    assert found.gpu.product == "Example-Fake-GPU"
    assert found.context_tokens == 2048


# --- choice ----------------------------------------------------------------------------------------------------------


def test_least_memory_taken_wins_and_the_rest_are_alternatives() -> None:
    cards = fleet(node("NVIDIA-H100-80GB-HBM3", gpus=8), node("NVIDIA-L4", gpus=4), node("NVIDIA-A10", gpus=2))
    found = planned(model("Qwen2.5-7B"), cards, replace(INTENT, scheme="Unquantized"))
    assert (found.gpu.product, found.gpus_per_replica) == ("NVIDIA-A10", 1)
    assert [(other.gpu, other.gpus) for other in found.alternatives][:3] == [
        ("NVIDIA-L4", 1), ("NVIDIA-A10", 2), ("NVIDIA-L4", 2),
    ]  # fmt: skip
    assert [(refusal.gpu, refusal.gpus, refusal.rule) for refusal in found.refusals] == [
        ("NVIDIA-H100-80GB-HBM3", 8, "heads")
    ]


def test_fewer_gpus_win_at_equal_memory() -> None:
    cards = fleet(
        node("A-Half", gpus=2, memory_mib=24 * 1024, capability="8.9"),
        node("B-Whole", memory_mib=48 * 1024, capability="8.9"),
    )
    found = planned(model("Llama-3.1-8B"), cards, replace(INTENT, min_memory_bytes=0, concurrent_requests=64))
    assert (found.gpu.product, found.gpus_per_replica) == ("B-Whole", 1)


def test_several_gpus_where_one_is_too_small() -> None:
    intent = replace(INTENT, scheme="Unquantized", concurrent_requests=4)
    found = planned(model("Llama-3.1-8B"), fleet(node("Tesla-T4", gpus=4)), intent)
    assert found.gpus_per_replica == 2
    assert argument(found, "--tensor-parallel-size") == "2"
    assert argument(found, "--dtype") == "half"
    assert found.kv_cache_dtype == "F16"
    assert argument(found, "--kv-cache-dtype") is None


@given(st.permutations([node("NVIDIA-L4", name="a"), node("NVIDIA-A10", name="b"), node("Tesla-T4", gpus=4, name="c")]))
def test_order_of_nodes_does_not_matter(nodes: list[NodeFacts]) -> None:
    assert planned(TINY_FACTS, fleet(*nodes)) == planned(
        TINY_FACTS, fleet(*sorted(nodes, key=lambda facts: facts.name))
    )


TINY_FACTS = model("Tiny").facts()


@given(st.sampled_from(sorted(known_gpus())), st.integers(1, 8), st.sampled_from(["AWQ", "FP8", "Unquantized"]))
def test_a_plan_keeps_its_promise_by_its_own_figures(product: str, gpus: int, scheme: str) -> None:
    result = plan(INTENT, FACTS_8B[scheme], fleet(node(product, gpus=gpus)), VLLM_0_33)
    if isinstance(result, Plan):
        budget = result.budget
        assert result.kv_cache_tokens >= max(result.context_tokens, 16 * 4096)
        assert result.kv_cache_tokens * budget.kv_bytes_per_token <= budget.kv_cache_bytes
        assert result.gpus_per_replica <= gpus
        assert "--quantization" not in result.arguments
    else:
        assert result.message
        assert result.reason in (Reason.DOES_NOT_FIT, Reason.NO_GPU_LABELS)


FACTS_8B = {scheme: model("Llama-3.1-8B").stored_as(scheme).facts() for scheme in ("AWQ", "FP8", "Unquantized")}


# --- demand ----------------------------------------------------------------------------------------------------------


def test_context_grows_with_the_card_up_to_the_models_own() -> None:
    l4 = planned(model("Llama-3.1-8B").stored_as("FP8"), fleet(node("NVIDIA-A10")))
    assert 65536 <= l4.context_tokens == l4.kv_cache_tokens < 131072
    h100 = planned(model("Llama-3.1-8B"), fleet(node("NVIDIA-H100-80GB-HBM3")))
    assert h100.context_tokens == 131072
    assert argument(h100, "--max-model-len") == "131072"


def test_demand_is_the_larger_of_context_and_requests() -> None:
    card = fleet(node("NVIDIA-A10"))
    many = replace(INTENT, context_tokens=4096, concurrent_requests=64)
    result = refused(model("Llama-3.1-8B"), card, many)
    assert "64 requests x 4,096 tokens each, together 262,144 tokens needs 32.0 GiB of BF16 KV cache" in result.message
    assert "serving.concurrentRequests of at most " in result.message
    fewer = int(result.message.partition("serving.concurrentRequests of at most ")[2].partition(";")[0])
    assert planned(model("Llama-3.1-8B"), card, replace(many, concurrent_requests=fewer)).concurrent_requests == fewer


def test_context_that_does_not_fit_names_the_one_that_does() -> None:
    card, long = fleet(node("NVIDIA-A10")), replace(INTENT, context_tokens=131072, concurrent_requests=1)
    result = refused(model("Llama-3.1-8B"), card, long)
    assert result.refusals[0].rule == "context"
    shorter = int(result.message.partition("serving.contextTokens of at most ")[2].partition(";")[0])
    assert planned(model("Llama-3.1-8B"), card, replace(long, context_tokens=shorter)).context_tokens == shorter


def test_small_context_means_small_requests() -> None:
    found = planned(model("Llama-3.1-8B"), fleet(node("NVIDIA-A10")), replace(INTENT, context_tokens=1024))
    assert found.context_tokens == 1024
    assert argument(found, "--max-num-seqs") == "16"


def test_large_card_takes_the_smaller_prefill_batch_where_only_that_fits() -> None:
    facts = model("Llama-3.1-70B").stored_as("FP8").facts()
    roomy = planned(facts, fleet(node("NVIDIA-H200")))
    assert argument(roomy, "--max-num-batched-tokens") == "8192"
    tight = planned(facts, fleet(node("NVIDIA-H100-80GB-HBM3")), replace(INTENT, concurrent_requests=12))
    assert argument(tight, "--max-num-batched-tokens") == "2048"


# --- KV dtype --------------------------------------------------------------------------------------------------------


def test_fp8_kv_cache_is_opt_in_on_ampere_and_never_on_turing() -> None:
    wanted = replace(INTENT, kv_cache_dtype=KvCacheDtype.FP8)
    small = model("Qwen2.5-0.5B")
    assert planned(small, fleet(node("NVIDIA-A10"))).kv_cache_dtype == "BF16"
    opted_in = planned(small, fleet(node("NVIDIA-A10")), wanted)
    assert (opted_in.kv_cache_dtype, argument(opted_in, "--kv-cache-dtype")) == ("FP8", "fp8")
    result = refused(small, fleet(node("Tesla-T4")), wanted)
    assert "an FP8 KV cache needs compute capability 8.0, this GPU has 7.5" in result.message


def test_sixteen_bit_where_the_workspace_of_fp8_has_no_room() -> None:
    few = replace(INTENT, concurrent_requests=1)
    found = planned(model("Tiny"), fleet(node("Example-Fake-GPU", memory_mib=2500, capability="8.9")), few)
    assert (found.kv_cache_dtype, argument(found, "--kv-cache-dtype")) == ("BF16", None)


def test_fp8_scales_of_the_checkpoint_do_not_decide_on_a_lower_gpu() -> None:
    brought = model("Llama-3.1-8B").stored_as("FP8").with_fp8_kv_scales()
    assert argument(planned(brought, fleet(node("NVIDIA-A10"))), "--kv-cache-dtype") == "bfloat16"
    assert argument(planned(brought, fleet(node("NVIDIA-L4"))), "--kv-cache-dtype") == "fp8"


# --- refusals --------------------------------------------------------------------------------------------------------

L4 = fleet(node("NVIDIA-L4"))
REFUSED: dict[str, tuple[Fleet, Intent, Reason, str]] = {
    "no nodes": (fleet(), INTENT, Reason.NO_NODES, "no nodes"),
    "no GPU nodes": (fleet(NodeFacts("cpu", {}, {})), INTENT, Reason.NO_GPU_NODES, "none of the 1 nodes"),
    "no labels": (
        fleet(NodeFacts("bare", {}, {"nvidia.com/gpu": "8"})), INTENT, Reason.NO_GPU_LABELS, "install GPU Feature Discovery",
    ),
    "only MIG": (
        fleet(NodeFacts("cut", {}, {"nvidia.com/mig-1g.10gb": "7"})), INTENT, Reason.NO_MATCHING_GPU, "MIG slices",
    ),
    "other products": (
        L4, replace(INTENT, products=("NVIDIA-H200",)), Reason.NO_MATCHING_GPU, "NVIDIA-L4 (22.5 GiB, up to 1 a node)",
    ),
    "more memory": (L4, replace(INTENT, min_memory_bytes=40 * GIB), Reason.NO_MATCHING_GPU, "asks for 40.0 GiB"),
    "newer": (
        L4, replace(INTENT, min_compute_capability=ComputeCapability(10, 0)), Reason.NO_MATCHING_GPU, "asks for 10.0",
    ),
    "more GPUs": (L4, replace(INTENT, gpus_per_replica=2), Reason.NO_MATCHING_GPU, "over several nodes needs"),
    "another scheme": (L4, replace(INTENT, scheme="FP8"), Reason.SCHEME_MISMATCH, "org/Llama-3.1-8B is W4A16"),
    "too long": (L4, replace(INTENT, context_tokens=200_000), Reason.CONTEXT_TOO_LONG, "allows 131,072"),
    "request too long": (L4, replace(INTENT, tokens_per_request=200_000), Reason.CONTEXT_TOO_LONG, "tokensPerRequest"),
    "request above context": (
        L4, replace(INTENT, context_tokens=1024, tokens_per_request=2048), Reason.CONTEXT_TOO_LONG, "above serving.contextTokens",
    ),
    "foreign argument": (
        L4, replace(INTENT, engine_arguments=(("trust-remote-code", "true"),)), Reason.ARGUMENT_NOT_ALLOWED, "not allowed",
    ),
    "old GPU": (
        fleet(node("Tesla-V100-SXM2-16GB")), INTENT, Reason.DOES_NOT_FIT, "has compute capability 7.0, vllm 0.33.0 needs 7.5",
    ),
    "all of it reserved": (
        L4, replace(INTENT, reserved_memory_bytes=30 * GIB), Reason.DOES_NOT_FIT, "0.0 MiB available",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_say_what_and_why(case: str) -> None:
    gpus, intent, reason, said = REFUSED[case]
    result = refused(FACTS_8B["AWQ"], gpus, intent)
    assert result.reason == reason
    assert said in result.message


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("num_hidden_layers", 16, "16 layers, the headers hold 32"),
        ("vocab_size", 32000, "the headers hold 128256 x 4096"),
    ],
)
def test_config_that_contradicts_the_headers_is_not_planned(field: str, value: int, said: str) -> None:
    facts = FACTS_8B["AWQ"]
    result = refused(replace(facts, shape=replace(facts.shape, **{field: value})), L4)
    assert result.reason == Reason.CORRUPT_CHECKPOINT
    assert said in result.message


def test_closest_candidate_speaks() -> None:
    cards = fleet(node("Tesla-V100-SXM2-16GB"), node("Tesla-T4"), node("NVIDIA-A10", gpus=2))
    result = refused(model("Llama-3.1-70B").stored_as("AWQ"), cards)
    assert "NVIDIA-A10 x2" in result.message
    assert {refusal.gpu for refusal in result.refusals} == {"Tesla-V100-SXM2-16GB", "Tesla-T4", "NVIDIA-A10"}


def test_nodes_that_were_not_counted_are_named() -> None:
    cards = fleet(
        node("NVIDIA-L4"),
        NodeFacts("cut", {}, {"nvidia.com/mig-7g.141gb": "1"}),
        NodeFacts("bare", {}, {"nvidia.com/gpu": "8"}),
    )
    result = refused(model("Llama-3.1-70B"), cards)
    assert result.reason == Reason.DOES_NOT_FIT
    assert "Not counted: node bare advertises 8 nvidia.com/gpu but has no label" in result.message
    assert result.message.endswith("(and 1 more)")


def test_number_of_gpus_that_does_not_divide() -> None:
    three = refused(FACTS_8B["AWQ"], fleet(node("NVIDIA-L4", gpus=4)), replace(INTENT, gpus_per_replica=3))
    assert "32 attention heads do not divide by 3" in three.message


def test_a_scheme_that_cannot_be_made_is_among_the_refusals() -> None:
    odd = model("Llama-3.1-8B").with_config(intermediate_size=14400)
    found = planned(odd, fleet(node("NVIDIA-L40S")))
    (four_bits,) = [refusal for refusal in found.refusals if refusal.scheme == "W4A16"]
    assert (four_bits.gpu, four_bits.reason) == ("", "CannotBeMade")
    assert "W4A16 cannot be made: model.layers.*.mlp.down_proj.weight has 14,400 inputs" in four_bits.message


def test_what_needs_the_repositorys_code_is_said_before_anything_is_bought() -> None:
    """Whether or not it fits: the rest is refused with its own reasons."""
    other = model("Qwen2.5-72B").stored_as("AWQ")
    facts = replace(other.facts(), shape=replace(other.shape(), architecture="InternVLChatModel"))
    for cards in (fleet(node("NVIDIA-A100-SXM4-80GB", gpus=2)), fleet(node("NVIDIA-L40S", gpus=2))):
        result = refused(facts, cards)
        assert result.reason == Reason.UNSUPPORTED_ARCHITECTURE
        assert "trust_remote_code" in result.message
        assert "29568 over 2 GPUs are 14784 each" in next(one.message for one in result.refusals if one.gpus == 2)


def test_alternatives_are_bounded_and_every_refusal_is_kept() -> None:
    many = fleet(*(node(f"Card-{number}", memory_mib=24576, gpus=8) for number in range(30)))
    found = planned(FACTS_8B["AWQ"], many)
    assert len(found.alternatives) == 8
    result = refused(
        model("Qwen2.5-72B").stored_as("AWQ"), many, replace(INTENT, context_tokens=32768, concurrent_requests=500)
    )
    assert {(refusal.gpu, refusal.gpus) for refusal in result.refusals} == {
        (f"Card-{number}", gpus) for number in range(30) for gpus in (1, 2, 4, 8)
    }

"""The budget adds up, behaves as memory does, and agrees with real start-ups (tests/unit/bench/test_vram.py, all of them)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubequant.planning.engines import overheads, vllm
from kubequant.planning.kv_cache import kv_layout
from kubequant.planning.memory import (
    EngineLoad,
    ExpertKernel,
    Lora,
    Measurement,
    Speculation,
    activation_bytes,
    cuda_graph_bytes,
    expert_workspace_bytes,
    load_peak_bytes,
    lora_bytes,
    memory_budget,
    non_torch_bytes,
)
from kubequant.planning.tensors import weights_per_rank
from kubequant.planning.values import CacheKind, CacheLayers, Evidence, Experts, ModelShape, StateTensor
from tests.unit.planning.models import GIB, MIB, model

NEW = overheads.SINCE_0_30


def load_of(name: str, scheme: str = "Unquantized", *, ranks: int = 1, seqs: int = 16, batch: int = 2048) -> EngineLoad:
    facts = model(name).stored_as(scheme).facts()
    return EngineLoad(facts.shape, weights_per_rank(facts, ranks), ranks, seqs, batch, "BF16")


QWEN3_30B = ModelShape(
    "Qwen3MoeForCausalLM", "qwen3_moe", 48, 2048, 6144, 32, 4, 128, 151936, 40960, False, "BF16",
    experts=Experts(experts=128, per_token=8, layers=48, intermediate_size=768),
)  # fmt: skip
HYBRID = ModelShape(
    "Qwen3_5ForConditionalGeneration", "qwen3_5", 64, 5120, 17408, 24, 4, 256, 248320, 262144, False, "BF16",
    caches=(
        CacheLayers(CacheKind.FULL, 16, 4, 256, 256),
        CacheLayers(CacheKind.STATE, 48, state=(StateTensor(48, 128 * 128, "F32"),)),
    ),
    multimodal=True,
)  # fmt: skip

LOADS = st.builds(
    EngineLoad,
    shape=st.sampled_from([model("Llama-3.1-8B").shape(), model("Qwen2.5-0.5B").shape(), QWEN3_30B, HYBRID]),
    weight_bytes=st.integers(0, 80 * GIB),
    tensor_parallel_size=st.sampled_from([1, 2, 8]),
    max_num_seqs=st.integers(1, 1024),
    max_num_batched_tokens=st.integers(1024, 16384),
    kv_cache_dtype=st.sampled_from(["BF16", "FP8"]),
    nvlink=st.booleans(),
    attention_workspace_bytes=st.sampled_from([0, 394 * MIB]),
    pipeline_parallel_size=st.sampled_from([1, 2, 4]),
    enforce_eager=st.booleans(),
    expert_kernel=st.sampled_from(ExpertKernel),
    lora=st.none() | st.builds(Lora, st.integers(1, 16), st.sampled_from([8, 16, 64])),
    speculation=st.none() | st.builds(Speculation, st.integers(1, 5), st.integers(0, 4 * GIB)),
)
TOTALS = st.integers(1 * GIB, 300 * GIB)


def tokens_of(load: EngineLoad, cache_bytes: int) -> int:
    return kv_layout(load.shape, load.kv_cache_dtype, load.tensor_parallel_size).tokens_in(cache_bytes, 8192)


@given(LOADS, TOTALS, st.integers(0, 4 * GIB))
def test_lines_sum_to_what_the_engine_may_use(load: EngineLoad, total: int, reserved: int) -> None:
    budget = memory_budget(load, total, NEW, reserved)
    lines = budget.weights_bytes + budget.activation_bytes + budget.cuda_graphs_bytes + budget.non_torch_bytes
    assert lines + budget.margin_bytes + budget.kv_cache_bytes == budget.usable_bytes
    assert budget.expected_kv_cache_bytes - budget.kv_cache_bytes == budget.margin_bytes > 0
    assert budget.usable_bytes == 0 or budget.total_bytes - budget.usable_bytes >= budget.context_bytes + reserved
    assert 0 <= budget.gpu_memory_utilization < 1


@given(LOADS, TOTALS, st.integers(1, 16 * GIB))
def test_more_memory_never_gives_fewer_tokens(load: EngineLoad, total: int, more: int) -> None:
    small, large = memory_budget(load, total, NEW), memory_budget(load, total + more, NEW)
    one_step = (total + more) // 1000 + 1  # the utilisation is rounded down to a thousandth
    assert large.kv_cache_bytes >= small.kv_cache_bytes - one_step


@given(st.integers(0, 40 * GIB), TOTALS)
def test_heavier_weights_leave_less(weight_bytes: int, total: int) -> None:
    load = replace(load_of("Tiny"), weight_bytes=weight_bytes)
    heavier = replace(load, weight_bytes=weight_bytes + MIB)
    assert memory_budget(heavier, total, NEW).kv_cache_bytes < memory_budget(load, total, NEW).kv_cache_bytes


def test_fp8_kv_cache_about_doubles_tokens() -> None:
    load = load_of("Llama-3.1-8B")
    sizes = []
    for dtype in ("BF16", "FP8"):
        asked = replace(load, kv_cache_dtype=dtype)
        sizes.append(tokens_of(asked, memory_budget(asked, 80 * GIB, NEW).kv_cache_bytes))
    assert sizes[1] / sizes[0] == pytest.approx(2, abs=0.001)


def test_utilisation_leaves_room_for_the_context() -> None:
    small = memory_budget(load_of("Tiny"), 15 * GIB, NEW)
    assert small.gpu_memory_utilization == 0.933
    large = memory_budget(load_of("Tiny"), 140 * GIB, NEW)
    assert large.gpu_memory_utilization == 0.979
    parallel = memory_budget(load_of("Llama-3.1-8B", ranks=2), 15 * GIB, NEW)
    assert parallel.gpu_memory_utilization < small.gpu_memory_utilization - 0.04


def test_reserved_memory_is_left_alone() -> None:
    budget = memory_budget(load_of("Tiny"), 24 * GIB, NEW, reserved_bytes=2 * GIB)
    assert budget.total_bytes - budget.usable_bytes >= 3 * GIB


def test_sampling_many_requests_at_once_needs_room_outside_the_profile() -> None:
    few, many = (memory_budget(load_of("Qwen2.5-7B", seqs=n), 80 * GIB, NEW).context_bytes for n in (16, 1024))
    assert (many - few) / GIB == pytest.approx(23.85 * 1008 * 152064 / GIB, rel=0.01)


# --- against reality -------------------------------------------------------------------------------------------------


def test_llama_70b_fp8_on_one_h200() -> None:
    """A start-up with the defaults of engines up to 0.16: 72.6 GiB beside the cache, 174,336 tokens in 16 bit."""
    load = load_of("Llama-3.1-70B", "FP8", seqs=1024, batch=8192)
    budget = memory_budget(load, int(139.8 * GIB), overheads.UP_TO_0_16, gpu_memory_utilization=0.9)
    assert (budget.usable_bytes - budget.expected_kv_cache_bytes) / GIB == pytest.approx(72.6, abs=0.2)
    expected = tokens_of(load, budget.expected_kv_cache_bytes)
    assert expected == pytest.approx(174_336, rel=0.005)
    assert tokens_of(load, budget.kv_cache_bytes) < 174_336


@pytest.mark.parametrize(
    ("tokens", "batch", "ranks", "real_gib"),
    [("sampler and experts", 8192, 1, 2.68), ("experts split", 8192, 4, 2.64)],
)
def test_qwen3_30b_activation_at_0_19(tokens: str, batch: int, ranks: int, real_gib: float) -> None:
    """1,024 sequences on H100: the sampler's logits on top of the buffers of eight experts a token."""
    load = EngineLoad(QWEN3_30B, 57 * GIB // ranks, ranks, 1024, batch, "BF16")
    assert activation_bytes(load, overheads.UP_TO_0_20) / GIB == pytest.approx(real_gib, abs=0.06), tokens


def test_mixtral_activation_at_0_19() -> None:
    """A small vocabulary: experts outweigh the sampler, and both are there at once (1.21 GiB at TP 2)."""
    experts = Experts(experts=8, per_token=2, layers=32, intermediate_size=14336)
    shape = replace(model("Llama-3.1-8B").shape(), vocab_size=32000, experts=experts, intermediate_size=0)
    load = EngineLoad(shape, 44 * GIB, 2, 1024, 8192, "BF16")
    assert activation_bytes(load, overheads.UP_TO_0_20) / GIB == pytest.approx(1.21, abs=0.03)


def test_mxfp4_experts_give_their_buffers_back() -> None:
    """gpt-oss-20b at 0.19: 2.87 GiB, the sampler alone."""
    experts = Experts(experts=32, per_token=4, layers=24, intermediate_size=2880)
    shape = replace(QWEN3_30B, hidden_size=2880, vocab_size=201088, experts=experts, intermediate_size=0)
    load = EngineLoad(shape, 14 * GIB, 1, 1024, 8192, "BF16", expert_kernel=ExpertKernel.MXFP4)
    assert activation_bytes(load, overheads.UP_TO_0_20) / GIB == pytest.approx(2.87, abs=0.04)


def test_deep_gemm_holds_more_than_triton() -> None:
    load = EngineLoad(QWEN3_30B, GIB, 1, 16, 8192, "BF16")
    rows = 8192 * 8
    assert expert_workspace_bytes(load) == rows * 2 * (2048 + 2048)
    deep = expert_workspace_bytes(replace(load, expert_kernel=ExpertKernel.DEEP_GEMM))
    assert deep == (rows + 128 * 127) * (2 * (2048 + 2048) + 2048)


# --- what is asked on top --------------------------------------------------------------------------------------------


def test_lora_slots_of_qwen_7b() -> None:
    """Redone by hand, for one unit of rank: each layer 3 x 3,584 + 3,584 + 2 x 512 (q, k, v), 2 x 3,584 (o), 2 x 3,584 + 2 x 18,944
    (gate, up), 18,944 + 3,584 (down); embedding and head 2 x (152,064 + 3,584)."""
    load = replace(load_of("Qwen2.5-7B"), lora=Lora(max_loras=8, max_lora_rank=16))
    layer = 3 * 3584 + 3584 + 2 * 512 + 2 * 3584 + 2 * 3584 + 2 * 18944 + 18944 + 3584
    assert lora_bytes(load) == 2 * 8 * 16 * (28 * layer + 2 * (152064 + 3584))
    assert lora_bytes(replace(load, lora=None)) == 0


def test_lora_slots_shrink_less_than_ranks_grow() -> None:
    load = replace(load_of("Qwen2.5-7B"), lora=Lora(8, 16))
    one, two = lora_bytes(load), lora_bytes(replace(load, tensor_parallel_size=2))
    assert one / 2 < two < one


def test_eight_adapters_of_rank_64_leave_nothing_on_an_l4() -> None:
    """A report of vLLM 0.23: five adapters start at utilisation 0.85, eight leave 0.09 GiB of KV cache and fail."""
    load = load_of("Qwen2.5-7B", seqs=256)
    left = [
        memory_budget(
            replace(load, lora=Lora(count, 64)), int(22.03 * GIB), overheads.SINCE_0_21, gpu_memory_utilization=0.85
        )
        for count in (5, 8)
    ]
    assert left[0].kv_cache_bytes > 0.22 * GIB
    assert left[1].expected_kv_cache_bytes / GIB == pytest.approx(0.09, abs=0.3)
    assert left[1].kv_cache_bytes <= 0


def test_speculation_costs_its_draft_logits_and_graphs() -> None:
    plain = load_of("Llama-3.1-8B")
    drafting = replace(plain, speculation=Speculation(3, draft_weight_bytes=GIB))
    costs = [memory_budget(load, 80 * GIB, NEW) for load in (plain, drafting)]
    assert costs[1].weights_bytes - costs[0].weights_bytes >= GIB
    assert costs[1].cuda_graphs_bytes > costs[0].cuda_graphs_bytes
    assert costs[1].margin_bytes > costs[0].margin_bytes


def test_load_peak_holds_one_layer_twice() -> None:
    assert load_peak_bytes(40 * GIB, GIB // 2) == 40 * GIB + GIB // 2


# --- where ranks and kinds differ ------------------------------------------------------------------------------------


def test_a_pipeline_rank_that_is_not_the_last_samples_nothing() -> None:
    """Llama-3.1-8B at PP 2 on H100, 0.19: 1.10 GiB on the first rank, 1.89 on the last."""
    load = EngineLoad(model("Llama-3.1-8B").shape(), 8 * GIB, 1, 1024, 8192, "BF16", pipeline_parallel_size=2)
    first = replace(load, computes_logits=False)
    assert activation_bytes(first, overheads.UP_TO_0_20) / GIB == pytest.approx(1.10, abs=0.05)
    assert activation_bytes(load, overheads.UP_TO_0_20) > activation_bytes(first, overheads.UP_TO_0_20)
    assert non_torch_bytes(first, overheads.UP_TO_0_20) / GIB == pytest.approx(0.07, abs=0.01)


def test_recurrent_layers_take_less_of_the_graphs() -> None:
    load = EngineLoad(HYBRID, 50 * GIB, 1, 256, 8192, "BF16")
    attention = replace(HYBRID, caches=(CacheLayers(CacheKind.FULL, 64, 4, 256, 256),))
    assert cuda_graph_bytes(load, NEW) < cuda_graph_bytes(replace(load, shape=attention), NEW)
    assert cuda_graph_bytes(replace(load, enforce_eager=True), NEW) == 0


def test_nvlink_ranks_keep_more_for_collectives() -> None:
    load = load_of("Llama-3.1-8B", ranks=2)
    assert non_torch_bytes(load, NEW) > non_torch_bytes(replace(load, nvlink=False), NEW)


# --- evidence --------------------------------------------------------------------------------------------------------


def test_what_rests_on_no_measurement_says_so() -> None:
    assert vllm.VLLM_0_33.overheads.evidence is Evidence.EXTRAPOLATED
    assert overheads.overheads_of(19).evidence is Evidence.FITTED
    assert overheads.overheads_of(30).evidence is Evidence.EXTRAPOLATED


@pytest.mark.parametrize("load", [load_of("Llama-3.1-8B"), EngineLoad(QWEN3_30B, 30 * GIB, 1, 256, 8192, "BF16")])
def test_extrapolated_promises_hold_back_more(load: EngineLoad) -> None:
    fitted = memory_budget(load, 80 * GIB, overheads.SINCE_0_21)
    extrapolated = memory_budget(load, 80 * GIB, overheads.SINCE_0_30)
    assert extrapolated.margin_bytes > fitted.margin_bytes
    assert extrapolated.expected_kv_cache_bytes <= fitted.expected_kv_cache_bytes + 80 * MIB


def test_a_measured_start_up_replaces_the_margin() -> None:
    load = load_of("Llama-3.1-8B")
    before = memory_budget(load, 80 * GIB, NEW)
    found = Measurement(before.expected_kv_cache_bytes, before.expected_kv_cache_bytes - 700 * MIB)
    after = memory_budget(load, 80 * GIB, NEW, correction=found)
    assert after.evidence is Evidence.MEASURED
    assert after.expected_kv_cache_bytes == found.measured_kv_cache_bytes
    assert after.margin_bytes < before.margin_bytes
    lines = after.weights_bytes + after.activation_bytes + after.cuda_graphs_bytes + after.non_torch_bytes
    assert lines + after.margin_bytes + after.kv_cache_bytes == after.usable_bytes


def test_capture_sizes_follow_the_tokens_of_a_step() -> None:
    assert overheads.capture_sizes(1024) == overheads.capture_sizes(256) == 51
    assert overheads.capture_sizes(4) == 4  # 1, 2, 4, 8
    assert overheads.capture_sizes(1, tokens_per_step=4) == 4

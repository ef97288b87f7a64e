"""The budget adds up, behaves as memory does, and agrees with real start-ups (bench/fit_overheads.py)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import fit_overheads
from kubequant.planning import kv_cache
from kubequant.planning.engines import vllm
from kubequant.planning.memory import EngineLoad, memory_budget
from kubequant.planning.tensors import weights_per_rank
from kubequant.planning.values import Evidence
from tests.unit.planning.models import GIB, MIB, model

NEW = vllm.SINCE_0_21


def load_of(name: str, scheme: str = "Unquantized", *, ranks: int = 1, seqs: int = 16, batch: int = 2048) -> EngineLoad:
    facts = model(name).stored_as(scheme).facts()
    return EngineLoad(facts.shape, weights_per_rank(facts, ranks), ranks, seqs, batch, "BF16")


LOADS = st.builds(
    EngineLoad,
    shape=st.sampled_from([model("Llama-3.1-8B").shape(), model("Qwen2.5-0.5B").shape()]),
    weight_bytes=st.integers(0, 80 * GIB),
    tensor_parallel_size=st.sampled_from([1, 2, 8]),
    max_num_seqs=st.integers(1, 1024),
    max_num_batched_tokens=st.integers(1024, 16384),
    kv_cache_dtype=st.sampled_from(["BF16", "FP8"]),
    nvlink=st.booleans(),
    attention_workspace_bytes=st.sampled_from([0, 394 * MIB]),
)
TOTALS = st.integers(1 * GIB, 300 * GIB)


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
        budget = memory_budget(replace(load, kv_cache_dtype=dtype), 80 * GIB, NEW)
        sizes.append(kv_cache.tokens_in(budget.kv_cache_bytes, budget.kv_bytes_per_token))
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
    budget = memory_budget(load, int(139.8 * GIB), vllm.UP_TO_0_16, gpu_memory_utilization=0.9)
    assert (budget.usable_bytes - budget.expected_kv_cache_bytes) / GIB == pytest.approx(72.6, abs=0.2)
    expected = kv_cache.tokens_in(budget.expected_kv_cache_bytes, budget.kv_bytes_per_token)
    assert expected == pytest.approx(174_336, rel=0.005)
    assert kv_cache.tokens_in(budget.kv_cache_bytes, budget.kv_bytes_per_token) < 174_336


@pytest.mark.parametrize(("comparison", "least_rows"), [("as logged", 40), ("as 0.21", 30)])
def test_real_start_ups_are_within_the_thresholds(comparison: str, least_rows: int) -> None:
    result = fit_overheads.summary(fit_overheads.measured_sets()[comparison])
    assert result.rows >= least_rows
    assert result.broken() == []
    assert result.overpromised == 0


def test_prefill_peak_agrees_with_independent_small_cards() -> None:
    result = fit_overheads.summary(fit_overheads.engine_v0_set())
    assert result.rows >= 7
    assert result.median_error_percent < 3
    assert result.overpromised == 0


def test_bench_notices_a_broken_threshold() -> None:
    residuals = fit_overheads.measured_sets()["as logged"]
    hopeful = [replace(one, real_kv_cache_bytes=one.real_kv_cache_bytes * 9 // 10) for one in residuals]
    assert len(fit_overheads.summary(hopeful).broken()) >= 2


def test_what_rests_on_no_measurement_says_so() -> None:
    assert vllm.VLLM_0_33.overheads.evidence is Evidence.EXTRAPOLATED
    assert vllm.UP_TO_0_20.evidence is Evidence.FITTED

"""A plan, or a refusal, as words and figures for people. How they are drawn is the caller's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from kubequant.planning.text import gib, money, rate, tokens
from kubequant.planning.values import Bounds, Evidence, MemoryBudget, Plan, Refused


@dataclass(frozen=True)
class MemoryPart:
    """A line of one GPU's memory; `letter` stands for it in a bar."""

    letter: str
    name: str
    bytes: int


def memory_parts(budget: MemoryBudget) -> tuple[MemoryPart, ...]:
    """What the whole of a GPU's memory goes to, in the order of a bar; they add up to `budget.total_bytes`."""
    return (
        MemoryPart("W", "weights", budget.weights_bytes),
        MemoryPart("A", "activation", budget.activation_bytes),
        MemoryPart("G", "CUDA graphs", budget.cuda_graphs_bytes),
        MemoryPart("N", "non-torch", budget.non_torch_bytes),
        MemoryPart("M", "margin", budget.margin_bytes),
        MemoryPart("K", "KV cache", budget.kv_cache_bytes),
        MemoryPart(".", "outside", budget.total_bytes - budget.usable_bytes),
    )


def cells(parts: tuple[MemoryPart, ...], width: int) -> tuple[int, ...]:
    """How many of `width` cells each part takes: by size, but one at least for what is there at all.

    What rounding leaves over goes to, or is taken from, the largest part, so that the sum is `width`.
    """
    whole = sum(part.bytes for part in parts)
    taken = [max(1, round(part.bytes * width / whole)) if part.bytes > 0 else 0 for part in parts]
    taken[taken.index(max(taken))] += width - sum(taken)
    return tuple(taken)


def headline(result: Plan | Refused) -> str:
    """One line: what was decided."""
    if isinstance(result, Refused):
        return f"refused ({result.reason}): {result.message}"
    return f"{result.repository} ({result.scheme}, {result.kernel}) on {result.gpus_per_replica} x {result.gpu.product}"


def particulars(plan: Plan) -> Iterator[tuple[str, str]]:
    """What the plan promises, as (label, text)."""
    yield "context", f"{tokens(plan.context_tokens)}, {plan.concurrent_requests} requests at once"
    yield "KV cache", _kv_cache(plan)
    yield "weights", f"{gib(plan.weight_bytes)}, {plan.method if plan.method != 'None' else 'not quantised'}"
    if plan.gpus_per_replica > 1:
        yield "parallel", f"tensor {plan.tensor_parallel_size}, pipeline {plan.pipeline_parallel_size}"
    if plan.bounds:
        yield "bounds", _bounds(plan.bounds)
    if plan.price_per_hour is not None:
        yield "price", f"{money(plan.price_per_hour)} an hour for one replica, at the prices given"
    for note in plan.notes:
        yield "note", note
    if plan.evidence is Evidence.EXTRAPOLATED:
        yield "evidence", "Extrapolated: no start-up of this engine version has been measured, so the margin is wider"
    else:
        yield "evidence", plan.evidence.value


def cost_per_million_tokens(price_per_hour: float, tokens_per_second: float) -> float:
    """In the unit of the price: price / (tokens a second x 3,600) x 1,000,000."""
    return price_per_hour / (tokens_per_second * 3600) * 1_000_000


def _kv_cache(plan: Plan) -> str:
    text = f"{tokens(plan.kv_cache_tokens)} promised, {plan.expected_kv_cache_tokens:,} expected, {plan.kv_cache_dtype}"
    if plan.kv_cache_tokens_16bit is None:
        return text
    return f"{text} ({plan.kv_cache_tokens:,} tokens instead of {plan.kv_cache_tokens_16bit:,} with 16 bit)"


def _bounds(bounds: Bounds) -> str:
    limit = "arithmetic" if bounds.compute_bound else "memory bandwidth"
    return (
        f"decode at most {rate(bounds.decode_tokens_per_second)} over all requests ({limit} limits), prefill at most "
        f"{rate(bounds.prefill_tokens_per_second)}: roofline bounds that no engine exceeds, not predictions"
    )

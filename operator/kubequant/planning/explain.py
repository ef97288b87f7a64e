"""A plan, or a refusal, as lines for people: what `kubequant plan` prints."""

from __future__ import annotations

from collections.abc import Iterator

from kubequant.planning.text import gib, tokens
from kubequant.planning.values import MemoryBudget, Plan, Refusal, Refused


def explain(result: Plan | Refused) -> str:
    """Several lines, without a newline at the end."""
    lines = _plan(result) if isinstance(result, Plan) else _refused(result)
    return "\n".join([*lines, *_refusals(result.refusals)])


def _plan(plan: Plan) -> Iterator[str]:
    yield f"{plan.repository} ({plan.scheme}, {plan.kernel}) on {plan.gpus_per_replica} x {plan.gpu.product}"
    yield f"  context      {tokens(plan.context_tokens)}, {plan.concurrent_requests} requests at once"
    yield (
        f"  KV cache     {tokens(plan.kv_cache_tokens)} promised, {plan.expected_kv_cache_tokens:,} expected "
        f"({plan.kv_cache_dtype}, {plan.evidence})"
    )
    yield from _budget(plan.budget)
    yield f"  arguments    {' '.join(plan.arguments)}"
    for other in plan.alternatives:
        yield f"  also fits    {other.message}"


def _budget(budget: MemoryBudget) -> Iterator[str]:
    yield f"  memory of each GPU: {gib(budget.total_bytes)}, of which the engine may use {budget.gpu_memory_utilization}"
    for name, size in (
        ("weights", budget.weights_bytes),
        ("activation", budget.activation_bytes),
        ("CUDA graphs", budget.cuda_graphs_bytes),
        ("non-torch", budget.non_torch_bytes),
        ("margin", budget.margin_bytes),
        ("KV cache", budget.kv_cache_bytes),
        ("outside", budget.total_bytes - budget.usable_bytes),
    ):
        yield f"    {name:<12} {gib(size):>10}"


def _refused(refused: Refused) -> Iterator[str]:
    yield f"refused ({refused.reason}): {refused.message}"


def _refusals(refusals: tuple[Refusal, ...]) -> Iterator[str]:
    for refusal in refusals:
        yield f"  not taken    {refusal.message}"

"""The plan as status and the ControllerRevision show it: bounded, camelCase, bytes as integers."""

from __future__ import annotations

from typing import Any

from kubequant.api.status import (
    MAX_ALTERNATIVES,
    MAX_MESSAGE,
    MAX_NOTES,
    MAX_REFUSALS,
    AlternativeStatus,
    BoundsStatus,
    MemoryStatus,
    PlanStatus,
    RefusalStatus,
)
from kubequant.manifests.recipe import EngineSettings
from kubequant.planning.values import Bounds, MemoryBudget, Plan, Refusal


def plan_status(plan: Plan, engine: EngineSettings) -> dict[str, Any]:
    """`status.plan` of a plan that was taken."""
    return _dump(
        PlanStatus(
            gpu_product=plan.gpu.product,
            gpus_per_replica=plan.gpus_per_replica,
            tensor_parallel_size=plan.tensor_parallel_size,
            pipeline_parallel_size=plan.pipeline_parallel_size,
            objective=plan.objective.value,
            scheme=plan.scheme,
            method=plan.method,
            kernel=plan.kernel,
            kv_cache_dtype=plan.kv_cache_dtype,
            memory=_memory(plan.budget),
            context_tokens=plan.context_tokens,
            concurrent_requests=plan.concurrent_requests,
            kv_cache_tokens=plan.kv_cache_tokens,
            expected_kv_cache_tokens=plan.expected_kv_cache_tokens,
            kv_cache_tokens16_bit=plan.kv_cache_tokens_16bit,
            weight_bytes=plan.weight_bytes,
            predicted=plan.predicted or None,
            bounds=_bounds(plan.bounds),
            notes=[note[:MAX_MESSAGE] for note in plan.notes[:MAX_NOTES]] or None,
            evidence=plan.evidence.value,
            engine=f"{engine.name} {engine.version}",
            arguments=list(plan.arguments),
            alternatives=[
                AlternativeStatus(
                    gpu_product=other.gpu,
                    gpus=other.gpus,
                    scheme=other.scheme,
                    kv_cache_dtype=other.kv_cache_dtype,
                    context_tokens=other.context_tokens,
                    kv_cache_tokens=other.kv_cache_tokens,
                    predicted=other.predicted or None,
                    message=other.message[:MAX_MESSAGE],
                )
                for other in plan.alternatives[:MAX_ALTERNATIVES]
            ]
            or None,
            refusals=_refusals(plan.refusals),
        )
    )


def refused_status(refusals: tuple[Refusal, ...]) -> dict[str, Any]:
    """`status.plan` where nothing was taken: the reasons alone."""
    return _dump(PlanStatus(refusals=_refusals(refusals)))


def _refusals(refusals: tuple[Refusal, ...]) -> list[RefusalStatus] | None:
    """Those of found checkpoints come last: status.discovery has their reasons too."""
    shown = [
        RefusalStatus(
            gpu_product=refusal.gpu,
            gpus=refusal.gpus,
            scheme=refusal.scheme,
            rule=refusal.rule,
            reason=refusal.reason,
            message=refusal.message[:MAX_MESSAGE],
        )
        for refusal in sorted(refusals, key=lambda refusal: bool(refusal.checkpoint))[:MAX_REFUSALS]
    ]
    return shown or None


def _bounds(bounds: Bounds | None) -> BoundsStatus | None:
    if bounds is None:
        return None
    return BoundsStatus(
        decode_tokens_per_second=f"{bounds.decode_tokens_per_second:.1f}",
        seconds_per_token=f"{bounds.seconds_per_token:.6f}",
        prefill_tokens_per_second=f"{bounds.prefill_tokens_per_second:.0f}",
        limited_by="Compute" if bounds.compute_bound else "Memory",
    )


def _memory(budget: MemoryBudget) -> MemoryStatus:
    return MemoryStatus(
        total=budget.total_bytes,
        gpu_memory_utilization=f"{budget.gpu_memory_utilization:g}",
        usable=budget.usable_bytes,
        reserved=budget.reserved_bytes,
        context=budget.context_bytes,
        weights=budget.weights_bytes,
        activation=budget.activation_bytes,
        cuda_graphs=budget.cuda_graphs_bytes,
        non_torch=budget.non_torch_bytes,
        margin=budget.margin_bytes,
        kv_cache=budget.kv_cache_bytes,
        expected_kv_cache=budget.expected_kv_cache_bytes,
        kv_bytes_per_token=budget.kv_bytes_per_token,
    )


def _dump(status: PlanStatus) -> dict[str, Any]:
    return status.model_dump(by_alias=True, exclude_none=True, mode="json")

"""From what the user wants, what the model is and what the cluster has to one plan, or to a refusal that helps.

Every GPU class is tried with every number of GPUs of one node that vLLM can split a model over. Each candidate walks the chain of rules
(rules.py); survivors are ranked by LowestCost: least GPU memory taken from the cluster, then fewer GPUs, then the product's name.
Every refusal is kept.
"""

from __future__ import annotations

from collections.abc import Iterator

from kubequant.api.conditions import Reason
from kubequant.planning.advice import closest, what_would_help
from kubequant.planning.candidates import Candidate, demand_of, kv_cache_dtypes
from kubequant.planning.engines import vllm
from kubequant.planning.rules import MEMORY_RULE_NAMES, USER_RULE_NAMES, first_refusal
from kubequant.planning.tensors import disagreement
from kubequant.planning.text import gib, tokens
from kubequant.planning.values import Alternative, Fleet, GpuClass, Intent, ModelFacts, Plan, Refusal, Refused

MAX_ALTERNATIVES = 5
MAX_REFUSALS = 20
"""Both stand in status, where lists are bounded."""

_TENSOR_PARALLEL_SIZES = (1, 2, 4, 8, 16)
"""Other sizes practically never divide a vocabulary padded to 64 and the heads alike."""


def plan(intent: Intent, facts: ModelFacts, fleet: Fleet, engine: vllm.EngineProfile) -> Plan | Refused:
    """Decides. Deterministic in its arguments; the order of nodes does not matter."""
    refused = _inputs_refused(intent, facts) or _fleet_refused(fleet)
    if refused:
        return refused
    survivors: list[Candidate] = []
    refusals: list[Refusal] = []
    refused_candidates: list[tuple[Candidate, Refusal]] = []
    for gpu, gpus in _placements(fleet, intent):
        outcome = _try(intent, facts, engine, gpu, gpus)
        if isinstance(outcome, Candidate):
            survivors.append(outcome)
        else:
            refused_candidates.append(outcome)
            refusals.append(outcome[1])
    if not survivors:
        return _nothing_passed(refused_candidates, fleet)
    best, *others = sorted(survivors, key=_lowest_cost)
    return _plan_of(best, others, refusals)


def _lowest_cost(candidate: Candidate) -> tuple[int, int, str]:
    return candidate.memory_taken_bytes, candidate.gpus, candidate.gpu.product


def _placements(fleet: Fleet, intent: Intent) -> Iterator[tuple[GpuClass, int]]:
    """The user's own number is tried even where it is no power of two: the rules say whether it divides."""
    sizes = {*_TENSOR_PARALLEL_SIZES, intent.gpus_per_replica or 1}
    for gpu in fleet.classes:
        for gpus in sorted(sizes):
            if gpus <= gpu.per_node:
                yield gpu, gpus


def _try(
    intent: Intent, facts: ModelFacts, engine: vllm.EngineProfile, gpu: GpuClass, gpus: int
) -> Candidate | tuple[Candidate, Refusal]:
    """The first of its variants that passes, else the one that came closest: FP8 before 16-bit KV cache where both are
    open, the larger prefill batch before the smaller."""
    refused: list[tuple[Candidate, Refusal]] = []
    for kv_cache_dtype in kv_cache_dtypes(intent, facts.shape, gpu.compute_capability):
        for batched_tokens in vllm.batched_token_choices(gpu.memory_bytes, intent.concurrent_requests):
            candidate = Candidate(intent, facts, engine, gpu, gpus, batched_tokens, kv_cache_dtype)
            refusal = first_refusal(candidate)
            if refusal is None:
                return candidate
            refused.append((candidate, refusal))
    return closest(refused)


def _inputs_refused(intent: Intent, facts: ModelFacts) -> Refused | None:
    """What no GPU could change."""
    if contradiction := disagreement(facts):
        message = f"{facts.repository}: {contradiction}; take config and weights of one and the same export"
        return Refused(Reason.CORRUPT_CHECKPOINT, message)
    for check in (_scheme_refused, _context_refused):
        if refused := check(intent, facts):
            return refused
    if obstacle := vllm.arguments_obstacle(intent.engine_arguments):
        return Refused(Reason.ARGUMENT_NOT_ALLOWED, obstacle)
    return None


def _scheme_refused(intent: Intent, facts: ModelFacts) -> Refused | None:
    stored = facts.stored.scheme if facts.stored else "Unquantized"
    if intent.scheme in ("Auto", stored):
        return None
    return Refused(
        Reason.SCHEME_MISMATCH,
        f"quantization.scheme is {intent.scheme}, but {facts.repository} is {stored}: leave the scheme out, or name "
        f"a repository that is {intent.scheme}",
    )


def _context_refused(intent: Intent, facts: ModelFacts) -> Refused | None:
    own = facts.shape.max_position_embeddings
    for field, asked in (("contextTokens", intent.context_tokens), ("tokensPerRequest", intent.tokens_per_request)):
        if asked is not None and asked > own:
            return Refused(
                Reason.CONTEXT_TOO_LONG,
                f"serving.{field} is {asked:,}, {facts.repository} allows {own:,} (max_position_embeddings): ask for "
                f"at most {own:,}",
            )
    demand = demand_of(intent, own)
    if demand.tokens_per_request > demand.context_tokens:
        return Refused(
            Reason.CONTEXT_TOO_LONG,
            f"serving.tokensPerRequest is {demand.tokens_per_request:,}, above serving.contextTokens, which is "
            f"{demand.context_tokens:,}: no request can hold more than the context",
        )
    return None


def _fleet_refused(fleet: Fleet) -> Refused | None:
    if fleet.classes:
        return None
    if fleet.nodes == 0:
        return Refused(Reason.NO_NODES, "the cluster has no nodes: add a node with an NVIDIA GPU")
    if not fleet.unreadable:
        return Refused(
            Reason.NO_GPU_NODES,
            f"none of the {fleet.nodes} nodes advertises nvidia.com/gpu: add a node with an NVIDIA GPU, and NVIDIA's "
            "device plugin with GPU Feature Discovery",
        )
    missing = any(not node.shared for node in fleet.unreadable)
    reason = Reason.NO_GPU_LABELS if missing else Reason.NO_MATCHING_GPU
    return Refused(reason, f"no GPU can be planned on: {_unreadable(fleet)}")


def _unreadable(fleet: Fleet) -> str:
    """The first node whose labels are missing, else the first at all: one is enough to act on."""
    first, *rest = sorted(fleet.unreadable, key=lambda node: node.shared)
    return f"node {first.name} {first.reason}" + (f" (and {len(rest)} more)" if rest else "")


def _nothing_passed(refused: list[tuple[Candidate, Refusal]], fleet: Fleet) -> Refused:
    refusals = tuple(refusal for _, refusal in refused)
    if all(refusal.rule in USER_RULE_NAMES for refusal in refusals):
        has = ", ".join(
            f"{gpu.product} ({gib(gpu.label_memory_bytes)}, up to {gpu.per_node} a node)" for gpu in fleet.classes[:5]
        )
        message = f"spec.gpu excludes every GPU that the cluster has: {has}; closest: {refusals[-1].message}"
        return Refused(Reason.NO_MATCHING_GPU, message, refusals[:MAX_REFUSALS])
    candidate, refusal = closest(refused)
    message = f"fits no GPU of the cluster. Closest is {refusal.message}"
    if refusal.rule in MEMORY_RULE_NAMES:
        message += f". What would help: {what_would_help(candidate)}"
    if fleet.unreadable:
        message += f". Not counted: {_unreadable(fleet)}"
    return Refused(Reason.DOES_NOT_FIT, message, refusals[:MAX_REFUSALS])


def _plan_of(best: Candidate, others: list[Candidate], refusals: list[Refusal]) -> Plan:
    facts, intent = best.facts, best.intent
    served_model_name = intent.served_model_name or intent.repository
    assert best.kernel is not None, "a candidate without a kernel was refused"
    return Plan(
        repository=facts.repository,
        commit=facts.commit,
        gpu=best.gpu,
        gpus_per_replica=best.gpus,
        scheme=best.scheme,
        method=facts.stored.method if facts.stored else "None",
        kernel=best.kernel,
        kv_cache_dtype=best.kv_cache_dtype,
        budget=best.budget,
        context_tokens=best.context_tokens,
        concurrent_requests=intent.concurrent_requests,
        kv_cache_tokens=best.kv_cache_tokens,
        expected_kv_cache_tokens=best.expected_kv_cache_tokens,
        served_model_name=served_model_name,
        weight_bytes=facts.weight_bytes,
        download_bytes=facts.download_bytes,
        arguments=vllm.build_arguments(_launch(best, served_model_name)),
        evidence=best.budget.evidence,
        alternatives=tuple(_alternative(other) for other in others[:MAX_ALTERNATIVES]),
        refusals=tuple(refusals[:MAX_REFUSALS]),
    )


def _launch(best: Candidate, served_model_name: str) -> vllm.Launch:
    return vllm.Launch(
        served_model_name=served_model_name,
        context_tokens=best.context_tokens,
        max_num_seqs=best.intent.concurrent_requests,
        max_num_batched_tokens=best.max_num_batched_tokens,
        gpu_memory_utilization=best.budget.gpu_memory_utilization,
        tensor_parallel_size=best.gpus,
        activation_dtype=best.activation_dtype,
        stored_dtype=best.facts.shape.dtype,
        kv_cache_dtype=best.kv_cache_dtype,
        checkpoint_kv_cache_dtype=best.facts.stored.kv_cache_dtype if best.facts.stored else None,
        engine_arguments=best.intent.engine_arguments,
    )


def _alternative(candidate: Candidate) -> Alternative:
    message = f"{candidate.name}: {tokens(candidate.kv_cache_tokens)} of {candidate.kv_cache_dtype} KV cache"
    return Alternative(candidate.gpu.product, candidate.gpus, message)

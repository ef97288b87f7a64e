"""From what the user wants, what the model is and what the cluster has to one plan, or to a refusal that helps.

Every checkpoint (schemes.py) is tried on every GPU class with every number of GPUs of one node that vLLM can split a model over
(tensor parallelism; pipeline stages would help only across nodes, where they need a LeaderWorkerSet).
Each candidate walks the chain of rules (rules.py); what passes but would be a bad choice is refused by comparison
(policy.py); the rest is ranked (ranking.py). Every refusal is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from kubequant.api.conditions import Reason
from kubequant.planning.advice import closeness, closest, what_would_help
from kubequant.planning.candidates import Candidate, demand_of, kv_cache_dtypes
from kubequant.planning.engines import vllm, vllm_arguments
from kubequant.planning.policy import compared
from kubequant.planning.ranking import ranked
from kubequant.planning.report import plan_of
from kubequant.planning.rules import MEMORY_RULE_NAMES, USER_RULE_NAMES, first_refusal
from kubequant.planning.schemes import checkpoints, not_makeable, not_wanted, worth_trying
from kubequant.planning.tensors import disagreement
from kubequant.planning.text import gib
from kubequant.planning.values import Fleet, GpuClass, Intent, Measurement, ModelFacts, Plan, Refusal, Refused

_TENSOR_PARALLEL_SIZES = (1, 2, 4, 8, 16)
"""Other sizes practically never divide a vocabulary padded to 64 and the heads alike."""

Tried = tuple[Candidate, Refusal]


@dataclass(frozen=True)
class Measured:
    """A start-up of this very model that was measured: where it holds, and by how much the expectation was off."""

    engine_version: str
    gpu: str
    gpus: int
    scheme: str
    measurement: Measurement


def plan(
    intent: Intent,
    facts: ModelFacts,
    fleet: Fleet,
    engine: vllm.EngineProfile,
    measured: Sequence[Measured] = (),
    found: Sequence[ModelFacts] = (),
) -> Plan | Refused:
    """Decides. Deterministic in its arguments; the order of nodes does not matter.

    `found` are published checkpoints of the model, the most trusted first: they compete with it.
    """
    refused = _inputs_refused(intent, facts) or _fleet_refused(fleet)
    if refused:
        return refused
    tried = checkpoints(intent, facts, found)
    if isinstance(tried, Refused):
        return tried
    survivors: list[Candidate] = []
    refusals: list[Tried] = []
    first_trust = 0 if tried[0] is facts else 1
    for gpu, gpus in _placements(fleet, intent):
        for trust, checkpoint in enumerate(tried, first_trust):
            if not worth_trying(checkpoint, intent, gpu.compute_capability):
                continue
            measurement = _measurement(measured, engine, gpu, gpus, checkpoint)
            outcome = _try(intent, checkpoint, engine, gpu, gpus, measurement, trust)
            if isinstance(outcome, Candidate):
                survivors.append(outcome)
            else:
                refusals.append(outcome)
    kept, compared_refusals = compared(survivors)
    never_tried = (*not_makeable(intent, facts), *not_wanted(intent, found))
    every_refusal = (
        *(refusal for _, refusal in compared_refusals),
        *never_tried,
        *(refusal for _, refusal in sorted(refusals, key=closeness, reverse=True)),
    )
    if obstacle := vllm.code_obstacle(facts.shape):
        return Refused(Reason.UNSUPPORTED_ARCHITECTURE, f"{facts.repository}: {obstacle}", every_refusal)
    if not kept:
        return _nothing_passed(refusals + compared_refusals, never_tried, fleet)
    best, *others = ranked(kept, intent.objective)
    return plan_of(best, others, every_refusal, fleet)


def _placements(fleet: Fleet, intent: Intent) -> Iterator[tuple[GpuClass, int]]:
    """The user's own number is tried even where it is no power of two or more than a node has: the rules say what is wrong."""
    for gpu in fleet.classes:
        sizes = {size for size in _TENSOR_PARALLEL_SIZES if size <= gpu.per_node}
        for gpus in sorted({*sizes, intent.gpus_per_replica or 1}):
            yield gpu, gpus


def _try(
    intent: Intent,
    checkpoint: ModelFacts,
    engine: vllm.EngineProfile,
    gpu: GpuClass,
    gpus: int,
    measurement: Measurement | None,
    trust: int,
) -> Candidate | Tried:
    """The first of its variants that passes, else the one that came closest: KV caches in the order of
    `kv_cache_dtypes`, the larger prefill batch before the smaller."""
    refused: list[Tried] = []
    for kv_cache_dtype in kv_cache_dtypes(intent, checkpoint.shape, gpu.compute_capability):
        for batched_tokens in vllm.batched_token_choices(gpu.memory_bytes, intent.concurrent_requests):
            candidate = Candidate(
                intent,
                checkpoint,
                engine,
                gpu,
                gpus,
                batched_tokens,
                kv_cache_dtype,
                measurement=measurement,
                trust=trust,
            )
            refusal = first_refusal(candidate)
            if refusal is None:
                return candidate
            refused.append((candidate, refusal))
    return closest(refused)


def _measurement(
    measured: Sequence[Measured], engine: vllm.EngineProfile, gpu: GpuClass, gpus: int, checkpoint: ModelFacts
) -> Measurement | None:
    scheme = checkpoint.stored.scheme if checkpoint.stored else "Unquantized"
    for one in measured:
        if (one.engine_version, one.gpu, one.gpus, one.scheme) == (engine.version, gpu.product, gpus, scheme):
            return one.measurement
    return None


def _inputs_refused(intent: Intent, facts: ModelFacts) -> Refused | None:
    """What no GPU could change."""
    if contradiction := disagreement(facts):
        message = f"{facts.repository}: {contradiction}; take config and weights of one and the same export"
        return Refused(Reason.CORRUPT_CHECKPOINT, message)
    if refused := _context_refused(intent, facts):
        return refused
    if obstacle := vllm_arguments.arguments_obstacle(intent.engine_arguments):
        return Refused(Reason.ARGUMENT_NOT_ALLOWED, obstacle)
    return None


def _context_refused(intent: Intent, facts: ModelFacts) -> Refused | None:
    own = facts.shape.max_position_embeddings
    for field, asked in (("contextTokens", intent.context_tokens), ("tokensPerRequest", intent.tokens_per_request)):
        if asked is not None and asked > own:
            return Refused(
                Reason.CONTEXT_TOO_LONG,
                f"serving.{field} is {asked:,}, {facts.repository} allows {own:,} (max_position_embeddings; "
                f"{_rope(facts)}): ask for at most {own:,}",
            )
    demand = demand_of(intent, own)
    if demand.tokens_per_request > demand.context_tokens:
        return Refused(
            Reason.CONTEXT_TOO_LONG,
            f"serving.tokensPerRequest is {demand.tokens_per_request:,}, above serving.contextTokens, which is "
            f"{demand.context_tokens:,}: no request can hold more than the context",
        )
    return None


def _rope(facts: ModelFacts) -> str:
    scaling = facts.shape.rope_scaling
    if scaling:
        return f"its RoPE scaling, {scaling}, is counted in that"
    return "its config.json has no RoPE scaling, which is what stretches a context"


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


def _nothing_passed(refused: list[Tried], unmakeable: tuple[Refusal, ...], fleet: Fleet) -> Refused:
    several_nodes = list(_over_several_nodes(refused))
    in_order = sorted(refused, key=closeness, reverse=True)
    refusals = (*several_nodes, *(refusal for _, refusal in in_order))
    if all(refusal.rule in (*USER_RULE_NAMES, "multiNode") for refusal in refusals):
        has = ", ".join(
            f"{gpu.product} ({gib(gpu.label_memory_bytes)}, up to {gpu.per_node} a node)" for gpu in fleet.classes[:5]
        )
        message = f"spec.gpu excludes every GPU that there is: {has}; closest: {refusals[0].message}"
        return Refused(Reason.NO_MATCHING_GPU, message, refusals)
    candidate, refusal = in_order[0]
    message = f"fits none of the GPUs that there are. Closest is {refusal.message}"
    if refusal.rule in MEMORY_RULE_NAMES:
        message += f". What would help: {what_would_help(candidate)}"
    if several_nodes:
        message += f". {several_nodes[0].message}"
    if fleet.unreadable:
        message += f". Not counted: {_unreadable(fleet)}"
    return Refused(Reason.DOES_NOT_FIT, message, (*refusals, *unmakeable))


def _over_several_nodes(refused: list[Tried]) -> Iterator[Refusal]:
    """Placements that would fit if a replica could span nodes: one pipeline stage a node."""
    for candidate, refusal in refused:
        gpu = candidate.gpu
        if (
            refusal.rule not in MEMORY_RULE_NAMES
            or candidate.gpus != gpu.per_node
            or candidate.pipeline_parallel_size > 1
        ):
            continue
        for nodes in (2, 4):
            wider = replace(candidate, gpus=nodes * gpu.per_node, pipeline_parallel_size=nodes, measurement=None)
            obstacle = first_refusal(wider)
            alone = replace(wider, gpu=replace(gpu, per_node=wider.gpus))
            if nodes <= gpu.nodes and obstacle and obstacle.rule == "multiNode" and first_refusal(alone) is None:
                yield obstacle
                break

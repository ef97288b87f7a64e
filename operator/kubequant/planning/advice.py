"""What the smallest change is that would make a refused model fit: more GPUs, a larger card, a smaller demand."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kubequant.planning.candidates import Candidate, kv_cache_dtypes
from kubequant.planning.engines import vllm
from kubequant.planning.gpu_table import GIB, cuda_total_bytes, known_gpus
from kubequant.planning.policy import compared
from kubequant.planning.rules import COMPARISON_RULE_NAMES, MEMORY_RULE_NAMES, USER_RULE_NAMES, first_refusal
from kubequant.planning.schemes import worth_trying
from kubequant.planning.values import ComputeCapability, Refusal

_COUNTS = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Advice:
    """What to change, all of it, and the candidate that then passes."""

    changes: tuple[str, ...]
    candidate: Candidate

    @property
    def text(self) -> str:
        first, *others = self.changes
        return f"{first} with {' and '.join(others)}" if others else first


def closest(refused: Sequence[tuple[Candidate, Refusal]]) -> tuple[Candidate, Refusal]:
    """The candidate that came farthest along the chain, and of those the one with the least memory missing."""
    return max(refused, key=closeness)


def closeness(pair: tuple[Candidate, Refusal]) -> tuple[int, int]:
    """How near a refused candidate came; larger is nearer. What the user excluded is farthest, of that the oldest GPUs."""
    candidate, refusal = pair
    if refusal.rule in USER_RULE_NAMES:
        capability = candidate.gpu.compute_capability
        return -2, 10 * capability.major + capability.minor
    if refusal.rule in COMPARISON_RULE_NAMES:
        return len(MEMORY_RULE_NAMES), 0  # it fits
    if refusal.rule not in MEMORY_RULE_NAMES:
        return -1, 0
    demand = candidate.demand
    needed = max(
        candidate.layout.bytes_for(1, demand.context_tokens),
        candidate.layout.bytes_for(demand.concurrent_requests, demand.tokens_per_request),
    )
    return MEMORY_RULE_NAMES.index(refusal.rule), (candidate.budget.kv_cache_bytes - needed) * candidate.gpus


def what_would_help(candidate: Candidate) -> str:
    """One line of the changes that are known to be enough, the cheapest first."""
    return "; or ".join(advice.text for advice in advices(candidate)) or "a smaller model"


def advices(candidate: Candidate) -> list[Advice]:
    """Of the demand, of the number of GPUs, of the card at most one change each that was tried and passes every rule."""
    gated = not compared([candidate])[0]
    if gated:
        candidate = _with(candidate, scheme=candidate.scheme)
    tried = (_smaller_demand(candidate), _other_count(candidate), _larger_card(candidate))
    also = (f"quantization.scheme: {candidate.scheme}",) if gated else ()
    return [replace(advice, changes=(*advice.changes, *also)) for advice in tried if advice]


def _with(candidate: Candidate, **wishes: Any) -> Candidate:
    return replace(candidate, intent=replace(candidate.intent, **wishes))


def _passing(candidate: Candidate) -> Candidate | None:
    """The first of the variants that a plan would try which passes every rule."""
    demand, gpu = candidate.demand, candidate.gpu
    if demand.tokens_per_request > demand.context_tokens:
        return None
    for kv_cache_dtype in kv_cache_dtypes(candidate.intent, candidate.facts.shape, gpu.compute_capability):
        for batch in vllm.batched_token_choices(gpu.memory_bytes, demand.concurrent_requests):
            variant = replace(candidate, kv_cache_dtype=kv_cache_dtype, max_num_batched_tokens=batch)
            if first_refusal(variant) is None:
                return variant
    return None


def _first_passing(numbers: range, changed: Callable[[int], Candidate]) -> tuple[int, Candidate] | None:
    """The first number that makes the candidate pass, where all after it do as well."""
    index = bisect_left(numbers, True, key=lambda number: _passing(changed(number)) is not None)
    if index == len(numbers):
        return None
    passing = _passing(changed(numbers[index]))
    return (numbers[index], passing) if passing else None


def _smaller_demand(candidate: Candidate) -> Advice | None:
    return _fewer_requests(candidate) or _shorter_context(candidate) or _both(candidate)


def _fewer_requests(candidate: Candidate) -> Advice | None:
    numbers = range(candidate.demand.concurrent_requests - 1, 0, -1)
    found = _first_passing(numbers, lambda requests: _with(candidate, concurrent_requests=requests))
    return Advice((f"serving.concurrentRequests of at most {found[0]}",), found[1]) if found else None


def _shorter_context(candidate: Candidate) -> Advice | None:
    """No request can hold more than the context."""
    each = candidate.intent.tokens_per_request

    def shorter(context: int) -> Candidate:
        return _with(candidate, context_tokens=context, tokens_per_request=each and min(each, context))

    found = _first_passing(range(candidate.demand.context_tokens - 1, 0, -1), shorter)
    if found is None:
        return None
    context, passing = found
    changes = [f"serving.contextTokens of at most {context}"]
    if each and each > context:
        changes.append(f"serving.tokensPerRequest of at most {context}")
    return Advice(tuple(changes), passing)


def _both(candidate: Candidate) -> Advice | None:
    """The longest context that one request can have, then as many requests as fit."""
    shorter = _shorter_context(_with(candidate, concurrent_requests=1))
    if shorter is None:
        return None
    fewer = _fewer_requests(_with(shorter.candidate, concurrent_requests=candidate.intent.concurrent_requests))
    return fewer and Advice((*shorter.changes, *fewer.changes), fewer.candidate)


def _other_count(candidate: Candidate) -> Advice | None:
    """The fewest GPUs that do: those of a node that has them where the user asked for another number, else a larger node."""
    gpu, asked = candidate.gpu, candidate.intent.gpus_per_replica
    for gpus in _COUNTS:
        changes = []
        if gpus > gpu.per_node:
            changes.append(f"{gpus} {gpu.product} in one node (the largest has {gpu.per_node})")
        if asked not in (None, gpus):
            changes.append(f"gpu.perReplica: {gpus}")
        other = replace(
            _with(candidate, gpus_per_replica=asked and gpus),
            gpus=gpus,
            gpu=replace(gpu, per_node=max(gpu.per_node, gpus)),
            measurement=None,
        )
        if changes and (passing := _passing(other)):
            return Advice(tuple(changes), passing)
    return None


def _larger_card(candidate: Candidate) -> Advice | None:
    """The smallest GPU that would do alone, were it of the same capability; of others that there are, those with which it does as well."""
    intent, kind = candidate.intent, candidate.gpu
    alone = _with(candidate, products=(), gpus_per_replica=intent.gpus_per_replica and 1)
    alone = replace(alone, gpus=1, measurement=None)

    def larger(memory_gib: int, capability: ComputeCapability = kind.compute_capability) -> Candidate:
        label = memory_gib * GIB
        memory = cuda_total_bytes(label)
        gpu = replace(kind, label_memory_bytes=label, memory_bytes=memory, compute_capability=capability)
        return replace(alone, gpu=gpu)

    largest = max(gpu.memory_bytes or 0 for gpu in known_gpus().values())
    found = _first_passing(range(kind.label_memory_bytes // GIB + 1, largest // GIB + 1), larger)
    if found is None:
        return None
    memory_gib, passing = found
    sold = {gpu.compute_capability for gpu in known_gpus().values() if (gpu.memory_bytes or 0) >= memory_gib * GIB}
    capabilities = [
        str(capability)
        for capability in sorted({kind.compute_capability, *sold})
        if worth_trying(candidate.facts, intent, capability) and _passing(larger(memory_gib, capability))
    ]
    changes = [f"one GPU of at least {memory_gib} GiB", f"compute capability {', '.join(capabilities)}"]
    if intent.gpus_per_replica not in (None, 1):
        changes.append("gpu.perReplica: 1")
    if intent.products:
        changes.append("its product among gpu.products")
    return Advice(tuple(changes), passing)

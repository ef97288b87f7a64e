"""What the smallest change is that would make a refused model fit: more GPUs, a larger card, a smaller demand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from kubequant.planning.candidates import Candidate
from kubequant.planning.rules import COMPARISON_RULE_NAMES, MEMORY_RULE_NAMES, USER_RULE_NAMES, first_refusal
from kubequant.planning.text import tokens
from kubequant.planning.values import Refusal

_GIB = 1024**3
_LARGEST_CARD_GIB = 288


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
    free = replace(candidate, intent=replace(candidate.intent, products=(), min_memory_bytes=0, gpus_per_replica=None))
    return "; or ".join([*_smaller_demand(candidate), *_more_gpus(free), *_larger_card(free)]) or "a smaller model"


def _smaller_demand(candidate: Candidate) -> Iterator[str]:
    demand, cache = candidate.demand, candidate.budget.kv_cache_bytes
    requests = candidate.layout.requests_in(cache, demand.tokens_per_request)
    longest = candidate.longest_context_tokens
    if longest >= demand.context_tokens and requests:
        yield f"serving.concurrentRequests of at most {requests}"
    elif requests >= demand.concurrent_requests and longest:
        yield f"serving.contextTokens of at most {longest}"
    elif longest:
        yield f"a demand of at most {tokens(longest)} (serving.contextTokens, concurrentRequests x tokensPerRequest)"


def _more_gpus(candidate: Candidate) -> Iterator[str]:
    for gpus in (2, 4, 8, 16):
        wider = replace(candidate, gpus=gpus, gpu=replace(candidate.gpu, per_node=gpus))
        if gpus > candidate.gpus and first_refusal(wider) is None:
            yield f"{gpus} {candidate.gpu.product} in one node (the largest has {candidate.gpu.per_node})"
            return


def _larger_card(candidate: Candidate) -> Iterator[str]:
    """The smallest GPU of the same kind that would do alone."""
    low, high = candidate.gpu.memory_bytes // _GIB, _LARGEST_CARD_GIB
    if not _fits_alone(candidate, high):
        return
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _fits_alone(candidate, middle) else (middle, high)
    yield f"one GPU of at least {high} GiB"


def _fits_alone(candidate: Candidate, memory_gib: int) -> bool:
    gpu = replace(candidate.gpu, memory_bytes=memory_gib * _GIB, label_memory_bytes=memory_gib * _GIB)
    return first_refusal(replace(candidate, gpus=1, gpu=gpu)) is None

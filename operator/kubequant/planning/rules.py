"""The chain of rules that a candidate must pass: each refuses with the number that decided, or says nothing.

Order matters twice: what the user excluded comes first, and memory comes last, because its figures mean nothing
for a placement that the engine would not load.
"""

from __future__ import annotations

from kubequant.planning.candidates import Candidate
from kubequant.planning.divisibility import DIVISIBILITY_RULES
from kubequant.planning.engines import vllm
from kubequant.planning.refusing import Rule, refusal
from kubequant.planning.text import gib, tokens
from kubequant.planning.values import KvCacheDtype, Refusal, StoredQuantization


def first_refusal(candidate: Candidate) -> Refusal | None:
    """The first rule that refuses, None when all pass."""
    return next((found for rule in RULES if (found := rule(candidate))), None)


# --- what the user excluded ------------------------------------------------------------------------------------------


def product_wanted(candidate: Candidate) -> Refusal | None:
    products = candidate.intent.products
    if not products or candidate.gpu.product in products:
        return None
    return refusal(candidate, "gpu.products", f"not among gpu.products ({', '.join(products)})")


def memory_wanted(candidate: Candidate) -> Refusal | None:
    """Against the label, which is what people call the card's memory."""
    wanted, has = candidate.intent.min_memory_bytes, candidate.gpu.label_memory_bytes
    if has >= wanted:
        return None
    message = f"has {gib(has)}, gpu.minMemory asks for {gib(wanted)}"
    return refusal(candidate, "gpu.minMemory", message, memory_bytes=has, min_memory_bytes=wanted)


def capability_wanted(candidate: Candidate) -> Refusal | None:
    wanted, has = candidate.intent.min_compute_capability, candidate.gpu.compute_capability
    if wanted is None or has >= wanted:
        return None
    return refusal(
        candidate,
        "gpu.minComputeCapability",
        f"has compute capability {has}, gpu.minComputeCapability asks for {wanted}",
    )


def count_wanted(candidate: Candidate) -> Refusal | None:
    wanted = candidate.intent.gpus_per_replica
    if wanted is None or wanted == candidate.gpus:
        return None
    return refusal(candidate, "gpu.perReplica", f"gpu.perReplica asks for {wanted}", per_replica=wanted)


USER_RULES: tuple[Rule, ...] = (product_wanted, memory_wanted, capability_wanted, count_wanted)


# --- what the GPU and the engine can do ------------------------------------------------------------------------------


def capability_floor(candidate: Candidate) -> Refusal | None:
    """Of the engine, and of the checkpoint's method in it."""
    stored, has = candidate.facts.stored, candidate.gpu.compute_capability
    engine = f"{candidate.engine.name} {candidate.engine.version}"
    if has < candidate.engine.capability_floor:
        message = f"has compute capability {has}, {engine} needs {candidate.engine.capability_floor}"
        return refusal(candidate, "capabilityFloor", message)
    if stored and has < vllm.method_floor(stored):
        message = f"has compute capability {has}, {engine} needs {vllm.method_floor(stored)} for {_stored_as(stored)}"
        return refusal(candidate, "capabilityFloor", message)
    return None


def _stored_as(stored: StoredQuantization) -> str:
    """Scheme and method, which some schemes are named after."""
    return stored.scheme if stored.scheme == stored.method else f"{stored.scheme} as {stored.method} stores it"


def kernel_exists(candidate: Candidate) -> Refusal | None:
    if candidate.kernel is not None:
        return None
    has = candidate.gpu.compute_capability
    return refusal(candidate, "kernel", f"no kernel for {candidate.scheme} at compute capability {has}")


def dtype_possible(candidate: Candidate) -> Refusal | None:
    obstacle = vllm.dtype_obstacle(candidate.facts.shape, candidate.gpu.compute_capability)
    return refusal(candidate, "dtype", obstacle) if obstacle else None


def attention_possible(candidate: Candidate) -> Refusal | None:
    capability = candidate.gpu.compute_capability
    obstacle = vllm.attention_obstacle(candidate.facts.shape, capability, candidate.kv_cache_dtype)
    return refusal(candidate, "attention", obstacle) if obstacle else None


def kv_cache_dtype_possible(candidate: Candidate) -> Refusal | None:
    if candidate.intent.kv_cache_dtype is not KvCacheDtype.FP8:
        return None
    obstacle = vllm.fp8_kv_cache_obstacle(candidate.gpu.compute_capability, candidate.facts.shape)
    return refusal(candidate, "kvCacheDtype", f"{obstacle}: leave serving.kvCacheDtype out") if obstacle else None


# --- what fits -------------------------------------------------------------------------------------------------------


def _each(candidate: Candidate) -> str:
    return "" if candidate.gpus == 1 else " on each GPU"


def weights_fit(candidate: Candidate) -> Refusal | None:
    """Weights alone against what the engine may use."""
    budget = candidate.budget
    if budget.weights_bytes <= budget.usable_bytes:
        return None
    message = (
        f"{candidate.scheme} weights need {gib(budget.weights_bytes)}{_each(candidate)}, {_available(candidate)} "
        f"({gib(candidate.facts.weight_bytes)} stored in all)"
    )
    return refusal(
        candidate, "weights", message, weights_bytes=budget.weights_bytes, usable_bytes=max(0, budget.usable_bytes)
    )


def _available(candidate: Candidate) -> str:
    return f"{gib(max(0, candidate.budget.usable_bytes))} available"


def load_peak_fits(candidate: Candidate) -> Refusal | None:
    """A kernel repacks one layer at a time, so that layer stands in memory twice."""
    if candidate.facts.stored is None:
        return None
    budget = candidate.budget
    peak = budget.weights_bytes + candidate.largest_layer_bytes_per_rank
    if peak <= budget.usable_bytes:
        return None
    message = f"loading and repacking peak at {gib(peak)}{_each(candidate)}, {_available(candidate)}"
    return refusal(candidate, "loadPeak", message, load_peak_bytes=peak, usable_bytes=budget.usable_bytes)


def context_fits(candidate: Candidate) -> Refusal | None:
    """One request at full length."""
    context = candidate.demand.context_tokens
    enough = f"a request of {tokens(candidate.longest_context_tokens)}"
    return _kv_cache_holds(candidate, "context", 1, context, f"one request of {tokens(context)}", enough)


def demand_fits(candidate: Candidate) -> Refusal | None:
    demand = candidate.demand
    requests, each = demand.concurrent_requests, demand.tokens_per_request
    what = f"{requests} requests x {tokens(each)} each, together {tokens(requests * each)}"
    enough = f"{candidate.layout.requests_in(candidate.budget.kv_cache_bytes, each):,} of them"
    return _kv_cache_holds(candidate, "demand", requests, each, what, enough)


def _kv_cache_holds(
    candidate: Candidate, rule: str, requests: int, tokens_each: int, what: str, enough: str
) -> Refusal | None:
    budget, needed = candidate.budget, candidate.layout.bytes_for(requests, tokens_each)
    if budget.kv_cache_bytes >= needed:
        return None
    left = max(0, budget.kv_cache_bytes)
    message = (
        f"{what} needs {gib(needed)} of {candidate.kv_cache_dtype} KV cache{_each(candidate)}; "
        f"{gib(left)} is left of {gib(max(0, budget.usable_bytes))} after {gib(budget.weights_bytes)} of weights and "
        f"{gib(budget.usable_bytes - budget.weights_bytes - budget.kv_cache_bytes)} of overheads, "
        f"enough for {enough}"
    )
    return refusal(
        candidate,
        rule,
        message,
        kv_cache_needed_bytes=needed,
        kv_cache_bytes=left,
        kv_cache_tokens=candidate.kv_cache_tokens,
    )


RULES: tuple[Rule, ...] = (
    *USER_RULES,
    capability_floor,
    kernel_exists,
    dtype_possible,
    attention_possible,
    kv_cache_dtype_possible,
    *DIVISIBILITY_RULES,
    weights_fit,
    load_peak_fits,
    context_fits,
    demand_fits,
)

USER_RULE_NAMES = frozenset({"gpu.products", "gpu.minMemory", "gpu.minComputeCapability", "gpu.perReplica"})
COMPARISON_RULE_NAMES = frozenset({"qualityGate", "smallModel", "slower"})
MEMORY_RULE_NAMES = ("weights", "loadPeak", "context", "demand")
"""In the order of the chain: who fails later is closer to fitting."""

"""The chain of rules that a candidate must pass: each refuses with the number that decided, or says nothing.

Order matters twice: what the user excluded comes first, and memory comes last, because its figures mean nothing
for a placement that the engine would not load.
"""

from __future__ import annotations

from collections.abc import Callable

from kubequant.planning.candidates import Candidate
from kubequant.planning.engines import vllm
from kubequant.planning.tensors import padded_vocabulary
from kubequant.planning.text import gib, tokens
from kubequant.planning.values import CacheKind, KvCacheDtype, Refusal

Rule = Callable[[Candidate], Refusal | None]

REASONS = {
    "gpu.products": "NotWanted",
    "gpu.minMemory": "NotWanted",
    "gpu.minComputeCapability": "NotWanted",
    "gpu.perReplica": "NotWanted",
    "capabilityFloor": "CapabilityTooLow",
    "kernel": "NoKernel",
    "dtype": "DtypeNotPossible",
    "kvCacheDtype": "KvCacheDtypeNotPossible",
    "slice": "SliceCannotBeSpanned",
    "multiNode": "NeedsLeaderWorkerSet",
    "heads": "NotDivisible",
    "kvHeads": "NotDivisible",
    "vocabulary": "NotDivisible",
    "intermediate": "NotDivisible",
    "groupSize": "NotDivisible",
    "block": "NotDivisible",
    "layers": "NotDivisible",
    "weights": "WeightsDoNotFit",
    "loadPeak": "LoadPeakDoesNotFit",
    "context": "ContextDoesNotFit",
    "demand": "DemandDoesNotFit",
    "slower": "SlowerThanAlternative",
    "smallModel": "QualityTooLow",
    "qualityGate": "NeedsQualityGate",
    "checkpoint": "CannotBeMade",
}
"""What each rule's refusal is called for programs."""


def first_refusal(candidate: Candidate) -> Refusal | None:
    """The first rule that refuses, None when all pass."""
    return next((found for rule in RULES if (found := rule(candidate))), None)


def refusal(candidate: Candidate, rule: str, message: str, **numbers: int) -> Refusal:
    """A refusal of this candidate, with its reason. The rule must be in REASONS."""
    return Refusal(
        gpu=candidate.gpu.product,
        gpus=candidate.gpus,
        scheme=candidate.scheme,
        rule=rule,
        message=f"{candidate.name}{_made(candidate)}: {message}",
        numbers=tuple(numbers.items()),
        reason=REASONS[rule],
    )


def _made(candidate: Candidate) -> str:
    """Of several schemes of one model it must be said which was tried."""
    return f" in {candidate.scheme}" if candidate.facts.predicted else ""


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
    floor, has = candidate.engine.capability_floor, candidate.gpu.compute_capability
    if has >= floor:
        return None
    engine = f"{candidate.engine.name} {candidate.engine.version}"
    return refusal(candidate, "capabilityFloor", f"has compute capability {has}, {engine} needs {floor}")


def kernel_exists(candidate: Candidate) -> Refusal | None:
    if candidate.kernel is not None:
        return None
    has = candidate.gpu.compute_capability
    return refusal(candidate, "kernel", f"no kernel for {candidate.scheme} at compute capability {has}")


def dtype_possible(candidate: Candidate) -> Refusal | None:
    obstacle = vllm.dtype_obstacle(candidate.facts.shape, candidate.facts.stored, candidate.gpu.compute_capability)
    return refusal(candidate, "dtype", obstacle) if obstacle else None


def kv_cache_dtype_possible(candidate: Candidate) -> Refusal | None:
    if candidate.intent.kv_cache_dtype is not KvCacheDtype.FP8:
        return None
    obstacle = vllm.fp8_kv_cache_obstacle(candidate.gpu.compute_capability, candidate.facts.shape)
    return refusal(candidate, "kvCacheDtype", f"{obstacle}: leave serving.kvCacheDtype out") if obstacle else None


# --- what divides ----------------------------------------------------------------------------------------------------


def spans_no_slices(candidate: Candidate) -> Refusal | None:
    if candidate.gpus == 1 or not candidate.gpu.mig_profile:
        return None
    return refusal(candidate, "slice", "ranks cannot talk to each other across MIG slices: use one, or whole GPUs")


def one_node_is_enough(candidate: Candidate) -> Refusal | None:
    if candidate.gpus <= candidate.gpu.per_node:
        return None
    return refusal(
        candidate,
        "multiNode",
        f"the largest node has {candidate.gpu.per_node}; a replica over several nodes needs pipeline parallelism with a "
        "LeaderWorkerSet, which this release does not make",
        per_node=candidate.gpu.per_node,
    )


def heads_divide(candidate: Candidate) -> Refusal | None:
    heads, ranks = candidate.facts.shape.num_attention_heads, candidate.tensor_parallel_size
    if heads % ranks == 0:
        return None
    return refusal(candidate, "heads", f"{heads} attention heads do not divide by {ranks}", heads=heads)


def kv_heads_divide(candidate: Candidate) -> Refusal | None:
    """Up to their number KV heads are split, above it they are replicated: both must come out even.

    A latent cache (MLA) has one head, which every rank keeps.
    """
    ranks = candidate.tensor_parallel_size
    for cache in candidate.facts.shape.caches:
        heads = cache.kv_heads
        if cache.kind is CacheKind.STATE or max(heads, ranks) % min(heads, ranks) == 0:
            continue
        return refusal(candidate, "kvHeads", f"{heads} KV heads and {ranks} GPUs do not divide", kv_heads=heads)
    return None


def vocabulary_divides(candidate: Candidate) -> Refusal | None:
    padded, ranks = padded_vocabulary(candidate.facts.shape.vocab_size), candidate.tensor_parallel_size
    if padded % ranks == 0:
        return None
    message = f"the vocabulary, padded to {padded}, does not divide by {ranks}"
    return refusal(candidate, "vocabulary", message, padded_vocabulary=padded)


def intermediate_divides(candidate: Candidate) -> Refusal | None:
    for size in candidate.intermediate_sizes:
        if size % candidate.tensor_parallel_size:
            message = f"intermediate size {size} does not divide by {candidate.tensor_parallel_size}"
            return refusal(candidate, "intermediate", message, intermediate_size=size)
    return None


def layers_divide(candidate: Candidate) -> Refusal | None:
    layers, stages = candidate.facts.shape.num_hidden_layers, candidate.pipeline_parallel_size
    if stages <= layers:
        return None
    return refusal(candidate, "layers", f"{layers} layers are fewer than {stages} pipeline stages", layers=layers)


def groups_divide(candidate: Candidate) -> Refusal | None:
    """A quantisation group must not lie across two ranks: row-parallel layers split their inputs."""
    stored, ranks = candidate.facts.stored, candidate.tensor_parallel_size
    group = stored.group_size if stored else None
    if group is None or group <= 0 or ranks == 1:
        return None
    shape = candidate.facts.shape
    inputs_of = [("mlp", size) for size in candidate.intermediate_sizes]
    if not shape.keeps(CacheKind.LATENT):
        inputs_of.append(("attention", shape.num_attention_heads * shape.head_dim))
    for name, inputs in inputs_of:
        if inputs % (ranks * group):
            message = (
                f"{name} inputs {inputs} over {ranks} GPUs are {inputs // ranks} each, "
                f"which groups of {group} do not divide"
            )
            return refusal(candidate, "groupSize", message, inputs=inputs, group_size=group)
    return None


def blocks_divide(candidate: Candidate) -> Refusal | None:
    """FP8 weight blocks: outputs of column-parallel and inputs of row-parallel layers must be whole blocks on each rank."""
    block = candidate.facts.stored.block if candidate.facts.stored else None
    if block is None or candidate.tensor_parallel_size == 1:
        return None
    block_outputs, block_inputs = block
    for inputs, outputs in candidate.linear_layers:
        if inputs % block_inputs or outputs % block_outputs:
            message = f"a layer of {inputs} x {outputs} on each GPU is not made of whole {block_outputs} x {block_inputs} blocks"
            return refusal(candidate, "block", message, inputs=inputs, outputs=outputs)
    return None


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
    return _kv_cache_holds(candidate, "context", 1, context, f"one request of {tokens(context)}")


def demand_fits(candidate: Candidate) -> Refusal | None:
    demand = candidate.demand
    requests, each = demand.concurrent_requests, demand.tokens_per_request
    what = f"{requests} requests x {tokens(each)} each, together {tokens(requests * each)}"
    return _kv_cache_holds(candidate, "demand", requests, each, what)


def _kv_cache_holds(candidate: Candidate, rule: str, requests: int, tokens_each: int, what: str) -> Refusal | None:
    budget, needed = candidate.budget, candidate.layout.bytes_for(requests, tokens_each)
    if budget.kv_cache_bytes >= needed:
        return None
    left = max(0, budget.kv_cache_bytes)
    message = (
        f"{what} needs {gib(needed)} of {candidate.kv_cache_dtype} KV cache{_each(candidate)}; "
        f"{gib(left)} is left of {gib(max(0, budget.usable_bytes))} after {gib(budget.weights_bytes)} of weights and "
        f"{gib(budget.usable_bytes - budget.weights_bytes - budget.kv_cache_bytes)} of overheads, "
        f"enough for {tokens(candidate.kv_cache_tokens)}"
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
    kv_cache_dtype_possible,
    spans_no_slices,
    one_node_is_enough,
    heads_divide,
    kv_heads_divide,
    vocabulary_divides,
    intermediate_divides,
    layers_divide,
    groups_divide,
    blocks_divide,
    weights_fit,
    load_peak_fits,
    context_fits,
    demand_fits,
)

USER_RULE_NAMES = frozenset({"gpu.products", "gpu.minMemory", "gpu.minComputeCapability", "gpu.perReplica"})
COMPARISON_RULE_NAMES = frozenset({"qualityGate", "smallModel", "slower"})
MEMORY_RULE_NAMES = ("weights", "loadPeak", "context", "demand")
"""In the order of the chain: who fails later is closer to fitting."""

"""The chain of rules that a candidate must pass: each refuses with the number that decided, or says nothing.

Order matters twice: what the user excluded comes first, and memory comes last, because its figures mean nothing
for a placement that the engine would not load.
"""

from __future__ import annotations

from collections.abc import Callable

from kubequant.planning import kv_cache
from kubequant.planning.candidates import Candidate
from kubequant.planning.engines import vllm
from kubequant.planning.tensors import largest_layer_per_rank, padded_vocabulary
from kubequant.planning.text import gib, tokens
from kubequant.planning.values import KvCacheDtype, Refusal

Rule = Callable[[Candidate], Refusal | None]


def first_refusal(candidate: Candidate) -> Refusal | None:
    """The first rule that refuses, None when all pass."""
    return next((refusal for rule in RULES if (refusal := rule(candidate))), None)


def _refuse(candidate: Candidate, rule: str, message: str, **numbers: int) -> Refusal:
    return Refusal(
        gpu=candidate.gpu.product,
        gpus=candidate.gpus,
        scheme=candidate.scheme,
        rule=rule,
        message=f"{candidate.name}: {message}",
        numbers=tuple(numbers.items()),
    )


# --- what the user excluded ------------------------------------------------------------------------------------------


def product_wanted(candidate: Candidate) -> Refusal | None:
    products = candidate.intent.products
    if not products or candidate.gpu.product in products:
        return None
    return _refuse(candidate, "gpu.products", f"not among gpu.products ({', '.join(products)})")


def memory_wanted(candidate: Candidate) -> Refusal | None:
    """Against the label, which is what people call the card's memory."""
    wanted, has = candidate.intent.min_memory_bytes, candidate.gpu.label_memory_bytes
    if has >= wanted:
        return None
    message = f"has {gib(has)}, gpu.minMemory asks for {gib(wanted)}"
    return _refuse(candidate, "gpu.minMemory", message, memory_bytes=has, min_memory_bytes=wanted)


def capability_wanted(candidate: Candidate) -> Refusal | None:
    wanted, has = candidate.intent.min_compute_capability, candidate.gpu.compute_capability
    if wanted is None or has >= wanted:
        return None
    return _refuse(
        candidate,
        "gpu.minComputeCapability",
        f"has compute capability {has}, gpu.minComputeCapability asks for {wanted}",
    )


def count_wanted(candidate: Candidate) -> Refusal | None:
    wanted = candidate.intent.gpus_per_replica
    if wanted is None or wanted == candidate.gpus:
        return None
    return _refuse(candidate, "gpu.perReplica", f"gpu.perReplica asks for {wanted}", per_replica=wanted)


USER_RULES: tuple[Rule, ...] = (product_wanted, memory_wanted, capability_wanted, count_wanted)


# --- what the GPU and the engine can do ------------------------------------------------------------------------------


def capability_floor(candidate: Candidate) -> Refusal | None:
    floor, has = candidate.engine.capability_floor, candidate.gpu.compute_capability
    if has >= floor:
        return None
    engine = f"{candidate.engine.name} {candidate.engine.version}"
    return _refuse(candidate, "capabilityFloor", f"has compute capability {has}, {engine} needs {floor}")


def kernel_exists(candidate: Candidate) -> Refusal | None:
    if candidate.kernel is not None:
        return None
    has = candidate.gpu.compute_capability
    return _refuse(candidate, "kernel", f"no kernel for {candidate.scheme} at compute capability {has}")


def kv_cache_dtype_possible(candidate: Candidate) -> Refusal | None:
    if candidate.intent.kv_cache_dtype is not KvCacheDtype.FP8:
        return None
    obstacle = vllm.fp8_kv_cache_obstacle(candidate.gpu.compute_capability, candidate.facts.shape.head_dim)
    return _refuse(candidate, "kvCacheDtype", f"{obstacle}: leave serving.kvCacheDtype out") if obstacle else None


# --- what divides ----------------------------------------------------------------------------------------------------


def heads_divide(candidate: Candidate) -> Refusal | None:
    heads = candidate.facts.shape.num_attention_heads
    if heads % candidate.gpus == 0:
        return None
    return _refuse(candidate, "heads", f"{heads} attention heads do not divide by {candidate.gpus}", heads=heads)


def kv_heads_divide(candidate: Candidate) -> Refusal | None:
    """Up to their number KV heads are split, above it they are replicated: both must come out even."""
    heads, gpus = candidate.facts.shape.num_key_value_heads, candidate.gpus
    if max(heads, gpus) % min(heads, gpus) == 0:
        return None
    return _refuse(candidate, "kvHeads", f"{heads} KV heads and {gpus} GPUs do not divide", kv_heads=heads)


def vocabulary_divides(candidate: Candidate) -> Refusal | None:
    padded = padded_vocabulary(candidate.facts.shape.vocab_size)
    if padded % candidate.gpus == 0:
        return None
    message = f"the vocabulary, padded to {padded}, does not divide by {candidate.gpus}"
    return _refuse(candidate, "vocabulary", message, padded_vocabulary=padded)


def intermediate_divides(candidate: Candidate) -> Refusal | None:
    size = candidate.facts.shape.intermediate_size
    if size % candidate.gpus == 0:
        return None
    return _refuse(
        candidate,
        "intermediate",
        f"intermediate size {size} does not divide by {candidate.gpus}",
        intermediate_size=size,
    )


def groups_divide(candidate: Candidate) -> Refusal | None:
    """A quantisation group must not lie across two ranks: row-parallel layers split their inputs."""
    stored = candidate.facts.stored
    group = stored.group_size if stored else None
    if group is None or group <= 0:
        return None
    shape = candidate.facts.shape
    for name, inputs in (("mlp", shape.intermediate_size), ("attention", shape.num_attention_heads * shape.head_dim)):
        if inputs % (candidate.gpus * group):
            message = (
                f"{name} inputs {inputs} over {candidate.gpus} GPUs are {inputs // candidate.gpus} each, "
                f"which groups of {group} do not divide"
            )
            return _refuse(candidate, "groupSize", message, inputs=inputs, group_size=group)
    return None


def blocks_divide(candidate: Candidate) -> Refusal | None:
    """FP8 weight blocks: outputs of column-parallel and inputs of row-parallel layers must be whole blocks on each rank."""
    block = candidate.facts.stored.block if candidate.facts.stored else None
    if block is None or candidate.gpus == 1:
        return None
    block_outputs, block_inputs = block
    for inputs, outputs in candidate.linear_layers:
        if inputs % block_inputs or outputs % block_outputs:
            message = f"a layer of {inputs} x {outputs} on each GPU is not made of whole {block_outputs} x {block_inputs} blocks"
            return _refuse(candidate, "block", message, inputs=inputs, outputs=outputs)
    return None


# --- what fits -------------------------------------------------------------------------------------------------------


def _each(candidate: Candidate) -> str:
    return "" if candidate.gpus == 1 else " on each GPU"


def weights_fit(candidate: Candidate) -> Refusal | None:
    """Weights alone against what the engine may use."""
    budget = candidate.budget
    if budget.weights_bytes <= budget.usable_bytes:
        return None
    message = f"{candidate.scheme} weights need {gib(budget.weights_bytes)}{_each(candidate)}, {_available(candidate)}"
    return _refuse(
        candidate, "weights", message, weights_bytes=budget.weights_bytes, usable_bytes=max(0, budget.usable_bytes)
    )


def _available(candidate: Candidate) -> str:
    return f"{gib(max(0, candidate.budget.usable_bytes))} available"


def load_peak_fits(candidate: Candidate) -> Refusal | None:
    """A kernel repacks one layer at a time, so that layer stands in memory twice."""
    if candidate.facts.stored is None:
        return None
    budget = candidate.budget
    peak = budget.weights_bytes + largest_layer_per_rank(candidate.facts, candidate.gpus)
    if peak <= budget.usable_bytes:
        return None
    message = f"loading and repacking peak at {gib(peak)}{_each(candidate)}, {_available(candidate)}"
    return _refuse(candidate, "loadPeak", message, load_peak_bytes=peak, usable_bytes=budget.usable_bytes)


def context_fits(candidate: Candidate) -> Refusal | None:
    """One request at full length."""
    return _kv_cache_holds(candidate, "context", candidate.demand.context_tokens, "one request of")


def demand_fits(candidate: Candidate) -> Refusal | None:
    demand = candidate.demand
    what = f"{demand.concurrent_requests} requests x {tokens(demand.tokens_per_request)} each, together"
    return _kv_cache_holds(candidate, "demand", demand.tokens, what)


def _kv_cache_holds(candidate: Candidate, rule: str, needed_tokens: int, what: str) -> Refusal | None:
    if candidate.kv_cache_tokens >= needed_tokens:
        return None
    budget = candidate.budget
    needed = kv_cache.bytes_for(needed_tokens, budget.kv_bytes_per_token)
    left = max(0, budget.kv_cache_bytes)
    message = (
        f"{what} {tokens(needed_tokens)} needs {gib(needed)} of {candidate.kv_cache_dtype} KV cache{_each(candidate)}; "
        f"{gib(left)} is left of {gib(budget.usable_bytes)} after {gib(budget.weights_bytes)} of weights and "
        f"{gib(budget.usable_bytes - budget.weights_bytes - budget.kv_cache_bytes)} of overheads, "
        f"enough for {tokens(candidate.kv_cache_tokens)}"
    )
    return _refuse(
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
    kv_cache_dtype_possible,
    heads_divide,
    kv_heads_divide,
    vocabulary_divides,
    intermediate_divides,
    groups_divide,
    blocks_divide,
    weights_fit,
    load_peak_fits,
    context_fits,
    demand_fits,
)

USER_RULE_NAMES = frozenset({"gpu.products", "gpu.minMemory", "gpu.minComputeCapability", "gpu.perReplica"})
MEMORY_RULE_NAMES = ("weights", "loadPeak", "context", "demand")
"""In the order of the chain: who fails later is closer to fitting."""

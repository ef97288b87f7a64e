"""Rules on what must divide: heads, states, vocabulary, inner sizes, groups and blocks of quantisation, over ranks and nodes."""

from __future__ import annotations

from kubequant.planning.candidates import Candidate
from kubequant.planning.cuts import broken_block, expert_block, expert_group
from kubequant.planning.refusing import Rule, refusal
from kubequant.planning.tensors import padded_vocabulary
from kubequant.planning.values import CacheKind, ComputeCapability, Refusal, StoredMethod

_NATIVE_FP8 = ComputeCapability(8, 9)


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
    shape, ranks = candidate.facts.shape, candidate.tensor_parallel_size
    heads = shape.num_attention_heads
    if heads % ranks == 0 or all(cache.kind is CacheKind.STATE for cache in shape.caches):
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


def states_divide(candidate: Candidate) -> Refusal | None:
    """Heads, groups and channels of recurrent layers are split; only a single group is replicated."""
    ranks = candidate.tensor_parallel_size
    for units in (state.units for cache in candidate.facts.shape.caches for state in cache.state):
        if units > 1 and units % ranks:
            message = f"{units} heads, groups or channels of a recurrent layer do not divide by {ranks}"
            return refusal(candidate, "states", message, units=units)
    return None


def vision_heads_divide(candidate: Candidate) -> Refusal | None:
    heads, ranks = candidate.facts.shape.vision_heads, candidate.tensor_parallel_size
    if heads % ranks == 0:
        return None
    return refusal(candidate, "visionHeads", f"{heads} heads of the vision tower do not divide by {ranks}", heads=heads)


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
    """A quantisation group must not lie across two ranks: row-parallel layers split their inputs.

    Of an MXFP4 export only the experts are quantised, and vLLM gives each rank whole groups of them.
    """
    stored, ranks, shape = candidate.facts.stored, candidate.tensor_parallel_size, candidate.facts.shape
    if stored is None or stored.method is StoredMethod.MXFP4 or ranks == 1:
        return None
    group = stored.group_size
    if group is None or group <= 0:
        return None
    inputs_of = [("mlp", size) for size in candidate.intermediate_sizes]
    if shape.experts and ("mlp", shape.experts.intermediate_size) in inputs_of and expert_group(stored, shape, ranks):
        inputs_of.remove(("mlp", shape.experts.intermediate_size))
    if shape.keeps(CacheKind.FULL, CacheKind.SLIDING, CacheKind.CHUNKED):
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
    facts, ranks = candidate.facts, candidate.tensor_parallel_size
    if facts.stored is None or facts.stored.block is None:
        return None
    broken = broken_block(facts, ranks)
    if broken is None and facts.shape.experts:
        block = expert_block(facts.stored, facts.shape, ranks)
        refined_without_kernel = block != facts.stored.block and candidate.gpu.compute_capability < _NATIVE_FP8
        if block is None or refined_without_kernel:
            broken = "an expert", "inputs", facts.shape.experts.intermediate_size // ranks, facts.stored.block[0]
    if broken is None:
        return None
    module, side, size, block_side = broken
    message = f"{size} {side} of {module} on each GPU are not whole FP8 blocks of {block_side}"
    return refusal(candidate, "block", message, size=size, block=block_side)


DIVISIBILITY_RULES: tuple[Rule, ...] = (
    spans_no_slices,
    one_node_is_enough,
    heads_divide,
    kv_heads_divide,
    states_divide,
    vision_heads_divide,
    vocabulary_divides,
    intermediate_divides,
    layers_divide,
    groups_divide,
    blocks_divide,
)

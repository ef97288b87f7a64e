"""The memory budget of one GPU, line by line.

    usable  = floor(total x gpu_memory_utilization)
    usable  = weights + activation + CUDA graphs + non-torch + margin + KV cache      (promised)
    outside = total - usable >= context and NCCL + what the user reserves

Two figures come out: *expected* is the median of what engines show, *promised* is that less the margin. Constants and their
residuals: docs/design/overheads.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from kubequant.planning import kv_cache
from kubequant.planning.engines.vllm import Overheads, capture_sizes
from kubequant.planning.values import MemoryBudget, ModelShape

_UTILIZATION_STEPS = 1000
"""`gpu_memory_utilization` is rounded down to this many steps."""


@dataclass(frozen=True)
class EngineLoad:
    """What one rank is asked to hold: the inputs of the budget that do not come from the GPU."""

    shape: ModelShape
    weight_bytes: int  # of this rank, as stored
    tensor_parallel_size: int
    max_num_seqs: int
    max_num_batched_tokens: int
    kv_cache_dtype: str
    nvlink: bool = True
    enforce_eager: bool = False
    attention_workspace_bytes: int = 0


def loaded_weight_bytes(load: EngineLoad, overheads: Overheads) -> int:
    """Stored bytes plus what loading adds (rotary tables, allocator rounding, kernels' own layout)."""
    return load.weight_bytes + int(load.weight_bytes * overheads.weight_growth) + overheads.weight_extra_bytes


def activation_bytes(load: EngineLoad, overheads: Overheads) -> int:
    """Peak of the profiling run: the larger of the sampler over all logits and one layer's MLP over a full batch,
    on top of the residual stream. 16-bit activations."""
    shape = load.shape
    sampler = int(overheads.sampler_bytes_per_logit * load.max_num_seqs * shape.vocab_size)
    mlp_values = 3 * shape.intermediate_size // load.tensor_parallel_size + 3 * shape.hidden_size
    mlp = 2 * load.max_num_batched_tokens * mlp_values
    residual = 2 * load.max_num_batched_tokens * shape.hidden_size
    return overheads.activation_floor_bytes + residual + max(sampler, mlp)


def cuda_graph_bytes(load: EngineLoad, overheads: Overheads) -> int:
    """What the engine sets aside for CUDA graphs; 0 when it captures none or does not count them in its budget."""
    if load.enforce_eager or not overheads.graphs_in_budget:
        return 0
    sizes = capture_sizes(load.max_num_seqs)
    layers = load.shape.num_hidden_layers
    return overheads.graph_bytes_floor + overheads.graph_bytes_per_layer_and_size * layers * sizes


def non_torch_bytes(load: EngineLoad, overheads: Overheads) -> int:
    """What stays allocated beside the model inside the budget: libraries, the attention backend's workspace, and the
    buffers of collectives when ranks > 1."""
    if load.tensor_parallel_size == 1:
        return overheads.non_torch_bytes + load.attention_workspace_bytes
    buffers = overheads.non_torch_nvlink_bytes if load.nvlink else overheads.non_torch_pcie_bytes
    ranks = overheads.non_torch_bytes_per_rank * load.tensor_parallel_size
    return buffers + ranks + load.attention_workspace_bytes


def margin_bytes(load: EngineLoad, overheads: Overheads) -> int:
    """What the promise holds back: covers the residuals of every start-up in bench/data that this release plans."""
    beside_weights = (
        activation_bytes(load, overheads) + cuda_graph_bytes(load, overheads) + non_torch_bytes(load, overheads)
    )
    shares = beside_weights * overheads.margin_share + load.weight_bytes * overheads.margin_weight_share
    parallel = overheads.margin_parallel_bytes if load.tensor_parallel_size > 1 and overheads.graphs_in_budget else 0
    return overheads.margin_floor_bytes + parallel + int(shares)


def reserve_bytes(load: EngineLoad, total_bytes: int, overheads: Overheads) -> int:
    """What must stay outside the engine's share: the CUDA context and NCCL come before its first measurement, and sorting
    for top-k/top-p in service takes more than the profile saw."""
    parallel = overheads.context_parallel_bytes if load.tensor_parallel_size > 1 else 0
    context = max(overheads.context_bytes, total_bytes * overheads.context_permille // 1000) + parallel
    unseen = overheads.sampler_peak_bytes_per_logit - overheads.sampler_bytes_per_logit
    return context + int(max(0.0, unseen) * load.max_num_seqs * load.shape.vocab_size)


def memory_budget(
    load: EngineLoad,
    total_bytes: int,
    overheads: Overheads,
    reserved_bytes: int = 0,
    gpu_memory_utilization: float | None = None,
) -> MemoryBudget:
    """The budget on a GPU of `total_bytes` (what CUDA reports). KV figures are negative by what is missing.

    `gpu_memory_utilization` is derived from what must stay outside; give it to reproduce a start-up that chose its own.
    """
    context = reserve_bytes(load, total_bytes, overheads)
    if gpu_memory_utilization is None:
        inside = max(0, total_bytes - context - reserved_bytes)
        gpu_memory_utilization = inside * _UTILIZATION_STEPS // total_bytes / _UTILIZATION_STEPS
    usable = int(total_bytes * gpu_memory_utilization)
    weights = loaded_weight_bytes(load, overheads)
    activation = activation_bytes(load, overheads)
    graphs = cuda_graph_bytes(load, overheads)
    non_torch = non_torch_bytes(load, overheads)
    margin = margin_bytes(load, overheads)
    expected = usable - weights - activation - graphs - non_torch
    return MemoryBudget(
        total_bytes=total_bytes,
        gpu_memory_utilization=gpu_memory_utilization,
        usable_bytes=usable,
        reserved_bytes=reserved_bytes,
        context_bytes=context,
        weights_bytes=weights,
        activation_bytes=activation,
        cuda_graphs_bytes=graphs,
        non_torch_bytes=non_torch,
        margin_bytes=margin,
        kv_cache_bytes=expected - margin,
        expected_kv_cache_bytes=expected,
        kv_bytes_per_token=kv_cache.bytes_per_token(load.shape, load.kv_cache_dtype, load.tensor_parallel_size),
        evidence=overheads.evidence,
    )

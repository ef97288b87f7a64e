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
from kubequant.planning.engines.overheads import ExpertKernel, Overheads, capture_sizes
from kubequant.planning.values import CacheKind, Evidence, Measurement, MemoryBudget, ModelShape

_UTILIZATION_STEPS = 1000
"""`gpu_memory_utilization` is rounded down to this many steps."""

_VALUE_BYTES = 2
"""Of an activation, a LoRA weight: everything runs in 16 bit."""

_DEEP_GEMM_TILE = 128

_DYNAMIC_RESOLUTION = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5", "qwen2_5_omni", "qwen3_omni")
"""Model types whose images are as large as they come: the engine profiles the largest (16,384 tokens of it)."""


@dataclass(frozen=True)
class Lora:
    """Adapters that the engine keeps room for: `max_loras` slots of `max_lora_rank` each."""

    max_loras: int
    max_lora_rank: int


@dataclass(frozen=True)
class Speculation:
    """Speculative decoding: `num_speculative_tokens` from a draft that keeps `draft_weight_bytes` on a rank (0: n-gram)."""

    num_speculative_tokens: int
    draft_weight_bytes: int = 0


@dataclass(frozen=True)
class EngineLoad:
    """What one rank is asked to hold: the inputs of the budget that do not come from the GPU.

    `computes_logits` is False for a pipeline rank that is not the last: it samples nothing.
    """

    shape: ModelShape
    weight_bytes: int  # of this rank, as stored
    tensor_parallel_size: int
    max_num_seqs: int
    max_num_batched_tokens: int
    kv_cache_dtype: str
    nvlink: bool = True
    enforce_eager: bool = False
    attention_workspace_bytes: int = 0
    flashinfer_sampler: bool = True  # False below compute capability 8.0
    pipeline_parallel_size: int = 1
    computes_logits: bool = True
    expert_kernel: ExpertKernel = ExpertKernel.TRITON
    lora: Lora | None = None
    speculation: Speculation | None = None


def loaded_weight_bytes(load: EngineLoad, overheads: Overheads) -> int:
    """Stored bytes plus what loading adds (rotary tables, allocator rounding, kernels' own layout), the draft model of
    speculative decoding and the slots of LoRA adapters."""
    stored = load.weight_bytes + (load.speculation.draft_weight_bytes if load.speculation else 0)
    return stored + int(stored * overheads.weight_growth) + overheads.weight_extra_bytes + lora_bytes(load)


def lora_bytes(load: EngineLoad) -> int:
    """Slots for adapters on every projection and on the head, allocated in full at start. Derived from vLLM's source
    (lora/layers): A is whole on each rank, one for each slice of a fused projection; B is split with its layer's outputs.

    An expert keeps A and B of its own three projections.
    """
    if load.lora is None:
        return 0
    shape, ranks = load.shape, load.tensor_parallel_size
    hidden = shape.hidden_size
    query = shape.num_attention_heads * shape.head_dim // ranks
    key = max(1, shape.num_key_value_heads // ranks) * shape.head_dim
    attention = 3 * hidden + query + 2 * key + query + hidden
    experts = shape.experts
    dense = shape.num_hidden_layers - (experts.layers if experts else 0)
    values = shape.num_hidden_layers * attention + dense * _mlp_lora_values(hidden, shape.intermediate_size, ranks)
    if experts:
        values += experts.layers * experts.experts * _mlp_lora_values(hidden, experts.intermediate_size, ranks)
    values += 2 * (shape.vocab_size + hidden)
    return _VALUE_BYTES * load.lora.max_loras * load.lora.max_lora_rank * values // load.pipeline_parallel_size


def _mlp_lora_values(hidden: int, intermediate: int, ranks: int) -> int:
    """Values of gate, up and down for each unit of rank."""
    inner = intermediate // ranks
    return 2 * hidden + 2 * inner + inner + hidden


def activation_bytes(load: EngineLoad, overheads: Overheads) -> int:
    """Peak of the profiling run: the larger of the sampler over all logits and one layer's MLP over a full batch, on top
    of the residual stream, the buffers of fused experts and what a multimodal encoder keeps. 16-bit activations."""
    residual = _VALUE_BYTES * load.max_num_batched_tokens * load.shape.hidden_size
    passed_on = 2 * residual if load.pipeline_parallel_size > 1 else 0  # hidden states and residual, to the next rank
    sampler, mlp, experts = sampler_bytes(load, overheads), _mlp_bytes(load), expert_workspace_bytes(load)
    kept = load.expert_kernel is not ExpertKernel.MXFP4 and (
        overheads.expert_workspace_kept or load.expert_kernel is ExpertKernel.DEEP_GEMM
    )
    peak = max(sampler + experts, mlp) if kept else max(sampler, mlp, experts)
    return overheads.activation_floor_bytes + residual + passed_on + peak + encoder_bytes(load, overheads)


def sampler_bytes(load: EngineLoad, overheads: Overheads) -> int:
    """All requests sample at once; with speculative decoding each verifies a draft token too."""
    if not load.computes_logits:
        return 0
    per_logit = overheads.sampler_bytes_per_logit
    if load.speculation:
        per_logit += overheads.rejection_bytes_per_logit
    return int(per_logit * load.max_num_seqs * load.shape.vocab_size)


def _mlp_bytes(load: EngineLoad) -> int:
    """Gate, up and their product, and the layer's own streams, over a full batch."""
    shape = load.shape
    values = 3 * shape.intermediate_size // load.tensor_parallel_size + 3 * shape.hidden_size
    return _VALUE_BYTES * load.max_num_batched_tokens * values


def expert_workspace_bytes(load: EngineLoad) -> int:
    """Two buffers of fused experts over a full batch, 0 for a dense model. From vLLM's source (fused_moe/experts): every
    token goes to `per_token` experts; one buffer holds max(I, h), the other max(2 I, h) values of each. DeepGEMM rounds each
    expert's tokens up to a tile and keeps a permuted FP8 copy of its inputs."""
    experts = load.shape.experts
    if experts is None:
        return 0
    inner, hidden = experts.intermediate_size // load.tensor_parallel_size, load.shape.hidden_size
    rows = load.max_num_batched_tokens * experts.per_token
    row_bytes = _VALUE_BYTES * (max(inner, hidden) + max(2 * inner, hidden))
    if load.expert_kernel is ExpertKernel.DEEP_GEMM:
        rows += experts.experts * (_DEEP_GEMM_TILE - 1)
        row_bytes += hidden
    return rows * row_bytes


def encoder_bytes(load: EngineLoad, overheads: Overheads) -> int:
    """What profiling a vision or audio encoder leaves in the peak; 0 for text."""
    if not load.shape.multimodal:
        return 0
    if not load.shape.model_type.startswith(_DYNAMIC_RESOLUTION):
        return overheads.encoder_bytes
    vectors = overheads.dynamic_encoder_tokens * overheads.dynamic_encoder_levels
    return _VALUE_BYTES * vectors * load.shape.hidden_size


def cuda_graph_bytes(load: EngineLoad, overheads: Overheads) -> int:
    """What the engine sets aside for CUDA graphs; 0 when it captures none or does not count them in its budget."""
    if load.enforce_eager or not overheads.graphs_in_budget:
        return 0
    tokens = 1 + load.speculation.num_speculative_tokens if load.speculation else 1
    sizes = capture_sizes(load.max_num_seqs, tokens)
    recurrent = sum(cache.layers for cache in load.shape.caches if cache.kind is CacheKind.STATE)
    layers = load.shape.num_hidden_layers - recurrent * (1 - overheads.graph_recurrent_share)
    per_size = overheads.graph_bytes_per_layer_and_size * layers / load.pipeline_parallel_size
    experts = overheads.graph_expert_bytes * sizes // capture_sizes(512) if load.shape.experts else 0
    return overheads.graph_bytes_floor + int(per_size * sizes) + experts


def non_torch_bytes(load: EngineLoad, overheads: Overheads) -> int:
    """What stays allocated beside the model inside the budget: libraries, the workspaces of the attention backend and of the
    sampler, and the buffers of collectives when ranks > 1."""
    sampler = overheads.sampler_workspace_bytes if load.computes_logits and load.flashinfer_sampler else 0
    return _collective_bytes(load, overheads) + sampler + load.attention_workspace_bytes


def _collective_bytes(load: EngineLoad, overheads: Overheads) -> int:
    if load.tensor_parallel_size == 1:
        return overheads.non_torch_bytes
    if not load.nvlink:
        return overheads.non_torch_pcie_bytes
    return overheads.non_torch_nvlink_bytes + overheads.non_torch_bytes_per_rank * load.tensor_parallel_size


def load_peak_bytes(weight_bytes: int, largest_layer_bytes: int) -> int:
    """The most that loading takes on a rank: kernels repack layer by layer, so one layer is held twice. No KV cache
    exists yet; it must fit in what the engine may use."""
    return weight_bytes + largest_layer_bytes


def margin_bytes(load: EngineLoad, overheads: Overheads, expected_kv_cache_bytes: int = 0) -> int:
    """What the promise holds back: covers the residuals of start-ups in bench/data, more where few of a kind are known."""
    beside_weights = (
        activation_bytes(load, overheads) + cuda_graph_bytes(load, overheads) + non_torch_bytes(load, overheads)
    )
    shape = load.shape
    kinds = (shape.experts, shape.multimodal, shape.keeps(CacheKind.STATE), load.lora, load.speculation)
    parts = (
        overheads.margin_floor_bytes,
        overheads.margin_share * beside_weights,
        overheads.margin_weight_share * load.weight_bytes,
        overheads.margin_unusual_bytes * sum(map(bool, kinds)),
        overheads.margin_cache_share * max(0, expected_kv_cache_bytes),
        _parallel_margin_bytes(load, overheads),
    )
    return int(sum(parts))


def _parallel_margin_bytes(load: EngineLoad, overheads: Overheads) -> int:
    if load.tensor_parallel_size == 1:
        return 0
    return overheads.margin_nvlink_bytes if load.nvlink else overheads.margin_pcie_bytes


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
    correction: Measurement | None = None,
) -> MemoryBudget:
    """The budget on a GPU of `total_bytes` (what CUDA reports). KV figures are negative by what is missing.

    `gpu_memory_utilization` is derived from what must stay outside; give it to reproduce a start-up that chose its own.
    `correction` is a measured start-up of the same revision: its difference is part of the non-torch line, and the margin
    shrinks to what start-ups of one configuration differ by.
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
    if correction is not None:
        # Whatever was measured: the lines before this one are computed from the model and cannot have been less.
        non_torch = max(0, non_torch + correction.expected_kv_cache_bytes - correction.measured_kv_cache_bytes)
    expected = usable - weights - activation - graphs - non_torch
    margin = overheads.margin_floor_bytes if correction is not None else margin_bytes(load, overheads, expected)
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
        evidence=Evidence.MEASURED if correction is not None else overheads.evidence,
    )

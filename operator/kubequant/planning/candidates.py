"""One way to place a model: a checkpoint, a GPU class, a number of GPUs, and everything that follows from them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

from kubequant.planning.engines import vllm
from kubequant.planning.kv_cache import KvLayout, backend_block_tokens, kv_layout
from kubequant.planning.memory import EngineLoad, memory_budget
from kubequant.planning.roofline import Roofline, roofline, work_of
from kubequant.planning.tensors import largest_layer_per_rank, weights_per_rank
from kubequant.planning.values import (
    CacheKind,
    ComputeCapability,
    GpuClass,
    Intent,
    KvCacheDtype,
    Measurement,
    MemoryBudget,
    ModelFacts,
    ModelShape,
    Objective,
)

DEFAULT_CONTEXT_TOKENS = 8192
DEFAULT_TOKENS_PER_REQUEST = 4096


@dataclass(frozen=True)
class Demand:
    """What the KV cache must hold, in tokens."""

    context_tokens: int  # one request at full length; the minimum when the user leaves it open
    tokens_per_request: int
    concurrent_requests: int

    @property
    def tokens(self) -> int:
        """max(context, requests x tokens each): more requests than that queue."""
        return max(self.context_tokens, self.concurrent_requests * self.tokens_per_request)


def demand_of(intent: Intent, model_context_tokens: int) -> Demand:
    """Fills in the defaults of the API."""
    context = intent.context_tokens
    if context is None:
        context = min(model_context_tokens, max(DEFAULT_CONTEXT_TOKENS, intent.tokens_per_request or 0))
    per_request = intent.tokens_per_request or min(context, DEFAULT_TOKENS_PER_REQUEST)
    return Demand(context, per_request, intent.concurrent_requests)


def kv_cache_dtypes(intent: Intent, shape: ModelShape, capability: ComputeCapability) -> tuple[str, ...]:
    """What to try, best first. `BF16` asked for means 16 bit: a model in float16 keeps float16, as the engine demands.

    Automatic is FP8 where the GPU converts it natively, else 16 bit; 16 bit as well where FP8 does not fit, because its attention
    backend keeps a workspace that a very small card has no room for; 16 bit first where quality is all.
    Layers with a window stay in 16 bit unless asked:
    their caches are small, and eight bits are known to hurt them.
    """
    sixteen_bit = vllm.activation_dtype(shape, capability)
    if intent.kv_cache_dtype is KvCacheDtype.FP8:
        return ("FP8",)
    possible = vllm.fp8_kv_cache_obstacle(capability, shape) is None and vllm.fp8_kv_cache_is_default(capability)
    windowed = shape.keeps(CacheKind.SLIDING, CacheKind.CHUNKED)
    if intent.kv_cache_dtype is KvCacheDtype.AUTO and possible and not windowed:
        return (sixteen_bit, "FP8") if intent.objective is Objective.HIGHEST_QUALITY else ("FP8", sixteen_bit)
    return (sixteen_bit,)


_weights_per_rank = lru_cache(maxsize=128)(weights_per_rank)
_largest_layer_per_rank = lru_cache(maxsize=128)(largest_layer_per_rank)
_work_of = lru_cache(maxsize=128)(work_of)
"""One plan asks the same of every GPU class: without these its time would be spent on summing tensors anew."""


@dataclass(frozen=True)
class Candidate:
    """A checkpoint on a GPU class, for one intent. Its properties are computed on demand."""

    intent: Intent
    facts: ModelFacts
    engine: vllm.EngineProfile
    gpu: GpuClass
    gpus: int
    max_num_batched_tokens: int
    kv_cache_dtype: str  # BF16 | F16 | FP8
    pipeline_parallel_size: int = 1
    measurement: Measurement | None = None
    trust: int = (
        0  # place among the checkpoints tried: 0 what was asked for, found ones by trust, then what could be made
    )

    @property
    def is_ours(self) -> bool:
        """Chosen by the planner: neither what was named, nor of a scheme asked for."""
        return (self.trust > 0 or self.facts.predicted) and self.intent.scheme == "Auto"

    @property
    def checkpoint(self) -> str:
        """The repository that is tried in place of the model asked for; nothing where it is that model, or does not exist."""
        return self.facts.repository if self.trust and not self.facts.predicted else ""

    @property
    def tensor_parallel_size(self) -> int:
        return self.gpus // self.pipeline_parallel_size

    @cached_property
    def demand(self) -> Demand:
        return demand_of(self.intent, self.facts.shape.max_position_embeddings)

    @property
    def scheme(self) -> str:
        return self.facts.stored.scheme if self.facts.stored else "Unquantized"

    @property
    def activation_dtype(self) -> str:
        return vllm.activation_dtype(self.facts.shape, self.gpu.compute_capability)

    @cached_property
    def kernel(self) -> str | None:
        experts = self.facts.shape.experts is not None
        return vllm.kernel_for(self.facts.stored, self.gpu.compute_capability, self.linear_layers, experts=experts)

    @property
    def linear_layers(self) -> tuple[tuple[int, int], ...]:
        """(inputs, outputs) on one rank of q, k, o, gate and down projections, of the MLP and of experts."""
        shape, ranks = self.facts.shape, self.tensor_parallel_size
        query = shape.num_attention_heads * shape.head_dim // ranks
        key = max(1, shape.num_key_value_heads // ranks) * shape.head_dim
        hidden = shape.hidden_size
        attention = () if shape.keeps(CacheKind.LATENT) else ((hidden, query), (hidden, key), (query, hidden))
        inner = [size // ranks for size in self.intermediate_sizes]
        return (*attention, *(pair for size in inner for pair in ((hidden, size), (size, hidden))))

    @property
    def intermediate_sizes(self) -> tuple[int, ...]:
        """Inner sizes of the MLPs that the model has: dense, of an expert, of the shared experts."""
        shape, experts = self.facts.shape, self.facts.shape.experts
        if experts is None:
            return (shape.intermediate_size,)
        dense = shape.intermediate_size if experts.layers < shape.num_hidden_layers else 0
        return tuple(size for size in (dense, experts.intermediate_size, experts.shared_intermediate_size) if size)

    @cached_property
    def weight_bytes_per_rank(self) -> int:
        padded = self.scheme == "MXFP4" and self.kernel == "Marlin"
        stored = _weights_per_rank(
            self.facts, self.tensor_parallel_size, self.pipeline_parallel_size, padded_experts=padded
        )
        return stored + vllm.repacked_growth_bytes(self.facts.stored, self.kernel or "", stored)

    @cached_property
    def layout(self) -> KvLayout:
        shape = self.facts.shape
        return kv_layout(
            shape,
            self.kv_cache_dtype,
            self.tensor_parallel_size,
            self.pipeline_parallel_size,
            self.max_num_batched_tokens,
            block_tokens=backend_block_tokens(shape, self.kv_cache_dtype, self.gpu.compute_capability),
        )

    @cached_property
    def budget(self) -> MemoryBudget:
        load = EngineLoad(
            shape=self.facts.shape,
            weight_bytes=self.weight_bytes_per_rank,
            tensor_parallel_size=self.tensor_parallel_size,
            max_num_seqs=self.intent.concurrent_requests,
            max_num_batched_tokens=self.max_num_batched_tokens,
            kv_cache_dtype=self.kv_cache_dtype,
            nvlink=self.gpu.nvlink,
            attention_workspace_bytes=vllm.attention_workspace_bytes(
                self.kv_cache_dtype, self.gpu.compute_capability, self.facts.shape.head_dim
            ),
            pipeline_parallel_size=self.pipeline_parallel_size,
            flashinfer_sampler=vllm.samples_with_flashinfer(self.gpu.compute_capability),
            expert_kernel=vllm.expert_kernel(self.facts.stored, self.gpu.compute_capability),
            enforce_eager=("enforce-eager", "true") in self.intent.engine_arguments,
        )
        return memory_budget(
            load,
            self.gpu.memory_bytes,
            self.engine.overheads,
            reserved_bytes=self.intent.reserved_memory_bytes,
            correction=self.measurement,
        )

    @cached_property
    def longest_context_tokens(self) -> int:
        """The longest request that the promised cache holds, up to the model's own context; 0 when not even one block is left."""
        blocks = self.layout.blocks_in(self.budget.kv_cache_bytes)
        low, high = 0, self.facts.shape.max_position_embeddings
        if self.layout.blocks_for(high) <= blocks:
            return high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.layout.blocks_for(middle) <= blocks else (low, middle)
        return low

    @property
    def context_tokens(self) -> int:
        """As asked; left open, as long as fits, up to the model's own."""
        if self.intent.context_tokens is not None:
            return self.intent.context_tokens
        return self.longest_context_tokens

    @property
    def kv_cache_tokens(self) -> int:
        """Promised, as the engine counts: requests at full length x that length."""
        return self._tokens_in(self.budget.kv_cache_bytes)

    @property
    def expected_kv_cache_tokens(self) -> int:
        return self._tokens_in(self.budget.expected_kv_cache_bytes)

    def _tokens_in(self, cache_bytes: int) -> int:
        return self.layout.tokens_in(cache_bytes, max(1, self.context_tokens or self.demand.context_tokens))

    @property
    def memory_taken_bytes(self) -> int:
        """GPU memory taken from the cluster: what LowestCost makes least where no prices are given."""
        return self.gpus * self.gpu.label_memory_bytes

    @property
    def price_per_hour(self) -> float | None:
        """Of one replica, None where the user has given no price for this product."""
        return None if self.gpu.price_per_hour is None else self.gpus * self.gpu.price_per_hour

    @cached_property
    def roofline(self) -> Roofline | None:
        """At the concurrency and length asked for; None where the card's rates are not known."""
        demand = self.demand
        requests = demand.concurrent_requests
        work = _work_of(self.facts, self.kv_cache_dtype, requests, demand.tokens_per_request)
        return roofline(work, self.gpu, self.gpus, self.scheme, requests, self.facts.shape.num_hidden_layers)

    @property
    def largest_layer_bytes_per_rank(self) -> int:
        return _largest_layer_per_rank(self.facts, self.tensor_parallel_size)

    @property
    def name(self) -> str:
        return f"{self.gpu.product} x{self.gpus}"

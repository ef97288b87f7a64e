"""One way to place a model: a GPU class, a number of GPUs, and everything that follows from them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from kubequant.planning import kv_cache
from kubequant.planning.engines import vllm
from kubequant.planning.memory import EngineLoad, memory_budget
from kubequant.planning.tensors import weights_per_rank
from kubequant.planning.values import (
    ComputeCapability,
    GpuClass,
    Intent,
    KvCacheDtype,
    MemoryBudget,
    ModelFacts,
    ModelShape,
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
    backend keeps a workspace that a very small card has no room for.
    """
    sixteen_bit = vllm.activation_dtype(shape, capability)
    if intent.kv_cache_dtype is KvCacheDtype.FP8:
        return ("FP8",)
    possible = vllm.fp8_kv_cache_obstacle(capability, shape.head_dim) is None
    if intent.kv_cache_dtype is KvCacheDtype.AUTO and possible and vllm.fp8_kv_cache_is_default(capability):
        return "FP8", sixteen_bit
    return (sixteen_bit,)


@dataclass(frozen=True)
class Candidate:
    """A GPU class and a tensor-parallel size, for one model and one intent. Its properties are computed on demand."""

    intent: Intent
    facts: ModelFacts
    engine: vllm.EngineProfile
    gpu: GpuClass
    gpus: int
    max_num_batched_tokens: int
    kv_cache_dtype: str  # BF16 | F16 | FP8

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
        return vllm.kernel_for(self.facts.stored, self.gpu.compute_capability, self.linear_layers)

    @property
    def linear_layers(self) -> tuple[tuple[int, int], ...]:
        """(inputs, outputs) on one rank of q, k, o, gate and down projections."""
        shape, ranks = self.facts.shape, self.gpus
        query = shape.num_attention_heads * shape.head_dim // ranks
        key = max(1, shape.num_key_value_heads // ranks) * shape.head_dim
        inner = shape.intermediate_size // ranks
        hidden = shape.hidden_size
        return ((hidden, query), (hidden, key), (query, hidden), (hidden, inner), (inner, hidden))

    @cached_property
    def weight_bytes_per_rank(self) -> int:
        stored = weights_per_rank(self.facts, self.gpus)
        return stored + vllm.repacked_growth_bytes(self.facts.stored, self.kernel or "", stored)

    @cached_property
    def budget(self) -> MemoryBudget:
        load = EngineLoad(
            shape=self.facts.shape,
            weight_bytes=self.weight_bytes_per_rank,
            tensor_parallel_size=self.gpus,
            max_num_seqs=self.intent.concurrent_requests,
            max_num_batched_tokens=self.max_num_batched_tokens,
            kv_cache_dtype=self.kv_cache_dtype,
            nvlink=self.gpu.nvlink,
            attention_workspace_bytes=vllm.attention_workspace_bytes(
                self.kv_cache_dtype, self.gpu.compute_capability, self.facts.shape.head_dim
            ),
        )
        return memory_budget(
            load, self.gpu.memory_bytes, self.engine.overheads, reserved_bytes=self.intent.reserved_memory_bytes
        )

    @property
    def kv_cache_tokens(self) -> int:
        """Promised."""
        return kv_cache.tokens_in(self.budget.kv_cache_bytes, self.budget.kv_bytes_per_token)

    @property
    def expected_kv_cache_tokens(self) -> int:
        return kv_cache.tokens_in(self.budget.expected_kv_cache_bytes, self.budget.kv_bytes_per_token)

    @property
    def context_tokens(self) -> int:
        """As asked; left open, as long as fits, up to the model's own."""
        if self.intent.context_tokens is not None:
            return self.intent.context_tokens
        return min(self.facts.shape.max_position_embeddings, self.kv_cache_tokens)

    @property
    def memory_taken_bytes(self) -> int:
        """GPU memory taken from the cluster: what LowestCost makes least."""
        return self.gpus * self.gpu.label_memory_bytes

    @property
    def name(self) -> str:
        return f"{self.gpu.product} x{self.gpus}"

"""How fast a placement could be at best, and which of two placements is the faster one.

A *bound* is what no engine can beat: bytes that a step must move over the card's bandwidth, operations over its dense peak.
To *rank* placements the same figures are divided by the shares of them that real engines reach, because those differ by scheme:
4-bit kernels reach less of the bandwidth than 16-bit ones, and weight-only schemes compute in 16 bit whatever they store.
Shares: 0.68 and 0.80 of the bandwidth (decoding at batch 1, measured on six models), half of the peak (prefill and large batches).
Ranks meet twice a layer; what a meeting takes is assumed, not measured: it keeps small models from being spread over slow links.
"""

from __future__ import annotations

from dataclasses import dataclass

from kubequant.planning.kv_cache import DTYPE_BYTES
from kubequant.planning.names import TensorName, is_embedding
from kubequant.planning.sharding import loaded_bytes
from kubequant.planning.tensors import loaded
from kubequant.planning.values import (
    Bounds,
    CacheKind,
    CacheLayers,
    ComputeCapability,
    GpuClass,
    ModelFacts,
    ModelShape,
    TensorClass,
)

_PACKED_4BIT = ("W4A16", "NVFP4", "MXFP4")
_BANDWIDTH_SHARE = 0.80
_BANDWIDTH_SHARE_4BIT = 0.68
_COMPUTE_SHARE = 0.5
_MEETING_SECONDS = {True: 15e-6, False: 60e-6}
"""Of an all-reduce of a decoding step's few kB, with NVLink and over PCIe."""
_PROMPT_SHARE = 0.5
"""Of a request's tokens, how many are its prompt: unknown beforehand, so half of them."""

_ADA = ComputeCapability(8, 9)
_BLACKWELL = ComputeCapability(10, 0)
_NEVER_TIED = ("embed_tokens_per_layer",)
_PROJECTORS = frozenset({
    "multi_modal_projector", "mm_projector", "connector", "aligner", "embed_vision", "embed_audio",
})  # fmt: skip
"""From a tower's numbers to the decoder's: at work during prefill only."""


@dataclass(frozen=True)
class Work:
    """What a step of decoding moves and computes on the whole replica."""

    weight_bytes: float
    kv_bytes_per_request: float
    flops_per_token: float


def work_of(facts: ModelFacts, kv_cache_dtype: str, requests: int, tokens_each: int) -> Work:
    """Of one step with `requests` at `tokens_each` tokens of context.

    Of experts, those are read that at least one request is sent to: E (1 - (1 - k/E)^n), if all are equally likely.
    """
    experts = facts.shape.experts
    read = used = 1.0
    if experts:
        used = experts.per_token / experts.experts
        read = 1 - (1 - used) ** requests
    weight_bytes = flops = 0.0
    for tensor in loaded(facts):
        if not _is_read(tensor, facts.shape):
            continue
        expert = TensorName.of(tensor).of_experts
        weight_bytes += loaded_bytes(tensor, facts) * (read if expert else 1.0)
        flops += 2 * tensor.weights * (used if expert else 1.0)
    return Work(weight_bytes, kv_bytes_read(facts.shape, kv_cache_dtype, tokens_each), flops)


def _is_read(tensor: TensorClass, shape: ModelShape) -> bool:
    """Whether a step of decoding reads all of it: of an embedding that is no head it reads a row, of a tower nothing."""
    name = TensorName.of(tensor)
    if name.of_tower or not _PROJECTORS.isdisjoint((*name.within, name.module)):
        return False
    return not is_embedding(tensor) or (shape.tie_word_embeddings and name.module not in _NEVER_TIED)


def kv_bytes_read(shape: ModelShape, kv_cache_dtype: str, tokens: int) -> float:
    """Bytes that attention reads of one request's cache for its next token, all ranks together."""
    return float(sum(_cache_bytes_read(cache, kv_cache_dtype, tokens) for cache in shape.caches))


def _cache_bytes_read(cache: CacheLayers, kv_cache_dtype: str, tokens: int) -> int:
    if cache.kind is CacheKind.STATE:
        return cache.layers * sum(
            tensor.units * tensor.values_per_unit * (4 if tensor.dtype == "F32" else 2) for tensor in cache.state
        )
    seen = min(tokens, cache.window) if cache.window else tokens
    return cache.layers * seen * cache.kv_heads * (cache.key_dim + cache.value_dim) * DTYPE_BYTES[kv_cache_dtype]


def peak_flops(gpu: GpuClass, scheme: str) -> int | None:
    """Dense operations a second of one GPU in the numbers that the scheme computes in; None where nobody has told."""
    if scheme == "FP8" and gpu.compute_capability >= _ADA:
        return gpu.flops_fp8 or gpu.flops_16bit
    if scheme in ("NVFP4", "MXFP4") and gpu.compute_capability >= _BLACKWELL:
        return gpu.flops_fp4 or gpu.flops_16bit
    if scheme == "W8A8":
        return gpu.ops_int8 or gpu.flops_16bit
    return gpu.flops_16bit


@dataclass(frozen=True)
class Roofline:
    """Work against the rates of so many GPUs, all of which move and compute at once."""

    work: Work
    scheme: str
    requests: int
    bandwidth: float  # bytes a second, all GPUs
    peak: float  # operations a second, all GPUs
    meetings_seconds: float = 0.0  # of one step; no part of the bound

    def bounds(self) -> Bounds:
        moving, computing = self._moving(), self._computing()
        step = max(moving, computing)
        return Bounds(
            decode_tokens_per_second=self.requests / step,
            seconds_per_token=step,
            prefill_tokens_per_second=self.peak / self.work.flops_per_token,
            compute_bound=computing > moving,
        )

    def _moving(self) -> float:
        return (self.work.weight_bytes + self.requests * self.work.kv_bytes_per_request) / self.bandwidth

    def _computing(self) -> float:
        return self.requests * self.work.flops_per_token / self.peak

    def likely_step_seconds(self) -> float:
        """One step of decoding, with the shares of bandwidth and peak that engines reach. For ranking only."""
        share = _BANDWIDTH_SHARE_4BIT if self.scheme in _PACKED_4BIT else _BANDWIDTH_SHARE
        return max(self._moving() / share, self._computing() / _COMPUTE_SHARE) + self.meetings_seconds

    def likely_seconds_per_token(self) -> float:
        """Of throughput: a token's share of its prompt's prefill and of the steps, prompts and answers of equal length."""
        prefill = self.work.flops_per_token / (self.peak * _COMPUTE_SHARE)
        decode = self.likely_step_seconds() / self.requests
        return _PROMPT_SHARE * prefill + (1 - _PROMPT_SHARE) * decode


def roofline(work: Work, gpu: GpuClass, gpus: int, scheme: str, requests: int, layers: int) -> Roofline | None:
    """None where the GPU's bandwidth or peak is not known, or the headers hold no matrices."""
    peak = peak_flops(gpu, scheme)
    if not gpu.bandwidth_bytes_per_second or not peak or not work.flops_per_token:
        return None
    meetings = 2 * layers * _MEETING_SECONDS[gpu.nvlink] if gpus > 1 else 0.0
    return Roofline(work, scheme, requests, float(gpu.bandwidth_bytes_per_second * gpus), float(peak * gpus), meetings)

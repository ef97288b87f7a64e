"""The KV cache: exact bytes, and tokens out of bytes, as vLLM 0.33 plans it (v1/core/kv_cache_planning.py).

A layer's page is what it keeps of one block of tokens, or one state. Layers are put into groups of equal size whose
pages are equal too: where they differ, the smaller ones get longer blocks or padding. All groups draw from one pool, a
block of which has room for a page of each layer of the largest group; so a request holds, summed over the groups, the
blocks that each needs. One block is held back (the null block).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from kubequant.planning.values import CacheKind, CacheLayers, ComputeCapability, ModelShape, StateTensor

BLOCK_TOKENS = 16
DTYPE_BYTES = {"BF16": 2, "F16": 2, "FP8": 1}
"""By the names that `Plan.kv_cache_dtype` uses."""
_NULL_BLOCKS = 1
_MODEL_DTYPE_BYTES = {"BF16": 2, "F16": 2, "F32": 4}
_SPARSE_LATENT_FP8_BYTES = 656  # latent in FP8 with its scales, rotary part in 16 bit, packed
_HYBRID_LATENT_BLOCK_TOKENS = 128  # what blocks of MLA beside states are a multiple of
_MOST_UNEVEN = 1.5  # kinds whose counts differ by less are padded to the larger one


@dataclass(frozen=True)
class KvGroup:
    """Groups of layers that are the same: `count` of them, of at most `layers` layers on this rank."""

    kind: CacheKind
    count: int
    layers: int
    page_bytes: int
    block_tokens: int  # 0 for states
    window: int = 0
    blocks_per_request: int = 0  # of states

    def blocks_for(self, tokens: int, in_flight_tokens: int) -> int:
        """Blocks that one request holds at most in one of these groups; tokens in flight have not left a window."""
        if self.kind is CacheKind.STATE:
            return self.blocks_per_request
        if self.kind is CacheKind.SLIDING:
            # One more: the window need not begin where a block does.
            return _ceil(min(self.window - 1 + in_flight_tokens, tokens), self.block_tokens) + 1
        if self.kind is CacheKind.CHUNKED:
            return _ceil(min(self.window + in_flight_tokens, tokens), self.block_tokens)
        return _ceil(tokens, self.block_tokens)

    @property
    def grows(self) -> bool:
        """Whether every further token of a long request takes room."""
        return self.kind in (CacheKind.FULL, CacheKind.LATENT)


@dataclass(frozen=True)
class KvLayout:
    """How the KV cache of one rank is cut into blocks.

    `bytes_per_token` is what one more token of a long request takes on this rank; of a model that keeps only windows or
    states, what a token in the window takes, or 0.
    """

    block_tokens: int
    block_bytes: int
    bytes_per_token: int
    groups: tuple[KvGroup, ...] = ()
    in_flight_tokens: int = 0

    def blocks_for(self, tokens: int) -> int:
        """Blocks that one request of `tokens` holds at most: when all that is in flight is its own."""
        return self._blocks(tokens, self.in_flight_tokens)

    def _blocks(self, tokens: int, in_flight_tokens: int) -> int:
        if not self.groups:
            return _ceil(tokens, self.block_tokens)
        return sum(group.count * group.blocks_for(tokens, in_flight_tokens) for group in self.groups)

    def _blocks_beside(self, tokens: int) -> int:
        """Of each further request: what is in flight is shared, and rounding takes a block at most."""
        return self._blocks(tokens, min(self.block_tokens, self.in_flight_tokens))

    def blocks_in(self, cache_bytes: int) -> int:
        """Blocks that requests can use; the null block is not among them."""
        return max(0, cache_bytes // self.block_bytes - _NULL_BLOCKS)

    def tokens_in(self, cache_bytes: int, context_tokens: int) -> int:
        """What the engine can hold at full length: concurrency x that length. The null block is not counted."""
        return self.blocks_in(cache_bytes) * context_tokens // self.blocks_for(context_tokens)

    def requests_in(self, cache_bytes: int, tokens_each: int) -> int:
        """How many requests of `tokens_each` are held side by side."""
        left = self.blocks_in(cache_bytes) - self.blocks_for(tokens_each)
        return 1 + left // max(1, self._blocks_beside(tokens_each)) if left >= 0 else 0

    def bytes_for(self, requests: int, tokens_each: int) -> int:
        """The smallest cache that holds so many requests side by side: the inverse of `requests_in`."""
        first = self.blocks_for(tokens_each) if requests else 0
        further = max(0, requests - 1) * self._blocks_beside(tokens_each)
        return (first + further + _NULL_BLOCKS) * self.block_bytes


@dataclass(frozen=True)
class _Layers:
    """Layers of one kind with their page, before they are grouped."""

    cache: CacheLayers
    page_bytes: int
    block_tokens: int


def kv_layout(
    shape: ModelShape,
    kv_cache_dtype: str,
    tensor_parallel_size: int = 1,
    pipeline_parallel_size: int = 1,
    max_num_batched_tokens: int = 2048,
    *,
    prefix_caching: bool = True,
    block_tokens: int = BLOCK_TOKENS,
) -> KvLayout:
    """The layout that the engine will choose on the rank that holds most.

    `block_tokens` is what the attention backend takes (see `backend_block_tokens`). Scheduling is asynchronous, so
    `max_num_batched_tokens` x (PP + 1) are in flight. Where layers of mixed kinds fall among pipeline stages is not
    known here: the share of each group is rounded up.
    """
    layers = _paged(shape, kv_cache_dtype, tensor_parallel_size, block_tokens)
    groups = tuple(
        replace(group, layers=_ceil(group.layers, pipeline_parallel_size)) for group in _grouped(layers, prefix_caching)
    )
    block_bytes = max(_bytes_of(groups, layers, pipeline_parallel_size), 1)
    growing = [group for group in groups if group.grows] or [group for group in groups if group.block_tokens]
    return KvLayout(
        block_tokens=max((group.block_tokens for group in groups), default=block_tokens) or block_tokens,
        block_bytes=block_bytes,
        bytes_per_token=sum(_ceil(group.count * block_bytes, group.block_tokens) for group in growing),
        groups=groups,
        in_flight_tokens=(pipeline_parallel_size + 1) * max_num_batched_tokens,
    )


def backend_block_tokens(shape: ModelShape, kv_cache_dtype: str, capability: ComputeCapability) -> int:
    """Tokens of a block by the attention backend that vLLM 0.33 prefers: 16, but for MLA.

    There FlashInfer (capability 10) takes 32 at least, FlashMLA (FP8 on 9.0) and what reads an index 64.
    """
    if not shape.keeps(CacheKind.LATENT):
        return BLOCK_TOKENS
    if any(cache.token_bytes for cache in shape.caches):
        return 64
    if capability.major == 10:
        return 32
    return 64 if capability.major == 9 and kv_cache_dtype == "FP8" else BLOCK_TOKENS


def token_bytes(cache: CacheLayers, kv_cache_dtype: str, tensor_parallel_size: int = 1, sparse: bool = False) -> int:
    """Bytes that one layer keeps of one token on one rank; 0 for a state.

    A rank holds at least one KV head, so heads are replicated where tensor parallelism exceeds them; a latent is the
    same on every rank. `sparse` is MLA with an indexer, which packs FP8 in its own way.
    """
    if cache.token_bytes:
        return cache.token_bytes
    if sparse and kv_cache_dtype == "FP8":
        return _SPARSE_LATENT_FP8_BYTES
    heads = max(1, cache.kv_heads // tensor_parallel_size) if cache.kv_heads else 0
    return heads * (cache.key_dim + cache.value_dim) * DTYPE_BYTES[kv_cache_dtype]


def state_bytes(cache: CacheLayers, model_dtype: str, tensor_parallel_size: int = 1) -> int:
    """Bytes of one layer's state of one sequence on one rank. The KV cache's dtype does not matter to it."""
    return sum(_tensor_bytes(tensor, model_dtype, tensor_parallel_size) for tensor in cache.state)


def bytes_per_token(shape: ModelShape, kv_cache_dtype: str, tensor_parallel_size: int = 1) -> int:
    """Bytes of one token in all layers on one rank, windows not yet full, with the padding of groups: what a request
    takes a token while it is short."""
    layers = _paged(shape, kv_cache_dtype, tensor_parallel_size, BLOCK_TOKENS)
    groups = _grouped(layers, True)
    block_bytes = _bytes_of(groups, layers, 1)
    return sum(_ceil(group.count * block_bytes, group.block_tokens) for group in groups if group.block_tokens)


def _paged(shape: ModelShape, dtype: str, tensor_parallel_size: int, block: int) -> list[_Layers]:
    """Every kind of layer with its page. Chunks become full attention: the hybrid manager is off with them."""
    caches = [cache for cache in shape.caches if cache.layers]
    if any(cache.kind is CacheKind.CHUNKED for cache in caches) and any(
        cache.kind is CacheKind.FULL for cache in caches
    ):
        local = (CacheKind.CHUNKED, CacheKind.SLIDING)
        caches = [replace(cache, kind=CacheKind.FULL, window=0) if cache.kind in local else cache for cache in caches]
    sparse = any(cache.token_bytes for cache in caches)
    tokens = [token_bytes(cache, dtype, tensor_parallel_size, sparse) for cache in caches]
    states = [state_bytes(cache, shape.dtype, tensor_parallel_size) for cache in caches]
    if any(states) and any(tokens):
        block = _hybrid_block(caches, tokens, max(states), block)
    attention_page = block * max(tokens, default=0)
    return [
        _Layers(cache, max(state, attention_page), 0)
        if cache.kind is CacheKind.STATE
        else _Layers(cache, token * block, block)
        for cache, token, state in zip(caches, tokens, states, strict=True)
    ]


def _hybrid_block(caches: Sequence[CacheLayers], tokens: Sequence[int], state: int, block: int) -> int:
    """Tokens of a block beside states: so many that a page of attention is no smaller than a state."""
    latent = any(cache.kind is CacheKind.LATENT for cache in caches)
    step = max(block, _HYBRID_LATENT_BLOCK_TOKENS) if latent else block
    return max(block, step * _ceil(state, step * min(token for token in tokens if token)))


def _grouped(layers: Sequence[_Layers], prefix_caching: bool) -> list[KvGroup]:
    """One group where all layers need the same number of blocks; else groups of equal size."""
    if _need_the_same(layers):
        first = layers[0]
        total = sum(layer.cache.layers for layer in layers)
        return [_group(first, 1, total, first.page_bytes, first.block_tokens, prefix_caching)]
    largest = max(layer.page_bytes for layer in layers)
    unified = [_unify(layer, largest) for layer in layers]
    counts = [layer.cache.layers for layer in unified]
    size = max(counts) if max(counts) < min(counts) * _MOST_UNEVEN else min(counts)
    return [
        _group(
            layer,
            groups := _ceil(layer.cache.layers, size),
            _ceil(layer.cache.layers, groups),
            largest,
            layer.block_tokens,
            prefix_caching,
        )
        for layer in unified
    ]


def _group(layer: _Layers, count: int, layers: int, page: int, block_tokens: int, prefix_caching: bool) -> KvGroup:
    states = layer.cache.states if prefix_caching else 1
    kind = layer.cache.kind
    return KvGroup(
        kind, count, layers, page, block_tokens, layer.cache.window, states if kind is CacheKind.STATE else 0
    )


def _need_the_same(layers: Sequence[_Layers]) -> bool:
    """Full and latent layers go together, whatever their sizes; windows if equal, states if their pages are."""
    kinds = {layer.cache.kind for layer in layers}
    if kinds <= {CacheKind.FULL, CacheKind.LATENT}:
        return True
    if len(kinds) > 1:
        return False
    if kinds == {CacheKind.STATE}:
        return len({layer.page_bytes for layer in layers}) == 1
    return len({layer.cache.window for layer in layers}) == 1


def _unify(layer: _Layers, largest: int) -> _Layers:
    """Pages of one size: a page that divides the largest gets a longer block, any other is padded."""
    if layer.cache.kind is not CacheKind.STATE and largest % layer.page_bytes == 0:
        return replace(layer, block_tokens=layer.block_tokens * (largest // layer.page_bytes), page_bytes=largest)
    return replace(layer, page_bytes=largest)


def _bytes_of(groups: Sequence[KvGroup], layers: Sequence[_Layers], pipeline_parallel_size: int) -> int:
    """Bytes of a block of the pool: room for the largest group; in a single one pages may differ."""
    if len(groups) == 1:
        return sum(_ceil(layer.cache.layers, pipeline_parallel_size) * layer.page_bytes for layer in layers)
    return max(group.layers * group.page_bytes for group in groups)


def _tensor_bytes(tensor: StateTensor, model_dtype: str, tensor_parallel_size: int) -> int:
    units = max(1, tensor.units // tensor_parallel_size)
    dtype = tensor.dtype if tensor.dtype != "Model" else model_dtype
    return units * tensor.values_per_unit * _MODEL_DTYPE_BYTES[dtype]


def _ceil(number: int, divisor: int) -> int:
    return -(-number // divisor)

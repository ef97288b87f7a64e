"""The KV cache: exact bytes, and tokens out of bytes.

A layer keeps `heads x (key + value) x bytes` a token and rank; a rank holds at least one KV head, so that KV heads are replicated
when tensor parallelism exceeds them. Tokens live in blocks of 16; vLLM holds one block back (the null block).
"""

from __future__ import annotations

from dataclasses import dataclass

from kubequant.planning.values import ModelShape

BLOCK_TOKENS = 16
_NULL_BLOCKS = 1
DTYPE_BYTES = {"BF16": 2, "F16": 2, "FP8": 1}
"""By the names that `Plan.kv_cache_dtype` uses."""


@dataclass(frozen=True)
class KvLayout:
    """How the KV cache of one rank is cut into blocks.

    `bytes_per_token` is what one more token of a long request takes on this rank.
    """

    block_tokens: int
    block_bytes: int
    bytes_per_token: int

    def blocks_for(self, tokens: int) -> int:
        """Blocks that one request of `tokens` holds at most."""
        return -(-tokens // self.block_tokens)

    def blocks_in(self, cache_bytes: int) -> int:
        """Blocks that requests can use; the null block is not among them."""
        return max(0, cache_bytes // self.block_bytes - _NULL_BLOCKS)

    def tokens_in(self, cache_bytes: int, context_tokens: int) -> int:
        """What the engine reports as its KV cache size: concurrency at full length x that length."""
        return self.blocks_in(cache_bytes) * self.block_tokens

    def requests_in(self, cache_bytes: int, tokens_each: int) -> int:
        """How many requests of `tokens_each` are held side by side."""
        return self.blocks_in(cache_bytes) // self.blocks_for(tokens_each)

    def bytes_for(self, requests: int, tokens_each: int) -> int:
        """The smallest cache that holds so many requests side by side: the inverse of `requests_in`."""
        return (requests * self.blocks_for(tokens_each) + _NULL_BLOCKS) * self.block_bytes


def kv_layout(
    shape: ModelShape,
    kv_cache_dtype: str,
    tensor_parallel_size: int = 1,
    pipeline_parallel_size: int = 1,
    max_num_batched_tokens: int = 2048,
) -> KvLayout:
    """The layout that the engine will choose on the rank that holds most."""
    token_bytes = bytes_per_token(shape, kv_cache_dtype, tensor_parallel_size)
    return KvLayout(BLOCK_TOKENS, token_bytes * BLOCK_TOKENS, token_bytes)


def bytes_per_token(shape: ModelShape, kv_cache_dtype: str, tensor_parallel_size: int = 1) -> int:
    """Bytes of one token in all layers on one rank."""
    heads = max(1, shape.num_key_value_heads // tensor_parallel_size)
    return shape.num_hidden_layers * heads * 2 * shape.head_dim * DTYPE_BYTES[kv_cache_dtype]


def tokens_in(cache_bytes: int, token_bytes: int) -> int:
    """Tokens that a rank's cache of `cache_bytes` holds; 0 when not even one block is left."""
    return max(0, cache_bytes // (token_bytes * BLOCK_TOKENS) - _NULL_BLOCKS) * BLOCK_TOKENS


def bytes_for(tokens: int, token_bytes: int) -> int:
    """The smallest cache of a rank that holds `tokens`: the inverse of `tokens_in`."""
    return (-(-tokens // BLOCK_TOKENS) + _NULL_BLOCKS) * BLOCK_TOKENS * token_bytes

"""The KV cache of dense decoders (MHA, GQA, MQA): exact bytes, and tokens out of bytes.

A layer keeps `heads x (key + value) x bytes` a token and rank; a rank holds at least one KV head, so that KV heads are replicated
when tensor parallelism exceeds them. Tokens live in blocks of 16; vLLM holds one block back (the null block).
"""

from __future__ import annotations

from kubequant.planning.values import ModelShape

BLOCK_TOKENS = 16
_NULL_BLOCKS = 1
DTYPE_BYTES = {"BF16": 2, "F16": 2, "FP8": 1}
"""By the names that `Plan.kv_cache_dtype` uses."""


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

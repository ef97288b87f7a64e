"""KV bytes of a token as the engine of a report counts them, and the check of ours against what it printed."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from bench.startups import GIB, StartUp
from kubequant.planning import kv_cache
from kubequant.planning.kv_cache import BLOCK_TOKENS, DTYPE_BYTES
from kubequant.planning.memory import EngineLoad
from kubequant.planning.values import CacheKind, ModelShape

_V0_LATENT_WIDTH = 640
_PRINTS_CONCURRENCY_SINCE = 20  # times the length: of a model with windows no longer the pool's tokens
_GROUPED_SINCE = 10  # minor version since which layers of several kinds share one pool


def rank_token_bytes(start_up: StartUp, load: EngineLoad) -> int | None:
    """Bytes of one token on the rank that holds most layers, as this version counts them; None where what it prints is no sum over
    layers (recurrent models; windows since 0.20), and where the architecture is not known."""
    if load.shape.keeps(CacheKind.STATE) or load.shape.upper_bound:
        return None
    if load.shape.keeps(CacheKind.SLIDING, CacheKind.CHUNKED) and start_up.minor >= _PRINTS_CONCURRENCY_SINCE:
        return None
    shape = shape_of_its_time(start_up, load.shape)
    whole = _token_bytes(start_up, shape, load)
    layers = load.shape.num_hidden_layers
    return None if whole is None else whole * -(-layers // load.pipeline_parallel_size) // layers


_SIXTEEN_BITS = ("", "auto", "none", "bf16", "fp16", "f16", "half", "bfloat16", "float16")
_NVFP4_SHARE = 9, 16  # of a value in 8 bit: half, and one scale for 16 values
_SCALE_BYTES_PER_HEAD = 8  # of a token, keys and values together


def _token_bytes(start_up: StartUp, shape: ModelShape, load: EngineLoad) -> int | None:
    """Of all layers; None of a dtype whose layout nobody here knows."""
    named, ranks = start_up.kv_cache_dtype, load.tensor_parallel_size
    if named in _SIXTEEN_BITS or named in ("float32", "fp32"):
        return kv_cache.bytes_per_token(shape, "BF16", ranks) * start_up.value_bytes // DTYPE_BYTES["BF16"]
    whole = kv_cache.bytes_per_token(shape, "FP8", ranks)
    if re.fullmatch(r"fp8|int8|fp8_e[45]m[23](fn)?", named):
        return whole
    if named == "nvfp4":
        return whole * _NVFP4_SHARE[0] // _NVFP4_SHARE[1]
    widths = {cache.key_dim + cache.value_dim for cache in shape.caches}
    if named.endswith("_per_token_head") and len(widths) == 1 and not shape.keeps(CacheKind.LATENT):
        width = widths.pop()
        values = width // 2 if named.startswith("int4") else width
        return whole * (values + _SCALE_BYTES_PER_HEAD) // width
    return None


def shape_of_its_time(start_up: StartUp, shape: ModelShape) -> ModelShape:
    """The product lays out caches as a current engine does. Engine V0 padded a latent vector to 640 values; before 0.10 layers with
    windows kept everything, in no groups."""
    if start_up.engine_v0 and shape.keeps(CacheKind.LATENT):
        return replace(shape, caches=tuple(replace(cache, key_dim=_V0_LATENT_WIDTH) for cache in shape.caches))
    if start_up.engine_v0 or start_up.minor < _GROUPED_SINCE:
        whole = (replace(cache, kind=CacheKind.FULL, window=0) if cache.window else cache for cache in shape.caches)
        return replace(shape, caches=tuple(whole))
    return shape


@dataclass(frozen=True)
class TokenBytesCheck:
    """KV bytes a token against the model's confirmed layout and, where the report prints cache and tokens, against those."""

    ours: int  # of the model at 16 bit and TP 1
    confirmed: int
    rank: int | None
    printed: float | None  # cache over tokens
    is_exact: bool


_PRINTED_GIB = 0.006  # two decimals are printed


def check_token_bytes(start_up: StartUp) -> TokenBytesCheck | None:
    """None where the layout is not confirmed, or is of a model whose rank is not known."""
    load = start_up.load_for_layout
    if start_up.confirmed_token_bytes is None:
        return None
    ours = kv_cache.bytes_per_token(load.shape, "BF16")
    rank = rank_token_bytes(start_up, load)
    exact = ours == start_up.confirmed_token_bytes
    printed = None
    if start_up.kv_cache_bytes and start_up.kv_tokens and rank and load.pipeline_parallel_size == 1:
        printed = start_up.kv_cache_bytes / start_up.kv_tokens
        rounding = _PRINTED_GIB * GIB / start_up.kv_tokens + rank * 2 * _largest_block(start_up) / start_up.kv_tokens
        exact = exact and abs(printed - rank) <= rounding
    return TokenBytesCheck(ours, start_up.confirmed_token_bytes, rank, printed, exact)


def _largest_block(start_up: StartUp) -> int:
    return 128 if re.search(r"block size 128", start_up.notes) else BLOCK_TOKENS

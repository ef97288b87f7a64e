"""The KV cache in numbers that vLLM 0.33 gave, and what must hold of any layout."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubequant.planning.architectures import shape_of
from kubequant.planning.kv_cache import (
    KvGroup,
    KvLayout,
    backend_block_tokens,
    bytes_per_token,
    kv_layout,
    state_bytes,
    token_bytes,
)
from kubequant.planning.values import CacheKind, ComputeCapability, ModelShape
from tests.unit.planning.test_architectures import ARCHITECTURES, config_of

GIB = 1024**3


def shape(name: str) -> ModelShape:
    return shape_of(config_of(name))


@pytest.mark.parametrize(
    ("name", "kv_cache_dtype", "ranks", "tokens", "gib"),
    [
        ("llama31-8b", "BF16", 1, 131072, 16.0),
        ("llama31-8b", "FP8", 1, 131072, 8.0),
        ("llama31-8b", "BF16", 16, 131072, 2.0),  # 8 KV heads on 16 ranks: every one is there twice
        ("qwen25-7b", "BF16", 1, 32768, 1.75),
        ("gptoss-20b-bf16", "BF16", 1, 131072, 3.378),  # 3.0 of full layers; the windows hold what is in flight
    ],
)
def test_one_request_at_full_length(name: str, kv_cache_dtype: str, ranks: int, tokens: int, gib: float) -> None:
    layout = kv_layout(shape(name), kv_cache_dtype, ranks, max_num_batched_tokens=8192)
    assert layout.blocks_for(tokens) * layout.block_bytes / GIB == pytest.approx(gib, abs=0.001)


def test_latent_is_the_same_on_every_rank() -> None:
    [latent] = shape("dsv2-lite").caches
    assert token_bytes(latent, "BF16", 1) == token_bytes(latent, "BF16", 4) == 1152
    assert token_bytes(latent, "FP8", 4) == 576
    assert bytes_per_token(shape("dsv2-lite"), "BF16", 4) == 27 * 1152


def test_sparse_latent_packs_fp8_with_its_scales() -> None:
    sparse = shape("deepseek-v3.2")
    assert kv_layout(sparse, "BF16").bytes_per_token == 61 * (1152 + 132)
    assert kv_layout(sparse, "FP8").bytes_per_token == 61 * (656 + 132)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gemma3-1b", 28 * 1024),  # 26 layers padded to 28
        ("gemma-3-27b", 70 * 8192),  # 62 to 70
        ("gemma-2-9b", 42 * 8192),
        ("gpt-oss-120b", 36 * 2048),
        ("exaone-4-32b", 64 * 4096),
        ("qwen3-30b-a3b", 48 * 2048),
        ("phi-2", 32 * 10240),
        ("deepseek-v3", 61 * 1152),
    ],
)
def test_bytes_of_a_token_in_all_layers(name: str, expected: int) -> None:
    """As start-ups of these models have confirmed."""
    assert bytes_per_token(shape(name), "BF16") == expected


def test_groups_of_a_model_with_windows() -> None:
    layout = kv_layout(shape("gemma-3-27b"), "BF16", max_num_batched_tokens=2048)
    page = 16 * 8192
    assert layout.groups == (
        KvGroup(CacheKind.FULL, 1, 10, page, 16),
        KvGroup(CacheKind.SLIDING, 6, 9, page, 16, window=1024),
    )
    assert layout.block_bytes == 10 * page
    # 131,072 tokens in full layers; 1,023 and twice the batch in windows, which need not begin where a block does.
    assert layout.blocks_for(131072) == 8192 + 6 * (-(-(1023 + 4096) // 16) + 1)
    assert layout.blocks_for(100) == 7 + 6 * (7 + 1)


def test_block_beside_states_is_as_large_as_a_state() -> None:
    """544 tokens is what vLLM logs for Qwen3-Next."""
    layout = kv_layout(shape("qwen3next-80b"), "BF16")
    assert [(group.kind, group.count, group.block_tokens) for group in layout.groups] == [
        (CacheKind.FULL, 1, 544),
        (CacheKind.STATE, 3, 0),
    ]
    assert layout.blocks_for(5440) == 10 + 3 * 3
    assert kv_layout(shape("qwen3next-80b"), "BF16", prefix_caching=False).blocks_for(5440) == 10 + 3


def test_state_keeps_its_dtype() -> None:
    falcon = shape("falcon-h1-7b")
    state = falcon.caches[-1]
    assert state_bytes(state, "BF16") == 2 * (3 * (3072 + 2 * 256) + 24 * 128 * 256)
    # FP8 halves a token's keys and values, so that a block must hold twice as many to be as large as a state.
    full, half = kv_layout(falcon, "BF16"), kv_layout(falcon, "FP8")
    assert (half.block_tokens, half.block_bytes) == (2 * full.block_tokens - 16, half.groups[0].page_bytes * 44)


def test_chunks_are_kept_whole() -> None:
    """vLLM switches the hybrid manager off for chunked attention."""
    layout = kv_layout(shape("llama-4-scout"), "BF16", 8)
    assert layout.groups == (KvGroup(CacheKind.FULL, 1, 48, 16 * 512, 16),)


def test_a_pool_of_states_only() -> None:
    layout = kv_layout(shape("mamba-codestral-7b"), "BF16")
    assert layout.bytes_per_token == 0
    assert layout.blocks_for(1) == layout.blocks_for(10**6) == 3
    assert layout.requests_in(31 * layout.block_bytes, 10**6) == 10


def test_pipeline_stage_holds_its_share_rounded_up() -> None:
    layout = kv_layout(shape("deepseek-v3"), "BF16", pipeline_parallel_size=2)
    assert layout.block_bytes == 31 * 16 * 1152
    assert kv_layout(shape("gpt-oss-120b"), "BF16", 1, 2).in_flight_tokens == 3 * 2048


def test_tokens_as_the_engine_reports_them() -> None:
    layout = kv_layout(shape("llama31-8b"), "BF16")
    assert layout.tokens_in(GIB, 131072) == (512 - 1) * 16
    windows = kv_layout(shape("gpt-oss-120b"), "BF16", max_num_batched_tokens=8192)
    blocks = windows.blocks_in(4 * GIB)
    assert windows.tokens_in(4 * GIB, 131072) == blocks * 131072 // windows.blocks_for(131072)
    assert windows.tokens_in(0, 131072) == 0


@pytest.mark.parametrize(
    ("name", "kv_cache_dtype", "capability", "tokens"),
    [
        ("llama31-8b", "FP8", "9.0", 16),
        ("deepseek-v3", "BF16", "9.0", 16),
        ("deepseek-v3", "FP8", "9.0", 64),
        ("deepseek-v3", "FP8", "10.0", 32),
        ("deepseek-v3", "FP8", "12.0", 16),
        ("deepseek-v3.2", "BF16", "9.0", 64),
    ],
)
def test_backend_that_takes_longer_blocks(name: str, kv_cache_dtype: str, capability: str, tokens: int) -> None:
    model = shape(name)
    assert backend_block_tokens(model, kv_cache_dtype, ComputeCapability.parse(capability)) == tokens
    layout = kv_layout(model, kv_cache_dtype, block_tokens=tokens)
    assert (layout.block_tokens, layout.blocks_for(tokens + 1)) == (tokens, 2)


LAYOUTS = st.builds(
    lambda name, dtype, ranks, stages, batch: kv_layout(shape(name), dtype, ranks, stages, batch),
    st.sampled_from(sorted(ARCHITECTURES)),
    st.sampled_from(["BF16", "FP8"]),
    st.sampled_from([1, 2, 4, 8]),
    st.sampled_from([1, 2]),
    st.sampled_from([512, 2048, 16384]),
)


@given(LAYOUTS, st.integers(1, 200), st.integers(1, 200_000))
def test_bytes_for_is_the_inverse_of_requests_in(layout: KvLayout, requests: int, tokens: int) -> None:
    needed = layout.bytes_for(requests, tokens)
    assert layout.requests_in(needed, tokens) == requests
    assert layout.requests_in(needed - 1, tokens) < requests


@given(LAYOUTS, st.integers(0, 200 * GIB), st.integers(0, GIB), st.integers(1, 200_000))
def test_more_memory_never_holds_less(layout: KvLayout, cache: int, more: int, tokens: int) -> None:
    assert layout.tokens_in(cache + more, tokens) >= layout.tokens_in(cache, tokens)


@given(st.sampled_from(sorted(ARCHITECTURES)), st.sampled_from([1, 2, 4]), st.integers(1, 200_000))
def test_ranks_never_take_more_each(name: str, ranks: int, tokens: int) -> None:
    one, two = kv_layout(shape(name), "BF16", ranks), kv_layout(shape(name), "BF16", 2 * ranks)
    assert two.block_bytes <= one.block_bytes or two.block_tokens > one.block_tokens
    assert bytes_per_token(shape(name), "BF16", 2 * ranks) <= bytes_per_token(shape(name), "BF16", ranks)
    assert replace(two, block_bytes=1).blocks_for(tokens) >= 1


@given(st.sampled_from(sorted(ARCHITECTURES)), st.integers(1, 200), st.integers(1, 200_000))
def test_fp8_never_holds_fewer_tokens(name: str, gib: int, context: int) -> None:
    full, half = kv_layout(shape(name), "BF16"), kv_layout(shape(name), "FP8")
    assert half.bytes_per_token <= full.bytes_per_token
    assert half.tokens_in(gib * GIB, context) >= full.tokens_in(gib * GIB, context)


def test_what_is_in_flight_is_counted_once_not_for_every_request() -> None:
    """A step batches 8,192 tokens in all: sixteen requests do not each have them in their windows."""
    gemma = shape("gemma-3-27b")
    layout = kv_layout(gemma, "BF16", max_num_batched_tokens=8192)
    alone, sixteen = layout.bytes_for(1, 4096), layout.bytes_for(16, 4096)
    assert sixteen < 9 * alone
    small = kv_layout(gemma, "BF16", max_num_batched_tokens=16)
    assert small.bytes_for(16, 4096) < sixteen < small.bytes_for(16, 4096) + alone
    assert layout.requests_in(sixteen, 4096) == 16
    assert layout.requests_in(sixteen - layout.block_bytes, 4096) == 15


def test_full_attention_takes_as_much_for_each_request() -> None:
    layout = kv_layout(shape("llama31-8b"), "BF16")
    assert layout.bytes_for(16, 4096) == (16 * 256 + 1) * 16 * 131072

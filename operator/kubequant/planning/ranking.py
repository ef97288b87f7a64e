"""Which of the placements that fit is taken: one order for each objective, written down, the same every time.

    LowestCost         price (where every candidate's is known, else GPU memory taken), scheme by preference, GPUs, speed
    LowestLatency      likely time of a decoding step, then as LowestCost
    HighestThroughput  likely time a token of prompt and answer, then as LowestCost
    HighestQuality     least lossy scheme, 16-bit before FP8 KV cache, then as LowestCost

Ties go to fewer pipeline stages, the larger KV cache, the product's name. With `prefer_existing` a checkpoint that exists goes before any.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from typing import Any

from kubequant.planning.candidates import Candidate
from kubequant.planning.values import ComputeCapability, Objective

LOSS = {"Unquantized": 0, "FP8": 1, "W8A16": 2, "W8A8": 3, "NVFP4": 4, "W4A16": 5, "MXFP4": 6}
"""From the least lossy on: recoveries published by Qwen and Red Hat, and the study 2411.02355."""

_WITHOUT_NATIVE_FP8 = ("Unquantized", "W4A16", "W8A8", "W8A16", "FP8", "MXFP4", "NVFP4")
"""Below 8.9 FP8 only saves memory, and W4A16 saves twice as much with the same kernels."""

_ADA = ComputeCapability(8, 9)


def ranked(candidates: Sequence[Candidate], objective: Objective) -> list[Candidate]:
    """Best first. Deterministic; the order of the candidates does not matter."""
    priced = all(candidate.price_per_hour is not None for candidate in candidates)

    def key(candidate: Candidate) -> tuple[Any, ...]:
        exists = candidate.intent.prefer_existing and candidate.facts.predicted
        return (exists, *_ORDERS[objective](candidate), *_cost(candidate, priced), *_ties(candidate))

    return sorted(candidates, key=key)


def preference(candidate: Candidate) -> int:
    """Of schemes at the same cost: the least lossy one, but where FP8 is not native."""
    if candidate.gpu.compute_capability >= _ADA:
        return LOSS[candidate.scheme]
    return _WITHOUT_NATIVE_FP8.index(candidate.scheme)


def _cost(candidate: Candidate, priced: bool) -> tuple[float, int, int, float]:
    taken = candidate.price_per_hour if priced else candidate.memory_taken_bytes
    return taken or 0.0, preference(candidate), candidate.gpus, seconds_per_token(candidate)


def _ties(candidate: Candidate) -> tuple[int, int, str, int]:
    return candidate.pipeline_parallel_size, -candidate.kv_cache_tokens, candidate.gpu.product, candidate.trust


def seconds_per_token(candidate: Candidate) -> float:
    """Likely, of prompts and answers; infinite where the card's rates are not known."""
    return candidate.roofline.likely_seconds_per_token() if candidate.roofline else inf


def step_seconds(candidate: Candidate) -> float:
    return candidate.roofline.likely_step_seconds() if candidate.roofline else inf


def _quality(candidate: Candidate) -> tuple[int, bool]:
    return LOSS[candidate.scheme], candidate.kv_cache_dtype == "FP8"


_ORDERS: dict[Objective, Callable[[Candidate], tuple[Any, ...]]] = {
    Objective.LOWEST_COST: lambda candidate: (),
    Objective.LOWEST_LATENCY: lambda candidate: (step_seconds(candidate),),
    Objective.HIGHEST_THROUGHPUT: lambda candidate: (seconds_per_token(candidate),),
    Objective.HIGHEST_QUALITY: _quality,
}

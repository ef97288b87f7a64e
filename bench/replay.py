"""One real start-up through the planner's memory budget: what was expected and promised beside what the engine found.

A report leaves out what a planner knows (`max_num_seqs`, the version, the card's exact memory). The expectation then rests on the engine's
defaults, the promise on the worst that the report allows: `_doubt_bytes` and `_alternatives`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from bench.layout import rank_token_bytes, shape_of_its_time
from bench.reports import UNKNOWN_MINOR
from bench.startups import GIB, StartUp
from kubequant.planning import kv_cache
from kubequant.planning.engines.overheads import Overheads, overheads_of
from kubequant.planning.kv_cache import BLOCK_TOKENS, DTYPE_BYTES
from kubequant.planning.memory import EngineLoad, memory_budget
from kubequant.planning.values import CacheKind, Evidence, MemoryBudget

_DOUBT_TOTAL = 0.005  # of the card, where only its name is known
_DOUBT_VERSION = 0.02  # of the KV cache: caution is cheap where there is much
_DOUBT_SEQS = 0.03
_DOUBT_UNIFIED = 0.1  # memory shared with the host: what else lives there moves every figure
_DOUBT_WEIGHTS = 0.01  # of the weights, where they are not the report's
_DOUBT_WEIGHTS_PARALLEL = 0.03
_OLD_SAMPLER = 16  # the last release with it: plausible where nothing tells the version
_VERSIONS_APART = 3  # a date or the notes tell the version within so many releases

INTERVAL_SHARE = 0.55
"""Half of a 90 % interval, of what the promise holds back (docs/design/overheads.md says what share of start-ups falls in)."""


@dataclass(frozen=True)
class Replay:
    """A usable start-up and the budget made for it. Bytes are of one GPU."""

    start_up: StartUp
    budget: MemoryBudget
    promised_kv_cache_bytes: int
    real_kv_cache_bytes: int
    token_bytes: int | None  # of one rank, None where the layout is not known well enough
    evidence: Evidence

    @property
    def real_non_kv_bytes(self) -> int:
        return self.budget.usable_bytes - self.real_kv_cache_bytes

    @property
    def expected_non_kv_bytes(self) -> int:
        return self.budget.usable_bytes - self.budget.expected_kv_cache_bytes

    @property
    def error_bytes(self) -> int:
        """Positive when more was expected than was taken. Of the overhead alone too: the weights are the report's."""
        return self.expected_non_kv_bytes - self.real_non_kv_bytes

    @property
    def held_back_bytes(self) -> int:
        return self.budget.expected_kv_cache_bytes - self.promised_kv_cache_bytes

    @property
    def interval_bytes(self) -> tuple[int, int]:
        """Non-KV memory lies in it in nine start-ups of ten."""
        half = int(INTERVAL_SHARE * self.held_back_bytes)
        return self.expected_non_kv_bytes - half, self.expected_non_kv_bytes + half

    @property
    def is_in_interval(self) -> bool:
        low, high = self.interval_bytes
        return low <= self.real_non_kv_bytes <= high

    @property
    def baseline_non_kv_bytes(self) -> int:
        """The rule of thumb to beat: weights and 1.5 GiB."""
        return (self.start_up.weight_bytes or 0) + 3 * GIB // 2

    @property
    def real_tokens(self) -> int:
        if self.start_up.kv_tokens is not None:
            return self.start_up.kv_tokens
        return _tokens(self.real_kv_cache_bytes, self.token_bytes)

    @property
    def promised_tokens(self) -> int:
        """Where the layout is not known, in proportion to the bytes."""
        if self.token_bytes is None and self.start_up.kv_tokens is not None:
            share = self.promised_kv_cache_bytes / max(1, self.real_kv_cache_bytes)
            return max(0, int(self.start_up.kv_tokens * share))
        return _tokens(self.promised_kv_cache_bytes, self.token_bytes)

    @property
    def is_over_promised(self) -> bool:
        return self.promised_tokens > self.real_tokens

    @property
    def promised_over_real(self) -> float | None:
        return self.promised_tokens / self.real_tokens if self.real_tokens else None


def _tokens(cache_bytes: int, token_bytes: int | None) -> int:
    return max(0, cache_bytes // ((token_bytes or 1) * BLOCK_TOKENS)) * BLOCK_TOKENS


_DECIDING = ("gpu_mem_gib", "gpu_memory_utilization", "weights_gib", "available_kv_gib", "tp", "pp")
"""Columns without which nothing can be compared. Of any other, a cell that cannot be read counts as empty."""


def unusable(start_up: StartUp) -> str | None:
    """What the report lacks for a comparison, None when nothing."""
    for column, why in start_up.unread:
        if column in _DECIDING:
            return why
    if start_up.total_bytes is None or start_up.total_is_class:
        return f"gpu_mem_gib is empty, and the name does not tell: {start_up.total_reason}"
    if start_up.gpu_memory_utilization is None:
        return "gpu_memory_utilization is empty"
    if start_up.load is None or start_up.weight_bytes is None:
        return "weights_gib is empty and the model's weights are not known"
    if start_up.kv_cache_bytes is None:
        return "available_kv_gib is empty"
    if start_up.weight_bytes > start_up.total_bytes:
        return (
            f"weights_gib: {_gib(start_up.weight_bytes)} GiB on one GPU are more than its {_gib(start_up.total_bytes)}"
        )
    usable = int(start_up.total_bytes * start_up.gpu_memory_utilization)
    if start_up.kv_cache_bytes >= usable:
        return f"available_kv_gib: {_gib(start_up.kv_cache_bytes)} GiB leave nothing else of a budget of {_gib(usable)}"
    return None


def _gib(size: int) -> str:
    return f"{size / GIB:.2f}"


def replay(start_up: StartUp) -> Replay:
    """The budget of a usable start-up. Raises ValueError with the reason for another."""
    load, total, utilization = start_up.load, start_up.total_bytes, start_up.gpu_memory_utilization
    if load is None or total is None or utilization is None or start_up.kv_cache_bytes is None:
        raise ValueError(f"{start_up.id}: {unusable(start_up)}")
    budget = memory_budget(load, total, start_up.overheads, gpu_memory_utilization=utilization)
    known = start_up.version_known or start_up.engine_v0
    return Replay(
        start_up=start_up,
        budget=budget,
        promised_kv_cache_bytes=promised_bytes(start_up, load, total, utilization),
        real_kv_cache_bytes=start_up.kv_cache_bytes,
        token_bytes=rank_token_bytes(start_up, load),
        evidence=start_up.overheads.evidence if known else Evidence.EXTRAPOLATED,
    )


def promised_bytes(start_up: StartUp, load: EngineLoad, total: int, utilization: float) -> int:
    """The least of what the plausible readings of the report promise."""
    least = min(
        memory_budget(one, total, overheads, gpu_memory_utilization=utilization).kv_cache_bytes
        for one, overheads in _alternatives(start_up, load)
    )
    return least - _doubt_bytes(start_up, load, total, least)


def _alternatives(start_up: StartUp, load: EngineLoad) -> Iterator[tuple[EngineLoad, Overheads]]:
    load = replace(load, computes_logits=True)
    yield load, start_up.overheads
    if not (start_up.version_known or start_up.engine_v0 or start_up.consumed):
        yield load, overheads_of(max(8, start_up.minor - _VERSIONS_APART))
        yield load, overheads_of(min(29, start_up.minor + _VERSIONS_APART))
        if start_up.minor == UNKNOWN_MINOR:
            yield load, overheads_of(_OLD_SAMPLER)


def _doubt_bytes(start_up: StartUp, load: EngineLoad, total: int, kv_cache_bytes: int) -> int:
    """What a report's gaps add to the margin."""
    of_cache = (not (start_up.version_known or start_up.engine_v0)) * _DOUBT_VERSION + (
        not start_up.max_num_seqs_known
    ) * _DOUBT_SEQS
    of_total = (not start_up.total_is_reported) * _DOUBT_TOTAL + start_up.unified_memory * _DOUBT_UNIFIED
    parallel = load.tensor_parallel_size * load.pipeline_parallel_size > 1
    of_weights = _DOUBT_WEIGHTS_PARALLEL if parallel else _DOUBT_WEIGHTS
    weights = 0 if start_up.weights_are_reported else of_weights * load.weight_bytes
    return int(of_cache * max(0, kv_cache_bytes) + of_total * total + weights)


def foreseen(start_up: StartUp) -> str | None:
    """How the planner foresees that this start-up fails for want of memory; None when it does not.

    The budget says it where the report names card and model; else the layout says that the logged cache is too small.
    """
    load, total = start_up.load, start_up.total_bytes
    if load is None and start_up.least_weight_bytes is not None:
        load = replace(start_up.load_for_layout, weight_bytes=start_up.least_weight_bytes)
    if load is not None and total is not None:
        utilization = start_up.gpu_memory_utilization or start_up.default_utilization
        promised = promised_bytes(start_up, load, total, utilization)
        if promised <= 0:
            return f"budget: no KV cache left ({promised / GIB:.2f} GiB promised)"
        if shortage := _shortage(start_up, load, promised):
            return f"budget: {shortage}"
        budget = memory_budget(load, total, start_up.overheads, gpu_memory_utilization=utilization)
        outside = total - budget.usable_bytes
        if outside < budget.context_bytes:
            return (
                f"budget: {outside / GIB:.2f} GiB outside the engine's share, {budget.context_bytes / GIB:.2f} needed"
            )
    if start_up.kv_cache_bytes is not None:
        logged = max(0, start_up.kv_cache_bytes)
        shortage = _shortage(start_up, start_up.load_for_layout, logged)
        return f"layout: {shortage}" if shortage else None
    return None


def _shortage(start_up: StartUp, load: EngineLoad, cache_bytes: int) -> str | None:
    """What does not fit in a cache of `cache_bytes`: the longest request, or the states of `max_num_seqs` requests."""
    shape = shape_of_its_time(start_up, load.shape)
    ranks, stages = load.tensor_parallel_size, load.pipeline_parallel_size
    layout = kv_cache.kv_layout(shape, load.kv_cache_dtype, ranks, stages, load.max_num_batched_tokens)
    blocks = cache_bytes // layout.block_bytes
    if shape.keeps(CacheKind.STATE) and blocks < load.max_num_seqs:
        return f"{blocks} states fit, {load.max_num_seqs} requests need one each"
    length = start_up.max_model_len or shape.max_position_embeddings
    needed = layout.bytes_for(1, length) * start_up.value_bytes // DTYPE_BYTES["BF16"]
    if needed > cache_bytes:
        return f"{length} tokens need {needed / GIB:.2f} GiB, {cache_bytes / GIB:.2f} left"
    return None

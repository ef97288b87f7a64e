"""Figures of replayed start-ups, for all of them and by group: issue 4 names each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.layout import check_token_bytes
from bench.peers import kind_of
from bench.replay import Replay, foreseen, replay, unusable
from bench.startups import GIB, StartUp, read_startups
from kubequant.planning.values import CacheKind

THRESHOLDS: dict[str, tuple[str, float]] = {
    "non_kv_error_p50": ("at most", 0.03),
    "non_kv_error_p90": ("at most", 0.08),
    "overhead_error_gib_p50": ("at most", 0.5),
    "overhead_error_gib_p90": ("at most", 1.2),
    "over_promised_fraction": ("at most", 0.02),
    "promised_over_real_median": ("at least", 0.90),
}

Number = float | int | None
Group = dict[str, Number]


@dataclass(frozen=True)
class Evaluated:
    """A row of the file: its start-up, the replay where it is usable, and why not where it is not."""

    start_up: StartUp
    replayed: Replay | None
    unusable: str | None
    foreseen: str | None  # why a failure for want of memory is foreseen, whether or not there was one

    @property
    def layout(self) -> str:
        shape = self.start_up.load_for_layout.shape
        if shape.keeps(CacheKind.STATE):
            return "hybrid"
        if shape.keeps(CacheKind.LATENT):
            return "mla"
        return "sliding_window" if shape.keeps(CacheKind.SLIDING, CacheKind.CHUNKED) else "full_attention"


def evaluate(startups: Path, models: Path) -> list[Evaluated]:
    """All rows, in order. Raises BadData."""
    return [_evaluated(start_up) for start_up in read_startups(startups, models)]


def _evaluated(start_up: StartUp) -> Evaluated:
    reason = unusable(start_up)
    return Evaluated(
        start_up=start_up,
        replayed=None if reason else replay(start_up),
        unusable=reason,
        foreseen=foreseen(start_up),
    )


Belongs = Callable[[Evaluated], bool]


def groups() -> dict[str, Belongs]:
    return {
        "all": lambda row: True,
        "version_and_max_num_seqs_known": lambda row: row.start_up.version_known and row.start_up.max_num_seqs_known,
        "version_known": lambda row: row.start_up.version_known,
        "llm-d-sweep": lambda row: kind_of(row.start_up) == "llm-d-sweep",
        "llm-d-empirical": lambda row: kind_of(row.start_up) == "llm-d-empirical",
        "llm-d-version-sweep": lambda row: kind_of(row.start_up) == "llm-d-version-sweep",
        "independent": lambda row: kind_of(row.start_up) == "independent",
        "dense": lambda row: row.start_up.load_for_layout.shape.experts is None,
        "moe": lambda row: row.start_up.load_for_layout.shape.experts is not None,
        "full_attention": lambda row: row.layout == "full_attention",
        "sliding_window": lambda row: row.layout == "sliding_window",
        "mla": lambda row: row.layout == "mla",
        "hybrid": lambda row: row.layout == "hybrid",
        "multimodal": lambda row: row.start_up.load_for_layout.shape.multimodal,
        "tp1": lambda row: row.start_up.load_for_layout.tensor_parallel_size == 1,
        "tp_many": lambda row: row.start_up.load_for_layout.tensor_parallel_size > 1,
        "pp_many": lambda row: row.start_up.load_for_layout.pipeline_parallel_size > 1,
        "engine_v0": lambda row: row.start_up.engine_v0,
        "v0.8-v0.16": lambda row: not row.start_up.engine_v0 and row.start_up.minor <= 16,
        "v0.17-v0.20": lambda row: not row.start_up.engine_v0 and 17 <= row.start_up.minor <= 20,
        "v0.21-v0.29": lambda row: 21 <= row.start_up.minor <= 29,
        "v0.30-and-later": lambda row: row.start_up.minor >= 30,
        "memory_reported": lambda row: row.start_up.total_is_reported,
        "memory_by_card_name": lambda row: not row.start_up.total_is_reported,
        "unified_memory": lambda row: row.start_up.unified_memory,
    }


def quantile(values: Iterable[float], share: float) -> float | None:
    """The smallest value that so large a share of them does not exceed; None of nothing."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None


def group_of(rows: Sequence[Evaluated]) -> Group:
    """The figures of issue 4, and the price of foreseeing: of the rows that did not fail for memory (`started`), those that were said to.
    None where nothing was to be measured. Fractions between 0 and 1."""
    replays = [row.replayed for row in rows if row.replayed]
    checks = [check for row in rows if (check := check_token_bytes(row.start_up))]
    failures = [row for row in rows if row.start_up.failed_for_memory]
    others = [row for row in rows if not row.start_up.failed_for_memory]
    relative = [abs(one.error_bytes) / one.real_non_kv_bytes for one in replays]
    overhead = [abs(one.error_bytes) / GIB for one in replays]
    baseline = [abs(one.baseline_non_kv_bytes - one.real_non_kv_bytes) / one.real_non_kv_bytes for one in replays]
    ratios = [ratio for one in replays if (ratio := one.promised_over_real) is not None]
    return {
        "rows": len(rows),
        "usable": len(replays),
        "kv_bytes_per_token_checked": len(checks),
        "kv_bytes_per_token_exact": sum(check.is_exact for check in checks),
        "non_kv_error_p50": quantile(relative, 0.5),
        "non_kv_error_p90": quantile(relative, 0.9),
        "overhead_error_gib_p50": quantile(overhead, 0.5),
        "overhead_error_gib_p90": quantile(overhead, 0.9),
        "baseline_non_kv_error_p50": quantile(baseline, 0.5),
        "baseline_non_kv_error_p90": quantile(baseline, 0.9),
        "over_promised_fraction": sum(one.is_over_promised for one in replays) / len(replays) if replays else None,
        "promised_over_real_median": quantile(ratios, 0.5),
        "failures": len(failures),
        "failures_foreseen": sum(row.foreseen is not None for row in failures),
        "started": len(others),
        "false_alarms": sum(row.foreseen is not None for row in others),
    }


def document(rows: Sequence[Evaluated]) -> dict[str, object]:
    """What `--json` prints."""
    return {
        "groups": {name: group_of([row for row in rows if belongs(row)]) for name, belongs in groups().items()},
        "unusable": [{"id": row.start_up.id, "reason": row.unusable} for row in rows if row.unusable],
        "rows": [_row(row) for row in rows],
    }


def _row(row: Evaluated) -> dict[str, object]:
    start_up, one = row.start_up, row.replayed
    check = check_token_bytes(start_up)
    found: dict[str, object] = {
        "id": start_up.id,
        "model": start_up.model,
        "gpu": start_up.gpu,
        "version": f"0.{start_up.minor}",
        "version_known": start_up.version_known,
        "max_num_seqs": start_up.load_for_layout.max_num_seqs,
        "max_num_seqs_known": start_up.max_num_seqs_known,
        "kv_bytes_per_token_exact": check.is_exact if check else None,
        "failure": start_up.failure or None,
        "failure_means_memory": start_up.failed_for_memory,
        "foreseen": row.foreseen,
        "unread": [why for _, why in start_up.unread],
    }
    if one is None:
        return found
    low, high = one.interval_bytes
    budget = one.budget
    return found | {
        "evidence": str(one.evidence),
        "non_kv_gib_real": _gib(one.real_non_kv_bytes),
        "non_kv_gib_expected": _gib(one.expected_non_kv_bytes),
        "non_kv_gib_interval_90": [_gib(low), _gib(high)],
        "in_interval_90": one.is_in_interval,
        "non_kv_gib_baseline": _gib(one.baseline_non_kv_bytes),
        "overhead_error_gib": _gib(one.error_bytes),
        "budget_gib": {
            "usable": _gib(budget.usable_bytes),
            "weights": _gib(budget.weights_bytes),
            "activation": _gib(budget.activation_bytes),
            "cuda_graphs": _gib(budget.cuda_graphs_bytes),
            "non_torch": _gib(budget.non_torch_bytes),
            "held_back": _gib(one.held_back_bytes),
        },
        "tokens_real": one.real_tokens,
        "tokens_promised": one.promised_tokens,
    }


def _gib(size: int) -> float:
    return round(size / GIB, 3)


def missed(group: Group, name: str = "all") -> list[str]:
    """The thresholds that the group does not reach."""
    texts = [
        f"{name}: {figure} is {value:.3g}, {relation} {limit:g} is wanted"
        for figure, (relation, limit) in THRESHOLDS.items()
        if (value := group[figure]) is not None and (value > limit if relation == "at most" else value < limit)
    ]
    for part, whole in (("kv_bytes_per_token_exact", "kv_bytes_per_token_checked"), ("failures_foreseen", "failures")):
        if group[part] != group[whole]:
            texts.append(f"{name}: {part} is {group[part]} of {group[whole]}")
    return texts

"""Figures of replayed start-ups as tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from bench.groups import Evaluated, Number, group_of, quantile
from bench.groups import groups as named_groups
from bench.peers import PEERS, peer_foresees, peer_replay
from bench.startups import GIB

_COLUMNS = (
    ("usable", "usable", "d"), ("kv_bytes_per_token_exact", "KV exact", "d"), ("non_kv_error_p50", "non-KV p50", "%"),
    ("non_kv_error_p90", "p90", "%"), ("overhead_error_gib_p50", "GiB p50", "f"), ("overhead_error_gib_p90", "p90", "f"),
    ("baseline_non_kv_error_p50", "baseline p50", "%"), ("baseline_non_kv_error_p90", "p90", "%"),
    ("over_promised_fraction", "over-promised", "%"), ("promised_over_real_median", "promised/real", "%"),
)  # fmt: skip


def print_table(rows: Sequence[Evaluated]) -> None:
    groups = {name: [row for row in rows if belongs(row)] for name, belongs in named_groups().items()}
    print(
        f"{'group':32}{'rows':>6}"
        + "".join(f"{title:>15}" for _, title, _ in _COLUMNS)
        + f"{'in 90 %':>10}{'foreseen':>10}{'false alarms':>14}"
    )
    for name, members in groups.items():
        figures = group_of(members)
        cells = "".join(f"{_text(figures[figure], form):>15}" for figure, _, form in _COLUMNS)
        replays = [row.replayed for row in members if row.replayed]
        inside = _text(sum(one.is_in_interval for one in replays) / len(replays) if replays else None, "%")
        foreseen = f"{figures['failures_foreseen']}/{figures['failures']}"
        alarms = f"{figures['false_alarms']}/{figures['started']}"
        print(f"{name:32}{len(members):>6}{cells}{inside:>10}{foreseen:>10}{alarms:>14}")
    print("\nlargest errors (expected less real, GiB):")
    for row in sorted((row for row in rows if row.replayed), key=_error, reverse=True)[:12]:
        start_up, one = row.start_up, row.replayed
        assert one is not None
        share = one.error_bytes / one.real_non_kv_bytes
        print(
            f"  {start_up.id:6}{one.error_bytes / GIB:+6.2f} {share:+6.1%}  {start_up.model[:44]:45}{start_up.gpu[:26]:27}{start_up.notes[:70]}"
        )
    for row in rows:
        if row.replayed and row.replayed.is_over_promised:
            print(
                f"  promised too much: {row.start_up.id}, {row.replayed.promised_tokens} tokens, {row.replayed.real_tokens} were there"
            )
        if row.start_up.failed_for_memory and row.foreseen is None:
            print(f"  not foreseen: {row.start_up.id}, {row.start_up.failure}")


def _error(row: Evaluated) -> float:
    return abs(row.replayed.error_bytes) if row.replayed else 0.0


def _text(value: Number, form: str) -> str:
    if value is None:
        return "-"
    return f"{value:.1%}" if form == "%" else f"{value:.2f}" if form == "f" else str(value)


def print_peers(rows: Sequence[Evaluated]) -> None:
    """Median and p90 errors, start-ups promised too much, failures foreseen."""
    usable = [row.replayed for row in rows if row.replayed]
    failures = [row.start_up for row in rows if row.start_up.failed_for_memory]
    print(
        f"{'planner':20}{'non-KV p50':>12}{'p90':>9}{'GiB p50':>10}{'p90':>8}{'over-promised':>15}{'promised/real':>15}{'foreseen':>10}"
    )
    ours = group_of(rows)
    entries: list[tuple[str, list[tuple[float, float]], float, float | None, int]] = [
        (
            "KubeQuant",
            [(abs(one.error_bytes) / one.real_non_kv_bytes, abs(one.error_bytes) / GIB) for one in usable],
            float(ours["over_promised_fraction"] or 0),
            ours["promised_over_real_median"],
            int(ours["failures_foreseen"] or 0),
        )
    ]
    for peer in PEERS:
        found = [peer_replay(peer, one) for one in usable]
        entries.append(
            (
                peer.name,
                [(abs(one.error_bytes) / one.replay.real_non_kv_bytes, abs(one.error_bytes) / GIB) for one in found],
                sum(one.promised_tokens > one.replay.real_tokens for one in found) / len(found) if found else 0.0,
                quantile(
                    (one.promised_tokens / one.replay.real_tokens for one in found if one.replay.real_tokens), 0.5
                ),
                sum(peer_foresees(peer, start_up) for start_up in failures),
            )
        )
    for name, errors, over, ratio, known in entries:
        cells = [quantile((pair[at] for pair in errors), share) for at in (0, 1) for share in (0.5, 0.9)]
        print(
            f"{name:20}{_text(cells[0], '%'):>12}{_text(cells[1], '%'):>9}{_text(cells[2], 'f'):>10}{_text(cells[3], 'f'):>8}"
            f"{_text(over, '%'):>15}{_text(ratio, '%'):>15}{known:>7}/{len(failures)}"
        )

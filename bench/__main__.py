"""`make bench`: prints every figure with its threshold and verdict; ends with 1 when one is missed.

`--models 200` is a quick try without the 1,000; `--only operator` is the part that needs a cluster.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import burst, describe, headers, plans
from bench.figures import Figure, Verdict, judge, load_thresholds
from bench.groups import evaluate, group_of, missed
from bench.scenario import BURSTS, Run
from bench.vram import DATA

RESULTS = Path(__file__).with_name("results") / "latest.json"


def main(arguments: Sequence[str]) -> int:
    """The exit code: 0 when all thresholds are met."""
    options = _options(arguments)
    console = Console()
    figures: list[Figure] = []
    if options.only in (None, "overheads"):
        broken = missed(group_of(evaluate(DATA / "startups.csv", DATA / "models.csv")))
        for text in broken:
            print(f"threshold missed: {text}", file=sys.stderr)
        figures.append(Figure("overheads-broken", "bench/vram.py", len(broken)))
    if options.only in (None, "plans"):
        figures += plans.figures()
    if options.only in (None, "describe"):
        figures += describe.figures()
    if options.only in (None, "burst"):
        with tempfile.TemporaryDirectory() as temporary:
            figures += burst.figures(Path(temporary), lambda text: console.print(text, highlight=False))
    if options.only in (None, "headers"):
        figures += headers.figures()
    if options.only in (None, "operator"):
        folder = Path(tempfile.mkdtemp(prefix="kubequant-bench-"))
        console.print(f"the operator's log: {folder / 'operator.log'}")
        run = Run(folder, lambda text: console.print(text, highlight=False), tuple(options.models or BURSTS))
        figures += run.measure()
    verdicts = judge(figures, load_thresholds())
    _save(verdicts)
    console.print(_table(verdicts))
    return 0 if all(verdict.is_met for verdict in verdicts) else 1


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "--only",
        choices=("overheads", "plans", "headers", "describe", "burst", "operator"),
        help="a part of the benchmark",
    )
    parser.add_argument(
        "--models", type=int, nargs="+", metavar="N", help=f"models created at once, in this order; {BURSTS} by default"
    )
    return parser.parse_args(arguments)


def _save(verdicts: Sequence[Verdict]) -> None:
    RESULTS.parent.mkdir(exist_ok=True)
    document = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "figures": [
            {**asdict(verdict.figure), "at_most": verdict.at_most, "met": verdict.is_met} for verdict in verdicts
        ],
    }
    RESULTS.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _table(verdicts: Sequence[Verdict]) -> Table:
    table = Table()
    for heading in ("figure", "of", "measured", "at most", "verdict"):
        table.add_column(heading, overflow="fold")
    for verdict in verdicts:
        figure, bounded = verdict.figure, verdict.at_most is not None
        words = ("[green]met" if verdict.is_met else "[red]MISSED") if bounded else ""
        measured = f"{figure.value:.4g} {figure.unit}".rstrip()
        table.add_row(figure.name, figure.case, measured, f"{verdict.at_most:g}" if bounded else "", words)
    return table


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

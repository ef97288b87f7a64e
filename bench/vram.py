"""Replays real start-ups of vLLM through the planner's memory budget.

    python bench/vram.py [--startups FILE] [--models FILE] [--json | --check | --peers | --plot FILE | --cross-validate]

For each start-up the budget is made from model, flags, version and card (and the weights that the report prints); what the engine
then found is only compared with. Without an option a table; `--check` ends with 1 when a threshold of THRESHOLDS is missed; `--peers`
adds the formulas of other planners on the same rows; `--plot` writes predicted against real as SVG; `--cross-validate` fits the
constants anew without each author and each version, and tests them there. Exit 2: misuse, or a file that cannot be read.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.crossvalidation import print_cross_validation
from bench.groups import document, evaluate, group_of, missed
from bench.scatter import scatter
from bench.startups import BadData
from bench.tables import print_peers, print_table

DATA = Path(__file__).resolve().parent / "data"


def main(arguments: Sequence[str]) -> int:
    """The exit code."""
    options = _options(arguments)
    try:
        rows = evaluate(options.startups, options.models)
    except BadData as error:
        print(f"bench/vram.py: {error}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps(document(rows), indent=1))
        return 0
    if options.plot:
        options.plot.write_text(scatter(rows), encoding="utf-8")
        return 0
    if options.cross_validate:
        print_cross_validation([row.start_up for row in rows if row.replayed])
        return 0
    print_table(rows)
    if options.peers:
        print()
        print_peers(rows)
    broken = missed(group_of(rows))
    for text in broken:
        print(f"threshold missed: {text}", file=sys.stderr)
    return 1 if broken and options.check else 0


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench/vram.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--startups", type=Path, default=DATA / "startups.csv", metavar="FILE")
    parser.add_argument("--models", type=Path, default=DATA / "models.csv", metavar="FILE")
    parser.add_argument("--json", action="store_true", help="figures of all rows and by group, for programs")
    parser.add_argument("--check", action="store_true", help="end with 1 when a threshold is missed")
    parser.add_argument("--peers", action="store_true", help="other planners' formulas on the same rows")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write predicted against real as SVG")
    parser.add_argument("--cross-validate", action="store_true", help="fit without each author and version, test there")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

"""docs/planning.md works one plan out by hand: its figures are the planner's, and its sums come out."""

from __future__ import annotations

import re
from pathlib import Path

from kubequant.planning.values import Plan
from tests.unit.planning.golden import Case, facts, outcome
from tests.unit.planning.models import GIB, MIB

PAGE = Path(__file__).resolve().parents[3] / "docs" / "planning.md"


def example() -> str:
    text = PAGE.read_text(encoding="utf-8")
    return text[text.index("## A worked example") : text.index("## The rules")]


def taken() -> Plan:
    found = outcome(Case("Llama-3.1-8B AWQ", "4090"))
    assert isinstance(found, Plan)
    return found


def test_every_line_of_the_budget_is_on_the_page() -> None:
    budget = taken().budget
    for line in (
        facts("Llama-3.1-8B AWQ").weight_bytes, budget.weights_bytes, budget.total_bytes, budget.context_bytes, budget.usable_bytes,
        budget.activation_bytes, budget.cuda_graphs_bytes, budget.non_torch_bytes, budget.expected_kv_cache_bytes, budget.margin_bytes,
        budget.kv_cache_bytes, budget.kv_bytes_per_token,
    ):  # fmt: skip
        assert f"{line:,}" in example()


def test_tokens_and_arguments_are_on_the_page() -> None:
    found = taken()
    said = f"{found.kv_cache_tokens:,} tokens promised, {found.expected_kv_cache_tokens:,} expected, {found.kv_cache_tokens_16bit:,} promised"
    assert said in example()
    arguments = " ".join(found.arguments).removeprefix("--served-model-name org/base ")
    assert arguments in re.sub(r"\s+", " ", example().replace("`", ""))


def test_the_sums_come_out_by_hand() -> None:
    """The page's own arithmetic, written down once more without the planner."""
    layer = 2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336
    stored = 32 * layer * 4.15625 / 8 + 2 * 128256 * 4096 * 2 + 65 * 4096 * 2
    loaded = int(stored) + int(stored * 0.001) + 24 * MIB
    total = int(23.52 * GIB)
    outside = GIB + int((38.5 - 14.65) * 16 * 128256)
    usable = int(total * (int((total - outside) * 1000 / total) / 1000))
    activation = 36 * MIB + 2 * 2048 * 4096 + 2 * 2048 * (3 * 14336 + 3 * 4096)
    graphs = 150 * MIB + 32 * 7 * 410 * 1024
    non_torch = (72 + 184 + 394) * MIB
    expected = usable - loaded - activation - graphs - non_torch
    margin = 384 * MIB + int(0.1 * (activation + graphs + non_torch) + 0.002 * stored + 0.02 * expected)
    for figure in (layer, int(stored), loaded, total, outside, usable, activation, graphs, non_torch, expected):
        assert f"{figure:,}" in example()
    assert abs(margin - taken().budget.margin_bytes) <= 2, "rounding"
    assert ((expected - margin) // (16 * 65536) - 1) * 16 == taken().kv_cache_tokens

"""The parts of the command line that need no command: differences, the bar, figures, drawing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from kubequant.cli.difference import Change, changes
from kubequant.cli.drawing import console, draw_changes
from kubequant.planning.explain import MemoryPart, cells, cost_per_million_tokens
from kubequant.planning.text import money, rate


def test_equal_plans_differ_in_nothing() -> None:
    plan = {"gpuProduct": "NVIDIA-L4", "memory": {"total": 1}, "arguments": ["--a"]}
    assert changes(plan, {**plan}) == []


def test_changes_are_told_by_path_in_the_order_of_the_new_plan() -> None:
    before = {"scheme": "W4A16", "memory": {"weights": 5, "total": 9}, "kernel": "Marlin", "arguments": ["--a", "1"]}
    after = {"memory": {"weights": 6, "total": 9}, "scheme": "FP8", "arguments": ["--a", "2"], "contextTokens": 8}
    assert changes(before, after) == [
        Change("memory.weights", 5, 6),
        Change("scheme", "W4A16", "FP8"),
        Change("arguments", ["--a", "1"], ["--a", "2"]),
        Change("contextTokens", None, 8),
        Change("kernel", "Marlin", None),
    ]


def test_why_a_plan_was_chosen_is_no_part_of_it() -> None:
    before = {"refusals": [{"rule": "weights"}], "alternatives": [1]}
    assert changes(before, {"refusals": [], "scheme": "FP8"}) == [Change("scheme", None, "FP8")]


def test_changes_are_drawn_one_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    draw_changes(console(), [Change("arguments", ["--a", "x y"], None), Change("contextTokens", 8192, 16384)])
    drawn = capsys.readouterr().out.splitlines()
    assert drawn[-2:] == ["  arguments: --a 'x y' -> (none)", "  contextTokens: 8,192 -> 16,384"]
    draw_changes(console(), [])
    assert "would change nothing" in capsys.readouterr().out


def test_names_of_others_bring_no_escape_sequences(capsys: pytest.CaptureFixture[str]) -> None:
    draw_changes(console(), [Change("scheme", "\x1b[31mred\x07", "a\x00b")])
    assert "?[31mred? -> a?b" in capsys.readouterr().out


@given(some.lists(some.integers(0, 2**40), min_size=1, max_size=8).filter(any))
def test_a_bar_is_full_and_shows_all_that_is_there(sizes: list[int]) -> None:
    parts = tuple(MemoryPart("x", "x", size) for size in sizes)
    taken = cells(parts, 72)
    assert sum(taken) == 72
    assert all((width > 0) == (size > 0) for width, size in zip(taken, sizes, strict=True))


def test_cost_per_million_tokens() -> None:
    assert cost_per_million_tokens(3.6, 1000) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("shown", "said"),
    [
        (rate(1234.4), "1,234 tokens/s"),
        (rate(3.14159), "3.14 tokens/s"),
        (money(0.8), "0.80"),
        (money(0.0123), "0.0123"),
    ],
)
def test_figures(shown: str, said: str) -> None:
    assert shown == said

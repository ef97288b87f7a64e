"""The table of golden plans is what the planner decides now, and the seeds' errors stay refused."""

from __future__ import annotations

from kubequant.planning.values import Plan
from tests.unit.planning.golden import CASES, TABLE, Case, outcome, rendered


def test_the_table_is_what_the_planner_decides() -> None:
    assert rendered() == TABLE.read_text(encoding="utf-8"), (
        "read the difference, then: python -m tests.unit.planning.golden --write"
    )


def test_there_are_sixty_and_none_twice() -> None:
    assert len(set(CASES)) == len(CASES) >= 60


def test_a_70b_in_four_bits_does_not_fit_a_24_gb_card() -> None:
    """A seed says 17.0 GB; the headers say 37 GiB."""
    refusal = outcome(Case("Llama-3.1-70B AWQ", "4090"))
    assert isinstance(refusal, str)
    assert "W4A16 weights need 37.1 GiB, 22.5 GiB available" in refusal
    assert "4 NVIDIA-GeForce-RTX-4090 in one node" in refusal


def test_no_plan_lets_a_repository_run_code() -> None:
    plans = [found for case in CASES if isinstance(found := outcome(case), Plan)]
    assert len(plans) > 20
    for found in plans:
        assert not any("trust" in argument or "hf-overrides" in argument for argument in found.arguments)

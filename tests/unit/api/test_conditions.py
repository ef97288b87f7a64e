"""docs/conditions.md and the closed list of reasons say the same."""

from __future__ import annotations

import re
from pathlib import Path

from kubequant.api.conditions import ConditionType, Reason

PAGE = (Path(__file__).parents[3] / "docs" / "conditions.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| `(\w+)` \| (\w+) \| (.+) \|$", PAGE, re.MULTILINE)


def test_every_reason_is_documented_once_and_no_other() -> None:
    assert sorted(reason for reason, _, _ in ROWS) == sorted(reason.value for reason in Reason)


def test_every_row_says_who_acts_and_what_to_do() -> None:
    assert {who for _, who, _ in ROWS} == {"nobody", "you", "platform"}
    assert all(len(meaning) > 20 and meaning.endswith(".") for _, _, meaning in ROWS)


def test_every_condition_has_a_section() -> None:
    sections = re.findall(r"^## (.+)$", PAGE, re.MULTILINE)
    named = [word for section in sections for word in section.split(", ")]
    assert [name for name in named if name != "Any condition"] == [kind.value for kind in ConditionType]


def test_reasons_are_one_camel_case_word() -> None:
    assert all(re.fullmatch("[A-Z][A-Za-z0-9]+", reason.value) for reason in Reason)

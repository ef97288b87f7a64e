"""docs/checkpoints.md says of every reason, number and default what the code has."""

from __future__ import annotations

import re
from pathlib import Path

from kubequant.api import status
from kubequant.hub import breaker, client, discovery, remembered, session
from kubequant.hub.trust import TRUSTED_PUBLISHERS, Rejection
from kubequant.manifests import cache, inspector
from kubequant.planning import inspection
from kubequant.planning.quantization_foreign import FOREIGN
from kubequant.planning.refusing import REASONS
from kubequant.reconcile import deciding, discovering, inspecting
from kubequant.runtime.sections import HubSection

DOCS = Path(__file__).parents[3] / "docs"
PAGE = (DOCS / "checkpoints.md").read_text(encoding="utf-8")


def section(title: str, page: str = PAGE) -> str:
    """From a heading to the next of its level or above."""
    level = title.partition(" ")[0]
    _, found, rest = page.partition(f"\n{title}\n")
    assert found, title
    return re.split(rf"^#{{1,{len(level)}}} ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def rows(text: str) -> dict[str, str]:
    """The tables' rows that begin with a code word: its meaning."""
    found = re.findall(r"^\| `(\w+)` \| (.+) \|$", text, re.MULTILINE)
    assert len(found) == len(dict(found)), "a word stands twice"
    return dict(found)


def test_every_rejection_is_documented_and_no_other() -> None:
    documented = rows(section("### Why a candidate is rejected"))
    assert list(documented) == [reason.value for reason in Rejection]
    assert all(len(meaning) > 20 and meaning.endswith(".") for meaning in documented.values())


def test_every_reason_of_reading_is_documented_with_the_words_of_conditions() -> None:
    conditions = (DOCS / "conditions.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| `(\w+)` \| \w+ \| (.+) \|$", section("## ModelResolved", conditions), re.MULTILINE)
    assert rows(section("### Why a model cannot be read")) == {word: said for word, said in table if word != "Resolved"}


def test_every_foreign_format_is_in_the_table_of_formats() -> None:
    table = [line for line in section("## Reading").splitlines() if line.startswith("| ") and "| no |" in line]
    missing = [foreign.title for foreign in FOREIGN if not any(foreign.title in line for line in table)]
    assert not missing


def test_the_shipped_publishers_stand_in_their_order() -> None:
    named = re.findall(r"`([\w-]+)`", section("## Whose checkpoints").partition("in this")[0])
    assert tuple(named) == TRUSTED_PUBLISHERS


def test_the_numbers_are_those_of_the_code() -> None:
    assert f"At most {discovery.MAX_CANDIDATES} candidates are looked at" in PAGE
    assert f"{discovery.MAX_READ} read and {discovery.MAX_TAKEN} taken" in PAGE
    assert f"`status.discovery` has at most {status.MAX_CANDIDATES} candidates" in PAGE


def test_times_and_bounds_are_those_of_the_code() -> None:
    text = " ".join(PAGE.split())
    assert HubSection().revision_check_seconds == 6 * 3600 and "`hub.revisionCheckSeconds` (six hours)" in text
    assert f"{session.CONNECTIONS} connections" in text
    assert f"After {breaker.FAILURES_IN_A_ROW} failures in a row" in text
    pauses = breaker.FIRST_PAUSE_SECONDS, breaker.MAX_PAUSE_SECONDS
    assert f"at most {pauses[0]:.0f} seconds, later of at most {pauses[1]:.0f}" in text
    assert f"at most {inspection.MESSAGE_BYTES:,} bytes" in text
    assert f"It may take {inspector.POD_DEADLINE_SECONDS // 60} minutes" in text
    assert f"asked again {inspector.TTL_SECONDS // 60} minutes after" in text
    assert f"made again after {cache.TTL_SECONDS // 60} minutes" in text
    assert (remembered.ANSWER_SECONDS, remembered.FOUND_SECONDS, remembered.VERDICT_SECONDS) == (60, 3600, 86_400)
    assert f"waits up to {discovering.PATIENCE_SECONDS / 60:.0f} minutes" in text
    assert f"At most {inspecting.AT_ONCE} such Jobs run at once" in text
    assert deciding.LOOK_AGAIN_SECONDS == 3600 and "again about once an hour" in text
    assert client.CACHE_BYTES == 256 * 2**20 and "(256 MiB)" in text


def test_the_planners_reasons_that_are_named_exist() -> None:
    named = re.search(r"The planner's own reasons for a trusted checkpoint \((.+?), \.\.\.\)", PAGE)
    assert named and {word.strip("` ") for word in named[1].split(",")} <= set(REASONS.values())


def test_links_lead_to_pages_and_headings() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", PAGE):
        page, _, heading = target.partition("#")
        text = (DOCS / page).read_text(encoding="utf-8") if page else PAGE
        titles = [
            re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^#+ (.+)$", text, re.M)
        ]
        assert not heading or heading in titles, target

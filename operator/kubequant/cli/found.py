"""The answer of `kubequant find`: what was found of a model, for people and as a document for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console

from kubequant.cli import documents, drawing
from kubequant.hub.trust import owner_of
from kubequant.manifests.recipe import EngineSettings
from kubequant.planning.explain import headline
from kubequant.planning.text import gib
from kubequant.planning.values import Found, ModelFacts, Plan, Refused
from kubequant.reconcile.discovery_status import Judged, Verdict, what_it_is

SHOWN_OF_A_REASON = 5


@dataclass(frozen=True)
class Answer:
    """`asked` is the repository named where that is not the base; `outcome` None where no GPUs were named."""

    base: ModelFacts
    found: Found
    candidates: tuple[Judged, ...]
    asked: str = ""
    asked_is: str = ""  # what that is, at which commit, or why it cannot be served
    outcome: Plan | Refused | None = None

    @property
    def trusted(self) -> tuple[Judged, ...]:
        return tuple(one for one in self.candidates if one.facts is not None)

    @property
    def rejected(self) -> tuple[Judged, ...]:
        return tuple(one for one in self.candidates if one.facts is None)

    @property
    def is_found(self) -> bool:
        return any(one.verdict is not Verdict.REJECTED for one in self.candidates)


def draw_answer(out: Console, answer: Answer, *, everything: bool) -> None:
    """`everything`: all that were rejected, not only the first of each reason."""
    base = answer.base
    if answer.asked:
        said = answer.asked_is.rstrip(".")
        drawing.draw_line(out, f"{answer.asked} {said}; it names {base.repository} as its base")
    drawing.draw_line(out, f"{base.repository} at commit {base.commit}: {what_it_is(base)}", style="bold")
    if answer.trusted:
        drawing.draw_line(out, "\ncheckpoints of it that are trusted", style="bold")
        drawing.draw_table(out, _columns(answer))
    else:
        drawing.draw_line(out, f"\n{_none(answer)}", style="bold")
    _draw_outcome(out, answer)
    _draw_rejected(out, answer.rejected, everything=everything)
    notes = list(_notes(answer))
    if notes:
        drawing.draw_line(out, "\nnotes", style="bold")
    for note in notes:
        drawing.draw_line(out, f"  {note}")


def _columns(answer: Answer) -> list[drawing.Column]:
    facts = [one.facts for one in answer.trusted if one.facts]
    stored = [one.stored for one in facts]
    planned = answer.outcome is not None
    return [
        ("repository", [one.repository for one in facts], "left"),
        ("scheme", [one.scheme if one else "Unquantized" for one in stored], "left"),
        ("method", [one.method.value if one else "" for one in stored], "left"),
        ("group", [_group(one) for one in facts], "right"),
        ("weights", [gib(one.weight_bytes) for one in facts], "right"),
        ("publisher", [owner_of(one.repository) for one in facts], "left"),
        ("commit", [one.commit[:12] for one in facts], "left"),
        ("here", [one.verdict.value if planned else "" for one in answer.trusted], "left"),
    ]


def _group(facts: ModelFacts) -> str:
    """Weights that share a scale, where the scheme has groups or blocks."""
    stored = facts.stored
    if stored and stored.block:
        return f"{stored.block[0]} x {stored.block[1]}"
    return str(stored.group_size) if stored and stored.group_size and stored.group_size > 0 else ""


def _draw_outcome(out: Console, answer: Answer) -> None:
    if answer.outcome is None:
        return
    drawing.draw_line(out, "\non the GPUs given", style="bold")
    drawing.draw_line(out, f"  {headline(answer.outcome)}")
    for line in _folded(one for one in answer.trusted if one.verdict is not Verdict.CHOSEN):
        drawing.draw_line(out, f"  {line}")


def _draw_rejected(out: Console, rejected: Sequence[Judged], *, everything: bool) -> None:
    if not rejected:
        return
    drawing.draw_line(out, f"\nrejected: {len(rejected)}", style="bold")
    seen: Counter[str] = Counter()
    for one in rejected:
        seen[one.reason] += 1
        if everything or seen[one.reason] <= SHOWN_OF_A_REASON:
            drawing.draw_line(out, f"  {_line(one)}")
    for reason, count in seen.items():
        if count > SHOWN_OF_A_REASON and not everything:
            drawing.draw_line(out, f"  {reason}: {count - SHOWN_OF_A_REASON} more, which --all shows")


def _none(answer: Answer) -> str:
    if answer.rejected:
        return "no checkpoint of it is trusted"
    if answer.found.notes:  # not everything could be looked at
        return "no checkpoint of it was found"
    return (
        "no checkpoint of it is published on this hub: serve it unquantised, or quantise it yourself and name the result under "
        "spec.quantization.checkpoint"
    )


def _folded(judged: Iterable[Judged]) -> Iterator[str]:
    """One line for all of which the same is said."""
    alike: dict[tuple[str, str], list[Judged]] = {}
    for one in judged:
        alike.setdefault((one.reason, one.message.replace(one.repository, "", 1)), []).append(one)
    for first, *others in alike.values():
        line = _line(first)
        yield line.replace(first.repository, f"{first.repository} and {len(others)} more", 1) if others else line


def _line(one: Judged) -> str:
    """The planner's messages name the repository themselves."""
    named = f"with {one.repository} (" in one.message
    return ": ".join(filter(None, (one.reason, "" if named else one.repository, one.message)))


def _notes(answer: Answer) -> Iterator[str]:
    """What holds for the base holds for its checkpoints, and is said once."""
    yield from answer.found.notes
    base = answer.base
    yield from (f"{base.repository}: {note}" for note in base.notes)
    for one in answer.trusted:
        own = one.facts.notes if one.facts else ()
        yield from (f"{one.repository}: {note}" for note in own if note not in base.notes)


def answer_document(answer: Answer, engine: EngineSettings) -> documents.Document:
    """With every candidate, however many there are."""
    base = answer.base
    document: documents.Document = {
        "found": answer.is_found,
        "base": {"repository": base.repository, "commit": base.commit, **_what(base), "notes": list(base.notes)},
        "checkpoints": [_checkpoint(one, one.facts) for one in answer.trusted if one.facts],
        "rejected": [
            {"repository": one.repository, "reason": one.reason, "message": one.message} for one in answer.rejected
        ],
        "notes": list(answer.found.notes),
    }
    if answer.asked:
        document["asked"] = {"repository": answer.asked, "message": answer.asked_is}
    if answer.outcome is not None:
        planned = documents.plan_document(answer.outcome, engine)
        document |= {name: planned[name] for name in ("fits", "reason", "message", "plan") if name in planned}
    return document


def _checkpoint(one: Judged, facts: ModelFacts) -> documents.Document:
    return {
        "repository": one.repository,
        "commit": facts.commit,
        "publisher": owner_of(facts.repository),
        **_what(facts),
        "verdict": one.verdict.value,
        "reason": one.reason or None,
        "message": one.message or None,
        "notes": list(facts.notes),
    }


def _what(facts: ModelFacts) -> documents.Document:
    stored = facts.stored
    return {
        "scheme": stored.scheme if stored else "Unquantized",
        "method": stored.method.value if stored else None,
        "groupSize": stored.group_size if stored else None,
        "weightBytes": facts.weight_bytes,
        "downloadBytes": facts.download_bytes,
    }

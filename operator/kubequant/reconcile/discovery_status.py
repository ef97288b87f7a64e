"""What became of every checkpoint that discovery looked at, as status shows it: bounded, the most useful first.

    Chosen     the plan is made of it
    Eligible   trusted, and it would have worked: something else came first
    Rejected   by discovery (hub.trust.Rejection), or by the planner on every GPU that there is (planning.refusing.REASONS)

`kubequant find` shows the same judgement without the bounds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from kubequant.api.status import MAX_CANDIDATES, MAX_NOTES, CandidateStatus, DiscoveryStatus
from kubequant.hub.trust import Rejection
from kubequant.planning.rules import MEMORY_RULE_NAMES
from kubequant.planning.text import gib, money
from kubequant.planning.values import Alternative, Found, ModelFacts, Objective, Plan, Refusal, Refused, Rejected

MAX_CANDIDATE_MESSAGE = 512  # 24 of them stand in status and in each of the revisions that are kept
_COMPARING_RULES = ("slower", "sameScheme", "smallModel", "qualityGate")
"""Of planning.policy: what they refuse would run, and something better does on the same GPUs."""

_HOPELESS = (
    Rejection.DISABLED,
    Rejection.OTHER_FORMAT,
    Rejection.GGUF_ONLY,
    Rejection.ADAPTER_ONLY,
    Rejection.NO_SAFETENSORS,
    Rejection.NEEDS_CODE,
)
"""No setting makes such a candidate one that can be served, and of a model that many use there are dozens."""


class Verdict(StrEnum):
    CHOSEN = "Chosen"
    ELIGIBLE = "Eligible"
    REJECTED = "Rejected"


@dataclass(frozen=True)
class Judged:
    """One candidate. `reason` is one word for programs, "" where there is nothing but the order to say; `message` for people,
    "" where nobody has judged; `facts` is None where discovery rejected it."""

    repository: str
    verdict: Verdict
    reason: str
    message: str
    facts: ModelFacts | None = None


def judged(found: Found, outcome: Plan | Refused | None = None) -> tuple[Judged, ...]:
    """Every candidate, the most useful first: chosen, eligible, refused by the planner, rejected by discovery, what nobody
    could make use of last. Without an outcome the planner has not been asked, and what is trusted is eligible."""
    trusted = [_judged(facts, outcome) for facts in found.checkpoints]
    order = list(Verdict)
    rejected = sorted(found.rejected, key=lambda one: one.reason in _HOPELESS)
    return *sorted(trusted, key=lambda one: order.index(one.verdict)), *map(_rejected, rejected)


def discovery_status(base: str, found: Found, outcome: Plan | Refused) -> dict[str, Any]:
    """`status.discovery` of the model `base` and what was planned with what was found."""
    every = judged(found, outcome)
    return DiscoveryStatus(
        base=base,
        considered=len(every),
        candidates=[
            CandidateStatus(
                repository=one.repository[:316],
                verdict=one.verdict.value,
                reason=one.reason[:316] or None,
                message=_bounded(_said(one)) or None,
            )
            for one in every[:MAX_CANDIDATES]
        ]
        or None,
        notes=[_bounded(note) for note in found.notes[:MAX_NOTES]] or None,
    ).model_dump(by_alias=True, exclude_none=True, mode="json")


def found_sentence(base: str, found: Found, outcome: Plan | Refused) -> str:
    """As in "RedHatAI/X was found for Org/Y; 2 more trusted, 9 rejected: `kubequant find Org/Y` shows why"."""
    every = judged(found, outcome)
    chosen = [one.repository for one in every if one.verdict is Verdict.CHOSEN]
    eligible = sum(one.verdict is Verdict.ELIGIBLE for one in every)
    rejected = sum(one.verdict is Verdict.REJECTED for one in every)
    if not every:
        return f"no published checkpoint of {base} was found"
    taken = f"{chosen[0]} was found for {base}; {eligible} more" if chosen else f"{eligible}"
    return f"{taken} trusted, {rejected} rejected: `kubequant find {base}` shows why"


def what_it_is(facts: ModelFacts) -> str:
    """As in "W4A16 (AWQ, groups of 128), 5.2 GiB"."""
    stored = facts.stored
    if stored is None:
        return f"not quantised, {gib(facts.weight_bytes)}"
    return f"{stored.scheme} ({', '.join(_layout(facts))}), {gib(facts.weight_bytes)}"


def _layout(facts: ModelFacts) -> Iterator[str]:
    assert facts.stored is not None
    yield facts.stored.method.value
    if facts.stored.group_size is not None and facts.stored.group_size > 0:
        yield f"groups of {facts.stored.group_size}"
    if facts.stored.block is not None:
        yield f"blocks of {facts.stored.block[0]} x {facts.stored.block[1]}"


def _said(one: Judged) -> str:
    return "; ".join(filter(None, (what_it_is(one.facts) if one.facts else "", one.message)))


def _rejected(candidate: Rejected) -> Judged:
    return Judged(candidate.repository, Verdict.REJECTED, candidate.reason, candidate.message)


def _judged(facts: ModelFacts, outcome: Plan | Refused | None) -> Judged:
    def said(verdict: Verdict, reason: str, message: str) -> Judged:
        return Judged(facts.repository, verdict, reason, message, facts)

    if outcome is None:
        return said(Verdict.ELIGIBLE, "", "")
    if isinstance(outcome, Plan) and (outcome.repository, outcome.commit) == (facts.repository, facts.commit):
        return said(Verdict.CHOSEN, "", f"on {outcome.gpus_per_replica} x {outcome.gpu.product}")
    refusals = [one for one in outcome.refusals if one.checkpoint == facts.repository]
    compared = next((one for one in refusals if one.rule in _COMPARING_RULES and _is_placement_of(outcome, one)), None)
    if isinstance(outcome, Plan) and not compared:
        fitting = next((other for other in outcome.alternatives if other.checkpoint == facts.repository), None)
        if fitting:
            return said(Verdict.ELIGIBLE, "", _came_first(outcome, fitting))
    refusal = compared or _telling(refusals)
    if refusal:
        verdict = Verdict.ELIGIBLE if refusal.rule in _COMPARING_RULES else Verdict.REJECTED
        return said(verdict, refusal.reason, refusal.message)
    if isinstance(outcome, Refused):
        return said(Verdict.ELIGIBLE, outcome.reason, f"nothing was planned: {outcome.message}")
    return said(Verdict.ELIGIBLE, "", f"{_name(outcome)} comes first for {outcome.objective.value}")


def _telling(refusals: Sequence[Refusal]) -> Refusal | None:
    """The one that came closest, which the planner puts first. Where that wants memory, and more of the same GPUs would
    have it, that it cannot be split over those says more."""
    closest = next(iter(refusals), None)
    if closest is None or closest.rule not in MEMORY_RULE_NAMES:
        return closest
    wider = (one for one in refusals if one.gpu == closest.gpu and one.gpus > closest.gpus)
    return next((one for one in wider if one.reason == "NotDivisible"), closest)


def _is_placement_of(outcome: Plan | Refused, refusal: Refusal) -> bool:
    return isinstance(outcome, Plan) and (refusal.gpu, refusal.gpus) == (outcome.gpu.product, outcome.gpus_per_replica)


def _name(plan: Plan) -> str:
    made = ", to be made" if plan.predicted else ""
    return f"{plan.repository} ({plan.scheme}{made}) on {plan.gpus_per_replica} x {plan.gpu.product}"


def _came_first(plan: Plan, other: Alternative) -> str:
    """What the plan has that this placement has not."""
    name = _name(plan)
    ours, theirs = plan.price_per_hour, other.price_per_hour
    memory = plan.gpu.label_memory_bytes * plan.gpus_per_replica
    if plan.objective is Objective.LOWEST_COST and ours is not None and theirs is not None and ours < theirs:
        return f"{name} costs less: {money(ours)} an hour instead of {money(theirs)}"
    if plan.objective is Objective.LOWEST_COST and None in (ours, theirs) and memory < other.memory_bytes:
        return f"{name} takes less GPU memory: {gib(memory)} instead of {gib(other.memory_bytes)}"
    return f"{name} comes first for {plan.objective.value}"


def _bounded(text: str) -> str:
    return text if len(text) <= MAX_CANDIDATE_MESSAGE else text[: MAX_CANDIDATE_MESSAGE - 1] + "…"

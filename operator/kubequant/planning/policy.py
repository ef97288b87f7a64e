"""What passes every rule and would still be a bad choice, because something better passes on the same GPUs.

    slower       a scheme that comes later in the order of preference and is no faster there at the load asked for
    sameScheme   a checkpoint of a scheme that a more trusted one, or at all one that exists, has there too
    smallModel   four bits of a model below 3 billion weights, where eight fit: published losses are 4 to 14 %
    qualityGate  four-bit floats that nobody has asked for, until a gate has measured what they lose

Only what the planner chose by itself is compared: a scheme that the user names, or that is stored so, is theirs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from kubequant.planning.candidates import Candidate
from kubequant.planning.ranking import preference, seconds_per_token, step_seconds
from kubequant.planning.refusing import refusal
from kubequant.planning.values import Objective, Refusal

SMALL_MODEL_PARAMETERS = 3_000_000_000
_FOUR_BIT = ("W4A16", "NVFP4", "MXFP4")


Tried = tuple[Candidate, Refusal]


def compared(survivors: Sequence[Candidate]) -> tuple[list[Candidate], list[Tried]]:
    """What stays, and what is refused by comparison with what stays: the best of a placement always does."""
    by_placement: defaultdict[tuple[str, tuple[tuple[str, str], ...], int], list[Candidate]] = defaultdict(list)
    for candidate in survivors:
        by_placement[candidate.gpu.product, candidate.gpu.selector, candidate.gpus].append(candidate)
    kept: list[Candidate] = []
    refused: list[Tried] = []
    for same_placement in by_placement.values():
        stays, goes = _compared(same_placement)
        kept += stays
        refused += goes
    return kept, refused


def _compared(same_placement: Sequence[Candidate]) -> tuple[list[Candidate], list[Tried]]:
    refused = [(one, found) for one in same_placement if (found := _ungated(one))]
    open_to_all = _without(same_placement, refused)
    refused += [(one, found) for one in open_to_all if (found := _of_the_same_scheme(one, open_to_all))]
    open_to_all = _without(open_to_all, refused)
    refused += [(one, found) for one in open_to_all if (found := _too_small(one, open_to_all))]
    kept: list[Candidate] = []
    for candidate in sorted(_without(open_to_all, refused), key=preference):
        found = _slower(candidate, kept)
        if found:
            refused.append((candidate, found))
        else:
            kept.append(candidate)
    return kept, refused


def _without(candidates: Sequence[Candidate], refused: Sequence[Tried]) -> list[Candidate]:
    gone = {id(candidate) for candidate, _ in refused}
    return [candidate for candidate in candidates if id(candidate) not in gone]


def _goes_before(other: Candidate, candidate: Candidate) -> bool:
    """What would have to be made is no reason to leave out what exists, where that is preferred."""
    return not (candidate.intent.prefer_existing and other.facts.predicted and not candidate.facts.predicted)


def _of_the_same_scheme(candidate: Candidate, same_placement: Sequence[Candidate]) -> Refusal | None:
    """Of checkpoints as good as equal the most trusted is taken, not the one that is a few bytes smaller."""
    for other in same_placement:
        if other.checkpoint and other.scheme == candidate.scheme and other.trust < candidate.trust:
            why = "exists already" if candidate.facts.predicted else "comes before it in the order of trust"
            return refusal(candidate, "sameScheme", f"{other.checkpoint} is {other.scheme} too, and {why}")
    return None


def _ungated(candidate: Candidate) -> Refusal | None:
    if not candidate.is_ours or candidate.scheme not in ("NVFP4", "MXFP4"):
        return None
    message = (
        f"{candidate.scheme} fits, but is taken only when asked for (quantization.scheme: {candidate.scheme}): what it "
        "loses differs from model to model and has to be measured first"
    )
    return refusal(candidate, "qualityGate", message)


def _too_small(candidate: Candidate, same_placement: Sequence[Candidate]) -> Refusal | None:
    parameters = candidate.facts.parameters
    wider = [other for other in same_placement if other.scheme not in _FOUR_BIT and _goes_before(other, candidate)]
    if not candidate.is_ours or candidate.scheme not in _FOUR_BIT or parameters >= SMALL_MODEL_PARAMETERS or not wider:
        return None
    message = (
        f"four bits cost a model of {parameters / 1e9:.1f} billion weights 4 to 14 % of its quality, and "
        f"{min(wider, key=preference).scheme} fits"
    )
    return refusal(candidate, "smallModel", message, parameters=parameters)


def _slower(candidate: Candidate, better: Sequence[Candidate]) -> Refusal | None:
    """`better` come before it in the order of preference, the best first."""
    time = step_seconds if candidate.intent.objective is Objective.LOWEST_LATENCY else seconds_per_token
    for other in better if candidate.is_ours else ():
        if not _goes_before(other, candidate):
            continue
        if candidate.roofline and other.roofline and time(candidate) >= time(other):
            ratio = time(candidate) / time(other)
            message = (
                f"{other.scheme} fits and goes before it; {candidate.scheme} would take {ratio:.2f} times as long at "
                f"{candidate.demand.concurrent_requests} concurrent requests"
            )
            return refusal(candidate, "slower", message, percent_of_time=round(100 * ratio))
    return None

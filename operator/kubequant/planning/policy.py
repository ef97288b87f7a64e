"""What passes every rule and would still be a bad choice, because something better passes on the same GPUs.

    slower       a scheme that comes later in the order of preference and is no faster there at the load asked for
    smallModel   four bits of a model below 3 billion weights, where eight fit: published losses are 4 to 14 %
    qualityGate  four-bit floats that nobody has asked for, until a gate has measured what they lose

Only what the planner chose by itself is compared: a scheme that the user names, or that is stored so, is theirs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from kubequant.planning.candidates import Candidate
from kubequant.planning.ranking import preference, seconds_per_token, step_seconds
from kubequant.planning.rules import refusal
from kubequant.planning.values import Objective, Refusal

SMALL_MODEL_PARAMETERS = 3_000_000_000
_FOUR_BIT = ("W4A16", "NVFP4", "MXFP4")


def compared(survivors: Sequence[Candidate]) -> tuple[list[Candidate], list[tuple[Candidate, Refusal]]]:
    """What stays, and what is refused by comparison."""
    by_placement: defaultdict[tuple[str, int], list[Candidate]] = defaultdict(list)
    for candidate in survivors:
        by_placement[candidate.gpu.product, candidate.gpus].append(candidate)
    kept: list[Candidate] = []
    refused: list[tuple[Candidate, Refusal]] = []
    for candidate in survivors:
        found = _objection(candidate, by_placement[candidate.gpu.product, candidate.gpus])
        if found:
            refused.append((candidate, found))
        else:
            kept.append(candidate)
    return kept, refused


def _objection(candidate: Candidate, same_placement: Sequence[Candidate]) -> Refusal | None:
    if not candidate.facts.predicted or candidate.intent.scheme != "Auto":
        return None
    if candidate.scheme in ("NVFP4", "MXFP4"):
        message = (
            f"{candidate.scheme} fits, but is taken only when asked for (quantization.scheme: {candidate.scheme}): what it "
            "loses differs from model to model and has to be measured first"
        )
        return refusal(candidate, "qualityGate", message)
    better = [other for other in same_placement if preference(other) < preference(candidate)]
    return _too_small(candidate, same_placement) or _slower(candidate, better)


def _too_small(candidate: Candidate, same_placement: Sequence[Candidate]) -> Refusal | None:
    parameters = candidate.facts.parameters
    wider = [other for other in same_placement if other.scheme not in _FOUR_BIT]
    if candidate.scheme not in _FOUR_BIT or parameters >= SMALL_MODEL_PARAMETERS or not wider:
        return None
    message = f"four bits cost a model of {parameters / 1e9:.1f} billion weights 4 to 14 % of its quality, and {wider[0].scheme} fits"
    return refusal(candidate, "smallModel", message, parameters=parameters)


def _slower(candidate: Candidate, better: Sequence[Candidate]) -> Refusal | None:
    time = step_seconds if candidate.intent.objective is Objective.LOWEST_LATENCY else seconds_per_token
    for other in sorted(better, key=preference):
        if candidate.roofline and other.roofline and time(candidate) >= time(other):
            ratio = time(candidate) / time(other)
            message = (
                f"{other.scheme} fits and goes before it; {candidate.scheme} would take {ratio:.2f} times as long at "
                f"{candidate.demand.concurrent_requests} concurrent requests"
            )
            return refusal(candidate, "slower", message, percent_of_time=round(100 * ratio))
    return None

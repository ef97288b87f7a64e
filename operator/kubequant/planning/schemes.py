"""Which checkpoints of a model are tried: the one that is stored, and those that could be made of it.

    stored quantised   that one; another scheme asked for is a contradiction
    stored in 16 bit   Auto: as it is, FP8, W4A16; W8A8 where 8-bit integers compute and FP8 does not (7.5 to 8.6); NVFP4 on Blackwell
                       a scheme: only that one

W8A16 and MXFP4 are made only when asked for: FP8 is as small as the one and less lossy, W4A16 less lossy than the other.
"""

from __future__ import annotations

from functools import lru_cache

from kubequant.api.conditions import Reason
from kubequant.planning.prediction import predicted, prediction_obstacle
from kubequant.planning.refusing import REASONS
from kubequant.planning.values import ComputeCapability, Intent, ModelFacts, Refusal, Refused

_AUTOMATIC = ("FP8", "W8A8", "W4A16", "NVFP4")
_ADA = ComputeCapability(8, 9)
_BLACKWELL = ComputeCapability(10, 0)

_predicted = lru_cache(maxsize=64)(predicted)
"""Sixty plans of one model ask for the same three predictions."""


def checkpoints(intent: Intent, facts: ModelFacts) -> tuple[ModelFacts, ...] | Refused:
    """At least one, what exists first; or why the scheme asked for cannot be had."""
    if facts.stored or intent.scheme == "Unquantized":
        return _stored(intent, facts)
    if intent.scheme != "Auto":
        obstacle = prediction_obstacle(facts, intent.scheme, intent.method)
        if obstacle is None:
            return (_predicted(facts, intent.scheme, intent.method),)
        return Refused(
            Reason.NOT_QUANTIZABLE,
            f"quantization.scheme {intent.scheme}: {facts.repository} cannot be made so: {obstacle}",
        )
    makeable = (scheme for scheme in _AUTOMATIC if prediction_obstacle(facts, scheme, intent.method) is None)
    return facts, *(_predicted(facts, scheme, intent.method) for scheme in makeable)


def not_makeable(intent: Intent, facts: ModelFacts) -> tuple[Refusal, ...]:
    """Of the schemes that Auto would try, those that cannot be made of this model, whatever the GPU."""
    if facts.stored or intent.scheme != "Auto":
        return ()
    obstacles = ((scheme, prediction_obstacle(facts, scheme, intent.method)) for scheme in _AUTOMATIC)
    return tuple(
        Refusal("", 0, scheme, "checkpoint", f"{scheme} cannot be made: {obstacle}", reason=REASONS["checkpoint"])
        for scheme, obstacle in obstacles
        if obstacle
    )


def worth_trying(checkpoint: ModelFacts, intent: Intent, capability: ComputeCapability) -> bool:
    """Whether a GPU of this capability gains anything from a checkpoint that is to be made; asked for, it always is tried."""
    if not checkpoint.predicted or intent.scheme != "Auto" or checkpoint.stored is None:
        return True
    if checkpoint.stored.scheme == "W8A8":
        return capability < _ADA
    if checkpoint.stored.scheme == "NVFP4":
        return capability >= _BLACKWELL
    return True


def _stored(intent: Intent, facts: ModelFacts) -> tuple[ModelFacts, ...] | Refused:
    scheme, method = (facts.stored.scheme, facts.stored.method.value) if facts.stored else ("Unquantized", "None")
    if intent.scheme not in ("Auto", scheme):
        return Refused(
            Reason.SCHEME_MISMATCH,
            f"quantization.scheme is {intent.scheme}, but {facts.repository} is {scheme}: leave the scheme out, or name "
            f"a repository that is {intent.scheme}",
        )
    if intent.method in ("AWQ", "GPTQ") and facts.stored and method in ("AWQ", "GPTQ") and method != intent.method:
        return Refused(
            Reason.SCHEME_MISMATCH,
            f"quantization.method is {intent.method}, but {facts.repository} was made with {method}: leave the method out, "
            f"or name a repository made with {intent.method}",
        )
    return (facts,)

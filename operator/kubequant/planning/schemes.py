"""Which checkpoints of a model are tried: the one that is stored, those that are published, and those that could be made of it.

    stored quantised   that one; another scheme asked for is a contradiction
    stored in 16 bit   Auto: as it is, what discovery found, FP8, W4A16; NVFP4 on Blackwell;
                             W8A8 where 8-bit integers compute and FP8 does not (7.5 to 8.6)
                       a scheme: only that one, found or made

W8A16 and MXFP4 are made only when asked for: FP8 is as small as the one and less lossy, W4A16 less lossy than the other.
"""

from __future__ import annotations

from collections.abc import Sequence
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


def checkpoints(
    intent: Intent, facts: ModelFacts, found: Sequence[ModelFacts] = ()
) -> tuple[ModelFacts, ...] | Refused:
    """At least one, what exists first; or why the scheme asked for cannot be had.

    `found` are published checkpoints of a model in 16 bit, the most trusted first; the model itself is not among them.
    """
    if facts.stored or intent.scheme == "Unquantized":
        return _stored(intent, facts)
    published = tuple(one for one in found if _is_wanted(intent, one))
    if intent.scheme != "Auto":
        obstacle = prediction_obstacle(facts, intent.scheme, intent.method)
        if obstacle is None:
            return *published, _predicted(facts, intent.scheme, intent.method)
        return published or Refused(
            Reason.NOT_QUANTIZABLE,
            f"quantization.scheme {intent.scheme}: {facts.repository} cannot be made so: {obstacle}",
        )
    makeable = (scheme for scheme in _AUTOMATIC if prediction_obstacle(facts, scheme, intent.method) is None)
    return facts, *published, *(_predicted(facts, scheme, intent.method) for scheme in makeable)


def _is_wanted(intent: Intent, found: ModelFacts) -> bool:
    stored = found.stored
    if stored is None or intent.scheme not in ("Auto", stored.scheme):
        return False
    method = stored.method.value
    return intent.method not in ("AWQ", "GPTQ") or method not in ("AWQ", "GPTQ") or method == intent.method


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


def not_wanted(intent: Intent, found: Sequence[ModelFacts]) -> tuple[Refusal, ...]:
    """Of the published checkpoints those of another scheme or method than the one asked for."""
    asked = ", ".join(
        f"quantization.{field} {word}"
        for field, word in (("scheme", intent.scheme), ("method", intent.method))
        if word != "Auto"
    )
    return tuple(
        Refusal(
            "", 0, one.stored.scheme if one.stored else "Unquantized", "scheme", f"{_what(one)}, not what was asked for: {asked}",
            reason=REASONS["scheme"], checkpoint=one.repository,
        )
        for one in found
        if not _is_wanted(intent, one)
    )  # fmt: skip


def _what(one: ModelFacts) -> str:
    return (
        f"{one.repository} is {one.stored.scheme} by {one.stored.method}"
        if one.stored
        else f"{one.repository} is not quantised"
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
            f"{f'its base {facts.base}, or ' if facts.base else ''}a repository that is {intent.scheme}",
        )
    if intent.method in ("AWQ", "GPTQ") and facts.stored and method in ("AWQ", "GPTQ") and method != intent.method:
        return Refused(
            Reason.SCHEME_MISMATCH,
            f"quantization.method is {intent.method}, but {facts.repository} was made with {method}: leave the method out, "
            f"or name a repository made with {intent.method}",
        )
    return (facts,)

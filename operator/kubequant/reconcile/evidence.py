"""What earlier revisions of a model measured, as the planner takes it: a replan rests on it instead of on extrapolation."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any

from kubequant.planning.plan import Measured
from kubequant.planning.values import Measurement
from kubequant.reconcile.decision import Decision

MAX_DIGITS = 18  # of a count of tokens


def tokens_in(annotation: str) -> int | None:
    """Somebody may have written anything there."""
    return int(annotation) if annotation.isdecimal() and len(annotation) <= MAX_DIGITS else None


def measured_start_ups(measured: Iterable[tuple[Decision, str]], repositories: Collection[str]) -> Iterator[Measured]:
    """Of decisions with their annotation, newest first: those of these repositories that an engine has confirmed."""
    for decision, annotation in measured:
        tokens = tokens_in(annotation)
        if tokens and decision.repository in repositories:
            yield from _measured(decision, tokens)


def _measured(decision: Decision, tokens: int) -> Iterator[Measured]:
    """The engine reports tokens; bytes are in proportion to them, on the placement that the decision was for."""
    plan: dict[str, Any] = decision.plan
    memory = plan.get("memory") or {}
    expected_tokens, expected_bytes = plan.get("expectedKvCacheTokens"), memory.get("expectedKvCache")
    if not expected_tokens or not expected_bytes:
        return
    yield Measured(
        engine_version=decision.recipe.engine.version,
        gpu=decision.recipe.gpu_product,
        gpus=decision.recipe.gpus,
        scheme=plan.get("scheme", ""),
        measurement=Measurement(expected_bytes, expected_bytes * tokens // expected_tokens),
    )

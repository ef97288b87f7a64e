"""Published checkpoints of a model, as planning wants them: asked for afresh once a replan, and waited for while some are not read.

What is planned is pinned, so an answer that lacks a trusted checkpoint for a moment's failure would be pinned too. It is
asked for again until PATIENCE_SECONDS are over; a repository that never answers keeps no model unplanned for longer.
Nothing of this outlives the process: after a restart it is waited once more.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from kubequant.api.conditions import Reason
from kubequant.api.spec import QuantizedModelSpec
from kubequant.errors import Refused, Waiting
from kubequant.hub.trust import Rejection
from kubequant.planning.values import Found, ModelFacts
from kubequant.reconcile.inputs import discovery_is_wanted, inputs_hash
from kubequant.reconcile.records import Key, ModelRecord

PATIENCE_SECONDS = 600.0
LOOK_AGAIN_SECONDS = 60.0  # the Hub's client keeps a partial answer as long
MAX_NAMED = 3


class Searched(Protocol):
    """Who looks for checkpoints. Raises the errors of kubequant.errors."""

    async def find(self, base: ModelFacts, *, fresh: bool = False) -> Found: ...


class Replans:
    """Which value of the annotation kubequant.dev/replan a question has been asked afresh for."""

    def __init__(self) -> None:
        self._asked: dict[Key, tuple[str, str]] = {}

    def is_new(self, model: ModelRecord) -> bool:
        """Whether this question is the first since somebody asked for another plan. A later one may be answered from memory."""
        asked = (model.uid, model.replan)
        if not model.replan or self._asked.get(model.key) == asked:
            return False
        self._asked[model.key] = asked
        return True

    def forget(self, key: Key) -> None:
        self._asked.pop(key, None)


class Discovering:
    """`clock` gives seconds; `enabled` is the configuration's: whether checkpoints are looked for at all."""

    def __init__(self, hub: Searched, clock: Callable[[], float], *, enabled: bool) -> None:
        self._hub = hub
        self._clock = clock
        self._enabled = enabled
        self._replans = Replans()
        self._patience: dict[Key, tuple[tuple[str, str], float]] = {}  # what is planned, and until when it waits

    def is_wanted(self, spec: QuantizedModelSpec) -> bool:
        return self._enabled and discovery_is_wanted(spec)

    async def found(self, model: ModelRecord, spec: QuantizedModelSpec, base: ModelFacts) -> Found | None:
        """Published checkpoints of a model in 16 bit. None where nobody looked.

        Raises Waiting: the search goes on, the Hub fails, or some checkpoint could not be read yet.
        """
        if base.stored or not self.is_wanted(spec):
            return None
        try:
            found = await self._hub.find(base, fresh=self._replans.is_new(model))
        except Refused as refused:
            # What only the model's own token opens, the operator cannot compare with anything. The model can be served.
            return Found(notes=(f"published checkpoints could not be looked for: {refused.message}",))
        if found.partial and self._clock() < self._waits_until(model):
            raise Waiting(
                Reason.DISCOVERING,
                f"published checkpoints of {base.repository} could not be read yet ({_unread(found)}). They are asked for "
                f"again; {PATIENCE_SECONDS / 60:.0f} minutes after the first look it is planned without them.",
                LOOK_AGAIN_SECONDS * random.uniform(1, 1.5),  # noqa: S311 - jitter, no secret
            )
        return noted(found)

    async def found_later(self, base: ModelFacts) -> Found:
        """What is there now, also a part of it: for a model that nothing serves, one checkpoint is better than none."""
        return noted(await self._hub.find(base))

    def forget(self, key: Key) -> None:
        self._replans.forget(key)
        self._patience.pop(key, None)

    def _waits_until(self, model: ModelRecord) -> float:
        planned = (model.uid, inputs_hash(model.spec, model.replan))
        known = self._patience.get(model.key)
        if known is None or known[0] != planned:
            known = self._patience[model.key] = (planned, self._clock() + PATIENCE_SECONDS)
        return known[1]


def noted(found: Found) -> Found:
    """With what a plan that is made of a part of the checkpoints does not know."""
    if not found.partial:
        return found
    note = (
        f"planned without checkpoints that could not be read ({_unread(found)}): set the annotation kubequant.dev/replan to "
        "a new value to look again"
    )
    return replace(found, notes=(note, *found.notes))


def _unread(found: Found) -> str:
    names = [one.repository for one in found.rejected if one.reason == Rejection.COULD_NOT_BE_READ]
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more or "the Hub did not name them"

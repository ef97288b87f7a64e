"""Writes status when it says something new, and Events when the summary changes. An equal status is never written."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from kubequant.api.conditions import ConditionType, Reason
from kubequant.cluster.api import ApiError, KubeApi
from kubequant.cluster.events import EventRecorder
from kubequant.manifests.names import STATUS_FIELD_MANAGER, Owner
from kubequant.reconcile.kinds import QUANTIZED_MODEL
from kubequant.reconcile.records import Key, ModelRecord, Transition, status_digest
from kubequant.reconcile.status import TRUE, Known, build_status, with_times

log = logging.getLogger(__name__)

TRUST_OWN_WRITE_SECONDS = 30.0  # longer than the watch takes to bring a write back
_NORMAL_REASONS = frozenset(
    {Reason.READY, Reason.PLANNED, Reason.PROGRESSING, Reason.STARTING, Reason.DOWNLOADING, Reason.LOADING}
    | {Reason.SCALED_TO_ZERO, Reason.PLAN_ONLY, Reason.SOME_REPLICAS_READY}
)
_EVENT_CONDITIONS = (ConditionType.PLANNED, ConditionType.READY, ConditionType.WITHIN_PLAN)


@dataclass(frozen=True)
class _Write:
    """The last status written for a model by this process; a namesake made after a deletion has another uid."""

    uid: str
    digest: str
    at: float
    transitions: Mapping[str, Transition]


class StatusWriter:
    """`clock` gives seconds since the epoch."""

    def __init__(self, api: KubeApi, events: EventRecorder, clock: Callable[[], float]) -> None:
        self._api = api
        self._events = events
        self._clock = clock
        self._writes: dict[Key, _Write] = {}

    async def write(self, model: ModelRecord, owner: Owner, known: Known) -> None:
        """Applies the status where it differs from what stands there, and emits Events for what changed."""
        status = build_status(known)
        content, last = status_digest(status), self._writes.get(model.key)
        if last and last.uid != model.uid:
            last = None
        if content == model.status_digest and (last is None or last.digest == content):
            return
        if last and last.digest == content and self._clock() - last.at < TRUST_OWN_WRITE_SECONDS:
            return
        before = last.transitions if last else model.transitions
        now = datetime.fromtimestamp(self._clock(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        timed = with_times(status, before, now)
        if not await self._apply(model, timed):
            return
        self._writes[model.key] = _Write(model.uid, content, self._clock(), _transitions(timed))
        self._tell(model, before, timed)

    def forget(self, key: Key) -> None:
        self._writes.pop(key, None)

    async def _apply(self, model: ModelRecord, status: Mapping[str, Any]) -> bool:
        body = {
            "apiVersion": QUANTIZED_MODEL.api_version,
            "kind": QUANTIZED_MODEL.kind,
            "metadata": {"namespace": model.namespace, "name": model.name, "uid": model.uid},
            "status": status,
        }
        try:
            await self._api.apply(QUANTIZED_MODEL, body, field_manager=STATUS_FIELD_MANAGER, subresource="status")
        except ApiError as error:
            if error.is_not_found or error.is_conflict:  # deleted, or replaced by a namesake, in the meantime
                log.info("status of %s/%s not written: it is gone", model.namespace, model.name)
                return False
            raise
        return True

    def _tell(self, model: ModelRecord, before: Mapping[str, Transition], status: Mapping[str, Any]) -> None:
        regarding = {
            "apiVersion": QUANTIZED_MODEL.api_version,
            "kind": QUANTIZED_MODEL.kind,
            "metadata": {"namespace": model.namespace, "name": model.name, "uid": model.uid},
        }
        for condition in status["conditions"]:
            kind, reason = condition["type"], condition["reason"]
            last = before.get(kind)
            changed = last is None or (last.status, last.reason) != (condition["status"], reason)
            if kind not in _EVENT_CONDITIONS or not changed or condition["status"] == "Unknown":
                continue
            normal = condition["status"] == TRUE or reason in _NORMAL_REASONS
            self._events.emit(regarding, "Normal" if normal else "Warning", kind, reason, condition["message"])


def _transitions(status: Mapping[str, Any]) -> dict[str, Transition]:
    return {
        condition["type"]: Transition(condition["status"], condition["reason"], condition["lastTransitionTime"])
        for condition in status["conditions"]
    }

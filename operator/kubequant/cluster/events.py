"""Kubernetes Events for `kubectl describe`: on transitions only, never twice the same in a row for one object."""

from __future__ import annotations

import logging
from collections import OrderedDict
from datetime import UTC, datetime
from uuid import uuid4

from kubequant.cluster.api import ApiError, Body, KubeApi
from kubequant.cluster.kinds import EVENT

log = logging.getLogger(__name__)

MAX_NOTE = 1024  # the API server's limit
REMEMBERED = 4096


class EventRecorder:
    """Writes events.k8s.io/v1 Events. A failure to write one is logged and otherwise ignored: it decides nothing."""

    def __init__(self, api: KubeApi, controller: str, instance: str) -> None:
        self._api = api
        self._controller = controller
        self._instance = instance
        self._last: OrderedDict[tuple[str, str], str] = OrderedDict()

    async def emit(self, regarding: Body, kind: str, action: str, reason: str, note: str) -> None:
        """`kind` is Normal or Warning; `regarding` an object with apiVersion, kind and metadata."""
        metadata = regarding["metadata"]
        topic = (metadata["uid"], reason)
        if self._last.get(topic) == note:
            return
        self._last[topic] = note
        self._last.move_to_end(topic)
        while len(self._last) > REMEMBERED:
            self._last.popitem(last=False)
        try:
            await self._api.create(EVENT, self._body(regarding, kind, action, reason, note))
        except ApiError as error:
            log.warning("event %s of %s not written: %s", reason, metadata["name"], error)

    def _body(self, regarding: Body, kind: str, action: str, reason: str, note: str) -> Body:
        metadata = regarding["metadata"]
        return {
            "apiVersion": EVENT.api_version,
            "kind": EVENT.kind,
            "metadata": {"name": f"{metadata['name'][:200]}.{uuid4().hex[:16]}", "namespace": metadata["namespace"]},
            "eventTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "type": kind,
            "action": action,
            "reason": reason,
            "note": note[:MAX_NOTE],
            "reportingController": self._controller,
            "reportingInstance": self._instance,
            "regarding": {
                "apiVersion": regarding["apiVersion"],
                "kind": regarding["kind"],
                "namespace": metadata["namespace"],
                "name": metadata["name"],
                "uid": metadata["uid"],
            },
        }

"""Kubernetes Events for `kubectl describe`: on transitions only, never twice the same in a row for one object.

They are written beside the work, not within it: an Event decides nothing and must not make a model wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import OrderedDict
from datetime import UTC, datetime
from uuid import uuid4

from kubequant.cluster.api import ApiError, Body, KubeApi
from kubequant.cluster.kinds import EVENT

log = logging.getLogger(__name__)

MAX_NOTE = 1024  # bytes, the API server's limit
REMEMBERED = 4096
STOP_SECONDS = 2.0
WAITING = 2000  # Events not yet written; what comes beyond that is dropped, and the log says so


class EventRecorder:
    """Writes events.k8s.io/v1 Events. A failure to write one is logged and otherwise ignored: it decides nothing."""

    def __init__(self, api: KubeApi, controller: str, instance: str) -> None:
        self._api = api
        self._controller = controller
        self._instance = instance
        self._last: OrderedDict[tuple[str, str], str] = OrderedDict()
        self._waiting: asyncio.Queue[Body] = asyncio.Queue(maxsize=WAITING)
        self._writer: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._writer = asyncio.create_task(self._write_forever())

    async def stop(self) -> None:
        """What still waits is given a moment."""
        if self._writer:
            self._writer.cancel()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.flush(), STOP_SECONDS)

    async def flush(self) -> None:
        """Writes what waits."""
        while not self._waiting.empty():
            await self._write(self._waiting.get_nowait())

    def emit(self, regarding: Body, kind: str, action: str, reason: str, note: str) -> None:
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
            self._waiting.put_nowait(self._body(regarding, kind, action, reason, note))
        except asyncio.QueueFull:
            log.warning("event %s of %s dropped: %d are waiting", reason, metadata["name"], WAITING)

    async def _write_forever(self) -> None:
        while True:
            await self._write(await self._waiting.get())

    async def _write(self, event: Body) -> None:
        try:
            await self._api.create(EVENT, event)
        except ApiError as error:
            log.warning("event %s of %s not written: %s", event["reason"], event["regarding"]["name"], error)

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
            "note": note.encode()[:MAX_NOTE].decode(errors="ignore"),
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

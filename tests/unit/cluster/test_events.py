"""Events: once a transition, within the API server's limits, beside the work."""

from __future__ import annotations

import asyncio
from typing import Any

from kubequant.cluster.events import MAX_NOTE, EventRecorder
from tests.unit.fakes import FakeKubeApi

REGARDING = {"apiVersion": "v1", "kind": "K", "metadata": {"namespace": "n", "name": "m", "uid": "u"}}


def written(*notes: str) -> list[dict[str, Any]]:
    api = FakeKubeApi()

    async def main() -> None:
        recorder = EventRecorder(api, "controller", "instance")
        for note in notes:
            recorder.emit(REGARDING, "Normal", "Ready", "Ready", note)
        await recorder.flush()

    asyncio.run(main())
    return [body for (plural, _, _), body in api.objects.items() if plural == "events"]


def test_the_same_is_not_said_twice_in_a_row() -> None:
    assert [event["note"] for event in written("a", "a", "b")] == ["a", "b"]


def test_a_long_note_keeps_within_the_servers_bytes() -> None:
    (event,) = written("é" * MAX_NOTE)
    assert len(event["note"].encode()) <= MAX_NOTE
    assert set(event["note"]) == {"é"}, "no character is cut in half"

"""The core's order of things: who lists when, and what comes before the Lease."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from kubequant.cluster.api import ApiError
from kubequant.runtime import core as core_module
from kubequant.runtime.core import Core
from kubequant.runtime.settings import Settings


class SlowLists:
    """Lists take a moment; `most_at_once` tells how many were under way together."""

    def __init__(self) -> None:
        self.under_way = self.most_at_once = 0

    async def list(self, kind: Any, **_: Any) -> AsyncIterator[dict[str, Any]]:
        self.under_way += 1
        self.most_at_once = max(self.most_at_once, self.under_way)
        await asyncio.sleep(0.001)
        self.under_way -= 1
        for body in ():
            yield body


def test_full_lists_never_overlap() -> None:
    async def main() -> int:
        core = Core(Settings(), None)
        api = SlowLists()
        core._api = api  # type: ignore[assignment]
        assert all(await asyncio.gather(core._relisted(), core._relisted()))
        return api.most_at_once

    assert asyncio.run(main()) == 1


def test_a_list_that_fails_in_any_way_is_for_the_next_try() -> None:
    class Broken:
        def list(self, *_: Any, **__: Any) -> Any:
            raise KeyError("metadata")

    async def main() -> bool:
        core = Core(Settings(), None)
        core._api = Broken()  # type: ignore[assignment]
        return await core._relisted()

    assert asyncio.run(main()) is False


def test_the_lease_is_not_taken_before_the_kind_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core_module, "RETRY_SECONDS", 0.001)
    order: list[str] = []

    class Api:
        answers = [ApiError(404, "NotFound", "no such kind"), None]

        async def list(self, *_: Any, **__: Any) -> AsyncIterator[dict[str, Any]]:
            order.append("list")
            error = self.answers.pop(0)
            if error:
                raise error
            for body in ():
                yield body

    class Lease:
        async def acquire(self) -> None:
            order.append("acquire")

    class Queue:
        def start(self) -> None:
            order.append("start")

    async def main() -> None:
        core = Core(Settings(), None)
        core._api, core.lease, core.queue = Api(), Lease(), Queue()  # type: ignore[assignment]
        await core.lead()
        assert core._resync
        core._resync.cancel()

    asyncio.run(main())
    assert order == ["list", "list", "acquire", "start"]

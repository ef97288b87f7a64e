"""A search outlasts whoever asked for it, is one a base, and begins with what the last attempt was told."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from kubequant.api.conditions import Reason
from kubequant.errors import Throttled, Unavailable, Waiting
from kubequant.hub.client import FIND_PATIENCE_SECONDS, Hub
from kubequant.hub.failures import without_promise
from kubequant.hub.searching import COME_BACK_SECONDS, SEARCHES_AT_ONCE
from kubequant.planning.values import Found, ModelFacts
from kubequant.runtime.core import STUCK_SECONDS
from tests.fakehub import FakeHub, Fault, rate_limited
from tests.fakehub.family import BASE, Sibling, family
from tests.unit.hub.asking import with_hub
from tests.unit.hub.test_discovery import Clock, _forget, asking, few, relatives, taken

__all__ = ["few"]  # a fixture

LISTS = "^/api/models$"


async def told_to_come_back(hub: Hub, base: ModelFacts, *, fresh: bool = False) -> Waiting:
    with pytest.raises(Waiting) as caught:
        await hub.find(base, fresh=fresh, patience_seconds=0.2)
    assert caught.value.reason is Reason.DISCOVERING and BASE in caught.value.message
    return caught.value


def test_a_slow_search_goes_on_and_tells_who_comes_back(few: FakeHub) -> None:
    async def ask(hub: Hub, base: ModelFacts) -> tuple[set[float | None], list[Found]]:
        few.faults.add(Fault(LISTS, times=2, delay_seconds=1.0))
        told = await asyncio.gather(*(told_to_come_back(hub, base) for _ in range(20)))
        assert {waiting.message for waiting in told} == {told[0].message}
        joined = await hub.find(base, patience_seconds=None)
        await _forget(few)
        remembered = await hub.find(base)
        assert few.requests.count() == 0
        return {waiting.retry_after_seconds for waiting in told}, [joined, remembered]

    pauses, found = asking(few.url, ask)
    assert len(pauses) == 20 and all(pause and COME_BACK_SECONDS <= pause < COME_BACK_SECONDS + 3 for pause in pauses)
    assert taken(found[0]) == [Sibling.OWN_AWQ, Sibling.FP8_DYNAMIC]
    assert found[0] is found[1]
    assert few.requests.count(LISTS) == 0


def test_a_base_is_searched_for_once_however_often_one_comes_back(few: FakeHub) -> None:
    async def ask(hub: Hub, base: ModelFacts) -> Found:
        few.faults.add(Fault(LISTS, times=2, delay_seconds=1.0))
        for fresh in (True, False, True):
            await told_to_come_back(hub, base, fresh=fresh)
        return await hub.find(base, patience_seconds=None)

    assert taken(asking(few.url, ask)) == [Sibling.OWN_AWQ, Sibling.FP8_DYNAMIC]
    assert few.requests.count(LISTS) == 2


def test_who_asked_afresh_does_not_come_back_to_the_old_answer(few: FakeHub) -> None:
    async def ask(hub: Hub, base: ModelFacts) -> list[Found]:
        before = await hub.find(base)
        few.add(relatives()[Sibling.W4A16])
        few.faults.add(Fault(LISTS, times=2, delay_seconds=1.0))
        await told_to_come_back(hub, base, fresh=True)
        return [before, await hub.find(base, patience_seconds=None)]

    before, after = asking(few.url, ask)
    assert (Sibling.W4A16 in taken(before), Sibling.W4A16 in taken(after)) == (False, True)


def test_searches_that_wait_for_their_turn_keep_nobody(few: FakeHub) -> None:
    async def ask(hub: Hub, base: ModelFacts) -> float:
        few.faults.add(Fault(LISTS, times=2 * SEARCHES_AT_ONCE, delay_seconds=1.0))
        bases = [replace(base, notes=(str(number),)) for number in range(4 * SEARCHES_AT_ONCE)]
        started = time.monotonic()
        await asyncio.gather(*(told_to_come_back(hub, one) for one in bases))
        elapsed = time.monotonic() - started
        found = await asyncio.gather(*(hub.find(one, patience_seconds=None) for one in bases))
        assert {tuple(taken(one)) for one in found} == {(Sibling.OWN_AWQ, Sibling.FP8_DYNAMIC)}
        return elapsed

    assert asking(few.url, ask) < 0.8


def test_a_token_that_cannot_be_read_in_time_keeps_nobody(few: FakeHub) -> None:
    slow = threading.Event()

    def token() -> None:
        if slow.is_set():
            time.sleep(1.0)

    async def ask(hub: Hub, base: ModelFacts) -> float:
        slow.set()
        started = time.monotonic()
        await told_to_come_back(hub, base)
        return time.monotonic() - started

    assert asking(few.url, ask, token=token) < 0.8


def test_a_reconcile_that_searches_ends_long_before_it_looks_stuck() -> None:
    assert FIND_PATIENCE_SECONDS <= STUCK_SECONDS / 10


def test_closing_ends_a_search_that_nobody_waits_for(few: FakeHub) -> None:
    async def ask(hub: Hub, base: ModelFacts) -> int:
        few.faults.add(Fault(LISTS, times=2, delay_seconds=0.5))
        await told_to_come_back(hub, base)
        await hub.close()
        await _forget(few)
        await asyncio.sleep(1.0)
        return few.requests.count() - few.requests.count(LISTS)

    assert asking(few.url, ask) == 0


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        (
            "it has failed since 2026-05-04 12:00:00 UTC: HTTP 503. Asked again after 2026-05-04 12:00:30 UTC.",
            "HTTP 503.",
        ),
        ("it changed: a.json had 3 bytes, and now 4. It is read again from the start.", "and now 4."),
        ("HTTP 500 'Internal error'.", "'Internal error'."),
    ],
)
def test_a_rejection_promises_nothing_that_nobody_keeps(said: str, kept: str) -> None:
    """It stands in the status of a model that is planned, where nobody asks again."""
    assert without_promise(Unavailable(Reason.HUB_UNAVAILABLE, said)).endswith(kept)


# --- What a new search knows ------------------------------------------------------------------------------------------


def test_asking_afresh_for_one_base_costs_the_others_nothing(few: FakeHub) -> None:
    clock = Clock()

    async def ask(hub: Hub, base: ModelFacts) -> tuple[int, int]:
        other = replace(base, notes=("told by a pod",))
        await hub.find(base)
        await hub.find(other)
        clock.now += 3601
        await _forget(few)
        await hub.find(base, fresh=True)
        await _forget_after(few, counted := [])
        await hub.find(other)
        await _forget_after(few, counted)
        return counted[0], counted[1]

    fresh, other = asking(few.url, ask, clock=clock)
    assert fresh > other == 3  # the base and two lists: the verdicts of the other stand


async def _forget_after(served: FakeHub, counted: list[int]) -> None:
    await asyncio.sleep(0.05)
    counted.append(served.requests.count())
    served.requests.clear()


def test_a_fresh_search_that_a_rate_limit_ended_asks_for_names_again_and_for_files_no_more(few: FakeHub) -> None:
    clock = Clock()

    async def ask(hub: Hub, base: ModelFacts) -> Found:
        refused = rate_limited(f"/{Sibling.FP8_DYNAMIC}/resolve/.*safetensors")
        few.faults.add(replace(refused, delay_seconds=1.0))
        with pytest.raises(Throttled):
            await hub.find(base, fresh=True)
        clock.now += 400
        few.add(relatives()[Sibling.W4A16])
        await _forget(few)
        return await hub.find(base, fresh=True)

    assert taken(asking(few.url, ask, clock=clock)) == [Sibling.OWN_AWQ, Sibling.W4A16, Sibling.FP8_DYNAMIC]
    assert few.requests.count(LISTS, role="hub") == 2
    assert few.requests.count(f"/({BASE}|{Sibling.OWN_AWQ}|{Sibling.FP8_DYNAMIC})/resolve/.*/config.json") == 0


# --- Who asks ---------------------------------------------------------------------------------------------------------


def test_what_is_remembered_is_told_to_whom_it_was_told_alone() -> None:
    tokens: list[str | None] = ["hf_operator"]

    async def ask(hub: Hub) -> None:
        base = await hub.describe(BASE)
        assert taken(await hub.find(base)) == [Sibling.OWN_AWQ]
        tokens[0] = None
        for revision in ("main", base.commit):
            with pytest.raises(Exception, match="is not at"):
                await hub.describe(BASE, revision)
        assert "cannot see" in (await hub.find(base)).notes[0]
        tokens[0] = "hf_operator"
        assert taken(await hub.find(base)) == [Sibling.OWN_AWQ]

    with_private_base(ask, tokens)


def test_what_was_asked_with_the_old_token_is_not_remembered_for_the_new() -> None:
    tokens: list[str | None] = ["hf_operator"]

    async def ask(hub: Hub) -> None:
        base = await hub.describe(BASE)
        tokens[0] = "hf_second"
        describing = asyncio.ensure_future(hub.describe(BASE))
        searching = asyncio.ensure_future(hub.find(base))
        await asyncio.sleep(0.1)
        assert not describing.done() and not searching.done()
        tokens[0] = None
        assert "cannot see" in (await hub.find(base)).notes[0]
        assert (await describing).commit == base.commit
        assert taken(await searching) == [Sibling.OWN_AWQ]
        for revision in ("main", base.commit):
            with pytest.raises(Exception, match="is not at"):
                await hub.describe(BASE, revision)
        assert "cannot see" in (await hub.find(base)).notes[0]

    with_private_base(ask, tokens, delay_seconds=0.3)


def with_private_base(
    ask: Callable[[Hub], Awaitable[None]], tokens: list[str | None], delay_seconds: float = 0
) -> None:
    """The base is private and each token opens it; `tokens` has the one that counts."""
    base = next(one for one in family() if one.id == BASE)
    base.private = True
    grants = dict.fromkeys(("hf_operator", "hf_second"), (BASE,))
    with FakeHub([base, relatives()[Sibling.OWN_AWQ]], tokens=grants) as hub:
        if delay_seconds:
            hub.faults.add(Fault("^/api/", times=10**6, delay_seconds=delay_seconds))
        with_hub(hub.url, ask, token=lambda: tokens[0])


def test_a_search_that_fails_after_everybody_has_gone_is_told(few: FakeHub) -> None:
    """Another repository's answer in between keeps the breaker shut: only what is remembered of the failure tells it."""

    async def ask(hub: Hub, base: ModelFacts) -> list[str]:
        few.faults.add(Fault(LISTS, times=1000, delay_seconds=0.5, status=503))
        told = []
        for _ in range(4):
            with pytest.raises(Waiting) as caught:
                await hub.find(base, patience_seconds=0.2)
            told.append(str(caught.value.reason))
            await asyncio.sleep(2.0)
            await hub.describe(BASE, fresh=True)
        return told

    reasons = asking(few.url, ask)
    assert reasons[0] == Reason.DISCOVERING
    assert Reason.HUB_UNAVAILABLE in reasons


def test_what_was_read_before_does_not_prove_that_files_are_there(few: FakeHub) -> None:
    async def ask(hub: Hub, base: ModelFacts) -> None:
        await hub.find(base)
        few.faults.add(Fault("/resolve/", times=1000, status=503))
        with pytest.raises(Unavailable):
            await hub.find(base, fresh=True, patience_seconds=None)

    asking(few.url, ask)

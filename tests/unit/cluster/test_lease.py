"""The Lease: whoever leads leads alone, and a standby takes over when it must and not before."""

from __future__ import annotations

import asyncio
import random
import selectors
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubequant.cluster import lease as lease_module
from kubequant.cluster.api import ApiError
from kubequant.cluster.kinds import LEASE
from kubequant.cluster.lease import LeaseElection, LeaseTimes
from tests.unit.fakes import FakeClock, FakeKubeApi

TIMES = LeaseTimes()
DOWN = ApiError(0, "Unreachable", "connection refused")


class _JumpingSelector(selectors.DefaultSelector):  # type: ignore[misc, valid-type]
    """Does not wait: it counts what it would have waited."""

    waited = 0.0

    def select(self, timeout: float | None = None) -> Any:
        self.waited += timeout or 0.0
        return super().select(0 if timeout is not None else None)


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer when nothing else is to be done."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.waited


def in_virtual_time(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(main())


def election(api: FakeKubeApi, identity: str, clock: Callable[[], float] | None = None) -> LeaseElection:
    return LeaseElection(api, "ns", "lock", identity, clock or asyncio.get_running_loop().time, TIMES)


def holder(api: FakeKubeApi) -> str:
    return str(api.all(LEASE)[0]["spec"]["holderIdentity"])


def test_the_first_creates_the_lease_and_leads() -> None:
    async def main() -> None:
        api = FakeKubeApi()
        first = election(api, "a")
        await first.acquire()
        spec = api.all(LEASE)[0]["spec"]
        assert first.leads
        assert (spec["holderIdentity"], spec["leaseDurationSeconds"], spec["leaseTransitions"]) == ("a", 15, 1)
        assert spec["renewTime"].endswith("Z") and spec["acquireTime"] == spec["renewTime"]

    in_virtual_time(main)


def test_a_renewal_keeps_the_time_of_acquisition(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        api = FakeKubeApi()
        leader = election(api, "a")
        await leader.acquire()
        before = api.all(LEASE)[0]
        holding = asyncio.create_task(leader.hold())
        await asyncio.sleep(20)
        holding.cancel()
        after = api.all(LEASE)[0]
        assert leader.leads
        assert after["metadata"]["resourceVersion"] != before["metadata"]["resourceVersion"]
        assert after["spec"]["acquireTime"] == before["spec"]["acquireTime"]
        assert after["spec"]["leaseTransitions"] == 1

    in_virtual_time(main)


def test_a_standby_waits_for_the_whole_duration_without_a_renewal() -> None:
    async def main() -> None:
        api, loop = FakeKubeApi(), asyncio.get_running_loop()
        await election(api, "dead").acquire()
        await asyncio.sleep(1000)  # however old the Lease is: only what the standby has seen itself counts
        began = loop.time()
        await election(api, "b").acquire()
        assert TIMES.duration <= loop.time() - began <= TIMES.duration + TIMES.retry_period
        assert holder(api) == "b"
        assert api.all(LEASE)[0]["spec"]["leaseTransitions"] == 2

    in_virtual_time(main)


def test_a_released_lease_is_taken_at_the_next_look() -> None:
    async def main() -> None:
        api, loop = FakeKubeApi(), asyncio.get_running_loop()
        first, second = election(api, "a"), election(api, "b")
        await first.acquire()
        waiting = asyncio.create_task(second.acquire())
        await asyncio.sleep(1)
        await first.release()
        began = loop.time()
        await waiting
        assert not first.leads and holder(api) == "b"
        assert loop.time() - began <= TIMES.retry_period

    in_virtual_time(main)


def test_a_lease_of_another_is_not_released() -> None:
    async def main() -> None:
        api = FakeKubeApi()
        first, second = election(api, "a"), election(api, "b")
        await first.acquire()
        await second.release()
        assert holder(api) == "a"

    in_virtual_time(main)


def test_a_lease_without_a_spec_is_taken() -> None:
    async def main() -> None:
        api = FakeKubeApi()
        api.put(LEASE, {"metadata": {"namespace": "ns", "name": "lock"}})
        first = election(api, "a")
        await first.release()
        await first.acquire()
        assert holder(api) == "a"

    in_virtual_time(main)


def test_the_lease_is_lost_when_the_server_is_away_for_the_renew_deadline() -> None:
    async def main() -> None:
        api, loop = FakeKubeApi(), asyncio.get_running_loop()
        leader = election(api, "a")
        await leader.acquire()
        api.fail = lambda *_: DOWN
        began = loop.time()
        await leader.hold()
        assert not leader.leads
        assert TIMES.renew_deadline - TIMES.retry_period <= loop.time() - began <= TIMES.renew_deadline

    in_virtual_time(main)


def test_a_server_that_hangs_ends_the_lead_before_a_rival_may_begin() -> None:
    """The last attempt begins just before the deadline: it must not be waited for longer than the deadline."""

    class Hanging(FakeKubeApi):
        hangs = False

        async def get(self, *arguments: Any) -> Any:
            if self.hangs:
                await asyncio.sleep(3600)
            return await super().get(*arguments)

    async def main() -> None:
        api, loop = Hanging(), asyncio.get_running_loop()
        leader = election(api, "a")
        await leader.acquire()
        api.hangs, began = True, loop.time()
        await leader.hold()
        assert loop.time() - began <= TIMES.renew_deadline + 0.01 < TIMES.duration

    in_virtual_time(main)


def test_an_answer_that_comes_late_does_not_prolong_the_lead() -> None:
    """The server may have written at the moment of asking: that is when a rival's count may begin."""

    class Slow(FakeKubeApi):
        async def replace(self, *arguments: Any) -> Any:
            answer = await super().replace(*arguments)
            await asyncio.sleep(7)
            self.fail = lambda *_: DOWN
            return answer

    async def main() -> None:
        api, loop = Slow(), asyncio.get_running_loop()
        leader = election(api, "a")
        await leader.acquire()
        began = loop.time()
        await leader.hold()  # asks after 2 s, is answered after 9 s
        assert loop.time() - began <= TIMES.retry_period + TIMES.renew_deadline + 0.01

    in_virtual_time(main)


def test_a_candidate_survives_an_outage_while_it_waits() -> None:
    async def main() -> None:
        api = FakeKubeApi()
        api.fail = lambda *_: DOWN
        first = election(api, "a")
        waiting = asyncio.create_task(first.acquire())
        await asyncio.sleep(60)
        assert not waiting.done()
        api.fail = lambda *_: None
        await waiting
        assert first.leads

    in_virtual_time(main)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_two_candidates_never_lead_at_once(seed: int) -> None:
    """Random outages and delays of each candidate's own requests, 20 simulated minutes."""

    class Erratic(FakeKubeApi):
        """One candidate's way to the server that all share."""

        def __init__(self, shared: FakeKubeApi, dice: random.Random) -> None:
            super().__init__()
            self.objects, self._versions, self._dice = shared.objects, shared._versions, dice
            self._mood = 0.0

        async def _way(self) -> None:
            if self._dice.random() < 0.05:
                self._mood = self._dice.choice([0.0, 0.0, 0.5, 1.0])
            await asyncio.sleep(self._dice.choice([0, 0.1, 4, 9, 30]) if self._dice.random() < self._mood else 0.01)
            if self._dice.random() < self._mood:
                raise DOWN

        async def get(self, *arguments: Any) -> Any:
            await self._way()
            return await super().get(*arguments)

        async def replace(self, *arguments: Any) -> Any:
            await self._way()
            answer = await super().replace(*arguments)
            await self._way()  # carried out, and the answer may be late or lost
            return answer

    async def candidate(api: FakeKubeApi, name: str, leads: set[str], reigns: list[str]) -> None:
        while True:
            mine = election(api, name)
            await mine.acquire()
            leads.add(name)
            reigns.append(name)
            assert len(leads) == 1, f"{leads} lead at once"
            await mine.hold()
            leads.discard(name)

    async def main() -> None:
        shared, dice = FakeKubeApi(), random.Random(seed)
        leads: set[str] = set()
        reigns: list[str] = []
        tasks = [asyncio.create_task(candidate(Erratic(shared, dice), name, leads, reigns)) for name in "ab"]
        done, _ = await asyncio.wait(tasks, timeout=1200)
        for task in done:
            task.result()
        for task in tasks:
            task.cancel()
        assert reigns

    in_virtual_time(main)


def test_the_clock_of_the_lease_is_the_one_passed_in() -> None:
    async def main() -> None:
        api, clock = FakeKubeApi(), FakeClock()
        await election(api, "dead").acquire()
        standby = election(api, "b", clock)
        assert not await standby._attempt()
        clock.now += TIMES.duration - 0.1
        assert not await standby._attempt()
        clock.now += 0.1
        assert await standby._attempt()

    in_virtual_time(main)
    assert lease_module.LeaseTimes().renew_deadline < lease_module.LeaseTimes().duration

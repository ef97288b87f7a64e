"""Who asks the same shares one description, and what is remembered for how long."""

from __future__ import annotations

import asyncio

import pytest

from kubequant.errors import Refused, Unavailable
from kubequant.hub.client import Hub
from kubequant.hub.memory import ExpiringCache
from kubequant.planning.values import ModelFacts
from tests.fakehub import FakeHub, Fault
from tests.unit.hub.asking import changed, describe, model, with_hub


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_two_hundred_callers_make_one_description(empty: FakeHub) -> None:
    empty.add(model())
    describe(empty.url, "some/model")
    alone = empty.requests.count()
    empty.requests.clear()

    async def crowd(hub: Hub) -> list[ModelFacts]:
        return await asyncio.gather(*(hub.describe("some/model") for _ in range(200)))

    answers = with_hub(empty.url, crowd)
    assert empty.requests.count() == alone
    assert len(answers) == 200
    assert len({id(facts) for facts in answers}) == 1


def test_a_shared_failure_reaches_everyone_and_is_not_remembered(empty: FakeHub) -> None:
    empty.add(model())
    empty.faults.add(Fault("/api/models/", times=2, status=503, delay_seconds=0.05))

    async def crowd(hub: Hub) -> list[ModelFacts | BaseException]:
        failed = await asyncio.gather(*(hub.describe("some/model") for _ in range(20)), return_exceptions=True)
        return [*failed, await hub.describe("some/model")]

    *failed, recovered = with_hub(empty.url, crowd)
    assert {type(error) for error in failed} == {Unavailable}
    assert isinstance(recovered, ModelFacts)
    assert empty.requests.count("/api/models/") == 3


def test_a_caller_that_gives_up_leaves_the_others_theirs(empty: FakeHub) -> None:
    empty.add(model())
    empty.faults.add(Fault("/api/models/", delay_seconds=0.2))

    async def crowd(hub: Hub) -> ModelFacts:
        impatient = asyncio.ensure_future(hub.describe("some/model"))
        patient = asyncio.ensure_future(hub.describe("some/model"))
        await asyncio.sleep(0.05)
        impatient.cancel()
        return await patient

    assert with_hub(empty.url, crowd).repository == "some/model"
    assert empty.requests.count("/api/models/") == 1


def test_a_branch_stands_for_its_commit_for_a_minute(empty: FakeHub) -> None:
    clock = Clock()
    repository = model()
    empty.add(repository)

    async def over_time(hub: Hub) -> list[str]:
        seen = [(await hub.describe("some/model")).commit]
        changed(repository, chat_template__jinja=b"x")
        for seconds in (59, 2):
            clock.now += seconds
            seen.append((await hub.describe("some/model")).commit)
        return seen

    first, within, after = with_hub(empty.url, over_time, clock=clock)
    assert first == within != after
    assert after == repository.branches["main"]


def test_facts_of_a_commit_are_kept_for_ever_and_asked_for_without_a_request(empty: FakeHub) -> None:
    clock = Clock()
    repository = model()
    empty.add(repository)

    async def over_time(hub: Hub) -> int:
        facts = await hub.describe("some/model")
        empty.requests.clear()
        clock.now += 10**6
        assert await hub.describe("some/model", facts.commit) is facts
        at_commit = empty.requests.count()
        assert await hub.describe("some/model") is facts
        return at_commit

    assert with_hub(empty.url, over_time, clock=clock) == 0
    assert empty.requests.count() == 1  # the branch was resolved again, nothing else was read


def test_a_refusal_is_remembered_for_a_minute_and_each_caller_gets_a_fresh_one(empty: FakeHub) -> None:
    clock = Clock()

    async def over_time(hub: Hub) -> list[BaseException]:
        seen: list[BaseException] = []
        for seconds in (0, 59, 2):
            clock.now += seconds
            with pytest.raises(Refused) as caught:
                await hub.describe("some/model")
            seen.append(caught.value)
        empty.add(model())
        clock.now += 61
        assert (await hub.describe("some/model")).repository == "some/model"
        return seen

    first, within, after = with_hub(empty.url, over_time, clock=clock)
    assert first is not within
    assert str(within) == str(after) == str(first)
    assert empty.requests.count("^/api/models/") == 3


def test_only_so_many_descriptions_run_at_once(empty: FakeHub) -> None:
    for number in range(6):
        empty.add(model(f"some/model{number}"))
    empty.faults.add(Fault("/api/models/", times=6, delay_seconds=0.1))

    async def crowd(hub: Hub) -> float:
        loop = asyncio.get_running_loop()
        started = loop.time()
        await asyncio.gather(*(hub.describe(f"some/model{number}") for number in range(6)))
        return loop.time() - started

    assert with_hub(empty.url, crowd, concurrency=2) >= 0.3


def test_the_cache_drops_what_was_used_least_recently() -> None:
    cache: ExpiringCache[str, int] = ExpiringCache(2, Clock())
    cache.put("a", 1)
    cache.put("b", 2)
    assert cache.get("a") == 1
    cache.put("c", 3)
    assert (cache.get("a"), cache.get("b"), cache.get("c"), len(cache)) == (1, None, 3, 2)

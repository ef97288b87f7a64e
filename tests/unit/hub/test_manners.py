"""Manners under load: the limits that a hub states hold for the whole process, and one that is down is left in peace."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import re
from collections import Counter
from datetime import UTC, datetime, timedelta
from random import Random

import pytest

from kubequant.api.conditions import Reason
from kubequant.errors import Throttled, Unavailable, Waiting
from kubequant.hub.breaker import FAILURES_IN_A_ROW, MAX_PAUSE_SECONDS, Breaker, OpenError
from kubequant.hub.client import Hub
from kubequant.hub.limits import PATIENCE_SECONDS, RETURNS_PER_SECOND, RateLimits, Returns, ThrottledError, full_jitter
from kubequant.hub.session import Clocks
from kubequant.planning.values import ModelFacts
from tests.fakehub import FakeHub, Fault, rate_limited
from tests.unit.hub.asking import model, with_hub
from tests.unit.hub.test_sharing import Clock

INFO = "^/api/models/"
NOON = datetime(2026, 5, 4, 12, 0, 0, tzinfo=UTC)


def said(remaining: int, seconds: int, limit: int | None = None, window: int = 300) -> dict[str, str]:
    policy = {} if limit is None else {"ratelimit-policy": f'"fixed window";"api";q={limit};w={window}'}
    return {"ratelimit": f'"api";r={remaining};t={seconds}', **policy}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limits(clock: Clock) -> RateLimits:
    return RateLimits(clock, Random(1))


def answer(limits: RateLimits, headers: dict[str, str], kind: str = "api") -> None:
    assert limits.take(kind) == 0
    limits.answered(kind, headers, refused=False)


def test_a_429_silences_the_hub_for_every_kind_of_request_until_its_window_ends(
    limits: RateLimits, clock: Clock
) -> None:
    limits.take("files")
    limits.take("api")
    with pytest.raises(ThrottledError) as caught:
        limits.answered("api", said(0, 55), refused=True)
    assert caught.value.retry_after_seconds == 55
    limits.answered("files", {}, refused=False)  # one that was under way does not end the silence
    for seconds, kind in ((0, "files"), (50, "api"), (4, "files")):
        clock.now += seconds
        with pytest.raises(ThrottledError):
            limits.take(kind)
    assert limits.take("elsewhere") == 0  # what the hub redirected before
    clock.now += 1
    assert limits.take("files") == 0


def test_a_429_of_where_the_files_are_silences_everything(limits: RateLimits) -> None:
    limits.take("elsewhere")
    with pytest.raises(ThrottledError):
        limits.answered("elsewhere", {"retry-after": "7"}, refused=True)
    for kind in ("api", "files", "elsewhere"):
        with pytest.raises(ThrottledError):
            limits.take(kind)


def test_429s_without_a_time_are_answered_with_longer_and_longer_silences(limits: RateLimits, clock: Clock) -> None:
    silences = []
    for _ in range(12):
        limits.take("api")
        with pytest.raises(ThrottledError) as caught:
            limits.answered("api", {}, refused=True)
        silences.append(caught.value.retry_after_seconds)
        clock.now += caught.value.retry_after_seconds
    assert all(1 <= silence <= 300 for silence in silences)
    assert max(silences[-4:]) > 60 > max(silences[:4])
    answer(limits, {})
    limits.take("api")
    with pytest.raises(ThrottledError) as caught:
        limits.answered("api", {}, refused=True)
    assert caught.value.retry_after_seconds <= 2


def test_requests_that_are_under_way_are_taken_off_what_is_left(limits: RateLimits) -> None:
    answer(limits, said(3, 100, limit=10_000))
    for _ in range(3):
        limits._windows["api"].next_turn = 0.0  # the spreading of the last ones is looked at below
        assert limits.take("api") == 0
    with pytest.raises(ThrottledError) as caught:
        limits.take("api")
    assert caught.value.retry_after_seconds >= 100
    limits.answered("api", said(2, 100, limit=10_000), refused=False)
    with pytest.raises(ThrottledError):
        limits.take("api")  # two left, two under way
    assert limits.take("files") == 0  # counted apart


def test_an_older_answer_that_comes_late_gives_nothing_back(limits: RateLimits) -> None:
    for _ in range(3):
        limits.take("api")
    limits.answered("api", said(0, 60), refused=False)
    limits.answered("api", said(40, 60), refused=False)
    limits.answered("api", said(41, 61), refused=False)
    with pytest.raises(ThrottledError):
        limits.take("api")


def test_an_unanswered_request_may_have_been_counted(limits: RateLimits) -> None:
    answer(limits, said(1, 60))
    limits.take("api")
    limits.lost("api")
    with pytest.raises(ThrottledError):
        limits.take("api")


def test_the_next_window_has_what_the_policy_gives_it(limits: RateLimits, clock: Clock) -> None:
    answer(limits, said(0, 10, limit=2, window=60))
    clock.now += 11
    assert limits.take("api") == 0
    clock.now += 40  # the second is its last and had to wait
    assert limits.take("api") <= PATIENCE_SECONDS
    with pytest.raises(ThrottledError):
        limits.take("api")


def test_the_last_requests_of_a_window_are_spread_over_the_rest_of_it(limits: RateLimits, clock: Clock) -> None:
    answer(limits, said(10, 29, limit=100))
    times, started = [], clock.now
    while len(times) < 9 and clock.now < started + 60:
        try:
            wait = limits.take("api")
        except ThrottledError as throttled:
            clock.now += throttled.retry_after_seconds
            continue
        clock.now += wait
        times.append(clock.now - started)
        limits.answered("api", said(9 - len(times) + 1, max(0, math.floor(29 - times[-1])), limit=100), refused=False)
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert len(times) == 9 and times[-1] <= 31
    assert min(gaps) > 1.5


@pytest.mark.parametrize(
    "value", ['"api";r=' + "9" * 5000 + ";t=1", '"api";r=1;t=' + "9" * 4000, "x" * 100_000, '"api"']
)
def test_a_header_of_nonsense_changes_nothing_for_long(limits: RateLimits, clock: Clock, value: str) -> None:
    answer(limits, {"ratelimit": value})
    clock.now += 3700
    assert limits.take("api") == 0


def test_full_jitter_is_bounded_and_grows() -> None:
    random = Random(3)
    for attempt in (1, 2, 5, 50, 5000):
        drawn = [full_jitter(random, attempt, 2.0, 60.0) for _ in range(200)]
        top = min(60.0, 2.0 * 2 ** min(attempt - 1, 10))
        assert 0 <= min(drawn) < 0.2 * top and 0.8 * top < max(drawn) <= top


def test_five_hundred_who_were_told_to_wait_come_back_over_a_while(clock: Clock) -> None:
    returns = Returns(clock, Random(5))
    back = sorted(returns.after(55.0) for _ in range(500))
    assert back[0] >= 55 and back[-1] <= 55 + 500 / RETURNS_PER_SECOND + 1
    seconds = Counter(math.floor(second) for second in back)
    assert max(seconds.values()) <= 1.6 * RETURNS_PER_SECOND
    clock.now += 100
    assert 1 <= returns.after(1.0) <= 2  # those are back by now
    assert max(returns.after(1.0) for _ in range(10_000)) <= 62


class World:
    """A breaker, its clock and its time of day."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.breaker = Breaker("it", self.clock, lambda: NOON + timedelta(seconds=self.clock.now - 1000), Random(7))

    def fail(self, times: int = 1) -> None:
        for _ in range(times):
            probe = self.breaker.enter()
            with contextlib.suppress(OpenError):
                self.breaker.failed(probe, "ConnectError: refused")

    def refusal(self) -> OpenError:
        with pytest.raises(OpenError) as caught:
            self.breaker.enter()
        return caught.value


def test_the_breaker_opens_after_failures_in_a_row_only() -> None:
    world = World()
    world.fail(FAILURES_IN_A_ROW - 1)
    world.breaker.succeeded()
    world.fail(FAILURES_IN_A_ROW - 1)
    assert world.breaker.enter() is False
    world.fail()
    world.refusal()


def test_one_repository_s_files_alone_open_no_breaker() -> None:
    world = World()
    for number in range(50):
        world.breaker.failed(world.breaker.enter(), "HTTP 500", f"some/model{number % (FAILURES_IN_A_ROW - 1)}")
    assert world.breaker.enter() is False
    world.fail()
    world.refusal()


def test_what_an_open_breaker_says_stays_the_same_until_a_probe_has_failed() -> None:
    world = World()
    world.fail(2)
    world.clock.now += 30
    world.fail(FAILURES_IN_A_ROW - 2)
    first = world.refusal()
    assert re.fullmatch(
        r"it has failed since 2026-05-04 12:00:00 UTC: ConnectError: refused\. Asked again after 2026-05-04 12:00:3\d UTC\.",
        str(first),
    )
    world.clock.now += 2
    assert str(world.refusal()) == str(first)
    assert world.refusal().retry_after_seconds == pytest.approx(first.retry_after_seconds - 2)
    world.clock.now += 5
    assert world.breaker.enter() is True
    assert str(world.refusal()) == str(first)  # one probe at a time
    with pytest.raises(OpenError) as caught:
        world.breaker.failed(True, "HTTP 503")
    assert "HTTP 503" in str(caught.value) and "since 2026-05-04 12:00:00 UTC" in str(caught.value)
    assert str(world.refusal()) == str(caught.value) != str(first)


def test_late_failures_of_others_do_not_lengthen_the_pause() -> None:
    world = World()
    entered = [world.breaker.enter() for _ in range(40)]
    told = set()
    for probe in entered:
        try:
            world.breaker.failed(probe, "ReadTimeout")
        except OpenError as error:
            told.add(str(error))
    assert len(told) == 1


def test_pauses_grow_up_to_a_bound_and_success_ends_the_outage() -> None:
    world, pauses = World(), []
    world.fail(FAILURES_IN_A_ROW)
    for _ in range(8):
        pause = world.refusal().retry_after_seconds
        pauses.append(pause)
        world.clock.now += pause
        world.fail()
    assert pauses[0] <= 5 and all(pause <= MAX_PAUSE_SECONDS for pause in pauses)
    assert min(pauses[-3:]) >= MAX_PAUSE_SECONDS / 2
    assert len(set(pauses)) == len(pauses)
    world.clock.now += MAX_PAUSE_SECONDS
    assert world.breaker.enter() is True
    world.breaker.succeeded()
    assert [world.breaker.enter() for _ in range(3)] == [False] * 3


def test_a_hub_that_is_down_is_asked_once_in_a_while_and_said_to_be(empty: FakeHub) -> None:
    clock = Clock()
    for number in range(30):
        empty.add(model(f"some/model{number}"))
    clocks = Clocks(monotonic=clock, now=lambda: NOON + timedelta(seconds=clock.now - 1000), random=Random(2))

    async def down(hub: Hub) -> tuple[list[str], int, list[str]]:
        empty.faults.add(Fault("", times=10**6, status=503))
        for _ in range(FAILURES_IN_A_ROW):
            with pytest.raises(Unavailable):
                await hub.describe("some/model0")
        before = empty.requests.count()
        messages = []
        for number in range(30):
            with pytest.raises(Unavailable) as caught:
                await hub.describe(f"some/model{number}")
            assert caught.value.reason is Reason.HUB_UNAVAILABLE and caught.value.retry_after_seconds is not None
            messages.append(caught.value.message)
            clock.now += 0.05
        asked = empty.requests.count() - before
        empty.faults.clear()
        clock.now += 10
        return messages, asked, [(await hub.describe(f"some/model{number}")).repository for number in range(30)]

    messages, asked, found = with_hub(empty.url, down, clock=clock, clocks=clocks)
    assert asked == 0
    assert len(set(messages)) == 1
    assert (
        f"The hub at {empty.url} cannot be used: it has failed since 2026-05-04 12:00:00 UTC: HTTP 503" in messages[0]
    )
    assert len(found) == 30


def test_where_the_files_are_has_a_breaker_of_its_own(empty: FakeHub) -> None:
    empty.add(model())
    empty.faults.add(Fault("^/repos/", times=10**6, status=502))

    async def ask(hub: Hub) -> str:
        for _ in range(3):
            with pytest.raises(Unavailable) as caught:
                await hub.describe("some/model")
        assert await hub.moved("some/model", "main", "0" * 40)
        return caught.value.message

    said = with_hub(empty.url, ask)
    assert "127.0.0.1, where its files are, has failed since 20" in said and "HTTP 502" in said
    assert empty.requests.count(role="cdn") < 40


def test_waiters_of_one_description_are_told_different_times(empty: FakeHub) -> None:
    empty.add(model())
    empty.faults.add(rate_limited(INFO))

    async def crowd(hub: Hub) -> list[ModelFacts | BaseException]:
        return await asyncio.gather(*(hub.describe("some/model") for _ in range(100)), return_exceptions=True)

    told = with_hub(empty.url, crowd)
    assert {type(one) for one in told} == {Throttled}
    assert len({one.message for one in told if isinstance(one, Throttled)}) == 1
    assert len({one.retry_after_seconds for one in told if isinstance(one, Throttled)}) == 100
    assert empty.requests.count() == 1


def test_what_was_read_before_a_429_is_not_read_again(empty: FakeHub) -> None:
    clock = Clock()
    empty.add(model())
    empty.faults.add(rate_limited(r"model-00003-of"))

    async def ask(hub: Hub) -> ModelFacts:
        with pytest.raises(Throttled) as caught:
            await hub.describe("some/model")
        await asyncio.sleep(0.3)  # what was under way ends, as it would while time passes
        clock.now += caught.value.retry_after_seconds or 0
        return await hub.describe("some/model")

    with_hub(empty.url, ask, clock=clock)
    asked = Counter(request.path for request in empty.requests.select(role="hub"))
    information = asked.pop("/api/models/some/model/revision/main")
    assert information <= 2  # a branch stands for its commit for a minute
    assert asked.pop(next(path for path in asked if "00003-of" in path)) == 2
    assert set(asked.values()) == {1}


BUDGET, WINDOW_SECONDS = 40, 3


def test_many_models_under_a_throttling_and_dying_hub_all_resolve(empty: FakeHub) -> None:
    """40 models of 4 repositories, 30 % of requests refused, a hub that is gone for a while, a budget that holds."""
    for number in range(4):
        empty.add(model(f"some/model{number}", shard_bytes=40_000))
    empty.limits.set("api", BUDGET, WINDOW_SECONDS)
    empty.limits.set("resolvers", BUDGET, WINDOW_SECONDS)
    empty.faults.add(rate_limited(share=0.3, seed=4, retry_after="1"))

    async def one(hub: Hub, number: int) -> ModelFacts:
        while True:
            try:
                return await hub.describe(f"some/model{number % 4}")
            except Waiting as waiting:
                await asyncio.sleep(waiting.retry_after_seconds or 1)

    async def all_of_them(hub: Hub) -> list[ModelFacts]:
        asking = asyncio.gather(*(one(hub, number) for number in range(40)))
        await asyncio.sleep(0.5)
        await asyncio.to_thread(empty.dead)
        await asyncio.sleep(1.5)
        await asyncio.to_thread(empty.alive)
        return await asyncio.wait_for(asking, 90)

    found = with_hub(empty.url, all_of_them)
    assert len(found) == 40 and len({id(facts) for facts in found}) == 4
    read = Counter(
        (request.path, request.range) for request in empty.requests.select(role="cdn") if request.status == 206
    )
    assert set(read.values()) == {1}  # no shard was read twice
    assert empty.limits.overstepped == []

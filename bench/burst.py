"""500 models of 40 repositories asked at once of one Hub client, while the hub refuses 30 % of requests and is dead for a minute.

`python -m bench.burst [--dead 60]`. No cluster: bench/trouble.py does the same with the whole operator. Who is told to
wait comes back when it was told to, as the operator's queue does.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections import Counter
from collections.abc import Sequence

from bench.figures import Figure
from kubequant.errors import Waiting
from kubequant.hub.client import Hub
from kubequant.planning.values import ModelFacts
from tests.fakehub import FakeHub, rate_limited
from tests.fakehub.family import sibling
from tests.fakehub.limits import Resource

MODELS, REPOSITORIES = 500, 40
SHARE_REFUSED = 0.3
RESET_SECONDS = 2  # what each 429 asks for
DEAD_SECONDS = 60.0
DEAD_AFTER_SECONDS = 10.0
API_LIMIT, RESOLVER_LIMIT, WINDOW_SECONDS = 60, 120, 10.0  # far below what the Hub allows, so that they are met
SECONDS_TO_RESOLVE = 900.0


def figures(dead_seconds: float = DEAD_SECONDS) -> list[Figure]:
    """For `make bench`. Raises TimeoutError where a model is not resolved in time."""
    with FakeHub([sibling(f"example/burst-{number}", "awq") for number in range(REPOSITORIES)]) as hub:
        overstepped = _overstepping(hub)
        hub.limits.set("api", API_LIMIT, WINDOW_SECONDS)
        hub.limits.set("resolvers", RESOLVER_LIMIT, WINDOW_SECONDS)
        hub.faults.add(rate_limited(share=SHARE_REFUSED, reset_seconds=RESET_SECONDS))
        started = time.monotonic()
        found = asyncio.run(_burst(hub, dead_seconds))
        seconds = time.monotonic() - started
        read = Counter(
            (request.path, request.range) for request in hub.requests.select(role="cdn") if request.status == 206
        )
        requests = hub.requests.count()
    case = f"{MODELS} models of {REPOSITORIES} repositories"
    return [
        Figure("burst-unresolved", case, MODELS - len(found)),
        Figure("burst-described-again", case, len({id(facts) for facts in found}) - REPOSITORIES),
        Figure("burst-files-read-again", case, sum(count - 1 for count in read.values())),
        Figure("burst-requests-over-budget", case, len(overstepped)),
        Figure("burst-requests-a-repository", case, requests / REPOSITORIES),
        Figure("burst-seconds", f"{case}, {dead_seconds:g} s of them dead", seconds, "s"),
    ]


async def _burst(hub: FakeHub, dead_seconds: float) -> list[ModelFacts]:
    client = Hub(endpoint=hub.url)
    try:
        asking = asyncio.gather(*(_model(client, number) for number in range(MODELS)))
        await asyncio.sleep(DEAD_AFTER_SECONDS)
        await asyncio.to_thread(hub.dead)
        await asyncio.sleep(dead_seconds)
        await asyncio.to_thread(hub.alive)
        return await asyncio.wait_for(asking, SECONDS_TO_RESOLVE)
    finally:
        await client.close()


async def _model(client: Hub, number: int) -> ModelFacts:
    """In the end. Models of one description share its facts, the very object."""
    while True:
        try:
            return await client.describe(f"example/burst-{number % REPOSITORIES}")
        except Waiting as waiting:
            await asyncio.sleep(waiting.retry_after_seconds or 0.0)


def _overstepping(hub: FakeHub) -> list[Resource]:
    """Fills with the requests that are over the budget that the hub's headers told."""
    seen: list[Resource] = []
    take = hub.limits.take

    def counting(resource: Resource) -> tuple[bool, dict[str, str]]:
        allowed, headers = take(resource)
        if not allowed:
            seen.append(resource)
        return allowed, headers

    hub.limits.take = counting  # type: ignore[method-assign]
    return seen


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.burst", description=__doc__)
    parser.add_argument("--dead", type=float, default=DEAD_SECONDS, metavar="SECONDS", help=f"({DEAD_SECONDS:g})")
    for figure in figures(parser.parse_args(arguments).dead):
        print(f"{figure.name:28} {figure.value:10.4g} {figure.unit:6} {figure.case}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

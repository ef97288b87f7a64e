"""What describing costs: a 70B model of 30 shards, from the fake Hub with 50 ms of latency a request.

`python -m bench.describe [--runs 5]`. The bare script sends the same requests, all files side by side, and reads nothing of
what they bring: the least that any client would need. Both use connections of their own, new ones in each run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Sequence

import httpx2

from bench.figures import Figure
from kubequant.hub.client import Hub
from tests.fakehub import FakeHub, Fault, Repository
from tests.fakehub.content import BytesContent
from tests.fakehub.faults import ALWAYS
from tests.fakehub.request_log import LoggedRequest
from tests.fakehub.standard import model
from tests.fakehub.tensors import model_tensors

REPOSITORY = "bench/Llama-3.1-70B"
LATENCY_SECONDS = 0.05
RUNS = 5
_MEGABYTE = 1e6


def figures(runs: int = RUNS) -> list[Figure]:
    """For `make bench`: requests and bytes of one description, and its time over the bare script's, the median of some runs."""
    with FakeHub([_repository()]) as hub:
        hub.faults.add(Fault(times=ALWAYS, delay_seconds=LATENCY_SECONDS))
        _described(hub.url)  # imports and the first TLS context belong to no run
        ratios, seconds = [], []
        for _ in range(runs):
            hub.requests.clear()
            ours = _described(hub.url)
            asked = hub.requests.select()
            bare = asyncio.run(_bare(hub.url, _of_the_hub(asked)))
            ratios.append(ours / bare)
            seconds.append(ours)
        read = asyncio.run(_bytes(hub.url, _of_the_hub(asked)))
    shards = sum(".safetensors" in request.path and ".json" not in request.path for request in _of_the_hub(asked))
    case = f"70B, {shards} shards"
    return [
        Figure("describe-requests", case, len(asked)),
        Figure("describe-megabytes", case, read / _MEGABYTE, "MB"),
        Figure(
            "describe-ratio", f"{case}, {1000 * LATENCY_SECONDS:g} ms a request", statistics.median(ratios), "times"
        ),
        Figure("describe-ratio-spread", f"{case}, {runs} runs", max(ratios) - min(ratios), "times"),
        Figure("describe-seconds", case, statistics.median(seconds), "s"),
    ]


def _repository() -> Repository:
    """With the small files that such a repository has."""
    made = model(REPOSITORY, "llama-3.1-70b", model_tensors("llama-3.1-70b"), {})
    small = {
        "generation_config.json": {"do_sample": True, "temperature": 0.6},
        "tokenizer_config.json": {"chat_template": "{{ messages }}", "model_max_length": 131_072},
    }
    documents = {name: BytesContent(json.dumps(document).encode()) for name, document in small.items()}
    made.commit({**made.commits[made.branches["main"]].files, **documents})
    return made


def _described(url: str) -> float:
    """Seconds for one description by a new client."""

    async def describe() -> float:
        hub = Hub(endpoint=url)
        started = time.perf_counter()
        try:
            await hub.describe(REPOSITORY)
            return time.perf_counter() - started
        finally:
            await hub.close()

    return asyncio.run(describe())


def _of_the_hub(asked: Sequence[LoggedRequest]) -> list[LoggedRequest]:
    """Those that redirects did not make."""
    return [request for request in asked if request.role == "hub"]


async def _bare(url: str, asked: Sequence[LoggedRequest]) -> float:
    """Seconds for the same requests: the information first, because it names the commit, then all others at once."""
    first, *rest = asked
    limits = httpx2.Limits(max_connections=len(asked))
    async with httpx2.AsyncClient(follow_redirects=True, limits=limits, timeout=30.0) as client:
        started = time.perf_counter()
        await _get(client, url, first)
        await asyncio.gather(*(_get(client, url, request) for request in rest))
        return time.perf_counter() - started


async def _bytes(url: str, asked: Sequence[LoggedRequest]) -> int:
    """Of the bodies that these requests bring."""
    async with httpx2.AsyncClient(follow_redirects=True, timeout=30.0) as client:
        return sum([await _get(client, url, request) for request in asked])


async def _get(client: httpx2.AsyncClient, url: str, request: LoggedRequest) -> int:
    headers = {"accept-encoding": "identity"} | ({"range": request.range} if request.range else {})
    query = f"?{request.query}" if request.query else ""
    response = await client.get(f"{url}{request.path}{query}", headers=headers)
    response.raise_for_status()
    return len(response.content)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.describe", description=__doc__)
    parser.add_argument("--runs", type=int, default=RUNS, metavar="N", help=f"of both ({RUNS})")
    for figure in figures(parser.parse_args(arguments).runs):
        print(f"{figure.name:28} {figure.value:10.4g} {figure.unit:6} {figure.case}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

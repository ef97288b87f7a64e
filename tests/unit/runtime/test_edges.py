"""Logs, probes, metrics, what an engine says of itself, and the watches' restarts."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from typing import Any

import aiohttp
import kopf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubequant.reconcile.measuring import Measuring
from kubequant.runtime import watching
from kubequant.runtime.engine_metrics import kv_cache_tokens
from kubequant.runtime.http import ProbeServer
from kubequant.runtime.logs import configure, current_object
from kubequant.runtime.metrics import Metrics
from kubequant.runtime.watching import FAILURES_TO_GIVE_UP, WatchingFailedError, watch
from tests.unit.cluster.test_lease import in_virtual_time


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield logging.getLogger("test")
    root.handlers[:], root.level = handlers, level


def _log(capsys: pytest.CaptureFixture[str], style: str, logger: logging.Logger) -> list[str]:
    configure(style, "INFO")
    token = current_object.set("ns/m")
    logger.info("%s", "inside")
    try:
        raise ValueError("broken")
    except ValueError:
        logger.exception("failed")
    current_object.reset(token)
    logger.info("outside")
    logging.getLogger("kopf").info("chatter")
    return capsys.readouterr().err.splitlines()


def test_json_lines_carry_the_object(capsys: pytest.CaptureFixture[str], logger: logging.Logger) -> None:
    inside, failed, outside = [json.loads(line) for line in _log(capsys, "json", logger)]
    assert (inside["message"], inside["object"], inside["level"]) == ("inside", "ns/m", "info")
    assert "ValueError: broken" in failed["exception"]
    assert "object" not in outside


def test_text_lines_carry_the_object(capsys: pytest.CaptureFixture[str], logger: logging.Logger) -> None:
    lines = _log(capsys, "text", logger)
    assert lines[0].endswith("INFO    [ns/m] inside")
    assert any("ValueError: broken" in line for line in lines)
    assert lines[-1].endswith("INFO    outside")


def test_probes_and_metrics() -> None:
    trouble: list[str] = []
    started: list[bool] = []
    metrics = Metrics()

    async def main() -> None:
        server = ProbeServer(
            metrics,
            trouble=lambda: trouble[0] if trouble else None,
            refresh=lambda: metrics.queue_depth.set(7),
            started=lambda: bool(started),
        )
        await server.start("127.0.0.1", 0)
        async with aiohttp.ClientSession(f"http://127.0.0.1:{server.port}") as session:

            async def get(path: str) -> tuple[int, str]:
                async with session.get(path) as response:
                    return response.status, await response.text()

            assert await get("/healthz") == (200, "ok")
            assert await get("/readyz") == (503, "starting")
            started.append(True)
            assert await get("/readyz") == (200, "ok")
            trouble.append("stuck")
            assert await get("/healthz") == (503, "stuck") == await get("/readyz")
            status, page = await get("/metrics")
            assert status == 200 and "kubequant_queue_depth 7.0" in page
            with pytest.raises(OSError):
                await ProbeServer(metrics, trouble=lambda: None, refresh=lambda: None, started=bool).start(
                    "127.0.0.1", server.port
                )
        await server.stop()

    asyncio.run(main())


VLLM_METRICS = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="a/b"} 0.0
# HELP vllm:cache_config_info Information of the LLMEngine CacheConfig
# TYPE vllm:cache_config_info gauge
vllm:cache_config_info{block_size="16",cache_dtype="auto",engine="0",kv_cache_size_tokens="113328",num_gpu_blocks="7083"} 1.0
"""


def test_the_kv_cache_of_a_running_vllm() -> None:
    assert kv_cache_tokens(VLLM_METRICS) == 113_328


@pytest.mark.parametrize("value", ["None", "", "-1", "1e5", "x"])
def test_an_engine_that_does_not_know(value: str) -> None:
    assert kv_cache_tokens(VLLM_METRICS.replace("113328", value)) is None
    assert kv_cache_tokens("") is None


@given(st.text(alphabet='vllm:cache_config_info{kv_cache_size_tokens="1²"} \n#\\,=', max_size=80))
def test_no_page_ends_more_than_its_own_question(text: str) -> None:
    try:
        found = kv_cache_tokens("vllm:cache_config_info" + text)
    except ValueError:
        return
    assert found is None or found >= 0


def test_an_engine_is_asked_until_it_answers_and_at_its_newest_address() -> None:
    async def main() -> None:
        asked: list[str] = []
        woken: list[tuple[str, str]] = []

        async def read(address: str) -> int | None:
            asked.append(address)
            return 5 if len(asked) == 3 else None

        measuring = Measuring(read, woken.append)
        measuring.ask(("ns", "m"), "r", "old")
        await asyncio.sleep(1)
        measuring.ask(("ns", "m"), "r", "new")
        await asyncio.sleep(100)
        assert asked == ["old", "new", "new"]
        assert measuring.answer("r") == 5 and woken == [("ns", "m")]
        measuring.ask(("ns", "m"), "r", "new")
        measuring.forget(("ns", "m"))
        assert measuring.answer("r") is None
        await measuring.close()

    in_virtual_time(main)


def test_an_engine_that_never_answers_is_given_up_for_a_while() -> None:
    async def main() -> None:
        async def read(_: str) -> int | None:
            return None

        measuring = Measuring(read, lambda _: None)
        measuring.ask(("ns", "m"), "r", "a")
        await asyncio.sleep(5000)
        assert measuring._questions == {}

    in_virtual_time(main)


class Watching:
    """`watch` over a kopf that does as `script` says, once a start."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *script: Exception | float | None) -> None:
        self.starts: list[float] = []
        self.began = self.ended = 0
        self._script = list(script)
        monkeypatch.setattr(kopf, "operator", self._operator)
        monkeypatch.setattr(watching.time, "monotonic", lambda: asyncio.get_running_loop().time())

    async def _operator(self, *, ready_flag: Any, **_: Any) -> None:
        self.starts.append(asyncio.get_running_loop().time())
        ready_flag.set_result(None)
        step = self._script.pop(0)
        if isinstance(step, Exception):
            raise step
        if step is not None:
            await asyncio.sleep(step)
            raise RuntimeError("after a while")

    async def run(self) -> None:
        def count(name: str) -> None:
            setattr(self, name, getattr(self, name) + 1)

        await watch(
            lambda *_: None,
            kubeconfig=None,
            stop=asyncio.Event(),
            started=lambda: count("began"),
            ended=lambda: count("ended"),
        )


def test_watches_that_fail_are_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    watches = Watching(monkeypatch, RuntimeError("500"), RuntimeError("500"), None)
    in_virtual_time(watches.run)
    assert len(watches.starts) == watches.began == watches.ended == 3
    first, second, third = watches.starts
    assert 0 < second - first <= 1 and 0 < third - second <= 2


def test_watches_that_keep_failing_end_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    watches = Watching(monkeypatch, *[RuntimeError("500")] * FAILURES_TO_GIVE_UP)
    with pytest.raises(WatchingFailedError, match=f"failed {FAILURES_TO_GIVE_UP} times in a row, last: 500"):
        in_virtual_time(watches.run)


def test_a_long_run_forgives_the_failures_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    script = [*[RuntimeError("500")] * (FAILURES_TO_GIVE_UP - 1), 100.0] * 3
    watches = Watching(monkeypatch, *script[:-1], None)
    with pytest.raises(WatchingFailedError):
        in_virtual_time(watches.run)
    assert len(watches.starts) > FAILURES_TO_GIVE_UP

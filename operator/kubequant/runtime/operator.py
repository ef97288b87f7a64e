"""The process: the core in its thread, then the election, then the watches in the main thread."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from kubequant.runtime.core import Core
from kubequant.runtime.settings import Settings
from kubequant.runtime.watching import watch

log = logging.getLogger(__name__)

T = TypeVar("T")

STOP_SECONDS = 10


class LeaseLostError(Exception):
    """Another process may lead now; this one must end at once."""


def run(settings: Settings, kubeconfig: str | None) -> None:
    """Runs the operator until it is told to end. Raises LeaseLostError, WatchingFailedError, or what `start` raises."""
    with _LoopThread() as loop:
        core = loop.call(_made(settings, kubeconfig)).result()
        loop.call(core.start()).result(timeout=60)
        try:
            asyncio.run(_main(loop, core, kubeconfig))
        finally:
            with contextlib.suppress(TimeoutError):
                loop.call(core.stop()).result(timeout=STOP_SECONDS)


async def _made(settings: Settings, kubeconfig: str | None) -> Core:
    return Core(settings, kubeconfig)


async def _main(loop: _LoopThread, core: Core, kubeconfig: str | None) -> None:
    stop, lost = asyncio.Event(), threading.Event()
    if not await _lead_or_told_to_end(loop, core):
        return
    here = asyncio.get_running_loop()

    def on_lost(future: Future[None]) -> None:
        if future.cancelled():
            return
        core.abandon()
        lost.set()
        here.call_soon_threadsafe(stop.set)

    holding = loop.call(core.lease.hold()) if core.lease.leads else None
    if holding:
        holding.add_done_callback(on_lost)
    try:
        await watch(
            lambda kind, change, body: loop.soon(core.observe, kind, change, body),
            kubeconfig=kubeconfig,
            stop=stop,
            started=lambda: loop.run(core.filled()),
            ended=lambda: loop.soon(core.queue.pause),
        )
    finally:
        if holding:
            holding.cancel()
    if lost.is_set():
        raise LeaseLostError("the Lease was lost: another process may lead now")
    log.info("told to end")


async def _lead_or_told_to_end(loop: _LoopThread, core: Core) -> bool:
    """Waits as a standby. False when the process is told to end before it leads."""
    here, told = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        here.add_signal_handler(number, told.set)
    leading = asyncio.wrap_future(loop.call(core.lead()))
    waiting = asyncio.create_task(told.wait())
    either: list[asyncio.Future[Any]] = [leading, waiting]
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    if not leading.done():
        leading.cancel()
        return False
    waiting.cancel()
    leading.result()  # raises what went wrong
    return True


class _LoopThread:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="core", daemon=True)
        self._calls: deque[tuple[Callable[..., object], tuple[object, ...]]] = deque()
        self._woken = False

    def __enter__(self) -> _LoopThread:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=STOP_SECONDS)

    def call(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Like `call`, for what nobody waits for: a failure is logged."""

        def report(future: Future[None]) -> None:
            if not future.cancelled() and future.exception():
                log.error("failed in the background", exc_info=future.exception())

        self.call(coroutine).add_done_callback(report)

    def soon(self, function: Callable[..., object], *arguments: object) -> None:
        """Calls in order, without waiting. A burst of them wakes the loop once: each waking is a system call."""
        self._calls.append((function, arguments))
        if not self._woken and not self._loop.is_closed():
            self._woken = True
            self._loop.call_soon_threadsafe(self._hand_over)

    def _hand_over(self) -> None:
        self._woken = False  # first: a call that comes from now on wakes the loop anew
        while self._calls:
            function, arguments = self._calls.popleft()
            self._loop.call_soon(function, *arguments)

"""The hub as a server: a context manager that answers on two ports from a thread of its own."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

from aiohttp import web

from tests.fakehub import api, downloads, middlewares
from tests.fakehub.catalogue import Catalogue
from tests.fakehub.faults import Faults
from tests.fakehub.limits import Limits
from tests.fakehub.listener import Listener
from tests.fakehub.repository import Repository
from tests.fakehub.request_log import RequestLog, Role

_PATIENCE_SECONDS = 10.0
_SHUTDOWN_SECONDS = 0.1  # for requests that a fault delays; their clients have gone
_ANY_ADDRESS = {"0.0.0.0", "::"}  # to compare with; binding to it is the caller's wish

T = TypeVar("T")


class FakeHub:
    """A Hugging Face Hub of given repositories, for clients that are told `HF_ENDPOINT=hub.url`.

    `tokens` says which repositories a token opens (`catalogue.EVERYTHING` for all), `renamed` which old ids lead
    where. As a `mirror` it knows no search, no scans, and nothing that LFS says of a file; `prefix`, such as "/hf", is
    the path that it is served under. Repositories, faults, limits and the log may be used from the test's thread while
    the hub serves.
    """

    def __init__(
        self,
        repositories: Iterable[Repository] = (),
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        tokens: Mapping[str, Collection[str]] | None = None,
        renamed: Mapping[str, str] | None = None,
        prefix: str = "",
        mirror: bool = False,
    ) -> None:
        self.catalogue = Catalogue(repositories, tokens or {}, renamed or {})
        self.faults = Faults()
        self.limits = Limits()
        self.requests = RequestLog()
        self._host = host
        self._port = port
        self._prefix = prefix
        self._mirror = mirror
        self._cdn_port: list[int] = []
        self._listeners: list[Listener] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fakehub", daemon=True)

    @property
    def port(self) -> int:
        return self._port

    @property
    def url(self) -> str:
        """Where a client on this machine finds the hub."""
        return self.url_for("127.0.0.1" if self._host in _ANY_ADDRESS else self._host)

    def url_for(self, address: str) -> str:
        """Where a client finds the hub that reaches this machine by `address`; needs a host of 0.0.0.0."""
        return f"http://{address}:{self._port}{self._prefix}"

    def add(self, repository: Repository) -> None:
        """One more repository, or another in the place of the one with its id."""
        self.catalogue.repositories[repository.id] = repository

    def dead(self) -> None:
        """From now on connections are refused, those that there are are reset: the hub and its CDN are down."""
        self._run(self._each(Listener.shut))

    def alive(self) -> None:
        """Back at the same ports."""
        self._run(self._each(Listener.open))

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self._run(self._start())
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    async def _start(self) -> None:
        self._cdn_port.append(await self._listen("cdn", 0, downloads.cdn_routes))
        beyond_models = [] if self._mirror else [api.beyond_models]
        self._port = await self._listen("hub", self._port, api.routes, *beyond_models, downloads.hub_routes)

    async def _listen(self, role: Role, port: int, *routes: web.RouteTableDef) -> int:
        """The port that it listens on now."""
        runner = web.AppRunner(self._application(role, routes), access_log=None, shutdown_timeout=_SHUTDOWN_SECONDS)
        await runner.setup()
        listener = Listener(runner, self._host, port)
        self._listeners.append(listener)
        await listener.open()
        return listener.port

    def _application(self, role: Role, routes: Iterable[web.RouteTableDef]) -> web.Application:
        of_the_hub = [middlewares.limiting(self.limits)] if role == "hub" else []
        application = web.Application(
            middlewares=[
                middlewares.logging_to(self.requests, role),
                *of_the_hub,
                middlewares.suffering(self.faults),
                middlewares.redirecting(self.catalogue.renamed),
                middlewares.answering_errors,
                middlewares.tagging,
            ]
        )
        application.on_response_prepare.append(middlewares.tell_what_is_left)
        application.on_response_prepare.append(middlewares.logging_answers_to(self.requests, role))
        application[api.CATALOGUE] = self.catalogue
        application[api.MIRROR] = self._mirror
        application[downloads.CDN_PORT] = self._cdn_port
        prefix = self._prefix if role == "hub" else ""
        for route in itertools.chain(*routes):
            if isinstance(route, web.RouteDef):
                web.RouteDef(route.method, prefix + route.path, route.handler, route.kwargs).register(
                    application.router
                )
        return application

    def _end(self) -> None:
        self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_PATIENCE_SECONDS)
        self._loop.close()

    async def _stop(self) -> None:
        await self._each(Listener.end)

    async def _each(self, act: Callable[[Listener], Coroutine[Any, Any, None]]) -> None:
        for listener in self._listeners:
            await act(listener)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_PATIENCE_SECONDS)

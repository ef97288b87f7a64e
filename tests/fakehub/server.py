"""The hub as a server: a context manager that answers on two ports from a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Collection, Coroutine, Iterable, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

from aiohttp import web

from tests.fakehub import api, downloads, middlewares
from tests.fakehub.catalogue import Catalogue
from tests.fakehub.faults import Faults
from tests.fakehub.repository import Repository
from tests.fakehub.request_log import RequestLog, Role

_PATIENCE_SECONDS = 10.0
_SHUTDOWN_SECONDS = 0.1  # for requests that a fault delays; their clients have gone
_ANY_ADDRESS = {"0.0.0.0", "::"}  # to compare with; binding to it is the caller's wish

T = TypeVar("T")


class FakeHub:
    """A Hugging Face Hub of given repositories, for clients that are told `HF_ENDPOINT=hub.url`.

    `tokens` says which repositories a token opens (`catalogue.EVERYTHING` for all), `renamed` which old ids lead
    where. Repositories, faults and the log may be used from the test's thread while the hub serves.
    """

    def __init__(
        self,
        repositories: Iterable[Repository] = (),
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        tokens: Mapping[str, Collection[str]] | None = None,
        renamed: Mapping[str, str] | None = None,
    ) -> None:
        self.catalogue = Catalogue(repositories, tokens or {}, renamed or {})
        self.faults = Faults()
        self.requests = RequestLog()
        self._host = host
        self._port = port
        self._cdn_port: list[int] = []
        self._runners: list[web.AppRunner] = []
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
        return f"http://{address}:{self._port}"

    def add(self, repository: Repository) -> None:
        """One more repository, or another in the place of the one with its id."""
        self.catalogue.repositories[repository.id] = repository

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
        self._port = await self._listen("hub", self._port, api.routes, downloads.hub_routes)

    async def _listen(self, role: Role, port: int, *routes: web.RouteTableDef) -> int:
        """The port that it listens on now."""
        runner = web.AppRunner(self._application(role, routes), access_log=None, shutdown_timeout=_SHUTDOWN_SECONDS)
        self._runners.append(runner)
        await runner.setup()
        await web.TCPSite(runner, self._host, port).start()
        listening: int = runner.addresses[0][1]
        return listening

    def _application(self, role: Role, routes: Iterable[web.RouteTableDef]) -> web.Application:
        application = web.Application(
            middlewares=[
                middlewares.logging_to(self.requests, role),
                middlewares.suffering(self.faults),
                middlewares.redirecting(self.catalogue.renamed),
                middlewares.answering_errors,
            ]
        )
        application[api.CATALOGUE] = self.catalogue
        application[downloads.CDN_PORT] = self._cdn_port
        for table in routes:
            application.add_routes(table)
        return application

    def _end(self) -> None:
        self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_PATIENCE_SECONDS)
        self._loop.close()

    async def _stop(self) -> None:
        for runner in self._runners:
            await runner.cleanup()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_PATIENCE_SECONDS)

"""Probes and metrics: up before the election, so that a standby is live and ready too."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from kubequant.runtime.metrics import Metrics


class ProbeServer:
    """`trouble` says what is wrong, or nothing; `refresh` brings gauges up to date before they are read."""

    def __init__(
        self,
        metrics: Metrics,
        *,
        trouble: Callable[[], str | None],
        refresh: Callable[[], None],
        started: Callable[[], bool],
    ) -> None:
        self._metrics = metrics
        self._trouble = trouble
        self._refresh = refresh
        self._started = started
        self._runner: web.AppRunner | None = None
        self.port = 0

    async def start(self, host: str, port: int) -> None:
        """Raises OSError when the port is taken."""
        app = web.Application()
        app.add_routes(
            [
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._metrics_page),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner:
            await self._runner.cleanup()

    async def _healthz(self, _request: web.Request) -> web.Response:
        trouble = self._trouble()
        return web.Response(text=trouble or "ok", status=503 if trouble else 200)

    async def _readyz(self, _request: web.Request) -> web.Response:
        if not self._started():
            return web.Response(text="starting", status=503)
        return await self._healthz(_request)

    async def _metrics_page(self, _request: web.Request) -> web.Response:
        self._refresh()
        return web.Response(body=generate_latest(self._metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

"""A proxy before the API server that cuts watches, and says into them what an API server in trouble says."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import threading
from collections.abc import Coroutine, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import aiohttp
import yaml
from aiohttp import web

T = TypeVar("T")

PATIENCE_SECONDS = 10
_NOT_FORWARDED = frozenset({"host", "content-length", "transfer-encoding", "connection", "content-encoding"})


class ApiProxy:
    """`with ApiProxy(kubeconfig, folder) as proxy:` a client with `proxy.kubeconfig` speaks through it, as the same user."""

    def __init__(self, kubeconfig: Path, folder: Path) -> None:
        self._document = yaml.safe_load(kubeconfig.read_text())
        cluster = self._document["clusters"][0]["cluster"]
        self._server: str = cluster["server"]
        self._tls = ssl.create_default_context(cafile=cluster["certificate-authority"])
        self.kubeconfig = folder / "through-the-proxy.kubeconfig"
        self._watches: dict[web.StreamResponse, asyncio.Task[Any]] = {}
        self._refuse_with: int | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="api-proxy", daemon=True)

    @property
    def open_watches(self) -> int:
        return len(self._watches)

    def say_into_watches(self, code: int, reason: str, message: str) -> int:
        """Ends every open watch with an ERROR event, as the server does; returns how many there were."""
        status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code}
        event = {"type": "ERROR", "object": {**status, "reason": reason, "message": message}}
        return self._run(self._end_watches(json.dumps(event).encode() + b"\n"))

    @contextlib.contextmanager
    def without_watches(self, status: int = 503) -> Iterator[None]:
        """Cuts every watch in the middle, and answers new ones with `status`, for the time of a `with` block."""
        self._refuse_with = status
        self._run(self._end_watches(b""))
        try:
            yield
        finally:
            self._refuse_with = None

    def __enter__(self) -> ApiProxy:
        self._thread.start()
        port = self._run(self._start())
        cluster = {"server": f"http://127.0.0.1:{port}"}
        clusters = [{**self._document["clusters"][0], "cluster": cluster}]
        self.kubeconfig.write_text(yaml.safe_dump({**self._document, "clusters": clusters}))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE_SECONDS)

    async def _start(self) -> int:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._tls, limit=0),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=PATIENCE_SECONDS),
            auto_decompress=False,
            trust_env=False,
        )
        application = web.Application(client_max_size=64 * 2**20)
        application.router.add_route("*", "/{path:.*}", self._forward)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        port: int = self._runner.addresses[0][1]
        return port

    async def _stop(self) -> None:
        await self._end_watches(b"")
        await self._session.close()
        await self._runner.cleanup()

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        is_watch = request.query.get("watch") in ("true", "1", "True")
        if is_watch and self._refuse_with is not None:
            return web.json_response({"kind": "Status", "code": self._refuse_with}, status=self._refuse_with)
        headers = {key: value for key, value in request.headers.items() if key.lower() not in _NOT_FORWARDED}
        url, body = self._server + request.path_qs, await request.read() or None
        try:
            async with self._session.request(request.method, url, headers=headers, data=body) as answer:
                return await self._pass_on(request, answer, is_watch)
        except aiohttp.ClientError as error:
            return web.Response(status=502, text=str(error))

    async def _pass_on(
        self, request: web.Request, answer: aiohttp.ClientResponse, is_watch: bool
    ) -> web.StreamResponse:
        headers = {k: v for k, v in answer.headers.items() if k.lower() not in _NOT_FORWARDED - {"content-encoding"}}
        response = web.StreamResponse(status=answer.status, headers=headers)
        await response.prepare(request)
        task = asyncio.current_task()
        if is_watch and task:
            self._watches[response] = task
        try:
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
        except (ConnectionError, aiohttp.ClientError):
            pass  # cut by one side or the other
        finally:
            self._watches.pop(response, None)
        return response

    async def _end_watches(self, last_words: bytes) -> int:
        watches = dict(self._watches)
        for response, task in watches.items():
            if last_words:
                with contextlib.suppress(ConnectionError, RuntimeError):
                    await response.write(last_words)
                    await response.write_eof()
            task.cancel()  # closes the connection in the middle
        await asyncio.gather(*watches.values(), return_exceptions=True)
        return len(watches)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE_SECONDS)

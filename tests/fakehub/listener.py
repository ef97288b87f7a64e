"""A port that can be shut and opened again, and that nobody else can take in between."""

from __future__ import annotations

import asyncio
import socket
import struct

from aiohttp import web

_ACCEPTING_SECONDS = 0.02  # a connection that was accepted just now is not among the server's yet
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Listener:
    """The connections of one application on one port; port 0 takes any free one."""

    def __init__(self, runner: web.AppRunner, host: str, port: int) -> None:
        self._runner = runner
        self._socket = _bound(host, port)
        self._host = host
        self.port: int = self._socket.getsockname()[1]
        self._site: web.SockSite | None = None

    async def open(self) -> None:
        if self._site is None:
            self._site = web.SockSite(self._runner, self._socket)
            await self._site.start()

    async def shut(self) -> None:
        """Who is connected is reset, who connects is refused: a socket that is bound but does not listen."""
        if self._site is None:
            return
        await self._site.stop()
        self._site = None
        await asyncio.sleep(_ACCEPTING_SECONDS)
        for connection in self._runner.server.connections if self._runner.server else []:
            if connection.transport is not None:
                _reset(connection.transport)
        self._socket = _bound(self._host, self.port)

    async def end(self) -> None:
        await self._runner.cleanup()
        self._socket.close()


def _reset(transport: asyncio.Transport) -> None:
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    transport.abort()


def _bound(host: str, port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((host, port))
    except OSError:
        made.close()
        raise
    return made

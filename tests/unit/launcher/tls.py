"""TLS in front of a server that speaks none."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import ssl
import threading
from collections.abc import Iterator

from tests.localcluster.pki import KeyPair


@contextlib.contextmanager
def tls_in_front_of(port: int, pair: KeyPair) -> Iterator[int]:
    """Relays what comes in on the port given here to the one named, both on this machine."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pair.certificate, pair.key)
    ports: queue.Queue[tuple[int, asyncio.AbstractEventLoop, asyncio.Event]] = queue.Queue()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inward, outward = await asyncio.open_connection("127.0.0.1", port)
        try:
            both = [asyncio.create_task(_pump(reader, outward)), asyncio.create_task(_pump(inward, writer))]
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            outward.close()
            writer.close()

    async def main() -> None:
        server = await asyncio.start_server(relay, "localhost", 0, ssl=context)
        stop = asyncio.Event()
        ports.put((server.sockets[0].getsockname()[1], asyncio.get_running_loop(), stop))
        await stop.wait()
        server.close()

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    listening, loop, stop = ports.get(timeout=10)
    try:
        yield listening
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()

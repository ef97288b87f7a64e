"""How a body is sent: by range, and as far and as fast as the request's fault lets it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from http import HTTPStatus

from aiohttp import hdrs, web

from tests.fakehub.content import Content
from tests.fakehub.faults import Fault

FAULT = web.RequestKey("fault", Fault)

_CHUNK_BYTES = 1 << 20
_ENDLESS_CHUNK_BYTES = 1 << 16
_SLOW_STEPS_PER_SECOND = 10


def is_known(request: web.Request, etag: str) -> bool:
    """Whether the client has this version already; weak and strong ETags are compared alike."""
    known = request.headers.get(hdrs.IF_NONE_MATCH, "")
    return known == "*" or etag.removeprefix("W/") in [one.strip().removeprefix("W/") for one in known.split(",")]


async def send(
    request: web.Request,
    content: Content,
    headers: dict[str, str],
    *,
    status: int = HTTPStatus.OK,
    content_type: str = "application/octet-stream",
) -> web.StreamResponse:
    """The content or the range of it that was asked for. 416 for a range outside it."""
    fault = request.get(FAULT, Fault())
    partial = hdrs.RANGE in request.headers and not fault.ignore_range
    try:
        start, end = _range(request, content.size) if partial else (0, content.size)
    except ValueError:
        raise _range_not_satisfiable(content.size) from None
    if fault.truncate_to_bytes is not None:
        end = min(end, start + fault.truncate_to_bytes)
    if partial:
        status = HTTPStatus.PARTIAL_CONTENT
        headers = {**headers, hdrs.CONTENT_RANGE: f"bytes {start}-{end - 1}/{content.size}"}
    response = web.StreamResponse(status=status, headers={**headers, **fault.headers})
    response.content_type = content_type
    if not fault.endless:
        response.content_length = end - start
    if fault.gzip:
        response.enable_compression(web.ContentCoding.gzip)
    await response.prepare(request)
    if request.method != hdrs.METH_HEAD:
        await _write(request, response, _pieces(content, start, end, fault), fault)
    return response


def _pieces(content: Content, start: int, end: int, fault: Fault) -> Iterator[bytes]:
    stop = end if fault.cut_after_bytes is None else min(end, start + fault.cut_after_bytes)
    speed = fault.bytes_per_second
    step = _CHUNK_BYTES if speed is None else max(1, speed // _SLOW_STEPS_PER_SECOND)
    for position in range(start, stop, step):
        yield content.read(position, min(step, stop - position))
    filler = fault.endless * (step // len(fault.endless) + 1) if fault.endless else b""
    while filler:
        yield filler[: min(step, _ENDLESS_CHUNK_BYTES)]


async def _write(request: web.Request, response: web.StreamResponse, pieces: Iterator[bytes], fault: Fault) -> None:
    for piece in pieces:
        await response.write(piece)
        if fault.bytes_per_second is not None:
            await asyncio.sleep(1 / _SLOW_STEPS_PER_SECOND)
    if fault.cut_after_bytes is not None and request.transport is not None:
        # close() and not abort(): what was written before must arrive.
        request.transport.close()


def _range(request: web.Request, size: int) -> tuple[int, int]:
    """First byte and the one after the last. Raises `ValueError` for a range outside the file or none at all."""
    start, end, _ = request.http_range.indices(size)
    if start >= end:
        raise ValueError(request.headers[hdrs.RANGE])
    return start, end


def _range_not_satisfiable(size: int) -> web.HTTPRequestRangeNotSatisfiable:
    return web.HTTPRequestRangeNotSatisfiable(headers={hdrs.CONTENT_RANGE: f"bytes */{size}"})

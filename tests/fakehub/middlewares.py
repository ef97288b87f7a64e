"""What happens to every request: it is logged and counted, it may meet a fault, and answers get the Hub's headers."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from aiohttp import hdrs, web

from tests.fakehub.bodies import FAULT, is_known, send
from tests.fakehub.content import BytesContent
from tests.fakehub.errors import HubError
from tests.fakehub.faults import Fault, Faults
from tests.fakehub.limits import Limits, Resource
from tests.fakehub.request_log import LoggedRequest, RequestLog, Role

LEFT = web.RequestKey("left", dict[str, str])
"""The RateLimit headers of the answer."""

LOGGED = web.RequestKey("logged", bool)

_OF_THE_BODY = (hdrs.CONTENT_TYPE, hdrs.CONTENT_LENGTH)

Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]


def logging_to(log: RequestLog, role: Role) -> Any:
    """Requests that come to no answer; those that do are logged by `logging_answers_to`."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except web.HTTPException:
            raise
        except BaseException:
            if not request.get(LOGGED):
                request[LOGGED] = True
                log.add(_logged(request, role, status=0))
            raise

    return middleware


def logging_answers_to(log: RequestLog, role: Role) -> Any:
    """A signal, so that a request is in the log before its client sees the first byte of the answer."""

    async def signal(request: web.Request, response: web.StreamResponse) -> None:
        if not request.get(LOGGED):
            request[LOGGED] = True
            log.add(_logged(request, role, response.status))

    return signal


def suffering(faults: Faults) -> Any:
    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        fault = faults.take(request.method, request.path)
        if fault is None:
            return await handler(request)
        request[FAULT] = fault
        if fault.act is not None:
            fault.act()
        await asyncio.sleep(fault.delay_seconds)
        if fault.cut_after_bytes == 0 and request.transport is not None:
            request.transport.abort()
            raise ConnectionResetError("cut by a fault")
        if fault.status is not None:
            return web.Response(status=fault.status, headers=fault.headers, text="a fault on demand")
        return await _through(fault, request, await handler(request))

    return middleware


async def _through(fault: Fault, request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    """An answer of the API as the fault leaves it; files are sent under the fault already."""
    if not isinstance(response, web.Response) or response.prepared:
        return response
    response.headers.update(fault.headers)
    if not isinstance(response.body, bytes) or not response.body:
        return response
    headers = {name: value for name, value in response.headers.items() if name not in _OF_THE_BODY}
    return await send(
        request,
        BytesContent(response.body),
        headers,
        status=response.status,
        content_type=response.content_type,
    )


def limiting(limits: Limits) -> Any:
    """429 when the window's requests are used up; every answer says what is left."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        resource: Resource = "api" if "/api/" in request.path else "resolvers"
        allowed, headers = limits.take(resource)
        request[LEFT] = headers
        return await handler(request) if allowed else web.Response(status=429, text="Too Many Requests")

    return middleware


async def tell_what_is_left(request: web.Request, response: web.StreamResponse) -> None:
    """A signal, because files are sent while their handler runs. A fault's own headers stay."""
    for name, value in request.get(LEFT, {}).items():
        response.headers.setdefault(name, value)


def redirecting(renamed: dict[str, str]) -> Any:
    """307 to the new name, for the API and for files alike."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        old = f"{request.match_info.get('owner')}/{request.match_info.get('name')}"
        if old in renamed:
            raise web.HTTPTemporaryRedirect(request.raw_path.replace(old, renamed[old], 1))
        return await handler(request)

    return middleware


@web.middleware
async def answering_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except HubError as error:
        return web.json_response({"error": error.message}, status=error.status, headers=error.headers)


@web.middleware
async def tagging(request: web.Request, handler: Handler) -> web.StreamResponse:
    """A weak ETag on every answer of the API, and 304 for who has that answer."""
    response = await handler(request)
    if response.status != 200 or not isinstance(response, web.Response) or not isinstance(response.body, bytes):
        return response
    digest = base64.b64encode(hashlib.sha1(response.body).digest()).decode().rstrip("=")
    etag = f'W/"{len(response.body):x}-{digest}"'
    if is_known(request, etag):
        return web.Response(status=304, headers={hdrs.ETAG: etag})
    response.headers[hdrs.ETAG] = etag
    return response


def _logged(request: web.Request, role: Role, status: int) -> LoggedRequest:
    return LoggedRequest(
        role=role,
        method=request.method,
        path=request.path,
        query=request.query_string,
        host=request.host,
        range=request.headers.get(hdrs.RANGE),
        authorized=hdrs.AUTHORIZATION in request.headers,
        user_agent=request.headers.get(hdrs.USER_AGENT, ""),
        status=status,
        at=time.monotonic(),
    )

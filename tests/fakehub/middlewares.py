"""What happens to every request: it is logged, it may meet a fault, and an error gets the Hub's headers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from aiohttp import hdrs, web

from tests.fakehub.downloads import FAULT
from tests.fakehub.errors import HubError
from tests.fakehub.faults import Fault, Faults
from tests.fakehub.request_log import LoggedRequest, RequestLog, Role

Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]


def logging_to(log: RequestLog, role: Role) -> Any:
    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        status = 0
        try:
            response = await handler(request)
            status = response.status
        except web.HTTPException as error:
            status = error.status
            raise
        finally:
            log.add(_logged(request, role, status))
        return response

    return middleware


def suffering(faults: Faults) -> Any:
    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        fault = faults.take(request.method, request.path)
        if fault is None:
            return await handler(request)
        request[FAULT] = fault
        await asyncio.sleep(fault.delay_seconds)
        if fault.cut_after_bytes == 0 and request.transport is not None:
            request.transport.abort()
            raise ConnectionResetError("cut by a fault")
        return _failed(fault) if fault.status is not None else await handler(request)

    return middleware


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


def _failed(fault: Fault) -> web.Response:
    return web.Response(status=fault.status or 500, headers=fault.headers, text="a fault on demand")


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
    )

"""The files themselves: small ones from the hub, those in LFS by a redirect to the CDN, all of them by range."""

from __future__ import annotations

import asyncio
from http import HTTPStatus

from aiohttp import hdrs, web
from yarl import URL

from tests.fakehub.api import CATALOGUE, repository_id, token_of
from tests.fakehub.catalogue import commit_of
from tests.fakehub.content import Content
from tests.fakehub.errors import HubError
from tests.fakehub.faults import Fault
from tests.fakehub.repository import in_lfs

CDN_PORT = web.AppKey("cdn_port", list[int])
"""A list that holds the CDN's port once it listens."""
FAULT = web.RequestKey("fault", Fault)

_CHUNK_BYTES = 1 << 20
_SLOW_STEPS_PER_SECOND = 10

hub_routes = web.RouteTableDef()
cdn_routes = web.RouteTableDef()


@hub_routes.get("/{owner}/{name}/resolve/{revision}/{path:.+}")
async def resolve(request: web.Request) -> web.StreamResponse:
    """A file of a revision, or the way to it at the CDN.

    The CDN is another port, that is, another origin, where clients must not send their token. The clients before
    version 2 compare host names only: they take it for the hub itself and follow with the HEAD request, too.
    """
    repository = request.app[CATALOGUE].readable(repository_id(request), token_of(request))
    commit = commit_of(repository, request.match_info["revision"])
    path = request.match_info["path"]
    content = commit.files.get(path)
    if content is None:
        raise HubError.entry_not_found()
    headers = {"X-Repo-Commit": commit.sha, "Accept-Ranges": "bytes"}
    if not in_lfs(path):
        return await _send(request, content, {**headers, "ETag": f'"{content.git_oid}"'})
    linked = {"X-Linked-Size": str(content.size), "X-Linked-ETag": f'"{content.sha256}"'}
    location = URL.build(
        scheme="http",
        host=request.url.host or "",
        port=request.app[CDN_PORT][0],
        path=f"/repos/{repository.id}/{content.sha256}",
        query={"commit": commit.sha},
    )
    return web.Response(status=HTTPStatus.FOUND, headers={**headers, **linked, "Location": str(location)})


@cdn_routes.get("/repos/{owner}/{name}/{sha256}")
async def blob(request: web.Request) -> web.StreamResponse:
    """What a signed link leads to: nobody is asked for a token here."""
    repository = request.app[CATALOGUE].repositories.get(repository_id(request))
    content = repository.blob(request.match_info["sha256"]) if repository else None
    if content is None:
        raise web.HTTPForbidden
    # A CDN knows no commits; this one repeats it for the clients that followed it with HEAD.
    headers = {"X-Repo-Commit": request.query.get("commit", "")}
    return await _send(request, content, {**headers, "ETag": f'"{content.sha256}"', "Accept-Ranges": "bytes"})


async def _send(request: web.Request, content: Content, headers: dict[str, str]) -> web.StreamResponse:
    """The content or the range of it that was asked for, as far as the request's fault lets it through."""
    try:
        start, end = _requested_range(request, content.size)
    except ValueError:
        raise _range_not_satisfiable(content.size) from None
    fault = request.get(FAULT)
    if fault and fault.truncate_to_bytes is not None:
        end = min(end, start + fault.truncate_to_bytes)
    partial = hdrs.RANGE in request.headers
    if partial:
        headers |= {hdrs.CONTENT_RANGE: f"bytes {start}-{end - 1}/{content.size}"}
    response = web.StreamResponse(status=HTTPStatus.PARTIAL_CONTENT if partial else HTTPStatus.OK, headers=headers)
    response.content_type = "application/octet-stream"
    response.content_length = end - start
    await response.prepare(request)
    if request.method != hdrs.METH_HEAD:
        await _write(request, response, content, start, end)
    return response


async def _write(request: web.Request, response: web.StreamResponse, content: Content, start: int, end: int) -> None:
    fault = request.get(FAULT, Fault())
    cut, speed = fault.cut_after_bytes, fault.bytes_per_second
    stop = end if cut is None else min(end, start + cut)
    step = _CHUNK_BYTES if speed is None else max(1, speed // _SLOW_STEPS_PER_SECOND)
    for position in range(start, stop, step):
        await response.write(content.read(position, min(step, stop - position)))
        if speed is not None:
            await asyncio.sleep(1 / _SLOW_STEPS_PER_SECOND)
    if cut is not None and request.transport is not None:
        # close() and not abort(): what was written before must arrive.
        request.transport.close()


def _requested_range(request: web.Request, size: int) -> tuple[int, int]:
    """First byte and the one after the last. Raises `ValueError` for a range outside the file or none at all."""
    if hdrs.RANGE not in request.headers:
        return 0, size
    start, end, _ = request.http_range.indices(size)
    if start >= end:
        raise ValueError(request.headers[hdrs.RANGE])
    return start, end


def _range_not_satisfiable(size: int) -> web.HTTPRequestRangeNotSatisfiable:
    return web.HTTPRequestRangeNotSatisfiable(headers={hdrs.CONTENT_RANGE: f"bytes */{size}"})

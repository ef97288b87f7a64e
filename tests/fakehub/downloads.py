"""The files themselves: small ones from the hub, those in LFS by a redirect to the CDN, all of them by range."""

from __future__ import annotations

import hmac
import secrets
from http import HTTPStatus

from aiohttp import web
from yarl import URL

from tests.fakehub.api import CATALOGUE, repository_id, token_of
from tests.fakehub.bodies import is_known, send
from tests.fakehub.catalogue import commit_of
from tests.fakehub.content import Content
from tests.fakehub.errors import HubError
from tests.fakehub.repository import in_lfs

CDN_PORT = web.AppKey("cdn_port", list[int])
"""A list that holds the CDN's port once it listens."""

_SECRET = secrets.token_bytes(16)  # of this process: hub and CDN share it

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
        return await _sent(request, content, {**headers, "ETag": f'"{content.git_oid}"'})
    linked = {"X-Linked-Size": str(content.size), "X-Linked-ETag": f'"{content.sha256}"'}
    location = URL.build(
        scheme="http",
        host=request.url.host or "",
        port=request.app[CDN_PORT][0],
        path=f"/repos/{repository.id}/{content.sha256}",
        query={"commit": commit.sha, "Signature": _signature(repository.id, content.sha256)},
    )
    return web.Response(status=HTTPStatus.FOUND, headers={**headers, **linked, "Location": str(location)})


@cdn_routes.get("/repos/{owner}/{name}/{sha256}")
async def blob(request: web.Request) -> web.StreamResponse:
    """What a signed link leads to: nobody is asked for a token here, and nobody comes in without the link."""
    repository = request.app[CATALOGUE].repositories.get(repository_id(request))
    sha256 = request.match_info["sha256"]
    content = repository.blob(sha256) if repository else None
    if content is None or request.query.get("Signature") != _signature(repository_id(request), sha256):
        raise web.HTTPForbidden
    # A CDN knows no commits; this one repeats it for the clients that followed it with HEAD.
    headers = {"X-Repo-Commit": request.query.get("commit", "")}
    return await _sent(request, content, {**headers, "ETag": f'"{content.sha256}"', "Accept-Ranges": "bytes"})


def _signature(repo_id: str, sha256: str) -> str:
    return hmac.digest(_SECRET, f"{repo_id}/{sha256}".encode(), "sha256").hex()


async def _sent(request: web.Request, content: Content, headers: dict[str, str]) -> web.StreamResponse:
    if is_known(request, headers["ETag"]):
        return web.Response(status=HTTPStatus.NOT_MODIFIED, headers=headers)
    return await send(request, content, headers)

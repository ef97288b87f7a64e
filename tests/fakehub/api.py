"""The routes under /api that clients use to look at models."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from aiohttp import web

from tests.fakehub import search, views
from tests.fakehub.catalogue import Catalogue, commit_of
from tests.fakehub.errors import HubError
from tests.fakehub.repository import Commit, Repository

CATALOGUE = web.AppKey("catalogue", Catalogue)
MIRROR = web.AppKey("mirror", bool)
"""Whether this is a mirror: models, trees and files, but no search, no scans, and nothing that LFS knows."""

# The Hub's own limits, fewer with expand.
_MODELS_PAGE = 1000
_TREE_PAGE = 1000
_EXPANDED_TREE_PAGE = 50

_TRUE = ("true", "1")

T = TypeVar("T")

routes = web.RouteTableDef()
beyond_models = web.RouteTableDef()
"""What a mirror lacks."""


def repository_id(request: web.Request) -> str:
    return f"{request.match_info['owner']}/{request.match_info['name']}"


def token_of(request: web.Request) -> str | None:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token if scheme.lower() == "bearer" else None


@beyond_models.get("/api/models")
async def list_models(request: web.Request) -> web.Response:
    """A page of the models that are asked for; a Link header leads to the next one."""
    found = search.found(request.app[CATALOGUE].listed(token_of(request)), request.query)
    shown = functools.partial(search.shown, request.query)
    return _page(request, found, _whole_number(request, "limit", _MODELS_PAGE, at_most=_MODELS_PAGE), shown)


@routes.get("/api/models/{owner}/{name}")
@routes.get("/api/models/{owner}/{name}/revision/{revision}")
async def model_info(request: web.Request) -> web.Response:
    repository = request.app[CATALOGUE].visible(repository_id(request), token_of(request))
    commit = _commit_or_none(repository, request)
    if properties := request.query.getall("expand", []):
        return web.json_response(views.expanded(repository, commit, properties))
    info = views.model_info(repository, commit, blobs=_flag(request, "blobs") and not request.app[MIRROR])
    security = _flag(request, "securityStatus") and not request.app[MIRROR]
    return web.json_response(info | (views.security(repository) if security else {}))


@beyond_models.get("/api/models/{owner}/{name}/refs")
async def list_refs(request: web.Request) -> web.Response:
    """Branches and tags."""
    return web.json_response(views.refs(request.app[CATALOGUE].visible(repository_id(request), token_of(request))))


@beyond_models.get("/api/models/{owner}/{name}/auth-check")
async def auth_check(request: web.Request) -> web.Response:
    request.app[CATALOGUE].readable(repository_id(request), token_of(request))
    return web.Response()


@routes.get("/api/models/{owner}/{name}/tree/{revision}")
@routes.get("/api/models/{owner}/{name}/tree/{revision}/{folder:.+}")
async def list_tree(request: web.Request) -> web.Response:
    """A page of the tree; a Link header leads to the next one."""
    repository, commit = _visible_commit(request)
    folder, expand = request.match_info.get("folder", ""), _flag(request, "expand") and not request.app[MIRROR]
    entries = views.tree(repository, commit, folder, recursive=_flag(request, "recursive"), expand=expand)
    if folder and not entries:
        raise HubError.entry_not_found()
    most = _EXPANDED_TREE_PAGE if expand else _TREE_PAGE
    shown = views.without_lfs if request.app[MIRROR] else dict
    return _page(request, entries, _whole_number(request, "limit", most, at_most=most), shown)


@beyond_models.post("/api/models/{owner}/{name}/paths-info/{revision}")
async def paths_info(request: web.Request) -> web.Response:
    """What is known of the paths in the form; unknown ones are left out."""
    repository, commit = _visible_commit(request)
    form = await request.post()
    paths = [str(path) for path in form.getall("paths", [])]
    expand = str(form.get("expand", "")).lower() in _TRUE
    entries = {entry["path"]: entry for entry in views.tree(repository, commit, recursive=True, expand=expand)}
    return web.json_response([entries[path] for path in paths if path in entries])


def _visible_commit(request: web.Request) -> tuple[Repository, Commit]:
    repository = request.app[CATALOGUE].visible(repository_id(request), token_of(request))
    return repository, commit_of(repository, request.match_info["revision"])


def _commit_or_none(repository: Repository, request: web.Request) -> Commit | None:
    """Without a revision: main, or None in a repository that has no commit yet."""
    if "revision" in request.match_info:
        return commit_of(repository, request.match_info["revision"])
    return repository.find("main")


def _flag(request: web.Request, name: str) -> bool:
    return request.query.get(name, "false").lower() in _TRUE


def _whole_number(request: web.Request, name: str, otherwise: int, at_most: int) -> int:
    text = request.query.get(name, str(otherwise))
    if not text.isdigit():
        raise HubError.bad_request(f'"{name}" must be a number')
    return min(int(text), at_most)


def _page(request: web.Request, entries: Sequence[T], size: int, shown: Callable[[T], Any]) -> web.Response:
    start = _whole_number(request, "cursor", 0, at_most=len(entries))
    end = start + size
    next_page = request.url.update_query(cursor=end)
    headers = {"Link": f'<{next_page}>; rel="next"'} if end < len(entries) else {}
    return web.json_response([shown(entry) for entry in entries[start:end]], headers=headers)

"""The routes under /api that clients use to look at models."""

from __future__ import annotations

from aiohttp import web

from tests.fakehub import views
from tests.fakehub.catalogue import Catalogue, commit_of
from tests.fakehub.errors import HubError
from tests.fakehub.repository import Commit, Repository

CATALOGUE = web.AppKey("catalogue", Catalogue)

# The Hub's own limits, fewer with expand.
_TREE_PAGE = 1000
_EXPANDED_TREE_PAGE = 50

routes = web.RouteTableDef()


def repository_id(request: web.Request) -> str:
    return f"{request.match_info['owner']}/{request.match_info['name']}"


def token_of(request: web.Request) -> str | None:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token if scheme.lower() == "bearer" else None


@routes.get("/api/models")
async def list_models(request: web.Request) -> web.Response:
    """Models that carry every tag of `filter`, of `author`, with `search` in their id; most downloaded first."""
    catalogue, query = request.app[CATALOGUE], request.query
    infos = [
        views.model_info(repository, repository.find("main"))
        for repository in sorted(catalogue.repositories.values(), key=lambda repository: -repository.downloads)
        if not repository.private
    ]
    wanted = {tag for given in query.getall("filter", []) for tag in given.split(",")}
    found = [
        info
        for info in infos
        if wanted <= set(info["tags"])
        and query.get("author") in (None, info["author"])
        and query.get("search", "").lower() in info["id"].lower()
    ]
    properties = query.getall("expand", [])
    shown = [views.expanded(info, properties) if properties else views.listed(info) for info in found]
    return web.json_response(shown[: int(query.get("limit", 1000))])


@routes.get("/api/models/{owner}/{name}")
@routes.get("/api/models/{owner}/{name}/revision/{revision}")
async def model_info(request: web.Request) -> web.Response:
    repository = request.app[CATALOGUE].visible(repository_id(request), token_of(request))
    blobs = _flag(request, "blobs")
    info = views.model_info(repository, _commit_or_none(repository, request), blobs=blobs)
    if properties := request.query.getall("expand", []):
        return web.json_response(views.expanded(info, properties))
    return web.json_response(views.with_security_status(info) if _flag(request, "securityStatus") else info)


@routes.get("/api/models/{owner}/{name}/refs")
async def list_refs(request: web.Request) -> web.Response:
    return web.json_response(views.refs(request.app[CATALOGUE].visible(repository_id(request), token_of(request))))


@routes.get("/api/models/{owner}/{name}/auth-check")
async def auth_check(request: web.Request) -> web.Response:
    request.app[CATALOGUE].readable(repository_id(request), token_of(request))
    return web.Response()


@routes.get("/api/models/{owner}/{name}/tree/{revision}")
@routes.get("/api/models/{owner}/{name}/tree/{revision}/{folder:.+}")
async def list_tree(request: web.Request) -> web.Response:
    """A page of the tree; a Link header leads to the next one."""
    commit = _visible_commit(request)
    folder, expand = request.match_info.get("folder", ""), _flag(request, "expand")
    entries = views.tree(commit, folder, recursive=_flag(request, "recursive"), expand=expand)
    if folder and not entries:
        raise HubError.entry_not_found()
    start = int(request.query.get("cursor", 0))
    end = start + int(request.query.get("limit", _EXPANDED_TREE_PAGE if expand else _TREE_PAGE))
    next_page = request.url.update_query(cursor=end)
    headers = {"Link": f'<{next_page}>; rel="next"'} if end < len(entries) else {}
    return web.json_response(entries[start:end], headers=headers)


@routes.post("/api/models/{owner}/{name}/paths-info/{revision}")
async def paths_info(request: web.Request) -> web.Response:
    """What is known of the paths in the form; unknown ones are left out."""
    commit = _visible_commit(request)
    form = await request.post()
    paths = [str(path) for path in form.getall("paths", [])]
    entries = {entry["path"]: entry for entry in views.tree(commit, recursive=True)}
    return web.json_response([entries[path] for path in paths if path in entries])


def _visible_commit(request: web.Request) -> Commit:
    repository = request.app[CATALOGUE].visible(repository_id(request), token_of(request))
    return commit_of(repository, request.match_info["revision"])


def _commit_or_none(repository: Repository, request: web.Request) -> Commit | None:
    """Without a revision: main, or None in a repository that has no commit yet."""
    if "revision" in request.match_info:
        return commit_of(repository, request.match_info["revision"])
    return repository.find("main")


def _flag(request: web.Request, name: str) -> bool:
    return request.query.get(name, "false").lower() in ("true", "1")

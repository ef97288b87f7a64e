"""`GET /api/models`: which models are found, in which order, and what is shown of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from multidict import MultiMapping

from tests.fakehub import views
from tests.fakehub.errors import HubError
from tests.fakehub.relations import tags
from tests.fakehub.repository import Repository

_BY_DOWNLOADS: Callable[[Repository], Any] = lambda repository: repository.downloads  # noqa: E731
_SORTED_BY: dict[str, Callable[[Repository], Any]] = {
    "downloads": _BY_DOWNLOADS,
    "trendingScore": _BY_DOWNLOADS,
    "likes": _BY_DOWNLOADS,
    "lastModified": lambda repository: repository.last_modified,
    "createdAt": lambda repository: repository.created_at,
}
Query: TypeAlias = "MultiMapping[str]"

_FLAGS = {
    "full": ("author", "gated", "lastModified", "sha", "siblings"),
    "config": ("config",),
    "cardData": ("cardData",),
}


def found(repositories: Iterable[Repository], query: Query) -> list[Repository]:
    """Those with every tag of `filter`, of `author`, with every word of `search` in their id; the first in `sort` first."""
    wanted = {tag for given in query.getall("filter", []) for tag in given.split(",")}
    words = query.get("search", "").lower().split()
    author, gated, sort = query.get("author", ""), query.get("gated", "").lower(), query.get("sort", "trendingScore")
    if sort not in _SORTED_BY:
        raise HubError.bad_request(f'"sort" must be one of {", ".join(_SORTED_BY)}')
    matching = [
        repository
        for repository in repositories
        if wanted <= set(tags(repository, repository.find("main")))
        and author in ("", repository.id.partition("/")[0])
        and all(word in repository.id.lower() for word in words)
        and gated in ("", str(bool(repository.gated)).lower())
    ]
    return sorted(matching, key=_SORTED_BY[sort], reverse=True)


def shown(query: Query, repository: Repository) -> dict[str, Any]:
    """One entry: what `expand` names, or the usual with what the flags add."""
    commit = repository.find("main")
    if properties := query.getall("expand", []):
        return views.expanded(repository, commit, properties)
    added = [name for flag, names in _FLAGS.items() if query.get(flag, "").lower() == "true" for name in names]
    return views.listed(repository, commit, added)

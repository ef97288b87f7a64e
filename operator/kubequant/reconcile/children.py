"""Keeps children as they should be: written when they differ from what is wanted, never otherwise.

A child is left alone while what is wanted is what was last written and the object has not changed since. Where that is
not known (after a restart, after an edit by hand), the applied fields are compared with the live object.
A child of our name that the model does not control is a Conflict: a forced apply would seize it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from kubernetes.utils.quantity import parse_quantity

from kubequant.api.conditions import Reason
from kubequant.cluster.api import Body, KubeApi
from kubequant.cluster.kinds import Kind
from kubequant.errors import Conflict, Waiting
from kubequant.manifests.names import FIELD_MANAGER, Owner, digest
from kubequant.reconcile.records import Key, controller_uid, version_of
from kubequant.reconcile.store import GONE, WATCHED, Store

NAMESAKE_SECONDS = 2.0


@dataclass(frozen=True)
class _Written:
    """What was wanted when a child was last right, its version then, and the one that the watch had brought until then."""

    wanted: str
    version: str
    before: str | None


class Children:
    """Remembers, for this process, at which version each child was as wanted."""

    def __init__(self, api: KubeApi, store: Store) -> None:
        self._api = api
        self._store = store
        self._written: dict[tuple[Kind, Key], _Written] = {}

    async def ensure(self, kind: Kind, owner: Owner, wanted: Body) -> bool:
        """Brings one child about. True when something was written. Raises Conflict, ApiError."""
        name = (owner.namespace, wanted["metadata"]["name"])
        content, seen = _content(wanted), self._store.version(kind, name)
        last = self._written.get((kind, name))
        if last and last.wanted == content and self._is_as_left(kind, name, last, seen):
            return False
        if wanted.get("immutable") and self._store.controller(kind, name) == owner.uid:
            return False  # its name tells its content
        live = await self._api.get(kind, *name)
        if live is not None:
            check_control(kind, live, owner)
            if contains(live, wanted):
                self._remember(kind, name, content, live, seen)
                return False
            # The uid makes this fail, instead of creating, when the object was replaced in the meantime.
            wanted = {**wanted, "metadata": {**wanted["metadata"], "uid": live["metadata"]["uid"]}}
        written = await self._api.apply(kind, wanted, field_manager=FIELD_MANAGER, force=live is not None)
        self._remember(kind, name, content, written, seen)
        return True

    async def remove(self, kind: Kind, owner: Owner, name: str) -> bool:
        """Deletes a child of ours where there is one."""
        key = (owner.namespace, name)
        self._written.pop((kind, key), None)
        if self._store.version(kind, key) in (None, GONE):
            return False
        live = await self._api.get(kind, *key)
        if live is None or controller_uid(live) != owner.uid:
            return False
        await self._api.delete(kind, *key, uid=live["metadata"]["uid"])
        return True

    def forget(self, key: Key) -> None:
        """A model is gone; children carry its name, with or without a suffix."""
        namespace, model = key
        for kind, (child_namespace, child) in list(self._written):
            if child_namespace == namespace and (child == model or child.startswith(f"{model}-")):
                del self._written[(kind, (child_namespace, child))]

    def _is_as_left(self, kind: Kind, name: Key, last: _Written, seen: str | None) -> bool:
        """Until the watch brings the version just written, the one before (or none at all) still stands in the store."""
        if seen == last.version:
            # It has been brought: what was before (nothing, say) means from now on that somebody was here.
            self._written[(kind, name)] = replace(last, before=seen)
            return True
        return seen == last.before

    def _remember(self, kind: Kind, name: Key, content: str, live: Body, seen: str | None) -> None:
        if kind not in WATCHED:
            self._store.put(kind, live)  # or the next full list could not tell that it is gone
        self._written[(kind, name)] = _Written(content, version_of(live), seen)


# Maps that the API server itself takes or leaves as a whole: one more key in a Service's selector, and it selects nothing.
_ATOMIC_MAPS = frozenset({"selector", "matchLabels", "nodeSelector"})


def contains(live: Any, wanted: Any) -> bool:
    """Whether every field of `wanted` stands in `live` with the same value.

    Others may add to maps, and to lists of named objects; atomic maps and other lists are compared as they stand.
    """
    if isinstance(wanted, Mapping):
        return isinstance(live, Mapping) and all(
            key in live and (live[key] == value if key in _ATOMIC_MAPS else contains(live[key], value))
            for key, value in wanted.items()
        )
    if isinstance(wanted, list):
        return isinstance(live, list) and _contains_list(live, wanted)
    return bool(live == wanted) or _same_quantity(live, wanted)


def _same_quantity(live: Any, wanted: Any) -> bool:
    """The server keeps quantities in canonical form: 1000m of CPU is stored as 1."""
    if not (isinstance(live, str) and isinstance(wanted, str) and live[:1].isdigit() and wanted[:1].isdigit()):
        return False
    try:
        return bool(parse_quantity(live) == parse_quantity(wanted))
    except ValueError:
        return False


def _contains_list(live: list[Any], wanted: list[Any]) -> bool:
    if wanted and all(isinstance(item, Mapping) and "name" in item for item in wanted):
        by_name = {item.get("name"): item for item in live if isinstance(item, Mapping)}
        return all(item["name"] in by_name and contains(by_name[item["name"]], item) for item in wanted)
    return len(live) == len(wanted) and all(contains(a, b) for a, b in zip(live, wanted, strict=True))


def _content(wanted: Body) -> str:
    """Tells whether what is wanted has changed. What is immutable is named by its content: large files are not digested."""
    return str(wanted["metadata"]["name"]) if wanted.get("immutable") else digest(wanted, 24)


def _was_of_a_namesake(live: Body, owner: Owner) -> bool:
    """The model was deleted and made again; the garbage collector has not come round yet."""
    references = live["metadata"].get("ownerReferences") or []
    return any(
        reference.get("controller") and (reference.get("kind"), reference.get("name")) == (owner.kind, owner.name)
        for reference in references
    )


def check_control(kind: Kind, live: Body, owner: Owner) -> None:
    """Raises Conflict where an object of our name is not this model's, Waiting where it is a former namesake's."""
    if controller_uid(live) == owner.uid:
        return
    name = live["metadata"]["name"]
    if _was_of_a_namesake(live, owner):
        message = f"the {kind.kind} {name} of the former model of this name is being removed"
        raise Waiting(Reason.PENDING, message, NAMESAKE_SECONDS)
    raise Conflict(
        Reason.CONFLICT,
        f"a {kind.kind} named {name} exists already and is not of this model; it is left untouched. "
        "Rename the model, or delete that object.",
    )

"""Stand-ins for what stands at the edges: the API server, the Hub, the clock. None of them is the real thing:

FakeKubeApi knows server-side apply only as a deep merge, checks no schema and runs no controllers. What rests on the API
server itself is tested in tests/cluster.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import AsyncIterator, Callable
from typing import Any

from kubequant.cluster.api import ApiError, Body
from kubequant.cluster.kinds import LEASE, Kind
from kubequant.errors import KubeQuantError
from kubequant.planning.values import Found, ModelFacts

Key = tuple[str, str | None, str]
WRITES = frozenset({"apply", "create", "replace", "merge_patch", "delete"})


class FakeClock:
    """Seconds; stands still unless it is told to move."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class FakeKubeApi:
    """Objects in memory, each request noted as (verb, kind, name); `fail` makes chosen requests fail."""

    def __init__(self) -> None:
        self.objects: dict[Key, Body] = {}
        self.requests: list[tuple[str, str, str]] = []
        self.fail: Callable[[str, Kind, str], ApiError | None] = lambda verb, kind, name: None
        self._versions = itertools.count(1)

    def writes(self) -> list[tuple[str, str, str]]:
        return [request for request in self.requests if request[0] in WRITES]

    def all(self, kind: Kind) -> list[Body]:
        return [copy.deepcopy(body) for (plural, _, _), body in self.objects.items() if plural == kind.plural]

    def put(self, kind: Kind, body: Body) -> Body:
        """As another client does: no request is noted."""
        key = (kind.plural, body["metadata"].get("namespace"), body["metadata"]["name"])
        before, body = self.objects.get(key), copy.deepcopy(body)
        metadata = body["metadata"]
        body |= {"apiVersion": kind.api_version, "kind": kind.kind}
        metadata["uid"] = before["metadata"]["uid"] if before else f"uid-{next(self._versions)}"
        metadata["resourceVersion"] = before["metadata"]["resourceVersion"] if before else "0"
        if before and "generation" in before["metadata"]:
            changed = body.get("spec") != before.get("spec")
            metadata["generation"] = before["metadata"]["generation"] + changed
        elif "spec" in body and kind.plural in ("deployments", "poddisruptionbudgets", "quantizedmodels"):
            metadata["generation"] = 1
        if body != before:
            metadata["resourceVersion"] = str(next(self._versions))
        self.objects[key] = body
        return copy.deepcopy(body)

    def remove(self, kind: Kind, namespace: str | None, name: str) -> Body:
        return self.objects.pop((kind.plural, namespace, name))

    async def get(self, kind: Kind, namespace: str | None, name: str) -> Body | None:
        self._note("get", kind, name)
        return copy.deepcopy(self.objects.get((kind.plural, namespace, name)))

    async def list(
        self, kind: Kind, *, namespace: str | None = None, label_selector: str = "", metadata_only: bool = False
    ) -> AsyncIterator[Body]:
        self._note("list", kind, label_selector)
        for body in self.all(kind):
            yield body

    async def apply(
        self, kind: Kind, body: Body, *, field_manager: str, force: bool = True, subresource: str | None = None
    ) -> Body:
        name = body["metadata"]["name"]
        self._note("apply", kind, f"{name}/{subresource}" if subresource else name)
        before = self.objects.get((kind.plural, body["metadata"].get("namespace"), name))
        asked = body["metadata"].get("uid")
        if asked and (before is None or before["metadata"]["uid"] != asked):
            raise ApiError(409, "Conflict", f"uid of {name} is not {asked}")
        if subresource:
            assert before is not None
            return self.put(kind, {**before, subresource: body[subresource]})
        return self.put(kind, _merged(before or {}, body))

    async def create(self, kind: Kind, body: Body) -> Body:
        name = body["metadata"]["name"]
        self._note("create", kind, name)
        if (kind.plural, body["metadata"].get("namespace"), name) in self.objects:
            raise ApiError(409, "AlreadyExists", name)
        return self.put(kind, body)

    async def replace(self, kind: Kind, body: Body) -> Body:
        metadata = body["metadata"]
        self._note("replace", kind, metadata["name"])
        before = self.objects.get((kind.plural, metadata.get("namespace"), metadata["name"]))
        if before is None:
            raise ApiError(404, "NotFound", metadata["name"])
        if metadata.get("resourceVersion") != before["metadata"]["resourceVersion"]:
            raise ApiError(409, "Conflict", "the object has been modified")
        return self.put(kind, body)

    async def merge_patch(self, kind: Kind, namespace: str | None, name: str, patch: Body) -> Body:
        self._note("merge_patch", kind, name)
        before = self.objects.get((kind.plural, namespace, name))
        if before is None:
            raise ApiError(404, "NotFound", name)
        version = patch.get("metadata", {}).get("resourceVersion", before["metadata"]["resourceVersion"])
        if version != before["metadata"]["resourceVersion"]:
            raise ApiError(409, "Conflict", "the object has been modified")
        return self.put(kind, _merged(before, patch))

    async def delete(
        self,
        kind: Kind,
        namespace: str | None,
        name: str,
        *,
        uid: str | None = None,
        resource_version: str | None = None,
    ) -> None:
        self._note("delete", kind, name)
        before = self.objects.get((kind.plural, namespace, name))
        if before is None:
            return
        metadata = before["metadata"]
        if uid not in (None, metadata["uid"]) or resource_version not in (None, metadata["resourceVersion"]):
            raise ApiError(409, "Conflict", "the object has been modified")
        del self.objects[(kind.plural, namespace, name)]

    def _note(self, verb: str, kind: Kind, name: str) -> None:
        if kind != LEASE:  # an election polls; its own tests look at its state
            self.requests.append((verb, kind.plural, name))
        error = self.fail(verb, kind, name)
        if error:
            raise error


class FakeHub:
    """Answers with the facts given, or raises the problem given; counts the questions."""

    def __init__(self, facts: ModelFacts | None = None, problem: KubeQuantError | None = None) -> None:
        self.facts = facts
        self.problem = problem
        self.asked = 0
        self.published = Found()
        self.searched = 0
        self.newer: str | None = None

    async def describe(self, repository: str, revision: str, *, fresh: bool = False) -> ModelFacts:
        self.asked += 1
        if self.problem:
            raise self.problem
        assert self.facts is not None
        return self.facts

    async def moved(self, repository: str, revision: str, pinned_commit: str) -> str | None:
        if self.problem:
            raise self.problem
        return self.newer

    async def find(self, base: ModelFacts, *, fresh: bool = False) -> Found:
        self.searched += 1
        if self.problem:
            raise self.problem
        return self.published


def _merged(before: Any, patch: Any) -> Any:
    if not (isinstance(before, dict) and isinstance(patch, dict)):
        return copy.deepcopy(patch)
    return {**before, **{key: _merged(before.get(key), value) for key, value in patch.items()}}

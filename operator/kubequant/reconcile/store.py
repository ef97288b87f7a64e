"""What is known of the cluster right now: slim records, filled by watches and repaired by full lists.

Belongs to the event loop of the workers: nothing here is thread-safe.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kubequant.cluster import kinds
from kubequant.cluster.kinds import Kind
from kubequant.manifests.names import MODEL_LABEL
from kubequant.planning.gpus import NodeFacts, fleet_of
from kubequant.planning.values import Fleet
from kubequant.reconcile import records
from kubequant.reconcile.kinds import QUANTIZED_MODEL
from kubequant.reconcile.records import (
    Body,
    ChildRecord,
    DeploymentRecord,
    Key,
    ModelRecord,
    PodRecord,
    RevisionRecord,
)

GONE = "gone"  # the version of an object that was there and was deleted, while its model lives

Record = ModelRecord | ChildRecord | DeploymentRecord | PodRecord | RevisionRecord | NodeFacts

_READERS: Mapping[Kind, Callable[[Body], Record]] = {
    QUANTIZED_MODEL: records.model_record,
    kinds.DEPLOYMENT: records.deployment_record,
    kinds.POD: records.pod_record,
    kinds.CONTROLLER_REVISION: records.revision_record,
    kinds.SERVICE: records.child_record,
    kinds.CONFIG_MAP: records.child_record,
    kinds.POD_DISRUPTION_BUDGET: records.child_record,
    kinds.NODE: records.node_facts,
}
WATCHED = tuple(_READERS)


@dataclass(frozen=True)
class Snapshot:
    """One model and what belongs to it, at one moment."""

    model: ModelRecord
    revisions: tuple[RevisionRecord, ...]  # by number, oldest first
    deployment: DeploymentRecord | None
    pods: tuple[PodRecord, ...]
    fleet: Fleet


@dataclass
class _Shelf:
    """Records of one kind by (namespace, name), and by the model that they belong to."""

    by_name: dict[Key, Record] = field(default_factory=dict)
    by_model: dict[Key, set[Key]] = field(default_factory=lambda: defaultdict(set))
    model_of: dict[Key, Key] = field(default_factory=dict)
    versions: dict[Key, str] = field(default_factory=dict)  # of owned objects: tells whether they changed


class Store:
    """Records by kind. `put` and `remove` return the key of the model that is concerned, None when it is all of them."""

    def __init__(self) -> None:
        self._shelves: dict[Kind, _Shelf] = {kind: _Shelf() for kind in WATCHED}
        self._fleet: Fleet | None = None

    def put(self, kind: Kind, body: Body) -> Key | None:
        name, owner = _name(body), _owner(kind, body)
        shelf, record = self._shelves[kind], _READERS[kind](body)
        if kind == kinds.NODE and shelf.by_name.get(name) != record:
            self._fleet = None
        shelf.by_name[name] = record
        shelf.versions[name] = records.version_of(body)
        if owner:
            shelf.by_model[owner].add(name)
            shelf.model_of[name] = owner
        return owner

    def remove(self, kind: Kind, body: Body) -> Key | None:
        name, owner = _name(body), _owner(kind, body)
        self._drop(kind, name)
        return owner

    def replace(self, kind: Kind, bodies: Iterable[Body]) -> None:
        """All objects of a kind as a full list gives them: what is not in it is gone."""
        present = set()
        for body in bodies:
            self.put(kind, body)
            present.add(_name(body))
        for name in self._shelves[kind].by_name.keys() - present:
            self._drop(kind, name)

    def model_keys(self) -> list[Key]:
        return list(self._shelves[QUANTIZED_MODEL].by_name)

    def models(self) -> list[ModelRecord]:
        return [record for record in self._shelves[QUANTIZED_MODEL].by_name.values() if isinstance(record, ModelRecord)]

    def snapshot(self, key: Key) -> Snapshot | None:
        model = self._shelves[QUANTIZED_MODEL].by_name.get(key)
        if not isinstance(model, ModelRecord):
            return None
        revisions = [
            record
            for record in self._owned(kinds.CONTROLLER_REVISION, key)
            if isinstance(record, RevisionRecord) and record.owner_uid == model.uid
        ]
        deployment = self._shelves[kinds.DEPLOYMENT].by_name.get(key)
        return Snapshot(
            model=model,
            revisions=tuple(sorted(revisions, key=lambda record: (record.number, record.name))),
            deployment=deployment
            if isinstance(deployment, DeploymentRecord) and deployment.owner_uid == model.uid
            else None,
            pods=tuple(record for record in self._owned(kinds.POD, key) if isinstance(record, PodRecord)),
            fleet=self.fleet,
        )

    def version(self, kind: Kind, name: Key) -> str | None:
        """The version of an owned object as last seen, GONE after its deletion, None where none was seen."""
        return self._shelves[kind].versions.get(name)

    @property
    def fleet(self) -> Fleet:
        if self._fleet is None:
            nodes = self._shelves[kinds.NODE].by_name.values()
            self._fleet = fleet_of([node for node in nodes if isinstance(node, NodeFacts)])
        return self._fleet

    def gpus_in_use(self, product: str) -> int:
        """GPUs of a product that our own pods hold. Others' pods are not watched, so "free" is an upper bound."""
        pods = self._shelves[kinds.POD].by_name.values()
        return sum(
            pod.gpus
            for pod in pods
            if isinstance(pod, PodRecord) and pod.gpu_product == product and pod.phase not in ("Succeeded", "Failed")
        )

    def size(self) -> dict[str, int]:
        """Records by kind, for metrics."""
        return {kind.plural: len(shelf.by_name) for kind, shelf in self._shelves.items()}

    def _owned(self, kind: Kind, key: Key) -> list[Record]:
        shelf = self._shelves[kind]
        return [shelf.by_name[name] for name in shelf.by_model.get(key, ()) if name in shelf.by_name]

    def _drop(self, kind: Kind, name: Key) -> None:
        shelf = self._shelves[kind]
        if kind == kinds.NODE:
            self._fleet = None
        shelf.by_name.pop(name, None)
        if kind == QUANTIZED_MODEL:
            self._forget_versions(name)
            return
        owner = shelf.model_of.pop(name, None)
        if owner in self._shelves[QUANTIZED_MODEL].by_name:
            shelf.versions[name] = GONE
        else:
            shelf.versions.pop(name, None)
        if owner:
            shelf.by_model[owner].discard(name)
            if not shelf.by_model[owner]:
                del shelf.by_model[owner]

    def _forget_versions(self, model: Key) -> None:
        namespace, prefix = model[0], model[1]
        for shelf in self._shelves.values():
            for name in [name for name, version in shelf.versions.items() if version == GONE]:
                if name[0] == namespace and name[1].startswith(prefix):
                    del shelf.versions[name]


def _name(body: Body) -> Key:
    metadata = body["metadata"]
    return (metadata.get("namespace", ""), metadata["name"])


def _owner(kind: Kind, body: Body) -> Key | None:
    if kind == kinds.NODE:
        return None
    if kind == QUANTIZED_MODEL:
        return _name(body)
    model: Any = (body["metadata"].get("labels") or {}).get(MODEL_LABEL)
    return (body["metadata"]["namespace"], model) if model else None

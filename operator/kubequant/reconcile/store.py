"""What is known of the cluster right now: slim records, filled by watches and repaired by full lists.

Belongs to the event loop of the workers: nothing here is thread-safe.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from kubequant.cluster import kinds
from kubequant.cluster.kinds import Kind
from kubequant.manifests.names import JOB_MODEL_LABEL, MODEL_LABEL
from kubequant.planning.gpu_table import GpuTable
from kubequant.planning.gpus import fleet_of
from kubequant.planning.nodes import NodeFacts
from kubequant.planning.pools import DeclaredPool, label_keys
from kubequant.planning.values import Fleet
from kubequant.reconcile import job_records, records
from kubequant.reconcile.job_records import ClaimRecord, JobPodRecord, JobRecord
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

# What is written as a child: only of these is it worth remembering that one was there and is gone.
_CHILDREN = frozenset(
    {
        kinds.DEPLOYMENT,
        kinds.SERVICE,
        kinds.CONFIG_MAP,
        kinds.POD_DISRUPTION_BUDGET,
        kinds.JOB,
        kinds.PERSISTENT_VOLUME_CLAIM,
    }
)
GONE = "gone"  # the version of an object that was there and was deleted, while its model lives

Record = (
    ModelRecord
    | ChildRecord
    | DeploymentRecord
    | PodRecord
    | RevisionRecord
    | NodeFacts
    | JobRecord
    | JobPodRecord
    | ClaimRecord
)

_READERS: Mapping[Kind, Callable[[Body], Record]] = {
    QUANTIZED_MODEL: records.model_record,
    kinds.DEPLOYMENT: records.deployment_record,
    kinds.POD: job_records.any_pod_record,
    kinds.JOB: job_records.job_record,
    kinds.PERSISTENT_VOLUME_CLAIM: job_records.claim_record,
    kinds.CONTROLLER_REVISION: records.revision_record,
    kinds.SERVICE: records.child_record,
    kinds.CONFIG_MAP: records.child_record,
    kinds.POD_DISRUPTION_BUDGET: records.child_record,
    kinds.NODE: records.node_facts,
}
LISTED = tuple(_READERS)
# ConfigMaps are the largest of all objects here, immutable and named by their content: a full list now and then suffices.
WATCHED = tuple(kind for kind in LISTED if kind != kinds.CONFIG_MAP)
METADATA_SUFFICES = frozenset({kinds.SERVICE, kinds.CONFIG_MAP, kinds.POD_DISRUPTION_BUDGET})


@dataclass(frozen=True)
class Snapshot:
    """One model and what belongs to it, at one moment. `pods` are the engine's; those of Jobs stand in `job_pods`, the oldest first."""

    model: ModelRecord
    revisions: tuple[RevisionRecord, ...]  # by number, oldest first
    deployment: DeploymentRecord | None
    pods: tuple[PodRecord, ...]
    fleet: Fleet
    jobs: tuple[JobRecord, ...] = ()
    job_pods: tuple[JobPodRecord, ...] = ()
    claims: tuple[ClaimRecord, ...] = ()


@dataclass
class _Shelf:
    """Records of one kind by (namespace, name), and by the model that they belong to."""

    by_name: dict[Key, Record] = field(default_factory=dict)
    by_model: dict[Key, set[Key]] = field(default_factory=lambda: defaultdict(set))
    model_of: dict[Key, Key] = field(default_factory=dict)
    versions: dict[Key, str] = field(default_factory=dict)  # of owned objects: tells whether they changed
    gone: dict[Key, set[Key]] = field(default_factory=lambda: defaultdict(set))  # by model, while it lives
    touched: set[Key] | None = None  # names that changed since the full list under way was begun
    listed: set[Key] = field(default_factory=set)  # names that this list has brought so far


class Store:
    """Records by kind. `put` and `remove` return the key of the model that is concerned, None when it is all of them.

    `pools` and `table` are the configuration's: what it adds to the nodes' own GPUs, and to what is known of products.
    """

    def __init__(self, pools: Sequence[DeclaredPool] = (), table: GpuTable | None = None) -> None:
        self._shelves: dict[Kind, _Shelf] = {kind: _Shelf() for kind in LISTED}
        self._pools = pools
        self._table = table
        self._readers: dict[Kind, Callable[[Body], Record]] = {**_READERS}
        self._readers[kinds.NODE] = partial(records.node_facts, pool_labels=label_keys(pools))
        self._fleet: Fleet | None = None
        self._claims_of: dict[str, list[ClaimRecord]] | None = None  # by owner; None: to be made anew

    def put(self, kind: Kind, body: Body) -> Key | None:
        touched = self._shelves[kind].touched
        if touched is not None:
            touched.add(_name(body))
        return self._shelve(kind, body)

    def remove(self, kind: Kind, body: Body) -> Key | None:
        name, owner = _name(body), _owner(kind, body)
        self._drop(kind, name)
        touched = self._shelves[kind].touched
        if touched is not None:
            touched.add(name)
        return owner

    def begin_list(self, kind: Kind) -> None:
        """A full list is about to be asked for: from now on the watch knows better than its answer."""
        shelf = self._shelves[kind]
        shelf.touched, shelf.listed = set(), set()

    def listed(self, kind: Kind, body: Body) -> None:
        """One object of the list under way. What changed in the meantime stays as the watch told it.

        Objects come one by one because thousands of bodies at once are hundreds of MiB.
        """
        shelf, name = self._shelves[kind], _name(body)
        shelf.listed.add(name)
        if name not in (shelf.touched or ()):
            self._shelve(kind, body)

    def end_list(self, kind: Kind) -> None:
        """The list is complete: what was neither in it nor changed meanwhile is gone."""
        shelf = self._shelves[kind]
        for name in shelf.by_name.keys() - shelf.listed - (shelf.touched or set()):
            self._drop(kind, name)
        shelf.touched, shelf.listed = None, set()

    def replace(self, kind: Kind, bodies: Iterable[Body]) -> None:
        """All objects of a kind at once, as the answer of the list begun last."""
        for body in bodies:
            self.listed(kind, body)
        self.end_list(kind)

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
        # In one order always: status tells of the first of several pods in trouble, also after a restart.
        pods = [record for record in self._owned(kinds.POD, key) if isinstance(record, PodRecord)]
        job_pods = [record for record in self._owned(kinds.POD, key) if isinstance(record, JobPodRecord)]
        jobs = [
            record
            for record in self._owned(kinds.JOB, key)
            if isinstance(record, JobRecord) and record.owner_uid == model.uid
        ]
        claims = [
            record
            for record in self._owned(kinds.PERSISTENT_VOLUME_CLAIM, key)
            if isinstance(record, ClaimRecord) and record.owner_uid == model.uid
        ]
        deployment = self._shelves[kinds.DEPLOYMENT].by_name.get(key)
        return Snapshot(
            model=model,
            revisions=tuple(sorted(revisions, key=lambda record: (record.number, record.name))),
            deployment=deployment
            if isinstance(deployment, DeploymentRecord) and deployment.owner_uid == model.uid
            else None,
            pods=tuple(sorted(pods, key=lambda pod: (pod.created, pod.name))),
            fleet=self.fleet,
            jobs=tuple(sorted(jobs, key=lambda job: (job.created, job.name))),
            job_pods=tuple(sorted(job_pods, key=lambda pod: (pod.created, pod.name))),
            claims=tuple(sorted(claims, key=lambda claim: claim.name)),
        )

    def job(self, name: Key) -> JobRecord | None:
        """A Job of ours by namespace and name, whichever model it is of."""
        record = self._shelves[kinds.JOB].by_name.get(name)
        return record if isinstance(record, JobRecord) else None

    def has_model(self, uid: str) -> bool:
        """Labels are anybody's to write; an owner that is there is not."""
        return any(model.uid == uid for model in self.models())

    def jobs_of(self, component: str) -> list[JobRecord]:
        """All Jobs of ours that are for one thing, of every model."""
        jobs = self._shelves[kinds.JOB].by_name.values()
        return [job for job in jobs if isinstance(job, JobRecord) and job.component == component]

    def job_pods(self, job: JobRecord) -> tuple[JobPodRecord, ...]:
        """The pods of a Job, the oldest first."""
        pods = self._owned(kinds.POD, (job.namespace, job.model))
        own = [pod for pod in pods if isinstance(pod, JobPodRecord) and pod.job_uid == job.uid]
        return tuple(sorted(own, key=lambda pod: (pod.created, pod.name)))

    def claim(self, name: Key) -> ClaimRecord | None:
        """A claim of ours (labelled as managed by us) by namespace and name; users' own claims are not watched."""
        record = self._shelves[kinds.PERSISTENT_VOLUME_CLAIM].by_name.get(name)
        return record if isinstance(record, ClaimRecord) else None

    def mounting(self, name: Key) -> list[str]:
        """Names of the engines' pods that hold a claim, those that go already left out."""
        namespace, claim = name
        pods = (pod for pod in self._shelves[kinds.POD].by_name.values() if isinstance(pod, PodRecord))
        return sorted(
            pod.name
            for pod in pods
            if claim in pod.claims
            and pod.namespace == namespace
            and pod.scheduled
            and not pod.deleting
            and pod.phase not in ("Succeeded", "Failed")
        )

    def claims_of(self, uid: str) -> list[ClaimRecord]:
        """Claims of ours that count an object among their owners."""
        if self._claims_of is None:
            self._claims_of = defaultdict(list)
            for record in self._shelves[kinds.PERSISTENT_VOLUME_CLAIM].by_name.values():
                if isinstance(record, ClaimRecord):
                    for owner in record.owners:
                        self._claims_of[owner].append(record)
        return self._claims_of.get(uid, [])

    def version(self, kind: Kind, name: Key) -> str | None:
        """The version of an owned object as last seen, GONE after its deletion, None where none was seen."""
        return self._shelves[kind].versions.get(name)

    def controller(self, kind: Kind, name: Key) -> str:
        """The uid of the owner of a child, nothing where there is no such child."""
        record = self._shelves[kind].by_name.get(name)
        return record.owner_uid if isinstance(record, ChildRecord) else ""

    @property
    def fleet(self) -> Fleet:
        if self._fleet is None:
            nodes = self._shelves[kinds.NODE].by_name.values()
            facts = [node for node in nodes if isinstance(node, NodeFacts)]
            self._fleet = fleet_of(facts, self._pools, self._table)
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

    def _shelve(self, kind: Kind, body: Body) -> Key | None:
        name, owner = _name(body), _owner(kind, body)
        shelf, record = self._shelves[kind], self._readers[kind](body)
        if kind == kinds.NODE and shelf.by_name.get(name) != record:
            self._fleet = None
        if kind == kinds.PERSISTENT_VOLUME_CLAIM:
            self._claims_of = None
        before = shelf.model_of.get(name)
        if before and before != owner:  # relabelled by hand, as one does to look at a pod that misbehaves
            _discard(shelf.by_model, before, name)
            del shelf.model_of[name]
        shelf.by_name[name] = record
        shelf.versions[name] = records.version_of(body)
        if owner:
            shelf.by_model[owner].add(name)
            shelf.model_of[name] = owner
            _discard(shelf.gone, owner, name)
        return owner or before

    def _owned(self, kind: Kind, key: Key) -> list[Record]:
        shelf = self._shelves[kind]
        return [shelf.by_name[name] for name in shelf.by_model.get(key, ()) if name in shelf.by_name]

    def _drop(self, kind: Kind, name: Key) -> None:
        shelf = self._shelves[kind]
        if kind == kinds.NODE:
            self._fleet = None
        if kind == kinds.PERSISTENT_VOLUME_CLAIM:
            self._claims_of = None
        shelf.by_name.pop(name, None)
        if kind == QUANTIZED_MODEL:
            shelf.versions.pop(name, None)
            self._forget_gone(name)
            return
        owner = shelf.model_of.pop(name, None)
        shelf.versions.pop(name, None)
        if owner is None:
            return
        _discard(shelf.by_model, owner, name)
        if kind in _CHILDREN and owner in self._shelves[QUANTIZED_MODEL].by_name:
            shelf.versions[name] = GONE
            shelf.gone[owner].add(name)

    def _forget_gone(self, model: Key) -> None:
        for shelf in self._shelves.values():
            for name in shelf.gone.pop(model, ()):
                shelf.versions.pop(name, None)


def _discard(sets: dict[Key, set[Key]], model: Key, name: Key) -> None:
    """Takes a name out, and leaves no empty set behind."""
    if model in sets:
        sets[model].discard(name)
        if not sets[model]:
            del sets[model]


def _name(body: Body) -> Key:
    metadata = body["metadata"]
    return (metadata.get("namespace", ""), metadata["name"])


def _owner(kind: Kind, body: Body) -> Key | None:
    if kind == kinds.NODE:
        return None
    if kind == QUANTIZED_MODEL:
        return _name(body)
    labels = body["metadata"].get("labels") or {}
    model: Any = labels.get(MODEL_LABEL) or labels.get(JOB_MODEL_LABEL)
    return (body["metadata"]["namespace"], model) if model else None

"""Slim records of what the API server holds: what decisions need, never whole bodies.

Each `*_record` reads one body from a list or a watch. A body of ours may have been edited by hand, so nothing is
assumed beyond what the API server itself guarantees.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from kubernetes.utils.quantity import parse_quantity

from kubequant.manifests.names import (
    MEASURED_ANNOTATION,
    MODEL_LABEL,
    OUTCOME_ANNOTATION,
    REPLAN_ANNOTATION,
    REVISION_ANNOTATION,
    REVISION_LABEL,
    digest,
)
from kubequant.manifests.pod import DOWNLOAD_CONTAINER, ENGINE_CONTAINER
from kubequant.planning.nodes import READ_LABELS, NodeFacts, is_gpu_resource
from kubequant.planning.taints import Taint

Body = Mapping[str, Any]
Key = tuple[str, str]  # namespace and name of a QuantizedModel


@dataclass(frozen=True)
class Transition:
    """A condition as last written: what it said, and when its status last changed."""

    status: str
    reason: str
    time: str


@dataclass(frozen=True)
class ModelRecord:
    """A QuantizedModel. `spec` and `annotations` are kept as written: they are small and are what is hashed."""

    namespace: str
    name: str
    uid: str
    generation: int
    spec: Mapping[str, Any]
    replan: str
    status_digest: str
    transitions: Mapping[str, Transition]
    deleting: bool
    newer_commit: tuple[str, str] | None = (
        None  # as status has it: the pinned commit, and what the branch named at the last look
    )

    @property
    def key(self) -> Key:
        return (self.namespace, self.name)


@dataclass(frozen=True)
class ChildRecord:
    """Any owned object, as far as `version` tells whether it changed: its generation, or where it has none, its version."""

    kind: str
    namespace: str
    name: str
    uid: str
    owner_uid: str
    version: str


@dataclass(frozen=True)
class RevisionRecord:
    """A ControllerRevision. `data` is read live when it is needed."""

    namespace: str
    name: str
    uid: str
    model: str
    owner_uid: str
    number: int
    inputs_hash: str
    pod_hash: str
    outcome: str
    measured: str


@dataclass(frozen=True)
class DeploymentRecord:
    """A Deployment of ours."""

    namespace: str
    name: str
    model: str
    owner_uid: str
    revision: str
    in_place: bool
    failure: str  # message of the condition ReplicaFailure


@dataclass(frozen=True)
class ContainerState:
    """Of one container. Times are seconds since the epoch; empty strings and None where there is nothing to say."""

    restarts: int = 0
    ready: bool = False
    started: bool = False  # its startup probe has succeeded since it began to run
    running_since: float | None = None
    waiting_reason: str = ""
    waiting_message: str = ""
    exit_code: int | None = None  # of the present or, while it waits or runs again, of the last end
    exit_reason: str = ""
    exit_message: str = ""
    ran_seconds: float = 0.0  # until that end
    ended: bool = False  # whether it is in the terminated state now


@dataclass(frozen=True)
class PodRecord:
    """A pod of ours."""

    namespace: str
    name: str
    model: str
    revision: str
    created: float
    phase: str
    reason: str  # of the pod as a whole: Evicted, ...
    message: str
    scheduled: bool
    scheduling_message: str
    ready: bool
    deleting: bool
    address: str
    gpus: int
    gpu_product: str
    download: ContainerState
    engine: ContainerState
    claims: tuple[str, ...] = ()  # that it mounts


def model_record(body: Body) -> ModelRecord:
    metadata = body["metadata"]
    status = body.get("status") or {}
    return ModelRecord(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        generation=metadata.get("generation", 0),
        spec=dict(body.get("spec") or {}),
        replan=(metadata.get("annotations") or {}).get(REPLAN_ANNOTATION, ""),
        status_digest=status_digest(status),
        transitions={
            condition["type"]: Transition(
                condition.get("status", ""), condition.get("reason", ""), condition.get("lastTransitionTime", "")
            )
            for condition in status.get("conditions") or []
        },
        deleting="deletionTimestamp" in metadata,
        newer_commit=_newer_commit(status),
    )


def _newer_commit(status: Body) -> tuple[str, str] | None:
    pinned, newer = status.get("modelCommit"), status.get("newerCommit")
    return (pinned, newer) if isinstance(pinned, str) and isinstance(newer, str) else None


def status_digest(status: Body) -> str:
    """Of everything but the times of transitions: two statuses that say the same have the same digest."""
    conditions = [
        {key: value for key, value in condition.items() if key != "lastTransitionTime"}
        for condition in status.get("conditions") or []
    ]
    conditions.sort(key=lambda condition: str(condition.get("type")))
    return digest({**status, "conditions": conditions}, 24)


def child_record(body: Body) -> ChildRecord:
    metadata = body["metadata"]
    return ChildRecord(
        kind=body["kind"],
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        owner_uid=controller_uid(body),
        version=version_of(body),
    )


def version_of(body: Body) -> str:
    """Services and ConfigMaps have no generation, but no controller writes to their status either."""
    metadata = body["metadata"]
    return f"g{metadata['generation']}" if metadata.get("generation") else f"r{metadata.get('resourceVersion', '')}"


def controller_uid(body: Body) -> str:
    """The uid of the owner that controls an object, or nothing."""
    for reference in body["metadata"].get("ownerReferences") or []:
        if reference.get("controller"):
            return str(reference["uid"])
    return ""


def revision_record(body: Body) -> RevisionRecord:
    metadata = body["metadata"]
    annotations = metadata.get("annotations") or {}
    data = body.get("data")
    data = data if isinstance(data, Mapping) else {}  # whoever may label an object can make one that we read
    return RevisionRecord(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        model=(metadata.get("labels") or {}).get(MODEL_LABEL, ""),
        owner_uid=controller_uid(body),
        number=int(body.get("revision") or 0),
        inputs_hash=str(data.get("inputsHash", "")),
        pod_hash=str(data.get("podHash", "")),
        outcome=annotations.get(OUTCOME_ANNOTATION, ""),
        measured=annotations.get(MEASURED_ANNOTATION, ""),
    )


def deployment_record(body: Body) -> DeploymentRecord:
    metadata, spec, status = body["metadata"], body.get("spec") or {}, body.get("status") or {}
    rolling = (spec.get("strategy") or {}).get("rollingUpdate") or {}
    failures = [
        condition.get("message", "")
        for condition in status.get("conditions") or []
        if condition.get("type") == "ReplicaFailure" and condition.get("status") == "True"
    ]
    return DeploymentRecord(
        namespace=metadata["namespace"],
        name=metadata["name"],
        model=(metadata.get("labels") or {}).get(MODEL_LABEL, ""),
        owner_uid=controller_uid(body),
        revision=(metadata.get("annotations") or {}).get(REVISION_ANNOTATION, ""),
        in_place=rolling.get("maxSurge") == 0,
        failure=failures[0] if failures else "",
    )


def pod_record(body: Body) -> PodRecord:
    metadata, spec, status = body["metadata"], body.get("spec") or {}, body.get("status") or {}
    labels = metadata.get("labels") or {}
    conditions = {condition["type"]: condition for condition in status.get("conditions") or []}
    scheduled = conditions.get("PodScheduled") or {}
    return PodRecord(
        namespace=metadata["namespace"],
        name=metadata["name"],
        model=labels.get(MODEL_LABEL, ""),
        revision=labels.get(REVISION_LABEL, ""),
        created=_seconds(metadata.get("creationTimestamp")) or 0.0,
        phase=status.get("phase", ""),
        reason=status.get("reason", ""),
        message=status.get("message", ""),
        scheduled=bool(spec.get("nodeName")),
        scheduling_message=scheduled.get("message", "") if scheduled.get("status") == "False" else "",
        ready=(conditions.get("Ready") or {}).get("status") == "True",
        deleting="deletionTimestamp" in metadata,
        address=status.get("podIP", ""),
        gpus=_gpus_asked(spec),
        gpu_product=_product_asked(spec),
        download=_container(status.get("initContainerStatuses"), DOWNLOAD_CONTAINER),
        engine=_container(status.get("containerStatuses"), ENGINE_CONTAINER),
        claims=_claims_mounted(spec),
    )


def node_facts(body: Body, pool_labels: Set[str] = frozenset()) -> NodeFacts:
    """Only what planning reads: labels of NVIDIA's, of clouds and those that declared pools select by; NVIDIA's resources; taints."""
    metadata, spec = body["metadata"], body.get("spec") or {}
    allocatable = (body.get("status") or {}).get("allocatable") or {}
    return NodeFacts(
        name=metadata["name"],
        labels={
            key: str(value)
            for key, value in (metadata.get("labels") or {}).items()
            if key.startswith(READ_LABELS) or key in pool_labels
        },
        allocatable={key: str(value) for key, value in allocatable.items() if key.startswith("nvidia.com/")},
        unschedulable=bool(spec.get("unschedulable")),
        taints=tuple(
            Taint(taint.get("key", ""), taint.get("value") or "", taint.get("effect") or "")
            for taint in spec.get("taints") or []
        ),
    )


def gpus_in_use(pods: Iterable[Body]) -> dict[tuple[str, str], int]:
    """GPUs that pods hold, by (node name, resource): what `fleet_of` takes as `used`. Pods that have ended hold none."""
    used: Counter[tuple[str, str]] = Counter()
    for body in pods:
        spec, phase = body.get("spec") or {}, (body.get("status") or {}).get("phase")
        if spec.get("nodeName") and phase not in ("Succeeded", "Failed"):
            for resource, count in _gpu_limits(spec):
                used[spec["nodeName"], resource] += count
    return dict(used)


def _container(statuses: list[Body] | None, name: str) -> ContainerState:
    for status in statuses or []:
        if status.get("name") == name:
            return container_state(status)
    return ContainerState()


def container_state(status: Body) -> ContainerState:
    state, last = status.get("state") or {}, status.get("lastState") or {}
    waiting = state.get("waiting") or {}
    end = state.get("terminated") or last.get("terminated") or {}
    return ContainerState(
        restarts=int(status.get("restartCount") or 0),
        ready=bool(status.get("ready")),
        started=bool(status.get("started")),
        running_since=_seconds((state.get("running") or {}).get("startedAt")),
        waiting_reason=waiting.get("reason", ""),
        waiting_message=waiting.get("message", ""),
        exit_code=end.get("exitCode"),
        exit_reason=end.get("reason", ""),
        exit_message=end.get("message", ""),
        ran_seconds=(_seconds(end.get("finishedAt")) or 0.0) - (_seconds(end.get("startedAt")) or 0.0),
        ended="terminated" in state,
    )


def _gpus_asked(spec: Body) -> int:
    return sum(count for _, count in _gpu_limits(spec))


def _gpu_limits(spec: Body) -> Iterator[tuple[str, int]]:
    """Of extended resources requests equal limits; init containers end before these start, and use the same GPUs."""
    for container in spec.get("containers") or []:
        for resource, quantity in ((container.get("resources") or {}).get("limits") or {}).items():
            if is_gpu_resource(resource):
                yield resource, _count(quantity)


def _count(quantity: Any) -> int:
    """Extended resources are whole numbers, but any notation of a quantity will do: 1k."""
    try:
        return int(parse_quantity(quantity or 0))
    except (ValueError, ArithmeticError):
        return 0


def _claims_mounted(spec: Body) -> tuple[str, ...]:
    sources = [volume.get("persistentVolumeClaim") or {} for volume in spec.get("volumes") or []]
    return tuple(str(source["claimName"]) for source in sources if "claimName" in source)


def _product_asked(spec: Body) -> str:
    affinity = ((spec.get("affinity") or {}).get("nodeAffinity") or {}).get(
        "requiredDuringSchedulingIgnoredDuringExecution"
    ) or {}
    for term in affinity.get("nodeSelectorTerms") or []:
        for expression in term.get("matchExpressions") or []:
            key = str(expression.get("key"))
            if key.startswith("nvidia.com/") and key.endswith(".product") and expression.get("values"):
                return str(expression["values"][0])
    return ""


def _seconds(text: str | None) -> float | None:
    return datetime.fromisoformat(text).timestamp() if text else None

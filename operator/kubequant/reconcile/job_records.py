"""Slim records of Jobs, of their pods, and of claims: what stands beside a model's engine, never among its replicas."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from kubequant.manifests.cache import FILLED_ANNOTATION
from kubequant.manifests.jobs import template_of
from kubequant.manifests.names import COMPONENT_LABEL, JOB_MODEL_LABEL, MODEL_LABEL
from kubequant.reconcile.records import Body, ContainerState, PodRecord, container_state, controller_uid, pod_record

JOB_NAME_LABEL = "batch.kubernetes.io/job-name"


@dataclass(frozen=True)
class JobRecord:
    """A Job of ours. Times are seconds since the epoch."""

    namespace: str
    name: str
    uid: str
    model: str
    owner_uid: str
    component: str  # what it is for: the label app.kubernetes.io/component
    created: float
    complete: bool
    failure: str  # `Reason: message` of the condition Failed, "" where it has not failed
    deleting: bool
    template: str = ""  # digest of its pod template as it was made

    @property
    def has_ended(self) -> bool:
        return self.complete or bool(self.failure)


@dataclass(frozen=True)
class JobPodRecord:
    """A pod of such a Job. `container` is its first (and, of ours, only) container."""

    namespace: str
    name: str
    model: str
    component: str
    job: str
    job_uid: str
    created: float
    phase: str
    reason: str  # of the pod as a whole: Evicted, DeadlineExceeded, ...
    message: str
    scheduled: bool
    scheduling_message: str
    deleting: bool
    address: str
    container: ContainerState


@dataclass(frozen=True)
class ClaimRecord:
    """A PersistentVolumeClaim. `phase` is Pending, Bound or Lost; `requested` a quantity as written."""

    namespace: str
    name: str
    uid: str
    model: str
    owner_uid: str
    phase: str
    access_modes: tuple[str, ...]
    requested: str
    storage_class: str
    deleting: bool
    owners: frozenset[str] = frozenset()  # uids of all, of which none controls a cache volume
    filled: bool = False  # a cache volume: the Job that fills it has been seen complete


def job_record(body: Body) -> JobRecord:
    metadata = body["metadata"]
    labels = metadata.get("labels") or {}
    ended = {
        condition.get("type"): f"{condition.get('reason', '')}: {condition.get('message', '')}"
        for condition in (body.get("status") or {}).get("conditions") or []
        if condition.get("status") == "True"
    }
    return JobRecord(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        model=labels.get(MODEL_LABEL, ""),
        owner_uid=controller_uid(body),
        component=labels.get(COMPONENT_LABEL, ""),
        created=_seconds(metadata.get("creationTimestamp")),
        complete="Complete" in ended,
        failure=ended.get("Failed", ""),
        deleting="deletionTimestamp" in metadata,
        template=template_of(body),
    )


def is_outdated(job: JobRecord, pods: Iterable[JobPodRecord], wanted: Body) -> bool:
    """Whether a Job was made with another pod template than is wanted and could be made anew at no loss: no pod of it runs."""
    return job.template != template_of(wanted) and not job.deleting and not any(pod.phase == "Running" for pod in pods)


def any_pod_record(body: Body) -> PodRecord | JobPodRecord:
    """Pods of Jobs carry the model's name under another label: the selectors of Deployment and Service must not find them."""
    return job_pod_record(body) if JOB_MODEL_LABEL in (body["metadata"].get("labels") or {}) else pod_record(body)


def job_pod_record(body: Body) -> JobPodRecord:
    metadata, spec, status = body["metadata"], body.get("spec") or {}, body.get("status") or {}
    labels = metadata.get("labels") or {}
    conditions = {condition["type"]: condition for condition in status.get("conditions") or []}
    scheduled = conditions.get("PodScheduled") or {}
    containers = status.get("containerStatuses") or []
    return JobPodRecord(
        namespace=metadata["namespace"],
        name=metadata["name"],
        model=labels.get(JOB_MODEL_LABEL, ""),
        component=labels.get(COMPONENT_LABEL, ""),
        job=labels.get(JOB_NAME_LABEL, ""),
        job_uid=controller_uid(body),
        created=_seconds(metadata.get("creationTimestamp")),
        phase=status.get("phase", ""),
        reason=status.get("reason", ""),
        message=status.get("message", ""),
        scheduled=bool(spec.get("nodeName")),
        scheduling_message=scheduled.get("message", "") if scheduled.get("status") == "False" else "",
        deleting="deletionTimestamp" in metadata,
        address=status.get("podIP", ""),
        container=container_state(containers[0]) if containers else ContainerState(),
    )


def claim_record(body: Body) -> ClaimRecord:
    metadata, spec, status = body["metadata"], body.get("spec") or {}, body.get("status") or {}
    requests: Mapping[str, Any] = (spec.get("resources") or {}).get("requests") or {}
    return ClaimRecord(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        model=(metadata.get("labels") or {}).get(MODEL_LABEL, ""),
        owner_uid=controller_uid(body),
        phase=status.get("phase", ""),
        access_modes=tuple(spec.get("accessModes") or ()),
        requested=str(requests.get("storage", "")),
        storage_class=spec.get("storageClassName") or "",
        deleting="deletionTimestamp" in metadata,
        owners=frozenset(str(reference["uid"]) for reference in metadata.get("ownerReferences") or []),
        filled=bool((metadata.get("annotations") or {}).get(FILLED_ANNOTATION)),
    )


def _seconds(text: str | None) -> float:
    return datetime.fromisoformat(text).timestamp() if text else 0.0

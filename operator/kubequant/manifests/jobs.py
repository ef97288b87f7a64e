"""What Jobs of ours have in common: labels that no selector of the engine finds, and the security of their pods."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from kubequant.api.spec import Pod
from kubequant.manifests.names import (
    COMPONENT_LABEL,
    JOB_MODEL_LABEL,
    MANAGED_BY,
    MANAGED_BY_LABEL,
    Owner,
    digest,
    metadata_of,
)
from kubequant.manifests.pod import USER_ID
from kubequant.planning.taints import STANDARD_TOLERATION

Manifest = dict[str, Any]

MAX_JOB_NAME = 63  # its pods carry it as a label


def job_metadata(owner: Owner, name: str, component: str) -> Manifest:
    """Of a Job that belongs to one model."""
    metadata = metadata_of(owner, name)
    return {
        **metadata,
        "labels": {**metadata["labels"], "app.kubernetes.io/name": MANAGED_BY, COMPONENT_LABEL: component},
    }


def job_pod_labels(owner: Owner, component: str) -> dict[str, str]:
    """Of a Job's pods. Without the label that Service, Deployment and PodDisruptionBudget select engines by."""
    return {
        "app.kubernetes.io/name": MANAGED_BY,
        "app.kubernetes.io/instance": owner.name,
        MANAGED_BY_LABEL: MANAGED_BY,
        JOB_MODEL_LABEL: owner.name,
        COMPONENT_LABEL: component,
    }


def job_name(owner: Owner, purpose: str, content: Any) -> str:
    """`<model>-<purpose>-<10 hex of the content>`, the model's name cut where all of it would be too long for a label."""
    suffix = f"-{purpose}-{digest([owner.name, content], 10)}"
    return owner.name[: MAX_JOB_NAME - len(suffix)].rstrip("-") + suffix


def pod_security() -> Manifest:
    """The pod's half of Pod Security `restricted`, as the user that engines run as: what a Job can read, they can."""
    return {
        "runAsNonRoot": True,
        "runAsUser": USER_ID,
        "runAsGroup": USER_ID,
        "fsGroup": USER_ID,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security() -> Manifest:
    """The container's half."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def job_tolerations(pod: Pod) -> list[Manifest]:
    """The user's, and the one for GPU nodes: where a cluster has no others, a Job that asks for no GPU must run there."""
    ours = {name: value for name, value in asdict(STANDARD_TOLERATION).items() if value}
    asked = [
        toleration.model_dump(by_alias=True, exclude_none=True, mode="json") for toleration in pod.tolerations or []
    ]
    return [ours, *asked]

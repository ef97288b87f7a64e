"""What Jobs of ours have in common: their names, and labels that no selector of the engine finds."""

from __future__ import annotations

from typing import Any

from kubequant.manifests.names import (
    COMPONENT_LABEL,
    JOB_MODEL_LABEL,
    MANAGED_BY,
    MANAGED_BY_LABEL,
    Owner,
    digest,
    metadata_of,
)

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

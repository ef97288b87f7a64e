"""What Jobs of ours have in common: their names, what tells of a pod template, and labels that no selector of the engine finds."""

from __future__ import annotations

from collections.abc import Mapping
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

TEMPLATE_ANNOTATION = "kubequant.dev/template"
MAX_JOB_NAME = 63  # its pods carry it as a label


def build_job(owner: Owner, name: str, component: str, spec: Manifest) -> Manifest:
    """A Job that belongs to one model. The template of a Job never changes: its digest tells whether it is what is wanted."""
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": _metadata(owner, name, component, digest(spec["template"], 16)),
        "spec": spec,
    }


def template_of(job: Mapping[str, Any]) -> str:
    """The digest of the pod template that a Job was made with, "" where it says none."""
    return str((job["metadata"].get("annotations") or {}).get(TEMPLATE_ANNOTATION, ""))


def _metadata(owner: Owner, name: str, component: str, template: str) -> Manifest:
    metadata = metadata_of(owner, name, **{TEMPLATE_ANNOTATION: template})
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

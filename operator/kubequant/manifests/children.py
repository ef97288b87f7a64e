"""One builder an object. Each gives a complete manifest for server-side apply, None where the object should not exist."""

from __future__ import annotations

from enum import StrEnum
from importlib import resources
from typing import Any

from kubequant.manifests.names import REVISION_ANNOTATION, Owner, files_name, metadata_of, selector_of
from kubequant.manifests.pod import stamp_revision

Manifest = dict[str, Any]

AUTHORITIES_FILE = "ca.pem"  # beside them: what download.py trusts beyond the public authorities
FILES = ("launcher.py", "download.py", "model_files.py")
NO_DEADLINE_SECONDS = 2**31 - 1  # progressDeadlineSeconds would count the download; failures are told by their cause


class Replacement(StrEnum):
    """How a Deployment replaces pods. Never `Recreate`: the defaulted rollingUpdate fields would refuse it."""

    SURGE = "Surge"  # one more pod first: needs a spare GPU
    IN_PLACE = "InPlace"  # one fewer pod first: needs none


ROLLING_UPDATE = {
    Replacement.SURGE: {"maxSurge": 1, "maxUnavailable": 0},
    Replacement.IN_PLACE: {"maxSurge": 0, "maxUnavailable": 1},
}


def engine_files() -> dict[str, str]:
    """The dependency-free files that run inside the engine's image, by name."""
    folder = resources.files("kubequant.manifests") / "files"
    return {name: (folder / name).read_text(encoding="utf-8") for name in FILES}


def build_files(owner: Owner, files: dict[str, str]) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata_of(owner, files_name(owner, files)),
        "immutable": True,
        "data": dict(files),
    }


def build_revision(owner: Owner, name: str, number: int, data: Manifest) -> Manifest:
    return {
        "apiVersion": "apps/v1",
        "kind": "ControllerRevision",
        "metadata": metadata_of(owner, name),
        "revision": number,
        "data": data,
    }


def build_deployment(owner: Owner, revision: str, template: Manifest, replicas: int, how: Replacement) -> Manifest:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata_of(owner, owner.name, **{REVISION_ANNOTATION: revision}),
        "spec": {
            "replicas": replicas,
            "revisionHistoryLimit": 2,
            "progressDeadlineSeconds": NO_DEADLINE_SECONDS,
            "selector": {"matchLabels": selector_of(owner)},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": ROLLING_UPDATE[how]},
            "template": stamp_revision(template, revision),
        },
    }


def build_service(owner: Owner) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata_of(owner, owner.name),
        "spec": {
            "type": "ClusterIP",
            "selector": selector_of(owner),
            "ports": [{"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP", "appProtocol": "http"}],
        },
    }


def build_disruption_budget(owner: Owner, replicas: int) -> Manifest | None:
    """With one replica a budget would only block node drains."""
    if replicas < 2:
        return None
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata_of(owner, owner.name),
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": selector_of(owner)}},
    }


def endpoint_of(owner: Owner) -> str:
    """Where clients in the cluster find the OpenAI API."""
    return f"http://{owner.name}.{owner.namespace}.svc/v1"

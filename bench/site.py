"""A control plane of the benchmark: 200 KWOK nodes of 8 GPUs, the kind and the ServiceAccount installed."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from bench.figures import first_seen, seconds_between
from tests.harness import Installation, wait_for
from tests.harness.api_server import path_of
from tests.harness.installation import OPERATOR_USER
from tests.localcluster import Cluster
from tests.localcluster.audit import AuditEntry

ROOT = Path(__file__).resolve().parent.parent
NODES, GPUS_PER_NODE = 200, 8
FLEET = {
    "name": "bench",
    "nodes": [
        {
            "name": "gpu",
            "count": NODES,
            "gpu": {
                "product": "NVIDIA-GeForce-RTX-4090",
                "count": GPUS_PER_NODE,
                "memoryMiB": 24564,
                "computeCapability": "8.9",
                "family": "ada-lovelace",
            },
        }
    ],
}
CREATOR_USER = "admin"


@dataclass(frozen=True)
class Site:
    """A cluster, and what the benchmark asks of it."""

    installation: Installation

    @classmethod
    @contextlib.contextmanager
    def temporary(cls) -> Iterator[Site]:
        """Ends with the `with` block, and with this process when that is killed."""
        with Cluster.temporary(fleets=[FLEET], report=_silent) as cluster:
            yield cls(Installation(cluster))

    def make_namespace(self, name: str) -> None:
        self.installation.api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})

    def creating(self, namespace: str, count: int, repository: str) -> list[str]:
        """The command that creates models as an administrator would."""
        kubeconfig = str(self.installation.cluster.kubeconfig)
        return [sys.executable, "-m", "bench.create_models", kubeconfig, namespace, str(count), repository]

    def create(self, namespace: str, count: int, repository: str, seconds: float) -> None:
        """Raises CalledProcessError, TimeoutExpired."""
        command = self.creating(namespace, count, repository)
        subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=True, timeout=seconds)

    def count(self, resource: str, namespace: str) -> int:
        """How many objects there are, without their bodies: polling must not load the server that is measured."""
        page = self.installation.api.send("GET", path_of(resource, namespace), query={"limit": "1"})
        return len(page["items"]) + int(page["metadata"].get("remainingItemCount", 0))

    def wait_for_count(self, resource: str, namespace: str, count: int, seconds: float) -> None:
        what = f"{count} {resource} in {namespace}"
        wait_for(what, lambda: self.count(resource, namespace) >= count, seconds=seconds, every=0.5)

    def wait_for_pods(self, namespace: str, count: int, seconds: float) -> None:
        """Until that many Deployments of a namespace have a ready pod."""

        def ready() -> bool:
            return sum(map(_is_ready, self.installation.list("deployments", namespace))) >= count

        wait_for(f"{count} ready Deployments in {namespace}", ready, seconds=seconds, every=3)

    def wait_for_ready(self, namespace: str, count: int, seconds: float) -> None:
        """Until that many models of a namespace say Ready=True."""

        def ready() -> bool:
            return sum(map(_says_ready, self.installation.list("qm", namespace))) >= count

        wait_for(f"{count} Ready models in {namespace}", ready, seconds=seconds, every=2)

    def operator_requests(self, since: datetime) -> list[AuditEntry]:
        return list(self.installation.cluster.audit_entries(OPERATOR_USER, since))

    def create_to_deployment(self, namespace: str, since: datetime) -> list[float]:
        """Seconds from the request that creates a model to the first that applies its Deployment. Raises ValueError."""
        created = self.installation.cluster.audit_entries(CREATOR_USER, since)
        applied = self.installation.cluster.audit_entries(OPERATOR_USER, since)
        return seconds_between(
            first_seen(created, "create", "quantizedmodels", namespace),
            first_seen(applied, "patch", "deployments", namespace),
        )


def _is_ready(deployment: dict[str, Any]) -> bool:
    status = deployment.get("status") or {}
    return bool(status.get("readyReplicas"))


def _says_ready(model: dict[str, Any]) -> bool:
    conditions = (model.get("status") or {}).get("conditions", [])
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def _silent(_: str) -> None:
    """The cluster's own progress: not a figure."""

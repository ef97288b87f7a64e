"""A local cluster with the kind and the operator's ServiceAccount installed, and short words for what tests ask of it."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

from tests.harness.models import QuantizedModelBuilder
from tests.harness.waiting import wait_for
from tests.localcluster import Cluster

ROOT = Path(__file__).resolve().parents[2]
NAMESPACE = "kubequant-system"
SERVICE_ACCOUNT = "kubequant-operator"
OPERATOR_USER = f"system:serviceaccount:{NAMESPACE}:{SERVICE_ACCOUNT}"


class Installation:
    """Applies crds/ and the chart's RBAC on `cluster`."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        cluster.kubectl("apply", "--server-side", "-f", str(ROOT / "crds"))
        cluster.kubectl("apply", "-f", str(ROOT / "charts/kubequant/templates/rbac.yaml"))
        cluster.kubectl("wait", "--for=condition=Established", "crd/quantizedmodels.kubequant.dev", "--timeout=30s")
        self.operator_kubeconfig = cluster.service_account_kubeconfig(NAMESPACE, SERVICE_ACCOUNT)

    def apply(self, model: QuantizedModelBuilder | dict[str, Any]) -> None:
        body = model.manifest() if isinstance(model, QuantizedModelBuilder) else model
        self.cluster.kubectl("apply", "-f", "-", stdin=json.dumps(body))

    def get(self, resource: str, name: str, namespace: str = "default") -> dict[str, Any] | None:
        """One object, None where there is none."""
        text = self.cluster.kubectl("-n", namespace, "get", resource, name, "-o", "json", "--ignore-not-found")
        return json.loads(text) if text.strip() else None

    def list(self, resource: str, namespace: str | None = "default", selector: str = "") -> list[dict[str, Any]]:
        scope = ["-n", namespace] if namespace else ["-A"]
        select = ["-l", selector] if selector else []
        return json.loads(self.cluster.kubectl(*scope, "get", resource, *select, "-o", "json"))["items"]

    def patch(self, resource: str, name: str, patch: dict[str, Any], namespace: str = "default") -> None:
        self.cluster.kubectl("-n", namespace, "patch", resource, name, "--type=merge", "-p", json.dumps(patch))

    def delete(self, resource: str, name: str, namespace: str = "default") -> None:
        self.cluster.kubectl("-n", namespace, "delete", resource, name, "--ignore-not-found", "--wait=false")

    def condition(self, name: str, kind: str, namespace: str = "default") -> dict[str, Any]:
        """One condition of a QuantizedModel, empty while there is none."""
        model = self.get("qm", name, namespace) or {}
        found = [c for c in (model.get("status") or {}).get("conditions", []) if c["type"] == kind]
        return found[0] if found else {}

    def wait_condition(
        self,
        name: str,
        kind: str,
        status: str,
        reason: str | None = None,
        *,
        namespace: str = "default",
        seconds: float = 30,
    ) -> dict[str, Any]:
        """Waits until a condition says this of the present generation. Raises TimeoutError with what it says instead."""
        last: dict[str, Any] = {}

        def says() -> dict[str, Any] | None:
            nonlocal last
            model = self.get("qm", name, namespace) or {}
            conditions = (model.get("status") or {}).get("conditions", [])
            last = next((c for c in conditions if c["type"] == kind), {})
            current = last.get("observedGeneration") == model.get("metadata", {}).get("generation")
            right = last.get("status") == status and (reason is None or last.get("reason") == reason)
            return last if current and right else None

        try:
            return wait_for(f"{kind}={status} {reason or ''} of {name}", says, seconds=seconds)
        except TimeoutError as error:
            raise TimeoutError(f"{error}; the condition says {last}") from None

    def wait_gone(self, resource: str, name: str, namespace: str = "default", seconds: float = 60) -> None:
        wait_for(f"{resource}/{name} to be gone", lambda: self.get(resource, name, namespace) is None, seconds=seconds)

    def delete_all_models(self, seconds: float = 120) -> None:
        """Deletes every model and waits until the garbage collector has taken what they owned."""
        self.cluster.kubectl("delete", "qm", "-A", "--all", "--wait=true", timeout=seconds)
        ours = "app.kubernetes.io/managed-by=kubequant"
        wait_for(
            "everything owned by models to be gone",
            lambda: not self.list("deployments,services,configmaps,controllerrevisions,pods,pdb", None, ours),
            seconds=seconds,
            every=0.5,
        )

    def refused(self, body: dict[str, Any]) -> str:
        """What the API server says to a body that it refuses. Raises AssertionError when it takes it."""
        try:
            self.cluster.kubectl("apply", "--dry-run=server", "-f", "-", stdin=json.dumps(body))
        except subprocess.CalledProcessError as error:
            return str(error.stderr)
        raise AssertionError(f"the API server took {json.dumps(body['spec'])}")

    def operator_writes(self, since: float = 0.0) -> dict[str, int]:
        """Writes of the operator by `verb resource[/subresource]`, Events and Lease aside, from the audit log."""
        verbs = {"create", "update", "patch", "delete"}
        counts = self.cluster.audit_counts(user_prefix=OPERATOR_USER, verbs=verbs, since=since)
        return {
            f"{key.verb} {key.resource}{'/' + key.subresource if key.subresource else ''}": count
            for key, count in counts.items()
            if key.resource not in ("events", "leases")
        }

    @staticmethod
    def now() -> float:
        return time.time()

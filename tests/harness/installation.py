"""A local cluster with the kind and the operator's ServiceAccount installed, and short words for what tests ask of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.harness.api_server import ApiServer, Objects, RefusedByServerError
from tests.harness.models import QuantizedModelBuilder
from tests.harness.waiting import wait_for
from tests.localcluster import Cluster

ROOT = Path(__file__).resolve().parents[2]
TEMPLATES = ROOT / "charts/kubequant/templates"
NAMESPACE = "kubequant-system"
SERVICE_ACCOUNT = "kubequant-operator"
OPERATOR_USER = f"system:serviceaccount:{NAMESPACE}:{SERVICE_ACCOUNT}"
OWNED = "app.kubernetes.io/managed-by=kubequant"
OWNED_RESOURCES = "deployments,services,configmaps,controllerrevisions,pods,pdb,jobs,persistentvolumeclaims"
WRITES = frozenset({"create", "update", "patch", "delete"})


class Installation:
    """Applies crds/ and the chart's RBAC on `cluster`."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        cluster.kubectl("apply", "--server-side", "-f", str(ROOT / "crds"))
        cluster.kubectl("apply", "-f", str(TEMPLATES / "rbac.yaml"))
        cluster.kubectl("wait", "--for=condition=Established", "crd/quantizedmodels.kubequant.dev", "--timeout=30s")
        self.operator_kubeconfig = cluster.service_account_kubeconfig(NAMESPACE, SERVICE_ACCOUNT)
        self.api = ApiServer(cluster.kubeconfig)

    @contextmanager
    def model_cache_allowed(self) -> Iterator[None]:
        """While it lasts the operator may make claims of its own, as modelCache PersistentVolumeClaim needs."""
        role = str(TEMPLATES / "model-cache-rbac.yaml")
        self.cluster.kubectl("apply", "-f", role)
        try:
            wait_for("the right to make claims", lambda: self.operator_may("create", "", "persistentvolumeclaims"))
            yield
        finally:
            self.cluster.kubectl("delete", "-f", role)

    def operator_may(
        self, verb: str, group: str, resource: str, subresource: str = "", namespace: str = "default"
    ) -> bool:
        """What the API server's authorizers say of the operator's ServiceAccount."""
        attributes = {"verb": verb, "group": group, "resource": resource, "subresource": subresource}
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {
                "user": OPERATOR_USER,
                "groups": ["system:authenticated", "system:serviceaccounts", f"system:serviceaccounts:{NAMESPACE}"],
                "resourceAttributes": {**attributes, "namespace": namespace},
            },
        }
        answer = self.api.send("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", body)
        return bool(answer["status"]["allowed"])

    def apply(self, model: QuantizedModelBuilder | dict[str, Any]) -> dict[str, Any]:
        return self.api.apply(_body(model))

    def get(self, resource: str, name: str, namespace: str = "default") -> dict[str, Any] | None:
        """One object, None where there is none."""
        return self.api.get(resource, name, namespace)

    def existing(self, resource: str, name: str, namespace: str = "default") -> dict[str, Any]:
        """One object that must be there."""
        found = self.api.get(resource, name, namespace)
        assert found is not None, f"{resource}/{name} is not there"
        return found

    def list(self, resource: str, namespace: str | None = "default", selector: str = "") -> Objects:
        """Objects of one or, separated by commas, several resources; of all namespaces where None is given."""
        return [item for word in resource.split(",") for item in self.api.list(word, namespace, selector)]

    def patch(self, resource: str, name: str, patch: dict[str, Any], namespace: str = "default") -> dict[str, Any]:
        return self.api.patch(resource, name, patch, namespace)

    def delete(self, resource: str, name: str, namespace: str = "default") -> None:
        self.api.delete(resource, name, namespace)

    def status(self, name: str, namespace: str = "default") -> dict[str, Any]:
        """The status of a QuantizedModel, empty while there is none."""
        return (self.get("qm", name, namespace) or {}).get("status") or {}

    def pods(self, name: str, namespace: str = "default") -> Objects:
        """Pods of a model that are not on their way out."""
        found = self.api.list("pods", namespace, f"kubequant.dev/model={name}")
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def revisions(self, name: str, namespace: str = "default") -> Objects:
        """ControllerRevisions of a model, oldest first."""
        found = self.api.list("controllerrevisions", namespace, f"kubequant.dev/model={name}")
        return sorted(found, key=lambda revision: int(revision["revision"]))

    def condition(self, name: str, kind: str, namespace: str = "default") -> dict[str, Any]:
        """One condition of a QuantizedModel, empty while there is none."""
        found = [c for c in self.status(name, namespace).get("conditions", []) if c["type"] == kind]
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
            return wait_for(f"{kind}={status} {reason or ''} of {name}", says, seconds=seconds, every=0.1)
        except TimeoutError as error:
            raise TimeoutError(f"{error}; the condition says {last}") from None

    def wait_gone(self, resource: str, name: str, namespace: str = "default", seconds: float = 60) -> None:
        wait_for(f"{resource}/{name} to be gone", lambda: self.get(resource, name, namespace) is None, seconds=seconds)

    def delete_all_models(self, seconds: float = 120) -> None:
        """Deletes every model and waits until the garbage collector has taken what they owned."""
        self.cluster.kubectl("delete", "qm", "-A", "--all", "--wait=true", timeout=seconds)
        wait_for(
            "everything owned by models to be gone",
            lambda: not self.list(OWNED_RESOURCES, None, OWNED),
            seconds=seconds,
            every=0.5,
        )

    def refused(self, model: QuantizedModelBuilder | dict[str, Any]) -> str:
        """What the API server says to a body that it refuses. Raises AssertionError when it takes it."""
        try:
            self.api.create(_body(model), dry_run=True)
        except RefusedByServerError as error:
            return error.message
        raise AssertionError(f"the API server took {_body(model).get('spec')}")

    def operator_writes(self, since: datetime | None = None) -> dict[str, int]:
        """Writes of the operator by `verb resource[/subresource]`, Events and Lease aside, from the audit log."""
        counts = self.cluster.audit_counts(user_prefix=OPERATOR_USER, verbs=WRITES, since=since)
        return {
            f"{key.verb} {key.resource}{'/' + key.subresource if key.subresource else ''}": count
            for key, count in counts.items()
            if key.resource not in ("events", "leases")
        }

    @staticmethod
    def now() -> datetime:
        return datetime.now(UTC)


def _body(model: QuantizedModelBuilder | dict[str, Any]) -> dict[str, Any]:
    return model.manifest() if isinstance(model, QuantizedModelBuilder) else model

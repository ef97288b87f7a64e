"""The API server over HTTP, as kubectl speaks to it but without a process for each word (0.3 s each)."""

from __future__ import annotations

import base64
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import yaml

TIMEOUT_SECONDS = 30

Objects = list[dict[str, Any]]

# By the words of kubectl: the path of the group and version, the plural, whether it is namespaced.
_RESOURCES: Mapping[str, tuple[str, str, bool]] = {
    **dict.fromkeys(("qm", "quantizedmodels"), ("/apis/kubequant.dev/v1alpha1", "quantizedmodels", True)),
    **dict.fromkeys(("pdb", "poddisruptionbudgets"), ("/apis/policy/v1", "poddisruptionbudgets", True)),
    **{name: ("/apis/apps/v1", name, True) for name in ("deployments", "replicasets", "controllerrevisions")},
    **{
        name: ("/api/v1", name, True)
        for name in (
            "pods",
            "services",
            "configmaps",
            "resourcequotas",
            "secrets",
            "serviceaccounts",
            "persistentvolumeclaims",
        )
    },
    **{name: ("/api/v1", name, False) for name in ("nodes", "namespaces", "persistentvolumes")},
    "jobs": ("/apis/batch/v1", "jobs", True),
    "events": ("/apis/events.k8s.io/v1", "events", True),
    "leases": ("/apis/coordination.k8s.io/v1", "leases", True),
    "runtimeclasses": ("/apis/node.k8s.io/v1", "runtimeclasses", False),
    "priorityclasses": ("/apis/scheduling.k8s.io/v1", "priorityclasses", False),
    "crd": ("/apis/apiextensions.k8s.io/v1", "customresourcedefinitions", False),
}
_KINDS = {
    "QuantizedModel": "qm",
    "PodDisruptionBudget": "pdb",
    "CustomResourceDefinition": "crd",
    "RuntimeClass": "runtimeclasses",
    "PriorityClass": "priorityclasses",
}


class RefusedByServerError(Exception):
    """The API server said no; `status` is HTTP's, the message its own."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status
        self.message = message


class ApiServer:
    """Speaks to one API server with the credentials of a kubeconfig."""

    def __init__(self, kubeconfig: Path) -> None:
        document = yaml.safe_load(kubeconfig.read_text())
        cluster, user = document["clusters"][0]["cluster"], document["users"][0]["user"]
        authority = cluster.get("certificate-authority-data")
        context = ssl.create_default_context(
            cafile=None if authority else cluster["certificate-authority"],
            cadata=base64.b64decode(authority).decode() if authority else None,
        )
        if "client-certificate" in user:
            context.load_cert_chain(user["client-certificate"], user["client-key"])
        headers = {"Authorization": f"Bearer {user['token']}"} if "token" in user else {}
        self._http = httpx.Client(
            base_url=cluster["server"],
            verify=context,
            headers=headers,
            timeout=TIMEOUT_SECONDS,
            trust_env=False,  # the server is on loopback: no proxy of the environment stands between
        )

    def get(self, resource: str, name: str, namespace: str | None = None) -> dict[str, Any] | None:
        """One object, None where there is none."""
        try:
            return self.send("GET", path_of(resource, namespace, name))
        except RefusedByServerError as error:
            if error.status == httpx.codes.NOT_FOUND:
                return None
            raise

    def list(self, resource: str, namespace: str | None = None, selector: str = "") -> Objects:
        query = {"labelSelector": selector} if selector else {}
        items: Objects = self.send("GET", path_of(resource, namespace), query=query)["items"]
        return items

    def create(self, body: dict[str, Any], *, dry_run: bool = False) -> dict[str, Any]:
        """Creates an object; fields that the kind does not know are refused, as kubectl has it."""
        query = {"fieldValidation": "Strict", **({"dryRun": "All"} if dry_run else {})}
        resource, namespace, _ = _address(body)
        return self.send("POST", path_of(resource, namespace), body, query=query)

    def apply(self, body: dict[str, Any], manager: str = "kubectl") -> dict[str, Any]:
        """Server-side apply."""
        resource, namespace, name = _address(body)
        query = {"fieldManager": manager, "force": "true", "fieldValidation": "Strict"}
        return self.send("PATCH", path_of(resource, namespace, name), body, "application/apply-patch+yaml", query)

    def patch(
        self, resource: str, name: str, change: dict[str, Any], namespace: str | None = None, subresource: str = ""
    ) -> dict[str, Any]:
        """Merge patch."""
        path = path_of(resource, namespace, name) + (f"/{subresource}" if subresource else "")
        return self.send("PATCH", path, change, "application/merge-patch+json")

    def delete(self, resource: str, name: str, namespace: str | None = None) -> None:
        """One that is gone already is no error."""
        try:
            self.send("DELETE", path_of(resource, namespace, name))
        except RefusedByServerError as error:
            if error.status != httpx.codes.NOT_FOUND:
                raise

    def send(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        content_type: str = "application/json",
        query: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """One request. Raises RefusedByServerError with the server's own words."""
        headers = {"Content-Type": content_type} if body is not None else {}
        for attempt in (1, 2):
            try:
                response = self._http.request(method, path, json=body, params=query, headers=headers)
                break
            except httpx.TransportError:  # a connection of before a restart of the server
                if attempt == 2 or method == "POST":
                    raise
        document: dict[str, Any] = response.json()
        if response.is_error:
            raise RefusedByServerError(response.status_code, str(document.get("message", document)))
        return document


def path_of(resource: str, namespace: str | None = None, name: str = "") -> str:
    """URL path of a collection or an object, by kubectl's word for the resource in singular or plural."""
    prefix, plural, namespaced = _RESOURCES.get(resource) or _RESOURCES[f"{resource}s"]
    scope = f"/namespaces/{namespace}" if namespaced and namespace else ""
    return f"{prefix}{scope}/{plural}" + (f"/{name}" if name else "")


def _address(body: dict[str, Any]) -> tuple[str, str | None, str]:
    kind, metadata = body["kind"], body["metadata"]
    return _KINDS.get(kind, kind.lower()), metadata.get("namespace"), metadata.get("name", "")

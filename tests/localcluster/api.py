"""A small client of the API server for the tool itself: no kubectl process for each poll."""

import ssl
from pathlib import Path
from typing import Any

import httpx
import yaml

from .errors import ClusterError

_TIMEOUT_SECONDS = 15
_FIELD_MANAGER = "kubequant-localcluster"


class ApiClient:
    """Speaks JSON to one API server with the client certificate of a kubeconfig."""

    def __init__(self, kubeconfig: Path) -> None:
        document = yaml.safe_load(kubeconfig.read_text())
        cluster, user = document["clusters"][0]["cluster"], document["users"][0]["user"]
        context = ssl.create_default_context(cafile=cluster["certificate-authority"])
        context.load_cert_chain(user["client-certificate"], user["client-key"])
        # The server is on loopback: a proxy of the environment must not stand between.
        self._http = httpx.Client(base_url=cluster["server"], verify=context, timeout=_TIMEOUT_SECONDS, trust_env=False)

    def is_ready(self) -> bool:
        """Whether the server answers /readyz with 200; False while it cannot be reached."""
        try:
            return self._http.get("/readyz").status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    def get(self, path: str, **query: str) -> dict[str, Any] | None:
        """An object or a list, None when the server knows it not. Raises ClusterError on other refusals."""
        response = self._send("GET", path, params=query)
        return None if response.status_code == httpx.codes.NOT_FOUND else _document(response)

    def apply(self, path: str, manifest: dict[str, Any]) -> dict[str, Any]:
        """Server-side apply; `path` is the object's own. Takes over fields that somebody else set."""
        return _document(
            self._send(
                "PATCH", path, json=manifest, params={"fieldManager": _FIELD_MANAGER, "force": "true"},
                headers={"Content-Type": "application/apply-patch+yaml"},
            )
        )  # fmt: skip

    def patch(self, path: str, change: dict[str, Any]) -> dict[str, Any]:
        """Merge patch."""
        headers = {"Content-Type": "application/merge-patch+json"}
        return _document(self._send("PATCH", path, json=change, headers=headers))

    def delete(self, path: str, **query: str) -> None:
        """Delete an object or a collection; one that is gone already is no error."""
        response = self._send("DELETE", path, params=query)
        if response.status_code != httpx.codes.NOT_FOUND:
            _document(response)

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            return self._http.request(method, path, **options)
        except httpx.HTTPError as error:
            raise ClusterError(f"{method} {path} failed: {error!r}") from error


def _document(response: httpx.Response) -> dict[str, Any]:
    document: dict[str, Any] = response.json()
    if response.is_error:
        request = response.request
        raise ClusterError(f"{request.method} {request.url.path}: {response.status_code} {document.get('message', '')}")
    return document

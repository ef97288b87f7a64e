"""The API server as a small protocol over plain dicts, and its implementation over `kubernetes.aio`.

The official client is used as transport alone (connections, kube-config, token refresh): its typed models would refuse
fields that are newer or older than the client. What it lacks stands here: one bound on requests under way, and back-off
with jitter that honours Retry-After.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from typing import Any, Protocol
from urllib.parse import urlencode
from urllib.request import getproxies

import aiohttp
from kubernetes.aio import client, config
from kubernetes.aio.client.exceptions import ApiException

from kubequant.cluster.kinds import Kind

Body = dict[str, Any]

REQUEST_TIMEOUT_SECONDS = 30
ATTEMPTS = 5
LONGEST_PAUSE_SECONDS = 10.0
PAGE_SIZE = 50  # a page is held whole; bodies of 45 kB are a multiple of that once parsed
_JSON = "application/json"
_METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
_PASSING = frozenset({429, 500, 502, 503, 504})


class ApiError(Exception):
    """The API server's refusal. `status` is the HTTP status, 0 when nothing answered; `reason` its machine word."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message

    @property
    def is_not_found(self) -> bool:
        return self.status == 404

    @property
    def is_conflict(self) -> bool:
        return self.status == 409

    @property
    def is_passing(self) -> bool:
        """Whether the same request may succeed later."""
        return self.status == 0 or self.status in _PASSING


class KubeApi(Protocol):
    """What the rooms above need of the API server. Every method raises ApiError."""

    async def get(self, kind: Kind, namespace: str | None, name: str) -> Body | None: ...

    def list(
        self, kind: Kind, *, namespace: str | None = None, label_selector: str = "", metadata_only: bool = False
    ) -> AsyncIterator[Body]: ...

    async def apply(
        self, kind: Kind, body: Body, *, field_manager: str, force: bool = True, subresource: str | None = None
    ) -> Body: ...

    async def create(self, kind: Kind, body: Body) -> Body: ...

    async def replace(self, kind: Kind, body: Body) -> Body: ...

    async def merge_patch(self, kind: Kind, namespace: str | None, name: str, patch: Body) -> Body: ...

    async def delete(
        self,
        kind: Kind,
        namespace: str | None,
        name: str,
        *,
        uid: str | None = None,
        resource_version: str | None = None,
    ) -> None: ...


class HttpKubeApi:
    """KubeApi over HTTP. Make it within the event loop that uses it; `close()` it there."""

    def __init__(self, configuration: client.Configuration, *, concurrency: int = 32) -> None:
        configuration.connection_pool_maxsize = concurrency
        # Left on, each request reads ~/.netrc in a thread: a quarter of the client's CPU. Proxies need it on.
        configuration.client_session_kwargs = {"trust_env": bool(getproxies())}
        self._client = client.ApiClient(configuration)
        self._slots = asyncio.Semaphore(concurrency)

    async def close(self) -> None:
        await self._client.close()

    async def get(self, kind: Kind, namespace: str | None, name: str) -> Body | None:
        """The object, or None where there is none."""
        try:
            return await self._request("GET", kind.path(namespace, name))
        except ApiError as error:
            if error.is_not_found:
                return None
            raise

    async def list(
        self, kind: Kind, *, namespace: str | None = None, label_selector: str = "", metadata_only: bool = False
    ) -> AsyncIterator[Body]:
        """All objects, page by page; each has its kind filled in, which lists leave out."""
        accept = _METADATA_LIST if metadata_only else _JSON
        query: dict[str, str] = {"limit": str(PAGE_SIZE)}
        if label_selector:
            query["labelSelector"] = label_selector
        while True:
            page = await self._request("GET", f"{kind.path(namespace)}?{urlencode(query)}", accept=accept)
            for item in page.get("items") or []:
                yield {**item, "apiVersion": kind.api_version, "kind": kind.kind}
            token = page.get("metadata", {}).get("continue")
            if not token:
                return
            query["continue"] = token

    async def apply(
        self, kind: Kind, body: Body, *, field_manager: str, force: bool = True, subresource: str | None = None
    ) -> Body:
        """Server-side apply of the complete intent of one field manager."""
        metadata = body["metadata"]
        query = urlencode({"fieldManager": field_manager, "force": "true" if force else "false"})
        path = kind.path(metadata.get("namespace"), metadata["name"], subresource)
        return await self._request("PATCH", f"{path}?{query}", body, "application/apply-patch+yaml")

    async def create(self, kind: Kind, body: Body) -> Body:
        return await self._request("POST", kind.path(body["metadata"].get("namespace")), body)

    async def replace(self, kind: Kind, body: Body) -> Body:
        metadata = body["metadata"]
        return await self._request("PUT", kind.path(metadata.get("namespace"), metadata["name"]), body)

    async def merge_patch(self, kind: Kind, namespace: str | None, name: str, patch: Body) -> Body:
        return await self._request("PATCH", kind.path(namespace, name), patch, "application/merge-patch+json")

    async def delete(
        self,
        kind: Kind,
        namespace: str | None,
        name: str,
        *,
        uid: str | None = None,
        resource_version: str | None = None,
    ) -> None:
        """Deletes the object, or does nothing where it is gone; with `uid` only that very object, with `resource_version`
        only as it was read. Another one, or a changed one, is a conflict."""
        options: Body = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        asked = {"uid": uid, "resourceVersion": resource_version}
        preconditions = {name: value for name, value in asked.items() if value}
        if preconditions:
            options["preconditions"] = preconditions
        try:
            await self._request("DELETE", kind.path(namespace, name), options)
        except ApiError as error:
            if not error.is_not_found:
                raise

    async def _request(
        self, method: str, path: str, body: Body | None = None, content_type: str = _JSON, accept: str = _JSON
    ) -> Body:
        headers = {"Accept": accept, "Content-Type": content_type}
        for attempt in range(1, ATTEMPTS + 1):
            try:
                async with self._slots:
                    return await self._once(method, path, body, headers)
            except _Again as again:
                if attempt == ATTEMPTS:
                    raise again.error from again
                await asyncio.sleep(again.pause_seconds(attempt))
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def _once(self, method: str, path: str, body: Body | None, headers: dict[str, str]) -> Body:
        try:
            call = await self._client.param_serialize(
                method,
                path,
                header_params=headers,
                body=body,
                auth_settings=["BearerToken"],
            )
            response = await self._client.call_api(*call, _request_timeout=REQUEST_TIMEOUT_SECONDS)
            payload = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            # A request that may have been carried out is repeated only where that changes nothing.
            failure = ApiError(0, "Unreachable", str(error) or type(error).__name__)
            if method == "POST":
                raise failure from error
            raise _Again(failure) from error
        except ApiException as error:  # raised by the client for some statuses
            raise ApiError(error.status or 0, error.reason or "", str(error.body)) from error
        if response.status < 400:
            return _parsed(response.status, payload)
        failure = _error_of(response.status, payload)
        if failure.is_passing and not (method == "POST" and response.status != 429):
            raise _Again(failure, response.headers.get("Retry-After"))
        raise failure


class _Again(Exception):
    """A passing failure on its way to the retry loop."""

    def __init__(self, error: ApiError, retry_after: str | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self._retry_after = float(retry_after) if retry_after and retry_after.isdigit() else 0.0

    def pause_seconds(self, attempt: int) -> float:
        """Exponential with full jitter, at least what the server asked for, bounded."""
        backoff = random.uniform(0, min(LONGEST_PAUSE_SECONDS, 0.2 * 2**attempt))  # noqa: S311 - jitter, no secret
        return min(LONGEST_PAUSE_SECONDS, max(self._retry_after, backoff))


def _parsed(status: int, payload: bytes) -> Body:
    try:
        parsed: Body = json.loads(payload)
    except ValueError as error:  # a proxy in between that answers for itself
        raise ApiError(status, "Unreadable", f"the answer is no JSON: {payload[:200]!r}") from error
    return parsed


def _error_of(status: int, payload: bytes) -> ApiError:
    try:
        parsed = json.loads(payload)
        return ApiError(status, str(parsed.get("reason", "")), str(parsed.get("message", "")))
    except (ValueError, AttributeError):
        return ApiError(status, "", payload[:500].decode(errors="replace"))


async def load_configuration(kubeconfig: str | None) -> client.Configuration:
    """From the kube-config file named, or from the pod's own ServiceAccount when there is none."""
    configuration = client.Configuration()
    if kubeconfig:
        await config.load_kube_config(config_file=kubeconfig, client_configuration=configuration)
    else:
        config.load_incluster_config(client_configuration=configuration)
    return configuration

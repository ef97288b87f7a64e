"""What the commands read of the current cluster: its nodes, what runs on them, and one QuantizedModel."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import AsyncIterator, Set
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

from kubernetes.aio.config import ConfigException

from kubequant.cluster.api import ApiError, HttpKubeApi, load_configuration
from kubequant.cluster.kinds import NODE, POD
from kubequant.planning.gpus import NodeFacts, Used
from kubequant.reconcile.kinds import QUANTIZED_MODEL
from kubequant.reconcile.records import gpus_in_use, node_facts

log = logging.getLogger(__name__)


async def seen_in_cluster(
    kubeconfig: str | None, pool_labels: Set[str], *, with_free: bool
) -> tuple[list[NodeFacts], Used | None]:
    """The nodes, and what pods hold of their GPUs where that is asked for and pods may be listed.

    Raises ApiError, ConfigException, OSError.
    """
    async with _api(kubeconfig) as api:
        nodes = [node_facts(body, pool_labels) async for body in api.list(NODE)]
        return nodes, await _used(api) if with_free else None


async def _used(api: HttpKubeApi) -> Used | None:
    try:
        held: Counter[tuple[str, str]] = Counter()
        async for pod in api.list(POD):
            held.update(gpus_in_use([pod]))
    except ApiError as error:
        if error.status != HTTPStatus.FORBIDDEN:
            raise
        log.warning("pods may not be listed, so nobody can say how many GPUs are free: %s", error.message)
        return None
    return held


async def live_model(kubeconfig: str | None, namespace: str, name: str) -> dict[str, Any] | None:
    """The QuantizedModel as the cluster has it, None where it has none. Raises ApiError, ConfigException, OSError."""
    async with _api(kubeconfig) as api:
        return await api.get(QUANTIZED_MODEL, namespace, name)


@asynccontextmanager
async def _api(kubeconfig: str | None) -> AsyncIterator[HttpKubeApi]:
    """The cluster of the kube-config named, of the pod that this runs in, or of the user's own file, as kubectl has it."""
    api = HttpKubeApi(await load_configuration(kubeconfig or _users_own()))
    try:
        yield api
    finally:
        await api.close()


def _users_own() -> str | None:
    """None within a pod, whose ServiceAccount counts. Raises ConfigException where the user has no file."""
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        return None
    file = Path("~/.kube/config").expanduser()
    if not file.is_file():
        raise ConfigException(f"no --kubeconfig is given and there is no {file}")
    return str(file)

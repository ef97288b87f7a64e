"""What the commands read of the current cluster: its nodes, what runs on them, and one QuantizedModel."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Set
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

import yaml
from kubernetes.aio.config import ConfigException

from kubequant.cli.options import Misuse
from kubequant.cluster.api import ApiError, HttpKubeApi, load_configuration
from kubequant.cluster.kinds import NODE, POD
from kubequant.planning.gpus import NodeFacts, Used
from kubequant.planning.values import UnreadableNode
from kubequant.reconcile.kinds import QUANTIZED_MODEL
from kubequant.reconcile.records import gpus_in_use, node_facts

_KUBECONFIG_LISTS = ("clusters", "contexts", "users")
_OTHER_MAKERS = re.compile(r"(amd)\.com/gpu.*|gpu\.(intel)\.com/(?!memory|millicores|tiles).*|habana\.ai/gaudi")

log = logging.getLogger(__name__)


async def seen_in_cluster(
    kubeconfig: str | None, pool_labels: Set[str], *, with_free: bool
) -> tuple[list[NodeFacts], list[UnreadableNode], Used | None]:
    """The nodes, those with GPUs of other makers, and what pods hold where that is asked for and pods may be listed.

    Raises Misuse, ApiError, ConfigException, OSError.
    """
    async with _api(kubeconfig) as api:
        nodes, others = [], []
        async for body in api.list(NODE):
            nodes.append(node_facts(body, pool_labels))
            if other := other_makers_gpus(body):
                others.append(other)
        return nodes, others, await _used(api) if with_free else None


def other_makers_gpus(body: Mapping[str, Any]) -> UnreadableNode | None:
    """A Node that offers GPUs of other makers than NVIDIA, which `node_facts` passes over."""
    allocatable = (body.get("status") or {}).get("allocatable") or {}
    found = sorted(name for name, count in allocatable.items() if _OTHER_MAKERS.fullmatch(name) and str(count) != "0")
    if not found:
        return None
    offered = ", ".join(f"{allocatable[name]} {name}" for name in found)
    return UnreadableNode(body["metadata"]["name"], f"advertises {offered}: only NVIDIA's GPUs are planned on")


def check_kubeconfig(named: str) -> None:
    """Raises Misuse where no file of this list, parted as $KUBECONFIG is, can be a kube-config, and OSError."""
    files = [file for part in named.split(os.pathsep) if part and (file := Path(part).expanduser()).exists()]
    if not files:
        raise Misuse(f"there is no kube-config {named} (--kubeconfig, $KUBECONFIG)")
    for file in files:
        try:
            body = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (ValueError, yaml.YAMLError, RecursionError) as error:
            raise Misuse(f"{file} (--kubeconfig, $KUBECONFIG) is no kube-config: it cannot be read as YAML") from error
        if not (
            isinstance(body, Mapping) and all(_is_list_of_mappings(body.get(field)) for field in _KUBECONFIG_LISTS)
        ):
            raise Misuse(
                f"{file} (--kubeconfig, $KUBECONFIG) is no kube-config: that has lists of clusters, contexts and users"
            )


def _is_list_of_mappings(value: Any) -> bool:
    return value is None or (isinstance(value, list) and all(isinstance(item, Mapping) for item in value))


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
    """The QuantizedModel as the cluster has it, None where it has none. Raises as `seen_in_cluster`."""
    async with _api(kubeconfig) as api:
        return await api.get(QUANTIZED_MODEL, namespace, name)


@asynccontextmanager
async def _api(kubeconfig: str | None) -> AsyncIterator[HttpKubeApi]:
    """The cluster of the kube-config named, of the pod that this runs in, or of the user's own file, as kubectl has it."""
    if kubeconfig:
        check_kubeconfig(kubeconfig)
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

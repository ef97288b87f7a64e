"""Fleets: a few lines of YAML that become Node objects with the labels of NVIDIA's GPU Feature Discovery (GFD).

    name: boxes
    nodes:
    - name: rtx4090                # nodes rtx4090-0, rtx4090-1
      count: 2
      gpu:                         # absent: a CPU node
        product: NVIDIA-GeForce-RTX-4090
        count: 2
        memoryMiB: 24564
        computeCapability: "8.9"
        family: ada-lovelace
        labelled: true             # false: GPUs without GFD, only the resource
      labels: {example: "yes"}     # added last: overrides GFD's; null takes a label away
      taints: [{key: a, value: b, effect: NoSchedule}]
      resources: {nvidia.com/mig-3g.40gb: 2, cpu: 64}

The keys `count` (nodes), `labels`, `taints` and `resources` may be left out.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from .errors import ClusterError
from .paths import PACKAGE

FLEET_LABEL = "localcluster.kubequant.dev/fleet"
FAKE_NODE_TAINT = {"key": "kwok.x-k8s.io/node", "value": "fake", "effect": "NoSchedule"}
_CAPACITY = {"cpu": "64", "memory": "512Gi", "ephemeral-storage": "4Ti", "pods": "250"}
_NODE_KEYS = {"name", "count", "gpu", "labels", "taints", "resources"}
_GPU_KEYS = {"product", "count", "memoryMiB", "computeCapability", "family", "labelled"}
_GPU_OPTIONAL = {"family", "labelled"}

FleetSource = str | Path | Mapping[str, Any]


@dataclass(frozen=True)
class Gpus:
    """Equal GPUs of one node, as GFD describes them."""

    product: str
    count: int
    memory_mib: int
    compute_capability: str
    family: str = ""
    labelled: bool = True

    def labels(self) -> dict[str, str]:
        """GFD's labels (k8s-device-plugin 0.19), or none where GFD is not installed."""
        if not self.labelled:
            return {}
        major, _, minor = self.compute_capability.partition(".")
        labels = {
            "feature.node.kubernetes.io/pci-10de.present": "true",
            "nvidia.com/cuda.driver-version.full": "580.95.05",
            "nvidia.com/cuda.driver-version.major": "580",
            "nvidia.com/cuda.driver-version.minor": "95",
            "nvidia.com/cuda.driver-version.revision": "05",
            "nvidia.com/cuda.runtime-version.full": "13.0",
            "nvidia.com/cuda.runtime-version.major": "13",
            "nvidia.com/cuda.runtime-version.minor": "0",
            "nvidia.com/gpu.compute.major": major,
            "nvidia.com/gpu.compute.minor": minor,
            "nvidia.com/gpu.count": str(self.count),
            "nvidia.com/gpu.memory": str(self.memory_mib),
            "nvidia.com/gpu.mode": "compute",
            "nvidia.com/gpu.present": "true",
            "nvidia.com/gpu.product": self.product,
            "nvidia.com/gpu.replicas": "1",
            "nvidia.com/gpu.sharing-strategy": "none",
            "nvidia.com/mig.capable": "false",
            "nvidia.com/mps.capable": "false",
        }
        return {**labels, "nvidia.com/gpu.family": self.family} if self.family else labels


@dataclass(frozen=True)
class NodeGroup:
    """Equal nodes."""

    name: str
    count: int = 1
    gpus: Gpus | None = None
    labels: Mapping[str, str | None] = field(default_factory=dict)
    taints: tuple[Mapping[str, str], ...] = ()
    resources: Mapping[str, str] = field(default_factory=dict)

    def node_names(self) -> list[str]:
        return [f"{self.name}-{index}" for index in range(self.count)]


@dataclass(frozen=True)
class Fleet:
    """What `--gpu-nodes FILE` says."""

    name: str
    groups: tuple[NodeGroup, ...]

    def nodes(self, tainted: bool) -> list[dict[str, Any]]:
        """Node objects; `tainted` keeps pods that do not ask for it off these nodes, which cannot run them."""
        return [self._node(group, name, tainted) for group in self.groups for name in group.node_names()]

    def _node(self, group: NodeGroup, name: str, tainted: bool) -> dict[str, Any]:
        labels: dict[str, str | None] = {
            "type": "kwok",
            FLEET_LABEL: self.name,
            "kubernetes.io/hostname": name,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": "amd64",
            **(group.gpus.labels() if group.gpus else {}),
            **group.labels,
        }
        gpus = {"nvidia.com/gpu": str(group.gpus.count)} if group.gpus else {}
        capacity = {**_CAPACITY, **gpus, **group.resources}
        return {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {
                "name": name,
                "labels": {key: value for key, value in labels.items() if value is not None},
                "annotations": {"kwok.x-k8s.io/node": "fake"},
            },
            "spec": {"taints": [*([FAKE_NODE_TAINT] if tainted else []), *map(dict, group.taints)]},
            "status": {"capacity": capacity, "allocatable": capacity},
        }


def shipped_fleets() -> list[str]:
    """Names of the fleets in `fleets/`."""
    return sorted(path.stem for path in (PACKAGE / "fleets").glob("*.yaml"))


def load_fleet(source: FleetSource) -> Fleet:
    """A fleet from a shipped fleet's name, a YAML file or a mapping. Raises ClusterError that names the bad key."""
    if isinstance(source, Mapping):
        return _parse_fleet(source, "fleet")
    path = PACKAGE / "fleets" / f"{source}.yaml" if str(source) in shipped_fleets() else Path(source)
    try:
        document = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        known = ", ".join(shipped_fleets())
        raise ClusterError(f"no fleet file {path}, and no shipped fleet of that name; shipped are: {known}") from None
    return _parse_fleet(document, path.stem)


def _parse_fleet(document: Any, default_name: str) -> Fleet:
    if not isinstance(document, Mapping) or not isinstance(document.get("nodes"), list):
        raise ClusterError(f"fleet {default_name}: `nodes` must be a list of node groups")
    name = str(document.get("name", default_name))
    groups = tuple(parse_group(group, f"fleet {name}, nodes[{index}]") for index, group in enumerate(document["nodes"]))
    return Fleet(name, groups)


def parse_group(group: Mapping[str, Any], where: str) -> NodeGroup:
    """A node group from YAML; `where` is named in the ClusterError for a bad key."""
    _check_keys(group, where, _NODE_KEYS, required={"name"})
    return NodeGroup(
        name=str(group["name"]),
        count=int(group.get("count", 1)),
        gpus=_parse_gpus(group["gpu"], f"{where}.gpu") if group.get("gpu") else None,
        labels={key: None if value is None else str(value) for key, value in group.get("labels", {}).items()},
        taints=tuple(group.get("taints", ())),
        resources={key: str(value) for key, value in group.get("resources", {}).items()},
    )


def _parse_gpus(gpu: Mapping[str, Any], where: str) -> Gpus:
    _check_keys(gpu, where, _GPU_KEYS, required=_GPU_KEYS - _GPU_OPTIONAL)
    return Gpus(
        product=str(gpu["product"]),
        count=int(gpu["count"]),
        memory_mib=int(gpu["memoryMiB"]),
        compute_capability=str(gpu["computeCapability"]),
        family=str(gpu.get("family", "")),
        labelled=bool(gpu.get("labelled", True)),
    )


def _check_keys(mapping: Mapping[str, Any], where: str, known: set[str], required: set[str]) -> None:
    if unknown := sorted(set(mapping) - known):
        raise ClusterError(f"{where}: unknown {', '.join(unknown)}; known are {', '.join(sorted(known))}")
    if missing := sorted(required - set(mapping)):
        raise ClusterError(f"{where}: {', '.join(missing)} missing")

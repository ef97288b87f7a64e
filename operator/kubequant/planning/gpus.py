"""What GPUs the cluster has, from the labels of GPU Feature Discovery (GFD).

The label `nvidia.com/gpu.memory` is NVML's total; vLLM takes its share of what CUDA reports, which is 0.4 to 2.9 % less.
The rule is NVML minus the larger of 500 MiB and 1.5 %: below every figure seen on 10 products. Where this very product
with this very memory has been seen, the smallest CUDA total seen replaces the rule. Labels win over the shipped table, which only
fills in what labels leave out.

MIG slices, time-sliced and MPS-shared GPUs are not planned on: a plan promises memory, and theirs is cut or shared.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files

from kubequant.planning.values import ComputeCapability, Fleet, GpuClass, GpuOrigin, UnreadableNode

MIB = 1024**2
GIB = 1024**3
GPU_RESOURCE = "nvidia.com/gpu"
_MIG_RESOURCE = "nvidia.com/mig-"
_SHARED_RESOURCE = "nvidia.com/gpu.shared"
_LABEL = "nvidia.com/gpu."


@dataclass(frozen=True)
class NodeFacts:
    """What of a Node planning looks at; the caller keeps only labels with the prefix `nvidia.com/`."""

    name: str
    labels: Mapping[str, str]
    allocatable: Mapping[str, str]
    unschedulable: bool = False


@dataclass(frozen=True)
class KnownGpu:
    """A row of data/gpus.csv. Empty cells are None."""

    product: str
    memory_bytes: int | None
    compute_capability: ComputeCapability
    smallest_cuda_total_bytes: int | None
    nvlink: bool


class _Unreadable(Exception):
    """The node's GPUs cannot be planned on; the text is the reason."""


class _Shared(_Unreadable):
    """They are slices, or several pods use each."""


def cuda_total_bytes(label_memory_bytes: int) -> int:
    """What CUDA will report at least, when NVML reports `label_memory_bytes`."""
    return label_memory_bytes - max(500 * MIB, label_memory_bytes * 15 // 1000)


@cache
def known_gpus() -> Mapping[str, KnownGpu]:
    """The shipped table by product label."""
    with files("kubequant.planning").joinpath("data/gpus.csv").open(encoding="utf-8") as lines:
        return {row["product"]: _known_gpu(row) for row in csv.DictReader(lines)}


def _known_gpu(row: Mapping[str, str]) -> KnownGpu:
    smallest_seen = row["cuda_total_gib_observed"].partition("-")[0]
    return KnownGpu(
        product=row["product"],
        memory_bytes=int(row["memory_mib"]) * MIB if row["memory_mib"] else None,
        compute_capability=ComputeCapability.parse(row["compute_capability"]),
        smallest_cuda_total_bytes=int(float(smallest_seen) * GIB) if smallest_seen else None,
        nvlink=float(row["nvlink_gb_s"] or 0) > 0,
    )


def fleet_of(nodes: Iterable[NodeFacts]) -> Fleet:
    """Groups the nodes' GPUs into classes; nodes without any GPU only count. The order of nodes does not matter."""
    total = 0
    found: defaultdict[GpuClass, list[int]] = defaultdict(list)
    unreadable: list[UnreadableNode] = []
    for node in nodes:
        total += 1
        try:
            seen = _read(node)
        except _Unreadable as reason:
            unreadable.append(UnreadableNode(node.name, str(reason), isinstance(reason, _Shared)))
            continue
        if seen is not None:
            found[replace(seen, per_node=0, nodes=0)].append(seen.per_node)
    classes = [replace(gpu, per_node=max(counts), nodes=len(counts)) for gpu, counts in found.items()]
    return Fleet(
        classes=tuple(sorted(_safe_by_product(classes), key=lambda gpu: (gpu.product, gpu.memory_bytes))),
        unreadable=tuple(sorted(unreadable, key=lambda node: node.name)),
        nodes=total,
    )


def _safe_by_product(classes: Iterable[GpuClass]) -> list[GpuClass]:
    """One class a product name. Pods select nodes by that name alone, so of several memory sizes or capabilities
    under one name (RTX 4060 Ti, RTX 3080) the smallest must do."""
    by_product: defaultdict[str, list[GpuClass]] = defaultdict(list)
    for gpu in classes:
        by_product[gpu.product].append(gpu)
    return [
        replace(
            min(same, key=lambda gpu: gpu.memory_bytes),
            compute_capability=min(gpu.compute_capability for gpu in same),
            per_node=max(gpu.per_node for gpu in same),
            nodes=sum(gpu.nodes for gpu in same),
        )
        for same in by_product.values()
    ]


def _read(node: NodeFacts) -> GpuClass | None:
    """The node's GPU class, None when it has no GPU. Raises _Unreadable."""
    _refuse_slices(node)
    count = _count(node)
    if not count:
        return None
    product = node.labels.get(_LABEL + "product")
    if not product:
        raise _Unreadable(
            f"advertises {count} {GPU_RESOURCE} but has no label nvidia.com/gpu.product: install GPU Feature Discovery "
            "(part of NVIDIA's device plugin and of its GPU Operator)"
        )
    _refuse_shared(node, product)
    known = known_gpus().get(product)
    memory, origin = _memory(node, product, known)
    return GpuClass(
        product=product,
        label_memory_bytes=memory,
        memory_bytes=_usable(memory, known),
        compute_capability=_capability(node, product, known),
        per_node=count,
        nodes=1,
        origin=origin,
        nvlink=known is None or known.nvlink,
    )


def _usable(memory: int, known: KnownGpu | None) -> int:
    if known and known.smallest_cuda_total_bytes and known.memory_bytes == memory:
        return known.smallest_cuda_total_bytes
    return cuda_total_bytes(memory)


def _count(node: NodeFacts) -> int:
    text = node.allocatable.get(GPU_RESOURCE, "0")
    if not text.isdigit():
        raise _Unreadable(f"advertises {text!r} of {GPU_RESOURCE}, which is no count")
    return int(text)


def _refuse_slices(node: NodeFacts) -> None:
    slices = sorted(name for name, count in node.allocatable.items() if name.startswith(_MIG_RESOURCE) and count != "0")
    if slices:
        raise _Shared(f"its GPUs are cut into MIG slices ({slices[0]}), which are not planned on: use whole GPUs")
    if node.allocatable.get(_SHARED_RESOURCE, "0") != "0":
        raise _Shared(f"advertises {_SHARED_RESOURCE}: shared GPUs are not planned on, their memory is not promised")


def _refuse_shared(node: NodeFacts, product: str) -> None:
    if "-MIG-" in product or product.startswith("MIG-"):
        raise _Shared(f"{product} is a MIG slice, which is not planned on: use whole GPUs")
    sharing = node.labels.get(_LABEL + "sharing-strategy", "none")
    if sharing == "mps":
        raise _Shared(f"{product} is shared by MPS, which caps each client's memory: use GPUs of one's own")
    replicas = node.labels.get(_LABEL + "replicas", "1")
    if product.endswith("-SHARED") or sharing == "time-slicing" or (replicas.isdigit() and int(replicas) > 1):
        raise _Shared(f"{product} is time-sliced: several pods share its memory, so none can be promised any")


def _memory(node: NodeFacts, product: str, known: KnownGpu | None) -> tuple[int, GpuOrigin]:
    text = node.labels.get(_LABEL + "memory", "")
    if text.isdigit() and int(text) > 0:
        return int(text) * MIB, GpuOrigin.LABELS
    if known and known.memory_bytes:
        return known.memory_bytes, GpuOrigin.TABLE
    raise _Unreadable(
        f"{product} has no usable label nvidia.com/gpu.memory ({text or 'absent'}) and its memory is not known here: "
        "check that GPU Feature Discovery sees the GPU; unified-memory systems are not planned on"
    )


def _capability(node: NodeFacts, product: str, known: KnownGpu | None) -> ComputeCapability:
    major = node.labels.get(_LABEL + "compute.major", "")
    minor = node.labels.get(_LABEL + "compute.minor", "")
    if major.isdigit() and minor.isdigit():
        return ComputeCapability(int(major), int(minor))
    if known:
        return known.compute_capability
    raise _Unreadable(f"{product} has no labels nvidia.com/gpu.compute.major and .minor: update GPU Feature Discovery")

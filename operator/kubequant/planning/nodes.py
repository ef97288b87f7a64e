"""One node's GPUs, from the labels of GPU Feature Discovery (GFD), else from those of its cloud.

Each resource that the node offers is read by itself: whole GPUs are nvidia.com/gpu, MIG slices nvidia.com/gpu (strategy single) or
nvidia.com/mig-<profile> (mixed), with GFD's labels under the resource's own name. Shared GPUs (time-slicing, MPS) are read to be refused:
a plan promises memory, and theirs is not one pod's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from kubequant.planning.cloud_labels import CLOUD_LABELS, cloud_gpu
from kubequant.planning.gpu_table import GPU_RESOURCE, MIB, GpuTable, KnownGpu, make_class, mig_profile_of
from kubequant.planning.taints import Taint, customary_tolerations, untolerated
from kubequant.planning.values import ComputeCapability, GpuClass, GpuOrigin, UnreadableNode

READ_LABELS = ("nvidia.com/", *CLOUD_LABELS)  # prefixes
_RESOURCE = re.compile(r"nvidia\.com/(gpu|mig-[a-z0-9.+-]+?)(\.shared)?")
_LEAST_MEMORY_MIB, _MOST_MEMORY_MIB = 1024, 4 * 1024**2
_MOST_GPUS = 1024
LEAST_SHARE = 0.9  # clouds round memory, by 1 % or so; a fraction of a card is half of it at most
_INSTALL = "install GPU Feature Discovery (part of NVIDIA's device plugin and of its GPU Operator)"


@dataclass(frozen=True)
class NodeFacts:
    """What of a Node planning looks at; of labels the caller keeps READ_LABELS and those that pools select by."""

    name: str
    labels: Mapping[str, str]
    allocatable: Mapping[str, str]
    unschedulable: bool = False
    taints: tuple[Taint, ...] = ()


class _Unreadable(Exception):
    """The node's GPUs cannot be planned on; the text is the reason."""


class _Shared(_Unreadable):
    """They are fractions, or several pods use each, or they are not offered."""


def is_gpu_resource(name: str) -> bool:
    """Whole GPUs, MIG slices, or either shared."""
    return _RESOURCE.fullmatch(name) is not None


def offered(node: NodeFacts) -> list[tuple[str, str]]:
    """The GPU resources that the node offers, each with its count as written."""
    return sorted((name, count) for name, count in node.allocatable.items() if is_gpu_resource(name) and count != "0")


def gpu_count(node: NodeFacts) -> int | None:
    """How many whole GPUs the node offers, None where what it says is no count."""
    return _bounded(node.allocatable.get(GPU_RESOURCE, "0"))


def read_node(node: NodeFacts, table: GpuTable) -> Iterator[GpuClass | UnreadableNode]:
    """A class for each kind of GPU on this node alone, and for each that cannot be planned on why. Nothing for a node without GPUs."""
    resources = offered(node)
    if not resources and (reason := _not_offered(node)):
        yield UnreadableNode(node.name, reason, shared=True)
    for resource, count in resources:
        try:
            yield _read(node, resource, _count(resource, count), table)
        except _Unreadable as reason_:
            yield UnreadableNode(node.name, str(reason_), isinstance(reason_, _Shared))


def _not_offered(node: NodeFacts) -> str:
    product = node.labels.get(f"{GPU_RESOURCE}.product", "")
    if "MIG-INVALID" in product:
        return _invalid_mig(product)
    if not product and node.labels.get(f"{GPU_RESOURCE}.present") != "true":
        return ""
    what = product or "an NVIDIA GPU"
    if GPU_RESOURCE in node.allocatable:
        return f"has {what} but offers 0 {GPU_RESOURCE}: its device plugin does not run, or finds no healthy GPU"
    return (
        f"has {what} but does not offer {GPU_RESOURCE}: GPUs offered by DRA alone (ResourceSlices) are not read yet; "
        "without DRA, NVIDIA's device plugin does not run there"
    )


def _read(node: NodeFacts, resource: str, count: int, table: GpuTable) -> GpuClass:
    if resource.endswith(".shared"):
        raise _Shared(f"advertises {resource}: shared GPUs are not planned on, their memory is not promised")
    product = node.labels.get(f"{resource}.product")
    if product:
        return _labelled(node, resource, product, count, table)
    if resource == GPU_RESOURCE:
        return _by_cloud(node, count, table)
    raise _Shared(
        f"advertises {count} MIG slices ({resource}) without the label {resource}.product: update GPU Feature Discovery"
    )


def _labelled(node: NodeFacts, resource: str, product: str, count: int, table: GpuTable) -> GpuClass:
    if "MIG-INVALID" in product:
        raise _Shared(_invalid_mig(product))
    _refuse_shared(node, resource, product, count)
    known = table.get(product.partition("-MIG-")[0])
    memory, origin = _memory(node, resource, product, None if mig_profile_of(product) else known)
    return make_class(
        table,
        product,
        memory,
        _capability(node, product, known),
        count=count,
        resource=resource,
        origin=origin,
        tolerations=customary_tolerations(node.taints),
        taints=untolerated(node.taints),
    )


def _by_cloud(node: NodeFacts, count: int, table: GpuTable) -> GpuClass:
    found = cloud_gpu(node.labels)
    known = table.get(found.product) if found else None
    if not (found and known and known.memory_bytes):
        raise _Unreadable(f"advertises {count} {GPU_RESOURCE} but has no label {GPU_RESOURCE}.product: {_INSTALL}")
    if found.fraction:
        raise _Shared(
            f"{found.product} is cut or shared, says the label {found.fraction}: {_INSTALL} to have it told how"
        )
    if found.count and (cards := _decimal(found.count)) is not None and count > cards:
        raise _Shared(f"{found.product} is shared: {count} {GPU_RESOURCE} are offered of {cards} cards")
    if found.memory_mib and (_decimal(found.memory_mib) or 0) * MIB < known.memory_bytes * LEAST_SHARE:
        raise _Shared(f"has a fraction of {found.product}: {found.memory_mib} MiB of {known.memory_bytes // MIB}")
    return make_class(
        table,
        found.product,
        known.memory_bytes,
        known.compute_capability,
        count=count,
        selector=found.selector,
        origin=GpuOrigin.TABLE,
        tolerations=customary_tolerations(node.taints),
        taints=untolerated(node.taints),
    )


def _invalid_mig(product: str) -> str:
    return (
        f"{product}: with MIG's strategy `single` all GPUs of the node must be cut alike; cut them so, or use `mixed`"
    )


def _refuse_shared(node: NodeFacts, resource: str, product: str, count: int) -> None:
    """With time-slicing and MPS the node offers count x replicas."""
    sharing = node.labels.get(f"{resource}.sharing-strategy", "none")
    if sharing == "mps":
        raise _Shared(f"{product} is shared by MPS, which caps each client's memory: use GPUs of one's own")
    replicas = _decimal(node.labels.get(f"{resource}.replicas", "1")) or 1
    if product.endswith("-SHARED") or sharing == "time-slicing" or replicas > 1:
        raise _Shared(f"{product} is time-sliced: several pods share its memory, so none can be promised any")
    cards = _decimal(node.labels.get(f"{resource}.count", ""))
    if cards and count > cards:
        raise _Shared(f"{product} is shared: {count} {resource} are offered of {cards} by the label {resource}.count")


def _memory(node: NodeFacts, resource: str, product: str, known: KnownGpu | None) -> tuple[int, GpuOrigin]:
    """`known` is None for a slice: the table has the card's memory."""
    label = f"{resource}.memory"
    text = node.labels.get(label)
    if text is not None:
        mib = _decimal(text) or 0
        if not _LEAST_MEMORY_MIB <= mib <= _MOST_MEMORY_MIB:
            raise _Unreadable(
                f"{product} has the label {label} {text[:40]!r}, outside of {_LEAST_MEMORY_MIB} to {_MOST_MEMORY_MIB} MiB: "
                "correct it, or remove it where the table of GPUs knows the memory"
            )
        return mib * MIB, GpuOrigin.LABELS
    if known and known.memory_bytes:
        return known.memory_bytes, GpuOrigin.TABLE
    raise _Unreadable(
        f"{product} has no label {label} and its memory is not known here: "
        "check that GPU Feature Discovery sees the GPU, or add it to gpuTable; unified-memory systems are not planned on"
    )


def _capability(node: NodeFacts, product: str, known: KnownGpu | None) -> ComputeCapability:
    major = _decimal(node.labels.get(f"{GPU_RESOURCE}.compute.major", ""))
    minor = _decimal(node.labels.get(f"{GPU_RESOURCE}.compute.minor", ""))
    if major is not None and minor is not None and max(major, minor) < 100:
        return ComputeCapability(major, minor)
    if known:
        return known.compute_capability
    raise _Unreadable(f"{product} has no labels nvidia.com/gpu.compute.major and .minor: update GPU Feature Discovery")


def _count(resource: str, text: str) -> int:
    count = _bounded(text)
    if count is None:
        raise _Unreadable(f"advertises {text[:40]!r} of {resource}, which is no count between 0 and {_MOST_GPUS}")
    return count


def _bounded(count: str) -> int | None:
    number = _decimal(count)
    return None if number is None or number > _MOST_GPUS else number


def _decimal(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 12 else None

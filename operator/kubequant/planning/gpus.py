"""What GPUs the cluster has: nodes and declared pools, grouped into classes.

The label `nvidia.com/gpu.memory` is NVML's total; vLLM takes its share of what CUDA reports, which is 0.4 to 2.9 % less.
The rule is NVML minus the larger of 500 MiB and 1.5 %: below every figure seen on 10 products. Where this very product
with this very memory has been seen, the smallest CUDA total seen replaces the rule. Labels win over the shipped table, which only
fills in what labels leave out.

One class is what one node affinity selects: a product of one resource, by GFD's label or by the labels of a cloud or a pool. Of several
memory sizes or capabilities among them (RTX 4060 Ti, RTX 3080) the smallest must do.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from kubequant.planning.gpu_table import (
    GIB,
    GPU_RESOURCE,
    MIB,
    GpuTable,
    KnownGpu,
    cuda_total_bytes,
    known_gpus,
    shipped_table,
)
from kubequant.planning.nodes import NodeFacts, offered, read_node
from kubequant.planning.pools import DeclaredPool, contradiction, pool_class, read_member
from kubequant.planning.values import Fleet, GpuClass, GpuOrigin, UnreadableNode

__all__ = [
    "GIB",
    "GPU_RESOURCE",
    "MIB",
    "DeclaredPool",
    "GpuTable",
    "KnownGpu",
    "NodeFacts",
    "cuda_total_bytes",
    "fleet_of",
    "known_gpus",
    "taints_note",
]

Used = Mapping[tuple[str, str], int]
_Selector = tuple[tuple[str, str], ...]


def fleet_of(
    nodes: Iterable[NodeFacts],
    pools: Sequence[DeclaredPool] = (),
    table: GpuTable | None = None,
    used: Used | None = None,
) -> Fleet:
    """Groups the nodes' GPUs into classes; nodes without any GPU only count. The order of nodes and pools does not matter.

    `used` says how many of a resource pods hold, by (node name, resource); with it each class says how many are free now.
    Raises ValueError where a pool is of a GPU that nobody describes.
    """
    table = table or shipped_table()
    nodes = list(nodes)
    sound, members, unreadable = _sound_pools(nodes, pools, table)
    found: defaultdict[tuple[str, str, _Selector], list[GpuClass]] = defaultdict(list)
    for node in nodes:
        pool = members.get(node.name)
        for read in read_member(node, pool, table) if pool else read_node(node, table):
            if isinstance(read, UnreadableNode):
                unreadable.append(read)
            else:
                found[read.product, read.resource, read.selector].append(_with_free(read, node, used))
    for gpu in sound:
        found[gpu.product, gpu.resource, gpu.selector].append(gpu if used is None else replace(gpu, free=0))
    classes = [_merged(same) for same in found.values()]
    return Fleet(
        classes=tuple(sorted(classes, key=lambda gpu: (gpu.product, gpu.memory_bytes, gpu.resource, gpu.selector))),
        unreadable=tuple(sorted(unreadable, key=lambda node: (node.name, node.reason))),
        nodes=len(nodes),
    )


def taints_note(gpu: GpuClass) -> str:
    """What a user must do before pods can run on this class; nothing where they can."""
    if not gpu.taints:
        return ""
    taints = ", ".join(gpu.taints)
    return f"every node with {gpu.product} has the taint {taints}: spec.pod.tolerations must tolerate it"


def _sound_pools(
    nodes: Sequence[NodeFacts], pools: Sequence[DeclaredPool], table: GpuTable
) -> tuple[list[GpuClass], dict[str, DeclaredPool], list[UnreadableNode]]:
    """Classes of nodes yet to come, the pool of each node that is there, and pools that their nodes belie."""
    sound: list[GpuClass] = []
    pool_of: dict[str, DeclaredPool] = {}
    unreadable: list[UnreadableNode] = []
    for pool in sorted(pools, key=lambda pool: pool.name):
        members = [node for node in nodes if pool.holds(node.labels)]
        if wrong := contradiction(pool, members, table):
            unreadable.append(wrong)
            continue
        present = sum(1 for node in members if offered(node))
        coming = max(0, pool.max_nodes - present)
        gpu = pool_class(pool, table)
        if coming:  # a full pool has what its nodes have, which may be fewer GPUs each than declared
            sound.append(replace(gpu, nodes=coming, gpus=coming * gpu.per_node))
        for node in members:
            pool_of.setdefault(node.name, pool)
    return sound, pool_of, unreadable


def _with_free(gpu: GpuClass, node: NodeFacts, used: Used | None) -> GpuClass:
    if used is None:
        return gpu
    free = 0 if node.unschedulable else max(0, gpu.gpus - used.get((node.name, gpu.resource), 0))
    return replace(gpu, free=free)


def _merged(same: Sequence[GpuClass]) -> GpuClass:
    """One class of several nodes, and perhaps of the nodes that a pool may grow by."""
    there = [gpu for gpu in same if gpu.origin is not GpuOrigin.DECLARED]
    taints = set.intersection(*(set(gpu.taints) for gpu in there)) if there else set()
    free = [gpu.free for gpu in same if gpu.free is not None]
    return replace(
        min(same, key=lambda gpu: (gpu.memory_bytes, gpu.label_memory_bytes, gpu.origin is not GpuOrigin.TABLE)),
        compute_capability=min(gpu.compute_capability for gpu in same),
        per_node=max(gpu.per_node for gpu in same),
        nodes=sum(gpu.nodes for gpu in same),
        gpus=sum(gpu.gpus for gpu in same),
        origin=min((gpu.origin for gpu in same), key=[GpuOrigin.DECLARED, GpuOrigin.TABLE, GpuOrigin.LABELS].index),
        tolerations=tuple(sorted({toleration for gpu in same for toleration in gpu.tolerations}, key=repr)),
        taints=tuple(sorted(taints)),
        free=sum(free) if free else None,
    )

"""Declared pools: GPUs that the cluster can have but need not have now, because an autoscaler makes their nodes on demand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from kubequant.planning.gpu_table import GPU_RESOURCE, MIB, GpuTable, make_class
from kubequant.planning.nodes import LEAST_SHARE, NodeFacts, gpu_count, offered, read_node
from kubequant.planning.taints import untolerated
from kubequant.planning.values import ComputeCapability, GpuClass, GpuOrigin, Toleration, UnreadableNode


@dataclass(frozen=True)
class DeclaredPool:
    """`product` is the label nvidia.com/gpu.product that its nodes have, or would have. Pods select by `selector` alone.

    None where the table is to fill it in. `price_per_hour` is of one GPU.
    """

    name: str
    product: str
    gpus_per_node: int
    max_nodes: int
    selector: tuple[tuple[str, str], ...]
    tolerations: tuple[Toleration, ...] = ()
    memory_bytes: int | None = None
    compute_capability: ComputeCapability | None = None
    price_per_hour: float | None = None

    def holds(self, labels: Mapping[str, str]) -> bool:
        return all(labels.get(key) == value for key, value in self.selector)


def pool_class(pool: DeclaredPool, table: GpuTable) -> GpuClass:
    """The pool's GPUs if all its nodes were there. Raises ValueError where neither pool nor table know memory or capability.

    Of a memory that is declared and one that the table has, the smaller counts: `24Gi` is more than a card sold as 24 GB has.
    """
    known = table.rows.get(pool.product)
    memories = [memory for memory in (pool.memory_bytes, known and known.memory_bytes) if memory]
    capability = pool.compute_capability or (known and known.compute_capability)
    missing = [name for name, value in (("memory", memories), ("computeCapability", capability)) if not value]
    if not memories or not capability:
        raise ValueError(
            f"pool {pool.name}: {pool.product} is not in the table of GPUs, so {' and '.join(missing)} must be given "
            "(the table has product labels, as in NVIDIA-L4)"
        )
    price = pool.price_per_hour
    return make_class(
        table,
        pool.product,
        min(memories),
        capability,
        count=pool.gpus_per_node,
        nodes=pool.max_nodes,
        gpus=pool.gpus_per_node * pool.max_nodes,
        origin=GpuOrigin.DECLARED,
        selector=pool.selector,
        tolerations=pool.tolerations,
        price_per_hour=table.prices.get(pool.product) if price is None else price,
    )


def label_keys(pools: Iterable[DeclaredPool]) -> frozenset[str]:
    """Labels of nodes that tell which pool they are of."""
    return frozenset(key for pool in pools for key, _ in pool.selector)


def read_member(node: NodeFacts, pool: DeclaredPool, table: GpuTable) -> Iterator[GpuClass | UnreadableNode]:
    """The GPUs of a node of a pool that no node belies: what labels leave out the pool says."""
    declared = pool_class(pool, table)
    for read in read_node(node, table):
        if isinstance(read, GpuClass):
            tolerations = tuple(sorted({*pool.tolerations, *read.tolerations}, key=repr))
            gpu = replace(read, selector=pool.selector, price_per_hour=declared.price_per_hour, tolerations=tolerations)
        elif _leaves_it_to(pool, node) and (count := gpu_count(node)):
            gpu = replace(declared, per_node=count, gpus=count, nodes=1, origin=GpuOrigin.TABLE)
        else:
            yield read
            continue
        yield replace(gpu, taints=untolerated(node.taints, gpu.tolerations))


def _leaves_it_to(pool: DeclaredPool, node: NodeFacts) -> bool:
    product = node.labels.get(f"{GPU_RESOURCE}.product", pool.product)
    return product == pool.product and f"{GPU_RESOURCE}.memory" not in node.labels


def contradiction(pool: DeclaredPool, members: Sequence[NodeFacts], table: GpuTable) -> UnreadableNode | None:
    """Why a pool cannot be planned on: a node of it is there and is not what the pool is declared to be.

    Pods select by the pool's labels, so they could land on that node.
    """
    for node in members:
        for read in read_node(node, table) if offered(node) else ():
            if wrong := _belies(pool, read):
                return UnreadableNode(
                    node.name,
                    f"belies gpuPools: {wrong}. The pool {pool.name} is not planned on: correct it or the node",
                    shared=True,
                )
    return None


def _belies(pool: DeclaredPool, read: GpuClass | UnreadableNode) -> str:
    if isinstance(read, UnreadableNode):
        return read.reason if read.shared else ""
    if read.resource != GPU_RESOURCE or read.product != pool.product:
        return f"it has {read.product}, not {pool.product}"
    declared = pool.memory_bytes or 0
    if read.label_memory_bytes < declared * LEAST_SHARE:
        return f"its GPUs have {read.label_memory_bytes // MIB} MiB, not {declared // MIB}"
    return ""

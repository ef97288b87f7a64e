"""Declared pools: planned on like real nodes, one class with them, and dropped where a node belies them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubequant.planning.gpu_table import GpuTable, known_gpus, shipped_table
from kubequant.planning.gpus import NodeFacts, fleet_of
from kubequant.planning.pools import DeclaredPool, label_keys, pool_class
from kubequant.planning.taints import Taint
from kubequant.planning.values import ComputeCapability, GpuOrigin, Toleration
from tests.unit.planning.models import GIB, MIB, node

SELECTOR = (("example.com/pool", "l4"),)
DEDICATED = Toleration("dedicated", "Equal", "ml", "NoSchedule")
POOL = DeclaredPool("l4", "NVIDIA-L4", gpus_per_node=2, max_nodes=4, selector=SELECTOR, tolerations=(DEDICATED,))


def pool(**changes: Any) -> DeclaredPool:
    return replace(POOL, **changes)


def member(facts: NodeFacts, *taints: Taint) -> NodeFacts:
    return replace(facts, labels={**facts.labels, **dict(SELECTOR)}, taints=taints)


def bare(name: str, gpus: str) -> NodeFacts:
    return member(NodeFacts(name, {}, {"nvidia.com/gpu": gpus}))


def test_pool_without_nodes_is_planned_on() -> None:
    found = fleet_of([NodeFacts("cpu", {}, {})], [POOL])
    (gpu,) = found.classes
    assert (gpu.product, gpu.origin, gpu.selector) == ("NVIDIA-L4", GpuOrigin.DECLARED, SELECTOR)
    assert (gpu.per_node, gpu.nodes, gpu.gpus, gpu.tolerations) == (2, 4, 8, (DEDICATED,))
    assert gpu.label_memory_bytes == 23034 * MIB
    assert fleet_of([], [POOL], used={}).classes[0].free == 0
    assert found.nodes == 1, "nodes that are not there do not count as nodes of the cluster"


def test_pool_and_its_nodes_are_one_class() -> None:
    nodes = [member(node("NVIDIA-L4", gpus=2, name="a")), bare("b", "2"), node("NVIDIA-L4", gpus=1, name="elsewhere")]
    elsewhere, gpu = fleet_of(nodes, [POOL], used={("a", "nvidia.com/gpu"): 1}).classes
    assert (gpu.selector, gpu.origin) == (SELECTOR, GpuOrigin.DECLARED)
    assert (gpu.nodes, gpu.gpus, gpu.per_node, gpu.free) == (4, 8, 2, 3)
    assert (elsewhere.selector, elsewhere.nodes) == ((), 1)


def test_more_nodes_than_declared_count_as_they_are() -> None:
    nodes = [member(node("NVIDIA-L4", gpus=2, name=str(number))) for number in range(6)]
    (gpu,) = fleet_of(nodes, [POOL]).classes
    assert (gpu.nodes, gpu.gpus) == (6, 12)


def test_full_pool_promises_only_what_its_nodes_have() -> None:
    present = [member(node("NVIDIA-L4", gpus=4))]
    (full,) = fleet_of(present, [pool(gpus_per_node=8, max_nodes=1)]).classes
    assert (full.per_node, full.nodes, full.gpus, full.selector) == (4, 1, 4, SELECTOR)
    assert full.tolerations == (DEDICATED,)
    (growing,) = fleet_of(present, [pool(gpus_per_node=8, max_nodes=2)]).classes
    assert (growing.per_node, growing.nodes, growing.gpus) == (8, 2, 12)


def test_memory_that_nodes_show_wins_when_it_is_less() -> None:
    (gpu,) = fleet_of([member(node("NVIDIA-L4", memory_mib=22000))], [POOL]).classes
    assert gpu.label_memory_bytes == 22000 * MIB


@pytest.mark.parametrize(("declared", "counts"), [(24 * GIB, 23034 * MIB), (20 * GIB, 20 * GIB), (None, 23034 * MIB)])
def test_smaller_of_declared_and_known_memory_counts(declared: int | None, counts: int) -> None:
    assert pool_class(pool(memory_bytes=declared), shipped_table()).label_memory_bytes == counts


def test_gpu_that_nobody_knows_must_be_described() -> None:
    with pytest.raises(ValueError, match="memory and computeCapability must be given"):
        pool_class(pool(product="NVIDIA-New"), shipped_table())
    capability = ComputeCapability(13, 0)
    made = pool_class(pool(product="NVIDIA-New", memory_bytes=20 * GIB, compute_capability=capability), shipped_table())
    assert (made.label_memory_bytes, made.compute_capability) == (20 * GIB, capability)


def test_price_of_the_pool_goes_before_the_product_s() -> None:
    table = GpuTable(known_gpus(), {"NVIDIA-L4": 1.0})
    assert pool_class(POOL, table).price_per_hour == 1.0
    nodes = [member(node("NVIDIA-L4", name="a")), node("NVIDIA-L4", name="b")]
    prices = {gpu.selector: gpu.price_per_hour for gpu in fleet_of(nodes, [pool(price_per_hour=0.25)], table).classes}
    assert prices == {SELECTOR: 0.25, (): 1.0}


def test_only_taints_that_the_pool_does_not_tolerate_are_the_user_s() -> None:
    known, other = Taint("dedicated", "ml", "NoSchedule"), Taint("team", "a", "NoSchedule")
    (gpu,) = fleet_of([member(node("NVIDIA-L4"), known, other)], [POOL]).classes
    assert gpu.taints == ("team=a:NoSchedule",)


BELIED = {
    "another product": (node("Tesla-T4"), "it has Tesla-T4, not NVIDIA-L4"),
    "shared": (node("NVIDIA-L4-SHARED", memory_mib=23034), "time-sliced"),
    "cut": (node("NVIDIA-L4-MIG-1g.5gb", memory_mib=4864), "it has NVIDIA-L4-MIG-1g.5gb"),
    "less memory": (node("NVIDIA-L4", memory_mib=8000), "its GPUs have 8000 MiB, not 20480"),
}


@pytest.mark.parametrize("case", BELIED)
def test_pool_that_a_node_belies_is_dropped_and_said(case: str) -> None:
    facts, said = BELIED[case]
    found = fleet_of([member(facts)], [pool(memory_bytes=20 * GIB)])
    assert all(gpu.origin is not GpuOrigin.DECLARED for gpu in found.classes)
    (trouble,) = [trouble for trouble in found.unreadable if "belies gpuPools" in trouble.reason]
    assert trouble.name == facts.name
    assert said in trouble.reason
    assert "The pool l4 is not planned on" in trouble.reason


def test_node_that_has_just_come_and_offers_nothing_yet_belies_nothing() -> None:
    starting = member(replace(node("NVIDIA-L4"), allocatable={}))
    (gpu,) = fleet_of([starting], [POOL]).classes
    assert (gpu.origin, gpu.nodes) == (GpuOrigin.DECLARED, 4)


@pytest.mark.parametrize("count", ["many", "0", "99999"])
def test_odd_count_on_a_node_of_a_pool(count: str) -> None:
    (gpu,) = fleet_of([bare("odd", count)], [POOL]).classes
    assert gpu.per_node == 2


def test_a_cloud_s_label_agrees_with_the_pool_or_belies_it() -> None:
    gke = bare("gke", "2")
    agrees = replace(gke, labels={**gke.labels, "cloud.google.com/gke-accelerator": "nvidia-l4"})
    (gpu,) = fleet_of([agrees], [POOL]).classes
    assert (gpu.selector, gpu.gpus) == (SELECTOR, 8)
    other = replace(gke, labels={**gke.labels, "cloud.google.com/gke-accelerator": "nvidia-tesla-t4"})
    (trouble,) = fleet_of([other], [POOL]).unreadable
    assert "it has Tesla-T4, not NVIDIA-L4" in trouble.reason


def test_labels_that_pools_select_by_are_to_be_kept() -> None:
    assert label_keys([POOL, pool(selector=(("a", "1"), ("b", "2")))]) == {"example.com/pool", "a", "b"}


NODES = [member(node("NVIDIA-L4", name="a")), bare("b", "2"), node("NVIDIA-L4", name="c"), node("Tesla-T4", name="d")]
POOLS = [POOL, pool(name="t4", product="Tesla-T4", selector=(("example.com/pool", "t4"),)),
         pool(name="other-l4", selector=(("example.com/pool", "l4"), ("x", "y")))]  # fmt: skip


@given(st.permutations(NODES), st.permutations(POOLS))
def test_order_of_nodes_and_pools_does_not_matter(nodes: list[NodeFacts], pools: list[DeclaredPool]) -> None:
    assert fleet_of(nodes, pools) == fleet_of(NODES, POOLS)

"""Nodes to fleet: labels win, the table fills in, what cannot be promised is said."""

from __future__ import annotations

import csv
from dataclasses import replace
from importlib.resources import files

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubequant.planning.gpus import NodeFacts, cuda_total_bytes, fleet_of, known_gpus
from kubequant.planning.values import ComputeCapability, GpuOrigin
from tests.unit.planning.models import GIB, MIB, fleet, node


def without(facts: NodeFacts, *labels: str) -> NodeFacts:
    return replace(facts, labels={key: value for key, value in facts.labels.items() if key not in labels})


def labelled(facts: NodeFacts, **labels: str) -> NodeFacts:
    return replace(facts, labels={**facts.labels, **{f"nvidia.com/gpu.{key}": value for key, value in labels.items()}})


def test_equal_nodes_are_one_class_with_the_largest_count() -> None:
    found = fleet(node("NVIDIA-L4", gpus=1, name="a"), node("NVIDIA-L4", gpus=8, name="b"), NodeFacts("cpu", {}, {}))
    (gpu,) = found.classes
    assert (gpu.product, gpu.per_node, gpu.nodes, found.nodes) == ("NVIDIA-L4", 8, 2, 3)
    assert gpu.compute_capability == ComputeCapability(8, 9)
    assert found.unreadable == ()


def test_cuda_total_is_what_was_seen_where_it_was_seen() -> None:
    (gpu,) = fleet(node("NVIDIA-H200")).classes
    assert gpu.label_memory_bytes == 143771 * MIB
    assert gpu.memory_bytes == int(139.72 * GIB)
    (other,) = fleet(node("NVIDIA-H200", memory_mib=140000)).classes
    assert other.memory_bytes == cuda_total_bytes(140000 * MIB)


@pytest.mark.parametrize(("label_mib", "total_mib"), [(24564, 24064), (81559, 80336), (15360, 14860)])
def test_rule_for_the_cuda_total(label_mib: int, total_mib: int) -> None:
    assert cuda_total_bytes(label_mib * MIB) // MIB == pytest.approx(total_mib, abs=1)


def test_rule_is_below_every_total_seen() -> None:
    seen = [gpu for gpu in known_gpus().values() if gpu.smallest_cuda_total_bytes and gpu.memory_bytes]
    assert len(seen) >= 10
    too_high = [g.product for g in seen if cuda_total_bytes(g.memory_bytes or 0) > (g.smallest_cuda_total_bytes or 0)]
    assert too_high == []


def test_table_states_the_rule_it_was_made_with() -> None:
    with files("kubequant.planning").joinpath("data/gpus.csv").open(encoding="utf-8") as lines:
        rows = [row for row in csv.DictReader(lines) if row["memory_mib"]]
    wrong = [
        row["product"]
        for row in rows
        if abs(cuda_total_bytes(int(row["memory_mib"]) * MIB) / MIB - int(row["plan_total_mib"])) > 1
    ]
    assert wrong == []
    assert len(rows) == 70


def test_product_that_is_in_no_table_needs_only_labels() -> None:
    (gpu,) = fleet(node("Example-Fake-GPU", memory_mib=2048, capability="8.9")).classes
    assert gpu.origin is GpuOrigin.LABELS
    assert gpu.memory_bytes == 1548 * MIB


def test_table_fills_in_what_labels_leave_out() -> None:
    bare = without(
        node("NVIDIA-A10"), "nvidia.com/gpu.memory", "nvidia.com/gpu.compute.major", "nvidia.com/gpu.compute.minor"
    )
    (gpu,) = fleet(bare).classes
    assert (gpu.origin, gpu.label_memory_bytes) == (GpuOrigin.TABLE, 23028 * MIB)
    assert gpu.compute_capability == ComputeCapability(8, 6)


def test_one_name_with_two_memories_counts_as_the_smaller() -> None:
    found = fleet(
        node("NVIDIA-GeForce-RTX-4060-Ti", memory_mib=16380, name="a"),
        node("NVIDIA-GeForce-RTX-4060-Ti", memory_mib=8188, gpus=2, name="b"),
    )
    (gpu,) = found.classes
    assert (gpu.label_memory_bytes, gpu.per_node, gpu.nodes) == (8188 * MIB, 2, 2)


UNREADABLE = {
    "no GFD labels": (without(node("NVIDIA-L4"), "nvidia.com/gpu.product"), "install GPU Feature Discovery"),
    "MIG, single strategy": (node("NVIDIA-A100-SXM4-80GB-MIG-3g.40gb", memory_mib=40192), "MIG slice"),
    "MIG, mixed strategy": (replace(node("NVIDIA-H200"), allocatable={"nvidia.com/mig-3g.71gb": "2"}), "MIG slices"),
    "invalid MIG": (node("MIG-INVALID", memory_mib=1), "MIG slice"),
    "time-slicing": (node("NVIDIA-L4-SHARED", memory_mib=23034), "time-sliced"),
    "time-slicing by replicas": (labelled(node("NVIDIA-L4"), replicas="4"), "time-sliced"),
    "MPS": (labelled(node("NVIDIA-L4"), **{"sharing-strategy": "mps"}), "MPS"),
    "renamed shared resource": (replace(node("NVIDIA-L4"), allocatable={"nvidia.com/gpu.shared": "4"}), "shared"),
    "unified memory": (without(node("NVIDIA-GB10"), "nvidia.com/gpu.memory"), "gpu.memory"),
    "memory 0": (labelled(node("Some-GPU", memory_mib=1), memory="0"), "gpu.memory (0)"),
    "no capability": (without(node("Some-GPU", memory_mib=9000), "nvidia.com/gpu.compute.major"), "compute.major"),
    "count that is none": (replace(node("NVIDIA-L4"), allocatable={"nvidia.com/gpu": "many"}), "'many'"),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_what_cannot_be_planned_on_is_said(case: str) -> None:
    facts, said = UNREADABLE[case]
    found = fleet(facts)
    assert found.classes == ()
    assert said in found.unreadable[0].reason


def test_old_node_without_free_gpus_has_none() -> None:
    assert fleet(replace(node("NVIDIA-L4"), allocatable={"nvidia.com/gpu": "0"})).classes == ()


@given(st.permutations([node("NVIDIA-L4", name="a"), node("Tesla-T4", name="b"), node("NVIDIA-L4", gpus=4, name="c"),
                        NodeFacts("d", {}, {"nvidia.com/gpu": "1"})]))  # fmt: skip
def test_order_of_nodes_does_not_matter(nodes: list[NodeFacts]) -> None:
    assert fleet_of(nodes) == fleet_of(sorted(nodes, key=lambda facts: facts.name))

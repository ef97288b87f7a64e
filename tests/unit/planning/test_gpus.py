"""Nodes to fleet: labels win, the table fills in, what cannot be promised is said."""

from __future__ import annotations

import csv
from dataclasses import replace
from importlib.resources import files

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubequant.planning.gpus import NodeFacts, cuda_total_bytes, fleet_of, known_gpus, taints_note
from kubequant.planning.taints import Taint
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
    "MIG, single strategy, no memory": (
        without(node("NVIDIA-A100-SXM4-80GB-MIG-3g.40gb", memory_mib=40192), "nvidia.com/gpu.memory"),
        "no label nvidia.com/gpu.memory",
    ),
    "MIG, mixed strategy, no labels": (
        replace(node("NVIDIA-H200"), allocatable={"nvidia.com/mig-3g.71gb": "2"}),
        "MIG slices (nvidia.com/mig-3g.71gb) without the label nvidia.com/mig-3g.71gb.product",
    ),
    "invalid MIG": (node("NVIDIA-H200-MIG-INVALID", memory_mib=1), "must be cut alike"),
    "invalid MIG that offers nothing": (
        replace(node("NVIDIA-H200-MIG-INVALID", memory_mib=1), allocatable={"nvidia.com/gpu": "0"}),
        "must be cut alike",
    ),
    "time-slicing": (node("NVIDIA-L4-SHARED", memory_mib=23034), "time-sliced"),
    "time-slicing by replicas": (labelled(node("NVIDIA-L4"), replicas="4"), "time-sliced"),
    "time-slicing by strategy": (labelled(node("NVIDIA-L4"), **{"sharing-strategy": "time-slicing"}), "time-sliced"),
    "more offered than there are": (
        labelled(node("NVIDIA-L4", gpus=4), count="1"),
        "4 nvidia.com/gpu are offered of 1",
    ),
    "time-sliced MIG": (node("NVIDIA-H200-MIG-1g.18gb-SHARED", memory_mib=16384), "time-sliced"),
    "MPS": (labelled(node("NVIDIA-L4"), **{"sharing-strategy": "mps", "replicas": "4"}), "MPS"),
    "renamed shared resource": (replace(node("NVIDIA-L4"), allocatable={"nvidia.com/gpu.shared": "4"}), "shared"),
    "renamed shared slices": (replace(node("NVIDIA-L4"), allocatable={"nvidia.com/mig-1g.5gb.shared": "4"}), "shared"),
    "unified memory": (without(node("NVIDIA-GB10"), "nvidia.com/gpu.memory"), "gpu.memory"),
    "memory 0": (labelled(node("Some-GPU", memory_mib=1), memory="0"), "gpu.memory '0', outside of"),
    "memory that is none": (labelled(node("Some-GPU", memory_mib=1), memory="\u00b2"), "gpu.memory"),
    **{
        f"{memory!r} of memory, whatever the table knows": (
            labelled(node("NVIDIA-L4"), memory=memory),
            f"{memory!r}, outside of",
        )
        for memory in ("0", "-5", "lots", "", "23034.5")
    },
    "too little memory": (labelled(node("NVIDIA-L4"), memory="500"), "'500', outside of"),
    "absurd memory": (labelled(node("NVIDIA-L4"), memory="99999999"), "outside of 1024 to 4194304"),
    "no capability": (without(node("Some-GPU", memory_mib=9000), "nvidia.com/gpu.compute.major"), "compute.major"),
    "absurd capability": (node("Some-GPU", memory_mib=9000, capability="1234567.0"), "compute.major"),
    "count that is none": (replace(node("NVIDIA-L4"), allocatable={"nvidia.com/gpu": "many"}), "'many'"),
    "negative count": (replace(node("NVIDIA-L4"), allocatable={"nvidia.com/gpu": "-1"}), "'-1'"),
    "absurd count": (replace(node("NVIDIA-L4"), allocatable={"nvidia.com/gpu": "1000000"}), "no count between"),
    "DRA alone": (replace(node("NVIDIA-H200"), allocatable={}), "DRA"),
    "DRA alone, without GFD": (NodeFacts("dra", {"nvidia.com/gpu.present": "true"}, {}), "DRA"),
    "no healthy GPU": (replace(node("NVIDIA-L4"), allocatable={"nvidia.com/gpu": "0"}), "no healthy GPU"),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_what_cannot_be_planned_on_is_said(case: str) -> None:
    facts, said = UNREADABLE[case]
    found = fleet(facts)
    assert found.classes == ()
    assert said in found.unreadable[0].reason


def test_node_without_a_gpu_is_neither_class_nor_trouble() -> None:
    found = fleet(NodeFacts("cpu", {}, {"nvidia.com/gpu": "0"}), NodeFacts("other", {"a": "b"}, {"cpu": "4"}))
    assert (found.classes, found.unreadable, found.nodes) == ((), (), 2)


MIXED = NodeFacts(
    "mixed",
    {
        **node("NVIDIA-A100-SXM4-80GB", gpus=2).labels,
        **{f"nvidia.com/mig-3g.40gb.{key}": value for key, value in {
            "product": "NVIDIA-A100-SXM4-80GB-MIG-3g.40gb", "count": "4", "memory": "40192"}.items()},
        **{f"nvidia.com/mig-1g.10gb.{key}": value for key, value in {
            "product": "NVIDIA-A100-SXM4-80GB-MIG-1g.10gb-SHARED", "count": "6", "replicas": "2"}.items()},
    },
    {"nvidia.com/gpu": "2", "nvidia.com/mig-3g.40gb": "4", "nvidia.com/mig-1g.10gb": "12"},
)  # fmt: skip


def test_node_with_whole_gpus_and_slices_is_read_resource_by_resource() -> None:
    found = fleet(MIXED)
    whole, slices = found.classes
    assert (whole.product, whole.resource, whole.per_node) == ("NVIDIA-A100-SXM4-80GB", "nvidia.com/gpu", 2)
    assert (slices.product, slices.resource) == ("NVIDIA-A100-SXM4-80GB-MIG-3g.40gb", "nvidia.com/mig-3g.40gb")
    assert (slices.mig_profile, slices.per_node, slices.gpus) == ("3g.40gb", 1, 4)
    assert "time-sliced" in found.unreadable[0].reason


def test_slice_s_memory_is_its_label_s_and_its_rates_are_shares_of_the_card() -> None:
    (slices,) = fleet(node("NVIDIA-A100-SXM4-80GB-MIG-3g.40gb", memory_mib=40192, capability="8.0", gpus=4)).classes
    assert (slices.resource, slices.mig_profile, slices.per_node, slices.gpus) == ("nvidia.com/gpu", "3g.40gb", 1, 4)
    assert slices.label_memory_bytes == 40192 * MIB
    assert slices.memory_bytes == cuda_total_bytes(40192 * MIB)
    assert slices.flops_16bit == 312 * 10**12 * 3 // 7
    assert slices.bandwidth_bytes_per_second == 2039 * 10**9 * 40192 // 81920


def test_gpus_free_now_are_those_that_no_pod_holds_on_nodes_that_take_pods() -> None:
    nodes = [
        node("NVIDIA-L4", gpus=4, name="a"),
        replace(node("NVIDIA-L4", gpus=4, name="b"), unschedulable=True),
        MIXED,
    ]
    used = {("a", "nvidia.com/gpu"): 3, ("mixed", "nvidia.com/mig-3g.40gb"): 4, ("mixed", "nvidia.com/gpu"): 9}
    free = {gpu.product: gpu.free for gpu in fleet_of(nodes, used=used).classes}
    assert free == {"NVIDIA-A100-SXM4-80GB": 0, "NVIDIA-A100-SXM4-80GB-MIG-3g.40gb": 0, "NVIDIA-L4": 1}
    assert {gpu.free for gpu in fleet_of(nodes).classes} == {None}
    assert fleet_of(nodes).classes == fleet_of(nodes, used=used).classes, "what is free changes no plan"


def tainted(name: str, *taints: Taint) -> NodeFacts:
    return replace(node("NVIDIA-L4", name=name), taints=taints)


TAINTS: dict[str, tuple[list[NodeFacts], list[str], list[str]]] = {
    "the customary one": ([tainted("a", Taint("nvidia.com/gpu", "present", "NoSchedule"))], [], []),
    "the customary key, another effect": ([tainted("a", Taint("nvidia.com/gpu", "", "NoExecute"))], ["NoExecute"], []),
    "cordoned, not ready, being drained": (
        [tainted("a", Taint("node.kubernetes.io/unschedulable", "", "NoSchedule"),
                 Taint("node.kubernetes.io/not-ready", "", "NoExecute"),
                 Taint("ToBeDeletedByClusterAutoscaler", "1", "NoSchedule"))], [], [],
    ),
    "a mere preference": ([tainted("a", Taint("dedicated", "ml", "PreferNoSchedule"))], [], []),
    "one that only the user can tolerate": (
        [tainted("a", Taint("dedicated", "ml", "NoSchedule"))], [], ["dedicated=ml:NoSchedule"],
    ),
    "one node of two": ([tainted("a", Taint("dedicated", "ml", "NoSchedule")), tainted("b")], [], []),
}  # fmt: skip


@pytest.mark.parametrize("case", TAINTS)
def test_taints(case: str) -> None:
    nodes, tolerated, noted = TAINTS[case]
    (gpu,) = fleet(*nodes).classes
    assert [toleration.effect for toleration in gpu.tolerations] == tolerated
    assert list(gpu.taints) == noted
    assert bool(taints_note(gpu)) == bool(noted)


def test_note_on_taints_says_what_to_do() -> None:
    (gpu,) = fleet(tainted("a", Taint("dedicated", "ml", "NoSchedule"))).classes
    assert "NVIDIA-L4 has the taint dedicated=ml:NoSchedule: spec.pod.tolerations" in taints_note(gpu)


def cloud(name: str = "cloud", gpus: str = "1", **labels: str) -> NodeFacts:
    domains = {"gke": "cloud.google.com/gke-", "aws": "karpenter.k8s.aws/instance-gpu-", "eks": "k8s.amazonaws.com/",
               "node": "node.kubernetes.io/"}  # fmt: skip
    said = {}
    for key, value in labels.items():
        domain, _, rest = key.partition("_")
        said[domains[domain] + rest.replace("_", "-")] = value
    return NodeFacts(name, said, {"nvidia.com/gpu": gpus})


CLOUDS = {
    "GKE": (cloud(gke_accelerator="nvidia-l4", gke_accelerator_count="1"), "NVIDIA-L4",
            {"cloud.google.com/gke-accelerator": "nvidia-l4"}),
    "GKE, A100 of 40 GB": (cloud(gke_accelerator="nvidia-tesla-a100"), "NVIDIA-A100-SXM4-40GB",
                           {"cloud.google.com/gke-accelerator": "nvidia-tesla-a100"}),
    "Karpenter, A100 of 80 GB": (
        cloud(aws_name="a100", aws_memory="81920", gpus="8"), "NVIDIA-A100-SXM4-80GB",
        {"karpenter.k8s.aws/instance-gpu-memory": "81920", "karpenter.k8s.aws/instance-gpu-name": "a100"}),
    "Karpenter, memory that names nothing but must be the same": (
        cloud(aws_name="l4", aws_memory="22888"), "NVIDIA-L4",
        {"karpenter.k8s.aws/instance-gpu-memory": "22888", "karpenter.k8s.aws/instance-gpu-name": "l4"}),
    "a label of EKS node groups": (cloud(eks_accelerator="nvidia-tesla-t4"), "Tesla-T4",
                                   {"k8s.amazonaws.com/accelerator": "nvidia-tesla-t4"}),
    "EC2": (cloud(node_instance_type="g6e.12xlarge", gpus="4"), "NVIDIA-L40S",
            {"node.kubernetes.io/instance-type": "g6e.12xlarge"}),
    "Azure": (cloud(node_instance_type="Standard_NC24ads_A100_v4"), "NVIDIA-A100-80GB-PCIe",
              {"node.kubernetes.io/instance-type": "Standard_NC24ads_A100_v4"}),
}  # fmt: skip


@pytest.mark.parametrize("case", CLOUDS)
def test_a_cloud_s_label_is_enough_where_the_table_knows_it(case: str) -> None:
    facts, product, selector = CLOUDS[case]
    (gpu,) = fleet(facts).classes
    assert (gpu.product, dict(gpu.selector), gpu.origin) == (product, selector, GpuOrigin.TABLE)
    assert gpu.label_memory_bytes == known_gpus()[product].memory_bytes
    assert gpu.per_node == int(facts.allocatable["nvidia.com/gpu"])


CLOUD_REFUSALS = {
    "unknown accelerator": (cloud(gke_accelerator="nvidia-tesla-p4"), "install GPU Feature Discovery"),
    "GKE slice": (
        cloud(gke_accelerator="nvidia-a100-80gb", gke_gpu_partition_size="1g.10gb"),
        "gke-gpu-partition-size",
    ),
    "GKE sharing": (cloud(gke_accelerator="nvidia-l4", gke_gpu_sharing_strategy="time-sharing"), "sharing-strategy"),
    "more than the cloud put in": (
        cloud(gke_accelerator="nvidia-l4", gke_accelerator_count="1", gpus="4"),
        "of 1 cards",
    ),
    "a fraction of a card": (cloud(aws_name="l4", aws_memory="2861"), "2861 MiB of 23034"),
    "A100 of no known size": (cloud(aws_name="a100"), "install GPU Feature Discovery"),
}


@pytest.mark.parametrize("case", CLOUD_REFUSALS)
def test_what_a_cloud_s_labels_do_not_tell_surely_is_refused(case: str) -> None:
    facts, said = CLOUD_REFUSALS[case]
    found = fleet(facts)
    assert found.classes == ()
    assert said in found.unreadable[0].reason


def test_every_row_of_cloud_labels_has_a_product_with_memory_and_a_source() -> None:
    with files("kubequant.planning").joinpath("data/cloud_labels.csv").open(encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    assert len(rows) > 50
    assert [row for row in rows if not (row["source"] and known_gpus()[row["product"]].memory_bytes)] == []
    assert len({row["labels"] for row in rows}) == len(rows)


def test_gfd_goes_before_the_cloud() -> None:
    both = node("NVIDIA-L4")
    (gpu,) = fleet(replace(both, labels={**both.labels, "cloud.google.com/gke-accelerator": "nvidia-tesla-t4"})).classes
    assert (gpu.product, gpu.selector) == ("NVIDIA-L4", ())


SOME_NODES = [node("NVIDIA-L4", name="a"), node("Tesla-T4", name="b"), node("NVIDIA-L4", gpus=4, name="c"),
              NodeFacts("d", {}, {"nvidia.com/gpu": "1"}), MIXED, tainted("e", Taint("dedicated", "ml", "NoSchedule")),
              cloud("f", gke_accelerator="nvidia-l4"), node("NVIDIA-L4", memory_mib=20000, capability="8.0", name="g"),
              without(node("NVIDIA-L4", name="h"), "nvidia.com/gpu.memory")]  # fmt: skip


@given(st.permutations(SOME_NODES))
def test_order_of_nodes_does_not_matter(nodes: list[NodeFacts]) -> None:
    used = {("c", "nvidia.com/gpu"): 1}
    found = fleet_of(nodes, used=used)
    assert found == fleet_of(SOME_NODES, used=used)
    assert [gpu.free for gpu in found.classes] == [gpu.free for gpu in fleet_of(SOME_NODES, used=used).classes]


@given(st.integers(1, 60))
def test_more_nodes_of_the_same_kind_make_no_more_classes(copies: int) -> None:
    nodes = [replace(facts, name=f"{facts.name}-{copy}") for copy in range(copies) for facts in SOME_NODES]
    found, once = fleet_of(nodes), fleet_of(SOME_NODES)
    as_once = [replace(gpu, nodes=gpu.nodes // copies, gpus=gpu.gpus // copies) for gpu in found.classes]
    assert as_once == list(once.classes)


labels = st.dictionaries(
    st.sampled_from([f"nvidia.com/gpu.{key}" for key in ("product", "memory", "count", "replicas", "compute.major",
                     "compute.minor", "sharing-strategy", "present")] + ["nvidia.com/mig-1g.5gb.memory",
                     "nvidia.com/mig-1g.5gb.product", "cloud.google.com/gke-accelerator"]),
    st.sampled_from(["", "0", "1", "-1", "8", "99999999999999999999", "23034", "true", "mps", "NVIDIA-L4", "Tesla-T4-SHARED",
                     "NVIDIA-A30-MIG-1g.6gb", "MIG-INVALID", "-MIG-", "nvidia-l4", "²", "1e3"]) | st.text(max_size=5),
)  # fmt: skip
resources = st.dictionaries(
    st.sampled_from(["nvidia.com/gpu", "nvidia.com/gpu.shared", "nvidia.com/mig-1g.5gb", "nvidia.com/other", "cpu"]),
    st.sampled_from(["0", "1", "8", "-3", "1k", "many", "99999", "²"]) | st.text(max_size=4),
)


@given(labels, resources)
def test_whatever_labels_say_a_node_is_read_or_its_trouble_is_told(
    node_labels: dict[str, str], allocatable: dict[str, str]
) -> None:
    found = fleet(NodeFacts("odd", node_labels, allocatable))
    for gpu in found.classes:
        assert 0 < gpu.memory_bytes < gpu.label_memory_bytes <= 4 * 1024 * GIB
        assert 1 <= gpu.per_node <= gpu.gpus <= 1024
    assert all(len(trouble.reason) > 20 for trouble in found.unreadable)

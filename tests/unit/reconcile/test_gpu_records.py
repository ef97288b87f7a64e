"""Nodes and pods as far as placement reads them."""

from __future__ import annotations

from typing import Any

from kubequant.cluster import kinds
from kubequant.planning.pools import DeclaredPool
from kubequant.planning.taints import Taint
from kubequant.planning.values import GpuOrigin
from kubequant.reconcile.records import gpus_in_use, node_facts, pod_record
from kubequant.reconcile.store import Store

NODE: dict[str, Any] = {
    "metadata": {
        "name": "a",
        "labels": {
            "nvidia.com/gpu.count": 2,
            "cloud.google.com/gke-accelerator": "nvidia-l4",
            "node.kubernetes.io/instance-type": "g2-standard-24",
            "example.com/pool": "l4",
            "kubernetes.io/hostname": "a",
        },
    },
    "spec": {"taints": [{"key": "k", "effect": "NoSchedule"}, {"key": "v", "value": "1", "effect": "NoExecute"}]},
    "status": {"allocatable": {"nvidia.com/gpu": "2", "cpu": "4"}},
}


def pod(node: str | None, phase: str, **limits: str) -> dict[str, Any]:
    resources = {"limits": {f"nvidia.com/{name.replace('_', '.')}": count for name, count in limits.items()}}
    return {
        "metadata": {"namespace": "n", "name": "p"},
        "spec": {"nodeName": node, "containers": [{"resources": resources}, {}]},
        "status": {"phase": phase},
    }


def test_node_facts_keep_what_planning_reads() -> None:
    facts = node_facts(NODE, {"example.com/pool"})
    assert set(facts.labels) == set(NODE["metadata"]["labels"]) - {"kubernetes.io/hostname"}
    assert facts.labels["nvidia.com/gpu.count"] == "2", "a file of nodes written by hand may have numbers"
    assert facts.allocatable == {"nvidia.com/gpu": "2"}
    assert facts.taints == (Taint("k", "", "NoSchedule"), Taint("v", "1", "NoExecute"))
    assert "example.com/pool" not in node_facts(NODE).labels


def test_store_knows_nodes_of_declared_pools_by_labels_of_the_user_s_own() -> None:
    pool = DeclaredPool("l4", "NVIDIA-L4", gpus_per_node=2, max_nodes=3, selector=(("example.com/pool", "l4"),))
    store = Store([pool])
    assert store.fleet.classes[0].gpus == 6
    store.put(kinds.NODE, NODE)
    (gpu,) = store.fleet.classes
    assert (gpu.origin, gpu.gpus, gpu.selector) == (GpuOrigin.DECLARED, 6, pool.selector)


def test_gpus_in_use_are_those_of_pods_that_run_somewhere() -> None:
    used = gpus_in_use(
        [pod("a", "Running", gpu="1"), pod("a", "Pending", gpu="2"), pod("b", "Running", **{"mig-1g_5gb": "1"}),
         pod("a", "Succeeded", gpu="4"), pod(None, "Pending", gpu="8")]
    )  # fmt: skip
    assert used == {("a", "nvidia.com/gpu"): 3, ("b", "nvidia.com/mig-1g.5gb"): 1}


def test_pod_of_ours_tells_its_slice_and_product() -> None:
    body = pod("a", "Running", **{"mig-1g_5gb": "1"})
    label, product = "nvidia.com/mig-1g.5gb.product", "NVIDIA-A30-MIG-1g.6gb"
    terms = [
        {"matchExpressions": [{"key": "nvidia.com/gpu.product", "operator": "DoesNotExist"}]},
        {"matchExpressions": [{"key": label, "operator": "In", "values": [product]}]},
    ]
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
    body["spec"]["affinity"] = {"nodeAffinity": required}
    record = pod_record(body)
    assert (record.gpus, record.gpu_product) == (1, product)

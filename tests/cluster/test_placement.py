"""Slices, nodes that only their cloud has labelled, and a pool that scales from zero, up to pods on the right nodes.

A cluster of its own: slices among the nodes of the other tests would change what those are planned on.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.harness import Installation, OperatorProcess, make_model, wait_for
from tests.localcluster import Cluster

POOL_LABELS = {"example.com/pool": "a10"}
POOL_TAINT = {"key": "dedicated", "value": "inference", "effect": "NoSchedule"}
POOL = {
    "name": "a10-on-demand",
    "product": "NVIDIA-A10",
    "gpusPerNode": 1,
    "maxNodes": 2,
    "nodeSelector": POOL_LABELS,
    "tolerations": [{**POOL_TAINT, "operator": "Equal"}],
}
POOL_NODE: dict[str, Any] = {
    "name": "pool",
    "nodes": [
        {
            "name": "a10-new",
            "gpu": {"product": "NVIDIA-A10", "count": 1, "memoryMiB": 23028, "computeCapability": "8.6"},
            "labels": POOL_LABELS,
            "taints": [POOL_TAINT],
        }
    ],
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster.temporary(fleets=["mig", "gke"]) as running:
        yield running


@pytest.fixture(scope="module")
def installation(cluster: Cluster) -> Installation:
    return Installation(cluster)


@pytest.fixture(scope="module")
def operator(
    installation: Installation, configuration: dict[str, object], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OperatorProcess]:
    settings = {**configuration, "gpuPools": [POOL]}
    with OperatorProcess(installation.operator_kubeconfig, settings, tmp_path_factory.mktemp("operator")) as running:
        running.wait_until_working()
        yield running


def limits_of(installation: Installation, name: str, namespace: str) -> dict[str, str]:
    containers = installation.existing("deployment", name, namespace)["spec"]["template"]["spec"]["containers"]
    asked: dict[str, str] = containers[0]["resources"]["limits"]
    return asked


def node_of(installation: Installation, namespace: str) -> str:
    (pod,) = installation.list("pods", namespace)
    return str(pod["spec"].get("nodeName", ""))


@pytest.mark.parametrize(
    ("product", "resource", "node"),
    [
        ("NVIDIA-A100-SXM4-80GB-MIG-3g.40gb", "nvidia.com/gpu", "mig-single-0"),
        ("NVIDIA-A100-SXM4-80GB-MIG-2g.20gb", "nvidia.com/mig-2g.20gb", "mig-mixed-0"),
        ("NVIDIA-A100-SXM4-80GB", "nvidia.com/gpu", "mig-mixed-0"),
        ("NVIDIA-L4", "nvidia.com/gpu", "gke-l4-0"),
    ],
)
def test_the_pod_runs_on_the_gpu_that_was_planned_on(
    installation: Installation, operator: OperatorProcess, namespace: str, product: str, resource: str, node: str
) -> None:
    installation.apply(make_model("qwen", namespace).gpu(products=[product]))
    installation.wait_condition("qwen", "Ready", "True", "Ready", namespace=namespace)
    assert installation.status("qwen", namespace)["plan"]["gpuProduct"] == product
    assert limits_of(installation, "qwen", namespace) == {resource: "1"}
    assert node_of(installation, namespace) == node


def test_no_engine_spans_two_slices(installation: Installation, operator: OperatorProcess, namespace: str) -> None:
    model = make_model("qwen", namespace).gpu(products=["NVIDIA-A100-SXM4-80GB-MIG-3g.40gb"], perReplica=2)
    installation.apply(model)
    installation.wait_condition("qwen", "Planned", "False", namespace=namespace)


def test_a_pool_is_planned_on_before_it_has_a_node_and_its_node_takes_the_pod(
    installation: Installation, operator: OperatorProcess, namespace: str
) -> None:
    installation.apply(make_model("qwen", namespace).gpu(products=["NVIDIA-A10"]))
    installation.wait_condition("qwen", "Planned", "True", namespace=namespace)
    installation.wait_condition("qwen", "Available", "False", "Unschedulable", namespace=namespace)
    template = installation.existing("deployment", "qwen", namespace)["spec"]["template"]["spec"]
    assert {**POOL_TAINT, "operator": "Equal"} in template["tolerations"]
    terms = template["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    of_pool = {"key": "example.com/pool", "operator": "In", "values": ["a10"]}
    assert all(of_pool in term["matchExpressions"] for term in terms)
    before = installation.status("qwen", namespace)["plan"]

    installation.cluster.add_fleet(POOL_NODE)  # as the autoscaler does for a pod that waits
    installation.wait_condition("qwen", "Ready", "True", "Ready", namespace=namespace)
    wait_for("the pod to run on the new node", lambda: node_of(installation, namespace) == "a10-new-0")
    assert installation.status("qwen", namespace)["plan"] == before, "a node that comes makes no new plan"

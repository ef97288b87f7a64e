"""Failures that only a real kubelet brings about: each is seen on the model within seconds, with its cause."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import Installation, OperatorProcess, make_model, wait_for
from tests.harness.engine import POD_RESOURCES, TINY_AWQ, cpu_engine
from tests.localcluster import Cluster
from tests.localcluster.images import ensure_base_image

SEEN_SECONDS = 60


@pytest.fixture
def namespace(installation: Installation, request: pytest.FixtureRequest) -> Iterator[str]:
    name = request.node.name.replace("_", "-")[:50].rstrip("-")
    installation.cluster.kubectl("create", "namespace", name)
    yield name
    # The GPUs must be free for the next test; the namespace itself goes half a grace period later.
    installation.cluster.kubectl("-n", name, "delete", "qm", "--all")
    wait_for("the pods to be gone", lambda: not installation.list("pods", name), seconds=120)
    installation.cluster.kubectl("delete", "namespace", name, "--wait=false")


def test_unscheduled_for_want_of_a_gpu(
    installation: Installation, operator: OperatorProcess, node_cluster: Cluster, namespace: str
) -> None:
    filler = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "filler", "namespace": namespace},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [
                {
                    "name": "filler",
                    "image": ensure_base_image(node_cluster),
                    "command": ["sleep", "600"],
                    "resources": {"limits": {"nvidia.com/gpu": "2"}},
                }
            ],
        },
    }
    node_cluster.kubectl("apply", "-f", "-", stdin=json.dumps(filler))
    node_cluster.kubectl("-n", namespace, "wait", "--for=condition=Ready", "pod/filler", "--timeout=60s")

    installation.apply(make_model("late", namespace).repository(TINY_AWQ).pod(resources=POD_RESOURCES))
    said = installation.wait_condition(
        "late", "Ready", "False", "Unschedulable", namespace=namespace, seconds=SEEN_SECONDS
    )
    assert "Insufficient nvidia.com/gpu" in said["message"] and "1 x KUBEQUANT-Fake-GPU" in said["message"]
    assert installation.condition("late", "Stalled", namespace)["status"] == "False", "it starts by itself later"

    installation.delete("pod", "filler", namespace)
    wait_for("the pod to be scheduled", lambda: _pod(installation, namespace)["spec"].get("nodeName"), seconds=30)


def test_killed_for_memory(installation: Installation, operator: OperatorProcess, namespace: str) -> None:
    small = {"cpu": "200m", "memory": "220Mi"}
    installation.apply(make_model("small", namespace).repository(TINY_AWQ).pod(resources=small))
    said = installation.wait_condition(
        "small", "Ready", "False", "ContainerOutOfMemory", namespace=namespace, seconds=120
    )
    assert "spec.pod.resources.memory" in said["message"]
    assert installation.condition("small", "Stalled", namespace)["status"] == "True"


def test_an_image_that_is_not_there(
    installation: Installation, operator: OperatorProcess, hub_address: str, namespace: str, tmp_path: Path
) -> None:
    """The engine's image is the operator's configuration: another operator takes over with one that does not exist."""
    operator.stop()
    configuration = {
        "engine": cpu_engine("localhost/kubequant/none:1"),
        "hub": {"endpoint": hub_address},
        "leaderElection": {"leaseSeconds": 5},
    }
    try:
        with OperatorProcess(installation.operator_kubeconfig, configuration, tmp_path) as other:
            other.wait_until_working()
            installation.apply(make_model("none", namespace).repository(TINY_AWQ).pod(resources=POD_RESOURCES))
            said = installation.wait_condition(
                "none", "Ready", "False", "ImagePullFailed", namespace=namespace, seconds=SEEN_SECONDS
            )
            assert "localhost/kubequant/none:1" in said["message"]
    finally:
        operator.start().wait_until_working()


def _pod(installation: Installation, namespace: str) -> dict:
    pods = installation.list("pods", namespace, "app.kubernetes.io/managed-by=kubequant")
    assert pods, "the model has no pod"
    return pods[0]

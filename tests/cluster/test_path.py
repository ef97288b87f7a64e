"""The whole path on KWOK: from `kubectl apply` to Ready, and to nothing left."""

from __future__ import annotations

import json

from tests.harness import Installation, OperatorProcess, make_model, wait_for


def test_a_model_becomes_ready_and_leaves_nothing_behind(
    installation: Installation, operator: OperatorProcess, namespace: str
) -> None:
    installation.apply(make_model("qwen", namespace))
    installation.wait_condition("qwen", "Ready", "True", "Ready", namespace=namespace)

    assert "the watches failed" not in operator.log(), "full lists alone would get there too, later"

    deployment = installation.get("deployment", "qwen", namespace)
    assert deployment
    pod = deployment["spec"]["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert pod["automountServiceAccountToken"] is False
    assert "--quantization" not in json.dumps(pod)

    installation.delete("qm", "qwen", namespace)
    installation.wait_gone("deployment", "qwen", namespace)
    wait_for("pods to be gone", lambda: not installation.list("pods", namespace))
    assert not installation.list("controllerrevisions,services", namespace, "app.kubernetes.io/managed-by=kubequant")


def test_scaling_leaves_pods_untouched(installation: Installation, operator: OperatorProcess, namespace: str) -> None:
    installation.apply(make_model("qwen", namespace))
    installation.wait_condition("qwen", "Ready", "True", namespace=namespace)
    before = {pod["metadata"]["uid"] for pod in installation.list("pods", namespace)}

    installation.cluster.kubectl("-n", namespace, "scale", "qm", "qwen", "--replicas=3")
    installation.wait_condition("qwen", "Ready", "True", namespace=namespace)
    wait_for("three pods", lambda: len(installation.list("pods", namespace)) == 3)
    assert before < {pod["metadata"]["uid"] for pod in installation.list("pods", namespace)}
    assert installation.get("pdb", "qwen", namespace), "from two replicas on there is a PodDisruptionBudget"

    installation.cluster.kubectl("-n", namespace, "scale", "qm", "qwen", "--replicas=1")
    wait_for("one pod", lambda: len(installation.list("pods", namespace)) == 1)
    installation.wait_gone("pdb", "qwen", namespace)
    assert len(installation.list("controllerrevisions", namespace)) == 1, "scaling makes no revision"

"""A plan for a checkpoint that nobody has made: decided, shown, and not rolled out until one is named."""

from __future__ import annotations

from typing import Any

import pytest

from tests.harness import Installation, OperatorProcess, make_model

BASE, AWQ = "Qwen/Qwen2.5-7B-Instruct", "Qwen/Qwen2.5-7B-Instruct-AWQ"


def asking(name: str, namespace: str, **quantization: Any) -> dict[str, Any]:
    manifest = make_model(name, namespace).manifest()
    manifest["metadata"]["namespace"] = namespace
    manifest["spec"] |= {"model": {"repository": BASE}, "quantization": quantization}
    return manifest


def test_a_predicted_plan_waits_for_its_checkpoint(
    installation: Installation, operator: OperatorProcess, namespace: str
) -> None:
    installation.apply(asking("m", namespace, scheme="W4A16"))
    told = installation.wait_condition("m", "CheckpointReady", "False", "NoCheckpoint", namespace=namespace)
    assert "name one in quantization.checkpoint" in told["message"]
    assert installation.condition("m", "Planned", namespace)["status"] == "True"
    assert installation.condition("m", "Stalled", namespace)["status"] == "True"
    plan = installation.status("m", namespace)["plan"]
    assert (plan["scheme"], plan["method"], plan["predicted"]) == ("W4A16", "AWQ", True)
    assert "are predicted from the headers" in plan["notes"][0]
    assert not installation.list("deployments", namespace)

    installation.apply(asking("m", namespace, scheme="W4A16", checkpoint={"repository": AWQ}))
    installation.wait_condition("m", "Ready", "True", namespace=namespace)
    found = installation.status("m", namespace)["plan"]
    assert "predicted" not in found
    assert found["weightBytes"] == pytest.approx(plan["weightBytes"], rel=0.01), "within 1 % of the real one"


def test_objective_and_method_are_taken(installation: Installation, operator: OperatorProcess, namespace: str) -> None:
    manifest = asking("m", namespace, scheme="W4A16", method="GPTQ")
    manifest["spec"] |= {"mode": "Plan", "serving": {"objective": "LowestLatency", "concurrentRequests": 1}}
    installation.apply(manifest)
    installation.wait_condition("m", "Ready", "False", "PlanOnly", namespace=namespace)
    plan = installation.status("m", namespace)["plan"]
    assert (plan["objective"], plan["method"]) == ("LowestLatency", "GPTQ")
    assert float(plan["bounds"]["decodeTokensPerSecond"]) > 0
    assert [item["scheme"] for item in plan["alternatives"]] == ["W4A16"] * len(plan["alternatives"])

"""Every manifest in examples/ works as it stands. The tiny model's is served for real in the node lane."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.harness import Installation, OperatorProcess

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SERVED_IN_THE_NODE_LANE = "tiny-llama.yaml"
EXPECTED = {
    "qwen2.5-7b-awq.yaml": ("Ready", "True", "Ready"),
    "llama-3.1-8b-fp8.yaml": ("Ready", "True", "Ready"),
    "llama-3.1-70b-plan.yaml": ("Planned", "True", "Planned"),  # this lane's fleet has cards of 80 GB
}


def example(name: str, namespace: str) -> dict[str, Any]:
    body: dict[str, Any] = yaml.safe_load((EXAMPLES / name).read_text())
    body["metadata"]["namespace"] = namespace
    return body


def test_every_example_is_applied_by_a_test() -> None:
    assert {path.name for path in EXAMPLES.glob("*.yaml")} == {*EXPECTED, SERVED_IN_THE_NODE_LANE}


@pytest.mark.parametrize("name", EXPECTED)
def test_example(installation: Installation, operator: OperatorProcess, namespace: str, name: str) -> None:
    body = example(name, namespace)
    installation.apply(body)
    kind, status, reason = EXPECTED[name]
    installation.wait_condition(body["metadata"]["name"], kind, status, reason, namespace=namespace)

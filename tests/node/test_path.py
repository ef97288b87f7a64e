"""The whole path for real: apply, Ready, an answer through the Service, a change, a break and the way back, nothing left.

One story in one test: each chapter costs a start of the engine, and stands on the one before.
"""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.fakehub import FakeHub
from tests.harness import Installation, OperatorProcess, make_model, wait_for
from tests.harness.chat import chat, service_url
from tests.harness.engine import POD_RESOURCES, TINY, TINY_AWQ
from tests.harness.installation import ROOT

NAMESPACE = "story"
START_SECONDS = 240


@pytest.fixture(scope="module")
def namespace(installation: Installation) -> str:
    installation.cluster.kubectl("create", "namespace", NAMESPACE)
    installation.cluster.kubectl("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted")
    return NAMESPACE


def test_the_whole_story(installation: Installation, operator: OperatorProcess, hub: FakeHub, namespace: str) -> None:
    tiny = make_model("tiny-llama", namespace).repository(TINY).quantization(scheme="W4A16")
    tiny = tiny.context(2048).pod(resources=POD_RESOURCES)
    assert _example(namespace)["spec"] == tiny.manifest()["spec"]

    # A base model is named, its published checkpoint is found, becomes Ready, and answers.
    installation.apply(_example(namespace))
    installation.wait_condition("tiny-llama", "Ready", "True", "Ready", namespace=namespace, seconds=START_SECONDS)
    url = service_url(installation, "tiny-llama", namespace)
    answer = chat(url, TINY, "What is a list?")
    assert answer["choices"][0]["message"]["content"].strip()
    assert answer["usage"]["completion_tokens"] > 0
    assert _status(installation, namespace)["checkpoint"] == TINY_AWQ
    found = installation.condition("tiny-llama", "CheckpointReady", namespace)
    assert (found["status"], found["reason"]) == ("True", "Found")

    # What was measured is held against what was promised.
    within = installation.wait_condition(
        "tiny-llama", "WithinPlan", "True", "WithinPlan", namespace=namespace, seconds=60
    )
    status = _status(installation, namespace)
    assert status["measured"]["kvCacheTokens"] >= status["plan"]["kvCacheTokens"] > 0
    assert str(status["measured"]["kvCacheTokens"]) in within["message"]
    first = status["updateRevision"]

    # The pod is what the Pod Security of the namespace demands, and serves the pinned commit.
    pod = _pods(installation, namespace)[0]
    commit = status["modelCommit"]
    assert commit in pod["spec"]["initContainers"][0]["args"]
    assert not _service_account_volumes(pod)

    # A worker is killed: vLLM ends with 0, the launcher makes a failure of it, the model says so and mends itself.
    os.kill(_process_of_a_worker(), signal.SIGKILL)
    installation.wait_condition("tiny-llama", "Ready", "False", "WorkerKilled", namespace=namespace, seconds=60)
    assert (
        _pods(installation, namespace)[0]["status"]["containerStatuses"][0]["lastState"]["terminated"]["exitCode"] != 0
    )
    installation.wait_condition("tiny-llama", "Ready", "True", "Ready", namespace=namespace, seconds=START_SECONDS)
    assert _status(installation, namespace)["updateRevision"] == first, "nothing was rolled"

    # A changed field is rolled out, and only pods at the new revision make it Ready.
    installation.apply(tiny.context(1024))
    installation.wait_condition("tiny-llama", "Ready", "True", "Ready", namespace=namespace, seconds=START_SECONDS)
    status = _status(installation, namespace)
    assert status["updateRevision"] == status["currentRevision"] != first
    assert status["plan"]["contextTokens"] == 1024
    assert chat(url, TINY, "And a tuple?")["choices"]

    # A change that the engine refuses is rolled back: the cause is said, and the model goes on answering.
    second = status["updateRevision"]
    installation.apply(tiny.serving(engineArguments={"reasoning-parser": "no-such-parser"}))
    rolled = installation.wait_condition(
        "tiny-llama", "Ready", "False", "RolledBack", namespace=namespace, seconds=START_SECONDS
    )
    assert "no-such-parser" in rolled["message"]
    assert installation.condition("tiny-llama", "Stalled", namespace)["status"] == "True"
    installation.wait_condition("tiny-llama", "Available", "True", namespace=namespace, seconds=START_SECONDS)
    assert _status(installation, namespace)["currentRevision"] == second
    assert chat(url, TINY, "Still there?")["choices"]

    # Deleted, all is gone.
    installation.delete("qm", "tiny-llama", namespace)
    wait_for("all pods to be gone", lambda: not _pods(installation, namespace), seconds=120)
    owned = "deployments,services,configmaps,controllerrevisions"
    wait_for(
        "all children to be gone",
        lambda: not installation.list(owned, namespace, "app.kubernetes.io/managed-by=kubequant"),
    )


def _example(namespace: str) -> dict[str, Any]:
    """The manifest that the demo applies."""
    body: dict[str, Any] = yaml.safe_load((ROOT / "examples/tiny-llama.yaml").read_text())
    body["metadata"]["namespace"] = namespace
    return body


def _status(installation: Installation, namespace: str) -> dict[str, Any]:
    model = installation.get("qm", "tiny-llama", namespace)
    assert model
    status: dict[str, Any] = model["status"]
    return status


def _pods(installation: Installation, namespace: str) -> list[dict[str, Any]]:
    return installation.list("pods", namespace, "kubequant.dev/model=tiny-llama")


def _service_account_volumes(pod: dict[str, Any]) -> list[str]:
    return [volume["name"] for volume in pod["spec"]["volumes"] if "serviceAccountToken" in json.dumps(volume)]


def _process_of_a_worker() -> int:
    """vLLM names its processes; the node's processes are this machine's."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                name = (folder / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if name.startswith("VLLM::Worker"):
                return int(folder.name)
    raise AssertionError("no worker of vLLM runs")

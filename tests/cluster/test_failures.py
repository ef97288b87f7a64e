"""Pods that fail, played by KWOK: the cause stands on the QuantizedModel within seconds, and the last good revision serves."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest

from tests.harness import Installation, OperatorProcess, QuantizedModelBuilder, make_model, wait_for
from tests.localcluster import Failure, FailureState
from tests.localcluster.failure import ANNOTATION

RTX_4090 = "NVIDIA-GeForce-RTX-4090"
SECONDS_TO_TELL = 10


def termination(reason: str, message: str, stage: str = "engine", **details: Any) -> str:
    """What the launcher or the download leaves behind."""
    document = {"kubequantTermination": 1, "stage": stage, "reason": reason, "message": message, "details": details}
    return json.dumps(document)


def ended(reason: str, message: str, exit_code: int = 1, **details: Any) -> Failure:
    """The engine ended and its launcher said why."""
    return Failure(
        FailureState.TERMINATED, "Error", termination(reason, message, **details), exit_code, container="engine"
    )


def download_ended(reason: str, message: str) -> Failure:
    text = termination(reason, message, "download")
    return Failure(FailureState.TERMINATED, "Error", text, 1, container="download")


@dataclass(frozen=True)
class Trouble:
    """A failure, and what the model must say: reason, words of the message, whether waiting is vain."""

    failure: Failure
    reason: str
    words: tuple[str, ...]
    stalled: bool


TROUBLES = {
    "image missing": Trouble(
        Failure(FailureState.WAITING, "ImagePullBackOff", 'Back-off pulling image "docker.io/vllm/vllm-openai"'),
        "ImagePullFailed",
        ("docker.io/vllm/vllm-openai", "spec.pod.imagePullSecrets"),
        stalled=False,
    ),
    "a Secret is missing": Trouble(
        Failure(FailureState.WAITING, "CreateContainerConfigError", 'secret "hf" not found', container="download"),
        "ConfigurationMissing",
        ('secret "hf" not found', "Create what it names"),
        stalled=False,
    ),
    "killed for memory": Trouble(
        Failure(FailureState.TERMINATED, "OOMKilled", exitCode=137, container="engine"),
        "ContainerOutOfMemory",
        ("exit code 137", "Raise spec.pod.resources.memory"),
        stalled=True,
    ),
    "CUDA out of memory": Trouble(
        ended("GpuOutOfMemory", "CUDA ran out of memory: tried to allocate 2.00 GiB of 23.65 GiB", total="23.65 GiB"),
        "GpuOutOfMemory",
        ("2.00 GiB", "23.65 GiB"),
        stalled=True,
    ),
    "KV cache too small": Trouble(
        ended("KvCacheTooSmall", "32768 tokens need 1.75 GiB of KV cache, 0.98 GiB is there", needed_gib=1.75),
        "KvCacheTooSmall",
        ("1.75 GiB", "0.98 GiB"),
        stalled=True,
    ),
    "an argument that vLLM refuses": Trouble(
        ended("EngineArgumentRefused", "vllm: error: unrecognized arguments: --no-such-thing", 2),
        "EngineArgumentRefused",
        ("--no-such-thing",),
        stalled=True,
    ),
    "a checkpoint that the kernel refuses": Trouble(
        ended("CheckpointRefused", "group_size 96 is not supported by MarlinLinearKernel"),
        "CheckpointRefused",
        ("group_size 96",),
        stalled=True,
    ),
    "model not found": Trouble(
        ended("ModelNotFound", "/models/model has no config.json"), "ModelNotFound", ("config.json",), stalled=True
    ),
    "worker killed": Trouble(
        ended("WorkerKilled", "worker 1 was killed by signal 9; vLLM itself ended with 0", signal=9),
        "WorkerKilled",
        ("signal 9",),
        stalled=False,
    ),
    "worker killed three times": Trouble(
        Failure(
            FailureState.CRASH_LOOP,
            "Error",
            termination("WorkerKilled", "worker 1 was killed by signal 9"),
            1,
            restartCount=3,
            container="engine",
        ),
        "WorkerKilled",
        ("signal 9",),
        stalled=True,
    ),
    "an end without a word": Trouble(
        Failure(FailureState.TERMINATED, "Error", "Segmentation fault", 139, container="engine"),
        "EngineFailed",
        ("exit code 139", "see its log"),
        stalled=False,
    ),
    "the download is denied": Trouble(
        download_ended("DownloadAccessDenied", "the token of Secret hf does not open the model (HTTP 403)"),
        "DownloadAccessDenied",
        ("HTTP 403",),
        stalled=True,
    ),
    "the disk is full": Trouble(
        download_ended("DiskFull", "6.1 GiB are needed, 2.0 GiB are free"), "DiskFull", ("6.1 GiB", "2.0 GiB"), stalled=True
    ),
}  # fmt: skip


def failing(model: QuantizedModelBuilder, failure: Failure, **pod: Any) -> QuantizedModelBuilder:
    """The model with pods that fail from their start."""
    return model.pod(annotations=failure.annotations(), **pod)


@pytest.mark.parametrize("trouble", list(TROUBLES.values()), ids=list(TROUBLES))
def test_a_failure_is_told_with_reason_and_number(
    installation: Installation, operator: OperatorProcess, namespace: str, trouble: Trouble
) -> None:
    installation.apply(failing(make_model("m", namespace), trouble.failure))
    told = installation.wait_condition(
        "m", "Ready", "False", trouble.reason, namespace=namespace, seconds=SECONDS_TO_TELL
    )
    for word in trouble.words:
        assert word in told["message"]
    assert "kubequantTermination" not in told["message"]
    conditions = {c["type"]: c["status"] for c in installation.status("m", namespace)["conditions"]}
    assert conditions["Available"] == "False"
    assert conditions["Stalled"] == str(trouble.stalled)
    assert conditions["Reconciling"] == str(not trouble.stalled)


def test_a_running_pod_that_fails_and_recovers(
    installation: Installation, operator: OperatorProcess, namespace: str
) -> None:
    installation.apply(make_model("m", namespace))
    installation.wait_condition("m", "Ready", "True", namespace=namespace)
    ((key, text),) = ended("WorkerKilled", "worker 0 was killed by signal 9").annotations().items()
    (pod,) = installation.pods("m", namespace)
    annotate = {"metadata": {"annotations": {key: text}}}
    installation.patch("pod", pod["metadata"]["name"], annotate, namespace)
    installation.wait_condition("m", "Ready", "False", "WorkerKilled", namespace=namespace, seconds=SECONDS_TO_TELL)
    assert installation.condition("m", "Available", namespace)["status"] == "False"
    assert len(installation.revisions("m", namespace)) == 1
    installation.patch("pod", pod["metadata"]["name"], {"metadata": {"annotations": {key: None}}}, namespace)
    installation.wait_condition("m", "Ready", "True", namespace=namespace)


def test_a_revision_that_was_ready_is_never_called_failed(
    installation: Installation, operator: OperatorProcess, namespace: str
) -> None:
    """What worked and stops working is the machine's fault, not the plan's."""
    installation.apply(make_model("m", namespace))
    installation.wait_condition("m", "Ready", "True", namespace=namespace)
    installation.patch("qm", "m", {"spec": {"serving": {"contextTokens": 8192}}}, namespace)
    installation.wait_condition("m", "Ready", "True", namespace=namespace)
    newest = installation.status("m", namespace)["currentRevision"]
    (pod,) = wait_for("one pod", lambda: (p := installation.pods("m", namespace)) and len(p) == 1 and p)
    fault = ended("GpuOutOfMemory", "another process took 20 GiB").annotations()
    installation.patch("pod", pod["metadata"]["name"], {"metadata": {"annotations": fault}}, namespace)
    told = installation.wait_condition("m", "Ready", "False", "GpuOutOfMemory", namespace=namespace)
    assert "another process took 20 GiB" in told["message"]
    assert installation.status("m", namespace)["updateRevision"] == newest
    assert outcomes(installation, namespace) == ["Ready", "Ready"]


def outcomes(installation: Installation, namespace: str) -> list[str]:
    """Verdicts of the revisions, oldest first."""
    return [
        revision["metadata"].get("annotations", {}).get("kubequant.dev/outcome", "")
        for revision in installation.revisions("m", namespace)
    ]


def test_unschedulable_says_what_is_short(
    installation: Installation, operator: OperatorProcess, namespace: str
) -> None:
    installation.apply(make_model("m", namespace).gpu(products=[RTX_4090], perReplica=2).replicas(3).context(4096))
    told = installation.wait_condition("m", "Ready", "False", "Unschedulable", namespace=namespace, seconds=20)
    assert f"2 x {RTX_4090}" in told["message"]
    assert "Insufficient nvidia.com/gpu" in told["message"]
    available = wait_for(
        "two of three replicas",
        lambda: (c := installation.condition("m", "Available", namespace))["message"].startswith("2 of 3") and c,
    )
    assert (available["status"], available["reason"]) == ("True", "SomeReplicasReady")
    assert installation.condition("m", "Stalled", namespace)["status"] == "False", "a GPU may come free"


# --- rollback ----------------------------------------------------------------------------------------------------


def test_a_failed_revision_is_rolled_back_once_and_a_fix_rolls_forward(
    installation: Installation, operator: OperatorProcess, namespace: str
) -> None:
    installation.apply(make_model("m", namespace))
    installation.wait_condition("m", "Ready", "True", namespace=namespace)
    good = installation.status("m", namespace)["currentRevision"]
    old_pods = {pod["metadata"]["uid"] for pod in installation.pods("m", namespace)}

    broken = make_model("m", namespace).rollout("Surge")
    installation.apply(failing(broken, ended("KvCacheTooSmall", "needs 1.75 GiB, 0.98 GiB is there")))
    told = installation.wait_condition("m", "Ready", "False", "RolledBack", namespace=namespace)
    for word in ("KvCacheTooSmall", "1.75 GiB", good, "Change the spec"):
        assert word in told["message"]
    conditions = {c["type"]: c["status"] for c in installation.status("m", namespace)["conditions"]}
    assert (conditions["Available"], conditions["Stalled"], conditions["Reconciling"]) == ("True", "True", "False")
    status = installation.status("m", namespace)
    assert status["currentRevision"] == good != status["updateRevision"]
    assert outcomes(installation, namespace)[1].startswith("Failed: KvCacheTooSmall: ")
    wait_for("the good pod alone", lambda: len(installation.pods("m", namespace)) == 1)
    assert {pod["metadata"]["uid"] for pod in installation.pods("m", namespace)} == old_pods, "it never stopped serving"

    # Not tried again, whatever wakes the model up: neither by a restart nor by a change of the replicas.
    operator.stop()
    operator.start().wait_until_working()
    installation.patch("qm", "m", {"spec": {"replicas": 2}}, namespace)
    wait_for("two good pods", lambda: installation.status("m", namespace).get("readyReplicas") == 2)
    assert {pod["metadata"]["labels"]["kubequant.dev/revision"] for pod in installation.pods("m", namespace)} == {good}
    installation.wait_condition("m", "Ready", "False", "RolledBack", namespace=namespace)

    installation.patch("qm", "m", {"spec": {"replicas": 1, "serving": {"contextTokens": 4096}, "pod": None}}, namespace)
    installation.wait_condition("m", "Ready", "True", "Ready", namespace=namespace)
    assert installation.status("m", namespace)["currentRevision"] not in (good, status["updateRevision"])
    assert [outcome.split(":")[0] for outcome in outcomes(installation, namespace)] == ["Ready", "Failed", "Ready"]


def test_a_first_revision_that_fails_keeps_its_pods(
    installation: Installation, operator: OperatorProcess, namespace: str
) -> None:
    """There is nothing to go back to: the pods go on trying, and a fix replaces them."""
    installation.apply(failing(make_model("m", namespace), ended("GpuOutOfMemory", "2.00 GiB short")))
    installation.wait_condition("m", "Ready", "False", "GpuOutOfMemory", namespace=namespace)
    assert outcomes(installation, namespace) == [""]
    installation.patch("qm", "m", {"spec": {"pod": None, "serving": {"contextTokens": 4096}}}, namespace)
    installation.wait_condition("m", "Ready", "True", namespace=namespace)
    assert outcomes(installation, namespace) == ["", "Ready"]


# --- how pods are replaced ---------------------------------------------------------------------------------------


def test_with_a_free_gpu_a_rollout_never_stops_serving(
    installation: Installation, operator: OperatorProcess, namespace: str
) -> None:
    installation.apply(make_model("m", namespace).rollout("Surge"))
    installation.wait_condition("m", "Ready", "True", namespace=namespace)
    (old,) = installation.pods("m", namespace)
    never_ready = Failure(FailureState.NEVER_READY, container="engine")
    installation.apply(failing(make_model("m", namespace).rollout("Surge"), never_ready))
    wait_for("a surge pod", lambda: len(installation.pods("m", namespace)) == 2)
    told = installation.wait_condition("m", "Ready", "False", namespace=namespace)
    assert told["reason"] in ("Progressing", "Loading", "Starting", "EngineFailed"), (
        "the last once it runs and is silent"
    )
    assert installation.condition("m", "Available", namespace)["status"] == "True"
    surge = next(pod for pod in installation.pods("m", namespace) if pod["metadata"]["uid"] != old["metadata"]["uid"])
    installation.patch("pod", surge["metadata"]["name"], {"metadata": {"annotations": {ANNOTATION: None}}}, namespace)
    installation.wait_condition("m", "Ready", "True", "Ready", namespace=namespace)
    wait_for("the old pod to go", lambda: len(installation.pods("m", namespace)) == 1)


def test_without_a_free_gpu_a_rollout_goes_in_place(
    installation: Installation, operator: OperatorProcess, namespace: str
) -> None:
    installation.cluster.add_fleet(one_gpu_fleet("lonely", "KUBEQUANT-Lonely"))
    try:
        installation.apply(make_model("m", namespace).gpu(products=["KUBEQUANT-Lonely"]))
        installation.wait_condition("m", "Ready", "True", namespace=namespace)
        installation.patch("qm", "m", {"spec": {"pod": {"labels": {"team": "blue"}}}}, namespace)
        installation.wait_condition("m", "Ready", "True", namespace=namespace)
        strategy = installation.existing("deployment", "m", namespace)["spec"]["strategy"]
        assert strategy["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}
        assert [pod["metadata"]["labels"]["team"] for pod in installation.pods("m", namespace)] == ["blue"]
    finally:
        installation.cluster.remove_nodes("localcluster.kubequant.dev/fleet=lonely")


@pytest.mark.faults
def test_a_surge_pod_that_finds_no_room_means_in_place_after_a_minute(
    installation: Installation, operator: OperatorProcess, namespace: str
) -> None:
    """The GPU looks free, since others' pods are not watched, and is not: after 60 s the old pod makes room."""
    installation.cluster.add_fleet(one_gpu_fleet("shared", "KUBEQUANT-Shared", gpus=2))
    try:
        installation.api.create(foreign_pod(namespace, "shared-0"))
        installation.apply(make_model("m", namespace).gpu(products=["KUBEQUANT-Shared"], perReplica=1))
        installation.wait_condition("m", "Ready", "True", namespace=namespace)
        installation.patch("qm", "m", {"spec": {"pod": {"labels": {"team": "blue"}}}}, namespace)
        told = installation.wait_condition("m", "Ready", "False", "Unschedulable", namespace=namespace)
        assert "1 x KUBEQUANT-Shared" in told["message"]
        assert installation.condition("m", "Available", namespace)["status"] == "True"
        installation.wait_condition("m", "Ready", "True", namespace=namespace, seconds=90)
        assert [pod["metadata"]["labels"]["team"] for pod in installation.pods("m", namespace)] == ["blue"]
    finally:
        installation.cluster.remove_nodes("localcluster.kubequant.dev/fleet=shared")


def one_gpu_fleet(name: str, product: str, gpus: int = 1) -> dict[str, Any]:
    gpu = {"product": product, "count": gpus, "memoryMiB": 24564, "computeCapability": "8.9", "family": "ada-lovelace"}
    return {"name": name, "nodes": [{"name": name, "gpu": gpu}]}


def foreign_pod(namespace: str, node: str) -> dict[str, Any]:
    """A pod of somebody else's that holds one GPU."""
    restricted = {
        "runAsNonRoot": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    container = {"name": "c", "image": "i", "resources": {"limits": {"nvidia.com/gpu": "1"}}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "foreign", "namespace": namespace},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": node},
            "containers": [{**container, "securityContext": restricted}],
        },
    }

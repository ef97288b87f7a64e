"""The local cluster itself: what every other cluster test takes for granted."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.localcluster import AuditKey, Cluster, ClusterError, Failure, FailureState
from tests.localcluster.record import cluster_directory

pytestmark = pytest.mark.cluster
_REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster.temporary(fleets=["rtx4090", "none"]) as running:
        yield running


def _deployment(name: str, annotations: dict[str, str] | None = None, gpus: int = 1) -> str:
    labels = {"app": name}
    container = {"name": "vllm", "image": "never.pulled/vllm", "resources": {"limits": {"nvidia.com/gpu": gpus}}}
    template = {"metadata": {"labels": labels, "annotations": annotations or {}}, "spec": {"containers": [container]}}
    spec = {"selector": {"matchLabels": labels}, "template": template}
    return json.dumps({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec})


def _container_status(cluster: Cluster, app: str, timeout: float = 15) -> dict[str, object]:
    """The first container's status of the one pod of `app`, once there is one."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        pods = json.loads(cluster.kubectl("get", "pods", "-l", f"app={app}", "-o", "json"))["items"]
        if pods and (statuses := pods[0]["status"].get("containerStatuses")):
            status: dict[str, object] = statuses[0]
            return status
        time.sleep(0.1)
    raise AssertionError(f"no pod of {app} has a container status after {timeout} s")


def _processes_of(directory: Path) -> list[int]:
    """Processes with the cluster's folder in their command line, but for those that look for it."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if f"{directory}/".encode() in command:
                found.append(int(entry.name))
    return found


def test_kwok_nodes_are_ready_with_gfd_labels_and_gpus(cluster: Cluster) -> None:
    cluster.kubectl("wait", "--for=condition=Ready", "node/rtx4090-0", "node/cpu-1", "--timeout=10s")
    node = json.loads(cluster.kubectl("get", "node", "rtx4090-0", "-o", "json"))
    labels = node["metadata"]["labels"]
    assert labels["nvidia.com/gpu.product"] == "NVIDIA-GeForce-RTX-4090"
    assert labels["nvidia.com/gpu.memory"] == "24564"
    assert (labels["nvidia.com/gpu.compute.major"], labels["nvidia.com/gpu.compute.minor"]) == ("8", "9")
    assert node["status"]["allocatable"]["nvidia.com/gpu"] == "2"
    cpu_node = json.loads(cluster.kubectl("get", "node", "cpu-0", "-o", "json"))
    assert not [key for key in (*cpu_node["metadata"]["labels"], *cpu_node["status"]["capacity"]) if "nvidia" in key]


def test_a_deployment_that_asks_for_a_gpu_becomes_available(cluster: Cluster) -> None:
    cluster.kubectl("apply", "-f", "-", stdin=_deployment("plain", gpus=2))
    cluster.kubectl("rollout", "status", "deployment/plain", "--timeout=20s")
    node = cluster.kubectl("get", "pods", "-l", "app=plain", "-o", "jsonpath={.items[0].spec.nodeName}")
    assert node.startswith("rtx4090-")
    cluster.kubectl("delete", "deployment", "plain", "--wait")


@pytest.mark.parametrize(
    ("failure", "state"),
    [
        (
            Failure(FailureState.TERMINATED, reason="OOMKilled", exitCode=137, message='said "no"\nand ended'),
            {"terminated": {"reason": "OOMKilled", "exitCode": 137, "message": 'said "no"\nand ended'}},
        ),
        (
            Failure(FailureState.TERMINATED, reason="Completed", exitCode=0),
            {"terminated": {"reason": "Completed", "exitCode": 0}},
        ),
        (
            Failure(FailureState.WAITING, message="no such image"),
            {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}},
        ),
        (Failure(FailureState.CRASH_LOOP, restartCount=3), {"waiting": {"reason": "CrashLoopBackOff"}}),
        (Failure(FailureState.NEVER_READY), {"running": {}}),
    ],
    ids=["killed for memory", "ended with 0", "image missing", "crash loop", "never ready"],
)  # fmt: skip
def test_kwok_plays_a_failure(cluster: Cluster, failure: Failure, state: dict[str, dict[str, object]]) -> None:
    name = f"failing-{time.monotonic_ns()}"
    cluster.kubectl("apply", "-f", "-", stdin=_deployment(name, failure.annotations(), gpus=0))
    status = _container_status(cluster, name)
    cluster.kubectl("delete", "deployment", name)
    assert status["ready"] is False
    assert status["restartCount"] == failure.restartCount
    seen = status["state"]
    assert isinstance(seen, dict)
    ((kind, expected),) = state.items()
    assert expected.items() <= seen[kind].items()


def test_a_living_pod_fails_and_recovers_with_its_annotation(cluster: Cluster) -> None:
    cluster.kubectl("apply", "-f", "-", stdin=_deployment("mortal", gpus=0))
    cluster.kubectl("rollout", "status", "deployment/mortal", "--timeout=20s")
    ((key, text),) = Failure(FailureState.TERMINATED, exitCode=0).annotations().items()
    cluster.kubectl("annotate", "pods", "-l", "app=mortal", f"{key}={text}")
    cluster.kubectl("wait", "--for=condition=Ready=False", "pods", "-l", "app=mortal", "--timeout=10s")
    cluster.kubectl("annotate", "pods", "-l", "app=mortal", f"{key}-")
    cluster.kubectl("wait", "--for=condition=Ready", "pods", "-l", "app=mortal", "--timeout=10s")
    cluster.kubectl("delete", "deployment", "mortal")


def test_the_audit_log_counts_a_service_accounts_requests_and_its_rejections(cluster: Cluster) -> None:
    cluster.kubectl("create", "serviceaccount", "auditee")
    cluster.kubectl("create", "rolebinding", "auditee", "--clusterrole=view", "--serviceaccount=default:auditee")
    config = cluster.service_account_kubeconfig("default", "auditee")
    before = datetime.now(UTC)
    for _ in range(3):
        cluster.kubectl("--kubeconfig", str(config), "get", "--raw", "/api/v1/namespaces/default/configmaps")
    refused = cluster.kubectl("--kubeconfig", str(config), "create", "configmap", "x", check=False)
    assert "Forbidden" in refused or "forbidden" in refused
    user = "system:serviceaccount:default:auditee"
    counts = cluster.audit_counts(user_prefix=user, verbs={"list", "create"}, since=before)
    assert counts[AuditKey(user, "list", "configmaps", "")] == 3
    assert counts[AuditKey(user, "create", "configmaps", "")] == 1
    rejected = cluster.audit_counts(user_prefix=user, since=before, rejected_only=True)
    assert rejected == {AuditKey(user, "create", "configmaps", ""): 1}
    assert not cluster.audit_counts(user_prefix=user, since=datetime.now(UTC))


def test_a_watch_is_counted_once_open_or_closed(cluster: Cluster) -> None:
    before = datetime.now(UTC)
    cluster.kubectl("get", "--raw", "/api/v1/namespaces/default/secrets?watch=true&timeoutSeconds=1")
    assert cluster.audit_counts("admin", ["watch"], before)[AuditKey("admin", "watch", "secrets", "")] == 1


def test_state_survives_a_restart_of_the_api_server(cluster: Cluster) -> None:
    cluster.kubectl("create", "configmap", "kept", "--from-literal=key=value")
    cluster.stop_api_server()
    assert "refused" in cluster.kubectl("get", "configmap", "kept", check=False)
    cluster.start_api_server()
    assert cluster.kubectl("get", "configmap", "kept", "-o", "jsonpath={.data.key}") == "value"
    cluster.kubectl("apply", "-f", "-", stdin=_deployment("after-restart"))
    cluster.kubectl("rollout", "status", "deployment/after-restart", "--timeout=20s")
    cluster.kubectl("delete", "deployment", "after-restart")


def test_nodes_come_and_go(cluster: Cluster) -> None:
    group = {"product": "Tesla-T4", "count": 1, "memoryMiB": 15360, "computeCapability": "7.5", "labelled": False}
    fleet = {"name": "guests", "nodes": [{"name": "guest", "count": 2, "gpu": group, "labels": {"zone": "b"}}]}
    assert cluster.add_fleet(fleet) == ["guest-0", "guest-1"]
    labels = json.loads(cluster.kubectl("get", "node", "guest-0", "-o", "jsonpath={.metadata.labels}"))
    assert labels["zone"] == "b"
    assert not [key for key in labels if key.startswith("nvidia.com/")]
    cluster.remove_nodes("localcluster.kubequant.dev/fleet=guests")
    cluster.kubectl("wait", "--for=delete", "node/guest-0", "node/guest-1", "--timeout=10s")


def test_two_clusters_live_side_by_side_and_down_leaves_no_process(cluster: Cluster) -> None:
    with Cluster.temporary() as other:
        assert other.server != cluster.server
        other.kubectl("create", "configmap", "only-here")
        assert "NotFound" in cluster.kubectl("get", "configmap", "only-here", check=False)
        assert Cluster.up(other.name).server == other.server  # adopted, not started anew
        assert _processes_of(other.directory)
    assert not _processes_of(other.directory)
    assert not other.directory.exists()
    assert cluster.is_running()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_an_interrupted_up_leaves_nothing(number: signal.Signals) -> None:
    name = f"interrupted-{number.name.lower()}"
    directory = cluster_directory(name)
    command = [sys.executable, "-m", "tests.localcluster", "up", "--name", name]
    starting = subprocess.Popen(
        command,
        cwd=_REPOSITORY,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=_hear_ctrl_c,
    )
    try:
        assert _within(20, lambda: (directory / "run" / "api-server.json").exists())
        starting.send_signal(number)
        assert starting.wait(timeout=60) != 0
        assert _within(60, lambda: not _processes_of(directory))
    finally:
        if (remains := Cluster.find(name)) is not None:  # the logs, or all of it where this failed
            remains.down()


def _hear_ctrl_c() -> None:
    """A shell that starts the tests in the background has SIGINT ignored, which children inherit."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_a_name_that_is_no_folder_is_refused() -> None:
    with pytest.raises(ClusterError, match="lower-case letters"):
        Cluster.up("../elsewhere")


def _within(seconds: float, condition: object) -> bool:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True

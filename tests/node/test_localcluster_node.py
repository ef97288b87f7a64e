"""The real node itself: a pod that runs, under the restrictions that the operator's pods will have.

Has a cluster of its own, to see that nothing is left of it; the lane's shared one starts after this file, because a
machine has one real node at a time.
"""

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.localcluster import Cluster, ClusterError
from tests.localcluster.containerd import BRIDGE, PAUSE_IMAGE
from tests.localcluster.images import ensure_base_image

pytestmark = pytest.mark.node

_NAMESPACE = {
    "apiVersion": "v1",
    "kind": "Namespace",
    "metadata": {"name": "restricted", "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    if blockers := Cluster.real_node_blockers():
        pytest.skip("; ".join(blockers))
    chains_before = _kubernetes_chains()
    with Cluster.temporary(fleets=["l4"], real_node=True) as running:
        running.kubectl("apply", "-f", "-", stdin=json.dumps(_NAMESPACE))
        yield running
    assert not Path("/sys/class/net", BRIDGE).exists(), "the bridge outlived its cluster"
    assert _kubernetes_chains() == chains_before, "iptables chains outlived their cluster"


def _kubernetes_chains() -> set[str]:
    if shutil.which("iptables-save") is None:  # the first real node installs it
        return set()
    rules = subprocess.run(["iptables-save"], capture_output=True, text=True, timeout=30, check=True).stdout
    return {line.split()[0] for line in rules.splitlines() if line.startswith(":KUBE-")}


def _pod(name: str, image: str, *command: str, gpus: int = 1) -> str:
    container = {
        "name": "main",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": list(command),
        "resources": {"limits": {"nvidia.com/gpu": gpus}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    spec = {
        "restartPolicy": "Never",
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
    }
    return json.dumps(
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "restricted"}, "spec": spec}
    )


def test_the_real_node_advertises_fake_gpus_of_a_fictional_product(cluster: Cluster) -> None:
    node = json.loads(cluster.kubectl("get", "node", "real-0", "-o", "json"))
    labels = node["metadata"]["labels"]
    assert labels["nvidia.com/gpu.product"] == "KUBEQUANT-Fake-GPU"
    assert labels["kubequant.dev/fake-gpu"] == "true"
    assert node["status"]["allocatable"]["nvidia.com/gpu"] == "2"


def test_a_restricted_pod_with_a_gpu_runs_on_the_real_node_and_not_on_kwoks(cluster: Cluster) -> None:
    cluster.kubectl("apply", "-f", "-", stdin=_pod("holder", PAUSE_IMAGE, "/pause"))
    cluster.kubectl("wait", "-n", "restricted", "pod/holder", "--for=condition=Ready", "--timeout=60s")
    pod = json.loads(cluster.kubectl("get", "-n", "restricted", "pod", "holder", "-o", "json"))
    assert pod["spec"]["nodeName"] == "real-0"
    assert pod["status"]["podIP"].startswith("10.88.7.")
    cluster.kubectl("delete", "-n", "restricted", "pod", "holder", "--now")


def test_a_pod_reaches_the_api_server_through_its_service_address_and_its_log_can_be_read(cluster: Cluster) -> None:
    # Anonymous requests get 403 from the API server: an answer of its own, which is what this asks for.
    program = (
        "import os, ssl, urllib.error, urllib.request\n"
        "context = ssl._create_unverified_context()\n"
        "try: urllib.request.urlopen('https://10.0.0.1/api', context=context, timeout=20)\n"
        "except urllib.error.HTTPError as error: print('answered', error.code, 'to uid', os.getuid())\n"
    )
    image = ensure_base_image(cluster)
    cluster.kubectl("apply", "-f", "-", stdin=_pod("caller", image, "python3", "-c", program))
    cluster.kubectl(
        "wait", "-n", "restricted", "pod/caller", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=60s"
    )
    assert "answered 403 to uid 65532" in cluster.kubectl("logs", "-n", "restricted", "caller")


def test_a_second_real_node_is_refused_and_names_the_first(cluster: Cluster) -> None:
    started = time.monotonic()
    with (
        pytest.raises(ClusterError, match=f"belongs to the cluster in {cluster.directory}"),
        Cluster.temporary(real_node=True),
    ):
        pass
    assert time.monotonic() - started < 60
    assert cluster.is_running()

"""A cache volume for real: a Job fills a volume of the node, engines serve from it, and the next one downloads nothing.

The model is one that discovery finds: the base is named, its own organisation's AWQ checkpoint is served.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.engines.tiny_model import TinyModels, tiny_models
from tests.fakehub import FakeHub, Fault, Repository
from tests.fakehub.faults import ALWAYS
from tests.fakehub.repository import quantized_card
from tests.harness import Installation, OperatorProcess, make_model, wait_for
from tests.harness.chat import chat, service_url
from tests.harness.engine import POD_RESOURCES, TINY, TINY_AWQ, cpu_engine
from tests.localcluster import Cluster

CLASS = "kubequant-node-cache"
NAMESPACE = "volumes"
START_SECONDS = 300
WEIGHTS_PER_SECOND = 80_000  # of 1.7 MB: long enough for the operator to ask how far it is


@pytest.fixture(scope="module")
def models() -> TinyModels:
    return tiny_models()


@pytest.fixture(scope="module")
def publisher(models: TinyModels) -> Iterator[FakeHub]:
    repositories = [
        Repository.from_folder(TINY, models.base),
        Repository.from_folder(TINY_AWQ, models.awq, card=quantized_card(TINY)),
    ]
    with FakeHub(repositories, host="0.0.0.0") as running:
        yield running


@pytest.fixture(scope="module")
def folder(node_cluster: Cluster, installation: Installation) -> Iterator[Path]:
    """A folder of this machine, which is the node, as a `local` PersistentVolume that binds with its first consumer."""
    folder = node_cluster.directory / f"volume-{uuid.uuid4().hex[:8]}"
    folder.mkdir(mode=0o755)
    (node,) = installation.api.list("nodes", None, "kubequant.dev/fake-gpu=true")
    hostname = node["metadata"]["labels"]["kubernetes.io/hostname"]
    here = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [hostname]}]}
    documents: list[dict[str, Any]] = [
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {"name": CLASS},
            "provisioner": "kubernetes.io/no-provisioner",
            "volumeBindingMode": "WaitForFirstConsumer",
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": folder.name},
            "spec": {
                "capacity": {"storage": "10Gi"},
                "accessModes": ["ReadWriteOnce"],
                "storageClassName": CLASS,
                "persistentVolumeReclaimPolicy": "Retain",
                "local": {"path": str(folder)},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [here]}},
            },
        },
    ]
    installation.cluster.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(documents))
    yield folder
    installation.delete("persistentvolumes", folder.name)


@pytest.fixture(scope="module")
def caching(
    installation: Installation,
    operator: OperatorProcess,
    engine_image: str,
    publisher: FakeHub,
    node_cluster: Cluster,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[OperatorProcess]:
    """An operator that keeps models in volumes, in place of the shared one."""
    operator.stop()
    configuration = {
        "engine": cpu_engine(engine_image),
        "hub": {"endpoint": publisher.url_for(node_cluster.node_address)},
        "modelCache": {
            "kind": "PersistentVolumeClaim",
            "storageClassName": CLASS,
            "accessMode": "ReadWriteOnce",
        },
        "leaderElection": {"leaseSeconds": 5},
    }
    try:
        with (
            installation.model_cache_allowed(),
            OperatorProcess(
                installation.operator_kubeconfig, configuration, tmp_path_factory.mktemp("caching")
            ) as running,
        ):
            running.wait_until_working()
            yield running
    finally:
        operator.start()
        operator.wait_until_working()


def test_a_found_model_is_served_from_a_volume_and_a_second_replica_downloads_nothing(
    installation: Installation, caching: OperatorProcess, publisher: FakeHub, folder: Path, models: TinyModels
) -> None:
    installation.cluster.kubectl("create", "namespace", NAMESPACE)
    installation.cluster.kubectl("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted")
    stored = publisher.catalogue.repositories[TINY_AWQ]
    weights = stored.commits[stored.branches["main"]].files["model.safetensors"]
    publisher.faults.add(Fault(weights.sha256, times=ALWAYS, method="GET", bytes_per_second=WEIGHTS_PER_SECOND))
    model = make_model("found", NAMESPACE).repository(TINY).context(2048).pod(resources=POD_RESOURCES)
    installation.apply(model.quantization(scheme="W4A16"))

    # While the Job downloads, the model says how far it is.
    installation.wait_condition("found", "Available", "False", "Downloading", namespace=NAMESPACE, seconds=60)
    progress = wait_for("progress", lambda: installation.status("found", NAMESPACE).get("progress"), seconds=120)
    assert 0 <= progress["downloadedBytes"] <= progress["totalBytes"]
    assert progress["totalBytes"] > weights.size
    assert "GiB" in installation.condition("found", "Available", NAMESPACE)["message"]
    assert not installation.get("deployments", "found", NAMESPACE), "no GPU waits for a download"

    publisher.faults.clear()

    # The found checkpoint is served from the volume, whole and read-only.
    installation.wait_condition("found", "Ready", "True", namespace=NAMESPACE, seconds=START_SECONDS)
    status = installation.status("found", NAMESPACE)
    assert status["checkpoint"] == TINY_AWQ
    assert "progress" not in status
    assert (folder / "model" / "model.safetensors").read_bytes() == (models.awq / "model.safetensors").read_bytes()
    (first,) = installation.pods("found", NAMESPACE)
    assert not first["spec"].get("initContainers")
    asked = [request.path for request in publisher.requests.select(weights.sha256, method="GET", role="cdn")]
    assert len(asked) >= 1
    written = (folder / "model" / "model.safetensors").stat().st_mtime_ns
    url = service_url(installation, "found", NAMESPACE)
    assert chat(url, TINY, "What is a list?")["choices"][0]["message"]["content"].strip()

    # A second replica downloads nothing, nor does it ask anybody.
    publisher.requests.clear()
    installation.apply(model.replicas(2))
    installation.wait_condition("found", "Ready", "True", namespace=NAMESPACE, seconds=START_SECONDS)
    assert len(installation.pods("found", NAMESPACE)) == 2
    assert publisher.requests.count(role="cdn") == 0
    assert publisher.requests.count("/resolve/") == 0
    assert (folder / "model" / "model.safetensors").stat().st_mtime_ns == written
    assert chat(url, TINY, "And a tuple?")["choices"]

    # With the model goes its claim.
    installation.delete("qm", "found", NAMESPACE)
    wait_for("the pods to be gone", lambda: not installation.list("pods", NAMESPACE), seconds=120)
    wait_for("the claim to be gone", lambda: not installation.list("persistentvolumeclaims", NAMESPACE), seconds=60)

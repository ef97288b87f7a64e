"""Models that the operator cannot read, for real: its own image as a restricted pod, inspectors by a kubelet, a mounted volume.

The operator runs here as users run it, in a pod of user 65532 that mounts no volume of a model; whatever it knows of the
volume below came out of an inspector's termination message. (After tests/node/test_localcluster_node.py by its name:
that one needs the machine's one real node for itself.)
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.engines.tiny_model import tiny_models
from tests.fakehub import FakeHub
from tests.fakehub.repository import Repository
from tests.harness import Installation, OperatorProcess, make_model, wait_for
from tests.harness.chat import chat, service_url
from tests.harness.engine import POD_RESOURCES, cpu_engine
from tests.harness.installation import NAMESPACE as OPERATOR_NAMESPACE
from tests.harness.installation import OPERATOR_USER, SERVICE_ACCOUNT
from tests.localcluster import Cluster
from tests.localcluster.images import ensure_operator_image

NAMESPACE = "inspected"
PRIVATE, USER_TOKEN, OTHER_TOKEN = "acme/tiny-private", "hf_of_the_user", "hf_of_somebody_else"
START_SECONDS, SEEN_SECONDS = 360, 120
POD = "kubequant-operator"


@pytest.fixture(scope="module")
def operator_image(node_cluster: Cluster) -> str:
    return ensure_operator_image(node_cluster)


@pytest.fixture(scope="module")
def operator_pod(
    installation: Installation,
    node_cluster: Cluster,
    operator: OperatorProcess,
    operator_image: str,
    engine_image: str,
    hub_address: str,
) -> Iterator[dict[str, Any]]:
    """The operator in a pod, in the place of the process that the lane's other tests share."""
    configuration = {
        "engine": cpu_engine(engine_image),
        "hub": {"endpoint": hub_address},
        "inspector": {"image": operator_image},
        "leaderElection": {"leaseSeconds": 5},
    }
    operator.stop()
    manifests = _operator_manifests(operator_image, yaml.safe_dump(configuration))
    node_cluster.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": manifests}))
    try:
        wait_for("the operator's pod to work", lambda: _works(node_cluster), seconds=SEEN_SECONDS)
        yield installation.existing("pods", POD, OPERATOR_NAMESPACE)
    finally:
        node_cluster.kubectl("-n", OPERATOR_NAMESPACE, "delete", "pod", POD, "--grace-period=5")
        operator.start().wait_until_working()


def _operator_manifests(image: str, configuration: str) -> list[dict[str, Any]]:
    metadata = {"name": POD, "namespace": OPERATOR_NAMESPACE}
    restricted = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    container = {
        "name": "operator", "image": image, "imagePullPolicy": "IfNotPresent", "securityContext": restricted,
        "command": ["kubequant", "operator", "--config", "/etc/kubequant/operator.yaml"],
        "resources": {"requests": {"cpu": "500m", "memory": "256Mi"}},
        "volumeMounts": [{"name": "configuration", "mountPath": "/etc/kubequant"}, {"name": "tmp", "mountPath": "/tmp"}],
    }  # fmt: skip
    spec = {
        "serviceAccountName": SERVICE_ACCOUNT,
        "restartPolicy": "Never",
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
        "volumes": [{"name": "configuration", "configMap": {"name": POD}}, {"name": "tmp", "emptyDir": {}}],
    }
    return [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"operator.yaml": configuration}},
        {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec},
    ]


def _works(cluster: Cluster) -> bool:
    status = json.loads(cluster.kubectl("-n", OPERATOR_NAMESPACE, "get", "pod", POD, "-o", "json"))["status"]
    states = [one["state"] for one in status.get("containerStatuses") or []]
    if status.get("phase") == "Failed" or any("terminated" in state for state in states):
        raise RuntimeError(f"the operator's pod has ended: {states}\n{_log(cluster)}")
    return any("running" in state for state in states) and "works on" in _log(cluster)


def _log(cluster: Cluster) -> str:
    return cluster.kubectl("-n", OPERATOR_NAMESPACE, "logs", POD, "--tail=-1")


@pytest.fixture(scope="module")
def namespace(installation: Installation) -> str:
    installation.cluster.kubectl("create", "namespace", NAMESPACE)
    installation.cluster.kubectl("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted")
    return NAMESPACE


@pytest.fixture(scope="module")
def volume(installation: Installation, namespace: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of this machine that the PersistentVolume of the claim `models` is, with a model in tiny/awq."""
    folder = tmp_path_factory.mktemp("volume")
    folder.chmod(0o755)
    shutil.copytree(tiny_models().awq, folder / "tiny/awq")
    for path in (folder / "tiny", *(folder / "tiny").rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    spec: dict[str, Any] = {"accessModes": ["ReadWriteOnce"], "storageClassName": ""}
    on_node = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "Exists"}]}
    installation.api.create({
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "models"},
        "spec": {**spec, "capacity": {"storage": "1Gi"}, "local": {"path": str(folder)},
                 "nodeAffinity": {"required": {"nodeSelectorTerms": [on_node]}},
                 "claimRef": {"name": "models", "namespace": namespace}},
    })  # fmt: skip
    installation.api.create({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "models", "namespace": namespace},
        "spec": {**spec, "resources": {"requests": {"storage": "1Gi"}}},
    })  # fmt: skip
    return folder


@pytest.fixture
def private(hub: FakeHub) -> str:
    if PRIVATE not in hub.catalogue.repositories:
        repository = Repository.from_folder(PRIVATE, tiny_models().awq)
        repository.private = True
        hub.add(repository)
        hub.catalogue.tokens.update({USER_TOKEN: (PRIVATE,), OTHER_TOKEN: ()})
    return PRIVATE


def _in_volume(name: str, path: str, claim: str = "models", mode: str = "Serve") -> dict[str, Any]:
    body = make_model(name, NAMESPACE).pod(resources=POD_RESOURCES).context(1024).mode(mode).manifest()
    body["spec"]["model"] = {"persistentVolumeClaim": {"claimName": claim, "path": path}}
    return body


def _secret(installation: Installation, name: str, token: str) -> None:
    metadata = {"name": name, "namespace": NAMESPACE}
    installation.api.create(
        {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"token": token}}
    )


def _inspectors(installation: Installation) -> list[dict[str, Any]]:
    return installation.list("pods", NAMESPACE, "app.kubernetes.io/component=inspector")


def test_a_model_in_a_volume_is_described_by_a_job_and_served_from_there(
    installation: Installation, operator_pod: dict[str, Any], namespace: str, volume: Path
) -> None:
    before = {path: path.stat() for path in volume.rglob("*")}
    installation.apply(_in_volume("awq", "tiny/awq"))
    installation.wait_condition("awq", "Ready", "True", "Ready", namespace=namespace, seconds=START_SECONDS)
    answer = chat(service_url(installation, "awq", namespace), "awq", "What is a list?")
    assert answer["choices"][0]["message"]["content"].strip()

    # It came out of a Job's pod under the same restrictions, without an identity in the cluster.
    (inspector,) = _inspectors(installation)
    assert inspector["status"]["phase"] == "Succeeded"
    assert not [one for one in inspector["spec"]["volumes"] if "projected" in one]
    message = inspector["status"]["containerStatuses"][0]["state"]["terminated"]["message"]
    assert len(message.encode()) <= 4096 and json.loads(message)["version"] == 1

    # The engine reads the same folder, nothing was downloaded, and nobody changed an owner or a mode of the files.
    (pod,) = installation.pods("awq", namespace)
    assert "initContainers" not in pod["spec"]
    assert {path: (one.st_uid, one.st_gid, one.st_mode) for path, one in before.items()} == {
        path: (one.st_uid, one.st_gid, one.st_mode) for path, one in ((path, path.stat()) for path in volume.rglob("*"))
    }

    # And the operator could not have read it.
    assert operator_pod["spec"]["containers"][0]["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert not [one for one in operator_pod["spec"]["volumes"] if "persistentVolumeClaim" in one]

    installation.delete("qm", "awq", namespace)
    wait_for("its pods to be gone", lambda: not installation.list("pods", namespace), seconds=120)


@pytest.mark.parametrize("missing", ["the claim", "the folder", "the right to read"])
def test_a_volume_that_pods_cannot_read(
    installation: Installation, operator_pod: dict[str, Any], namespace: str, volume: Path, missing: str
) -> None:
    locked = volume / "locked"
    if missing == "the right to read":
        shutil.copytree(volume / "tiny/awq", locked, dirs_exist_ok=True)
        (locked / "config.json").chmod(0o600)
    model, reason, words = {
        "the claim": (_in_volume("m", "tiny/awq", claim="none", mode="Plan"), "ClaimNotFound", "none"),
        "the folder": (_in_volume("m", "nothing/here", mode="Plan"), "InspectionFailed", "no folder nothing/here"),
        "the right to read": (_in_volume("m", "locked", mode="Plan"), "InspectionFailed", "chmod -R a+rX"),
    }[missing]
    installation.apply(model)
    try:
        said = installation.wait_condition("m", "Ready", "False", reason, namespace=namespace, seconds=SEEN_SECONDS)
        assert words in said["message"]
    finally:
        installation.delete("qm", "m", namespace)


def test_a_private_repository_that_only_the_users_token_opens(
    installation: Installation, operator_pod: dict[str, Any], namespace: str, private: str
) -> None:
    installation.apply(make_model("private", namespace).repository(private).token("late").context(1024).mode("Plan"))
    said = installation.wait_condition(
        "private", "ModelResolved", "Unknown", "ConfigurationMissing", namespace=namespace, seconds=SEEN_SECONDS
    )
    assert 'secret "late" not found' in said["message"]
    _secret(installation, "late", USER_TOKEN)
    installation.wait_condition("private", "Planned", "True", namespace=namespace, seconds=SEEN_SECONDS)
    assert installation.status("private", namespace)["checkpoint"] == private
    entries = list(installation.cluster.audit_entries(OPERATOR_USER))
    assert entries and not [entry for entry in entries if entry.key.resource == "secrets"]
    assert USER_TOKEN not in _log(installation.cluster)


def test_a_token_that_does_not_open_it(
    installation: Installation, operator_pod: dict[str, Any], namespace: str, private: str, hub_address: str
) -> None:
    _secret(installation, "outsider", OTHER_TOKEN)
    installation.apply(make_model("outside", namespace).repository(private).token("outsider").mode("Plan"))
    said = installation.wait_condition(
        "outside", "Ready", "False", "RepositoryNotFound", namespace=namespace, seconds=SEEN_SECONDS
    )
    assert f"{hub_address}/{private}" in said["message"] and "Secret outsider" in said["message"]

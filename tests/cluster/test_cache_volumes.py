"""Cache volumes on a real API server: claims that really bind, owners that the garbage collector really heeds.

There is no provisioner: volumes are made by the tests, bound with their first consumer. KWOK plays the Job's pods and the
engines', so nothing is downloaded here (tests/unit/launcher does that, and tests/node all of it).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.cluster.repositories import add_awq
from tests.cluster.test_failures import download_ended
from tests.fakehub import FakeHub
from tests.fakehub.content import BytesContent
from tests.harness import Installation, OperatorProcess, make_model, wait_for

CLASS = "kubequant-cache"
SECONDS = 60


@pytest.fixture(scope="module")
def caching(
    installation: Installation,
    operator: OperatorProcess,
    configuration: dict[str, Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[OperatorProcess]:
    """An operator that is configured to keep models in volumes, in place of the shared one."""
    storage_class = {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": CLASS},
        "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "WaitForFirstConsumer",
    }
    installation.cluster.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(storage_class))
    operator.stop()
    cache = {"kind": "PersistentVolumeClaim", "storageClassName": CLASS}
    settings = {**configuration, "modelCache": cache}
    try:
        with (
            installation.model_cache_allowed(),
            OperatorProcess(installation.operator_kubeconfig, settings, tmp_path_factory.mktemp("caching")) as running,
        ):
            running.wait_until_working()
            yield running
    finally:
        operator.start()
        operator.wait_until_working()


def make_volume(installation: Installation, name: str) -> None:
    """Some network volume, which nobody here ever reaches."""
    installation.api.create(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": name},
            "spec": {
                "capacity": {"storage": "1Ti"},
                "accessModes": ["ReadWriteMany"],
                "storageClassName": CLASS,
                "persistentVolumeReclaimPolicy": "Retain",
                "nfs": {"server": "nfs.invalid", "path": f"/{name}"},
            },
        }
    )


@pytest.fixture
def volumes(installation: Installation, namespace: str) -> Iterator[list[str]]:
    """Two of them, which the test may use up."""
    names = [f"{namespace}-{number}" for number in range(2)]
    for name in names:
        make_volume(installation, name)
    yield names
    for name in names:
        installation.delete("persistentvolumes", name)


def claims(installation: Installation, namespace: str) -> list[dict[str, Any]]:
    return installation.list("persistentvolumeclaims", namespace)


def owners(claim: dict[str, Any]) -> set[str]:
    return {reference["name"] for reference in claim["metadata"].get("ownerReferences", [])}


def mounted(pod: dict[str, Any]) -> set[str]:
    return {v["persistentVolumeClaim"]["claimName"] for v in pod["spec"]["volumes"] if "persistentVolumeClaim" in v}


def test_two_models_share_one_volume_that_one_job_fills_and_it_goes_with_the_last(
    installation: Installation, caching: OperatorProcess, hub: FakeHub, namespace: str, volumes: list[str]
) -> None:
    repository = add_awq(hub, f"{namespace}/shared")
    installation.apply(make_model("first", namespace).repository(repository).replicas(2))
    installation.wait_condition("first", "Ready", "True", "Ready", namespace=namespace, seconds=SECONDS)
    (claim,) = claims(installation, namespace)
    assert claim["status"]["phase"] == "Bound"
    assert owners(claim) == {"first"}
    pods = installation.pods("first", namespace)
    assert [mounted(pod) for pod in pods] == [{claim["metadata"]["name"]}] * 2
    assert not any(pod["spec"].get("initContainers") for pod in pods)
    (job,) = installation.list("jobs", namespace)

    installation.apply(make_model("second", namespace).repository(repository))
    installation.wait_condition("second", "Ready", "True", "Ready", namespace=namespace, seconds=SECONDS)
    (claim,) = claims(installation, namespace)
    assert owners(claim) == {"first", "second"}
    assert [one["metadata"]["uid"] for one in installation.list("jobs", namespace)] == [job["metadata"]["uid"]]
    endpoints = installation.list("pods", namespace, "kubequant.dev/model=first,app.kubernetes.io/managed-by=kubequant")
    assert len(endpoints) == 2, "the Job's pod is none of the model's"

    installation.delete("qm", "first", namespace)
    wait_for("its reference to go", lambda: owners(claims(installation, namespace)[0]) == {"second"}, seconds=SECONDS)
    wait_for("its pods to go", lambda: not installation.pods("first", namespace), seconds=SECONDS)
    assert installation.condition("second", "Ready", namespace)["status"] == "True"
    assert claims(installation, namespace)[0]["status"]["phase"] == "Bound"

    installation.delete("qm", "second", namespace)
    wait_for("the claim to go with the last", lambda: not claims(installation, namespace), seconds=SECONDS)


def test_a_claim_that_finds_no_volume_is_said_in_the_schedulers_words_and_mends_itself(
    installation: Installation, caching: OperatorProcess, hub: FakeHub, namespace: str
) -> None:
    installation.apply(make_model("m", namespace).repository(add_awq(hub, f"{namespace}/waiting")))
    said = installation.wait_condition("m", "Available", "False", "VolumePending", namespace=namespace, seconds=SECONDS)
    assert "persistent volumes to bind" in said["message"]
    assert f"kubectl describe pvc {claims(installation, namespace)[0]['metadata']['name']}" in said["message"]
    assert installation.condition("m", "Stalled", namespace)["status"] == "False"
    assert not installation.get("deployments", "m", namespace), "no pod waits for a volume with a GPU in its hands"
    make_volume(installation, f"{namespace}-late")
    try:
        installation.wait_condition("m", "Ready", "True", namespace=namespace, seconds=120)
    finally:
        installation.delete("persistentvolumes", f"{namespace}-late")


def test_why_a_volume_cannot_be_filled_stands_on_the_model(
    installation: Installation, caching: OperatorProcess, hub: FakeHub, namespace: str, volumes: list[str]
) -> None:
    failure = download_ended(
        "ChecksumMismatch", "model-00001.safetensors is not the file that the hub lists"
    ).annotations()
    model = make_model("m", namespace).repository(add_awq(hub, f"{namespace}/forged")).pod(annotations=failure)
    installation.apply(model)
    said = installation.wait_condition(
        "m", "Available", "False", "ChecksumMismatch", namespace=namespace, seconds=SECONDS
    )
    assert "model-00001.safetensors" in said["message"]
    assert installation.condition("m", "Stalled", namespace)["status"] == "True"
    assert not installation.get("deployments", "m", namespace)


def test_another_commit_is_another_volume_and_the_old_one_goes_when_nothing_needs_it(
    installation: Installation, caching: OperatorProcess, hub: FakeHub, namespace: str, volumes: list[str]
) -> None:
    repository = add_awq(hub, f"{namespace}/moving")
    model = make_model("m", namespace).repository(repository)
    installation.apply(model)
    installation.wait_condition("m", "Ready", "True", namespace=namespace, seconds=SECONDS)
    (first,) = claims(installation, namespace)
    stored = hub.catalogue.repositories[repository]
    files = stored.commits[stored.branches["main"]].files
    stored.commit({**files, "generation_config.json": BytesContent(b'{"max_new_tokens": 64}')})
    installation.patch("qm", "m", {"metadata": {"annotations": {"kubequant.dev/replan": "1"}}}, namespace)

    def only_the_new_one() -> bool:
        found = claims(installation, namespace)
        return len(found) == 1 and found[0]["metadata"]["uid"] != first["metadata"]["uid"]

    wait_for("the old volume to be let go", only_the_new_one, seconds=120)
    installation.wait_condition("m", "Ready", "True", namespace=namespace, seconds=SECONDS)
    (pod,) = installation.pods("m", namespace)
    assert mounted(pod) == {claims(installation, namespace)[0]["metadata"]["name"]}


def test_a_ready_model_with_a_volume_is_left_alone(
    installation: Installation, caching: OperatorProcess, hub: FakeHub, namespace: str, volumes: list[str]
) -> None:
    installation.apply(make_model("m", namespace).repository(add_awq(hub, f"{namespace}/idle")))
    installation.wait_condition("m", "Ready", "True", namespace=namespace, seconds=SECONDS)
    wait_for("the last write", lambda: installation.condition("m", "Ready", namespace)["status"] == "True")
    (claim,) = claims(installation, namespace)
    version = claim["metadata"]["resourceVersion"]
    status = installation.existing("qm", "m", namespace)["metadata"]["resourceVersion"]
    caching.kill()
    caching.start().wait_until_working()
    wait_for("a full list more", lambda: "works on" in caching.log_of_this_run(), seconds=SECONDS)

    time.sleep(12)
    assert claims(installation, namespace)[0]["metadata"]["resourceVersion"] == version
    assert installation.existing("qm", "m", namespace)["metadata"]["resourceVersion"] == status

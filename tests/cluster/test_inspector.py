"""Models that only a Job may read: private and gated repositories, and volumes; with FakeKubelet in the node's place."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.fake_kubelet import FakeKubelet
from tests.cluster.repositories import add_awq
from tests.fakehub import FakeHub
from tests.fakehub.standard import GATED_TOKEN, OUTSIDER_TOKEN
from tests.harness import Installation, OperatorProcess, make_model, wait_for
from tests.harness.installation import OPERATOR_USER
from tests.unit.hub.test_local import small, written

GATED = "google/gemma-3-1b-it"
AWQ = "Qwen/Qwen2.5-7B-Instruct-AWQ"
PRIVATE_TOKEN = "hf_fake_token_that_opens_the_private_one"
SECONDS = 60

pytestmark = pytest.mark.usefixtures("operator")


@pytest.fixture
def private(hub: FakeHub, namespace: str) -> str:
    """A repository that the operator cannot see, and one token opens."""
    repository = add_awq(hub, f"acme/private-{namespace}")
    hub.catalogue.repositories[repository].private = True
    hub.catalogue.tokens[PRIVATE_TOKEN] = (repository,)
    return repository


@pytest.fixture
def kubelet(installation: Installation, namespace: str) -> Iterator[FakeKubelet]:
    with FakeKubelet(installation, namespace) as running:
        yield running


def secret(installation: Installation, namespace: str, token: str, name: str = "hub", key: str = "token") -> None:
    metadata = {"name": name, "namespace": namespace}
    installation.api.create({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {key: token}})


def claim(installation: Installation, namespace: str, name: str = "models") -> None:
    """A claim that a volume of its own is bound to."""
    spec: dict[str, Any] = {"accessModes": ["ReadWriteOnce"], "storageClassName": ""}
    volume = {
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": f"{namespace}-{name}"},
        "spec": {**spec, "capacity": {"storage": "1Gi"}, "hostPath": {"path": "/nowhere"},
                 "claimRef": {"name": name, "namespace": namespace}},
    }  # fmt: skip
    installation.api.create(volume)
    installation.api.create({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name, "namespace": namespace},
        "spec": {**spec, "resources": {"requests": {"storage": "1Gi"}}},
    })  # fmt: skip


def volume_model(namespace: str, path: str | None = None, name: str = "m") -> dict[str, Any]:
    body = make_model(name, namespace).manifest()
    source = {"claimName": "models", **({"path": path} if path else {})}
    body["spec"]["model"] = {"persistentVolumeClaim": source}
    return body


def jobs(installation: Installation, namespace: str) -> list[dict[str, Any]]:
    return installation.list("jobs", namespace, "app.kubernetes.io/component=inspector")


def test_a_private_repository_from_its_token_to_ready(
    installation: Installation, namespace: str, kubelet: FakeKubelet, private: str
) -> None:
    secret(installation, namespace, PRIVATE_TOKEN)
    installation.apply(make_model("m", namespace).repository(private).token("hub"))
    installation.wait_condition("m", "Ready", "True", namespace=namespace, seconds=SECONDS)
    (job,) = jobs(installation, namespace)
    assert len(kubelet.ran) == 1 and f"--repository={private}" in kubelet.ran[0]

    # Its pod is neither a replica nor an endpoint, and what it said is kept: nobody asks again.
    status = installation.status("m", namespace)
    assert status["replicas"] == status["readyReplicas"] == 1 and len(installation.pods("m", namespace)) == 1
    slices = installation.cluster.kubectl(
        "get", "endpointslices", "-n", namespace, "-l", "kubernetes.io/service-name=m", "-o", "json"
    )
    targets = [one["targetRef"]["name"] for part in json.loads(slices)["items"] for one in part.get("endpoints") or []]
    assert targets == [pod["metadata"]["name"] for pod in installation.pods("m", namespace)]
    installation.delete("jobs", job["metadata"]["name"], namespace)
    installation.patch("qm", "m", {"spec": {"replicas": 2}}, namespace)
    wait_for("two replicas", lambda: installation.status("m", namespace).get("readyReplicas") == 2, seconds=SECONDS)
    assert jobs(installation, namespace) == []


def test_everything_goes_with_the_model(installation: Installation, namespace: str, private: str) -> None:
    secret(installation, namespace, PRIVATE_TOKEN)
    installation.apply(make_model("m", namespace).repository(private).token("hub"))
    (job,) = wait_for("the Job", lambda: jobs(installation, namespace), seconds=SECONDS)
    assert job["metadata"]["ownerReferences"][0]["name"] == "m"
    installation.delete("qm", "m", namespace)
    installation.wait_gone("jobs", job["metadata"]["name"], namespace)


def test_a_gate_that_the_tokens_account_has_not_passed(
    installation: Installation, namespace: str, kubelet: FakeKubelet, hub: FakeHub
) -> None:
    secret(installation, namespace, OUTSIDER_TOKEN)
    installation.apply(make_model("m", namespace).repository(GATED).token("hub"))
    said = installation.wait_condition("m", "Ready", "False", "AccessGated", namespace=namespace, seconds=SECONDS)
    assert f"{hub.url}/{GATED}" in said["message"] and "Secret hub" in said["message"]

    # Mended, and the Job deleted as the message says: asked anew at once.
    (job,) = jobs(installation, namespace)
    assert job["metadata"]["name"] in said["message"]
    installation.patch("secrets", "hub", {"stringData": {"token": GATED_TOKEN}}, namespace)
    installation.delete("jobs", job["metadata"]["name"], namespace)
    installation.wait_condition("m", "ModelResolved", "True", namespace=namespace, seconds=SECONDS)


def test_a_secret_that_comes_later(
    installation: Installation, namespace: str, kubelet: FakeKubelet, private: str
) -> None:
    installation.apply(make_model("m", namespace).repository(private).token("hub"))
    said = installation.wait_condition(
        "m", "ModelResolved", "Unknown", "ConfigurationMissing", namespace=namespace, seconds=SECONDS
    )
    assert 'secret "hub" not found' in said["message"]
    secret(installation, namespace, PRIVATE_TOKEN, key="other")
    wait_for(
        "the key to be missed",
        lambda: "couldn't find key token" in installation.condition("m", "ModelResolved", namespace)["message"],
        seconds=SECONDS,
    )
    installation.patch("secrets", "hub", {"stringData": {"token": PRIVATE_TOKEN}}, namespace)
    installation.wait_condition("m", "ModelResolved", "True", namespace=namespace, seconds=SECONDS)


def test_a_volume_from_a_claim_that_comes_later_to_ready(
    installation: Installation, namespace: str, tmp_path: Path
) -> None:
    written(tmp_path / "qwen/awq", AWQ, data=True)
    with FakeKubelet(installation, namespace, {"models": tmp_path}):
        installation.apply(volume_model(namespace, "qwen/awq"))
        said = installation.wait_condition(
            "m", "ModelResolved", "Unknown", "ClaimNotFound", namespace=namespace, seconds=SECONDS
        )
        assert "models" in said["message"] and not jobs(installation, namespace)
        claim(installation, namespace)
        installation.wait_condition("m", "Ready", "True", namespace=namespace, seconds=SECONDS)
    (pod,) = installation.pods("m", namespace)
    assert "initContainers" not in pod["spec"]
    (mounted,) = [one for one in pod["spec"]["volumes"] if "persistentVolumeClaim" in one]
    assert mounted["persistentVolumeClaim"] == {"claimName": "models", "readOnly": True}
    assert pod["spec"]["containers"][0]["args"][2] == "/models/model/qwen/awq"
    assert len(installation.status("m", namespace)["modelCommit"]) == 40


@pytest.mark.parametrize(
    ("path", "reason", "words"),
    [(None, "NoSafetensors", "it holds 'cut', 'linked'"), ("nothing", "InspectionFailed", "no folder nothing"),
     ("linked", "InspectionFailed", "out of the volume"), ("cut", "CorruptCheckpoint", "model-00001-of-00005.safetensors")],
)  # fmt: skip
def test_a_volume_that_cannot_be_served(
    installation: Installation, namespace: str, tmp_path: Path, path: str | None, reason: str, words: str
) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "linked").symlink_to(small(tmp_path / "elsewhere"))
    shard = min(small(volume / "cut").glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-10])
    claim(installation, namespace)
    with FakeKubelet(installation, namespace, {"models": volume}):
        installation.apply(volume_model(namespace, path))
        said = installation.wait_condition("m", "Ready", "False", reason, namespace=namespace, seconds=SECONDS)
    assert words in said["message"]
    assert not installation.list("deployments", namespace)


@pytest.mark.parametrize(
    "forged",
    [
        '{"version": 1, "facts": "eJwDAAAAAAE="}',
        '{"version": 7, "facts": ""}',
        '{"version": 1, "refused": {"reason": "Ready", "message": "\\u001b[31mall is well"}}',
        "x" * 4096,
    ],
)
def test_an_answer_that_a_user_forged(
    installation: Installation, namespace: str, operator: OperatorProcess, private: str, forged: str
) -> None:
    secret(installation, namespace, PRIVATE_TOKEN)
    with FakeKubelet(installation, namespace, forged=forged):
        installation.apply(make_model("m", namespace).repository(private).token("hub"))
        said = installation.wait_condition(
            "m", "Ready", "False", "InspectionFailed", namespace=namespace, seconds=SECONDS
        )
    assert said["message"].isprintable() and operator.exit_code is None


def test_a_job_deleted_by_hand_is_made_again(installation: Installation, namespace: str, private: str) -> None:
    installation.apply(make_model("m", namespace).repository(private).token("hub"))
    (job,) = wait_for("the Job", lambda: jobs(installation, namespace), seconds=SECONDS)
    installation.delete("jobs", job["metadata"]["name"], namespace)
    wait_for(
        "another Job",
        lambda: [one for one in jobs(installation, namespace) if one["metadata"]["uid"] != job["metadata"]["uid"]],
        seconds=SECONDS,
    )


@pytest.mark.parametrize(
    ("hard", "reason", "words"),
    [({"pods": "0"}, "Inspecting", "ResourceQuota"), ({"count/jobs.batch": "0"}, "ApiError", "exceeded quota")],
)
def test_a_quota_that_leaves_no_room(
    installation: Installation, namespace: str, private: str, hard: dict[str, str], reason: str, words: str
) -> None:
    metadata = {"name": "none", "namespace": namespace}
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": metadata, "spec": {"hard": hard}}
    installation.api.create(quota)
    wait_for(
        "the quota to count",
        lambda: (installation.get("resourcequotas", "none", namespace) or {}).get("status", {}).get("hard") == hard,
        seconds=SECONDS,
    )
    installation.apply(make_model("m", namespace).repository(private).token("hub"))
    said = installation.wait_condition("m", "ModelResolved", "Unknown", reason, namespace=namespace, seconds=SECONDS)
    assert words in said["message"]


def test_an_operator_that_is_killed_meanwhile_makes_no_second_job(
    installation: Installation, namespace: str, operator: OperatorProcess, private: str
) -> None:
    secret(installation, namespace, PRIVATE_TOKEN)
    installation.apply(make_model("m", namespace).repository(private).token("hub"))
    (job,) = wait_for("the Job", lambda: jobs(installation, namespace), seconds=SECONDS)
    operator.kill()
    with FakeKubelet(installation, namespace) as kubelet:
        wait_for("the Job to end", lambda: "succeeded" in jobs(installation, namespace)[0]["status"], seconds=SECONDS)
        operator.start().wait_until_working()
        installation.wait_condition("m", "ModelResolved", "True", namespace=namespace, seconds=SECONDS)
    assert [one["metadata"]["uid"] for one in jobs(installation, namespace)] == [job["metadata"]["uid"]]
    assert len(kubelet.ran) == 1


def test_the_operator_never_read_a_secret_and_was_refused_nothing(
    installation: Installation, namespace: str, kubelet: FakeKubelet, private: str
) -> None:
    since = installation.now()
    secret(installation, namespace, PRIVATE_TOKEN)
    installation.apply(make_model("m", namespace).repository(private).token("hub"))
    installation.wait_condition("m", "Ready", "True", namespace=namespace, seconds=SECONDS)
    entries = list(installation.cluster.audit_entries(OPERATOR_USER))
    assert any(entry.key.resource == "jobs" and entry.key.verb == "create" for entry in entries)
    assert not [entry for entry in entries if entry.key.resource == "secrets"]
    recent = [entry for entry in entries if entry.received >= since and entry.namespace == namespace]
    assert not [(entry.key, entry.message) for entry in recent if entry.code == 403]

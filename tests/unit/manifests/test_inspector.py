"""The inspector's Job: what Pod Security demands, what it may see, and that no selector of the engine finds its pod."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kubequant.api.spec import Pod
from kubequant.manifests.children import build_files
from kubequant.manifests.inspector import (
    FolderSubject,
    InspectorSettings,
    RepositorySubject,
    Subject,
    build_authorities,
    build_inspector,
    inspector_name,
)
from kubequant.manifests.names import MODEL_LABEL, selector_of
from kubequant.manifests.pod import build_pod_template
from kubequant.manifests.recipe import Recipe
from kubequant.manifests.security import USER_ID
from tests.unit.manifests.making import OWNER, recipe

SETTINGS = InspectorSettings(
    "registry.example/kubequant:1", "IfNotPresent", "https://hub.example", (("HTTPS_PROXY", "p"),)
)
REPOSITORY = RepositorySubject("a/b", "main", "hub-token", "token")
FOLDER = FolderSubject("models", "qwen/awq")
SUBJECTS: list[Subject] = [REPOSITORY, FOLDER]


def job(subject: Subject, **pod: Any) -> dict[str, Any]:
    return build_inspector(OWNER, "qwen-inspect-1", subject, SETTINGS, Pod.model_validate(pod))


def pod_spec(subject: Subject, **pod: Any) -> dict[str, Any]:
    spec: dict[str, Any] = job(subject, **pod)["spec"]["template"]["spec"]
    return spec


def container(subject: Subject) -> dict[str, Any]:
    (one,) = pod_spec(subject)["containers"]
    return dict(one)


@pytest.mark.parametrize("subject", SUBJECTS)
def test_restricted(subject: Subject) -> None:
    spec, inside = pod_spec(subject), container(subject)["securityContext"]
    assert spec["securityContext"]["runAsNonRoot"] is True and spec["securityContext"]["runAsUser"] == USER_ID
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert inside["allowPrivilegeEscalation"] is False and inside["capabilities"] == {"drop": ["ALL"]}
    assert inside["readOnlyRootFilesystem"] is True
    kinds = {kind for volume in spec["volumes"] for kind in volume.keys() - {"name"}}
    assert kinds <= {"emptyDir", "persistentVolumeClaim"}
    assert spec["automountServiceAccountToken"] is False and spec["enableServiceLinks"] is False


@pytest.mark.parametrize("subject", SUBJECTS)
def test_it_ends_by_itself_and_asks_for_little(subject: Subject) -> None:
    spec = job(subject)["spec"]
    assert spec["backoffLimit"] <= 3 and spec["ttlSecondsAfterFinished"] <= 3600
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    assert spec["template"]["spec"]["activeDeadlineSeconds"] <= 600
    resources = container(subject)["resources"]
    assert set(resources["requests"]) == set(resources["limits"]) == {"cpu", "memory"}, "a quota may ask for all four"


@pytest.mark.parametrize("subject", SUBJECTS)
def test_no_selector_of_the_engine_finds_its_pod(subject: Subject) -> None:
    made = job(subject, labels={"app": "chat"})
    labels = made["spec"]["template"]["metadata"]["labels"]
    assert MODEL_LABEL not in labels and "app" not in labels
    assert not selector_of(OWNER).items() <= labels.items()
    assert labels["app.kubernetes.io/managed-by"] == "kubequant", "or the operator would not see it"
    assert made["metadata"]["labels"][MODEL_LABEL] == OWNER.name
    assert [one["uid"] for one in made["metadata"]["ownerReferences"] if one["controller"]] == [OWNER.uid]


def test_the_token_comes_from_the_users_secret_and_nothing_else_does() -> None:
    env = {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container(REPOSITORY)["env"]}
    assert env["HF_TOKEN"] == {"secretKeyRef": {"name": "hub-token", "key": "token"}}
    assert env["HTTPS_PROXY"] == "p"
    assert container(REPOSITORY)["command"] == ["kubequant", "inspect"]
    assert container(REPOSITORY)["args"] == ["--repository=a/b", "--revision=main", "--endpoint=https://hub.example"]
    assert [volume["name"] for volume in pod_spec(REPOSITORY)["volumes"]] == ["tmp"]


def test_a_folder_is_mounted_read_only_and_asked_without_a_token() -> None:
    assert container(FOLDER)["args"] == ["--folder=/volume/qwen/awq", "--within=/volume"]
    assert "HF_TOKEN" not in {entry["name"] for entry in container(FOLDER)["env"]}
    assert {"name": "model", "mountPath": "/volume", "readOnly": True} in container(FOLDER)["volumeMounts"]
    claim = {"name": "model", "persistentVolumeClaim": {"claimName": "models", "readOnly": True}}
    assert claim in pod_spec(FOLDER)["volumes"], "read-only as a volume: the kubelet changes no group of the files"
    assert container(FolderSubject("models", ""))["args"][0] == "--folder=/volume"


def test_words_of_users_stay_values_of_their_option() -> None:
    arguments = container(RepositorySubject("a/b", "--endpoint=https://evil.example", "s", "k"))["args"]
    assert arguments[1] == "--revision=--endpoint=https://evil.example"
    assert arguments[2] == "--endpoint=https://hub.example"


def test_what_a_model_says_of_its_pods_counts_where_it_must() -> None:
    toleration = {"key": "dedicated", "operator": "Exists"}
    asked = {"tolerations": [toleration], "imagePullSecrets": [{"name": "pull"}], "annotations": {"a.example/b": "c"}}
    made = job(REPOSITORY, **asked)["spec"]["template"]
    assert toleration in made["spec"]["tolerations"]
    assert made["spec"]["imagePullSecrets"] == [{"name": "pull"}]
    assert made["metadata"]["annotations"] == {"a.example/b": "c"}


def test_the_name_tells_the_question() -> None:
    name = inspector_name(OWNER, REPOSITORY, "")
    assert name == inspector_name(OWNER, RepositorySubject("a/b", "main", "hub-token", "token"), "")
    others = [
        inspector_name(OWNER, replace(REPOSITORY, revision="v1"), ""),
        inspector_name(OWNER, replace(REPOSITORY, secret="other"), ""),
        inspector_name(OWNER, REPOSITORY, "again"),
        inspector_name(OWNER, FOLDER, ""),
        inspector_name(replace(OWNER, name="other"), REPOSITORY, ""),
    ]
    assert len({name, *others}) == 6


def test_the_longest_name_of_a_model_leaves_a_name_that_a_label_can_carry() -> None:
    names = {inspector_name(replace(OWNER, name="m" * 51 + end), REPOSITORY, "") for end in "ab"}
    assert len(names) == 2 and all(len(name) <= 63 for name in names)


def test_a_private_authority_comes_as_a_file_and_redirects_stay_where_they_may() -> None:
    content = {"launcher.py": "", "ca.pem": "-----BEGIN CERTIFICATE-----"}
    settings = replace(SETTINGS, files=content, redirect_hosts=("cdn.example", "*.s3.example"))
    made = build_inspector(OWNER, "n", REPOSITORY, settings, Pod())["spec"]["template"]["spec"]
    (inside,) = made["containers"]
    files = build_authorities(OWNER, settings)
    assert files == build_files(OWNER, content), "the ConfigMap that the model's pods mount, and no second copy"
    assert inside["args"][3:] == [
        "--redirect-host=cdn.example",
        "--redirect-host=*.s3.example",
        "--ca-file=/kubequant/ca.pem",
    ]
    (volume,) = [one for one in made["volumes"] if "configMap" in one]
    assert volume["configMap"]["name"] == files["metadata"]["name"]
    assert volume["configMap"]["items"] == [{"key": "ca.pem", "path": "ca.pem"}]
    assert {mount["name"] for mount in inside["volumeMounts"]} == {one["name"] for one in made["volumes"]}
    assert build_authorities(OWNER, SETTINGS) is None


def served(**changes: Any) -> dict[str, Any]:
    return dict(build_pod_template(OWNER, recipe(**changes), Pod(), "files")["spec"])


def test_engines_of_a_volume_mount_it_and_download_nothing() -> None:
    spec = served(claim=("models", "qwen/awq"))
    (engine,) = spec["containers"]
    assert "initContainers" not in spec
    assert engine["args"][:3] == ["vllm", "serve", "/models/model/qwen/awq"]
    assert {"name": "model", "mountPath": "/models/model", "readOnly": True} in engine["volumeMounts"]
    assert {"name": "model", "persistentVolumeClaim": {"claimName": "models", "readOnly": True}} in spec["volumes"]
    assert engine["args"][3:] == served()["containers"][0]["args"][3:], "the engine's arguments are the same"
    assert {mount["name"] for mount in engine["volumeMounts"]} == {volume["name"] for volume in spec["volumes"]}


def test_a_claim_is_remembered_and_older_recipes_have_none() -> None:
    kept = recipe(claim=("models", "")).to_json()
    assert Recipe.from_json(kept) == recipe(claim=("models", ""))
    kept.pop("claim")
    assert Recipe.from_json(kept).claim is None
    assert served(claim=("models", ""))["containers"][0]["args"][2] == "/models/model"

"""The cache volume's claim, the Job that fills it, and the pods that mount it."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from kubequant.api.spec import Pod
from kubequant.manifests.cache import build_claim, build_fill, cache_of
from kubequant.manifests.children import Replacement, build_deployment, build_service
from kubequant.manifests.names import MODEL_LABEL, Owner, owner_reference
from kubequant.manifests.pod import build_pod_template
from kubequant.manifests.recipe import CacheSettings, CacheVolume, Recipe
from tests.unit.manifests.making import ENGINE, GIB, OWNER, recipe

SNAPSHOT = Path(__file__).parent / "snapshots" / "cache.yaml"
SHARED = CacheSettings(None, "ReadWriteMany")
LOCAL = CacheSettings("local", "ReadWriteOnce")
POD = Pod.model_validate(
    {
        "imagePullSecrets": [{"name": "registry"}],
        "nodeSelector": {"zone": "a"},
        "labels": {"team": "a"},
        "resources": {"memory": "64Gi"},
    }
)


def cached(settings: CacheSettings = SHARED, **changes: Any) -> tuple[Recipe, CacheVolume]:
    made = recipe(engine=replace(ENGINE, cache=settings), **changes)
    cache = cache_of(made)
    assert cache is not None
    return replace(made, cache=cache), cache


def fill(settings: CacheSettings = SHARED, **changes: Any) -> dict[str, Any]:
    made, cache = cached(settings, **changes)
    return build_fill(OWNER, made, cache, POD, "qwen-files")


def template(settings: CacheSettings = SHARED, **changes: Any) -> dict[str, Any]:
    made, _ = cached(settings, **changes)
    return build_pod_template(OWNER, made, POD, "qwen-files")


def test_the_whole_claim_and_the_whole_job() -> None:
    """UPDATE_SNAPSHOTS=1 writes it anew; the difference is then to be reviewed."""
    made, cache = cached(LOCAL, token_secret=("hub", "token"), checksums="ab" * 32)
    documents = [build_claim(OWNER, made, cache), build_fill(OWNER, made, cache, POD, "qwen-0123456789")]
    text = yaml.safe_dump_all(documents, sort_keys=False, width=120)
    if os.environ.get("UPDATE_SNAPSHOTS"):
        SNAPSHOT.write_text(text, encoding="utf-8")
    assert SNAPSHOT.read_text(encoding="utf-8") == text


def test_the_claim_is_named_by_what_it_holds_and_by_nobody() -> None:
    _, first = cached()
    assert first.claim.startswith("b-")
    assert first == cached(arguments=("--max-model-len", "1"), gpus=2, gpu_product="NVIDIA-A100")[1]
    for change in ({"repository": "a/c"}, {"commit": "1" * 40}, {"checksums": "ab" * 32}):
        assert cached(**change)[1].claim != first.claim, change
    assert cached(LOCAL)[1].claim != first.claim, "the class and the mode of a claim cannot be changed"


def test_what_a_token_opened_is_for_those_alone_who_name_the_same_secret() -> None:
    claims = {
        cached(token_secret=secret)[1].claim for secret in (None, ("hub", "token"), ("hub", "other"), ("x", "token"))
    }
    assert len(claims) == 4


@pytest.mark.parametrize("repository", ["a/" + "Q" * 96, "a/...---", "a/0.5B_Instruct", "a/-x-"])
def test_any_repository_makes_a_name_that_claims_jobs_and_labels_take(repository: str) -> None:
    name = cached(repository=repository)[1].claim
    assert len(name) <= 53, "Jobs add eleven characters for their pods"
    assert all(part.isalnum() for part in name.split("-")) and name == name.lower()


def test_no_cache_where_none_is_configured_or_the_volume_is_the_users_own() -> None:
    assert cache_of(recipe()) is None
    assert cache_of(recipe(engine=replace(ENGINE, cache=SHARED), claim=("mine", ""))) is None


def test_the_size_is_known_beforehand() -> None:
    claim = build_claim(OWNER, *cached(LOCAL))
    assert claim["spec"]["resources"]["requests"]["storage"] == str(12 * GIB), "10 GiB, a tenth, and one"
    assert claim["spec"]["storageClassName"] == "local"
    assert claim["spec"]["accessModes"] == ["ReadWriteOnce"]
    assert "storageClassName" not in build_claim(OWNER, *cached())["spec"], "the cluster's default"


def test_the_claim_has_owners_and_no_controller_and_belongs_to_no_model() -> None:
    metadata = build_claim(OWNER, *cached())["metadata"]
    assert metadata["ownerReferences"] == [owner_reference(OWNER)]
    assert "controller" not in metadata["ownerReferences"][0]
    assert MODEL_LABEL not in metadata["labels"]


def test_pods_mount_the_claim_read_only_download_nothing_and_start_nothing_that_is_not_whole() -> None:
    spec = template()["spec"]
    assert "initContainers" not in spec
    claim = cached()[1].claim
    assert spec["volumes"][0] == {"name": "model", "persistentVolumeClaim": {"claimName": claim, "readOnly": True}}
    (engine,) = spec["containers"]
    assert engine["volumeMounts"][0] == {"name": "model", "mountPath": "/models", "readOnly": True}
    command = engine["command"]
    assert command[command.index("--model") + 1] == "/models/model"


def test_the_job_asks_for_no_gpu_and_runs_where_the_engine_can() -> None:
    spec = fill()["spec"]["template"]["spec"]
    assert "nvidia.com/gpu" not in json.dumps(spec["containers"][0]["resources"])
    engine = template()["spec"]
    assert spec["affinity"]["nodeAffinity"] == engine["affinity"]["nodeAffinity"]
    assert (spec["tolerations"], spec["nodeSelector"]) == (engine["tolerations"], engine["nodeSelector"])
    assert spec["imagePullSecrets"] == [{"name": "registry"}]


def test_a_volume_of_one_node_is_filled_near_the_model() -> None:
    near = fill(LOCAL)["spec"]["template"]["spec"]["affinity"]["podAffinity"]
    (term,) = near["preferredDuringSchedulingIgnoredDuringExecution"]
    assert term["podAffinityTerm"]["labelSelector"]["matchLabels"][MODEL_LABEL] == OWNER.name


def test_engines_of_a_volume_of_one_node_stay_together_and_those_of_a_shared_one_need_not() -> None:
    made = template(LOCAL)
    (term,) = made["spec"]["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert term["labelSelector"]["matchLabels"].items() <= made["metadata"]["labels"].items(), (
        "or none could be the first"
    )
    assert "podAffinity" not in template(SHARED)["spec"]["affinity"]
    assert "kubequant.dev/cache" not in build_pod_template(OWNER, recipe(), POD, "f")["metadata"]["labels"]


def test_the_job_is_restricted_and_has_no_identity() -> None:
    spec = fill(token_secret=("hub", "token"))["spec"]["template"]["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    (container,) = spec["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    token = next(variable for variable in container["env"] if variable["name"] == "HF_TOKEN")
    assert token["valueFrom"] == {"secretKeyRef": {"name": "hub", "key": "token"}}


def test_no_selector_of_the_engine_finds_the_jobs_pods() -> None:
    labels = fill()["spec"]["template"]["metadata"]["labels"]
    deployment = build_deployment(OWNER, "r", template(), 1, Replacement.SURGE)
    for selector in (deployment["spec"]["selector"]["matchLabels"], build_service(OWNER)["spec"]["selector"]):
        assert not selector.items() <= labels.items()
    assert "team" not in labels, "nor one of the user's own"


def test_a_refusal_fails_the_job_at_once_and_a_drain_does_not_count() -> None:
    rules = fill()["spec"]["podFailurePolicy"]["rules"]
    assert rules[0]["action"] == "FailJob" and rules[0]["onExitCodes"]["values"] == [3]
    assert rules[1] == {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}


def test_a_recipe_of_before_there_were_caches_is_read() -> None:
    data = recipe().to_json()
    for name in ("cache", "checksums", "claim"):
        del data[name]
    for name in ("cache", "hub_environment"):
        del data["engine"][name]
    assert Recipe.from_json(data) == recipe()


def test_a_recipe_comes_back_as_it_was_kept() -> None:
    made, _ = cached(LOCAL, checksums="ab" * 32)
    made = replace(made, engine=replace(made.engine, hub_environment=(("HTTPS_PROXY", "http://proxy:3128"),)))
    assert Recipe.from_json(json.loads(json.dumps(made.to_json()))) == made


def test_a_proxy_reaches_the_download_and_not_the_engine() -> None:
    through = replace(ENGINE, hub_environment=(("HTTPS_PROXY", "http://proxy:3128"),))
    spec = build_pod_template(OWNER, recipe(engine=through), Pod(), "f")["spec"]
    assert {"name": "HTTPS_PROXY", "value": "http://proxy:3128"} in spec["initContainers"][0]["env"]
    assert "HTTPS_PROXY" not in json.dumps(spec["containers"])


def test_owners_of_two_models_are_told_apart() -> None:
    other = Owner(OWNER.api_version, OWNER.kind, OWNER.namespace, "other", "uid-2")
    assert owner_reference(OWNER)["uid"] != owner_reference(other)["uid"]

"""The pod template: what it must be for Pod Security `restricted`, for the engine, and for the plan to hold."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from kubequant.api.spec import Pod
from kubequant.manifests.names import labels_of, selector_of
from kubequant.manifests.pod import (
    DOWNLOAD_CONTAINER,
    DRAIN_SECONDS,
    ENGINE_CONTAINER,
    PRE_STOP_SECONDS,
    build_pod_template,
    stamp_revision,
)
from kubequant.manifests.recipe import Recipe
from tests.unit.manifests.making import ENGINE, GIB, OWNER, recipe


def template(pod: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    return build_pod_template(OWNER, recipe(**changes), Pod.model_validate(pod or {}), "qwen-files")


def spec(pod: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = template(pod, **changes)["spec"]
    return made


def engine(pod: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    (container,) = spec(pod, **changes)["containers"]
    assert container["name"] == ENGINE_CONTAINER
    return dict(container)


def download(**changes: Any) -> dict[str, Any]:
    (container,) = spec(**changes)["initContainers"]
    assert container["name"] == DOWNLOAD_CONTAINER
    return dict(container)


def environment(container: dict[str, Any]) -> dict[str, Any]:
    names = [entry["name"] for entry in container["env"]]
    assert len(names) == len(set(names))
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container["env"]}


# Pod Security `restricted`, control by control (kubernetes.io/docs/concepts/security/pod-security-standards).
@pytest.mark.parametrize("container", [engine(), download()], ids=["engine", "download"])
def test_restricted_containers(container: dict[str, Any]) -> None:
    context = container["securityContext"]
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert "privileged" not in context and "procMount" not in context
    assert context["readOnlyRootFilesystem"] is True
    assert all("hostPort" not in port for port in container.get("ports", []))


def test_restricted_pod() -> None:
    made = spec()
    context = made["securityContext"]
    assert context["runAsNonRoot"] is True and context["runAsUser"] > 0
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & made.keys()
    kinds = {kind for volume in made["volumes"] for kind in volume.keys() - {"name"}}
    assert kinds <= {"configMap", "emptyDir", "projected", "secret", "persistentVolumeClaim"}


def test_the_pod_has_no_token_of_a_service_account() -> None:
    assert spec()["automountServiceAccountToken"] is False
    assert spec()["enableServiceLinks"] is False


def test_every_mount_has_its_volume_and_every_volume_a_mount() -> None:
    for gpus in (1, 2):
        made = spec(gpus=gpus)
        mounts = {mount["name"] for c in made["containers"] + made["initContainers"] for mount in c["volumeMounts"]}
        assert mounts == {volume["name"] for volume in made["volumes"]}


def test_the_engine_reads_the_model_and_only_the_download_writes_it() -> None:
    def model_mount(container: dict[str, Any]) -> dict[str, Any]:
        return next(mount for mount in container["volumeMounts"] if mount["name"] == "model")

    assert model_mount(engine())["readOnly"] is True
    assert "readOnly" not in model_mount(download())


@pytest.mark.parametrize(("gpus", "mib"), [(1, 640), (2, 1120), (4, 2080), (8, 4000)])
def test_shared_memory_grows_with_the_workers(gpus: int, mib: int) -> None:
    made = spec(gpus=gpus)
    volume = next(volume for volume in made["volumes"] if volume["name"] == "shm")
    assert volume["emptyDir"] == {"medium": "Memory", "sizeLimit": f"{mib}Mi"}
    assert {"name": "shm", "mountPath": "/dev/shm"} in made["containers"][0]["volumeMounts"]


def test_the_model_volume_holds_the_download_and_a_partial_file() -> None:
    volume = next(volume for volume in spec(download_bytes=10 * GIB)["volumes"] if volume["name"] == "model")
    assert volume["emptyDir"]["sizeLimit"] == f"{12 * 1024}Mi"


def test_the_token_is_a_reference_and_only_the_download_has_it() -> None:
    secret = ("hub", "token")
    assert environment(download(token_secret=secret))["HF_TOKEN"] == {"secretKeyRef": {"name": "hub", "key": "token"}}
    assert "HF_TOKEN" not in environment(engine(token_secret=secret))
    assert "secretKeyRef" not in json.dumps(engine(token_secret=secret))
    assert "HF_TOKEN" not in environment(download())


def test_the_engine_is_offline_and_the_download_asks_the_hub_configured() -> None:
    assert environment(engine())["HF_HUB_OFFLINE"] == "1"
    assert environment(download())["HF_ENDPOINT"] == "https://hub.example"
    assert {"HOME", "USER"} <= environment(engine()).keys() & environment(download()).keys()


@pytest.mark.parametrize(
    ("weight_bytes", "allowance", "floor", "budget"),
    [
        (5_000_000_000, 600, 100_000_000, 650),
        (5_000_000_001, 600, 100_000_000, 651),
        (140_000_000_000, 600, 100_000_000, 2000),
        (0, 10, 1_000_000, 10),
    ],
)
def test_the_start_budget(weight_bytes: int, allowance: int, floor: int, budget: int) -> None:
    settings = replace(ENGINE, start_allowance_seconds=allowance, load_floor_bytes_per_second=floor)
    changes: dict[str, Any] = {"weight_bytes": weight_bytes, "engine": settings}
    assert recipe(**changes).start_budget_seconds == budget
    probe = engine(**changes)["startupProbe"]
    assert budget <= probe["failureThreshold"] * probe["periodSeconds"] < budget + probe["periodSeconds"]
    assert int(environment(engine(**changes))["VLLM_ENGINE_READY_TIMEOUT_S"]) > budget


def test_requests_under_way_may_finish_before_the_pod_is_killed() -> None:
    made = spec()
    assert made["containers"][0]["lifecycle"]["preStop"] == {"sleep": {"seconds": PRE_STOP_SECONDS}}
    assert made["terminationGracePeriodSeconds"] > PRE_STOP_SECONDS + DRAIN_SECONDS
    args = made["containers"][0]["args"]
    assert args[args.index("--shutdown-timeout") + 1] == str(DRAIN_SECONDS)


def test_the_order_of_the_arguments() -> None:
    """The operator's own come last: vLLM takes the last of two."""
    made = engine()
    assert made["command"][:2] == ["python3", "/kubequant/launcher.py"] and made["command"][-1] == "--"
    assert made["args"][:3] == ["vllm", "serve", "/models/model"]
    middle = made["args"].index("--max-model-len")
    assert tuple(made["args"][middle : middle + 4]) == recipe().arguments
    assert made["args"][-1] == "--disable-log-stats"
    assert "--quantization" not in made["args"]


def test_no_shell_ever_sees_what_a_user_wrote() -> None:
    for container in (engine(), download()):
        assert not {"sh", "bash", "/bin/sh", "-c"} & {*container["command"], *container["args"]}


def test_the_download_fetches_the_commit_that_was_planned_with() -> None:
    args = download()["args"]
    pairs = dict(zip(args[::2], args[1::2], strict=True))
    assert pairs == {
        "--repository": "a/b",
        "--revision": "0" * 40,
        "--to": "/models/model",
        "--expected-bytes": str(10 * GIB),
        "--port": "8001",
    }
    assert download(checksums="ab" * 32)["args"][-2:] == ["--checksums", "ab" * 32]


def test_gpus_are_asked_for_by_the_engine_alone() -> None:
    assert engine(gpus=4)["resources"]["limits"]["nvidia.com/gpu"] == "4"
    assert engine(gpus=4)["resources"]["requests"]["nvidia.com/gpu"] == "4"
    assert "nvidia.com/gpu" not in json.dumps(download(gpus=4)["resources"])


def test_resources_of_the_user() -> None:
    made = engine({"resources": {"cpu": 2, "memory": "16Gi"}})["resources"]
    assert made["requests"] == {"cpu": "2", "memory": "16Gi", "nvidia.com/gpu": "1"}
    assert made["limits"] == {"memory": "16Gi", "nvidia.com/gpu": "1"}
    assert engine()["resources"]["limits"] == {"nvidia.com/gpu": "1"}


def affinity(**changes: Any) -> list[dict[str, Any]]:
    terms = spec(**changes)["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    (term,) = terms["nodeSelectorTerms"]
    return list(term["matchExpressions"])


def test_only_the_product_of_the_plan_with_at_least_its_memory() -> None:
    assert affinity() == [
        {"key": "nvidia.com/gpu.product", "operator": "In", "values": ["NVIDIA-L4"]},
        {"key": "nvidia.com/gpu.memory", "operator": "Gt", "values": ["23033"]},
    ]
    assert len(affinity(gpu_memory_mib=0)) == 1


def test_what_the_platform_asks_of_the_pod() -> None:
    made = template(
        {
            "nodeSelector": {"pool": "a"},
            "tolerations": [{"key": "x", "operator": "Exists"}],
            "labels": {"team": "a"},
            "annotations": {"note": "b"},
            "runtimeClassName": "nvidia",
            "priorityClassName": "high",
            "imagePullSecrets": [{"name": "registry"}],
        }
    )
    assert made["metadata"]["labels"]["team"] == "a" and made["metadata"]["annotations"]["note"] == "b"
    made_spec = made["spec"]
    assert made_spec["nodeSelector"] == {"pool": "a"}
    assert made_spec["tolerations"][0]["key"] == "nvidia.com/gpu"
    assert made_spec["tolerations"][1] == {"key": "x", "operator": "Exists"}
    assert (made_spec["runtimeClassName"], made_spec["priorityClassName"]) == ("nvidia", "high")
    assert made_spec["imagePullSecrets"] == [{"name": "registry"}]


def test_the_user_cannot_change_the_labels_of_the_selector() -> None:
    made = build_pod_template(OWNER, recipe(), Pod(labels={next(iter(selector_of(OWNER))): "x"}), "f")
    assert labels_of(OWNER).items() <= made["metadata"]["labels"].items()


def test_the_stamp_is_a_copy() -> None:
    before = template()
    stamped = stamp_revision(before, "qwen-1")
    assert stamped["metadata"]["labels"]["kubequant.dev/revision"] == "qwen-1"
    assert "kubequant.dev/revision" not in before["metadata"]["labels"]


def test_a_recipe_comes_back_from_json_and_newer_fields_are_ignored() -> None:
    for secret in (None, ("a", "b")):
        made = recipe(token_secret=secret)
        data = json.loads(json.dumps(made.to_json()))
        assert Recipe.from_json({**data, "new": 1, "engine": {**data["engine"], "new": 1}}) == made

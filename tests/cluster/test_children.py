"""What a model owns: made once, mended when somebody edits it, left alone otherwise, and gone with the model."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from tests.cluster.repositories import add_awq
from tests.fakehub import FakeHub
from tests.harness import Installation, OperatorProcess, RefusedByServerError, make_model, wait_for
from tests.harness.api_server import path_of
from tests.harness.installation import OPERATOR_USER, OWNED, OWNED_RESOURCES, WRITES

EVENTS_SECONDS = 2.0  # an Event of what made it Ready is written a little later
IDLE_SECONDS = 20
RESYNC_SECONDS = 10 + 10  # as configured in conftest.py, and some
SOME_LABEL = {"pod-label": "x"}


@pytest.fixture
def ready(installation: Installation, operator: OperatorProcess, namespace: str) -> Installation:
    """With a model `m` that is Ready."""
    installation.apply(make_model("m", namespace))
    installation.wait_condition("m", "Ready", "True", namespace=namespace)
    return installation


def uids(objects: list[dict[str, Any]]) -> set[str]:
    return {item["metadata"]["uid"] for item in objects}


def mended(installation: Installation, resource: str, name: str, namespace: str, wanted: dict[str, Any]) -> None:
    """Waits until the spec of an object is what it was."""
    wait_for(
        f"{resource}/{name} to be mended",
        lambda: installation.existing(resource, name, namespace)["spec"] == wanted,
        seconds=15,
    )


# --- mending -----------------------------------------------------------------------------------------------------


def test_a_deleted_deployment_comes_back(ready: Installation, namespace: str) -> None:
    before = ready.existing("deployment", "m", namespace)
    ready.delete("deployment", "m", namespace)
    after = wait_for(
        "another Deployment",
        lambda: (found := ready.get("deployment", "m", namespace)) and uids([found]) != uids([before]) and found,
    )
    assert after["spec"] == before["spec"]
    ready.wait_condition("m", "Ready", "True", namespace=namespace)
    assert len(ready.list("deployments", namespace)) == 1
    assert len(ready.revisions("m", namespace)) == 1, "nothing was decided anew"


@pytest.mark.parametrize(
    "edit",
    [
        {"replicas": 3},
        {"template": {"spec": {"terminationGracePeriodSeconds": 20}}},
        {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 3, "maxUnavailable": 0}}},
        {"template": {"metadata": {"labels": {"kubequant.dev/revision": "mine"}}}},
    ],
    ids=["replicas", "grace period", "strategy", "label"],
)  # fmt: skip
def test_a_deployment_edited_by_hand_is_mended(ready: Installation, namespace: str, edit: dict[str, Any]) -> None:
    before = ready.existing("deployment", "m", namespace)["spec"]
    ready.patch("deployment", "m", {"spec": edit}, namespace)
    mended(ready, "deployment", "m", namespace, before)
    ready.wait_condition("m", "Ready", "True", namespace=namespace)


def test_a_service_edited_by_hand_is_mended(ready: Installation, namespace: str) -> None:
    before = ready.existing("service", "m", namespace)["spec"]
    ready.patch("service", "m", {"spec": {"selector": {"app": "mine"}}}, namespace)
    mended(ready, "service", "m", namespace, before)
    ports = [{**before["ports"][0], "port": 80, "targetPort": 9999}]
    ready.patch("service", "m", {"spec": {"ports": ports}}, namespace)
    mended(ready, "service", "m", namespace, before)


def test_a_deleted_service_comes_back(ready: Installation, namespace: str) -> None:
    ready.delete("service", "m", namespace)
    wait_for("the Service to come back", lambda: ready.get("service", "m", namespace), seconds=15)


def test_deleted_files_come_back_with_the_next_full_list(ready: Installation, namespace: str) -> None:
    """ConfigMaps are not watched; pods that run have read theirs."""
    (files,) = ready.list("configmaps", namespace, OWNED)
    assert files["immutable"] is True
    name = files["metadata"]["name"]
    ready.delete("configmap", name, namespace)
    again = wait_for(
        "the ConfigMap to come back", lambda: ready.get("configmap", name, namespace), seconds=RESYNC_SECONDS
    )
    assert again["data"] == files["data"]


def test_files_edited_by_hand_are_refused_by_the_server(ready: Installation, namespace: str) -> None:
    name = ready.list("configmaps", namespace, OWNED)[0]["metadata"]["name"]
    with pytest.raises(RefusedByServerError, match="immutable"):
        ready.patch("configmap", name, {"data": {"launcher.py": "pass"}}, namespace)


FOREIGN: dict[str, dict[str, Any]] = {
    "service": {"apiVersion": "v1", "kind": "Service", "spec": {"ports": [{"port": 9}], "selector": {"app": "mine"}}},
    "deployment": {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": {"app": "mine"}},
            "template": {
                "metadata": {"labels": {"app": "mine"}},
                "spec": {"containers": [{"name": "c", "image": "i"}]},
            },
        },
    },
}


@pytest.mark.parametrize("resource", list(FOREIGN))
def test_a_foreign_child_is_a_conflict_and_left_untouched(
    installation: Installation, operator: OperatorProcess, namespace: str, resource: str
) -> None:
    foreign = installation.api.create({**FOREIGN[resource], "metadata": {"name": "m", "namespace": namespace}})
    installation.apply(make_model("m", namespace))
    told = installation.wait_condition("m", "Ready", "False", "Conflict", namespace=namespace)
    assert f"a {foreign['kind']} named m exists already and is not of this model" in told["message"]
    assert "Rename the model, or delete that object" in told["message"]
    assert installation.condition("m", "Stalled", namespace)["status"] == "True"
    live = installation.existing(resource, "m", namespace)
    assert live["spec"] == foreign["spec"]
    assert "ownerReferences" not in live["metadata"]

    installation.delete(resource, "m", namespace)
    installation.wait_condition("m", "Ready", "True", namespace=namespace, seconds=40)


# --- quiet -------------------------------------------------------------------------------------------------------


def test_a_ready_model_is_left_alone(ready: Installation, hub: FakeHub, namespace: str) -> None:
    # A repository of its own: models that other tests left refused are looked at again with every full list.
    repository = add_awq(hub, "example/left-alone")
    ready.apply(make_model("n", namespace).repository(repository).replicas(2))
    ready.wait_condition("n", "Ready", "True", namespace=namespace)
    time.sleep(EVENTS_SECONDS)
    since, asked = ready.now(), hub.requests.select(repository)
    assert asked
    time.sleep(IDLE_SECONDS)  # it is this time that is measured
    written = [
        entry.key
        for entry in ready.cluster.audit_entries(OPERATOR_USER, since)
        if entry.namespace == namespace and entry.key.verb in WRITES
    ]
    assert written == []
    assert hub.requests.select(repository) == asked


def test_creating_costs_the_children_and_four_writes(
    installation: Installation, operator: OperatorProcess, namespace: str
) -> None:
    since = installation.now()
    installation.apply(make_model("m", namespace))
    installation.wait_condition("m", "Ready", "True", namespace=namespace)
    children = installation.list("deployments,services,configmaps,controllerrevisions,pdb", namespace, OWNED)
    written = [
        entry.key
        for entry in installation.cluster.audit_entries(OPERATOR_USER, since)
        if entry.namespace == namespace and entry.key.verb in WRITES and entry.key.resource != "events"
    ]
    assert len(written) <= len(children) + 4, written


# --- revisions ---------------------------------------------------------------------------------------------------


def test_the_pods_part_makes_a_revision_with_the_same_plan(ready: Installation, hub: FakeHub, namespace: str) -> None:
    # A repository of its own: models that other tests left refused are looked at again with every full list.
    repository = add_awq(hub, "example/pods-part")
    ready.apply(make_model("n", namespace).repository(repository))
    ready.wait_condition("n", "Ready", "True", namespace=namespace)
    (first,) = ready.revisions("n", namespace)
    asked = hub.requests.count(repository)
    ready.patch("qm", "n", {"spec": {"pod": {"labels": {"team": "blue"}}}}, namespace)
    ready.wait_condition("n", "Ready", "True", namespace=namespace)
    first, second = ready.revisions("n", namespace)
    for part in ("plan", "commit", "repository", "inputsHash"):
        assert first["data"][part] == second["data"][part]
    assert hub.requests.count(repository) == asked
    wait_for("one pod", lambda: len(ready.pods("n", namespace)) == 1)
    labels = ready.pods("n", namespace)[0]["metadata"]["labels"]
    assert (labels["team"], labels["kubequant.dev/revision"]) == ("blue", second["metadata"]["name"])
    status = ready.status("n", namespace)
    assert status["currentRevision"] == status["updateRevision"] == second["metadata"]["name"]

    ready.patch("qm", "n", {"spec": {"pod": None}}, namespace)
    ready.wait_condition("n", "Ready", "True", namespace=namespace)
    again = ready.revisions("n", namespace)
    assert again[-1]["metadata"]["name"] == first["metadata"]["name"], "the earlier decision is taken again"
    assert len(again) == 2
    assert again[-1]["data"] == first["data"]
    assert hub.requests.count(repository) == asked


def test_a_planning_input_makes_another_plan_and_back_again(ready: Installation, hub: FakeHub, namespace: str) -> None:
    (first,) = ready.revisions("m", namespace)
    ready.patch("qm", "m", {"spec": {"serving": {"contextTokens": 8192}}}, namespace)
    ready.wait_condition("m", "Ready", "True", namespace=namespace)
    second = ready.revisions("m", namespace)[-1]
    assert second["data"]["plan"]["contextTokens"] == 8192 != first["data"]["plan"]["contextTokens"]
    asked = hub.requests.count()
    ready.patch("qm", "m", {"spec": {"serving": None}}, namespace)
    ready.wait_condition("m", "Ready", "True", namespace=namespace)
    assert ready.status("m", namespace)["currentRevision"] == first["metadata"]["name"]
    assert len(ready.revisions("m", namespace)) == 2
    assert hub.requests.count() == asked


def test_what_is_no_planning_input_makes_no_revision(ready: Installation, namespace: str) -> None:
    pods = uids(ready.pods("m", namespace))
    ready.patch("qm", "m", {"spec": {"rollout": {"strategy": "InPlace"}}}, namespace)
    ready.patch("qm", "m", {"metadata": {"labels": {"team": "a"}, "annotations": {"note": "x"}}}, namespace)
    ready.wait_condition("m", "Ready", "True", namespace=namespace)
    assert len(ready.revisions("m", namespace)) == 1
    assert uids(ready.pods("m", namespace)) == pods


def test_the_replan_annotation_plans_anew(ready: Installation, namespace: str) -> None:
    ready.patch("qm", "m", {"metadata": {"annotations": {"kubequant.dev/replan": "2026-01-01"}}}, namespace)
    revisions = wait_for("another revision", lambda: (r := ready.revisions("m", namespace)) and len(r) == 2 and r)
    first, second = (revision["data"] for revision in revisions)
    assert first["inputsHash"] != second["inputsHash"]
    assert first["plan"] == second["plan"], "nothing has changed"


def test_mode_plan_decides_and_serve_rolls_out(
    installation: Installation, operator: OperatorProcess, hub: FakeHub, namespace: str
) -> None:
    installation.apply(make_model("m", namespace).mode("Plan"))
    told = installation.wait_condition("m", "Ready", "False", "PlanOnly", namespace=namespace)
    assert "status.plan" in told["message"]
    assert installation.condition("m", "Planned", namespace)["status"] == "True"
    assert installation.condition("m", "Reconciling", namespace)["status"] == "False"
    assert installation.condition("m", "Stalled", namespace)["status"] == "False"
    assert installation.status("m", namespace)["plan"]["memory"]["weights"] > 0
    assert [item["kind"] for item in owned(installation, namespace)] == ["ControllerRevision"]

    (revision,), asked = installation.revisions("m", namespace), hub.requests.count()
    installation.patch("qm", "m", {"spec": {"mode": "Serve"}}, namespace)
    installation.wait_condition("m", "Ready", "True", namespace=namespace)
    assert installation.status("m", namespace)["currentRevision"] == revision["metadata"]["name"]
    assert hub.requests.count() == asked


def owned(installation: Installation, namespace: str) -> list[dict[str, Any]]:
    kinds = {"deployments": "Deployment", "services": "Service", "configmaps": "ConfigMap", "pods": "Pod"}
    kinds |= {"controllerrevisions": "ControllerRevision", "pdb": "PodDisruptionBudget"}
    return [
        {"kind": kinds[resource], **item}
        for resource in OWNED_RESOURCES.split(",")
        for item in installation.list(resource, namespace, OWNED)
    ]


def test_five_revisions_are_kept_and_the_serving_one_always(ready: Installation, namespace: str) -> None:
    serving = ready.status("m", namespace)["currentRevision"]
    ready.patch("qm", "m", {"spec": {"rollout": {"strategy": "Surge"}}}, namespace)
    for number in range(7):  # to nodes that are not there: the old pod goes on serving
        ready.patch("qm", "m", {"spec": {"pod": {"nodeSelector": {"nowhere": f"n{number}"}}}}, namespace)
        wait_for(
            f"revision {number}",
            lambda n=number: (
                ready.revisions("m", namespace)[-1]["data"]["template"]["spec"].get("nodeSelector")
                == {"nowhere": f"n{n}"}
            ),
        )
    wait_for("the oldest to go", lambda: len(ready.revisions("m", namespace)) == 5)
    assert serving in [revision["metadata"]["name"] for revision in ready.revisions("m", namespace)]
    status = ready.status("m", namespace)
    assert status["currentRevision"] == serving != status["updateRevision"]
    assert ready.condition("m", "Available", namespace)["status"] == "True"


# --- pods --------------------------------------------------------------------------------------------------------


def test_what_the_user_says_of_pods_reaches_them(
    installation: Installation, operator: OperatorProcess, namespace: str
) -> None:
    priority, runtime = f"important-{namespace}", f"nvidia-{namespace}"
    installation.api.create(
        {
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": {"name": priority},
            "value": 1000,
            "preemptionPolicy": "Never",
        }
    )
    installation.api.create(
        {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": runtime}, "handler": "nvidia"}
    )
    toleration = {"key": "nvidia.com/gpu", "operator": "Equal", "value": "only", "effect": "NoSchedule"}
    installation.apply(
        make_model("m", namespace)
        .token("hf", "token")
        .pod(
            nodeSelector={"kubernetes.io/hostname": "rtx4090-1"},
            tolerations=[toleration],
            runtimeClassName=runtime,
            priorityClassName=priority,
            labels={"team": "blue"},
            annotations={"example.com/note": "a note, with: signs"},
            resources={"cpu": "2500m", "memory": "24Gi"},
            imagePullSecrets=[{"name": "registry"}],
        )
    )
    installation.wait_condition("m", "Ready", "True", namespace=namespace)
    (pod,) = installation.pods("m", namespace)
    spec, metadata = pod["spec"], pod["metadata"]
    assert spec["nodeName"] == "rtx4090-1"
    assert toleration in spec["tolerations"]
    assert (spec["runtimeClassName"], spec["priorityClassName"], spec["priority"]) == (runtime, priority, 1000)
    assert (metadata["labels"]["team"], metadata["annotations"]["example.com/note"]) == ("blue", "a note, with: signs")
    assert spec["imagePullSecrets"] == [{"name": "registry"}]
    engine, (download,) = spec["containers"][0], spec["initContainers"]
    assert engine["resources"] == {
        "requests": {"cpu": "2500m", "memory": "24Gi", "nvidia.com/gpu": "1"},
        "limits": {"memory": "24Gi", "nvidia.com/gpu": "1"},
    }
    secret = {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hf", "key": "token"}}}
    assert secret in download["env"]
    assert "HF_TOKEN" not in json.dumps(engine), "the engine itself needs no token"


def test_restricted_pod_security_takes_our_pods_and_would_refuse_others(ready: Installation, namespace: str) -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": namespace}}
    with pytest.raises(RefusedByServerError, match="violates PodSecurity"):
        ready.api.create({**pod, "spec": {"containers": [{"name": "c", "image": "i"}]}})
    assert ready.pods("m", namespace)


def test_a_quota_that_refuses_pods_is_said_and_waited_for(
    installation: Installation, operator: OperatorProcess, namespace: str
) -> None:
    set_gpu_quota(installation, namespace, 0)
    installation.apply(make_model("m", namespace))
    told = installation.wait_condition("m", "Ready", "False", "QuotaExceeded", namespace=namespace)
    assert "exceeded quota" in told["message"]
    assert "requests.nvidia.com/gpu=1" in told["message"]
    assert "Raise the quota" in told["message"]
    assert installation.condition("m", "Stalled", namespace)["status"] == "False", (
        "it starts by itself once there is room"
    )
    set_gpu_quota(installation, namespace, 1)
    installation.wait_condition("m", "Ready", "True", namespace=namespace, seconds=60)


def test_a_surge_pod_that_a_quota_refuses_means_in_place(
    installation: Installation, operator: OperatorProcess, namespace: str
) -> None:
    set_gpu_quota(installation, namespace, 1)
    installation.apply(make_model("m", namespace))
    installation.wait_condition("m", "Ready", "True", namespace=namespace)
    installation.patch("qm", "m", {"spec": {"pod": {"labels": SOME_LABEL}}}, namespace)
    installation.wait_condition("m", "Ready", "True", namespace=namespace, seconds=60)
    assert [pod["metadata"]["labels"]["pod-label"] for pod in installation.pods("m", namespace)] == ["x"]


def set_gpu_quota(installation: Installation, namespace: str, gpus: int) -> None:
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "gpus", "namespace": namespace}}
    installation.api.apply({**quota, "spec": {"hard": {"requests.nvidia.com/gpu": str(gpus)}}})
    wait_for(
        "the quota to be counted",
        lambda: (
            (installation.existing("resourcequota", "gpus", namespace).get("status") or {}).get("hard")
            == {"requests.nvidia.com/gpu": str(gpus)}
        ),
    )


def test_an_autoscaler_finds_what_it_needs(ready: Installation, namespace: str) -> None:
    scale_path = f"{path_of('qm', namespace, 'm')}/scale"
    scale = wait_for(
        "the scale to count one pod",
        lambda: (found := ready.api.send("GET", scale_path)) and found["status"].get("replicas") == 1 and found,
    )
    assert uids(ready.list("pods", namespace, scale["status"]["selector"])) == uids(ready.pods("m", namespace))
    before = uids(ready.pods("m", namespace))
    ready.api.patch("qm", "m", {"spec": {"replicas": 2}}, namespace, subresource="scale")
    wait_for("two pods", lambda: ready.status("m", namespace).get("readyReplicas") == 2)
    ready.api.patch("qm", "m", {"spec": {"replicas": 0}}, namespace, subresource="scale")
    told = ready.wait_condition("m", "Ready", "True", "ScaledToZero", namespace=namespace)
    assert "as asked" in told["message"]
    ready.api.patch("qm", "m", {"spec": {"replicas": 1}}, namespace, subresource="scale")
    ready.wait_condition("m", "Ready", "True", "Ready", namespace=namespace)
    assert len(ready.revisions("m", namespace)) == 1
    assert not uids(ready.pods("m", namespace)) & before


def test_describe_tells_the_story(ready: Installation, namespace: str) -> None:
    def told() -> str:
        text = ready.cluster.kubectl("-n", namespace, "describe", "qm", "m").partition("Events:")[2]
        return text if "replicas serve" in text else ""

    events = wait_for("the Event of Ready", told, seconds=5)
    assert "W4A16 on 1 x NVIDIA-GeForce-RTX-4090" in events
    assert "Warning" not in events
    table = ready.cluster.kubectl("-n", namespace, "get", "qm")
    assert table.splitlines()[0].split() == [
        "NAME",
        "MODEL",
        "SCHEME",
        "GPU",
        "GPUS",
        "CONTEXT",
        "READY",
        "REASON",
        "AGE",
    ]
    assert table.splitlines()[1].split()[1:5] == [
        "Qwen/Qwen2.5-7B-Instruct-AWQ",
        "W4A16",
        "NVIDIA-GeForce-RTX-4090",
        "1",
    ]


# --- the end -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("resource", ["controllerrevisions", "configmaps", "services", "deployments", "pods"])
def test_a_model_deleted_in_the_middle_leaves_nothing(
    installation: Installation, operator: OperatorProcess, namespace: str, resource: str
) -> None:
    """Deleted as soon as the first object of each kind is there."""
    installation.apply(make_model("m", namespace))
    wait_for(f"the first of {resource}", lambda: installation.list(resource, namespace, OWNED), every=0.01)
    installation.delete("qm", "m", namespace)
    wait_for("everything to be gone", lambda: not installation.list(OWNED_RESOURCES, namespace, OWNED), seconds=60)
    installation.apply(make_model("m", namespace))
    installation.wait_condition("m", "Ready", "True", namespace=namespace)

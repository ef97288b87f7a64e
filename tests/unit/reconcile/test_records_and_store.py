"""Records of bodies as they come, also damaged ones; and the store that holds them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubequant.cluster import kinds
from kubequant.manifests.names import MODEL_LABEL, OUTCOME_ANNOTATION
from kubequant.reconcile.kinds import QUANTIZED_MODEL
from kubequant.reconcile.records import (
    deployment_record,
    model_record,
    node_facts,
    pod_record,
    revision_record,
    status_digest,
)
from kubequant.reconcile.store import GONE, Store
from tests.unit.reconcile.making import KEY, NOW, model_body, node_body, pod_body, running

OWNED = {"namespace": "team-a", "name": "m", "uid": "u", "resourceVersion": "1"}


def owned(name: str = "m", version: str = "1", model: str = "m") -> dict[str, Any]:
    return {
        "kind": "X",
        "metadata": {**OWNED, "name": name, "resourceVersion": version, "labels": {MODEL_LABEL: model}},
    }


def model(name: str = "m") -> dict[str, Any]:
    body = model_body(name)
    body["metadata"] |= {"uid": f"u-{name}", "generation": 1}
    return body


def test_a_pod() -> None:
    body = pod_body(ready=True, created=NOW - 5, engine=running(NOW - 3, restartCount=2))
    record = pod_record(body)
    assert (record.model, record.revision, record.created, record.ready) == ("m", "r1", NOW - 5, True)
    assert (record.gpus, record.gpu_product, record.address) == (1, "NVIDIA-L4", "10.0.0.1")
    assert (record.engine.running_since, record.engine.restarts, record.engine.ended) == (NOW - 3, 2, False)


def test_the_last_end_of_a_container_that_runs_again() -> None:
    state = running(NOW, lastState={"terminated": {"exitCode": 7, "reason": "Error", "message": "m"}})
    engine = pod_record(pod_body(engine=state)).engine
    assert (engine.exit_code, engine.exit_message, engine.ended, engine.running_since) == (7, "m", False, NOW)


def test_a_pod_that_waits_for_a_node() -> None:
    record = pod_record(pod_body(scheduled=False))
    assert not record.scheduled and "Insufficient" in record.scheduling_message


@pytest.mark.parametrize(("asked", "gpus"), [("4", 4), (4, 4), ("1k", 1000), ("", 0), (None, 0), ("many", 0)])
def test_any_notation_of_a_quantity(asked: Any, gpus: int) -> None:
    """Whoever may label a pod can have it read: it must not end a full list."""
    body = pod_body()
    body["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] = asked
    assert pod_record(body).gpus == gpus


@pytest.mark.parametrize("data", [None, {}, [], [1], "text", 3])
def test_a_revision_of_anything(data: Any) -> None:
    record = revision_record({"metadata": OWNED, "data": data, "revision": 3})
    assert (record.inputs_hash, record.pod_hash, record.number) == ("", "", 3)


MINIMAL = {
    "model": (model_record, {"metadata": OWNED}),
    "deployment": (deployment_record, {"metadata": OWNED}),
    "pod": (pod_record, {"metadata": OWNED}),
    "revision": (revision_record, {"metadata": OWNED}),
    "node": (node_facts, {"metadata": {"name": "n"}}),
}


@pytest.mark.parametrize("name", MINIMAL)
def test_nothing_is_assumed_beyond_metadata(name: str) -> None:
    read, body = MINIMAL[name]
    assert read({**body, "spec": None, "status": None}) == read(body)


def test_only_the_labels_and_resources_of_nvidia_are_kept() -> None:
    facts = node_facts(node_body())
    assert all(key.startswith("nvidia.com/") for key in [*facts.labels, *facts.allocatable])


def test_a_digest_of_a_status_leaves_times_and_order_out() -> None:
    a = {"type": "A", "status": "True", "lastTransitionTime": "1"}
    b = {"type": "B", "status": "True", "lastTransitionTime": "1"}
    before = status_digest({"conditions": [a, b]})
    assert status_digest({"conditions": [b, {**a, "lastTransitionTime": "2"}]}) == before
    assert status_digest({"conditions": [{**a, "status": "False"}, b]}) != before
    assert status_digest({"conditions": [a, b], "replicas": 1}) != before


def test_what_belongs_to_a_model_is_found() -> None:
    store = Store()
    assert store.put(QUANTIZED_MODEL, model()) == KEY
    assert store.put(kinds.POD, pod_body("m-1")) == KEY
    assert store.put(kinds.POD, pod_body("o-1", model="other")) == ("team-a", "other")
    snapshot = store.snapshot(KEY)
    assert snapshot and [pod.name for pod in snapshot.pods] == ["m-1"]
    assert store.remove(kinds.POD, pod_body("m-1")) == KEY
    assert store.snapshot(KEY).pods == ()  # type: ignore[union-attr]
    assert store.snapshot(("team-a", "nope")) is None


def test_a_deployment_of_a_former_namesake_is_not_the_models() -> None:
    store = Store()
    store.put(QUANTIZED_MODEL, model())
    reference = {"controller": True, "uid": "u-before"}
    deployment = owned()
    deployment["metadata"]["ownerReferences"] = [reference]
    store.put(kinds.DEPLOYMENT, deployment)
    assert store.snapshot(KEY).deployment is None  # type: ignore[union-attr]
    reference["uid"] = "u-m"
    store.put(kinds.DEPLOYMENT, deployment)
    assert store.snapshot(KEY).deployment is not None  # type: ignore[union-attr]


def test_a_pod_that_was_relabelled_is_no_longer_the_models() -> None:
    store = Store()
    store.put(QUANTIZED_MODEL, model())
    store.put(kinds.POD, pod_body("m-1", ready=True))
    quarantined = pod_body("m-1", ready=True)
    del quarantined["metadata"]["labels"][MODEL_LABEL]
    assert store.put(kinds.POD, quarantined) == KEY, "the model that loses it is to be looked at"
    assert store.snapshot(KEY).pods == ()  # type: ignore[union-attr]


def test_versions_tell_of_changes_and_of_deletions() -> None:
    store = Store()
    store.put(QUANTIZED_MODEL, model())
    name = ("team-a", "m")
    assert store.version(kinds.SERVICE, name) is None
    store.put(kinds.SERVICE, owned(version="1"))
    first = store.version(kinds.SERVICE, name)
    store.put(kinds.SERVICE, owned(version="2"))
    assert store.version(kinds.SERVICE, name) != first
    store.remove(kinds.SERVICE, owned())
    assert store.version(kinds.SERVICE, name) == GONE
    store.remove(QUANTIZED_MODEL, model())
    assert store.version(kinds.SERVICE, name) is None


def test_another_model_s_end_forgets_nothing_of_this_one() -> None:
    store = Store()
    for name in ("m", "m-2"):
        store.put(QUANTIZED_MODEL, model(name))
    store.put(kinds.SERVICE, owned("m-2", model="m-2"))
    store.remove(kinds.SERVICE, owned("m-2", model="m-2"))
    store.remove(QUANTIZED_MODEL, model("m"))
    assert store.version(kinds.SERVICE, ("team-a", "m-2")) == GONE


def test_pods_that_come_and_go_leave_nothing_behind() -> None:
    store = Store()
    store.put(QUANTIZED_MODEL, model())
    sizes = []
    for number in range(100):
        store.put(kinds.POD, pod_body(f"m-{number}"))
        store.remove(kinds.POD, pod_body(f"m-{number}"))
        shelf = store._shelves[kinds.POD]
        sizes.append(sum(map(len, (shelf.by_name, shelf.by_model, shelf.model_of, shelf.versions, shelf.gone))))
    assert sizes[-1] == sizes[0] == 0


def test_a_full_list_removes_the_ghosts() -> None:
    store = Store()
    store.put(QUANTIZED_MODEL, model())
    store.put(kinds.SERVICE, owned())
    store.begin_list(kinds.SERVICE)
    store.replace(kinds.SERVICE, [])
    assert store.version(kinds.SERVICE, ("team-a", "m")) == GONE


def test_what_the_watch_told_during_a_full_list_stands() -> None:
    """The list is answered page by page, and is older than the events that come in the meantime."""
    store = Store()
    store.put(kinds.POD, pod_body("old"))
    store.put(kinds.POD, pod_body("ready"))
    store.begin_list(kinds.POD)
    answer = [pod_body("old"), pod_body("ready")]
    store.put(QUANTIZED_MODEL, model())
    store.put(kinds.POD, pod_body("new"))
    store.put(kinds.POD, pod_body("ready", ready=True))
    store.remove(kinds.POD, pod_body("old"))
    store.replace(kinds.POD, answer)
    found = {pod.name: pod.ready for pod in store.snapshot(KEY).pods}  # type: ignore[union-attr]
    assert found == {"new": False, "ready": True}
    store.begin_list(kinds.POD)
    store.replace(kinds.POD, [])
    assert store.size()["pods"] == 0


def test_the_fleet_is_computed_anew_only_when_a_node_says_something_else() -> None:
    store = Store()
    store.put(kinds.NODE, node_body())
    before = store.fleet
    beat = node_body()
    beat["status"]["conditions"] = [{"type": "Ready", "lastHeartbeatTime": "now"}]
    store.put(kinds.NODE, beat)
    assert store.fleet is before
    store.put(kinds.NODE, node_body(gpus=2))
    assert store.fleet is not before and store.fleet.classes[0].per_node == 2
    store.remove(kinds.NODE, node_body())
    assert store.fleet.classes == ()


def test_gpus_in_use() -> None:
    store = Store()
    store.put(kinds.POD, pod_body("a"))
    store.put(kinds.POD, pod_body("b", phase="Failed"))
    assert store.gpus_in_use("NVIDIA-L4") == 1
    assert store.gpus_in_use("NVIDIA-T4") == 0


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["put", "remove"]), st.sampled_from("abc"), st.sampled_from(["m", "o", ""]))))
def test_the_store_never_finds_what_is_not_there(steps: list[tuple[str, str, str]]) -> None:
    store, truth = Store(), {}
    for name in ("m", "o"):
        store.put(QUANTIZED_MODEL, model(name))
    for verb, name, owner in steps:
        body = pod_body(name, model=owner)
        if verb == "put":
            store.put(kinds.POD, copy.deepcopy(body))
            truth[name] = owner
        else:
            store.remove(kinds.POD, body)
            truth.pop(name, None)
    for owner in ("m", "o"):
        found = {pod.name for pod in store.snapshot(("team-a", owner)).pods}  # type: ignore[union-attr]
        assert found == {name for name, model in truth.items() if model == owner}


def test_an_outcome_is_read_from_its_annotation() -> None:
    body = {"metadata": {**OWNED, "annotations": {OUTCOME_ANNOTATION: "Ready"}}}
    assert revision_record(body).outcome == "Ready"

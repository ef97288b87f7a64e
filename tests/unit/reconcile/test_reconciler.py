"""The whole reconcile over fakes: what is written when, and that nothing is written when nothing changed."""

from __future__ import annotations

from typing import Any

import pytest

from kubequant.api.conditions import Reason
from kubequant.cluster import kinds
from kubequant.cluster.api import ApiError
from kubequant.errors import Refused, Throttled, Unavailable
from kubequant.reconcile.kinds import QUANTIZED_MODEL
from tests.unit.fakes import FakeHub
from tests.unit.planning.models import model
from tests.unit.reconcile.making import FACTS, KEY, World, running

CHILDREN = {"configmaps", "services", "deployments"}


def ready_world(replicas: int = 1) -> World:
    world = World().model(replicas=replicas)
    world.settle()
    for number in range(replicas):
        world.pod(f"m-{number}", ready=True, engine=running())
    world.settle()
    return world


def failed(reason: str) -> dict[str, object]:
    text = f'{{"kubequantTermination": 1, "stage": "engine", "reason": "{reason}", "message": "it is {reason}"}}'
    return {"restartCount": 1, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
            "lastState": {"terminated": {"exitCode": 1, "message": text}}}  # fmt: skip


def test_from_a_model_to_its_children() -> None:
    world = World().model()
    written = world.settle()
    by_kind = [plural for _, plural, _ in written]
    assert by_kind.count("controllerrevisions") == 1
    assert {plural for plural in by_kind if plural != "events"} == {*CHILDREN, "controllerrevisions", "quantizedmodels"}
    assert by_kind[0] == "controllerrevisions", "a decision is written down before anything is done about it"
    assert world.conditions()["Planned"] == ("True", "Planned")
    assert world.conditions()["Ready"][0] == "False"


def test_the_way_to_ready_costs_few_writes() -> None:
    world = World().model(replicas=2)
    written = world.settle()
    children = [entry for entry in written if entry[1] in CHILDREN | {"controllerrevisions", "poddisruptionbudgets"}]
    assert len(children) == 5
    world.pod("m-0", ready=True, engine=running()).pod("m-1", ready=True, engine=running())
    written += world.settle()
    assert world.conditions()["Ready"] == ("True", "Ready")
    assert len([entry for entry in written if entry[2] == "m/status"]) <= 4
    assert world.outcomes() == ["Ready"]


@pytest.mark.parametrize("replicas", [1, 3])
def test_a_restart_writes_nothing_and_asks_the_hub_nothing(replicas: int) -> None:
    world = ready_world(replicas)
    asked = world.hub.asked
    world.restart()
    assert world.settle() == []
    assert world.hub.asked == asked


def test_a_restart_amid_trouble_writes_nothing() -> None:
    """Of several pods in trouble status tells of one: of the same one after a restart."""
    world = World().model(replicas=4)
    world.settle()
    for name in ("m-c", "m-a", "m-d", "m-b"):
        world.pod(name, scheduled=False)
    world.settle()
    assert "m-a" in world.message("Ready")
    for name in ("m-c", "m-a", "m-d", "m-b"):  # another order of arrival
        world.api.remove(kinds.POD, "team-a", name)
    for name in ("m-d", "m-b", "m-c", "m-a"):
        world.pod(name, scheduled=False)
    world.restart()
    assert world.settle() == []


def test_a_hand_edit_is_mended() -> None:
    world = ready_world()
    deployment = world.body(kinds.DEPLOYMENT)
    deployment["spec"]["template"]["spec"]["containers"][0]["image"] = "evil"
    world.api.put(kinds.DEPLOYMENT, deployment)
    assert ("apply", "deployments", "m") in world.settle()
    assert world.body(kinds.DEPLOYMENT)["spec"]["template"]["spec"]["containers"][0]["image"] != "evil"


def test_a_deleted_child_is_made_again() -> None:
    world = ready_world()
    world.api.remove(kinds.SERVICE, "team-a", "m")
    assert ("apply", "services", "m") in world.settle()


@pytest.mark.parametrize(("change", "writes"), [({"replicas": 3}, {"deployments", "poddisruptionbudgets"})])
def test_replicas_plan_nothing(change: dict[str, int], writes: set[str]) -> None:
    world = ready_world()
    asked = world.hub.asked
    world.model(**change)
    written = {plural for _, plural, name in world.settle() if plural != "events" and not name.endswith("/status")}
    assert (written, world.hub.asked) == (writes, asked)


def test_scaled_to_one_the_budget_goes() -> None:
    world = ready_world(2)
    world.model(replicas=1)
    assert ("delete", "poddisruptionbudgets", "m") in world.settle()
    world.api.requests.clear()
    world.step()
    assert ("get", "poddisruptionbudgets", "m") not in world.api.requests


def test_a_changed_pod_keeps_the_plan() -> None:
    world = ready_world()
    asked, before = world.hub.asked, world.deployed
    world.model(pod={"labels": {"team": "a"}})
    world.settle()
    assert world.deployed != before and world.hub.asked == asked
    assert world.conditions()["Ready"] == ("False", "Progressing")
    assert world.conditions()["Available"][0] == "True"


def test_who_goes_back_gets_the_old_revision() -> None:
    world = ready_world()
    first = world.deployed
    world.model(serving={"contextTokens": 4096})
    world.settle()
    assert world.deployed != first
    world.model()
    world.settle()
    assert world.deployed == first
    assert len(world.api.all(kinds.CONTROLLER_REVISION)) == 2


def test_a_refused_change_leaves_the_old_one_serving() -> None:
    world = ready_world()
    before = world.deployed
    world.model(serving={"contextTokens": 10_000_000})
    world.settle()
    found = world.conditions()
    assert world.deployed == before
    assert found["Planned"] == ("False", "ContextTooLong") == found["Ready"]
    assert found["Available"] == ("True", "AllReplicasReady")
    assert found["Stalled"][0] == "True" and found["Reconciling"][0] == "False"
    assert world.settle() == []


def test_a_hub_that_is_away_is_waited_for() -> None:
    world = World(hub=FakeHub(problem=Unavailable(Reason.HUB_UNAVAILABLE, "it is away"))).model()
    world.settle()
    assert world.conditions()["ModelResolved"] == ("Unknown", "HubUnavailable")
    assert world.conditions()["Reconciling"] == ("True", "HubUnavailable")
    assert world.step().requeue_after_seconds == 15
    world.hub.problem, world.hub.facts = None, FACTS
    world.settle()
    assert world.conditions()["Planned"] == ("True", "Planned")


def test_the_hub_s_patience_is_kept() -> None:
    world = World(hub=FakeHub(problem=Throttled(Reason.HUB_THROTTLED, "too many", 77.0))).model()
    assert world.step().requeue_after_seconds == 77
    assert not world.step().planned


def test_a_refused_model_made_again_has_a_status_at_once() -> None:
    """The namesake's status would be the same words: it must be written all the same."""
    world = World(hub=FakeHub(problem=Refused(Reason.REPOSITORY_NOT_FOUND, "no such thing"))).model()
    world.settle()
    world.api.remove(QUANTIZED_MODEL, "team-a", "m")
    world.model()
    world.settle()
    assert world.conditions()["Ready"] == ("False", "RepositoryNotFound")


def rolled_back() -> World:
    world = ready_world()
    world.tokens = None
    world.model(serving={"contextTokens": 4096})
    world.settle()
    world.pod("m-new", engine=failed("EngineArgumentRefused"))
    world.settle()
    return world


def test_a_failed_rollout_goes_back() -> None:
    world = rolled_back()
    assert world.outcomes()[0] == "Ready"
    assert world.outcomes()[1].startswith("Failed: EngineArgumentRefused: ")
    found = world.conditions()
    assert found["Ready"] == ("False", "RolledBack") == ("False", found["Stalled"][1])
    assert found["Available"][0] == "True" and found["Stalled"][0] == "True"
    assert "EngineArgumentRefused" in world.message("Ready")
    world.api.remove(kinds.POD, "team-a", "m-new")
    world.settle()
    world.restart()
    assert world.settle() == [], "a failed revision is not tried again"


def test_a_rollback_says_what_is_brought_back_while_nothing_serves() -> None:
    world = ready_world()
    first = world.deployed
    world.model(serving={"contextTokens": 4096})
    world.settle()
    world.api.remove(kinds.POD, "team-a", "m-0")
    world.pod("m-new", engine=failed("EngineArgumentRefused"))
    world.settle()
    assert f"{first} is being brought back" in world.message("Ready")
    strategy = world.body(kinds.DEPLOYMENT)["spec"]["strategy"]["rollingUpdate"]
    assert strategy == {"maxSurge": 0, "maxUnavailable": 1}, "the failing pod must give its GPU up first"
    world.pod("m-back", revision=first, ready=True, engine=running())
    world.settle()
    assert f"{first} serves" in world.message("Ready")


def test_a_spec_of_a_newer_crd_is_said() -> None:
    world = World().model(mode="Rehearse")
    world.settle()
    assert world.conditions()["Ready"] == ("False", "ApiError")
    assert "spec.mode" in world.message("Ready") and "Upgrade the operator" in world.message("Ready")


def test_after_a_rollback_a_new_plan_can_be_asked_for() -> None:
    world = rolled_back()
    bad, asked = world.deployed, world.hub.asked
    world.annotate("kubequant.dev/replan", "1")
    world.settle()
    assert world.hub.asked == asked + 1 and world.deployed != bad


def test_a_first_revision_that_fails_goes_on_trying() -> None:
    world = World().model()
    world.settle()
    world.pod(engine=failed("KvCacheTooSmall"))
    world.settle()
    assert world.outcomes() == [""]
    assert world.conditions()["Ready"] == ("False", "KvCacheTooSmall") == world.conditions()["Available"]
    assert world.conditions()["Stalled"][0] == "True"


def test_five_revisions_are_kept_and_the_serving_one_among_them() -> None:
    world = ready_world()
    serving = world.deployed
    for tokens in range(1000, 9000, 1000):
        world.model(serving={"contextTokens": tokens})
        world.settle()
    kept = {body["metadata"]["name"] for body in world.api.all(kinds.CONTROLLER_REVISION)}
    assert len(kept) == 5
    assert {serving, world.deployed} <= kept


def test_a_measurement_is_written_once_and_compared() -> None:
    world = ready_world()
    world.tokens = 1
    world.restart()
    world.step()
    world.settle()
    assert world.conditions()["WithinPlan"] == ("False", "BelowPlan")
    assert world.conditions()["Ready"] == ("True", "Ready")
    revision = world.api.all(kinds.CONTROLLER_REVISION)[0]
    assert revision["metadata"]["annotations"]["kubequant.dev/measured"] == "1"
    world.tokens = 2
    world.restart()
    assert world.settle() == []


@pytest.mark.parametrize("damage", ["²", "many", "9" * 5000, "-1"])
def test_a_damaged_measurement_is_none(damage: str) -> None:
    world = ready_world()
    revision = world.api.all(kinds.CONTROLLER_REVISION)[0]
    revision["metadata"]["annotations"]["kubequant.dev/measured"] = damage
    world.api.put(kinds.CONTROLLER_REVISION, revision)
    world.settle()
    assert world.conditions()["WithinPlan"] == ("Unknown", "NotMeasured")


def test_a_service_of_somebody_else_is_left_alone() -> None:
    world = World().model()
    theirs = world.api.put(kinds.SERVICE, {"metadata": {"namespace": "team-a", "name": "m"}, "spec": {"mine": 1}})
    world.settle()
    assert world.conditions()["Ready"] == ("False", "Conflict") == ("False", world.conditions()["Stalled"][1])
    assert world.body(kinds.SERVICE) == theirs


def test_a_conflict_does_not_hide_what_serves() -> None:
    world = ready_world()
    world.model(replicas=2)
    world.pod("m-1", ready=True)
    world.api.put(kinds.POD_DISRUPTION_BUDGET, {"metadata": {"namespace": "team-a", "name": "m"}, "spec": {"mine": 1}})
    world.settle()
    assert world.conditions()["Ready"] == ("False", "Conflict")
    assert world.conditions()["Available"] == ("True", "AllReplicasReady")


@pytest.mark.parametrize("status", [403, 422])
def test_a_decision_that_the_api_server_refuses_is_said_too(status: int) -> None:
    world = World().model()

    def refuse(verb: str, kind: kinds.Kind, _: str) -> ApiError | None:
        refused = verb == "apply" and kind == kinds.CONTROLLER_REVISION
        return ApiError(status, "Forbidden", "exceeded quota: revisions") if refused else None

    world.api.fail = refuse
    assert world.step().requeue_after_seconds == 60
    assert world.conditions()["Ready"] == ("False", "ApiError")
    assert "exceeded quota: revisions" in world.message("Ready")


@pytest.mark.parametrize("status", [403, 422])
def test_what_the_api_server_refuses_is_said_and_tried_again(status: int) -> None:
    world = World().model()

    def refuse(verb: str, kind: kinds.Kind, _: str) -> ApiError | None:
        refused = verb == "apply" and kind == kinds.DEPLOYMENT
        return ApiError(status, "Forbidden", "a webhook says no") if refused else None

    world.api.fail = refuse
    assert world.step().requeue_after_seconds == 60
    assert world.conditions()["Ready"] == ("False", "ApiError")
    assert "a webhook says no" in world.message("Ready")
    assert world.conditions()["Reconciling"][0] == "True"


def test_a_passing_error_of_the_api_server_is_for_the_queue() -> None:
    world = World().model()
    world.api.fail = lambda verb, *_: ApiError(503, "Unavailable", "later") if verb == "apply" else None
    with pytest.raises(ApiError):
        world.step()


def test_a_revision_that_vanishes_meanwhile_is_waited_for() -> None:
    world = ready_world()
    world.restart()
    world.sync()
    for body in world.api.all(kinds.CONTROLLER_REVISION):
        world.api.remove(kinds.CONTROLLER_REVISION, "team-a", body["metadata"]["name"])
    writes = len(world.api.writes())
    world.sync = lambda: None  # type: ignore[method-assign]
    assert world.step().requeue_after_seconds == 1
    assert len(world.api.writes()) == writes


def test_mode_plan_makes_nothing_but_the_decision() -> None:
    world = World().model(mode="Plan")
    written = {plural for _, plural, _ in world.settle()}
    assert written == {"controllerrevisions", "quantizedmodels", "events"}
    assert world.conditions()["Ready"] == ("False", "PlanOnly")
    assert world.conditions()["Planned"][0] == "True" and world.conditions()["Reconciling"][0] == "False"


def base_world(**spec: Any) -> World:
    """A model in 16 bit, whose quantised checkpoint nobody has named."""
    return World(hub=FakeHub(model("Qwen2.5-7B").facts())).model(**spec)


def test_a_plan_whose_checkpoint_does_not_exist_rolls_nothing_out() -> None:
    world = base_world(quantization={"scheme": "W4A16"})
    written = {plural for _, plural, _ in world.settle()}
    assert written == {"controllerrevisions", "quantizedmodels", "events"}
    conditions = world.conditions()
    assert conditions["Planned"] == ("True", "Planned")
    assert conditions["CheckpointReady"] == conditions["Ready"] == ("False", "NoCheckpoint")
    assert conditions["Stalled"] == ("True", "NoCheckpoint")
    status = world.body(QUANTIZED_MODEL)["status"]
    assert status["plan"]["predicted"] is True
    assert "W4A16 (predicted: it is to be made) on 1 x NVIDIA-L4" in world.message("Planned")
    assert "name one in quantization.checkpoint" in world.message("Ready")


def test_what_exists_is_served_where_it_fits() -> None:
    world = base_world()
    world.settle()
    assert world.body(QUANTIZED_MODEL)["status"]["plan"]["scheme"] == "Unquantized"
    assert world.conditions()["CheckpointReady"] == ("True", "Existing")


def test_in_mode_plan_a_prediction_is_no_problem() -> None:
    world = base_world(quantization={"scheme": "W4A16"}, mode="Plan")
    world.settle()
    assert world.conditions()["Ready"] == ("False", "PlanOnly")
    assert world.conditions()["CheckpointReady"] == ("False", "NoCheckpoint")
    assert world.conditions()["Stalled"][0] == "False"


def test_what_serves_stays_while_a_plan_has_no_checkpoint() -> None:
    world = ready_world()
    before = world.body(kinds.DEPLOYMENT)
    world.hub.facts = model("Qwen2.5-7B").facts()
    world.model(quantization={"scheme": "FP8"})
    world.settle()
    assert world.body(kinds.DEPLOYMENT) == before
    assert world.conditions()["Available"][0] == "True"
    assert world.conditions()["Ready"] == ("False", "NoCheckpoint")


def test_a_replan_rests_on_what_was_measured() -> None:
    world = ready_world()
    expected = world.body(QUANTIZED_MODEL)["status"]["plan"]["expectedKvCacheTokens"]
    (revision,) = world.api.all(kinds.CONTROLLER_REVISION)
    revision["metadata"]["annotations"]["kubequant.dev/measured"] = str(expected)
    world.api.put(kinds.CONTROLLER_REVISION, revision)
    world.annotate("kubequant.dev/replan", "now")
    world.settle()
    plan = world.body(QUANTIZED_MODEL)["status"]["plan"]
    assert plan["evidence"] == "Measured"
    assert plan["kvCacheTokens"] < plan["expectedKvCacheTokens"]
    assert plan["expectedKvCacheTokens"] == pytest.approx(expected, rel=0.001)


def test_a_model_that_is_gone_or_going_costs_nothing() -> None:
    world = ready_world()
    body = world.body(QUANTIZED_MODEL)
    body["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    world.api.put(QUANTIZED_MODEL, body)
    assert world.settle() == []
    world.api.remove(QUANTIZED_MODEL, "team-a", "m")
    assert world.settle() == []


def test_a_model_made_again_takes_its_children_over_when_the_old_ones_are_gone() -> None:
    world = ready_world()
    world.api.remove(QUANTIZED_MODEL, "team-a", "m")
    world.model()
    for body in world.api.all(kinds.CONTROLLER_REVISION):  # the garbage collector is slow with the others
        world.api.remove(kinds.CONTROLLER_REVISION, "team-a", body["metadata"]["name"])
    world.settle()
    assert world.conditions()["Ready"] == ("False", "Pending")
    for kind in (kinds.DEPLOYMENT, kinds.SERVICE, kinds.CONFIG_MAP):
        for body in world.api.all(kind):
            world.api.remove(kind, "team-a", body["metadata"]["name"])
    world.settle()
    assert world.conditions()["Ready"][1] != "Conflict"
    assert KEY in world.store.model_keys()


def test_mode_plan_leaves_what_serves_alone() -> None:
    world = ready_world()
    before = world.body(kinds.DEPLOYMENT)
    world.model(mode="Plan", serving={"contextTokens": 1024}, replicas=3)
    world.settle()
    assert world.body(kinds.DEPLOYMENT) == before
    assert world.conditions()["Ready"] == ("False", "PlanOnly")
    assert world.conditions()["Available"][0] == "True"

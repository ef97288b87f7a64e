"""A base model in 16 bit: what discovery found competes, is pinned, and is looked for again only while nothing serves."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kubequant.api.conditions import Reason
from kubequant.cluster import kinds
from kubequant.errors import Refused, Waiting
from kubequant.planning.values import Found, ModelFacts, Rejected
from kubequant.reconcile.deciding import LOOK_AGAIN_SECONDS, SEARCH_AGAIN_SECONDS
from kubequant.reconcile.discovering import PATIENCE_SECONDS, noted
from kubequant.reconcile.kinds import QUANTIZED_MODEL
from tests.unit.fakes import FakeHub
from tests.unit.planning.models import model
from tests.unit.reconcile.making import World

BASE = replace(model("Llama-3.1-70B").facts(), repository="meta/Llama-70B", commit="a" * 40)
AWQ = replace(model("Llama-3.1-70B").stored_as("AWQ").facts(), repository="meta/Llama-70B-AWQ", commit="b" * 40)
REJECTED = Rejected("somebody/Llama-70B-AWQ", "NotTrusted", "somebody is not on the list of trusted publishers")


def world_of(found: Found, gpus: int = 2, **spec: object) -> World:
    hub = FakeHub(BASE)
    hub.published = found
    world = World(gpus=gpus, hub=hub)
    return world.model(model={"repository": BASE.repository}, **spec)


def test_a_trusted_checkpoint_is_served_where_the_base_does_not_fit() -> None:
    world = world_of(Found((AWQ,), (REJECTED,)), gpus=4)
    world.settle()
    status = world.body(QUANTIZED_MODEL)["status"]
    assert (status["checkpoint"], status["modelCommit"]) == (AWQ.repository, AWQ.commit)
    assert world.conditions()["CheckpointReady"] == ("True", "Found")
    assert world.message("CheckpointReady").startswith(
        f"{AWQ.repository} at commit {AWQ.commit} was found for {BASE.repository}"
    )
    verdicts = {one["repository"]: one["verdict"] for one in status["discovery"]["candidates"]}
    assert verdicts == {AWQ.repository: "Chosen", REJECTED.repository: "Rejected"}
    (container,) = world.body(kinds.DEPLOYMENT)["spec"]["template"]["spec"]["initContainers"]
    assert AWQ.repository in container["args"]
    assert AWQ.commit in container["args"]
    (engine,) = world.body(kinds.DEPLOYMENT)["spec"]["template"]["spec"]["containers"]
    assert engine["args"][engine["args"].index("--served-model-name") + 1] == BASE.repository


def test_what_is_pinned_is_not_looked_for_again() -> None:
    world = world_of(Found((AWQ,), ()), gpus=4)
    world.settle()
    world.restart()
    world.clock.now += 10 * LOOK_AGAIN_SECONDS
    world.settle()
    assert (world.hub.asked, world.hub.searched) == (1, 1)


def test_discovery_can_be_forbidden_by_the_model() -> None:
    world = world_of(Found((AWQ,), ()), gpus=4, quantization={"discovery": "Disabled"})
    world.settle()
    assert world.hub.searched == 0
    assert world.conditions()["CheckpointReady"] == ("False", "NoCheckpoint")
    assert "none is named" in world.message("CheckpointReady")


def test_a_checkpoint_published_later_is_taken_within_the_hour() -> None:
    world = world_of(Found((), (REJECTED,)), gpus=4)
    world.settle()
    assert world.conditions()["Ready"] == ("False", "NoCheckpoint")
    assert "none of the 1 that discovery looked at will do" in world.message("Ready")
    world.hub.published = Found((AWQ,), (REJECTED,))
    world.settle()
    assert world.hub.searched == 1
    world.clock.now += LOOK_AGAIN_SECONDS
    world.settle()
    assert world.hub.searched == 2
    assert world.conditions()["CheckpointReady"] == ("True", "Found")
    assert world.body(kinds.DEPLOYMENT)["spec"]["replicas"] == 1


def test_a_search_that_outlasts_the_hourly_look_is_asked_for_its_answer_soon() -> None:
    world = world_of(Found((), (REJECTED,)), gpus=4)
    world.settle()

    async def find(base: ModelFacts, *, fresh: bool = False) -> Found:
        raise Waiting(Reason.DISCOVERING, "being looked for", 15.0)

    world.hub.find = find  # type: ignore[method-assign]
    world.clock.now += LOOK_AGAIN_SECONDS
    assert world.settle() == []
    del world.hub.find
    world.hub.published = Found((AWQ,), (REJECTED,))
    world.clock.now += SEARCH_AGAIN_SECONDS
    world.settle()
    assert world.conditions()["CheckpointReady"] == ("True", "Found")


def test_a_quantised_model_is_not_looked_for() -> None:
    world = World(gpus=4)
    world.model()
    world.settle()
    assert world.hub.searched == 0
    assert "discovery" not in world.body(QUANTIZED_MODEL)["status"]


def test_what_was_looked_at_is_told_where_nothing_fits() -> None:
    world = world_of(Found((AWQ,), (REJECTED,)), gpus=1)
    world.settle()
    assert world.conditions()["Ready"] == ("False", "DoesNotFit")
    status = world.body(QUANTIZED_MODEL)["status"]
    assert status["discovery"]["considered"] == 2
    assert {one["verdict"] for one in status["discovery"]["candidates"]} == {"Rejected"}


def test_a_branch_that_moved_is_still_told_after_a_restart() -> None:
    world = World(gpus=4)
    world.model()
    world.settle()
    body = world.body(QUANTIZED_MODEL)
    body["status"]["newerCommit"] = "f" * 40
    world.api.put(QUANTIZED_MODEL, body)
    world.restart()
    world.settle()
    assert world.conditions()["ModelResolved"] == ("True", "RevisionMoved")
    assert world.body(QUANTIZED_MODEL)["status"]["newerCommit"] == "f" * 40


def test_messages_name_the_field_that_named_the_repository() -> None:
    problem = Refused(Reason.REVISION_NOT_FOUND, "there is no v9: correct spec.model.revision")
    world = World(gpus=4, hub=FakeHub(problem=problem))
    world.model(quantization={"checkpoint": {"repository": "a/b", "revision": "v9"}})
    world.settle()
    assert world.message("ModelResolved") == "there is no v9: correct spec.quantization.checkpoint.revision"
    world.model(model={"repository": "a/b", "revision": "v9"})
    world.settle()
    assert world.message("ModelResolved") == "there is no v9: correct spec.model.revision"


@pytest.mark.parametrize("revision", ["v1.0", "a" * 40])
def test_a_revision_that_the_user_pinned_is_not_replaced_by_a_checkpoint_of_another(revision: str) -> None:
    world = world_of(Found((AWQ,), ()), gpus=4)
    world.model(model={"repository": BASE.repository, "revision": revision})
    world.settle()
    assert world.hub.searched == 0
    status = world.body(QUANTIZED_MODEL)["status"]
    assert (status["checkpoint"], "discovery" in status) == (BASE.repository, False)
    assert world.conditions()["CheckpointReady"] == ("False", "NoCheckpoint")
    assert "only where model.revision is main" in world.message("CheckpointReady")


def test_main_is_no_choice() -> None:
    world = world_of(Found((AWQ,), ()), gpus=4)
    world.model(model={"repository": BASE.repository, "revision": "main"})
    world.settle()
    assert world.body(QUANTIZED_MODEL)["status"]["checkpoint"] == AWQ.repository


def test_a_replanned_model_that_is_refused_asks_the_hub_afresh_once() -> None:
    world = world_of(Found(), gpus=1)
    fresh = noted_questions(world)
    for replan in ("1", "2"):
        world.annotate("kubequant.dev/replan", replan)
        for _ in range(4):
            world.clock.now += 1
            world.step()
        assert world.conditions()["Ready"] == ("False", "DoesNotFit")
    assert fresh["describe"] == fresh["find"] == [True, False, False, False] * 2


def test_a_namesake_of_a_model_that_is_gone_asks_for_itself() -> None:
    world = world_of(Found(), gpus=1)
    fresh = noted_questions(world)
    for _ in range(2):
        world.model(model={"repository": BASE.repository})
        world.annotate("kubequant.dev/replan", "1")
        world.step()
        world.api.remove(QUANTIZED_MODEL, "team-a", "m")
        world.step()
    assert fresh["find"] == [True, True]


def test_nothing_is_kept_of_a_model_that_is_gone() -> None:
    world = world_of(Found((), (REJECTED,), partial=True), gpus=1)
    world.annotate("kubequant.dev/replan", "1")
    world.step()
    deciding = world._parts[1]
    kept = (deciding._replans._asked, deciding._discovering._replans._asked, deciding._discovering._patience)
    assert [len(one) for one in kept] == [1, 1, 1]
    world.api.remove(QUANTIZED_MODEL, "team-a", "m")
    world.step()
    assert [len(one) for one in kept] == [0, 0, 0]


def test_without_a_replan_nothing_is_asked_afresh() -> None:
    world = world_of(Found(), gpus=1)
    fresh = noted_questions(world)
    world.step()
    assert fresh == {"describe": [False], "find": [False]}


def noted_questions(world: World) -> dict[str, list[bool]]:
    """Whether each question to the Hub from now on asks for a fresh answer."""
    asked_fresh: dict[str, list[bool]] = {"describe": [], "find": []}
    real = world.hub

    class Noting(FakeHub):
        async def describe(self, repository: str, revision: str, *, fresh: bool = False) -> ModelFacts:
            asked_fresh["describe"].append(fresh)
            return await real.describe(repository, revision)

        async def find(self, base: ModelFacts, *, fresh: bool = False) -> Found:
            asked_fresh["find"].append(fresh)
            return await real.find(base)

    world.hub = Noting()
    world.restart()
    return asked_fresh


class TestPartOfTheCheckpoints:
    """Some trusted candidate could not be read: what is planned is pinned, so it is waited for, but not for ever."""

    LATE = Rejected(AWQ.repository, "CouldNotBeRead", "It could not be read: HTTP 500.")

    def world(self) -> World:
        world = world_of(Found((), (self.LATE,), partial=True), gpus=4)
        world.settle()
        return world

    def test_it_is_waited_for(self) -> None:
        world = self.world()
        assert world.conditions()["Ready"] == ("False", "Discovering")
        assert world.conditions()["ModelResolved"] == ("True", "Resolved"), "the facts are known"
        assert world.conditions()["Planned"] == ("Unknown", "Discovering")
        assert world.conditions()["Stalled"][0] == "False"
        assert AWQ.repository in world.message("Ready") and "10 minutes" in world.message("Ready")
        assert world.settle() == [], "the same again is not written again"
        again = world.step().requeue_after_seconds
        assert again is not None and 60 <= again <= 90, "the Hub's client keeps the answer for a minute"

    def test_what_answers_meanwhile_is_taken(self) -> None:
        world = self.world()
        world.clock.now += PATIENCE_SECONDS / 2
        world.hub.published = Found((AWQ,), ())
        world.settle()
        status = world.body(QUANTIZED_MODEL)["status"]
        assert status["checkpoint"] == AWQ.repository and "notes" not in status["discovery"]

    def test_what_never_answers_is_planned_without_and_said(self) -> None:
        other = replace(AWQ, repository="meta/Llama-70B-GPTQ")
        world = world_of(Found((other,), (self.LATE,), partial=True), gpus=4)
        world.settle()
        world.clock.now += PATIENCE_SECONDS - 1
        world.settle()
        assert not world.api.all(kinds.CONTROLLER_REVISION)
        world.clock.now += 1
        world.settle()
        status = world.body(QUANTIZED_MODEL)["status"]
        assert status["checkpoint"] == other.repository
        (note,) = status["discovery"]["notes"]
        assert AWQ.repository in note and "kubequant.dev/replan" in note
        asked = world.hub.searched
        world.restart()
        world.clock.now += 10 * LOOK_AGAIN_SECONDS
        assert world.settle() == []
        assert world.hub.searched == asked

    def test_a_refusal_for_want_of_it_does_not_come_and_go(self) -> None:
        world = world_of(Found((), (self.LATE,), partial=True), gpus=1)
        world.settle()
        assert world.conditions()["Ready"] == ("False", "Discovering")
        world.clock.now += PATIENCE_SECONDS
        world.settle()
        for _ in range(3):
            world.clock.now += PATIENCE_SECONDS
            assert world.settle() == []
            assert world.conditions()["Ready"] == ("False", "DoesNotFit")

    def test_another_spec_is_waited_for_anew(self) -> None:
        world = world_of(Found((), (self.LATE,), partial=True), gpus=1)
        world.settle()
        world.clock.now += PATIENCE_SECONDS
        world.settle()
        world.annotate("kubequant.dev/replan", "1")
        world.settle()
        assert world.conditions()["Ready"] == ("False", "Discovering")

    def test_what_serves_stays_meanwhile(self) -> None:
        world = world_of(Found((AWQ,), ()), gpus=4)
        world.settle()
        world.pod(ready=True)
        world.settle()
        assert world.conditions()["Ready"] == ("True", "Ready")
        world.hub.published = Found((), (self.LATE,), partial=True)
        world.annotate("kubequant.dev/replan", "1")
        written = world.settle()
        assert world.conditions()["Ready"] == ("False", "Discovering")
        assert world.conditions()["Available"][0] == "True"
        assert {kind for _, kind, _ in written} <= {"quantizedmodels", "events"}


def test_a_search_that_goes_on_leaves_the_facts_known() -> None:
    world = world_of(Found((AWQ,), ()), gpus=4)

    async def find(base: ModelFacts, *, fresh: bool = False) -> Found:
        raise Waiting(Reason.DISCOVERING, "being looked for", 15.0)

    world.hub.find = find  # type: ignore[method-assign]
    world.settle()
    assert world.conditions()["ModelResolved"] == ("True", "Resolved")
    assert world.conditions()["Planned"] == ("Unknown", "Discovering")
    assert world.conditions()["Ready"] == ("False", "Discovering")
    assert world.settle() == [] and world.step().requeue_after_seconds == 15.0
    del world.hub.find
    world.settle()
    assert world.conditions()["CheckpointReady"] == ("True", "Found")


def test_many_that_could_not_be_read_are_counted() -> None:
    late = [Rejected(f"a/{number}", "CouldNotBeRead", "HTTP 500") for number in range(5)]
    (note,) = noted(Found((), (*late, REJECTED), partial=True)).notes
    assert "(a/0, a/1, a/2 and 2 more)" in note and REJECTED.repository not in note


def test_refusals_of_found_checkpoints_crowd_out_none_of_the_model_itself() -> None:
    many = tuple(replace(AWQ, repository=f"meta/Llama-70B-AWQ-{number}") for number in range(20))
    world = world_of(Found((AWQ, *many), ()), gpus=4)
    world.settle()
    refusals = world.body(QUANTIZED_MODEL)["status"]["plan"]["refusals"]
    assert len(refusals) == 16
    assert "WeightsDoNotFit" in {refusal["reason"] for refusal in refusals if refusal["scheme"] == "Unquantized"}

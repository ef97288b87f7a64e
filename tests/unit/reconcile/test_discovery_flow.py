"""A base model in 16 bit: what discovery found competes, is pinned, and is looked for again only while nothing serves."""

from __future__ import annotations

from dataclasses import replace

from kubequant.cluster import kinds
from kubequant.planning.values import Found, Rejected
from kubequant.reconcile.deciding import LOOK_AGAIN_SECONDS
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

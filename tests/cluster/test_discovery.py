"""A published checkpoint is found for a model that is applied, and status says which, and why no other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.repositories import add_awq
from tests.fakehub import FakeHub
from tests.fakehub.content import BytesContent
from tests.fakehub.family import BASE, Sibling
from tests.harness import Installation, OperatorProcess, make_model, wait_for
from tests.harness.models import QuantizedModelBuilder


def base_model(name: str, namespace: str) -> QuantizedModelBuilder:
    """The family's base in four bits: on a card that holds it in 16 bit too, it would be taken as it is."""
    return make_model(name, namespace).repository(BASE).quantization(scheme="W4A16")


def candidates(status: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {one["repository"]: one for one in status["discovery"]["candidates"]}


def main_of(hub: FakeHub, repository: str) -> str:
    return hub.catalogue.repositories[repository].branches["main"]


def test_a_trusted_checkpoint_is_found_and_pinned(
    installation: Installation, operator: OperatorProcess, hub: FakeHub, namespace: str
) -> None:
    installation.apply(base_model("m", namespace))
    said = installation.wait_condition("m", "CheckpointReady", "True", "Found", namespace=namespace)
    commit = main_of(hub, Sibling.OWN_AWQ)
    assert Sibling.OWN_AWQ in said["message"] and commit in said["message"] and BASE in said["message"]
    installation.wait_condition("m", "Ready", "True", namespace=namespace)
    status = installation.status("m", namespace)
    assert (status["checkpoint"], status["modelCommit"]) == (Sibling.OWN_AWQ, commit)
    deployment = installation.existing("deployment", "m", namespace)
    assert Sibling.OWN_AWQ in str(deployment) and commit in str(deployment)
    assert Sibling.UNTRUSTED not in str(deployment)


def test_every_other_candidate_has_its_reason_in_status(
    installation: Installation, operator: OperatorProcess, namespace: str
) -> None:
    installation.apply(base_model("m", namespace).mode("Plan"))
    installation.wait_condition("m", "Planned", "True", namespace=namespace)
    status = installation.status("m", namespace)
    listed = candidates(status)
    assert status["discovery"]["base"] == BASE
    assert status["discovery"]["considered"] >= len(listed) == 24
    assert next(iter(listed)) == Sibling.OWN_AWQ and listed[Sibling.OWN_AWQ]["verdict"] == "Chosen"
    assert listed[Sibling.WRONG_TOKENIZER]["reason"] == "TokenizerDiffers"
    assert listed[Sibling.CHANGED_TEMPLATE]["reason"] == "ChatTemplateDiffers"
    eligible = [one for one in listed.values() if one["verdict"] == "Eligible"]
    assert eligible and all(one["message"] for one in listed.values())
    revisions = installation.revisions("m", namespace)
    assert len(str(revisions)) < 100_000


def test_where_it_is_switched_off_nothing_is_looked_for(
    installation: Installation, operator: OperatorProcess, namespace: str
) -> None:
    installation.apply(base_model("m", namespace).quantization(discovery="Disabled").mode("Plan"))
    said = installation.wait_condition("m", "CheckpointReady", "False", "NoCheckpoint", namespace=namespace)
    assert "none is named" in said["message"]
    assert "discovery" not in installation.status("m", namespace)


def test_a_checkpoint_that_is_named_is_served_whoever_published_it(
    installation: Installation, operator: OperatorProcess, namespace: str
) -> None:
    named = make_model("m", namespace).repository(BASE).quantization(checkpoint={"repository": Sibling.UNTRUSTED})
    installation.apply(named)
    installation.wait_condition("m", "Ready", "True", namespace=namespace)
    status = installation.status("m", namespace)
    assert status["checkpoint"] == Sibling.UNTRUSTED and "discovery" not in status


def test_a_plan_that_is_refused_keeps_what_was_found(
    installation: Installation, operator: OperatorProcess, namespace: str
) -> None:
    installation.apply(base_model("m", namespace).serving(concurrentRequests=4096).gpu(perReplica=1))
    installation.wait_condition("m", "Planned", "False", "DoesNotFit", namespace=namespace)
    listed = candidates(installation.status("m", namespace))
    assert listed[Sibling.OWN_AWQ]["verdict"] == "Rejected"
    assert listed[Sibling.OWN_AWQ]["reason"] == "DemandDoesNotFit"


@pytest.fixture(scope="module")
def watchful(
    installation: Installation,
    operator: OperatorProcess,
    configuration: dict[str, Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[OperatorProcess]:
    """An operator that trusts somebody alone and looks at branches every second, in place of the shared one."""
    operator.stop()
    hub = {**configuration["hub"], "revisionCheckSeconds": 1}
    settings = {**configuration, "hub": hub, "discovery": {"publishers": ["somebody"]}}
    try:
        with OperatorProcess(
            installation.operator_kubeconfig, settings, tmp_path_factory.mktemp("watchful")
        ) as running:
            running.wait_until_working()
            yield running
    finally:
        operator.start()
        operator.wait_until_working()


def test_the_operators_list_decides_whom_to_trust(
    installation: Installation, watchful: OperatorProcess, namespace: str
) -> None:
    installation.apply(base_model("m", namespace).mode("Plan"))
    installation.wait_condition("m", "Planned", "True", namespace=namespace)
    listed = candidates(installation.status("m", namespace))
    assert listed[Sibling.UNTRUSTED]["verdict"] == "Eligible"
    theirs = [one for name, one in listed.items() if name.startswith("RedHatAI/")]
    assert "NotTrusted" in {one["reason"] for one in theirs} and {one["verdict"] for one in theirs} == {"Rejected"}


def test_a_branch_that_moved_is_reported_and_followed_when_asked(
    installation: Installation, watchful: OperatorProcess, hub: FakeHub, namespace: str
) -> None:
    repository = add_awq(hub, f"{namespace}/moving")
    first = main_of(hub, repository)
    installation.apply(make_model("m", namespace).repository(repository))
    installation.wait_condition("m", "Ready", "True", namespace=namespace)
    assert installation.status("m", namespace)["modelCommit"] == first

    watchful.stop()  # else what the branch names is remembered for a minute
    model = hub.catalogue.repositories[repository]
    second = model.commit({**model.commits[first].files, "notes.txt": BytesContent(b"better\n")})
    watchful.start()
    said = installation.wait_condition("m", "ModelResolved", "True", "RevisionMoved", namespace=namespace)
    assert first in said["message"] and second in said["message"] and "kubequant.dev/replan" in said["message"]
    status = installation.status("m", namespace)
    assert (status["modelCommit"], status["newerCommit"]) == (first, second)
    assert len(installation.revisions("m", namespace)) == 1, "nothing is followed by itself"

    installation.patch("qm", "m", {"metadata": {"annotations": {"kubequant.dev/replan": "1"}}}, namespace)
    wait_for("the newer commit", lambda: installation.status("m", namespace).get("modelCommit") == second)
    installation.wait_condition("m", "ModelResolved", "True", "Resolved", namespace=namespace)
    assert "newerCommit" not in installation.status("m", namespace)

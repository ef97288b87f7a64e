"""Cache volumes over a whole reconciler: filled once, shared, held while needed, let go afterwards."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from kubequant.api.conditions import Reason
from kubequant.cluster import kinds
from kubequant.cluster.api import ApiError
from kubequant.manifests.cache import FILLED_ANNOTATION
from kubequant.manifests.names import JOB_MODEL_LABEL
from kubequant.manifests.recipe import CacheSettings
from kubequant.reconcile.job_records import JOB_NAME_LABEL
from kubequant.reconcile.kinds import QUANTIZED_MODEL
from tests.unit.reconcile.making import FACTS, KEY, NOW, World, running, stamp

SHARED = CacheSettings(None, "ReadWriteMany")
OTHER_COMMIT = "f" * 40


def cached_world() -> World:
    return World(cache=SHARED).model("m")


def claim(world: World) -> dict[str, Any]:
    (only,) = world.api.all(kinds.PERSISTENT_VOLUME_CLAIM)
    return only


def owners(world: World) -> set[str]:
    uids = {body["metadata"]["uid"]: body["metadata"]["name"] for body in world.api.all(QUANTIZED_MODEL)}
    return {uids[reference["uid"]] for reference in claim(world)["metadata"]["ownerReferences"]}


def jobs(world: World) -> list[dict[str, Any]]:
    return world.api.all(kinds.JOB)


def end_job(world: World, kind: str = "Complete", name: str | None = None, **more: str) -> None:
    job = next(job for job in jobs(world) if name in (None, job["metadata"]["name"]))
    condition = {"type": kind, "status": "True", "reason": "", "message": "", **more}
    world.api.put(kinds.JOB, {**job, "status": {"conditions": [condition]}})


def job_pod(
    world: World,
    *,
    job: str = "",
    scheduling: str = "",
    container: dict[str, Any] | None = None,
    phase: str = "Pending",
) -> None:
    (made,) = [one for one in jobs(world) if job in ("", one["metadata"]["name"])]
    conditions = [{"type": "PodScheduled", "status": "False", "message": scheduling}] if scheduling else []
    name = made["metadata"]["name"]
    labels = {**made["spec"]["template"]["metadata"]["labels"], JOB_NAME_LABEL: name}
    assert labels[JOB_MODEL_LABEL] == "m"
    reference = {"controller": True, "uid": made["metadata"]["uid"], "kind": "Job", "name": name}
    world.api.put(
        kinds.POD,
        {
            "metadata": {
                "namespace": "team-a", "name": f"{name}-x", "labels": labels, "creationTimestamp": stamp(NOW),
                "ownerReferences": [reference],
            },
            "spec": {"nodeName": "" if scheduling else "n1"},
            "status": {
                "phase": phase, "podIP": "10.0.0.9", "conditions": conditions,
                "containerStatuses": [{"name": "download", **container}] if container else [],
            },
        },
    )  # fmt: skip


def serve(world: World) -> None:
    """One replica of what is deployed becomes ready."""
    for pod in world.api.all(kinds.POD):
        if JOB_MODEL_LABEL not in pod["metadata"]["labels"]:
            world.api.remove(kinds.POD, "team-a", pod["metadata"]["name"])
    world.pod(ready=True)
    world.settle()


def ready_world() -> World:
    world = cached_world()
    world.settle()
    end_job(world)
    world.settle()
    serve(world)
    assert world.conditions()["Ready"] == ("True", "Ready")
    return world


def told(reason: str, message: str) -> dict[str, Any]:
    text = f'{{"kubequantTermination":1,"stage":"download","reason":"{reason}","message":"{message}","details":{{}}}}'
    return {"state": {"terminated": {"exitCode": 3, "message": text}}}


class TestFilling:
    def test_pods_are_made_once_the_volume_is_full_and_not_before(self) -> None:
        world = cached_world()
        world.settle()
        assert len(jobs(world)) == 1 and owners(world) == {"m"}
        assert not world.api.all(kinds.DEPLOYMENT)
        assert world.conditions()["Available"] == ("False", "Downloading")
        assert world.conditions()["Reconciling"][0] == "True"
        end_job(world)
        world.settle()
        assert FILLED_ANNOTATION in claim(world)["metadata"]["annotations"]
        (deployment,) = world.api.all(kinds.DEPLOYMENT)
        assert deployment["spec"]["template"]["spec"]["volumes"][0]["persistentVolumeClaim"] == {
            "claimName": claim(world)["metadata"]["name"],
            "readOnly": True,
        }

    def test_the_job_has_its_files_before_it_starts(self) -> None:
        world = cached_world()
        written = [(verb, kind) for verb, kind, _ in world.settle()]
        assert written.index(("apply", "configmaps")) < written.index(("create", "jobs"))

    def test_a_job_that_was_removed_after_its_end_is_not_made_again(self) -> None:
        world = ready_world()
        world.api.remove(kinds.JOB, "team-a", jobs(world)[0]["metadata"]["name"])
        world.restart()
        assert world.settle() == []

    def test_a_model_that_is_ready_writes_nothing(self) -> None:
        world = ready_world()
        assert world.settle() == []
        world.restart()
        assert world.settle() == []

    def test_a_job_that_was_lost_half_way_is_made_again(self) -> None:
        world = cached_world()
        world.settle()
        world.api.remove(kinds.JOB, "team-a", jobs(world)[0]["metadata"]["name"])
        world.settle()
        assert len(jobs(world)) == 1

    def test_a_job_of_the_volume_before_says_nothing_of_the_new_one(self) -> None:
        world = cached_world()
        world.settle()
        end_job(world)
        world.settle()
        before = jobs(world)[0]["metadata"]["uid"]
        world.api.remove(kinds.PERSISTENT_VOLUME_CLAIM, "team-a", claim(world)["metadata"]["name"])
        world.settle()
        assert jobs(world)[0]["metadata"]["uid"] != before
        assert FILLED_ANNOTATION not in claim(world)["metadata"]["annotations"]

    def test_a_claim_of_somebody_elses_is_a_conflict_and_left_alone(self) -> None:
        world = cached_world()
        world.settle()
        name = claim(world)["metadata"]["name"]
        world = cached_world()
        world.api.put(kinds.PERSISTENT_VOLUME_CLAIM, {"metadata": {"namespace": "team-a", "name": name}, "spec": {}})
        world.sync = lambda: None  # type: ignore[method-assign]  # watches bring only what carries our label
        for kind in (kinds.NODE, QUANTIZED_MODEL):
            world.store.begin_list(kind)
            world.store.replace(kind, world.api.all(kind))
        world.step()
        assert world.conditions()["Ready"] == ("False", "Conflict")
        assert claim(world)["metadata"].get("ownerReferences") is None
        assert not jobs(world)


TROUBLE = {
    "no volume for it": (
        {"scheduling": "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims."},
        Reason.VOLUME_PENDING,
        "unbound immediate",
    ),
    "no room for it": (
        {"scheduling": "0/1 nodes are available: 1 Insufficient cpu."},
        Reason.UNSCHEDULABLE,
        "Insufficient cpu",
    ),
    "no image": (
        {"container": {"state": {"waiting": {"reason": "ErrImagePull", "message": "not found"}}}},
        Reason.IMAGE_PULL_FAILED,
        "not found",
    ),
    "no Secret": (
        {
            "container": {
                "state": {"waiting": {"reason": "CreateContainerConfigError", "message": 'secret "hub" not found'}}
            }
        },
        Reason.CONFIGURATION_MISSING,
        'secret "hub" not found',
    ),
    "a full volume": (
        {"container": told("DiskFull", "it needs 3 GiB more and has 1 GiB free"), "phase": "Failed"},
        Reason.DISK_FULL,
        "needs 3 GiB more",
    ),
    "other files": (
        {"container": told("ChecksumMismatch", "x is not the file"), "phase": "Failed"},
        Reason.CHECKSUM_MISMATCH,
        "x is not the file",
    ),
    "no access": (
        {"container": told("DownloadAccessDenied", "HTTP 403"), "phase": "Failed"},
        Reason.DOWNLOAD_ACCESS_DENIED,
        "HTTP 403",
    ),
}


class TestTrouble:
    @pytest.mark.parametrize("name", TROUBLE)
    def test_what_keeps_the_volume_from_being_filled_is_said(self, name: str) -> None:
        pod, reason, words = TROUBLE[name]
        world = cached_world()
        world.settle()
        job_pod(world, **pod)
        world.settle()
        assert world.conditions()["Available"] == ("False", reason.value)
        assert words in world.message("Available")

    def test_a_job_that_gave_up_is_tried_again_later_which_is_said(self) -> None:
        world = cached_world()
        world.settle()
        job_pod(world, container=told("DownloadFailed", "The Hub answers HTTP 503."), phase="Failed")
        end_job(world, "Failed", reason="BackoffLimitExceeded", message="Job has reached the specified backoff limit")
        world.settle()
        assert world.conditions()["Ready"] == ("False", "DownloadFailed")
        assert world.conditions()["Stalled"][0] == "False", "the Hub may come back"
        assert "HTTP 503" in world.message("Ready") and "10 min" in world.message("Ready")

    def test_a_job_that_failed_without_a_pod_left_is_told_by_its_own_words(self) -> None:
        world = cached_world()
        world.settle()
        end_job(world, "Failed", reason="DeadlineExceeded", message="Job was active too long")
        world.settle()
        assert world.conditions()["Available"] == ("False", "DownloadFailed")
        assert "Job was active too long" in world.message("Available")

    def test_a_running_download_is_no_trouble(self) -> None:
        world = cached_world()
        world.settle()
        job_pod(world, container=running(), phase="Running")
        world.settle()
        assert world.conditions()["Available"] == ("False", "Downloading")
        assert world.conditions()["Stalled"][0] == "False"


TOLERATION = {"key": "team", "operator": "Exists"}
UNTOLERATED = "0/3 nodes are available: 3 node(s) had untolerated taint {team: ml}."


def tolerated(world: World) -> bool:
    (job,) = jobs(world)
    return TOLERATION in job["spec"]["template"]["spec"]["tolerations"]


class TestMendingThePod:
    """The template of a Job never changes: one that hangs is made anew where another pod is wanted."""

    def hanging(self, **pod: Any) -> World:
        world = cached_world()
        world.settle()
        job_pod(world, **(pod or {"scheduling": UNTOLERATED}))
        world.settle()
        return world

    def test_it_reaches_a_job_that_hangs(self) -> None:
        world = self.hanging()
        assert world.conditions()["Available"] == ("False", "Unschedulable")
        world.model("m", pod={"tolerations": [TOLERATION], "imagePullSecrets": [{"name": "pull"}]})
        world.settle()
        assert tolerated(world)
        assert jobs(world)[0]["spec"]["template"]["spec"]["imagePullSecrets"] == [{"name": "pull"}]
        assert world.conditions()["Available"] == ("False", "Downloading")
        assert world.settle() == []

    def test_it_reaches_a_job_that_has_failed(self) -> None:
        world = self.hanging(container=told("DownloadFailed", "HTTP 503"), phase="Failed")
        end_job(world, "Failed", reason="BackoffLimitExceeded", message="six times")
        world.model("m", pod={"tolerations": [TOLERATION]})
        world.settle()
        assert tolerated(world)

    def test_a_download_that_runs_is_not_disturbed(self) -> None:
        world = self.hanging(container=running(), phase="Running")
        before = jobs(world)
        world.model("m", pod={"tolerations": [TOLERATION]})
        world.settle()
        assert jobs(world) == before

    def test_a_volume_that_is_full_is_not_filled_again(self) -> None:
        world = self.hanging()
        end_job(world)
        world.model("m", pod={"tolerations": [TOLERATION]})
        world.settle()
        assert not tolerated(world) and FILLED_ANNOTATION in claim(world)["metadata"]["annotations"]

    def test_another_models_job_is_left_to_it(self) -> None:
        world = self.hanging()
        before = jobs(world)
        world.model("n", pod={"tolerations": [TOLERATION]})
        for _ in range(3):
            world.step(("team-a", "n"))
            world.step()
        assert jobs(world) == before and owners(world) == {"m", "n"}

    def test_a_job_whose_maker_needs_the_volume_no_more_is_taken_over(self) -> None:
        world = self.hanging()
        world.model("n", pod={"tolerations": [TOLERATION]})
        world.step(("team-a", "n"))
        body = claim(world)
        body["metadata"]["ownerReferences"] = [one for one in body["metadata"]["ownerReferences"] if one["name"] == "n"]
        world.api.put(kinds.PERSISTENT_VOLUME_CLAIM, body)
        for _ in range(3):
            world.step(("team-a", "n"))
        assert tolerated(world) and jobs(world)[0]["metadata"]["ownerReferences"][0]["name"] == "n"

    def test_a_job_that_is_being_deleted_is_not_deleted_again(self) -> None:
        world = self.hanging()
        (job,) = jobs(world)
        job["metadata"]["deletionTimestamp"] = stamp(NOW)
        world.api.put(kinds.JOB, job)
        world.model("m", pod={"tolerations": [TOLERATION]})
        world.settle()
        assert ("delete", "jobs", job["metadata"]["name"]) not in world.api.requests


class TestBeingDeleted:
    """By somebody: it stays for the pods that mount it, and no other pod can start with it."""

    def deleted(self, world: World) -> str:
        body = claim(world)
        body["metadata"]["deletionTimestamp"] = stamp(NOW)
        world.api.put(kinds.PERSISTENT_VOLUME_CLAIM, body)
        return str(body["metadata"]["name"])

    def mounting(self, world: World, name: str, **more: Any) -> None:
        world.pod(name, **more)
        pod = world.body(kinds.POD, name)
        source = {"claimName": claim(world)["metadata"]["name"], "readOnly": True}
        pod["spec"]["volumes"] = [{"name": "tmp", "emptyDir": {}}, {"name": "model", "persistentVolumeClaim": source}]
        world.api.put(kinds.POD, pod)

    def test_who_holds_it_and_what_to_do_is_said(self) -> None:
        world = ready_world()
        for number in range(1, 6):
            self.mounting(world, f"m-{number}", ready=True)
        self.deleted(world)
        world.model("m", pod={"labels": {"team": "a"}})
        world.settle()
        assert world.conditions()["Ready"] == ("False", "VolumePending")
        assert world.conditions()["Available"][0] == "True", "the pods that hold it serve"
        assert "m-1, m-2, m-3 and 2 more. Set spec.replicas to 0" in world.message("Ready")
        assert world.settle() == []

    def test_as_said_it_is_made_and_filled_anew(self) -> None:
        world = ready_world()
        self.mounting(world, "m-1", ready=True)
        name = self.deleted(world)
        world.model("m", pod={"labels": {"team": "a"}}, replicas=0)
        world.settle()
        assert world.body(kinds.DEPLOYMENT)["spec"]["replicas"] == 0
        world.api.remove(kinds.POD, "team-a", "m-1")
        world.api.remove(kinds.PERSISTENT_VOLUME_CLAIM, "team-a", name)
        world.model("m", pod={"labels": {"team": "a"}})
        world.settle()
        assert FILLED_ANNOTATION not in claim(world)["metadata"]["annotations"]
        assert [job["metadata"]["name"] for job in jobs(world)] == [name]

    def test_pods_that_go_already_are_no_trouble(self) -> None:
        world = ready_world()
        self.mounting(world, "m-1", ready=True)
        pod = world.body(kinds.POD, "m-1")
        pod["metadata"]["deletionTimestamp"] = stamp(NOW)
        world.api.put(kinds.POD, pod)
        self.deleted(world)
        world.model("m", pod={"labels": {"team": "a"}})
        world.settle()
        assert "made anew once no pod mounts it" in world.message("Ready")

    def test_it_is_not_filled_any_further(self) -> None:
        """The Job's own pod would hold it."""
        world = cached_world()
        world.settle()
        job_pod(world, container=running(), phase="Running")
        self.deleted(world)
        world.settle()
        assert not jobs(world) and world.conditions()["Available"] == ("False", "VolumePending")
        assert world.settle() == []

    def test_another_models_job_is_not_taken_from_it(self) -> None:
        world = cached_world()
        world.settle()
        world.model("n")
        world.step(("team-a", "n"))
        self.deleted(world)
        world.step(("team-a", "n"))
        assert jobs(world)


class TestSharing:
    def both(self) -> World:
        world = ready_world()
        world.model("n")
        world.step(("team-a", "n"))
        world.step(("team-a", "n"))
        return world

    def test_a_second_model_of_the_same_commit_joins_and_starts_no_job(self) -> None:
        world = self.both()
        assert owners(world) == {"m", "n"}
        assert [job["metadata"]["ownerReferences"][0]["name"] for job in jobs(world)] == ["m"]
        assert {body["metadata"]["name"] for body in world.api.all(kinds.DEPLOYMENT)} == {"m", "n"}

    def test_a_second_model_waits_for_the_job_of_the_first(self) -> None:
        world = cached_world()
        world.settle()
        world.model("n")
        result = world.step(("team-a", "n"))
        assert len(jobs(world)) == 1
        assert result.requeue_after_seconds == 5.0, "no event of that Job is the second model's"
        end_job(world)
        world.step(("team-a", "n"))
        assert "n" in {body["metadata"]["name"] for body in world.api.all(kinds.DEPLOYMENT)}

    def test_a_model_that_goes_leaves_the_claim_to_the_other(self) -> None:
        world = self.both()
        world.api.remove(QUANTIZED_MODEL, "team-a", "n")
        world.step(("team-a", "n"))
        world.settle()
        assert claim(world), "the garbage collector takes n's reference off; nothing here deletes the claim"

    def test_two_that_join_at_the_same_time_do_not_take_each_other_off(self) -> None:
        world = ready_world()
        world.model("n")
        world.api.fail = _between(world)
        with pytest.raises(Exception, match="modified"):
            world.step(("team-a", "n"))
        world.api.fail = lambda verb, kind, name: None
        world.step(("team-a", "n"))
        references = {reference["name"] for reference in claim(world)["metadata"]["ownerReferences"]}
        assert references == {"m", "n", "o"}


def _between(world: World) -> Any:
    """Another writer adds an owner after the claim was read and before it is written."""

    def meddle(verb: str, kind: Any, name: str) -> None:
        if verb == "merge_patch" and kind == kinds.PERSISTENT_VOLUME_CLAIM:
            body = claim(world)
            body["metadata"]["ownerReferences"].append({"kind": "QuantizedModel", "name": "o", "uid": "uid-o"})
            world.api.put(kinds.PERSISTENT_VOLUME_CLAIM, body)

    return meddle


class TestMovingOn:
    """The model is planned with another commit: the old claim stays until nothing can go back to it."""

    def moved(self) -> tuple[World, str]:
        world = ready_world()
        first = claim(world)["metadata"]["name"]
        world.hub.facts = replace(FACTS, commit=OTHER_COMMIT)
        world.annotate("kubequant.dev/replan", "1")
        world.settle()
        return world, first

    def names(self, world: World) -> set[str]:
        return {body["metadata"]["name"] for body in world.api.all(kinds.PERSISTENT_VOLUME_CLAIM)}

    def test_what_serves_stays_until_the_new_volume_is_full(self) -> None:
        world, first = self.moved()
        assert len(self.names(world)) == 2
        volumes = world.body(kinds.DEPLOYMENT)["spec"]["template"]["spec"]["volumes"]
        assert volumes[0]["persistentVolumeClaim"]["claimName"] == first
        assert world.conditions()["Available"][0] == "True"
        assert world.conditions()["Ready"] == ("False", "Progressing")

    def test_it_is_scaled_meanwhile(self) -> None:
        world, _ = self.moved()
        world.model("m", replicas=2)
        world.settle()
        assert world.body(kinds.DEPLOYMENT)["spec"]["replicas"] == 2

    def test_the_old_claim_goes_when_the_new_revision_is_ready_and_the_old_pods_are_gone(self) -> None:
        world, first = self.moved()
        (second,) = self.names(world) - {first}
        end_job(world, name=second)
        world.settle()
        assert self.names(world) == {first, second}, "its pods still mount it, and the new revision may fail"
        serve(world)
        world.settle()
        assert self.names(world) == {second}

    def test_a_rollout_that_fails_finds_its_way_back_to_a_claim_that_is_still_there(self) -> None:
        world, first = self.moved()
        (second,) = self.names(world) - {first}
        end_job(world, name=second)
        world.settle()
        failed = {"state": {"terminated": {"exitCode": 1, "message": told_by_engine()}}}
        world.pod("m-2", engine=failed)
        world.settle()
        assert world.conditions()["Ready"] == ("False", "RolledBack")
        volumes = world.body(kinds.DEPLOYMENT)["spec"]["template"]["spec"]["volumes"]
        assert volumes[0]["persistentVolumeClaim"]["claimName"] == first
        assert first in self.names(world)

    def test_a_volume_that_cannot_be_filled_rolls_back_as_a_pod_would(self) -> None:
        world, first = self.moved()
        (second,) = self.names(world) - {first}
        job_pod(world, job=second, container=told("DiskFull", "it needs 3 GiB more"), phase="Failed")
        end_job(world, "Failed", name=second, reason="PodFailurePolicy", message="exit code 3")
        world.settle()
        assert world.conditions()["Ready"] == ("False", "RolledBack")
        assert world.conditions()["Available"][0] == "True"
        assert self.names(world) == {first, second}

    def test_a_hub_that_is_away_rolls_nothing_back(self) -> None:
        world, first = self.moved()
        (second,) = self.names(world) - {first}
        job_pod(world, job=second, container=told("DownloadFailed", "The Hub answers HTTP 503."), phase="Failed")
        end_job(world, "Failed", name=second, reason="BackoffLimitExceeded", message="six times")
        world.settle()
        assert world.conditions()["Available"][0] == "True"
        assert world.conditions()["Ready"] == ("False", "DownloadFailed")
        world.api.remove(kinds.JOB, "team-a", second)
        world.settle()
        assert len(jobs(world)) == 2, "removed after its time, it is made anew"

    def test_a_claim_that_others_own_is_only_left_and_not_deleted(self) -> None:
        world = ready_world()
        world.model("n")
        world.step(("team-a", "n"))
        first = claim(world)["metadata"]["name"]
        world.hub.facts = replace(FACTS, commit=OTHER_COMMIT)
        world.annotate("kubequant.dev/replan", "1")
        world.settle()
        (second,) = self.names(world) - {first}
        end_job(world, name=second)
        world.settle()
        serve(world)
        world.settle()
        assert self.names(world) == {first, second}
        assert [
            one["name"] for one in world.body(kinds.PERSISTENT_VOLUME_CLAIM, first)["metadata"]["ownerReferences"]
        ] == ["n"]

    def left(self) -> tuple[World, str, str]:
        """One step before the old claim is let go."""
        world, first = self.moved()
        (second,) = self.names(world) - {first}
        end_job(world, name=second)
        world.settle()
        world.api.remove(kinds.POD, "team-a", "m-1")
        world.pod("m-2", ready=True)
        return world, first, second

    def test_a_model_that_takes_the_old_claim_at_that_moment_keeps_it(self) -> None:
        world, first, second = self.left()

        def meddle(verb: str, kind: Any, name: str) -> None:
            if (verb, kind, name) == ("delete", kinds.PERSISTENT_VOLUME_CLAIM, first):
                body = world.body(kinds.PERSISTENT_VOLUME_CLAIM, first)
                body["metadata"]["ownerReferences"].append({"kind": "QuantizedModel", "name": "n", "uid": "uid-n"})
                world.api.put(kinds.PERSISTENT_VOLUME_CLAIM, body)

        world.api.fail = meddle  # type: ignore[assignment]
        with pytest.raises(ApiError, match="modified"):
            world.settle()
        world.api.fail = lambda verb, kind, name: None
        assert self.names(world) == {first, second} and first in {job["metadata"]["name"] for job in jobs(world)}
        world.settle()
        references = world.body(kinds.PERSISTENT_VOLUME_CLAIM, first)["metadata"]["ownerReferences"]
        assert [one["name"] for one in references] == ["n"]

    def test_a_model_that_has_taken_the_old_claim_unseen_keeps_it(self) -> None:
        world, first, _ = self.left()
        known = world.sync

        def late() -> None:
            """The watch of claims is behind."""
            known()
            body = world.body(kinds.PERSISTENT_VOLUME_CLAIM, first)
            body["metadata"]["ownerReferences"].append({"kind": "QuantizedModel", "name": "n", "uid": "uid-n"})
            world.api.put(kinds.PERSISTENT_VOLUME_CLAIM, body)

        world.sync = late  # type: ignore[method-assign]
        world.step()
        assert first in self.names(world)

    def test_the_claim_goes_before_its_job(self) -> None:
        """Or the model that takes it meanwhile is left with a claim that nothing fills."""
        world, first, _ = self.left()
        written = [(verb, kind) for verb, kind, name in world.settle() if name == first]
        assert written == [("delete", "persistentvolumeclaims"), ("delete", "jobs")]

    def test_nothing_is_let_go_while_a_pod_is_of_a_revision_that_nobody_knows(self) -> None:
        world, first = self.moved()
        (second,) = self.names(world) - {first}
        end_job(world, name=second)
        world.settle()
        world.pod("m-9", revision="pruned-long-ago", ready=True)
        world.pod("m-1", ready=True)
        world.settle()
        assert first in self.names(world)


def test_the_plan_says_that_replicas_share_a_node_where_the_volume_makes_them() -> None:
    def notes(mode: str) -> str:
        world = World(cache=CacheSettings(None, mode)).model("m")
        world.settle()
        return " ".join(world.body(QUANTIZED_MODEL)["status"]["plan"].get("notes", []))

    assert "all replicas share that node" in notes("ReadWriteOnce")
    assert "share" not in notes("ReadWriteMany")


def told_by_engine() -> str:
    return '{"kubequantTermination":1,"stage":"engine","reason":"CheckpointRefused","message":"no kernel","details":{}}'


def test_models_without_a_cache_are_untouched_by_a_changed_configuration() -> None:
    world = World().model("m")
    world.settle()
    serve_plain(world)
    world.engine = World(cache=SHARED).engine
    world.restart()
    assert world.settle() == []
    assert not world.api.all(kinds.PERSISTENT_VOLUME_CLAIM)


def serve_plain(world: World) -> None:
    world.pod(ready=True)
    world.settle()
    assert world.conditions()["Ready"] == ("True", "Ready")


def test_a_deleted_model_takes_nothing_with_it_here() -> None:
    """Owner references do that: no request of ours."""
    world = ready_world()
    before = len(world.api.writes())
    world.api.remove(QUANTIZED_MODEL, "team-a", "m")
    world.step(KEY)
    assert len(world.api.writes()) == before


def test_who_may_not_delete_claims_still_tells_how_the_model_is() -> None:
    """The second ClusterRole was taken away before the last claim was gone."""
    world = ready_world()
    world.engine = replace(world.engine, cache=None)
    world.restart()
    forbidden = ApiError(403, "Forbidden", "persistentvolumeclaims is forbidden")
    claims = kinds.PERSISTENT_VOLUME_CLAIM
    world.api.fail = lambda verb, kind, name: (
        forbidden if kind == claims and verb in ("delete", "merge_patch") else None
    )
    before = world.body(QUANTIZED_MODEL)["status"]["updateRevision"]
    world.annotate("kubequant.dev/replan", "2")
    for _ in range(4):
        with suppress(ApiError):
            world.step()
        with suppress(ApiError):
            serve(world)
    assert world.body(QUANTIZED_MODEL)["status"]["updateRevision"] != before
    assert world.conditions()["Ready"] == ("True", "Ready")

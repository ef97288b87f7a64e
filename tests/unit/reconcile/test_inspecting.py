"""What only a Job may read: one Job a question, its answer checked, every way of failing said; and no second question."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from kubequant.api.conditions import Reason
from kubequant.api.spec import QuantizedModelSpec
from kubequant.cluster import kinds
from kubequant.cluster.api import ApiError
from kubequant.cluster.kinds import Kind
from kubequant.errors import Refused, Unavailable, Waiting
from kubequant.manifests.jobs import build_job
from kubequant.manifests.names import COMPONENT_LABEL, JOB_MODEL_LABEL, MODEL_LABEL, Owner
from kubequant.planning.facts_json import unpacked_facts
from kubequant.planning.inspection import Answer, answer_text
from kubequant.reconcile.inputs import source_of
from kubequant.reconcile.inspecting import AT_ONCE, AT_ONCE_IN_A_NAMESPACE, READ_SECONDS, START_SECONDS
from kubequant.reconcile.kinds import QUANTIZED_MODEL
from kubequant.reconcile.reconciler import owner_of
from tests.unit.fakes import FakeHub
from tests.unit.reconcile.making import FACTS, KEY, NOW, World, stamp

GATED = Refused(Reason.ACCESS_GATED, "it is gated: accept its terms at its page")
SECRET = {"name": "hub-token", "key": "token"}
PRIVATE: dict[str, Any] = {"model": {"repository": FACTS.repository, "tokenSecretRef": SECRET}}
VOLUME: dict[str, Any] = {"model": {"persistentVolumeClaim": {"claimName": "models", "path": "qwen/awq"}}}
BY_COMMIT = {"model": {**PRIVATE["model"], "revision": "b" * 40}}


def private_world(**more: Any) -> World:
    return World(hub=FakeHub(problem=GATED), **more).model(**PRIVATE)


def volume_world(modes: tuple[str, ...] = ("ReadWriteMany",), **more: Any) -> World:
    world = World(**more).model(**VOLUME)
    world.api.put(kinds.PERSISTENT_VOLUME_CLAIM, {
        "metadata": {"namespace": "team-a", "name": "models"}, "spec": {"accessModes": list(modes)},
    })  # fmt: skip
    return world


def jobs(world: World) -> list[dict[str, Any]]:
    return world.api.all(kinds.JOB)


def the_job(world: World) -> dict[str, Any]:
    (job,) = jobs(world)
    return job


def job_pod(world: World, name: str = "i-1", created: float = NOW, **status: Any) -> None:
    """A pod of the one Job, as the Job controller makes it."""
    job = the_job(world)
    world.api.put(kinds.POD, {
        "metadata": {
            "namespace": "team-a", "name": name, "creationTimestamp": stamp(created),
            "labels": {**job["spec"]["template"]["metadata"]["labels"], "batch.kubernetes.io/job-name": job["metadata"]["name"]},
            "ownerReferences": [{"kind": "Job", "uid": job["metadata"]["uid"], "controller": True}],
        },
        "spec": {"nodeName": status.pop("node", "n1")},
        "status": {"phase": "Running", **status},
    })  # fmt: skip


def said(message: str, exit_code: int = 0, **more: Any) -> dict[str, Any]:
    end = {"exitCode": exit_code, "message": message, "startedAt": stamp(NOW), "finishedAt": stamp(NOW + 2), **more}
    phase = "Failed" if exit_code else "Succeeded"
    return {"phase": phase, "containerStatuses": [{"name": "inspect", "state": {"terminated": end}}]}


def waits(reason: str, message: str) -> dict[str, Any]:
    waiting = {"reason": reason, "message": message}
    return {"phase": "Pending", "containerStatuses": [{"name": "inspect", "state": {"waiting": waiting}}]}


def unscheduled(message: str) -> dict[str, Any]:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    return {"phase": "Pending", "node": "", "conditions": [condition]}


def ended(world: World, kind: str = "Complete", reason: str = "", message: str = "") -> None:
    job = the_job(world)
    condition = {"type": kind, "status": "True", "reason": reason, "message": message}
    world.api.put(kinds.JOB, {**job, "status": {"conditions": [condition]}})


def answered(world: World, answer: Answer) -> World:
    """From nothing to the answer: the Job is made, runs, and says this."""
    world.settle()
    job_pod(world, **said(answer_text(answer)))
    ended(world)
    world.settle()
    return world


def asked_of(world: World) -> list[str]:
    (container,) = the_job(world)["spec"]["template"]["spec"]["containers"]
    return list(container["args"])


@pytest.mark.parametrize("reason", [Reason.ACCESS_GATED, Reason.REPOSITORY_NOT_FOUND])
def test_what_only_the_models_token_opens_is_asked_by_a_job(reason: Reason) -> None:
    world = World(hub=FakeHub(problem=Refused(reason, "no"))).model(**PRIVATE)
    world.settle()
    assert asked_of(world)[:2] == [f"--repository={FACTS.repository}", "--revision=main"]
    assert world.conditions()["ModelResolved"] == ("Unknown", "Inspecting")
    assert world.conditions()["Stalled"][0] == "False"
    answered(world, FACTS)
    assert world.conditions()["Planned"] == ("True", "Planned")
    assert world.body(QUANTIZED_MODEL)["status"]["modelCommit"] == FACTS.commit


@pytest.mark.parametrize(
    ("problem", "spec"),
    [
        (GATED, {"model": {"repository": FACTS.repository}}),
        (Refused(Reason.REVISION_NOT_FOUND, "no"), PRIVATE),
        (Refused(Reason.UNSUPPORTED_QUANTIZATION, "no"), PRIVATE),
        (Unavailable(Reason.HUB_UNAVAILABLE, "no"), PRIVATE),
    ],
)
def test_what_a_token_does_not_change_is_not_asked(problem: Refused | Waiting, spec: dict[str, Any]) -> None:
    world = World(hub=FakeHub(problem=problem)).model(**spec)
    world.settle()
    assert jobs(world) == [] and world.conditions()["ModelResolved"][1] == problem.reason


def test_what_the_operator_can_read_itself_is_not_asked() -> None:
    world = World().model(**PRIVATE)
    world.settle()
    assert jobs(world) == [] and world.conditions()["Planned"][0] == "True"


def test_a_volume_is_never_asked_of_the_hub_and_its_pods_mount_it() -> None:
    world = answered(volume_world(), replace(FACTS, repository="anything", commit="c" * 40))
    assert world.hub.asked == 0
    template = world.body(kinds.DEPLOYMENT)["spec"]["template"]["spec"]
    assert "initContainers" not in template
    (engine,) = template["containers"]
    assert (
        engine["args"][2] == "/models/model/qwen/awq"
        and engine["args"][engine["args"].index("--served-model-name") + 1] == "awq"
    )
    status = world.body(QUANTIZED_MODEL)["status"]
    assert (status["modelCommit"], status["checkpoint"]) == ("c" * 40, "awq")


def test_a_checkpoint_in_a_volume_keeps_the_models_name() -> None:
    claim = {"claimName": "models", "path": "made/w4a16"}
    world = volume_world().model(quantization={"checkpoint": {"persistentVolumeClaim": claim}})
    answered(world, FACTS)
    assert asked_of(world)[0] == "--folder=/volume/made/w4a16"
    (engine,) = world.body(kinds.DEPLOYMENT)["spec"]["template"]["spec"]["containers"]
    assert engine["args"][engine["args"].index("--served-model-name") + 1] == FACTS.repository


def test_without_an_image_the_setting_is_named() -> None:
    for world in (private_world(inspector=None), volume_world(inspector=None)):
        world.settle()
        assert jobs(world) == []
        assert world.conditions()["Ready"] == ("False", "InspectionFailed")
        assert "inspector.image" in world.message("Ready")


def test_one_job_a_question_whatever_happens() -> None:
    world = private_world()
    world.settle()
    name = the_job(world)["metadata"]["name"]
    world.restart()
    assert world.settle() == []
    job_pod(world)
    assert not [entry for entry in world.settle() if entry[1] == "jobs"]
    assert the_job(world)["metadata"]["name"] == name


def test_a_job_that_the_watch_has_not_brought_yet_is_found() -> None:
    world = private_world()
    world.settle()
    world.restart()
    unseen = the_job(world)
    world.sync = lambda: [world.store.put(k, b) for k in (QUANTIZED_MODEL, kinds.NODE) for b in world.api.all(k)]  # type: ignore[assignment,func-returns-value,return-value]
    world.step()
    assert the_job(world) == unseen and world.conditions()["ModelResolved"] == ("Unknown", "Inspecting")


def test_a_decision_that_was_made_never_asks_again() -> None:
    world = answered(private_world(), FACTS)
    asked = world.hub.asked
    world.api.remove(kinds.JOB, "team-a", the_job(world)["metadata"]["name"])
    world.api.remove(kinds.POD, "team-a", "i-1")
    world.restart()
    assert world.settle() == []
    world.model(**PRIVATE, replicas=2, pod={"labels": {"team": "a"}})
    world.settle()
    assert jobs(world) == [] and world.hub.asked == asked


def test_asked_anew_by_hand_it_is_another_question() -> None:
    world = answered(private_world(), FACTS)
    world.annotate("kubequant.dev/replan", "1")
    world.settle()
    assert len(jobs(world)) == 2
    assert world.conditions()["ModelResolved"] == ("Unknown", "Inspecting")


TOLERATION = {"key": "team", "operator": "Exists"}


def tolerated(world: World) -> bool:
    return TOLERATION in the_job(world)["spec"]["template"]["spec"]["tolerations"]


@pytest.mark.parametrize(
    "status",
    [
        unscheduled("0/3 nodes are available: 3 node(s) had untolerated taint {team: ml}."),
        waits("ImagePullBackOff", "Back-off pulling image: unauthorized"),
        said("", 137),
        said(answer_text(Unavailable(Reason.HUB_UNAVAILABLE, "it is down")), 1),
    ],
    ids=["no node", "no image", "no answer", "no hub"],
)
def test_a_mended_pod_reaches_a_job_that_hangs(status: dict[str, Any]) -> None:
    world = private_world()
    world.settle()
    job_pod(world, **status)
    world.settle()
    world.model(**PRIVATE, pod={"tolerations": [TOLERATION]})
    world.settle()
    assert tolerated(world) and world.conditions()["ModelResolved"] == ("Unknown", "Inspecting")
    assert world.settle() == []


@pytest.mark.parametrize("answer", [FACTS, GATED])
def test_a_mended_pod_asks_no_answered_question_again(answer: Answer) -> None:
    world = answered(private_world(), answer)
    world.model(**PRIVATE, pod={"tolerations": [TOLERATION]})
    world.settle()
    assert not tolerated(world)


def test_a_mended_pod_leaves_a_job_alone_that_runs() -> None:
    world = private_world()
    world.settle()
    job_pod(world)
    world.model(**PRIVATE, pod={"tolerations": [TOLERATION]})
    world.settle()
    assert not tolerated(world)


def test_two_models_have_a_job_each() -> None:
    world = private_world().model("n", **PRIVATE)
    world.step()
    world.step(("team-a", "n"))
    assert len({job["metadata"]["name"] for job in jobs(world)}) == 2


def test_its_pod_is_no_replica_and_no_endpoint() -> None:
    world = private_world()
    world.settle()
    job_pod(world, conditions=[{"type": "Ready", "status": "True"}], podIP="10.0.0.9")
    world.settle()
    assert world.body(QUANTIZED_MODEL)["status"]["replicas"] == 0
    snapshot = world.store.snapshot(KEY)
    assert snapshot is not None and snapshot.pods == () and len(snapshot.job_pods) == len(snapshot.jobs) == 1
    labels = the_job(world)["spec"]["template"]["metadata"]["labels"]
    assert MODEL_LABEL not in labels and labels[JOB_MODEL_LABEL] == "m" and labels[COMPONENT_LABEL] == "inspector"


@pytest.mark.parametrize(
    "reason", [Reason.ACCESS_GATED, Reason.TOKEN_INVALID, Reason.REPOSITORY_NOT_FOUND, Reason.CORRUPT_CHECKPOINT]
)
def test_a_refusal_is_the_models(reason: Reason) -> None:
    world = answered(private_world(), Refused(reason, "visit https://hub.example/a/b"))
    assert world.conditions()["Ready"] == ("False", reason)
    assert world.conditions()["Stalled"][0] == "True"
    for part in (
        "visit https://hub.example/a/b",
        "key token of Secret hub-token",
        the_job(world)["metadata"]["name"],
        "15 minutes",
    ):
        assert part in world.message("ModelResolved")


def test_a_job_that_is_gone_is_asked_anew() -> None:
    """By its time to live, or by hand: after a Secret was mended."""
    world = answered(private_world(), GATED)
    world.api.remove(kinds.JOB, "team-a", the_job(world)["metadata"]["name"])
    world.api.remove(kinds.POD, "team-a", "i-1")
    answered(world, FACTS)
    assert world.conditions()["Planned"] == ("True", "Planned")


def test_a_hub_that_does_not_answer_is_waited_for() -> None:
    world = private_world()
    world.settle()
    job_pod(world, **said(answer_text(Unavailable(Reason.HUB_UNAVAILABLE, "it is down")), exit_code=1))
    world.settle()
    assert world.conditions()["Ready"] == ("False", "HubUnavailable")
    assert world.conditions()["Reconciling"][0] == "True" and world.conditions()["Stalled"][0] == "False"
    job_pod(world, "i-2", NOW + 10, **said(answer_text(FACTS)))
    world.settle()
    assert world.conditions()["Planned"] == ("True", "Planned")


@pytest.mark.parametrize(
    ("status", "reason", "words"),
    [
        (waits("CreateContainerConfigError", 'secret "hub-token" not found'), Reason.CONFIGURATION_MISSING, '"hub-token" not found'),
        (waits("CreateContainerConfigError", "couldn't find key token in Secret team-a/hub-token"), Reason.CONFIGURATION_MISSING,
         "couldn't find key token"),
        (waits("ErrImagePull", "no such host"), Reason.IMAGE_PULL_FAILED, "inspector.image"),
        (waits("ImagePullBackOff", "Back-off pulling image: ErrImagePull: no such host"), Reason.IMAGE_PULL_FAILED, "no such host"),
        (unscheduled("0/3 nodes are available: 3 Insufficient cpu."), Reason.UNSCHEDULABLE, "3 Insufficient cpu"),
        (waits("ContainerCreating", ""), Reason.INSPECTING, "hub-token"),
    ],
)  # fmt: skip
def test_what_its_pod_waits_for_is_said(status: dict[str, Any], reason: Reason, words: str) -> None:
    world = private_world()
    world.settle()
    job_pod(world, **status)
    world.settle()
    assert world.conditions()["ModelResolved"] == ("Unknown", reason)
    assert words in world.message("ModelResolved") and world.conditions()["Stalled"][0] == "False"


def test_a_claim_that_is_not_there_makes_no_job() -> None:
    world = World().model(**VOLUME)
    world.settle()
    assert jobs(world) == [] and world.conditions()["Ready"] == ("False", "ClaimNotFound")
    assert "models" in world.message("Ready") and "team-a" in world.message("Ready")


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ('0/1 nodes are available: persistentvolumeclaim "models" not found.', Reason.CLAIM_NOT_FOUND),
        ("0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims.", Reason.VOLUME_PENDING),
        ("0/1 nodes are available: 1 Insufficient memory.", Reason.UNSCHEDULABLE),
    ],
)
def test_a_claim_that_cannot_be_mounted(message: str, reason: Reason) -> None:
    world = volume_world()
    world.settle()
    job_pod(world, **unscheduled(message))
    world.settle()
    assert world.conditions()["ModelResolved"] == ("Unknown", reason)


def test_a_job_without_a_pod_says_where_to_look() -> None:
    world = private_world()
    world.settle()
    assert f"kubectl describe job {the_job(world)['metadata']['name']}" in world.message("Ready")


@pytest.mark.parametrize("status", [403, 422])
def test_a_job_that_the_server_refuses(status: int) -> None:
    world = private_world()

    def refuse(verb: str, kind: Kind, _name: str) -> ApiError | None:
        refused = verb == "create" and kind == kinds.JOB
        return ApiError(status, "Forbidden", "exceeded quota: jobs=0") if refused else None

    world.api.fail = refuse
    world.step()
    assert world.conditions()["Ready"] == ("False", "ApiError") and "exceeded quota" in world.message("Ready")


def test_a_job_of_our_name_that_is_not_ours_is_left_alone() -> None:
    world = private_world()
    world.settle()
    job = the_job(world)
    job["metadata"]["ownerReferences"] = []
    world.api.put(kinds.JOB, job)
    job_pod(world, **said(answer_text(FACTS)))
    world.settle()
    assert world.conditions()["Ready"] == ("False", "Conflict")
    assert the_job(world)["metadata"]["uid"] == job["metadata"]["uid"]


@pytest.mark.parametrize(
    ("message", "exit_code"),
    [
        ("", 0),
        ("", 137),
        ('exec: "kubequant": executable file not found in $PATH', 128),
        ('{"version": 2, "facts": "x"}', 0),
        ('{"version": 1, "facts": "eJw="}', 0),
        ("x" * 5000, 0),
        ('{"kubequantTermination": 1, "stage": "engine", "reason": "Ready", "message": ""}', 0),
    ],
)
def test_an_end_without_an_answer(message: str, exit_code: int) -> None:
    world = private_world()
    world.settle()
    job_pod(world, **said(message, exit_code))
    if exit_code:
        ended(world, "Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit")
    else:
        ended(world)
    world.settle()
    assert world.conditions()["Ready"] == ("False", "InspectionFailed")
    said_so = world.message("Ready")
    assert "ended without an answer" in said_so and "inspector.image" in said_so and len(said_so) <= 1024


def test_killed_for_memory() -> None:
    world = private_world()
    world.settle()
    job_pod(world, **said("", 137, reason="OOMKilled"))
    ended(world, "Failed", "BackoffLimitExceeded")
    world.settle()
    assert "killed for memory" in world.message("Ready")


def test_evicted_and_tried_again() -> None:
    world = private_world()
    world.settle()
    job_pod(world, phase="Failed", reason="Evicted", message="The node was low on resource: memory.")
    world.settle()
    assert world.conditions()["ModelResolved"] == ("Unknown", "Inspecting")
    job_pod(world, "i-2", NOW + 5, **said(answer_text(FACTS)))
    world.settle()
    assert world.conditions()["Planned"] == ("True", "Planned")


def test_evicted_for_good() -> None:
    world = private_world()
    world.settle()
    job_pod(world, phase="Failed", reason="DeadlineExceeded", message="Pod was active too long")
    ended(world, "Failed", "BackoffLimitExceeded")
    world.settle()
    assert world.conditions()["Ready"] == ("False", "InspectionFailed") and "DeadlineExceeded" in world.message("Ready")


def test_a_watch_of_jobs_that_is_ahead_of_that_of_pods() -> None:
    world = private_world()
    world.settle()
    job_pod(world)
    ended(world)
    world.settle()
    assert world.conditions()["ModelResolved"] == ("Unknown", "Inspecting") and len(jobs(world)) == 1


def test_an_ended_job_whose_pods_were_deleted_makes_room_for_another() -> None:
    world = private_world()
    world.settle()
    ended(world)
    uid = the_job(world)["metadata"]["uid"]
    world.step()
    assert jobs(world) == []
    world.settle()
    assert the_job(world)["metadata"]["uid"] != uid


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"repository": "evil/other"}, "evil/other"),
        ({"repository": "x\n" * 80}, "was asked for"),
        ({"commit": "main"}, "'main' is no commit"),
        ({"commit": ""}, "no commit"),
        ({"commit": "A" * 40}, "no commit"),
        ({"checksums": "nonsense"}, "no checksum"),
    ],
)
def test_an_answer_that_cannot_be_believed(changes: dict[str, str], words: str) -> None:
    """Written as JSON by hand: who forges does not use our writer."""
    forged = replace(FACTS, **changes)  # type: ignore[arg-type]
    world = answered(private_world(), forged)
    assert world.conditions()["Ready"] == ("False", "InspectionFailed")
    assert words in world.message("Ready") or "no answer of this version" in world.message("Ready")
    assert world.api.all(kinds.CONTROLLER_REVISION) == []


def test_another_commit_than_the_one_asked_for() -> None:
    world = answered(World(hub=FakeHub(problem=GATED)).model(**BY_COMMIT), replace(FACTS, commit="a" * 40))
    assert "was asked for " + "b" * 40 in world.message("Ready")


def test_a_pod_that_another_made_with_our_labels_is_not_heard() -> None:
    world = private_world()
    world.settle()
    job_pod(world, **said(answer_text(FACTS)))
    pod = world.api.all(kinds.POD)[0]
    pod["metadata"]["ownerReferences"] = []
    world.api.put(kinds.POD, pod)
    world.settle()
    assert world.conditions()["ModelResolved"] == ("Unknown", "Inspecting")


@pytest.mark.parametrize(
    ("modes", "noted"),
    [(("ReadWriteOnce",), True), (("ReadWriteOncePod",), True), (("ReadOnlyMany",), False), (("ReadWriteOnce", "ReadWriteMany"), False)],
)  # fmt: skip
def test_a_claim_of_one_node_is_noted(modes: tuple[str, ...], noted: bool) -> None:
    world = answered(volume_world(modes), FACTS)
    assert world.conditions()["Planned"] == ("True", "Planned")
    assert any("one node mounts it" in note for note in notes_kept(world)) is noted


def test_forged_notes_garble_no_terminal() -> None:
    world = answered(private_world(), replace(FACTS, notes=("\x1b[31mred",)))
    assert world.conditions()["Ready"] == ("False", "InspectionFailed") and world.message("Ready").isprintable()


def test_many_notes_are_bounded() -> None:
    world = answered(private_world(), replace(FACTS, notes=tuple(f"note {number}" for number in range(40))))
    assert len(notes_kept(world)) == 8


def notes_kept(world: World) -> tuple[str, ...]:
    (revision,) = world.api.all(kinds.CONTROLLER_REVISION)
    return unpacked_facts(revision["data"]["facts"]).notes


class TestInTurn:
    """Each inspector asks the Hub for itself, and all may be behind one address or token."""

    def world(
        self, count: int, *, age: float = 1.0, runs: bool = False, together: bool = False, owned: bool = True
    ) -> World:
        """One model more than `count`, whose Jobs were made `age` seconds ago: each in a namespace of its own, or `together`."""
        world = private_world()
        for number in range(count):
            name = f"o{number}"
            world.model(name, **PRIVATE)
            uid = world.body(QUANTIZED_MODEL, name)["metadata"]["uid"] if owned else "of-nobody"
            namespace = "team-a" if together else f"other-{number}"
            owner = Owner("kubequant.dev/v1alpha1", "QuantizedModel", namespace, name, uid)
            job = build_job(owner, f"{name}-inspect", "inspector", {"template": {"spec": {}}})
            job["metadata"]["creationTimestamp"] = stamp(NOW - age)
            uid = world.api.put(kinds.JOB, job)["metadata"]["uid"]
            world.api.put(kinds.POD, {
                "metadata": {
                    "namespace": namespace, "name": f"{name}-inspect-x", "labels": {JOB_MODEL_LABEL: name},
                    "ownerReferences": [{"kind": "Job", "uid": uid, "controller": True}],
                },
                "status": {"phase": "Running" if runs else "Pending"},
            })  # fmt: skip
        return world

    def made(self, world: World) -> bool:
        return any(job["metadata"]["name"].startswith("m-inspect") for job in jobs(world))

    @pytest.mark.parametrize(("age", "runs"), [(1.0, False), (1.0, True), (START_SECONDS, True)])
    def test_no_more_run_than_may_at_once(self, age: float, runs: bool) -> None:
        world = self.world(AT_ONCE, age=age, runs=runs)
        world.settle()
        assert not self.made(world)
        assert world.conditions()["ModelResolved"] == ("Unknown", "Inspecting")
        assert "waits for its turn: at most 16 inspectors run at once, and 4 of a namespace" in world.message("Ready")
        assert world.conditions()["Stalled"][0] == "False"
        assert world.settle() == []
        again = world.step().requeue_after_seconds
        assert again is not None and 2 <= again <= 22, "no event of another model's Job is this one's"

    def test_one_fewer_leaves_room(self) -> None:
        world = self.world(AT_ONCE - 1)
        world.settle()
        assert self.made(world)

    def test_what_has_ended_leaves_room(self) -> None:
        world = self.world(AT_ONCE)
        world.settle()
        job = next(job for job in jobs(world) if job["metadata"]["name"] == "o3-inspect")
        condition = {"type": "Failed", "status": "True", "reason": "PodFailurePolicy"}
        world.api.put(kinds.JOB, {**job, "status": {"conditions": [condition]}})
        world.settle()
        assert self.made(world)

    def test_one_namespace_keeps_no_other_waiting(self) -> None:
        world = self.world(AT_ONCE_IN_A_NAMESPACE, together=True)
        world.settle()
        assert not self.made(world)
        world = self.world(AT_ONCE_IN_A_NAMESPACE - 1, together=True)
        world.settle()
        assert self.made(world)

    def test_jobs_that_no_model_owns_do_not_count(self) -> None:
        """Whoever may create Jobs can write our labels on them."""
        world = self.world(AT_ONCE, owned=False)
        world.settle()
        assert self.made(world)

    def test_what_reads_for_minutes_hangs_and_does_not_count(self) -> None:
        world = self.world(AT_ONCE, age=READ_SECONDS + 1, runs=True)
        world.settle()
        assert self.made(world)

    def test_what_hangs_keeps_nobody_waiting(self) -> None:
        world = self.world(3 * AT_ONCE, age=START_SECONDS, runs=False)
        world.settle()
        assert self.made(world)

    def test_jobs_for_other_purposes_do_not_count(self) -> None:
        world = self.world(AT_ONCE, runs=True)
        for job in jobs(world):
            job["metadata"]["labels"][COMPONENT_LABEL] = "model-cache"
            world.api.put(kinds.JOB, job)
        world.settle()
        assert self.made(world)

    def test_a_job_that_is_there_already_never_waits(self) -> None:
        world = private_world()
        world.settle()
        job_pod(world, **said(answer_text(FACTS)))
        for other in self.world(AT_ONCE, runs=True).api.all(kinds.JOB):
            world.api.put(kinds.JOB, other)
        world.settle()
        assert world.conditions()["Planned"] == ("True", "Planned")

    def test_many_at_the_same_moment_are_not_more(self) -> None:
        world = private_world()
        names = [f"p{number}" for number in range(3 * AT_ONCE)]
        for name in names:
            world.model(name, **PRIVATE)
        world.sync()
        create = world.api.create
        most = 0

        async def slow(kind: Kind, body: dict[str, Any]) -> dict[str, Any]:
            nonlocal most
            most += 1
            await asyncio.sleep(0.01)
            body["metadata"]["creationTimestamp"] = stamp(NOW)
            return await create(kind, body)

        world.api.create = slow  # type: ignore[method-assign]
        deciding = world._parts[1]

        async def asked(name: str) -> Waiting | Refused:
            snapshot = world.store.snapshot(("team-a", name))
            assert snapshot is not None
            spec = QuantizedModelSpec.model_validate(snapshot.model.spec)
            with pytest.raises((Waiting, Refused)) as caught:
                await deciding._inspecting.facts(snapshot, owner_of(snapshot.model), spec, source_of(spec))
            return caught.value

        async def all_at_once() -> list[Waiting | Refused]:
            return await asyncio.gather(*(asked(name) for name in names))

        told = asyncio.run(all_at_once())
        assert most == AT_ONCE == len(jobs(world))
        assert sum("waits for its turn" in one.message for one in told) == 2 * AT_ONCE

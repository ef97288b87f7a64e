"""Pure decisions: hashes of inputs, which revision is wanted, what a pod's state means, how pods are replaced."""

from __future__ import annotations

from typing import Any

import pytest

from kubequant.api.conditions import Reason
from kubequant.api.spec import QuantizedModelSpec, RolloutStrategy
from kubequant.manifests.children import Replacement
from kubequant.reconcile.decision import failure_of, last_ready, same_plan, superfluous, wanted
from kubequant.reconcile.diagnosis import PERMANENT, RESTARTS_TO_GIVE_UP, Finding, diagnose, worst
from kubequant.reconcile.inputs import RepositorySource, inputs_hash, intent_of, pod_hash, source_of
from kubequant.reconcile.records import DeploymentRecord, PodRecord, RevisionRecord, pod_record
from kubequant.reconcile.rollout import observe, refusal_of, replacement, seconds_to_patience
from tests.unit.reconcile.making import NOW, pod_body, running, stamp

SPEC: dict[str, Any] = {"model": {"repository": "a/b"}, "serving": {"contextTokens": 8192}, "replicas": 1}


@pytest.mark.parametrize(
    "change", [{"replicas": 9}, {"pod": {"labels": {}}}, {"rollout": {"strategy": "Surge"}}, {"mode": "Plan"}, {"x": 1}]
)
def test_what_is_no_planning_input_changes_no_hash(change: dict[str, Any]) -> None:
    assert inputs_hash({**SPEC, **change}, "") == inputs_hash(SPEC, "")


@pytest.mark.parametrize(
    "change",
    [
        {"model": {"repository": "a/c"}},
        {"serving": {"contextTokens": 4096}},
        {"gpu": {"perReplica": 2}},
        {"quantization": {"scheme": "FP8"}},
    ],
)
def test_planning_inputs_change_the_hash(change: dict[str, Any]) -> None:
    assert inputs_hash({**SPEC, **change}, "") != inputs_hash(SPEC, "")
    assert pod_hash({**SPEC, **change}) == pod_hash(SPEC)


def test_asking_for_a_new_plan_changes_the_hash() -> None:
    assert inputs_hash(SPEC, "1") != inputs_hash(SPEC, "")


def test_an_empty_pod_is_no_pod() -> None:
    assert pod_hash({**SPEC, "pod": {}}) == pod_hash(SPEC) != pod_hash({**SPEC, "pod": {"labels": {"a": "b"}}})


def test_defaults_are_filled_in_for_planning() -> None:
    intent = intent_of(QuantizedModelSpec.model_validate({"model": {"repository": "a/b"}}))
    assert (intent.scheme, intent.concurrent_requests, intent.context_tokens) == ("Auto", 16, None)
    gpu = {"minMemory": "40Gi", "reservedMemory": "1500M", "minComputeCapability": "8.9"}
    intent = intent_of(QuantizedModelSpec.model_validate({"model": {"repository": "a/b"}, "gpu": gpu}))
    assert (intent.min_memory_bytes, intent.reserved_memory_bytes) == (40 * 2**30, 1_500_000_000)
    assert str(intent.min_compute_capability) == "8.9"


def test_a_checkpoint_named_is_what_is_served() -> None:
    spec = {"model": {"repository": "a/b", "revision": "v1"}}
    assert source_of(QuantizedModelSpec.model_validate(spec)) == RepositorySource("a/b", "v1")
    spec["quantization"] = {"checkpoint": {"repository": "c/d"}}  # type: ignore[dict-item]
    assert source_of(QuantizedModelSpec.model_validate(spec)) == RepositorySource("c/d", "main")


def revision(number: int, *, inputs: str = "i", pod: str = "p", outcome: str = "") -> RevisionRecord:
    return RevisionRecord("ns", f"m-{number}", f"u-{number}", "m", "owner", number, inputs, pod, outcome, "")


def test_the_newest_of_exactly_these_inputs_is_wanted() -> None:
    revisions = [revision(1), revision(2), revision(3, pod="q"), revision(4, inputs="j")]
    assert wanted(revisions, ("i", "p")) == revisions[1]
    assert same_plan(revisions, "i") == revisions[2]
    assert wanted(revisions, ("k", "p")) is None is same_plan(revisions, "k")


def test_the_last_good_one() -> None:
    revisions = [revision(1, outcome="Ready"), revision(2, outcome="Ready"), revision(3, outcome="Failed: A: b")]
    assert last_ready(revisions) == revisions[1]
    assert last_ready(revisions, besides="m-2") == revisions[0]
    assert last_ready(revisions[2:]) is None


@pytest.mark.parametrize(
    ("outcome", "failure"),
    [
        ("", None), ("Ready", None), ("Failed: DiskFull: it is: full", ("DiskFull", "it is: full")),
        ("Failed", ("", "")), ("nonsense", None),
    ],
)  # fmt: skip
def test_a_verdict_is_read_as_it_was_written(outcome: str, failure: tuple[str, str] | None) -> None:
    assert failure_of(revision(1, outcome=outcome)) == failure


def test_the_oldest_go_and_the_needed_stay() -> None:
    revisions = [revision(number) for number in range(1, 9)]
    assert [r.number for r in superfluous(revisions, set())] == [1, 2, 3]
    assert [r.number for r in superfluous(revisions, {"m-1", "m-3"})] == [2, 4, 5]
    assert superfluous(revisions[:5], set()) == []
    assert superfluous(revisions, {r.name for r in revisions}) == []


def told(reason: str, stage: str = "engine") -> str:
    return f'{{"kubequantTermination": 1, "stage": "{stage}", "reason": "{reason}", "message": "told"}}'


def ended(code: int, message: str = "", reason: str = "Error", restarts: int = 1, ran: float = 5) -> dict[str, Any]:
    times = {"startedAt": stamp(NOW - ran), "finishedAt": stamp(NOW)}
    end = {"exitCode": code, "reason": reason, "message": message, **times}
    return {
        "restartCount": restarts,
        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": end},
    }


def waiting(reason: str) -> dict[str, Any]:
    return {"state": {"waiting": {"reason": reason, "message": "because"}}}


BUDGET = 100
DIAGNOSES: dict[str, tuple[dict[str, Any], Reason, bool, bool]] = {  # pod, reason, failed, permanent
    "nothing known yet": ({}, Reason.STARTING, False, False),
    "no room": ({"scheduled": False}, Reason.UNSCHEDULABLE, True, False),
    "evicted": (
        {"phase": "Failed", "reason": "Evicted", "message": "The node was low on memory"},
        Reason.ENGINE_FAILED, True, False,
    ),
    "evicted for its disk": (
        {"phase": "Failed", "reason": "Evicted", "message": "Usage of EmptyDir volume exceeds the limit: emptyDir"},
        Reason.DISK_FULL, True, False,
    ),
    "image": ({"engine": waiting("ImagePullBackOff")}, Reason.IMAGE_PULL_FAILED, True, False),
    "image of the download": ({"download": waiting("ErrImagePull")}, Reason.IMAGE_PULL_FAILED, True, False),
    "image name": ({"engine": waiting("InvalidImageName")}, Reason.IMAGE_PULL_FAILED, True, True),
    "no Secret": ({"download": waiting("CreateContainerConfigError")}, Reason.CONFIGURATION_MISSING, True, False),
    "downloading": ({"download": running()}, Reason.DOWNLOADING, False, False),
    "download failed": ({"download": ended(1)}, Reason.DOWNLOAD_FAILED, True, False),
    "download failed often": ({"download": ended(1, restarts=3)}, Reason.DOWNLOAD_FAILED, True, True),
    "download denied": ({"download": ended(1, told("DownloadAccessDenied", "download"))}, Reason.DOWNLOAD_ACCESS_DENIED, True, True),
    "download killed midway": ({"download": ended(137, told("Downloading", "download"))}, Reason.DOWNLOAD_FAILED, True, False),
    "loading": ({"engine": running(NOW - 50)}, Reason.LOADING, False, False),
    "loading at the very end": ({"engine": running(NOW - BUDGET - 10)}, Reason.LOADING, False, False),
    "too late": ({"engine": running(NOW - BUDGET - 11)}, Reason.START_TIMEOUT, True, True),
    "ended by its startup probe": ({"engine": ended(137, ran=BUDGET + 60)}, Reason.START_TIMEOUT, True, True),
    "told to end after a day": ({"engine": ended(143, ran=86_400)}, Reason.ENGINE_FAILED, True, False),
    "silent after a day": ({"engine": running(NOW - 86_400, started=True)}, Reason.ENGINE_FAILED, True, False),
    "told to end early on": ({"engine": ended(137)}, Reason.ENGINE_FAILED, True, False),
    "told to end early on, often": ({"engine": ended(143, restarts=3)}, Reason.ENGINE_FAILED, True, True),
    "ended without a word": ({"engine": ended(1)}, Reason.ENGINE_FAILED, True, False),
    "ended without a word, often": ({"engine": ended(1, restarts=3)}, Reason.ENGINE_FAILED, True, True),
    "killed for memory": ({"engine": ended(137, reason="OOMKilled")}, Reason.CONTAINER_OUT_OF_MEMORY, True, True),
    "killed for memory with a word left": (
        {"engine": ended(137, told("EngineFailed"), reason="OOMKilled")}, Reason.CONTAINER_OUT_OF_MEMORY, True, True,
    ),
    "a word of another version": (
        {"engine": ended(1, '{"kubequantTermination": 2}')}, Reason.ENGINE_FAILED, True, False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DIAGNOSES)
def test_diagnosis(name: str) -> None:
    body, reason, failed, permanent = DIAGNOSES[name]
    finding = diagnose(pod_record(pod_body(**body)), BUDGET, NOW)
    assert (finding.reason, finding.failed, finding.permanent) == (reason, failed, permanent)
    assert finding.message


@pytest.mark.parametrize("reason", sorted(PERMANENT - {Reason.START_TIMEOUT, Reason.CONTAINER_OUT_OF_MEMORY}))
def test_what_the_engine_says_itself_is_believed(reason: Reason) -> None:
    finding = diagnose(pod_record(pod_body(engine=ended(1, told(reason)))), BUDGET, NOW)
    assert finding == Finding(reason, "told", failed=True, permanent=True)


@pytest.mark.parametrize("reason", [Reason.ENGINE_FAILED, Reason.WORKER_KILLED])
def test_what_may_pass_is_tried_three_times(reason: Reason) -> None:
    for restarts in range(RESTARTS_TO_GIVE_UP + 1):
        finding = diagnose(pod_record(pod_body(engine=ended(1, told(reason), restarts=restarts))), BUDGET, NOW)
        assert finding.reason == reason
        assert finding.permanent == (restarts >= RESTARTS_TO_GIVE_UP)


@pytest.mark.parametrize("name", DIAGNOSES)
def test_a_message_does_not_change_with_the_time_or_the_restarts(name: str) -> None:
    """Each change is a write of status, which wakes the model up again."""
    body = DIAGNOSES[name][0]
    first = diagnose(pod_record(pod_body(**body)), BUDGET, NOW)
    later = diagnose(pod_record(pod_body(**body)), BUDGET, NOW + 20)
    if first.reason == later.reason:
        assert first.message == later.message


def test_the_worst_is_told() -> None:
    progress, failed = Finding(Reason.LOADING, "l", failed=False), Finding(Reason.ENGINE_FAILED, "f")
    permanent = Finding(Reason.DISK_FULL, "d", permanent=True)
    assert worst([progress, failed, permanent]) is permanent
    assert worst([progress, failed]) is failed
    assert worst([]) is None


def deployed(target: str = "r1", *, in_place: bool = False, failure: str = "") -> DeploymentRecord:
    return DeploymentRecord("ns", "m", "m", "u", target, in_place, failure)


def pod(revision: str = "r2", **more: Any) -> PodRecord:
    return pod_record(pod_body(revision=revision, **more))


OLD, STUCK = pod("r1", ready=True), pod(scheduled=False, created=NOW - 60)
SURGE, IN_PLACE = Replacement.SURGE, Replacement.IN_PLACE
REPLACEMENTS: dict[str, tuple[RolloutStrategy, DeploymentRecord | None, list[PodRecord], int, Replacement]] = {
    "the first rollout": (RolloutStrategy.AUTO, None, [], 0, SURGE),
    "a GPU looks free": (RolloutStrategy.AUTO, deployed(), [OLD], 2, SURGE),
    "no GPU looks free": (RolloutStrategy.AUTO, deployed(), [OLD], 1, IN_PLACE),
    "nothing serves": (RolloutStrategy.AUTO, deployed(), [pod("r1", engine=ended(1))], 9, IN_PLACE),
    "under way with a surge": (RolloutStrategy.AUTO, deployed("r2"), [OLD], 0, SURGE),
    "under way in place": (RolloutStrategy.AUTO, deployed("r2", in_place=True), [OLD], 9, IN_PLACE),
    "a surge pod waits": (
        RolloutStrategy.AUTO,
        deployed("r2"),
        [OLD, pod(scheduled=False, created=NOW - 59)],
        0,
        SURGE,
    ),
    "a surge pod has waited": (RolloutStrategy.AUTO, deployed("r2"), [OLD, STUCK], 0, IN_PLACE),
    "none of the old ones is left": (RolloutStrategy.AUTO, deployed("r2"), [STUCK], 0, SURGE),
    "a quota": (RolloutStrategy.AUTO, deployed("r2", failure="exceeded quota: gpus"), [OLD], 0, IN_PLACE),
    "another refusal": (RolloutStrategy.AUTO, deployed("r2", failure="denied"), [OLD], 0, SURGE),
    "asked for surge": (RolloutStrategy.SURGE, deployed("r2"), [OLD, STUCK], 0, SURGE),
    "asked for in place": (RolloutStrategy.IN_PLACE, None, [], 9, IN_PLACE),
}


@pytest.mark.parametrize("name", REPLACEMENTS)
def test_replacement(name: str) -> None:
    strategy, deployment, pods, free, expected = REPLACEMENTS[name]
    assert replacement(strategy, deployment, "r2", pods, lambda: free >= 2, NOW) is expected


def test_patience_has_a_date() -> None:
    waiting_pod = pod(scheduled=False, created=NOW - 20)
    assert seconds_to_patience([OLD, waiting_pod], "r2", NOW) == 40
    assert seconds_to_patience([waiting_pod], "r2", NOW) is None
    assert seconds_to_patience([OLD], "r2", NOW) is None
    assert seconds_to_patience([OLD, STUCK], "r2", NOW) == 0


def test_ready_is_said_of_the_wanted_revision_alone() -> None:
    new = pod("r2", ready=True)
    assert not observe([OLD], deployed(), "r2", 1, BUDGET, NOW).is_complete
    assert not observe([OLD, new], deployed(), "r2", 1, BUDGET, NOW).is_complete
    assert observe([new], deployed(), "r2", 1, BUDGET, NOW).is_complete
    assert not observe([new], deployed(failure="x"), "r2", 1, BUDGET, NOW).is_complete
    assert not observe([new], deployed(), "r2", 2, BUDGET, NOW).is_complete


@pytest.mark.parametrize(
    ("failure", "reason"),
    [("pods is forbidden: exceeded quota: q", Reason.QUOTA_EXCEEDED), ("violates PodSecurity", Reason.POD_REFUSED)],
)
def test_what_keeps_pods_from_being_made(failure: str, reason: Reason) -> None:
    finding = refusal_of(failure)
    assert finding and finding.reason is reason and failure in finding.message
    assert refusal_of("") is None

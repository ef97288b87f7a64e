"""The eight conditions in each situation, read as kstatus reads them; and when status and Events are written."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from kubequant.api.conditions import ConditionType, Reason
from kubequant.api.status import QuantizedModelStatus
from kubequant.cluster.api import ApiError
from kubequant.cluster.events import EventRecorder
from kubequant.errors import Conflict, Refused, Waiting
from kubequant.reconcile.decision import Decision
from kubequant.reconcile.diagnosis import Finding
from kubequant.reconcile.kinds import QUANTIZED_MODEL
from kubequant.reconcile.records import Transition, model_record
from kubequant.reconcile.rollout import Rollout
from kubequant.reconcile.status import MESSAGE_LIMIT, Known, build_status, with_times
from kubequant.reconcile.status_writer import StatusWriter
from tests.unit.fakes import FakeClock, FakeKubeApi
from tests.unit.manifests.making import OWNER, RECIPE
from tests.unit.reconcile.making import model_body

PLAN = {"scheme": "W4A16", "gpusPerReplica": 1, "gpuProduct": "L4", "contextTokens": 8192, "kvCacheTokens": 100}
DECISION = Decision("i", "p", "a/b", "c0ffee", "", PLAN, RECIPE, {})
LOADING = Finding(Reason.LOADING, "loading", failed=False)
BROKEN = Finding(Reason.ENGINE_FAILED, "broken")
DOOMED = Finding(Reason.KV_CACHE_TOO_SMALL, "doomed", permanent=True)


def rollout(
    wanted: int = 1, update: int = 0, other: int = 0, finding: Finding | None = None, failure: str = ""
) -> Rollout:
    return Rollout(wanted, update, other, finding, None, failure)


FIRST = Known(OWNER, 3, False, None, "", "")
ROLLING = replace(FIRST, decision=DECISION, update_revision="r2", current_revision="r1", promised_tokens=100)
REFUSED = Refused(Reason.DOES_NOT_FIT, "it does not fit")
MISSING = Refused(Reason.REPOSITORY_NOT_FOUND, "no such thing")
AWAY = Waiting(Reason.HUB_UNAVAILABLE, "it is away")


def known(base: Known = ROLLING, **changes: Any) -> Known:
    return replace(base, **changes)


# ModelResolved, Planned, CheckpointReady, Available, WithinPlan, Ready, Reconciling, Stalled: T, F, U; then Ready's reason.
SITUATIONS: dict[str, tuple[Known, str, str, str]] = {
    "seen for the first time": (FIRST, "UUUFUFTF", "Progressing", "InProgress"),
    "the Hub is away": (known(FIRST, problem=AWAY, undecided=True), "UUUFUFTF", "HubUnavailable", "InProgress"),
    "no such repository": (known(FIRST, problem=MISSING, undecided=True), "FUUFUFFT", "RepositoryNotFound", "Failed"),
    "does not fit": (
        known(FIRST, problem=REFUSED, undecided=True, resolved=True), "TFUFUFFT", "DoesNotFit", "Failed",
    ),
    "no pod yet": (known(rollout=rollout()), "TTTFUFTF", "Starting", "InProgress"),
    "loading": (known(rollout=rollout(finding=LOADING)), "TTTFUFTF", "Loading", "InProgress"),
    "an engine fails": (known(rollout=rollout(finding=BROKEN)), "TTTFUFTF", "EngineFailed", "InProgress"),
    "an engine is doomed": (known(rollout=rollout(finding=DOOMED)), "TTTFUFFT", "KvCacheTooSmall", "Failed"),
    "a quota": (known(rollout=rollout(failure="exceeded quota")), "TTTFUFTF", "QuotaExceeded", "InProgress"),
    "half of them": (known(rollout=rollout(2, 1, finding=LOADING)), "TTTTUFTF", "Progressing", "InProgress"),
    "another revision serves": (known(rollout=rollout(1, 0, 1, LOADING)), "TTTTUFTF", "Progressing", "InProgress"),
    "ready": (known(rollout=rollout(1, 1)), "TTTTUTFF", "Ready", "Current"),
    "ready and measured": (known(rollout=rollout(1, 1), measured_tokens=100), "TTTTTTFF", "Ready", "Current"),
    "ready and below the plan": (known(rollout=rollout(1, 1), measured_tokens=99), "TTTTFTFF", "Ready", "Current"),
    "scaled to zero": (known(rollout=rollout(0)), "TTTFUTFF", "ScaledToZero", "Current"),
    "rolled back": (
        known(rollout=rollout(1, 1), failure=("DiskFull", "full")), "TTTTUFFT", "RolledBack", "Failed",
    ),
    "rolled back, measured by its own plan": (
        known(rollout=rollout(1, 1), failure=("DiskFull", "full"), promised_tokens=50, measured_tokens=60),
        "TTTTTFFT", "RolledBack", "Failed",
    ),
    "a refused change": (
        known(rollout=rollout(1, 1), problem=REFUSED, undecided=True, resolved=True), "TFTTUFFT", "DoesNotFit", "Failed",
    ),
    "a change that cannot be looked up": (
        known(rollout=rollout(1, 1), problem=AWAY, undecided=True), "UUTTUFTF", "HubUnavailable", "InProgress",
    ),
    "a conflict": (
        known(rollout=rollout(1, 1), problem=Conflict(Reason.CONFLICT, "theirs")), "TTTTUFFT", "Conflict", "Failed",
    ),
    "the API server refuses": (
        known(rollout=rollout(), problem=Waiting(Reason.API_ERROR, "no")), "TTTFUFTF", "ApiError", "InProgress",
    ),
    "plan only": (known(plan_mode=True), "TTTFUFFF", "PlanOnly", "InProgress"),
}  # fmt: skip


def kstatus(status: dict[str, Any], generation: int) -> str:
    """As cli-utils pkg/kstatus/status/generic.go decides."""
    if status.get("observedGeneration") != generation:
        return "InProgress"
    found = {condition["type"]: condition["status"] for condition in status["conditions"]}
    if found.get("Reconciling") == "True":
        return "InProgress"
    if found.get("Stalled") == "True":
        return "Failed"
    return "Current" if found.get("Ready") == "True" else "InProgress"


@pytest.mark.parametrize("name", SITUATIONS)
def test_conditions(name: str) -> None:
    situation, expected, reason, overall = SITUATIONS[name]
    status = build_status(situation)
    assert [condition["type"] for condition in status["conditions"]] == list(ConditionType)
    assert "".join(condition["status"][0] for condition in status["conditions"]) == expected
    assert next(c["reason"] for c in status["conditions"] if c["type"] == "Ready") == reason
    assert kstatus(status, 3) == overall


@pytest.mark.parametrize("name", SITUATIONS)
def test_every_status_is_what_the_kind_allows(name: str) -> None:
    status = with_times(build_status(SITUATIONS[name][0]), {}, "2026-01-01T00:00:00Z")
    QuantizedModelStatus.model_validate(status)
    for condition in status["conditions"]:
        assert condition["reason"] in set(Reason)
        assert len(condition["message"]) <= MESSAGE_LIMIT
        assert condition["observedGeneration"] == 3


def test_a_long_message_is_cut_and_says_so() -> None:
    status = build_status(known(FIRST, problem=Refused(Reason.DOES_NOT_FIT, "x" * 5000), resolved=True))
    message = next(c["message"] for c in status["conditions"] if c["type"] == "Ready")
    assert len(message) == MESSAGE_LIMIT and message.endswith("…")


FOUND = {
    "base": "meta/base",
    "considered": 3,
    "candidates": [{"repository": "a/b", "verdict": "Chosen"}],
}


def conditions_of(situation: Known) -> dict[str, dict[str, Any]]:
    return {condition["type"]: condition for condition in build_status(situation)["conditions"]}


def test_a_found_checkpoint_says_for_which_model() -> None:
    situation = known(decision=replace(DECISION, discovery=FOUND))
    ready = conditions_of(situation)["CheckpointReady"]
    assert (ready["status"], ready["reason"]) == ("True", "Found")
    assert ready["message"].startswith("a/b at commit c0ffee was found for meta/base")
    assert "2 others looked at" in ready["message"]
    assert build_status(situation)["discovery"] == FOUND


def test_the_model_itself_is_not_called_found() -> None:
    ready = conditions_of(known(decision=replace(DECISION, discovery={**FOUND, "base": "a/b"})))["CheckpointReady"]
    assert (ready["reason"], ready["message"]) == ("Existing", "a/b is served as it is stored")


def test_a_branch_that_moved_is_said_and_changes_nothing_else() -> None:
    situation = known(decision=replace(DECISION, revision="main"), rollout=rollout(1, 1), newer_commit="f" * 40)
    resolved = conditions_of(situation)["ModelResolved"]
    assert (resolved["status"], resolved["reason"]) == ("True", "RevisionMoved")
    assert f"a/b at commit c0ffee; main names {'f' * 40} now" in resolved["message"]
    assert "kubequant.dev/replan" in resolved["message"]
    assert build_status(situation)["newerCommit"] == "f" * 40
    assert conditions_of(situation)["Ready"]["status"] == "True"


def test_the_time_moves_only_with_the_status() -> None:
    status = build_status(SITUATIONS["ready"][0])
    before = {"Ready": Transition("True", "Other", "then"), "Planned": Transition("False", "Planned", "then")}
    times = {c["type"]: c["lastTransitionTime"] for c in with_times(status, before, "now")["conditions"]}
    assert (times["Ready"], times["Planned"], times["Available"]) == ("then", "now", "now")


class Writing:
    """A StatusWriter over a fake API server that holds one model."""

    def __init__(self) -> None:
        self.api, self.clock = FakeKubeApi(), FakeClock()
        self.api.put(QUANTIZED_MODEL, {**model_body(OWNER.name)})
        self.recorder = EventRecorder(self.api, "c", "i")
        self.writer = StatusWriter(self.api, self.recorder, self.clock)
        self.record = model_record(self.api.all(QUANTIZED_MODEL)[0])

    def watch(self) -> None:
        self.record = model_record(self.api.all(QUANTIZED_MODEL)[0])

    def write(self, situation: str) -> int:
        """How many statuses were written."""
        before = self.statuses()
        asyncio.run(self._write(situation))
        return self.statuses() - before

    async def _write(self, situation: str) -> None:
        await self.writer.write(self.record, OWNER, SITUATIONS[situation][0])
        await self.recorder.flush()

    def statuses(self) -> int:
        return sum(verb == "apply" for verb, _, _ in self.api.requests)

    def events(self) -> list[tuple[str, str]]:
        return [
            (body["type"], body["reason"]) for (plural, _, _), body in self.api.objects.items() if plural == "events"
        ]


def test_an_equal_status_is_never_written() -> None:
    here = Writing()
    assert here.write("loading") == 1
    assert here.write("loading") == 0, "the watch has not brought it yet"
    here.watch()
    assert here.write("loading") == 0
    here.writer = StatusWriter(here.api, EventRecorder(here.api, "c", "i"), here.clock)
    assert here.write("loading") == 0, "after a restart"


def test_there_and_back_again_before_the_watch_tells() -> None:
    here = Writing()
    here.write("loading")
    here.watch()
    assert here.write("ready") == 1
    assert here.write("loading") == 1
    here.watch()
    assert here.write("loading") == 0


def test_a_status_edited_by_hand_is_mended_after_a_while() -> None:
    here = Writing()
    here.write("ready")
    body = here.api.all(QUANTIZED_MODEL)[0]
    body["status"]["conditions"][5]["reason"] = "Nonsense"
    here.api.put(QUANTIZED_MODEL, body)
    here.watch()
    assert here.write("ready") == 0
    here.clock.now += 31
    assert here.write("ready") == 1


def test_the_time_of_a_condition_survives_another_s_change() -> None:
    here = Writing()
    here.write("loading")
    here.clock.now += 100
    here.watch()
    here.write("ready")
    conditions = {c["type"]: c for c in here.api.all(QUANTIZED_MODEL)[0]["status"]["conditions"]}
    assert conditions["Planned"]["lastTransitionTime"] < conditions["Ready"]["lastTransitionTime"]


def test_events_tell_of_transitions_and_nothing_twice() -> None:
    here = Writing()
    here.write("loading")
    here.write("an engine is doomed")
    here.write("ready")
    assert here.events() == [
        ("Normal", "Planned"), ("Normal", "Loading"), ("Warning", "KvCacheTooSmall"), ("Normal", "Ready"),
    ]  # fmt: skip


@pytest.mark.parametrize("status", [404, 409])
def test_a_model_that_is_gone_needs_no_status(status: int) -> None:
    here = Writing()
    here.api.fail = lambda verb, *_: ApiError(status, "Gone", "") if verb == "apply" else None
    here.write("ready")
    assert here.events() == []


def test_a_status_that_could_not_be_written_is_tried_again() -> None:
    here = Writing()
    here.api.fail = lambda verb, *_: ApiError(503, "Busy", "") if verb == "apply" else None
    with pytest.raises(ApiError):
        here.write("ready")
    here.api.fail = lambda *_: None
    assert here.write("ready") == 1

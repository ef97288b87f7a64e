"""The status of a QuantizedModel as a pure function of what is known. Status decides nothing.

The conditions follow each other (ModelResolved, Planned, CheckpointReady, Available, WithinPlan); Ready, Reconciling and
Stalled summarise them as kstatus reads them: Stalled means that waiting does not help.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from kubequant.api.conditions import ConditionType, Reason
from kubequant.errors import Conflict, KubeQuantError, Refused, Waiting
from kubequant.manifests.children import endpoint_of
from kubequant.manifests.names import Owner, selector_text
from kubequant.reconcile.decision import Decision
from kubequant.reconcile.diagnosis import Finding
from kubequant.reconcile.downloads import Progress
from kubequant.reconcile.inputs import DEFAULT_REVISION
from kubequant.reconcile.records import Transition
from kubequant.reconcile.rollout import Rollout, refusal_of

MESSAGE_LIMIT = 1024
GIB = 2**30
TRUE, FALSE, UNKNOWN = "True", "False", "Unknown"


@dataclass(frozen=True)
class Known:
    """What one reconcile found out.

    `decision` is the one for the spec as written, or, where `undecided`, the one that is rolled out and stays meanwhile
    (`problem` then says why). `refused_plan` and `refused_discovery` are the parts of status that a refusal has. `failure` is the verdict on
    `update_revision` where the last Ready revision is applied instead.
    """

    owner: Owner
    generation: int
    plan_mode: bool
    decision: Decision | None
    update_revision: str
    current_revision: str
    problem: KubeQuantError | None = None
    undecided: bool = False  # whether `problem` keeps the spec as written from being decided
    resolved: bool = False  # whether the Hub had an answer before `problem` came up
    refused_plan: Mapping[str, Any] | None = None
    refused_discovery: Mapping[str, Any] | None = None
    rollout: Rollout | None = None
    fallback_revision: str = ""  # what is applied in its place
    failure: tuple[str, str] | None = None  # verdict of the update revision, when it was rolled back
    progress: Progress | None = None  # of the download that is waited for
    measured_tokens: int | None = None
    promised_tokens: int | None = None  # by the plan of what is applied, which after a rollback is not `decision`
    total_replicas: int = 0
    newer_commit: str | None = None  # what the branch or tag names now, where that is no longer the pinned commit


@dataclass(frozen=True)
class Verdict:
    """One condition."""

    status: str
    reason: str
    message: str


def build_status(known: Known) -> dict[str, Any]:
    """Everything but the times of transitions."""
    decision, rollout = known.decision, known.rollout
    status: dict[str, Any] = {
        "observedGeneration": known.generation,
        "conditions": [
            {
                "type": type_.value,
                "status": verdict.status,
                "reason": verdict.reason,
                "message": _bounded(verdict.message),
                "observedGeneration": known.generation,
            }
            for type_, verdict in conditions(known).items()
        ],
        "selector": selector_text(known.owner),
        "replicas": known.total_replicas,
        "readyReplicas": (rollout.ready_update + rollout.ready_other) if rollout else 0,
    }
    if rollout:
        status["endpoint"] = endpoint_of(known.owner)
    if known.update_revision:
        status["updateRevision"] = known.update_revision
    if known.current_revision:
        status["currentRevision"] = known.current_revision
    if decision:
        status |= {"modelCommit": decision.commit, "checkpoint": decision.repository, "plan": decision.plan}
    elif known.refused_plan:
        status["plan"] = dict(known.refused_plan)
    discovery = decision.discovery if decision else known.refused_discovery
    if discovery:
        status["discovery"] = dict(discovery)
    if known.newer_commit:
        status["newerCommit"] = known.newer_commit
    if known.progress:
        done, total = known.progress.downloaded_bytes, known.progress.total_bytes
        status["progress"] = {"downloadedBytes": done, "totalBytes": total}
    if known.measured_tokens is not None:
        status["measured"] = {"kvCacheTokens": known.measured_tokens}
    return status


def conditions(known: Known) -> dict[ConditionType, Verdict]:
    """All known types, in their order."""
    verdicts = {
        ConditionType.MODEL_RESOLVED: _model_resolved(known),
        ConditionType.PLANNED: _planned(known),
        ConditionType.CHECKPOINT_READY: _checkpoint_ready(known),
        ConditionType.AVAILABLE: _available(known),
        ConditionType.WITHIN_PLAN: _within_plan(known),
    }
    ready = _ready(known, verdicts[ConditionType.AVAILABLE])
    stalled = _stalled(known, ready)
    verdicts[ConditionType.READY] = ready
    verdicts[ConditionType.RECONCILING] = _reconciling(known, ready, stalled)
    verdicts[ConditionType.STALLED] = stalled
    return verdicts


def with_times(status: dict[str, Any], before: Mapping[str, Transition], now: str) -> dict[str, Any]:
    """`lastTransitionTime` moves only when a condition's status does."""

    def time_of(condition: Mapping[str, Any]) -> str:
        last = before.get(condition["type"])
        return last.time if last and last.status == condition["status"] and last.time else now

    timed = [{**condition, "lastTransitionTime": time_of(condition)} for condition in status["conditions"]]
    return {**status, "conditions": timed}


def _model_resolved(known: Known) -> Verdict:
    if known.decision and not known.undecided:
        pinned = f"{known.decision.repository} at commit {known.decision.commit}"
        if known.newer_commit:
            return Verdict(
                TRUE, Reason.REVISION_MOVED, f"{pinned}; {_moved(known.decision.revision, known.newer_commit)}"
            )
        return Verdict(TRUE, Reason.RESOLVED, pinned)
    if known.resolved or known.problem is None or isinstance(known.problem, Conflict):
        return Verdict(TRUE if known.resolved else UNKNOWN, *_pending(known.resolved))
    status = FALSE if isinstance(known.problem, Refused) else UNKNOWN
    return Verdict(status, known.problem.reason, known.problem.message)


def _moved(revision: str, newer: str) -> str:
    return (
        f"{revision} names {newer} now. What is pinned is served; set the annotation kubequant.dev/replan to any new value to "
        "plan with the newer one."
    )


def _pending(resolved: bool) -> tuple[str, str]:
    return (Reason.RESOLVED, "the model's facts are known") if resolved else (Reason.PENDING, "not looked at yet")


def _planned(known: Known) -> Verdict:
    if known.decision and not known.undecided:
        return Verdict(TRUE, Reason.PLANNED, _plan_sentence(known.decision.plan))
    if known.undecided and known.resolved and isinstance(known.problem, Refused):
        return Verdict(FALSE, known.problem.reason, known.problem.message)
    if known.undecided and known.resolved and known.problem:
        return Verdict(UNKNOWN, known.problem.reason, known.problem.message)
    return Verdict(UNKNOWN, Reason.PENDING, "the model's facts are not known yet")


def _plan_sentence(plan: Mapping[str, Any]) -> str:
    made = " (predicted: it is to be made)" if plan.get("predicted") else ""
    return (
        f"{plan.get('scheme')}{made} on {plan.get('gpusPerReplica')} x {plan.get('gpuProduct')} a replica: "
        f"{plan.get('contextTokens')} tokens of context, at least {plan.get('kvCacheTokens')} tokens of "
        f"{plan.get('kvCacheDtype')} KV cache"
    )


def no_checkpoint(decision: Decision) -> str:
    """What keeps a plan from being served whose checkpoint does not exist."""
    scheme, repository = decision.plan.get("scheme"), decision.repository
    return (
        f"the plan needs a {scheme} checkpoint of {repository}, and {_none_found(decision)}: name one in "
        "quantization.checkpoint, or ask for quantization.scheme: Unquantized on larger GPUs. This release makes none."
    )


def _none_found(decision: Decision) -> str:
    if decision.discovery is None:
        pinned = decision.recipe.claim is None and decision.revision != DEFAULT_REVISION
        return "none is named" + (" (they are looked for only where model.revision is main)" if pinned else "")
    considered = decision.discovery.get("considered", 0)
    if not considered:
        return "discovery found none (looked for again every hour)"
    return f"none of the {considered} that discovery looked at will do (status.discovery says why; looked for again every hour)"


def _checkpoint_ready(known: Known) -> Verdict:
    if known.decision and known.decision.is_predicted:
        return Verdict(FALSE, Reason.NO_CHECKPOINT, no_checkpoint(known.decision))
    if known.decision and known.decision.found_for:
        return Verdict(TRUE, Reason.FOUND, _found_sentence(known.decision))
    if known.decision:
        return Verdict(TRUE, Reason.EXISTING, f"{known.decision.repository} is served as it is stored")
    return Verdict(UNKNOWN, Reason.PENDING, "there is no plan yet")


def _found_sentence(decision: Decision) -> str:
    others = (decision.discovery or {}).get("considered", 1) - 1
    beside = f"; {others} other{'s' if others > 1 else ''} looked at, see status.discovery" if others > 0 else ""
    return f"{decision.repository} at commit {decision.commit} was found for {decision.found_for} and checked against it{beside}"


def _available(known: Known) -> Verdict:
    rollout = known.rollout
    if known.plan_mode and rollout is None:
        return Verdict(FALSE, Reason.PLAN_ONLY, "spec.mode is Plan: nothing is rolled out")
    if rollout is None:
        return Verdict(FALSE, Reason.PENDING, "nothing is rolled out yet")
    ready, wanted = rollout.ready_update + rollout.ready_other, rollout.wanted_replicas
    if wanted == 0 and ready == 0:
        return Verdict(FALSE, Reason.SCALED_TO_ZERO, "spec.replicas is 0")
    if ready >= wanted:
        return Verdict(TRUE, Reason.ALL_REPLICAS_READY, f"{ready} of {wanted} replicas are ready")
    finding = _with_progress(_trouble(rollout), known.progress)
    if ready:
        detail = f"; {finding.message}" if finding and finding.failed else ""
        return Verdict(TRUE, Reason.SOME_REPLICAS_READY, f"{ready} of {wanted} replicas are ready{detail}")
    if finding:
        return Verdict(FALSE, finding.reason, finding.message)
    return Verdict(FALSE, Reason.STARTING, f"0 of {wanted} replicas are ready")


def _with_progress(finding: Finding | None, progress: Progress | None) -> Finding | None:
    if finding is None or progress is None or finding.reason is not Reason.DOWNLOADING:
        return finding
    done, total = progress.downloaded_bytes / GIB, progress.total_bytes / GIB
    return replace(finding, message=f"{finding.message}: {done:.1f} of {total:.1f} GiB")


def _trouble(rollout: Rollout) -> Finding | None:
    return refusal_of(rollout.deployment_failure) or rollout.finding or rollout.other_finding


def _within_plan(known: Known) -> Verdict:
    promised = known.promised_tokens
    if known.measured_tokens is None or promised is None:
        return Verdict(UNKNOWN, Reason.NOT_MEASURED, "the running engine has not been asked yet, or did not answer")
    numbers = f"the engine has room for {known.measured_tokens} tokens of KV cache, {promised} were promised"
    if known.measured_tokens >= promised:
        return Verdict(TRUE, Reason.WITHIN_PLAN, numbers)
    advice = "Fewer requests run side by side than planned; raise gpu.reservedMemory by what else uses the card, or report it."
    return Verdict(FALSE, Reason.BELOW_PLAN, f"{numbers}. {advice}")


def _ready(known: Known, available: Verdict) -> Verdict:
    if known.problem:
        return Verdict(FALSE, known.problem.reason, known.problem.message)
    if known.failure:
        reason, message = known.failure
        back = known.fallback_revision
        serves = f"{back} serves" if known.current_revision == back else f"{back} is being brought back"
        text = f"revision {known.update_revision} failed ({reason}: {message}); {serves}. "
        return Verdict(FALSE, Reason.ROLLED_BACK, text + "Change the spec, or set the annotation kubequant.dev/replan.")
    if known.plan_mode:
        return Verdict(
            FALSE, Reason.PLAN_ONLY, "spec.mode is Plan: the plan stands in status.plan, nothing new is rolled out"
        )
    rollout = known.rollout
    if rollout is None:
        return Verdict(FALSE, Reason.PROGRESSING, "being rolled out")
    if rollout.is_complete:
        if rollout.wanted_replicas == 0:
            return Verdict(TRUE, Reason.SCALED_TO_ZERO, "spec.replicas is 0, as asked")
        return Verdict(
            TRUE,
            Reason.READY,
            f"{rollout.ready_update} of {rollout.wanted_replicas} replicas serve {known.update_revision}",
        )
    finding = refusal_of(rollout.deployment_failure) or rollout.finding
    if finding and finding.failed:
        return Verdict(FALSE, finding.reason, finding.message)
    if rollout.ready_other:
        done = f"{rollout.ready_update} of {rollout.wanted_replicas} replicas serve {known.update_revision}"
        return Verdict(FALSE, Reason.PROGRESSING, f"{done}, {rollout.ready_other} still serve another revision")
    if available.status == TRUE:
        return Verdict(FALSE, Reason.PROGRESSING, available.message)
    return Verdict(FALSE, available.reason, available.message)


def _stalled(known: Known, ready: Verdict) -> Verdict:
    rollout = known.rollout
    finding = (refusal_of(rollout.deployment_failure) or rollout.finding) if rollout else None
    doomed = (
        isinstance(known.problem, Refused | Conflict)
        or known.failure is not None
        or (ready.status == FALSE and finding is not None and finding.permanent)
    )
    if doomed:
        return Verdict(TRUE, ready.reason, ready.message)
    return Verdict(FALSE, Reason.PROGRESSING if ready.status == FALSE else Reason.READY, "")


def _reconciling(known: Known, ready: Verdict, stalled: Verdict) -> Verdict:
    done = ready.status == TRUE or stalled.status == TRUE or (known.plan_mode and known.problem is None)
    if done:
        return Verdict(FALSE, ready.reason, "")
    passing = known.problem if isinstance(known.problem, Waiting) else None
    return Verdict(TRUE, ready.reason if passing else Reason.PROGRESSING, ready.message)


def _bounded(message: str) -> str:
    return message if len(message) <= MESSAGE_LIMIT else message[: MESSAGE_LIMIT - 1] + "…"

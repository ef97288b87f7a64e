"""What a pod is doing, or what is wrong with it: a chain of small rules, each of which gives a finding or nothing.

The first rule that speaks decides; the order goes from the outside (scheduling, image) to the inside (the engine).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kubequant.api.conditions import Reason
from kubequant.manifests.pod import TERMINATION_GRACE_SECONDS
from kubequant.planning.engines.termination import parse_termination
from kubequant.reconcile.records import ContainerState, PodRecord

RESTARTS_TO_GIVE_UP = 3
PROBE_PERIOD_SECONDS = 10  # the kubelet may notice a start-up that succeeded one period late
# Exit codes of a process that was told to end: by SIGTERM (as 0 from the launcher, or 143) or by SIGKILL.
TOLD_TO_END = frozenset({0, 137, 143})

# Trying the same again cannot help: the inputs must change.
PERMANENT = frozenset(
    {
        Reason.GPU_OUT_OF_MEMORY,
        Reason.KV_CACHE_TOO_SMALL,
        Reason.ENGINE_ARGUMENT_REFUSED,
        Reason.CHECKPOINT_REFUSED,
        Reason.CORRUPT_CHECKPOINT,
        Reason.MODEL_NOT_FOUND,
        Reason.CONTAINER_OUT_OF_MEMORY,
        Reason.DOWNLOAD_ACCESS_DENIED,
        Reason.CHECKSUM_MISMATCH,
        Reason.DISK_FULL,
        Reason.START_TIMEOUT,
    }
)
_PULL_FAILURES = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"})
_CONFIG_FAILURES = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})


@dataclass(frozen=True)
class Finding:
    """`failed` tells a failure from progress; `permanent` whether waiting can help."""

    reason: Reason
    message: str
    failed: bool = True
    permanent: bool = False


Rule = Callable[[PodRecord, int, float], Finding | None]


def diagnose(pod: PodRecord, start_budget_seconds: int, now: float) -> Finding:
    """The finding of one pod that is not ready. `now` is seconds since the epoch, as the pod's own times are."""
    for rule in _RULES:
        finding = rule(pod, start_budget_seconds, now)
        if finding:
            return finding
    return Finding(Reason.STARTING, "the pod is being started", failed=False)


def worst(findings: Sequence[Finding]) -> Finding | None:
    """What one sentence should tell of several pods: a permanent failure, else a failure, else progress."""
    return max(findings, key=lambda finding: (finding.permanent, finding.failed), default=None)


def _unscheduled(pod: PodRecord, _budget: int, _now: float) -> Finding | None:
    if pod.scheduled or not pod.scheduling_message:
        return None
    wanted = f"{pod.gpus} x {pod.gpu_product}" if pod.gpus else "a node"
    message = f"no node has room for pod {pod.name} ({wanted}): {pod.scheduling_message.rstrip('.')}. "
    return Finding(
        Reason.UNSCHEDULABLE, message + "Free a GPU of this product, or add a node; the pod starts by itself then."
    )


def _ended_as_a_whole(pod: PodRecord, _budget: int, _now: float) -> Finding | None:
    if pod.phase != "Failed" or not pod.reason:
        return None
    reason = Reason.DISK_FULL if "ephemeral" in pod.message or "emptyDir" in pod.message else Reason.ENGINE_FAILED
    return Finding(reason, f"pod {pod.name} was ended ({pod.reason}): {pod.message}")


def _image(pod: PodRecord, _budget: int, _now: float) -> Finding | None:
    for container in (pod.download, pod.engine):
        if container.waiting_reason in _PULL_FAILURES:
            # The kubelet alternates between ErrImagePull and ImagePullBackOff; the cause within is the same.
            cause = container.waiting_message.rpartition("ErrImagePull: ")[2].rstrip(".") or container.waiting_reason
            advice = "Check the image in the operator's configuration, spec.pod.imagePullSecrets and the registry."
            return Finding(
                Reason.IMAGE_PULL_FAILED,
                f"the engine's image cannot be pulled: {cause}. {advice}",
                permanent=container.waiting_reason == "InvalidImageName",
            )
    return None


def _configuration(pod: PodRecord, _budget: int, _now: float) -> Finding | None:
    for container in (pod.download, pod.engine):
        if container.waiting_reason in _CONFIG_FAILURES:
            message = f"the container cannot be created ({container.waiting_reason}): {container.waiting_message}. "
            return Finding(
                Reason.CONFIGURATION_MISSING, message + "Create what it names; the pod starts by itself then."
            )
    return None


def _download(pod: PodRecord, _budget: int, _now: float) -> Finding | None:
    container = pod.download
    if container.exit_code:
        return _ended(container, pod, "the download", Reason.DOWNLOAD_FAILED)
    if container.running_since is not None:
        return Finding(Reason.DOWNLOADING, "the checkpoint is being downloaded", failed=False)
    return None


def _engine_ended(pod: PodRecord, budget: int, _now: float) -> Finding | None:
    container = pod.engine
    if container.exit_code is None:
        return None
    told = container.exit_code in TOLD_TO_END and container.exit_reason != "OOMKilled"
    if told and not parse_termination(container.exit_message):
        if budget <= container.ran_seconds <= budget + TERMINATION_GRACE_SECONDS + PROBE_PERIOD_SECONDS:
            message = f"the engine did not become ready within {budget} s and was ended by its startup probe"
            return Finding(Reason.START_TIMEOUT, _with_advice(message), permanent=True)
        message = f"the engine was told to end (exit code {container.exit_code}) in pod {pod.name} and starts again"
        permanent = container.restarts >= RESTARTS_TO_GIVE_UP
        return Finding(Reason.ENGINE_FAILED, f"{message}; its liveness probe may have failed.", permanent=permanent)
    return _ended(container, pod, "the engine", Reason.ENGINE_FAILED)


def _engine_late(pod: PodRecord, budget: int, now: float) -> Finding | None:
    since = pod.engine.running_since
    if since is None or pod.engine.started or now - since <= budget + PROBE_PERIOD_SECONDS:
        return None
    message = f"the engine did not become ready within {budget} s"
    return Finding(Reason.START_TIMEOUT, _with_advice(message), permanent=True)


def _engine_silent(pod: PodRecord, _budget: int, _now: float) -> Finding | None:
    if not pod.engine.started:
        return None
    message = f"the engine in pod {pod.name} runs and does not answer its readiness probe"
    return Finding(Reason.ENGINE_FAILED, f"{message}; if that lasts, its liveness probe starts it again.")


def _engine_loading(pod: PodRecord, budget: int, _now: float) -> Finding | None:
    if pod.engine.running_since is None:
        return None
    return Finding(Reason.LOADING, f"the engine is loading the model (it may take {budget} s)", failed=False)


def _ended(container: ContainerState, pod: PodRecord, what: str, otherwise: Reason) -> Finding:
    """A container that ended in failure, by its own word where it left one."""
    if container.exit_reason == "OOMKilled":
        message = (
            f"{what} was killed for memory (exit code {container.exit_code}) in pod {pod.name}: it needs more than its "
            "limit, or than the node had free. Raise spec.pod.resources.memory."
        )
        return Finding(Reason.CONTAINER_OUT_OF_MEMORY, message, permanent=True)
    told = parse_termination(container.exit_message)
    if told:
        permanent = told.reason in PERMANENT or container.restarts >= RESTARTS_TO_GIVE_UP
        reason = otherwise if told.reason == Reason.DOWNLOADING else told.reason  # it was killed in mid-download
        return Finding(reason, told.message, permanent=permanent)
    message = f"{what} ended with exit code {container.exit_code} in pod {pod.name} and left no cause"
    return Finding(otherwise, f"{message}; see its log.", permanent=container.restarts >= RESTARTS_TO_GIVE_UP)


def _with_advice(message: str) -> str:
    return (
        f"{message}. Where the disk is slow, lower engine.loadFloorBytesPerSecond in the operator's configuration; "
        "where the engine is, raise engine.startAllowanceSeconds."
    )


_RULES: tuple[Rule, ...] = (
    _unscheduled,
    _ended_as_a_whole,
    _image,
    _configuration,
    _download,
    _engine_ended,
    _engine_late,
    _engine_silent,
    _engine_loading,
)

"""What is said of an inspector's Job: why it cannot be made, why it has no answer yet or never will, and with what it asked."""

from __future__ import annotations

from collections.abc import Sequence

from kubequant.api.conditions import Reason
from kubequant.errors import Refused, Waiting
from kubequant.manifests.inspector import TTL_SECONDS, FolderSubject, RepositorySubject, Subject
from kubequant.planning.inspection import printable
from kubequant.reconcile.inputs import Source, VolumeSource
from kubequant.reconcile.job_records import JobPodRecord, JobRecord

_PULL_FAILURES = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"})
_CONFIG_FAILURES = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})


def no_image(source: Source) -> Refused:
    what = (
        f"the PersistentVolumeClaim {source.claim}"
        if isinstance(source, VolumeSource)
        else f"{source.repository} with the model's token"
    )
    return Refused(
        Reason.INSPECTION_FAILED,
        f"only a Job in the model's namespace may read {what}, and the operator has no image for it: set inspector.image "
        "in the operator's configuration to the operator's own image.",
    )


def unanswered(job: JobRecord, pods: Sequence[JobPodRecord], subject: Subject) -> Waiting | Refused:
    """Why there is no answer: passing while the Job goes on, by its last pod's word; refused once it has ended."""
    last = pods[-1] if pods else None
    if job.has_ended and all(_is_over(pod) for pod in pods):  # the watch of Jobs may be ahead of that of pods
        cause = _cause_of(last) if last else ""
        failure = f" ({printable(job.failure)})" if job.failure else ""
        return Refused(
            Reason.INSPECTION_FAILED,
            f"Job {job.name}, which reads {_said(subject)}, ended without an answer{failure}{cause}.{_again(job)}",
        )
    if last is None:
        message = (
            f"Job {job.name} is to read {_said(subject)} and has no pod yet. Where that lasts, kubectl describe job "
            f"{job.name} says why: a ResourceQuota, Pod Security or a webhook that refuses it."
        )
        return Waiting(Reason.INSPECTING, message)
    return _held_up(last, subject) or Waiting(
        Reason.INSPECTING, f"Job {job.name} reads {_said(subject)}; it ends within minutes"
    )


def _held_up(pod: JobPodRecord, subject: Subject) -> Waiting | None:
    """What a pod waits for that somebody must mend."""
    waiting, word = printable(pod.container.waiting_message), pod.container.waiting_reason
    if not pod.scheduled and pod.scheduling_message:
        return _unscheduled(pod, subject)
    if word in _PULL_FAILURES:
        cause = waiting.rpartition("ErrImagePull: ")[2].rstrip(".") or word
        return Waiting(
            Reason.IMAGE_PULL_FAILED,
            f"the inspector's image cannot be pulled: {cause}. Check inspector.image in the operator's configuration, "
            "spec.pod.imagePullSecrets and the registry.",
        )
    if word in _CONFIG_FAILURES:
        return Waiting(
            Reason.CONFIGURATION_MISSING,
            f"the inspector of {_said(subject)} cannot be started ({word}): {waiting}. Create what it names; the model "
            "goes on by itself then.",
        )
    return None


def _unscheduled(pod: JobPodRecord, subject: Subject) -> Waiting:
    said = printable(pod.scheduling_message).rstrip(".")
    if isinstance(subject, FolderSubject) and "persistentvolumeclaim" in said.lower():
        if "not found" in said or "being deleted" in said:
            return Waiting(
                Reason.CLAIM_NOT_FOUND,
                f"the PersistentVolumeClaim {subject.claim} cannot be used: {said}. Create it; the model goes on by itself then.",
            )
        return Waiting(
            Reason.VOLUME_PENDING,
            f"the PersistentVolumeClaim {subject.claim} is not bound to a volume: {said}. Provide a volume for it, or mend "
            "its class; the model goes on by itself then.",
        )
    return Waiting(
        Reason.UNSCHEDULABLE,
        f"no node has room for the inspector (pod {pod.name}: 0.1 CPU, 256 MiB of memory): {said}. Free some, or let "
        "spec.pod.tolerations allow the nodes there are.",
    )


def _cause_of(pod: JobPodRecord) -> str:
    """What is known of the last pod of a Job that failed."""
    end = pod.container
    if end.exit_reason == "OOMKilled":
        return ": it was killed for memory, of which it may have 1 GiB. Please report the model"
    if end.ended and end.exit_message:
        return (
            f": it left {printable(end.exit_message)[:200]!r} and exit code {end.exit_code}, which is no answer of this "
            "version. inspector.image must be the operator's own image, of the same version"
        )
    if end.ended:
        return f": it left nothing but exit code {end.exit_code}. inspector.image must be the operator's own image"
    return f": its pod was ended ({printable(pod.reason)}: {printable(pod.message)})" if pod.reason else ""


def told(answer: Refused | Waiting, subject: Subject, job: JobRecord) -> Refused | Waiting:
    """The answer with what it was asked with, and when it is asked again: a mended Secret or volume brings no event."""
    asked = ""
    if isinstance(subject, RepositorySubject):
        asked = f" (Asked with key {subject.key} of Secret {subject.secret}.)"
    if isinstance(answer, Waiting):
        return Waiting(answer.reason, answer.message + asked)
    return Refused(answer.reason, answer.message + asked + _again(job))


def _again(job: JobRecord) -> str:
    return f" Job {job.name} asks again {TTL_SECONDS // 60} minutes after its end, or as soon as you delete it."


def _is_over(pod: JobPodRecord) -> bool:
    return pod.container.ended or pod.phase in ("Succeeded", "Failed")


def _said(subject: Subject) -> str:
    if isinstance(subject, FolderSubject):
        return f"PersistentVolumeClaim {subject.claim}" + (f", folder {subject.path}" if subject.path else "")
    return f"{subject.repository} with Secret {subject.secret}"

"""Facts of what the operator may not read: a Job in the model's namespace describes it, and its answer is checked here.

The algorithm, level-triggered: the Job of this question (its name is a digest of the question) is made where there is
none; while it runs, the model waits and says for what; once it has ended, the last answer of its pods counts, until the
Job's time to live deletes it and the question is asked anew. A Job that hangs, and would be made with another pod by now,
makes room for that. At most AT_ONCE run at a time. A decision that was made keeps the facts, and never asks.

Each model has a Job of its own, also where two ask for the same: another Secret may open something else, and whoever may
write one model must not learn by it what another one's Secret opens.

**What a forged answer gains.** Whoever may write pods or their status in the model's namespace can answer in the
inspector's place. The text is bounded and printable, the reason is one of a short list, the facts are checked for shape, and for
a repository and commit that were asked for. What is left to lie about is the size and layout of that one model: a plan
that is too large or too small for it, on GPUs that its namespace may ask for anyway, of pods that its author could have
written directly. No other model reads the answer, and nothing of it reaches a shell, a path or another namespace.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from kubequant.api.conditions import Reason
from kubequant.api.spec import Pod, QuantizedModelSpec
from kubequant.cluster import kinds
from kubequant.cluster.api import ApiError, Body, KubeApi
from kubequant.errors import Refused, Waiting
from kubequant.manifests.inspector import (
    COMPONENT,
    FolderSubject,
    InspectorSettings,
    RepositorySubject,
    Subject,
    build_authorities,
    build_inspector,
    inspector_name,
)
from kubequant.manifests.names import Owner
from kubequant.planning.inspection import Answer, printable, read_answer
from kubequant.planning.values import ModelFacts
from kubequant.reconcile.children import Children, check_control
from kubequant.reconcile.inputs import RepositorySource, Source, VolumeSource
from kubequant.reconcile.inspection_words import no_image, told, unanswered
from kubequant.reconcile.job_records import JobPodRecord, JobRecord, is_outdated, job_record
from kubequant.reconcile.store import Snapshot, Store

AGAIN_SECONDS = 2.0
AT_ONCE = 16  # Jobs that have not ended, in the whole cluster
AT_ONCE_IN_A_NAMESPACE = 4  # one tenant must not keep the others waiting
TURN_SECONDS = 10.0  # about as long as one takes
START_SECONDS = 120.0  # within which a pod runs, or hangs
READ_SECONDS = 180.0  # within which it has read, or hangs: a volume whose server is gone
MAX_NOTES = 8

_COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
_CHECKSUMS = re.compile(r"([0-9a-f]{64})?")


class Inspecting:
    """Asks by Job. Without `settings` there is no image to ask with, and every question is refused.

    `clock` gives seconds since the epoch.
    """

    def __init__(
        self,
        *,
        api: KubeApi,
        store: Store,
        children: Children,
        settings: InspectorSettings | None,
        clock: Callable[[], float],
    ) -> None:
        self._api = api
        self._store = store
        self._children = children
        self._settings = settings
        self._clock = clock
        self._being_made = 0

    async def facts(self, snapshot: Snapshot, owner: Owner, spec: QuantizedModelSpec, source: Source) -> ModelFacts:
        """The facts of `source`, a repository that the model's own token opens or a folder of a claim.

        Raises Waiting while they are not known yet, Refused, Conflict and ApiError.
        """
        if self._settings is None:
            raise no_image(source)
        subject = subject_of(spec, source)
        claim = await self._claim(owner, subject)
        name = inspector_name(owner, subject, snapshot.model.replan)
        manifest = build_inspector(owner, name, subject, self._settings, spec.pod or Pod())
        job = self._store.job((owner.namespace, name))
        if job is None:
            job = await self._in_turn(self._settings, manifest, owner)
        elif job.owner_uid != owner.uid:
            job = await self._existing(owner, name)
        pods = self._store.job_pods(job)
        answer = _last_answer(pods)
        if job.has_ended and not pods:
            raise await self._asked_anew(job, f"the pods of Job {job.name} are gone, and its answer with them")
        if not isinstance(answer, ModelFacts | Refused) and is_outdated(job, pods, manifest):
            raise await self._asked_anew(job, f"Job {job.name} waits with another pod than spec.pod asks for now")
        if answer is None:
            raise unanswered(job, pods, subject)
        if isinstance(answer, ModelFacts):
            return _with_notes(_checked(answer, source, job), claim)
        raise told(answer, subject, job)

    async def _claim(self, owner: Owner, subject: Subject) -> Body | None:
        """The user's claim, read before a pod waits for it. Users' claims are not watched, so it is polled."""
        if not isinstance(subject, FolderSubject):
            return None
        claim = await self._api.get(kinds.PERSISTENT_VOLUME_CLAIM, owner.namespace, subject.claim)
        if claim is None:
            raise Waiting(
                Reason.CLAIM_NOT_FOUND,
                f"there is no PersistentVolumeClaim {subject.claim} in namespace {owner.namespace}. Create it, or correct "
                "persistentVolumeClaim.claimName; the model goes on by itself then.",
            )
        return claim

    async def _in_turn(self, settings: InspectorSettings, manifest: Body, owner: Owner) -> JobRecord:
        """The Job, made where not too many are under way: each asks the Hub for itself, and knows nothing of the others."""
        under_way = [job for job in self._store.jobs_of(COMPONENT) if self._is_under_way(job)]
        here = sum(job.namespace == owner.namespace for job in under_way)
        if self._being_made + len(under_way) >= AT_ONCE or here >= AT_ONCE_IN_A_NAMESPACE:
            raise Waiting(
                Reason.INSPECTING,
                f"Job {manifest['metadata']['name']} waits for its turn: at most {AT_ONCE} inspectors run at once, and "
                f"{AT_ONCE_IN_A_NAMESPACE} of a namespace",
                AGAIN_SECONDS + random.uniform(0, 2 * TURN_SECONDS),  # noqa: S311 - jitter, no secret
            )
        self._being_made += 1
        try:
            authorities = build_authorities(owner, settings)
            if authorities:
                await self._children.ensure(kinds.CONFIG_MAP, owner, authorities)
            return await self._made(manifest, owner)
        finally:
            self._being_made -= 1

    def _is_under_way(self, job: JobRecord) -> bool:
        """Whether it asks the Hub or is about to. One that hangs, for want of a node or a Secret, must not keep others waiting."""
        age = self._clock() - job.created
        if job.has_ended or age > READ_SECONDS or not self._store.has_model(job.owner_uid):
            return False
        return age < START_SECONDS or any(pod.phase == "Running" for pod in self._store.job_pods(job))

    async def _made(self, manifest: Body, owner: Owner) -> JobRecord:
        """The Job, created; or the one that a reconcile before this one created and no watch has brought yet."""
        name = manifest["metadata"]["name"]
        try:
            body = await self._api.create(kinds.JOB, manifest)
        except ApiError as error:
            if not error.is_conflict:
                raise
            return await self._existing(owner, name)
        self._store.put(kinds.JOB, body)
        return job_record(body)

    async def _existing(self, owner: Owner, name: str) -> JobRecord:
        """The Job of this name as it is now. Raises Conflict where it is not this model's."""
        live = await self._api.get(kinds.JOB, owner.namespace, name)
        if live is None:
            raise Waiting(Reason.INSPECTING, f"Job {name} is being removed", AGAIN_SECONDS)
        check_control(kinds.JOB, live, owner)
        self._store.put(kinds.JOB, live)
        return job_record(live)

    async def _asked_anew(self, job: JobRecord, why: str) -> Waiting:
        """A Job that will have no answer makes room for another."""
        await self._api.delete(kinds.JOB, job.namespace, job.name, uid=job.uid)
        return Waiting(Reason.INSPECTING, f"{why}: it is made again", AGAIN_SECONDS)


def subject_of(spec: QuantizedModelSpec, source: Source) -> Subject:
    """What is asked. A repository needs the model's token: without one the operator can read as much as anybody."""
    if isinstance(source, VolumeSource):
        return FolderSubject(source.claim, source.path)
    secret = spec.model.token_secret_ref
    assert secret is not None, "only what the model's own token opens is inspected"
    return RepositorySubject(source.repository, source.revision, secret.name, secret.key)


def _last_answer(pods: Sequence[JobPodRecord]) -> Answer | None:
    """Of the newest pod that left one; the tries before it did not bring a better one."""
    for pod in reversed(pods):
        try:
            if pod.container.ended and pod.container.exit_message:
                return read_answer(pod.container.exit_message)
        except ValueError:
            continue
    return None


def _checked(facts: ModelFacts, source: Source, job: JobRecord) -> ModelFacts:
    """The facts of what was asked for, or Refused. A folder's are called by what the spec calls it."""
    wrong = _contradiction(facts, source)
    if wrong:
        raise Refused(
            Reason.INSPECTION_FAILED,
            f"the answer of Job {job.name} cannot be believed: {wrong}. Delete the Job, and it is asked again.",
        )
    if isinstance(source, VolumeSource):
        return replace(facts, repository=source.name, download_bytes=0, checksums="", predicted=False)
    return replace(facts, predicted=False)


def _contradiction(facts: ModelFacts, source: Source) -> str:
    if not _COMMIT.fullmatch(facts.commit):
        return f"{printable(facts.commit)[:80]!r} is no commit"
    if not _CHECKSUMS.fullmatch(facts.checksums):
        return f"{printable(facts.checksums)[:80]!r} is no checksum"
    if isinstance(source, RepositorySource):
        if facts.repository != source.repository:
            return f"it tells of {printable(facts.repository)[:200]!r} and was asked for {source.repository}"
        if _COMMIT.fullmatch(source.revision) and facts.commit != source.revision:
            return f"it tells of commit {facts.commit} and was asked for {source.revision}"
    return ""


def _with_notes(facts: ModelFacts, claim: Body | None) -> ModelFacts:
    """Notes end up in status: bounded, and with what a claim that only one node mounts means for replicas."""
    notes = [printable(note) for note in facts.notes[:MAX_NOTES]]
    modes = set(((claim or {}).get("spec") or {}).get("accessModes") or ())
    if claim is not None and not modes & {"ReadWriteMany", "ReadOnlyMany"}:
        notes.append(
            f"the PersistentVolumeClaim {claim['metadata']['name']} is {' and '.join(sorted(modes))}: one node mounts it, so "
            "all replicas share that node's GPUs"
        )
    return replace(facts, notes=tuple(notes))

"""Cache volumes: brought about, filled once, held while they are needed, let go afterwards.

The algorithm, level-triggered: the claim that a recipe names exists and counts the model among its owners; while its
annotation does not say that it is full, a Job of its name fills it; a Job that is complete is written down in that annotation.
A Job that hangs and was made with another pod template than its owner wants now makes room for another.
Whoever finds something missing brings it about, so that it does not matter which of several models began. A model that no
longer needs a claim takes its reference off; the last one deletes it. What still mounts it then holds it (pvc-protection).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from kubequant.api.conditions import Reason
from kubequant.api.spec import Pod, QuantizedModelSpec
from kubequant.cluster import kinds
from kubequant.cluster.api import ApiError, Body, KubeApi
from kubequant.cluster.kinds import Kind
from kubequant.errors import Conflict, Waiting
from kubequant.manifests.cache import FILLED_ANNOTATION, TTL_SECONDS, build_claim, build_fill
from kubequant.manifests.children import build_files
from kubequant.manifests.names import MANAGED_BY, MANAGED_BY_LABEL, Owner, files_name, owner_reference
from kubequant.manifests.recipe import CacheVolume, Recipe
from kubequant.reconcile.children import Children
from kubequant.reconcile.deciding import Deciding
from kubequant.reconcile.diagnosis import Finding, diagnose
from kubequant.reconcile.job_records import ClaimRecord, JobPodRecord, JobRecord, claim_record, is_outdated
from kubequant.reconcile.records import ContainerState, PodRecord
from kubequant.reconcile.store import Snapshot, Store

MAX_NAMED = 3
LOOK_AGAIN_SECONDS = 5.0  # a claim and its Job are events for one of the models alone


@dataclass(frozen=True)
class Filling:
    """Why a volume cannot be mounted yet. `address` is where its download tells how far it is, "" where nothing runs."""

    finding: Finding
    address: str = ""


class Caching:
    """`clock` gives seconds since the epoch."""

    def __init__(
        self,
        *,
        api: KubeApi,
        store: Store,
        children: Children,
        deciding: Deciding,
        files: dict[str, str],
        clock: Callable[[], float],
    ) -> None:
        self._api = api
        self._store = store
        self._children = children
        self._deciding = deciding
        self._files = files
        self._clock = clock

    async def prepare(self, owner: Owner, spec: QuantizedModelSpec, recipe: Recipe) -> Filling | None:
        """Brings the recipe's volume a step further. None: pods may mount it, or there is none.

        Raises Conflict, Waiting, ApiError.
        """
        cache = recipe.cache
        if cache is None:
            return None
        claim = await self._claim(owner, recipe, cache)
        if claim.deleting or claim.phase == "Lost":
            return Filling(_lost(claim, self._store.mounting((claim.namespace, claim.name))))
        if claim.filled:
            return None
        job = self._store.job((owner.namespace, cache.claim))
        fill = build_fill(owner, recipe, cache, spec.pod or Pod(), files_name(owner, self._files))
        if job is None:
            await self._start(owner, fill)
            return Filling(_being_filled(cache))
        if job.complete:
            await self._record_filled(claim)
            return None
        pods = self._store.job_pods(job)
        if is_outdated(job, pods, fill) and _is_left_to(owner, job, claim):
            # Its deletion is an event, and then it is made anew. Another owner of the claim would want its own spec.pod.
            await self._api.delete(kinds.JOB, job.namespace, job.name, uid=job.uid)
            return Filling(_being_filled(cache))
        return filling(cache, job, pods, self._clock())

    async def release(self, snapshot: Snapshot, owner: Owner, needed: Iterable[str]) -> None:
        """Lets go of claims that none of the revisions needed mounts. Where one of those is unknown, nothing is let go."""
        owned = []
        for claim in self._store.claims_of(owner.uid):
            if claim.deleting:
                await self._stop_filling(owner, claim)
            else:
                owned.append(claim)
        if not owned:
            return
        revisions = {revision.name: revision for revision in snapshot.revisions}
        applied = snapshot.deployment.revision if snapshot.deployment else ""
        names = {name for name in (*needed, applied) if name}
        if names - revisions.keys():
            return
        recipes = [(await self._deciding.read(revisions[name])).recipe for name in names]
        mounted = {recipe.cache.claim for recipe in recipes if recipe.cache}
        for claim in owned:
            if claim.name not in mounted:
                await self._let_go(owner, claim)

    async def _claim(self, owner: Owner, recipe: Recipe, cache: CacheVolume) -> ClaimRecord:
        claim = self._store.claim((owner.namespace, cache.claim)) or await self._made(owner, recipe, cache)
        if owner.uid in claim.owners or claim.deleting:
            return claim
        return await self._own(claim, await self._live(claim), lambda others: [*others, owner_reference(owner)])

    async def _made(self, owner: Owner, recipe: Recipe, cache: CacheVolume) -> ClaimRecord:
        former = self._store.job((owner.namespace, cache.claim))
        if former:
            await self._api.delete(kinds.JOB, former.namespace, former.name, uid=former.uid)
            message = f"the Job of the former cache volume {cache.claim} is being removed"
            raise Waiting(Reason.PENDING, message, LOOK_AGAIN_SECONDS)
        body = await self._created(kinds.PERSISTENT_VOLUME_CLAIM, build_claim(owner, recipe, cache))
        return claim_record(body)

    async def _created(self, kind: Kind, manifest: Body) -> Body:
        """What was made, or what of ours was there already, made by another model a moment ago."""
        namespace, name = manifest["metadata"]["namespace"], manifest["metadata"]["name"]
        try:
            body = await self._api.create(kind, manifest)
        except ApiError as error:
            live = await self._api.get(kind, namespace, name) if error.is_conflict else None
            if live is None:
                raise
            body = live
        if (body["metadata"].get("labels") or {}).get(MANAGED_BY_LABEL) != MANAGED_BY:
            message = (
                f"a {kind.kind} named {name} exists already and is not KubeQuant's. Delete it, or give it another name."
            )
            raise Conflict(Reason.CONFLICT, message)
        self._store.put(kind, body)
        return body

    async def _start(self, owner: Owner, fill: Body) -> None:
        await self._children.ensure(kinds.CONFIG_MAP, owner, build_files(owner, self._files))
        await self._created(kinds.JOB, fill)

    async def _record_filled(self, claim: ClaimRecord) -> None:
        now = datetime.fromtimestamp(self._clock(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        metadata = {"uid": claim.uid, "annotations": {FILLED_ANNOTATION: now}}
        await self._patch(claim, {"metadata": metadata})

    async def _live(self, claim: ClaimRecord) -> Body:
        """The claim as it is now: owners are changed, and it is deleted, at this version of it alone."""
        live = await self._api.get(kinds.PERSISTENT_VOLUME_CLAIM, claim.namespace, claim.name)
        if live is None or live["metadata"]["uid"] != claim.uid:
            raise ApiError(409, "Conflict", f"claim {claim.name} was replaced in the meantime")
        return live

    async def _own(self, claim: ClaimRecord, live: Body, change: Callable[[list[Body]], list[Body]]) -> ClaimRecord:
        """Changes the owners. Whoever else did so in the meantime makes this fail, and be done again."""
        metadata = live["metadata"]
        references = change(metadata.get("ownerReferences") or [])
        version = {"uid": claim.uid, "resourceVersion": metadata["resourceVersion"]}
        return await self._patch(claim, {"metadata": {**version, "ownerReferences": references}})

    async def _patch(self, claim: ClaimRecord, patch: Body) -> ClaimRecord:
        body = await self._api.merge_patch(kinds.PERSISTENT_VOLUME_CLAIM, claim.namespace, claim.name, patch)
        self._store.put(kinds.PERSISTENT_VOLUME_CLAIM, body)
        return claim_record(body)

    async def _let_go(self, owner: Owner, claim: ClaimRecord) -> None:
        """Another model may become an owner at any moment: then the deletion fails, and this is done again."""
        live = await self._live(claim)
        if claim_record(live).owners - {owner.uid}:
            await self._own(claim, live, lambda all_: [one for one in all_ if one.get("uid") != owner.uid])
            return
        version = live["metadata"]["resourceVersion"]
        await self._api.delete(
            kinds.PERSISTENT_VOLUME_CLAIM, claim.namespace, claim.name, uid=claim.uid, resource_version=version
        )
        job = self._store.job((claim.namespace, claim.name))
        if job:
            await self._api.delete(kinds.JOB, job.namespace, job.name, uid=job.uid)

    async def _stop_filling(self, owner: Owner, claim: ClaimRecord) -> None:
        """What is being deleted needs no filling, and goes only when no pod mounts it."""
        job = self._store.job((claim.namespace, claim.name))
        if job and not job.has_ended and not job.deleting and _is_left_to(owner, job, claim):
            await self._api.delete(kinds.JOB, job.namespace, job.name, uid=job.uid)


def _is_left_to(owner: Owner, job: JobRecord, claim: ClaimRecord) -> bool:
    """Whether no other model that still wants the volume made the Job."""
    return job.owner_uid not in claim.owners - {owner.uid}


def filling(cache: CacheVolume, job: JobRecord, pods: tuple[JobPodRecord, ...], now: float) -> Filling:
    """What a Job that is not complete says, by its newest pod."""
    pod = pods[-1] if pods else None
    finding = _of_pod(cache, pod, now) if pod else _being_filled(cache)
    if job.failure:
        if not finding.failed:
            finding = Finding(Reason.DOWNLOAD_FAILED, f"the Job {job.name} failed: {job.failure.rstrip('.')}.")
        again = f" What was fetched is kept; it is tried again {TTL_SECONDS // 60} min after the Job failed."
        return Filling(replace(finding, message=finding.message + again))
    runs = pod is not None and pod.container.running_since is not None
    return Filling(finding, pod.address if pod and runs else "")


def _of_pod(cache: CacheVolume, pod: JobPodRecord, now: float) -> Finding:
    if not pod.scheduled:
        return _unscheduled(cache, pod)
    if pod.container == ContainerState() and pod.phase == "Pending":
        return _being_filled(cache)
    finding = diagnose(_as_engine_pod(pod), 0, now)
    return finding if finding.failed else _being_filled(cache)


def _unscheduled(cache: CacheVolume, pod: JobPodRecord) -> Finding:
    if not pod.scheduling_message:
        return _being_filled(cache)
    told = pod.scheduling_message.rstrip(".")
    what = f"the pod that fills the cache volume {cache.claim} has no node: {told}."
    if "olume" in told:
        return Finding(
            Reason.VOLUME_PENDING, f"{what} See the claim's own events (kubectl describe pvc {cache.claim})."
        )
    return Finding(Reason.UNSCHEDULABLE, f"{what} Free room for it, or add a node; it starts by itself then.")


def _as_engine_pod(pod: JobPodRecord) -> PodRecord:
    """The same rules tell what is wrong with a download, wherever it runs."""
    return PodRecord(
        namespace=pod.namespace,
        name=pod.name,
        model=pod.model,
        revision="",
        created=pod.created,
        phase=pod.phase,
        reason=pod.reason,
        message=pod.message,
        scheduled=True,
        scheduling_message="",
        ready=False,
        deleting=pod.deleting,
        address=pod.address,
        gpus=0,
        gpu_product="",
        download=pod.container,
        engine=ContainerState(),
    )


def _being_filled(cache: CacheVolume) -> Finding:
    return Finding(Reason.DOWNLOADING, f"the cache volume {cache.claim} is being filled", failed=False)


def _lost(claim: ClaimRecord, mounting: Sequence[str]) -> Finding:
    if claim.deleting and mounting:
        more = f" and {len(mounting) - MAX_NAMED} more" if len(mounting) > MAX_NAMED else ""
        message = (
            f"the cache volume {claim.name} is being deleted, and no pod can start with it, while it stays for those that mount "
            f"it: {', '.join(mounting[:MAX_NAMED])}{more}. Set spec.replicas to 0 until they are gone, or delete them: it is "
            "made and filled anew then."
        )
        return Finding(Reason.VOLUME_PENDING, message)
    if claim.deleting:
        message = f"the cache volume {claim.name} is being deleted; it is made anew once no pod mounts it any more"
        return Finding(Reason.VOLUME_PENDING, message, failed=False)
    message = (
        f"the cache volume {claim.name} has lost its PersistentVolume. Delete the claim: it is made and filled anew."
    )
    return Finding(Reason.VOLUME_PENDING, message)

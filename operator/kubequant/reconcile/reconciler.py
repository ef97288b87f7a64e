"""One level-triggered reconcile of a QuantizedModel: snapshot -> decision -> children -> verdict -> status.

Every step derives what it does from what it observes; nothing about progress is kept elsewhere. Here the steps are put
in order; what each decides stands in the modules beside this one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from pydantic import ValidationError

from kubequant.api.conditions import Reason
from kubequant.api.spec import Mode, QuantizedModelSpec
from kubequant.errors import Conflict, KubeQuantError, Refused, Waiting
from kubequant.manifests.names import Owner
from kubequant.reconcile import decision as decisions
from kubequant.reconcile.caching import Caching
from kubequant.reconcile.children import Children
from kubequant.reconcile.deciding import Deciding, Wanted
from kubequant.reconcile.decision import Decision
from kubequant.reconcile.downloads import Downloads, Progress
from kubequant.reconcile.evidence import tokens_in
from kubequant.reconcile.kinds import QUANTIZED_MODEL
from kubequant.reconcile.measuring import Measuring
from kubequant.reconcile.records import Key, ModelRecord
from kubequant.reconcile.rolling import RolledOut, Rolling
from kubequant.reconcile.status import Known, no_checkpoint
from kubequant.reconcile.status_writer import StatusWriter
from kubequant.reconcile.store import Snapshot, Store
from kubequant.reconcile.upstream import Pinned, Upstream

REFUSED_RETRY_SECONDS = 600.0  # a repository may change; changes of the fleet enqueue by themselves
WAITING_RETRY_SECONDS = 15.0
CONFLICT_RETRY_SECONDS = 15.0  # objects that are not ours are not watched: their deletion brings no event


@dataclass(frozen=True)
class Result:
    """When the model should be looked at again; None: when something changes. `planned` is False while a problem stands."""

    requeue_after_seconds: float | None = None
    planned: bool = True


class Reconciler:
    """Reconciles QuantizedModels one key at a time; the queue sees to it that a key is never worked on twice at once."""

    def __init__(
        self,
        *,
        store: Store,
        deciding: Deciding,
        rolling: Rolling,
        caching: Caching,
        children: Children,
        downloads: Downloads,
        measuring: Measuring,
        status: StatusWriter,
        upstream: Upstream,
    ) -> None:
        self._store = store
        self._deciding = deciding
        self._rolling = rolling
        self._caching = caching
        self._children = children
        self._downloads = downloads
        self._measuring = measuring
        self._status = status
        self._upstream = upstream

    async def reconcile(self, key: Key) -> Result:
        """Brings one model a step further. Raises ApiError, which the queue answers with back-off."""
        try:
            return await self._step(key)
        except Waiting as waiting:  # what was read is about to change: nothing is known that status could tell
            return Result(waiting.retry_after_seconds or WAITING_RETRY_SECONDS, planned=False)

    async def _step(self, key: Key) -> Result:
        snapshot = self._store.snapshot(key)
        if snapshot is None or snapshot.model.deleting:
            self._forget(key)
            return Result()
        owner = owner_of(snapshot.model)
        try:
            spec = QuantizedModelSpec.model_validate(snapshot.model.spec)
        except ValidationError as error:
            return await self._unreadable(snapshot, owner, error)
        wanted = await self._deciding.want(snapshot, owner, spec)
        snapshot = self._store.snapshot(key) or snapshot
        wanted, rolled = await self._roll_out(snapshot, owner, spec, wanted)
        needed = _needed(snapshot, wanted, rolled)
        await self._deciding.prune(snapshot, needed)
        known = await self._known(snapshot, owner, spec, wanted, rolled)
        await self._status.write(snapshot.model, owner, known)
        if wanted.revision:  # last: who may not delete claims must still tell how the model is
            await self._caching.release(snapshot, owner, needed)
        return _result(wanted.problem, rolled)

    async def _unreadable(self, snapshot: Snapshot, owner: Owner, error: ValidationError) -> Result:
        """The API server took a spec that this operator does not know: its CustomResourceDefinition is a newer one."""
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        message = (
            f"this operator cannot read spec.{where}: {first['msg']}. Upgrade the operator to the version of crds/."
        )
        known = Known(
            owner=owner,
            generation=snapshot.model.generation,
            plan_mode=False,
            decision=None,
            update_revision="",
            current_revision=_serving(snapshot, None),
            problem=Refused(Reason.API_ERROR, message),
            total_replicas=len(snapshot.pods),
        )
        await self._status.write(snapshot.model, owner, known)
        return _result(known.problem, None)

    async def _roll_out(
        self, snapshot: Snapshot, owner: Owner, spec: QuantizedModelSpec, wanted: Wanted
    ) -> tuple[Wanted, RolledOut | None]:
        if wanted.revision is None or wanted.decision is None:
            return wanted, None
        rolled = await self._rolling.roll_out(snapshot, owner, spec, wanted.revision, wanted.decision)
        problem = wanted.problem or _no_checkpoint(spec, wanted.decision) or (rolled.problem if rolled else None)
        return replace(wanted, problem=problem), rolled

    async def _known(
        self,
        snapshot: Snapshot,
        owner: Owner,
        spec: QuantizedModelSpec,
        wanted: Wanted,
        rolled: RolledOut | None,
    ) -> Known:
        return Known(
            owner=owner,
            generation=snapshot.model.generation,
            plan_mode=spec.mode is Mode.PLAN,
            decision=wanted.decision,
            promised_tokens=rolled.promised_tokens if rolled else None,
            update_revision=wanted.revision.name if wanted.revision else "",
            current_revision=_serving(snapshot, rolled),
            problem=wanted.problem,
            undecided=wanted.undecided,
            resolved=wanted.resolved,
            refused_plan=wanted.refused_plan,
            refused_discovery=wanted.refused_discovery,
            rollout=rolled.rollout if rolled else None,
            fallback_revision=rolled.target.name if rolled else "",
            failure=rolled.failure if rolled else None,
            progress=self._progress(snapshot.model.key, rolled),
            measured_tokens=await self._measured(snapshot, rolled),
            newer_commit=self._newer_commit(snapshot.model, _pinned(wanted.decision)),
            total_replicas=sum(not pod.deleting and pod.phase not in ("Succeeded", "Failed") for pod in snapshot.pods),
        )

    def _progress(self, key: Key, rolled: RolledOut | None) -> Progress | None:
        """How far the download is that the model waits for."""
        if rolled is None or not rolled.downloading or rolled.rollout.is_complete:
            self._downloads.forget(key)
            return None
        return self._downloads.follow(key, rolled.downloading)

    async def _measured(self, snapshot: Snapshot, rolled: RolledOut | None) -> int | None:
        """KV-cache tokens as the running engine says: asked once a revision, outside of the reconcile."""
        if rolled is None:
            return None
        if rolled.target.measured:
            return tokens_in(rolled.target.measured)
        tokens = self._measuring.answer(rolled.target.name)
        if tokens is not None:
            await self._rolling.record_measured(rolled.target, tokens)
            return tokens
        ready = [pod for pod in snapshot.pods if pod.ready and pod.revision == rolled.target.name and pod.address]
        if ready and rolled.rollout.is_complete:
            self._measuring.ask(snapshot.model.key, rolled.target.name, ready[0].address)
        return None

    def _newer_commit(self, model: ModelRecord, pinned: Pinned | None) -> str | None:
        told = model.newer_commit
        known = told[1] if told and pinned and told[0] == pinned.commit else None
        return self._upstream.newer(model.key, pinned, known)

    def _forget(self, key: Key) -> None:
        self._deciding.forget(key)
        self._children.forget(key)
        self._status.forget(key)
        self._measuring.forget(key)
        self._downloads.forget(key)
        self._upstream.forget(key)


def _no_checkpoint(spec: QuantizedModelSpec, decision: Decision) -> Refused | None:
    """In mode Plan a prediction is all that was asked for."""
    if not decision.is_predicted or spec.mode is Mode.PLAN:
        return None
    return Refused(Reason.NO_CHECKPOINT, no_checkpoint(decision))


def _pinned(decision: Decision | None) -> Pinned | None:
    if decision is None or not decision.revision:
        return None
    return Pinned(decision.repository, decision.revision, decision.commit)


def owner_of(model: ModelRecord) -> Owner:
    return Owner(QUANTIZED_MODEL.api_version, QUANTIZED_MODEL.kind, model.namespace, model.name, model.uid)


def _needed(snapshot: Snapshot, wanted: Wanted, rolled: RolledOut | None) -> set[str]:
    """Revisions that must be kept whatever their age: wanted, applied, serving, and the last good one."""
    kept = (wanted.revision, rolled and rolled.target, decisions.last_ready(snapshot.revisions))
    return {pod.revision for pod in snapshot.pods} | {revision.name for revision in kept if revision}


def _serving(snapshot: Snapshot, rolled: RolledOut | None) -> str:
    """The revision whose pods are ready: the target's where any are, else the newest of the others."""
    ready = {pod.revision for pod in snapshot.pods if pod.ready and not pod.deleting}
    if rolled and rolled.target.name in ready:
        return rolled.target.name
    serving = [revision.name for revision in snapshot.revisions if revision.name in ready]
    return serving[-1] if serving else ""


def _result(problem: KubeQuantError | None, rolled: RolledOut | None) -> Result:
    if isinstance(problem, Waiting):
        return Result(problem.retry_after_seconds or WAITING_RETRY_SECONDS, planned=False)
    if isinstance(problem, Conflict):
        return Result(CONFLICT_RETRY_SECONDS, planned=False)
    if isinstance(problem, Refused):
        return Result(REFUSED_RETRY_SECONDS, planned=False)
    return Result(rolled.look_again_seconds if rolled else None)

"""Rolls a revision out, watches over it, and goes back to the last good one when it has failed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from kubequant.api.spec import Mode, QuantizedModelSpec, RolloutStrategy
from kubequant.cluster import kinds
from kubequant.cluster.api import ApiError, KubeApi
from kubequant.errors import Conflict, KubeQuantError, Waiting
from kubequant.manifests.children import (
    Replacement,
    build_deployment,
    build_disruption_budget,
    build_files,
    build_service,
)
from kubequant.manifests.names import MEASURED_ANNOTATION, OUTCOME_ANNOTATION, Owner
from kubequant.reconcile import decision as decisions
from kubequant.reconcile.caching import LOOK_AGAIN_SECONDS, Caching, Filling
from kubequant.reconcile.children import Children
from kubequant.reconcile.deciding import Deciding
from kubequant.reconcile.decision import Decision, Outcome
from kubequant.reconcile.diagnosis import PROBE_PERIOD_SECONDS
from kubequant.reconcile.records import RevisionRecord
from kubequant.reconcile.rollout import Rollout, observe, replacement, seconds_to_patience
from kubequant.reconcile.server_refusals import as_problem
from kubequant.reconcile.store import Snapshot, Store

MAX_OUTCOME = 2048


@dataclass(frozen=True)
class RolledOut:
    """What is applied, and what its pods say. `failure` is the verdict on the wanted revision when `target` is another."""

    target: RevisionRecord
    rollout: Rollout
    promised_tokens: int | None  # of KV cache, by the plan of `target`
    failure: tuple[str, str] | None
    look_again_seconds: float | None
    problem: KubeQuantError | None  # why the children are not as wanted
    downloading: str = ""  # where a download that is waited for tells how far it is


@dataclass(frozen=True)
class _Seen:
    """A revision as it stands. `filling` is why its volume cannot be mounted yet, `problem` why that cannot be helped."""

    rollout: Rollout
    filling: Filling | None = None
    problem: KubeQuantError | None = None

    @property
    def may_start(self) -> bool:
        return self.filling is None and self.problem is None


class Rolling:
    """Applies children and writes verdicts. `clock` gives seconds since the epoch, as pods' own times are."""

    def __init__(
        self,
        *,
        api: KubeApi,
        store: Store,
        children: Children,
        deciding: Deciding,
        caching: Caching,
        files: dict[str, str],
        clock: Callable[[], float],
    ) -> None:
        self._api = api
        self._store = store
        self._children = children
        self._deciding = deciding
        self._caching = caching
        self._files = files
        self._clock = clock

    async def roll_out(
        self, snapshot: Snapshot, owner: Owner, spec: QuantizedModelSpec, update: RevisionRecord, decision: Decision
    ) -> RolledOut | None:
        """Brings the children about for `update`, or for the revision before it. In mode Plan nothing is touched, nor where
        the plan's checkpoint does not exist."""
        if spec.mode is Mode.PLAN or decision.is_predicted:
            return await self._left_alone(snapshot, spec)
        failure = decisions.failure_of(update)
        fallback = decisions.last_ready(snapshot.revisions, besides=update.name) if failure else None
        if fallback is None:
            seen = await self._seen(snapshot, owner, spec, update, decision)
            failure = failure or await self._give_up(snapshot, update, seen.rollout)
            fallback = decisions.last_ready(snapshot.revisions, besides=update.name) if failure else None
        if fallback:
            decision = await self._deciding.read(fallback)
            seen = await self._seen(snapshot, owner, spec, fallback, decision)
        target, rollout = fallback or update, seen.rollout
        problem = await self._brought_about(seen, snapshot, owner, spec, target, decision)
        if rollout.is_complete and not target.outcome and rollout.wanted_replicas:
            await self._annotate(target, OUTCOME_ANNOTATION, Outcome.READY.value)
        return RolledOut(
            target=target,
            rollout=rollout,
            promised_tokens=decision.plan.get("kvCacheTokens"),
            failure=failure if fallback else None,
            look_again_seconds=self._look_again(snapshot, target, decision) if seen.may_start else LOOK_AGAIN_SECONDS,
            problem=problem,
            downloading=_downloading(snapshot, target, seen),
        )

    async def _seen(
        self, snapshot: Snapshot, owner: Owner, spec: QuantizedModelSpec, revision: RevisionRecord, decision: Decision
    ) -> _Seen:
        """A revision's pods, and what its volume says where they cannot mount it yet."""
        rollout = self._observe(snapshot, spec, revision, decision)
        try:
            filling = await self._caching.prepare(owner, spec, decision.recipe)
        except (Conflict, Waiting) as problem:
            return _Seen(rollout, problem=problem)
        except ApiError as error:
            return _Seen(rollout, problem=as_problem(error))
        return _Seen(replace(rollout, finding=filling.finding), filling) if filling else _Seen(rollout)

    async def _brought_about(
        self,
        seen: _Seen,
        snapshot: Snapshot,
        owner: Owner,
        spec: QuantizedModelSpec,
        target: RevisionRecord,
        decision: Decision,
    ) -> KubeQuantError | None:
        """The children of the target; while its volume is not full, those of what is deployed, scaled as asked."""
        if seen.may_start:
            return await self._applied(snapshot, owner, spec, target, decision)
        deployed = _deployed(snapshot)
        if deployed is None:
            return seen.problem
        return seen.problem or await self._applied(snapshot, owner, spec, deployed, await self._deciding.read(deployed))

    async def _left_alone(self, snapshot: Snapshot, spec: QuantizedModelSpec) -> RolledOut | None:
        """What was rolled out before, as it stands. None where nothing was."""
        revision = _deployed(snapshot)
        if revision is None:
            return None
        decision = await self._deciding.read(revision)
        return RolledOut(
            target=revision,
            rollout=self._observe(snapshot, spec, revision, decision),
            promised_tokens=decision.plan.get("kvCacheTokens"),
            failure=None,
            look_again_seconds=None,
            problem=None,
        )

    async def record_measured(self, revision: RevisionRecord, tokens: int) -> None:
        """Writes what the running engine said of itself, once a revision."""
        await self._annotate(revision, MEASURED_ANNOTATION, str(tokens))

    def _observe(
        self, snapshot: Snapshot, spec: QuantizedModelSpec, revision: RevisionRecord, decision: Decision
    ) -> Rollout:
        budget = decision.recipe.start_budget_seconds
        return observe(snapshot.pods, snapshot.deployment, revision.name, spec.replicas, budget, self._clock())

    async def _give_up(self, snapshot: Snapshot, update: RevisionRecord, rollout: Rollout) -> tuple[str, str] | None:
        """The verdict Failed: only on a revision that never was Ready, and only where there is one to go back to.

        Without one the pods go on trying, and status tells what they say.
        """
        finding = rollout.finding
        if finding is None or not finding.permanent or rollout.ready_update or update.outcome:
            return None
        if decisions.last_ready(snapshot.revisions, besides=update.name) is None:
            return None
        verdict = f"{Outcome.FAILED.value}: {finding.reason.value}: {finding.message}"[:MAX_OUTCOME]
        await self._annotate(update, OUTCOME_ANNOTATION, verdict)
        return finding.reason.value, finding.message

    async def _annotate(self, revision: RevisionRecord, annotation: str, value: str) -> None:
        patch = {"metadata": {"annotations": {annotation: value}}}
        body = await self._api.merge_patch(kinds.CONTROLLER_REVISION, revision.namespace, revision.name, patch)
        self._store.put(kinds.CONTROLLER_REVISION, body)

    async def _applied(
        self, snapshot: Snapshot, owner: Owner, spec: QuantizedModelSpec, target: RevisionRecord, decision: Decision
    ) -> KubeQuantError | None:
        """Applies the children. What stands in the way is for the user to read, beside what the pods say."""
        try:
            await self._apply(snapshot, owner, spec, target, decision)
        except (Conflict, Waiting) as problem:
            return problem
        except ApiError as error:
            return as_problem(error)
        return None

    async def _apply(
        self, snapshot: Snapshot, owner: Owner, spec: QuantizedModelSpec, target: RevisionRecord, decision: Decision
    ) -> None:
        files = build_files(owner, self._files)
        # An older revision's files are another ConfigMap, immutable and there already: an upgrade rolls no pods.
        if files["metadata"]["name"] == _files_of(decision):
            await self._children.ensure(kinds.CONFIG_MAP, owner, files)
        await self._children.ensure(kinds.SERVICE, owner, build_service(owner))
        how = self._replacement(snapshot, spec, target, decision)
        deployment = build_deployment(owner, target.name, decision.template, spec.replicas, how)
        await self._children.ensure(kinds.DEPLOYMENT, owner, deployment)
        budget = build_disruption_budget(owner, spec.replicas)
        if budget:
            await self._children.ensure(kinds.POD_DISRUPTION_BUDGET, owner, budget)
        else:
            await self._children.remove(kinds.POD_DISRUPTION_BUDGET, owner, owner.name)

    def _replacement(
        self, snapshot: Snapshot, spec: QuantizedModelSpec, target: RevisionRecord, decision: Decision
    ) -> Replacement:
        strategy = spec.rollout.strategy if spec.rollout else RolloutStrategy.AUTO

        def has_room() -> bool:
            return self._free_gpus(snapshot, target, decision.recipe.gpu_product) >= decision.recipe.gpus

        return replacement(strategy, snapshot.deployment, target.name, snapshot.pods, has_room, self._clock())

    def _free_gpus(self, snapshot: Snapshot, target: RevisionRecord, product: str) -> int:
        """An upper bound: only our own pods are watched."""
        existing = sum(gpu.gpus for gpu in snapshot.fleet.classes if gpu.product == product)
        # Pods of a revision that is given up before it was ready make room for this rollout themselves.
        own = sum(pod.gpus for pod in snapshot.pods if not pod.ready and pod.revision != target.name)
        return existing - self._store.gpus_in_use(product) + own

    def _look_again(self, snapshot: Snapshot, target: RevisionRecord, decision: Decision) -> float | None:
        """Time-outs bring no event: seconds until the nearest one is due."""
        now = self._clock()
        budget = decision.recipe.start_budget_seconds + PROBE_PERIOD_SECONDS
        starts = [pod.engine.running_since for pod in snapshot.pods if not pod.ready]
        due = [max(1.0, since + budget - now + 1) for since in starts if since is not None and since + budget > now]
        patience = seconds_to_patience(snapshot.pods, target.name, now)
        return min([*due, *([patience + 1] if patience else [])], default=None)


def _deployed(snapshot: Snapshot) -> RevisionRecord | None:
    applied = snapshot.deployment.revision if snapshot.deployment else ""
    return next((revision for revision in snapshot.revisions if revision.name == applied), None)


def _downloading(snapshot: Snapshot, target: RevisionRecord, seen: _Seen) -> str:
    """The address of the Job's pod that fills the volume, or of the first pod that downloads for itself."""
    if seen.filling:
        return seen.filling.address
    return next(
        (
            pod.address
            for pod in snapshot.pods
            if pod.revision == target.name and pod.download.running_since is not None and not pod.deleting
        ),
        "",
    )


def _files_of(decision: Decision) -> str:
    volumes = decision.template["spec"]["volumes"]
    return next((str(volume["configMap"]["name"]) for volume in volumes if "configMap" in volume), "")

"""Which revision is wanted: found among those that exist, rendered again, or planned. The only place that asks the Hub."""

from __future__ import annotations

import json
import logging
import random
import zlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

from kubequant.api.conditions import Reason
from kubequant.api.spec import QuantizedModelSpec
from kubequant.cluster import kinds
from kubequant.cluster.api import ApiError, KubeApi
from kubequant.errors import KubeQuantError, Refused, Waiting
from kubequant.manifests.children import build_revision
from kubequant.manifests.names import FIELD_MANAGER, Owner, revision_name
from kubequant.manifests.recipe import EngineSettings
from kubequant.planning import values
from kubequant.planning.engines.vllm import EngineProfile
from kubequant.planning.facts_json import unpacked_facts
from kubequant.planning.plan import plan
from kubequant.planning.values import Found, ModelFacts, Plan
from kubequant.reconcile import decision as decisions
from kubequant.reconcile.decision import Decision
from kubequant.reconcile.discovering import Discovering, Replans
from kubequant.reconcile.discovery_status import discovery_status
from kubequant.reconcile.evidence import measured_start_ups
from kubequant.reconcile.inputs import VolumeSource, inputs_hash, intent_of, pod_hash, source_of
from kubequant.reconcile.inspecting import Inspecting
from kubequant.reconcile.plan_status import refused_status
from kubequant.reconcile.records import Key, RevisionRecord, revision_record
from kubequant.reconcile.server_refusals import as_problem
from kubequant.reconcile.store import Snapshot, Store

log = logging.getLogger(__name__)

DECISIONS_CACHED = 2048
LOOK_AGAIN_SECONDS = 3600.0
SEARCH_AGAIN_SECONDS = 60.0
OPENED_BY_A_TOKEN = frozenset({Reason.ACCESS_GATED, Reason.REPOSITORY_NOT_FOUND})


class Hub(Protocol):
    """Where facts come from. Raises the errors of kubequant.errors."""

    async def describe(self, repository: str, revision: str, *, fresh: bool = False) -> ModelFacts: ...

    async def find(self, base: ModelFacts, *, fresh: bool = False) -> Found: ...


@dataclass(frozen=True)
class Wanted:
    """The revision for the spec as written with its decision, or the problem that keeps it from being made.

    With a problem, `revision` and `decision` may still name what is rolled out already and stays. `resolved` tells
    whether the Hub had an answer; `refused_plan` and `refused_discovery` are what status shows of a refusal.
    """

    revision: RevisionRecord | None = None
    decision: Decision | None = None
    problem: KubeQuantError | None = None
    resolved: bool = False
    refused_plan: dict[str, Any] | None = None
    refused_discovery: dict[str, Any] | None = None
    undecided: bool = False  # there is no decision for the spec as written


class Deciding:
    """Makes decisions and writes them down before anything is done about them."""

    def __init__(
        self,
        *,
        api: KubeApi,
        store: Store,
        hub: Hub,
        inspecting: Inspecting,
        engine: EngineSettings,
        profile: EngineProfile,
        files: dict[str, str],
        clock: Callable[[], float],
        discovery: bool = True,
    ) -> None:
        """`clock` gives seconds; `discovery` is the configuration's: whether published checkpoints are looked for at all."""
        self._api = api
        self._store = store
        self._hub = hub
        self._inspecting = inspecting
        self._engine = engine
        self._profile = profile
        self._files = files
        self._clock = clock
        self._discovering = Discovering(hub, clock, enabled=discovery)
        self._replans = Replans()
        self._look_again_at: dict[Key, float] = {}  # on `clock`, of models whose checkpoint nobody has published yet
        self._decisions: OrderedDict[str, bytes] = OrderedDict()  # by uid of their ControllerRevision

    async def want(self, snapshot: Snapshot, owner: Owner, spec: QuantizedModelSpec) -> Wanted:
        """The revision for the spec as written. A problem comes back within the answer; ApiError is raised."""
        hashes = (inputs_hash(snapshot.model.spec, snapshot.model.replan), pod_hash(snapshot.model.spec))
        existing = decisions.wanted(snapshot.revisions, hashes)
        if existing:
            wanted = await self._reuse(snapshot, existing)
            return await self._published_since(snapshot, owner, spec, wanted) or wanted
        try:
            return await self._made(snapshot, owner, spec, hashes)
        except ApiError as error:
            return await self._rolled_out(snapshot, Wanted(problem=as_problem(error), undecided=True))
        except KubeQuantError as problem:
            return await self._rolled_out(snapshot, Wanted(problem=problem, undecided=True))

    async def _made(
        self, snapshot: Snapshot, owner: Owner, spec: QuantizedModelSpec, hashes: tuple[str, str]
    ) -> Wanted:
        planned = decisions.same_plan(snapshot.revisions, hashes[0])
        if planned is None:
            return await self._plan(snapshot, owner, spec, hashes)
        before = await self.read(planned)
        return await self._keep(snapshot, owner, decisions.with_pod(owner, before, spec, hashes, self._files))

    async def read(self, revision: RevisionRecord) -> Decision:
        """What a revision holds. It never changes, so it is read once."""
        cached = self._decisions.get(revision.uid)
        if cached:
            self._decisions.move_to_end(revision.uid)
            return _unpacked(cached)
        body = await self._api.get(kinds.CONTROLLER_REVISION, revision.namespace, revision.name)
        if body is None:
            raise Waiting(
                Reason.PENDING, f"ControllerRevision {revision.name} is gone; its deletion is on its way", 1.0
            )
        return self._cached(revision.uid, Decision.from_data(body["data"]))

    def forget(self, key: Key) -> None:
        """A model is gone."""
        self._look_again_at.pop(key, None)
        self._replans.forget(key)
        self._discovering.forget(key)

    async def prune(self, snapshot: Snapshot, needed: set[str]) -> None:
        """Deletes the oldest revisions beyond those kept."""
        for revision in decisions.superfluous(snapshot.revisions, needed):
            await self._api.delete(kinds.CONTROLLER_REVISION, revision.namespace, revision.name, uid=revision.uid)

    async def _reuse(self, snapshot: Snapshot, revision: RevisionRecord) -> Wanted:
        """A decision of these inputs exists. If others came in between (the user went back), it becomes the newest again."""
        newest = snapshot.revisions[-1]
        if revision.name != newest.name:
            body = await self._api.merge_patch(
                kinds.CONTROLLER_REVISION, revision.namespace, revision.name, {"revision": newest.number + 1}
            )
            self._store.put(kinds.CONTROLLER_REVISION, body)
            revision = revision_record(body)
        return Wanted(revision, await self.read(revision))

    async def _plan(
        self, snapshot: Snapshot, owner: Owner, spec: QuantizedModelSpec, hashes: tuple[str, str]
    ) -> Wanted:
        facts = await self._facts(snapshot, owner, spec)
        try:
            found = await self._discovering.found(snapshot.model, spec, facts)
        except Waiting as waiting:
            return await self._rolled_out(snapshot, Wanted(problem=waiting, resolved=True, undecided=True))
        outcome = await self._outcome(snapshot, spec, facts, found)
        discovery = discovery_status(facts.repository, found, outcome) if found else None
        if isinstance(outcome, values.Refused):
            problem = Refused(outcome.reason, outcome.message)
            shown = refused_status(outcome.refusals)
            refused = Wanted(
                problem=problem, resolved=True, refused_plan=shown, refused_discovery=discovery, undecided=True
            )
            return await self._rolled_out(snapshot, refused)
        return await self._decided(snapshot, owner, spec, hashes, facts, found, outcome)

    async def _facts(self, snapshot: Snapshot, owner: Owner, spec: QuantizedModelSpec) -> ModelFacts:
        """Read by the operator itself; by a Job in the model's namespace where only a volume or the model's token has them."""
        source = source_of(spec)
        if isinstance(source, VolumeSource):
            return await self._inspecting.facts(snapshot, owner, spec, source)
        # Who asks for another plan often has just uploaded something: what the Hub said a minute ago will not do.
        fresh = self._replans.is_new(snapshot.model)
        try:
            return await self._hub.describe(source.repository, source.revision, fresh=fresh)
        except Refused as refused:
            if spec.model.token_secret_ref is None or refused.reason not in OPENED_BY_A_TOKEN:
                raise _about_the_field(spec, refused) from refused
            return await self._inspecting.facts(snapshot, owner, spec, source)

    async def _outcome(
        self, snapshot: Snapshot, spec: QuantizedModelSpec, facts: ModelFacts, found: Found | None
    ) -> Plan | values.Refused:
        published = found.checkpoints if found else ()
        tried = {facts.repository, *(one.repository for one in published)}
        measured = tuple(measured_start_ups(await self._measured(snapshot), tried))
        return plan(intent_of(spec), facts, snapshot.fleet, self._profile, measured, published)

    async def _decided(
        self,
        snapshot: Snapshot,
        owner: Owner,
        spec: QuantizedModelSpec,
        hashes: tuple[str, str],
        facts: ModelFacts,
        found: Found | None,
        outcome: Plan,
    ) -> Wanted:
        published = found.checkpoints if found else ()
        taken = next((one for one in published if one.repository == outcome.repository), facts)
        discovery = discovery_status(facts.repository, found, outcome) if found else None
        decision = decisions.decide(owner, spec, hashes, taken, outcome, self._engine, self._files, discovery)
        return await self._keep(snapshot, owner, decision)

    async def _published_since(
        self, snapshot: Snapshot, owner: Owner, spec: QuantizedModelSpec, wanted: Wanted
    ) -> Wanted | None:
        """A decision that waits for a checkpoint is the only one that is made again by itself: once an hour it is looked
        whether somebody has published one."""
        key, decision = snapshot.model.key, wanted.decision
        if decision is None or not decision.is_predicted or not self._discovering.is_wanted(spec):
            self._look_again_at.pop(key, None)
            return None
        now = self._clock()
        due = self._look_again_at.setdefault(key, now + LOOK_AGAIN_SECONDS * random.uniform(0.5, 1))  # noqa: S311
        if now < due:
            return None
        self._look_again_at[key] = now + LOOK_AGAIN_SECONDS
        try:
            facts = unpacked_facts(decision.facts)
            found = await self._discovering.found_later(facts)
            outcome = await self._outcome(snapshot, spec, facts, found)
        except KubeQuantError as error:
            if isinstance(error, Waiting):  # a search that outlasts a look has its answer for the next one
                self._look_again_at[key] = now + SEARCH_AGAIN_SECONDS
            log.info("whether a checkpoint was published meanwhile is not known: %s", error.message)
            return None
        if not isinstance(outcome, Plan) or outcome.predicted:
            return None
        hashes = (decision.inputs_hash, decision.pod_hash)
        return await self._decided(snapshot, owner, spec, hashes, facts, found, outcome)

    async def _measured(self, snapshot: Snapshot) -> list[tuple[Decision, str]]:
        """Revisions that an engine has measured, newest first."""
        return [
            (await self.read(revision), revision.measured)
            for revision in reversed(snapshot.revisions)
            if revision.measured
        ]

    async def _keep(self, snapshot: Snapshot, owner: Owner, decision: Decision) -> Wanted:
        data = decision.to_data()
        number = max((revision.number for revision in snapshot.revisions), default=0) + 1
        manifest = build_revision(owner, revision_name(owner, data), number, data)
        body = await self._api.apply(kinds.CONTROLLER_REVISION, manifest, field_manager=FIELD_MANAGER)
        # The watch may take a while to bring it back; without it, the next reconcile would decide again.
        self._store.put(kinds.CONTROLLER_REVISION, body)
        revision = revision_record(body)
        self._cached(revision.uid, decision)
        recipe = decision.recipe
        log.info("decided %s: %s on %d x %s", revision.name, recipe.repository, recipe.gpus, recipe.gpu_product)
        return Wanted(revision, decision, resolved=True)

    async def _rolled_out(self, snapshot: Snapshot, wanted: Wanted) -> Wanted:
        """Nothing new can be decided: what is rolled out already stays as it is."""
        name = snapshot.deployment.revision if snapshot.deployment else ""
        for revision in snapshot.revisions:
            if revision.name == name:
                return replace(wanted, revision=revision, decision=await self.read(revision))
        return wanted

    def _cached(self, uid: str, decision: Decision) -> Decision:
        self._decisions[uid] = _packed(decision)
        while len(self._decisions) > DECISIONS_CACHED:
            self._decisions.popitem(last=False)
        return decision


def _about_the_field(spec: QuantizedModelSpec, refused: Refused) -> Refused:
    """The Hub's room knows of repositories, not of the field that named one: corrected as told, the wrong one would make
    another model of it."""
    if not (spec.quantization and spec.quantization.checkpoint):
        return refused
    return Refused(refused.reason, refused.message.replace("spec.model.", "spec.quantization.checkpoint."))


def _packed(decision: Decision) -> bytes:
    """2 kB instead of the 34 kB that the parsed JSON takes; unpacking is 0.1 ms."""
    return zlib.compress(json.dumps(decision.to_data()).encode(), 1)


def _unpacked(packed: bytes) -> Decision:
    return Decision.from_data(json.loads(zlib.decompress(packed)))

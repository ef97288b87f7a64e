"""What the operator is compared with: a script that applies the same objects and does nothing else.

It knows the plan beforehand, watches nothing, decides nothing, and gets the models' uids from what creates them. It has
the operator's client, concurrency, credentials and order of writes.
"""

from __future__ import annotations

import asyncio
import resource
from dataclasses import dataclass
from typing import Any

from bench.site import Site
from kubequant.api.spec import QuantizedModelSpec
from kubequant.cluster import kinds
from kubequant.cluster.api import HttpKubeApi, load_configuration
from kubequant.cluster.kinds import Kind
from kubequant.hub.client import Hub
from kubequant.manifests import children, names
from kubequant.manifests.names import Owner
from kubequant.planning.plan import plan
from kubequant.planning.values import ModelFacts, Plan
from kubequant.reconcile import decision as decisions
from kubequant.reconcile.inputs import inputs_hash, intent_of, pod_hash
from kubequant.reconcile.kinds import QUANTIZED_MODEL
from kubequant.reconcile.rollout import Rollout
from kubequant.reconcile.status import Known, build_status, with_times
from kubequant.reconcile.store import Store
from kubequant.runtime.configured import engine_settings
from kubequant.runtime.core import CLIENT_CONCURRENCY
from kubequant.runtime.profile import engine_profile
from kubequant.runtime.settings import Settings

Manifest = dict[str, Any]
_EVENT_TIME = "2026-01-01T00:00:00Z"
_NO_PODS = Rollout(1, 0, 0, None, None, "")


@dataclass(frozen=True)
class BareRun:
    """CPU of the script in seconds."""

    models: int
    cpu_seconds: float


def run(site: Site, namespace: str, count: int, repository: str, hub_url: str, seconds: float) -> BareRun:
    """Creates the models and applies their objects. Raises TimeoutError, ApiError."""
    return asyncio.run(asyncio.wait_for(_run(site, namespace, count, repository, hub_url), seconds))


async def _run(site: Site, namespace: str, count: int, repository: str, hub_url: str) -> BareRun:
    objects = await Objects.planned(site, repository, hub_url)
    configuration = await load_configuration(str(site.installation.operator_kubeconfig))
    api = HttpKubeApi(configuration, concurrency=CLIENT_CONCURRENCY)
    created: asyncio.Queue[Owner | None] = asyncio.Queue()
    before = resource.getrusage(resource.RUSAGE_SELF)
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_create(site, namespace, count, repository, created))
            for _ in range(Settings().workers):
                tasks.create_task(_worker(api, objects, created))
    finally:
        await api.close()
    after = resource.getrusage(resource.RUSAGE_SELF)
    return BareRun(count, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


async def _create(
    site: Site, namespace: str, count: int, repository: str, created: asyncio.Queue[Owner | None]
) -> None:
    command = site.creating(namespace, count, repository)
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout
    try:
        async for line in process.stdout:
            name, uid = line.decode().split()
            created.put_nowait(Owner(QUANTIZED_MODEL.api_version, QUANTIZED_MODEL.kind, namespace, name, uid))
        if await process.wait():
            raise RuntimeError(f"creating models ended with {process.returncode}; its words stand above")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    created.put_nowait(None)


async def _worker(api: HttpKubeApi, objects: Objects, created: asyncio.Queue[Owner | None]) -> None:
    while (owner := await created.get()) is not None:
        for kind, body in objects.children(owner):
            await api.apply(kind, body, field_manager=names.FIELD_MANAGER)
        status = objects.status(owner)
        await api.apply(QUANTIZED_MODEL, status, field_manager=names.STATUS_FIELD_MANAGER, subresource="status")
    created.put_nowait(None)  # the others end too


class Objects:
    """The objects of one model, made by the operator's own builders from a plan that is known already."""

    def __init__(self, spec: Manifest, facts: ModelFacts, outcome: Plan, settings: Settings) -> None:
        self._spec = QuantizedModelSpec.model_validate(spec)
        self._hashes = (inputs_hash(spec, ""), pod_hash(spec))
        self._facts = facts
        self._plan = outcome
        self._engine = engine_settings(settings)
        self._files = children.engine_files()

    @classmethod
    async def planned(cls, site: Site, repository: str, hub_url: str) -> Objects:
        """Plans once, as the operator would. Raises what the Hub's client raises; ValueError where nothing fits."""
        settings = Settings.model_validate({"hub": {"endpoint": hub_url}})
        spec = {"model": {"repository": repository}}
        model = QuantizedModelSpec.model_validate(spec)
        hub = Hub(endpoint=hub_url, token=None)
        try:
            facts = await hub.describe(repository)
        finally:
            await hub.close()
        store = Store()
        store.replace(kinds.NODE, site.installation.list("nodes", None))
        outcome = plan(intent_of(model), facts, store.fleet, engine_profile(engine_settings(settings)))
        if not isinstance(outcome, Plan):
            raise ValueError(f"the benchmark's model was refused: {outcome.message}")
        return cls(spec, facts, outcome, settings)

    def children(self, owner: Owner) -> list[tuple[Kind, Manifest]]:
        """In the operator's order."""
        data = self._decision(owner).to_data()
        revision = names.revision_name(owner, data)
        how = children.Replacement.SURGE
        return [
            (kinds.CONTROLLER_REVISION, children.build_revision(owner, revision, 1, data)),
            (kinds.CONFIG_MAP, children.build_files(owner, self._files)),
            (kinds.SERVICE, children.build_service(owner)),
            (kinds.DEPLOYMENT, children.build_deployment(owner, revision, data["template"], 1, how)),
        ]

    def status(self, owner: Owner) -> Manifest:
        decision = self._decision(owner)
        known = Known(
            owner=owner,
            generation=1,
            plan_mode=False,
            decision=decision,
            update_revision=names.revision_name(owner, decision.to_data()),
            current_revision="",
            resolved=True,
            rollout=_NO_PODS,
        )
        return {
            "apiVersion": owner.api_version,
            "kind": owner.kind,
            "metadata": {"namespace": owner.namespace, "name": owner.name, "uid": owner.uid},
            "status": with_times(build_status(known), {}, _EVENT_TIME),
        }

    def _decision(self, owner: Owner) -> decisions.Decision:
        return decisions.decide(owner, self._spec, self._hashes, self._facts, self._plan, self._engine, self._files)

"""Everything of the operator but the watches: store, queue, reconciler, Lease, probes, in one event loop.

It lives in a thread of its own, because kopf cancels whatever tasks were made after its start when it ends. The workers
pause until a full list has filled the store after each (re)start of the watches.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

import aiohttp

from kubequant.cluster import kinds
from kubequant.cluster.api import ApiError, HttpKubeApi, load_configuration
from kubequant.cluster.events import EventRecorder
from kubequant.cluster.kinds import Kind
from kubequant.cluster.lease import LeaseElection, LeaseTimes
from kubequant.manifests.names import OWNED_SELECTOR
from kubequant.reconcile.caching import Caching
from kubequant.reconcile.children import Children
from kubequant.reconcile.deciding import Deciding
from kubequant.reconcile.downloads import Downloads
from kubequant.reconcile.inspecting import Inspecting
from kubequant.reconcile.kinds import QUANTIZED_MODEL
from kubequant.reconcile.measuring import Measuring
from kubequant.reconcile.reconciler import Reconciler
from kubequant.reconcile.records import Key
from kubequant.reconcile.rolling import Rolling
from kubequant.reconcile.status_writer import StatusWriter
from kubequant.reconcile.store import LISTED, METADATA_SUFFICES, Store
from kubequant.reconcile.upstream import Upstream
from kubequant.runtime.configured import engine_settings, hub_client, inspector_settings, pod_files
from kubequant.runtime.download_progress import read_download_progress
from kubequant.runtime.engine_metrics import read_kv_cache_tokens
from kubequant.runtime.http import ProbeServer
from kubequant.runtime.logs import current_object
from kubequant.runtime.metrics import Metrics
from kubequant.runtime.profile import engine_profile
from kubequant.runtime.queue import WorkQueue
from kubequant.runtime.settings import Settings, gpu_pools, gpu_table

log = logging.getLogger(__name__)

CONTROLLER = "kubequant.dev/operator"
COALESCE_SECONDS = 0.2  # events of children come in bursts: pod, ReplicaSet, Deployment
LISTED_ANEW_SECONDS = 2.0  # a watch that is listed anew is not the only one: one full list for all
STUCK_SECONDS = 300.0
RETRY_SECONDS = 5.0
CLIENT_CONCURRENCY = 32


class Core:
    """Make it, then `start()` it, within its own event loop. `observe` is called by the watches, through the loop."""

    def __init__(self, settings: Settings, kubeconfig: str | None) -> None:
        self._settings = settings
        self._kubeconfig = kubeconfig
        self.metrics = Metrics()
        self.store = Store(gpu_pools(settings), gpu_table(settings))
        self._unplanned: set[Key] = set()
        self._fleet_seen = self.store.fleet
        self._fleet_check: asyncio.TimerHandle | None = None
        self._resync: asyncio.Task[None] | None = None
        self._listed_anew = asyncio.Event()
        self._http_started = False
        self._fills = 0
        self._listing = asyncio.Lock()
        self._abandoned: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Connects and serves the probes. Raises ConfigException or OSError with what is missing."""
        settings = self._settings
        self._api = HttpKubeApi(await load_configuration(self._kubeconfig), concurrency=CLIENT_CONCURRENCY)
        self._session = aiohttp.ClientSession(trust_env=False)  # pods are never reached through a proxy
        identity = f"{socket.gethostname()}_{os.getpid()}_{uuid4().hex[:8]}"
        # A client of its own: a renewal must not wait behind the workers' requests.
        self._lease_api = HttpKubeApi(await load_configuration(self._kubeconfig), concurrency=2)
        self.lease = LeaseElection(
            self._lease_api,
            settings.leader_election.namespace,
            settings.leader_election.name,
            identity,
            time.monotonic,
            LeaseTimes(
                duration=settings.leader_election.lease_seconds,
                renew_deadline=settings.leader_election.lease_seconds * 2 / 3,
                retry_period=settings.leader_election.lease_seconds / 7.5,
            ),
        )
        self._hub = hub_client(settings)
        self.queue: WorkQueue[Key] = WorkQueue(self._work, workers=settings.workers)
        self._measuring = Measuring(lambda address: read_kv_cache_tokens(self._session, address), self.queue.add)
        self._downloads = Downloads(
            lambda address: read_download_progress(self._session, address), self.queue.add, time.monotonic
        )
        self._upstream = Upstream(self._hub, self.queue.add, settings.hub.revision_check_seconds)
        self._events = EventRecorder(self._api, CONTROLLER, identity[:128])
        self._events.start()
        self._reconciler = self._assemble()
        self._probes = ProbeServer(
            self.metrics, trouble=self._trouble, refresh=self._refresh, started=lambda: self._http_started
        )
        await self._probes.start(settings.http_host, settings.http_port)
        self._http_started = True
        log.info("probes and metrics on port %d", self._probes.port)

    async def stop(self) -> None:
        """Ends the work, gives the Lease up, closes connections."""
        if self._resync:
            self._resync.cancel()
        await self.queue.stop()
        await self._measuring.close()
        await self._downloads.close()
        await self._upstream.close()
        await self._events.stop()
        if self.lease.leads:
            await self.lease.release()
        await self._hub.close()
        await self._session.close()
        await self._probes.stop()
        await self._lease_api.close()
        await self._api.close()

    def abandon(self) -> None:
        """The Lease is lost: what is under way ends now, not when the watches have ended."""
        self._abandoned = asyncio.get_running_loop().create_task(self.queue.stop())

    async def lead(self) -> None:
        """Returns once this process may work: it holds the Lease, and the kind is installed."""
        await self._kind_is_served()  # first: a Lease that is held must be renewed, and others may be luckier
        if self._settings.leader_election.enabled:
            await self.lease.acquire()
        self.metrics.leader.set(1)
        self.queue.start()
        self._resync = asyncio.create_task(self._resync_forever())

    async def filled(self) -> None:
        """The watches run: fill the store with full lists, then let the workers go."""
        if self._fills:
            self.metrics.watch_restarts.inc()
        self._fills += 1
        this_fill = self._fills
        while not await self._relisted():
            await asyncio.sleep(RETRY_SECONDS)
            if this_fill != self._fills:  # the watches were started once more: that fill goes on
                return
        self.queue.resume()
        log.info("works on %d models", len(self.store.model_keys()))

    async def _relisted(self) -> bool:
        """Whatever goes wrong is tried again: workers that stay paused would look healthy from outside."""
        try:
            async with self._listing:  # two at a time would each take what the other has not listed yet for gone
                await self.relist()
        except ApiError as error:
            log.warning("a full list failed, it is tried again: %s", error)
            return False
        except Exception:
            log.exception("a full list failed, it is tried again")
            return False
        return True

    async def relist(self) -> None:
        """Full lists of everything that is watched; every model is looked at again."""
        for kind in LISTED:
            selector = "" if kind in (QUANTIZED_MODEL, kinds.NODE) else OWNED_SELECTOR
            self.store.begin_list(kind)
            lean = kind in METADATA_SUFFICES
            async for body in self._api.list(kind, label_selector=selector, metadata_only=lean):
                self.store.listed(kind, body)
            self.store.end_list(kind)
        self._fleet_may_have_changed()
        for key in self.store.model_keys():
            self.queue.add(key)

    def observe(self, kind: Kind, change: str | None, body: Mapping[str, Any]) -> None:
        """One event of a watch. `change` is None for what a watch lists when it begins (anew)."""
        if change is None:
            self._listed_anew.set()  # what went while the watch was broken is not told: only a full list shows it
        key = self.store.remove(kind, body) if change == "DELETED" else self.store.put(kind, body)
        if kind == kinds.NODE:
            self._fleet_may_have_changed()
        elif key is None:
            return
        elif kind == QUANTIZED_MODEL:
            self.queue.add(key)
        else:
            self.queue.add_after(key, COALESCE_SECONDS)

    def _assemble(self) -> Reconciler:
        files, engine = pod_files(self._settings), engine_settings(self._settings)
        children = Children(self._api, self.store)
        deciding = Deciding(
            api=self._api,
            store=self.store,
            hub=self._hub,
            inspecting=Inspecting(
                api=self._api,
                store=self.store,
                children=children,
                settings=inspector_settings(self._settings),
                clock=time.time,
            ),
            engine=engine,
            profile=engine_profile(engine),
            files=files,
            clock=time.monotonic,
            discovery=self._settings.discovery.enabled,
        )
        caching = Caching(
            api=self._api, store=self.store, children=children, deciding=deciding, files=files, clock=time.time
        )
        rolling = Rolling(
            api=self._api,
            store=self.store,
            children=children,
            deciding=deciding,
            caching=caching,
            files=files,
            clock=time.time,
        )
        return Reconciler(
            store=self.store,
            deciding=deciding,
            rolling=rolling,
            caching=caching,
            children=children,
            downloads=self._downloads,
            measuring=self._measuring,
            status=StatusWriter(self._api, self._events, time.time),
            upstream=self._upstream,
        )

    async def _work(self, key: Key) -> float | None:
        current_object.set("/".join(key))  # not reset: the queue's own line about a failure is about this object too
        try:
            with self.metrics.reconcile_seconds.time():
                result = await self._reconciler.reconcile(key)
        except Exception:
            self.metrics.reconciles.labels("error").inc()
            raise
        self.metrics.reconciles.labels("planned" if result.planned else "unplanned").inc()
        (self._unplanned.discard if result.planned else self._unplanned.add)(key)
        return result.requeue_after_seconds

    async def _kind_is_served(self) -> None:
        while True:
            try:
                async for _ in self._api.list(QUANTIZED_MODEL):
                    break
                return
            except ApiError as error:
                advice = (
                    "apply crds/ first" if error.is_not_found else "the ServiceAccount's ClusterRole stands in charts/"
                )
                log.warning("cannot list QuantizedModels (%s): %s. Again in %d s", error, advice, RETRY_SECONDS)
                await asyncio.sleep(RETRY_SECONDS)

    async def _resync_forever(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._listed_anew.wait(), self._settings.resync_seconds)
                await asyncio.sleep(LISTED_ANEW_SECONDS)
            self._listed_anew.clear()
            if not await self._relisted():
                await asyncio.sleep(RETRY_SECONDS)
                self._listed_anew.set()

    def _fleet_may_have_changed(self) -> None:
        """Nodes come in bursts: the fleet is compared once a burst, and what could not be planned is planned again."""
        if self._fleet_check is None:
            self._fleet_check = asyncio.get_running_loop().call_later(COALESCE_SECONDS, self._compare_fleet)

    def _compare_fleet(self) -> None:
        self._fleet_check = None
        fleet = self.store.fleet
        if fleet != self._fleet_seen:
            self._fleet_seen = fleet
            for key in list(self._unplanned):
                self.queue.add(key)

    def _trouble(self) -> str | None:
        longest = self.queue.longest_running_seconds()
        if longest > STUCK_SECONDS:
            return f"a reconcile has been under way for {int(longest)} s, more than {int(STUCK_SECONDS)} s"
        return None

    def _refresh(self) -> None:
        self.metrics.queue_depth.set(len(self.queue))
        self.metrics.leader.set(1 if self.lease.leads or not self._settings.leader_election.enabled else 0)
        for resource, count in self.store.size().items():
            self.metrics.objects.labels(resource).set(count)
        self.metrics.models.clear()
        ready = (model.transitions.get("Ready") for model in self.store.models())
        for (status, reason), count in Counter((r.status, r.reason) if r else ("Unknown", "") for r in ready).items():
            self.metrics.models.labels(status, reason).set(count)

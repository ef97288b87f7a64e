"""Bodies as the API server sends them, and a whole reconciler over fakes: `World` is the small cluster of these tests.

world = World().model("m", replicas=2)
world.settle()                      reconciles until nothing is written any more
world.pod(ready=True)               a pod of the Deployment, at its revision
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from kubequant.cluster import kinds
from kubequant.cluster.events import EventRecorder
from kubequant.cluster.kinds import Kind
from kubequant.manifests.inspector import InspectorSettings
from kubequant.manifests.names import MODEL_LABEL, OUTCOME_ANNOTATION, REVISION_LABEL
from kubequant.manifests.recipe import CacheSettings
from kubequant.planning.engines.vllm import VLLM_0_33
from kubequant.reconcile.caching import Caching
from kubequant.reconcile.children import Children
from kubequant.reconcile.deciding import Deciding
from kubequant.reconcile.downloads import Downloads, Progress
from kubequant.reconcile.inspecting import Inspecting
from kubequant.reconcile.kinds import QUANTIZED_MODEL
from kubequant.reconcile.measuring import Measuring
from kubequant.reconcile.reconciler import Reconciler, Result
from kubequant.reconcile.rolling import Rolling
from kubequant.reconcile.status_writer import StatusWriter
from kubequant.reconcile.store import LISTED, Store
from kubequant.reconcile.upstream import Upstream
from tests.unit.fakes import FakeClock, FakeHub, FakeKubeApi
from tests.unit.manifests.making import ENGINE
from tests.unit.planning.models import model

FILES = {"launcher.py": "pass", "download.py": "pass"}
INSPECTOR = InspectorSettings("registry.example/kubequant:1", "IfNotPresent", "https://hub.example")
FACTS = model("Qwen2.5-7B").stored_as("AWQ").facts()
KEY = ("team-a", "m")
NOW = 1_000_000.0


def stamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def node_body(name: str = "n1", product: str = "NVIDIA-L4", gpus: int = 1, memory_mib: int = 23034) -> dict[str, Any]:
    labels = {
        "nvidia.com/gpu.product": product, "nvidia.com/gpu.memory": str(memory_mib), "nvidia.com/gpu.count": str(gpus),
        "nvidia.com/gpu.compute.major": "8", "nvidia.com/gpu.compute.minor": "9", "kubernetes.io/arch": "amd64",
    }  # fmt: skip
    return {
        "metadata": {"name": name, "labels": labels},
        "status": {"allocatable": {"cpu": "8", "nvidia.com/gpu": str(gpus)}},
    }


def model_body(name: str = "m", **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"namespace": "team-a", "name": name},
        "spec": {"model": {"repository": FACTS.repository}, "replicas": 1, **spec},
    }


def pod_body(
    name: str = "m-1", *, revision: str = "r1", model: str = "m", ready: bool = False, scheduled: bool = True,
    created: float = NOW, engine: dict[str, Any] | None = None, download: dict[str, Any] | None = None, **status: Any,
) -> dict[str, Any]:  # fmt: skip
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    if not scheduled:
        message = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
        conditions.append({"type": "PodScheduled", "status": "False", "message": message})
    expression = {"key": "nvidia.com/gpu.product", "operator": "In", "values": ["NVIDIA-L4"]}
    terms = [{"matchExpressions": [expression]}]
    return {
        "metadata": {
            "namespace": "team-a", "name": name, "creationTimestamp": stamp(created),
            "labels": {MODEL_LABEL: model, REVISION_LABEL: revision},
        },
        "spec": {
            "nodeName": "n1" if scheduled else "",
            "containers": [{"name": "engine", "resources": {"limits": {"nvidia.com/gpu": "1"}}}],
            "affinity": {
                "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
            },
        },
        "status": {
            "phase": "Running" if scheduled else "Pending", "podIP": "10.0.0.1" if scheduled else "",
            "conditions": conditions,
            "containerStatuses": [{"name": "engine", "ready": ready, **(engine or {})}],
            "initContainerStatuses": [{"name": "download", **(download or {})}],
            **status,
        },
    }  # fmt: skip


def running(since: float = NOW, **more: Any) -> dict[str, Any]:
    return {"state": {"running": {"startedAt": stamp(since)}}, **more}


class World:
    """A FakeKubeApi, a store that is filled as by watches, and the real reconciler. One event loop a step."""

    def __init__(
        self,
        *,
        gpus: int = 4,
        hub: FakeHub | None = None,
        inspector: InspectorSettings | None = INSPECTOR,
        cache: CacheSettings | None = None,
    ) -> None:
        self.inspector = inspector
        self.engine = replace(ENGINE, cache=cache)
        self.api, self.clock, self.hub = FakeKubeApi(), FakeClock(NOW), hub or FakeHub(FACTS)
        self.tokens: int | None = None
        self.progress: Progress | None = None  # what a pod that downloads would answer after POLL_SECONDS
        self.asked: list[str] = []
        self._followed: dict[tuple[str, str], Any] = {}
        self.api.put(kinds.NODE, node_body(gpus=gpus))
        self.restart()

    def restart(self) -> None:
        """A new process: nothing is remembered but what the API server holds."""
        self.store = Store()
        children = Children(self.api, self.store)
        deciding = Deciding(
            api=self.api,
            store=self.store,
            hub=self.hub,
            inspecting=Inspecting(
                api=self.api, store=self.store, children=children, settings=self.inspector, clock=self.clock
            ),
            engine=self.engine,
            profile=replace(VLLM_0_33),
            files=FILES,
            clock=self.clock,
        )
        caching = Caching(
            api=self.api, store=self.store, children=children, deciding=deciding, files=FILES, clock=self.clock
        )
        rolling = Rolling(
            api=self.api,
            store=self.store,
            children=children,
            deciding=deciding,
            caching=caching,
            files=FILES,
            clock=self.clock,
        )

        async def read(_address: str) -> int | None:
            return self.tokens

        self._parts = (children, deciding, rolling, caching, read)
        self._events = EventRecorder(self.api, "test", "test")
        self._status = StatusWriter(self.api, self._events, self.clock)
        self._measuring: Measuring | None = None

    def model(self, name: str = "m", **spec: Any) -> World:
        self.api.put(QUANTIZED_MODEL, self._with_status(model_body(name, **spec)))
        return self

    def annotate(self, key: str, value: str) -> None:
        body = self.body(QUANTIZED_MODEL)
        body["metadata"].setdefault("annotations", {})[key] = value
        self.api.put(QUANTIZED_MODEL, body)

    def pod(self, name: str = "m-1", **more: Any) -> World:
        self.api.put(kinds.POD, pod_body(name, **{"revision": self.deployed, **more}))
        return self

    @property
    def deployed(self) -> str:
        return str(self.body(kinds.DEPLOYMENT)["metadata"]["annotations"]["kubequant.dev/revision"])

    def body(self, kind: Kind, name: str = "m") -> dict[str, Any]:
        return dict(next(body for body in self.api.all(kind) if body["metadata"]["name"] == name))

    def outcomes(self) -> list[str]:
        revisions = sorted(self.api.all(kinds.CONTROLLER_REVISION), key=lambda body: body["revision"])
        return [body["metadata"].get("annotations", {}).get(OUTCOME_ANNOTATION, "") for body in revisions]

    def conditions(self) -> dict[str, tuple[str, str]]:
        status = self.body(QUANTIZED_MODEL)["status"]
        return {condition["type"]: (condition["status"], condition["reason"]) for condition in status["conditions"]}

    def message(self, kind: str) -> str:
        status = self.body(QUANTIZED_MODEL)["status"]
        return next(str(condition["message"]) for condition in status["conditions"] if condition["type"] == kind)

    def sync(self) -> None:
        """What the watches bring."""
        for kind in LISTED:
            self.store.begin_list(kind)
            self.store.replace(kind, self.api.all(kind))

    def step(self, key: tuple[str, str] = KEY) -> Result:
        self.sync()

        async def main() -> Result:
            children, deciding, rolling, caching, read = self._parts
            if self._measuring is None:
                self._measuring = Measuring(read, lambda _: None)
            self._measuring._slots = asyncio.Semaphore(1)  # of this step's event loop
            upstream = Upstream(self.hub, lambda _: None, 1e6)  # its looks belong to one event loop

            async def read_progress(address: str) -> Progress | None:
                self.asked.append(address)
                return self.progress

            downloads = Downloads(read_progress, lambda _: None, self.clock)
            downloads._followed = self._followed  # what was told outlives a step, its task does not
            reconciler = Reconciler(
                store=self.store, deciding=deciding, rolling=rolling, caching=caching, children=children,
                downloads=downloads, measuring=self._measuring, status=self._status, upstream=upstream,
            )  # fmt: skip
            result = await reconciler.reconcile(key)
            await self._events.flush()
            for _ in range(4):
                await asyncio.sleep(0)
            await upstream.close()
            await downloads.close()
            for followed in self._followed.values():
                followed.task = None
            return result

        return asyncio.run(main())

    def settle(self) -> list[tuple[str, str, str]]:
        """Steps until one writes nothing. Returns what was written."""
        before = len(self.api.writes())
        for _ in range(8):
            count = len(self.api.writes())
            self.step()
            if len(self.api.writes()) == count:
                return self.api.writes()[before:]
        raise AssertionError(f"writes without end: {self.api.writes()[before:]}")

    def _with_status(self, body: dict[str, Any]) -> dict[str, Any]:
        for old in self.api.all(QUANTIZED_MODEL):
            if old["metadata"]["name"] == body["metadata"]["name"]:
                return {**old, "spec": body["spec"]}
        return body

"""The order of the measurements. One run needs two control planes, alike but for who works on them: operator or bare script.

bare 200 | one model, 200 models, idle, restart | bare 1,000 | 1,000 models, restart: the two alternate, so that both meet the
machine in the same mood, and each works on a cluster with the same history.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from bench import bare_script, process
from bench.figures import Figure, counted_writes, percentile
from bench.site import Site
from tests.fakehub import FakeHub
from tests.fakehub.standard import standard_repositories
from tests.harness import OperatorProcess

REPOSITORY = "Qwen/Qwen2.5-7B-Instruct-AWQ"
BURSTS = (200, 1000)
WARM_UP_MODELS = 8  # the first objects of a kind cost the API server more than those that follow
NEW_NODES_SECONDS = 20.0  # Kubernetes' own controllers patch each new node, 20 a second
IDLE_SECONDS = 30.0
SETTLE_SECONDS = 5.0  # after the last model is Ready: what comes late is counted too
SECONDS_FOR_BURST = 300.0
SECONDS_TO_READY = 600.0  # the controllers of Kubernetes write 20 times a second: 1,000 models take minutes


@dataclass
class Run:
    """Measures, and collects figures. `report` is told what is being done."""

    folder: Path
    report: Callable[[str], None]
    bursts: tuple[int, ...] = BURSTS
    figures: list[Figure] = field(default_factory=list)

    def measure(self) -> list[Figure]:
        """Raises TimeoutError, ClusterError, and what the parts raise."""
        with FakeHub(standard_repositories()) as hub, contextlib.ExitStack() as bare_life, Site.temporary() as site:
            bare = bare_life.enter_context(Site.temporary())
            operator = OperatorProcess(
                site.installation.operator_kubeconfig,
                {"hub": {"endpoint": hub.url}, "leaderElection": {"leaseSeconds": 15}},
                self.folder,
            )
            time.sleep(NEW_NODES_SECONDS)
            first, *others = self.bursts
            bare.make_namespace("warm-up")
            bare_script.run(bare, "warm-up", WARM_UP_MODELS, REPOSITORY, hub.url, SECONDS_FOR_BURST)
            baseline = self._bare(bare, hub, first)
            with operator:
                operator.wait_until_working()
                self._warm_up(site)
                self._one_model(site)
                self._burst(site, operator, first, baseline)
                self._idle(site, hub, operator)
                self._restart(site, hub, operator, first)
                for count in others:
                    baseline = self._bare(bare, hub, count)
                    bare_life.close()
                    self._burst(site, operator, count, baseline)
                if others:
                    self._restart(site, hub, operator, sum(self.bursts))
        return self.figures

    def _bare(self, site: Site, hub: FakeHub, count: int) -> float:
        """The p99 of the bare script; it returns once its Deployments are ready, unless they are too many to wait for."""
        self.report(f"the bare script: {count} models")
        namespace, since = f"models-{count}", site.installation.now()
        site.make_namespace(namespace)
        ran = bare_script.run(site, namespace, count, REPOSITORY, hub.url, SECONDS_FOR_BURST)
        p99 = self._latencies(site, namespace, since, count, "bare script")
        self._add("cpu-a-model", f"bare script, {count} models", 1000 * ran.cpu_seconds / count, "ms")
        if count == self.bursts[0] and len(self.bursts) > 1:
            site.wait_for_pods(namespace, count, SECONDS_TO_READY)
        return p99

    def _warm_up(self, site: Site) -> None:
        site.make_namespace("warm-up")
        site.create("warm-up", WARM_UP_MODELS, REPOSITORY, SECONDS_FOR_BURST)
        self._wait_until_ready(site, "warm-up", WARM_UP_MODELS)

    def _one_model(self, site: Site) -> None:
        self.report("one model on a quiet cluster")
        since = site.installation.now()
        site.make_namespace("one")
        site.create("one", 1, REPOSITORY, SECONDS_FOR_BURST)
        self._wait_until_ready(site, "one", 1)
        self._writes("writes-of-one-model", "one model", site, since, 1)

    def _burst(self, site: Site, operator: OperatorProcess, count: int, baseline: float) -> None:
        self.report(f"the operator: {count} models at once")
        namespace, since = f"models-{count}", site.installation.now()
        site.make_namespace(namespace)
        before = process.cpu_seconds(operator.pid)
        site.create(namespace, count, REPOSITORY, SECONDS_FOR_BURST)
        site.wait_for_count("deployments", namespace, count, SECONDS_FOR_BURST)
        p99 = self._latencies(site, namespace, since, count, "operator")
        self._add("create-to-deployment-ratio", f"{count} models", p99 / baseline)
        self.report(f"the operator: until {count} models are Ready")
        self._wait_until_ready(site, namespace, count)
        self._add(
            "cpu-a-model",
            f"operator, {count} models",
            1000 * (process.cpu_seconds(operator.pid) - before) / count,
            "ms",
        )
        self._writes("writes-a-model", f"{count} models", site, since, count)
        self._memory(operator, f"after {count} models more")

    def _memory(self, operator: OperatorProcess, case: str) -> None:
        now, peak = process.memory_mib(operator.pid)
        self._add("memory", case, now, "MiB")
        self._add("memory-peak", case, peak, "MiB")

    def _idle(self, site: Site, hub: FakeHub, operator: OperatorProcess) -> None:
        self.report(f"idle for {IDLE_SECONDS:g} s")
        since, before = site.installation.now(), process.cpu_seconds(operator.pid)
        time.sleep(IDLE_SECONDS)
        self._writes("writes-when-idle", f"{self.bursts[0]} models, {IDLE_SECONDS:g} s", site, since, 1)
        used = process.cpu_seconds(operator.pid) - before
        self._add("cpu-when-idle", f"{self.bursts[0]} models", 100 * used / IDLE_SECONDS, "% of a core")

    def _restart(self, site: Site, hub: FakeHub, operator: OperatorProcess, models: int) -> None:
        self.report("the operator is started again")
        operator.stop()
        hub.requests.clear()
        since = site.installation.now()
        operator.start().wait_until_working()
        time.sleep(SETTLE_SECONDS)
        case = f"{models} Ready models"
        self._writes("writes-of-a-restart", case, site, since, 1)
        self._memory(operator, f"started with {models} models")
        self._add("hub-requests-of-a-restart", case, len(hub.requests.select()))

    def _latencies(self, site: Site, namespace: str, since: datetime, count: int, who: str) -> float:
        seconds = site.create_to_deployment(namespace, since)
        for percent in (50, 99):
            self._add(f"create-to-deployment-p{percent}", f"{who}, {count} models", percentile(seconds, percent), "s")
        return percentile(seconds, 99)

    def _wait_until_ready(self, site: Site, namespace: str, count: int) -> None:
        site.wait_for_pods(namespace, count, SECONDS_TO_READY)
        site.wait_for_ready(namespace, count, SECONDS_FOR_BURST)
        time.sleep(SETTLE_SECONDS)

    def _writes(self, name: str, case: str, site: Site, since: datetime, models: int) -> None:
        writes = counted_writes(site.operator_requests(since))
        self._add(name, case, sum(writes.values()) / models)
        for words, number in sorted(writes.items()):
            self.report(f"  {number} {words}")

    def _add(self, name: str, case: str, value: float, unit: str = "") -> None:
        self.figures.append(Figure(name, case, value, unit))
        self.report(f"  {name} ({case}): {value:g} {unit}".rstrip())

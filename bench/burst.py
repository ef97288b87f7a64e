"""500 models of 40 repositories at once, under a Hub that answers 429 to 30 % of requests and is dead for a minute.

The operator runs as a process on a real API server; models are in mode Plan, so that resolving is all there is to do.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

from bench.figures import Figure
from bench.site import ROOT
from tests.fakehub import FakeHub, rate_limited
from tests.fakehub.family import sibling
from tests.harness import Installation, OperatorProcess, wait_for
from tests.harness.api_server import path_of
from tests.localcluster import Cluster

MODELS, REPOSITORIES = 500, 40
SHARE_REFUSED = 0.3
RESET_SECONDS = 2  # what each 429 asks for
DEAD_SECONDS = 60.0
SECONDS_TO_RESOLVE = 600.0
RESOLVER_LIMIT, API_LIMIT, WINDOW_SECONDS = 120, 60, 10.0  # far below what the Hub allows, so that it is met
NAMESPACE = "burst"


def figures(folder: Path, report: Callable[[str], None]) -> list[Figure]:
    """Raises TimeoutError where a model is not resolved in time, ClusterError and CalledProcessError."""
    repositories = [sibling(f"example/burst-{number}", "awq") for number in range(REPOSITORIES)]
    with FakeHub(repositories) as hub, Cluster.temporary(fleets=["rtx4090"], report=lambda _: None) as cluster:
        installation = Installation(cluster)
        configuration = {"hub": {"endpoint": hub.url}}
        with OperatorProcess(installation.operator_kubeconfig, configuration, folder) as operator:
            operator.wait_until_working()
            hub.faults.add(rate_limited(share=SHARE_REFUSED, reset_seconds=RESET_SECONDS))
            hub.limits.set("api", API_LIMIT, WINDOW_SECONDS)
            hub.limits.set("resolvers", RESOLVER_LIMIT, WINDOW_SECONDS)
            report(f"{MODELS} models of {REPOSITORIES} repositories, the Hub refuses {SHARE_REFUSED:.0%} of requests")
            began = time.monotonic()
            _create(installation, [repository.id for repository in repositories])
            _wait_until(installation, MODELS // 10)
            report(f"the Hub is dead for {DEAD_SECONDS:g} s")
            hub.dead()
            time.sleep(DEAD_SECONDS)
            hub.alive()
            _wait_until(installation, MODELS)
            seconds = time.monotonic() - began
    return _judged(hub, seconds)


def _create(installation: Installation, repositories: list[str]) -> None:
    kubeconfig = str(installation.cluster.kubeconfig)
    installation.api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    command = [sys.executable, "-m", "bench.create_models", kubeconfig, NAMESPACE, str(MODELS), *repositories]
    subprocess.run([*command, "--mode", "Plan"], cwd=ROOT, stdout=subprocess.DEVNULL, check=True, timeout=300)


def _wait_until(installation: Installation, resolved: int) -> None:
    def count() -> bool:
        models = installation.api.send("GET", path_of("quantizedmodels", NAMESPACE))["items"]
        return sum(map(_is_resolved, models)) >= resolved

    wait_for(f"{resolved} models to be resolved", count, seconds=SECONDS_TO_RESOLVE, every=1.0)


def _is_resolved(model: dict[str, object]) -> bool:
    status = model.get("status")
    return isinstance(status, dict) and bool(status.get("modelCommit"))


def _judged(hub: FakeHub, seconds: float) -> list[Figure]:
    case = f"{MODELS} models of {REPOSITORIES} repositories"
    reads = _reads_of_weight_files(hub)
    return [
        Figure("burst-described-again", case, sum(min(files.values()) - 1 for files in reads.values())),
        Figure("burst-files-read-again", case, sum(sum(files.values()) - len(files) for files in reads.values())),
        Figure("burst-requests-over-budget", case, len(hub.limits.overstepped)),
        Figure("burst-requests-a-repository", case, hub.requests.count() / REPOSITORIES),
        Figure("burst-seconds", f"{case}, {DEAD_SECONDS:g} of them dead", seconds, "s"),
    ]


def _reads_of_weight_files(hub: FakeHub) -> dict[str, Counter[str]]:
    """By repository, how often the beginning of each of its files was sent: a description reads them all."""
    reads: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for request in hub.requests.select("^/repos/", role="cdn"):
        if request.status == 206 and (request.range or "").startswith("bytes=0-"):
            repository, _, file = request.path.removeprefix("/repos/").rpartition("/")
            reads[repository][file] += 1
    return reads

"""What goes wrong around the operator: it is killed, the API server restarts, watches break. It converges, and loses nothing."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kubequant.reconcile.store import WATCHED
from tests.fakehub import FakeHub
from tests.harness import Installation, OperatorProcess, QuantizedModelBuilder, make_model, wait_for
from tests.harness.api_proxy import ApiProxy
from tests.harness.installation import NAMESPACE, OPERATOR_USER, OWNED, OWNED_RESOURCES, WRITES
from tests.localcluster import Cluster

MODELS = 10
CONVERGE_SECONDS = 60
QUICK_SEEDS, ALL_SEEDS = range(3), range(23)
GPUS = {"product": "NVIDIA-L4", "count": 8, "memoryMiB": 23034, "computeCapability": "8.9", "family": "ada-lovelace"}
FLEET = {"name": "faults", "nodes": [{"name": "l4x8", "count": 8, "gpu": GPUS}]}


@pytest.fixture(scope="module")
def installation() -> Iterator[Installation]:
    """A cluster of its own: here its parts are stopped."""
    with Cluster.temporary(fleets=[FLEET]) as cluster:
        yield Installation(cluster)


@pytest.fixture
def configuration(hub: FakeHub) -> dict[str, Any]:
    """No relist helps during a test."""
    return {"hub": {"endpoint": hub.url}, "leaderElection": {"leaseSeconds": 3}, "resyncSeconds": 3600}


@pytest.fixture
def start(installation: Installation, tmp_path: Path) -> Iterator[Callable[..., OperatorProcess]]:
    """Starts operators, and ends them after the test."""
    processes: list[OperatorProcess] = []

    def start_one(configuration: dict[str, Any], kubeconfig: Path | None = None) -> OperatorProcess:
        folder = tmp_path / f"operator-{len(processes)}"
        folder.mkdir()
        processes.append(OperatorProcess(kubeconfig or installation.operator_kubeconfig, configuration, folder))
        return processes[-1].start()

    yield start_one
    for process in processes:
        if process.exit_code is None:
            process.kill()
    installation.api.delete("leases", "kubequant-operator", NAMESPACE)  # spares the next test the wait for its end


Start = Callable[..., OperatorProcess]


def ready_models(installation: Installation, namespace: str, count: int) -> None:
    for number in range(count):
        installation.apply(make_model(f"m{number}", namespace))
    for number in range(count):
        installation.wait_condition(f"m{number}", "Ready", "True", namespace=namespace, seconds=CONVERGE_SECONDS)


def pod_uids(installation: Installation, namespace: str) -> set[str]:
    return {pod["metadata"]["uid"] for pod in installation.list("pods", namespace, OWNED)}


# --- killed ------------------------------------------------------------------------------------------------------


def storm(chance: random.Random, namespace: str) -> Iterator[tuple[str, QuantizedModelBuilder | None]]:
    """Models created, then changed or deleted (None), in an order and with values that the seed decides."""
    names = [f"m{number}" for number in range(MODELS)]
    yield from ((name, make_model(name, namespace)) for name in names)
    for name in chance.sample(names, MODELS):
        model = make_model(name, namespace)
        yield (
            name,
            chance.choice(
                [
                    None,
                    model.context(chance.choice([4096, 8192])),
                    model.replicas(chance.choice([0, 2])),
                    model.pod(labels={"round": str(chance.randrange(9))}),
                ]
            ),
        )


@pytest.mark.parametrize(
    "seed",
    [pytest.param(seed, marks=[] if seed in QUICK_SEEDS else [pytest.mark.faults]) for seed in ALL_SEEDS],
)
def test_killed_in_the_middle_of_a_storm(
    installation: Installation, configuration: dict[str, Any], start: Start, namespace: str, seed: int
) -> None:
    chance = random.Random(seed)
    operator = start(configuration).wait_until_working()
    killed_at, wanted = chance.randrange(2 * MODELS), {}
    for step, (name, model) in enumerate(storm(chance, namespace)):
        if model:
            installation.apply(model)
        else:
            installation.delete("qm", name, namespace)
        wanted[name] = model
        if step == killed_at:
            time.sleep(chance.uniform(0, 0.6))  # the random point
            operator.kill()
            operator.start()
    for name, model in wanted.items():
        if model:
            installation.wait_condition(name, "Ready", "True", namespace=namespace, seconds=CONVERGE_SECONDS)
    assert_exactly(installation, namespace, {name for name, model in wanted.items() if model})


def assert_exactly(installation: Installation, namespace: str, names: set[str]) -> None:
    """Each model has one of everything, no decision twice, and nothing is left of the others."""

    def owners(resource: str) -> Counter[str]:
        found = installation.list(resource, namespace, OWNED)
        return Counter(item["metadata"]["labels"]["kubequant.dev/model"] for item in found)

    wait_for(
        "what deleted models owned to be gone",
        lambda: all(set(owners(resource)) <= names for resource in OWNED_RESOURCES.split(",")),
        seconds=CONVERGE_SECONDS,
    )
    for resource in ("deployments", "services", "configmaps"):
        assert owners(resource) == Counter(dict.fromkeys(names, 1))
    for name in names:
        revisions = installation.revisions(name, namespace)
        decided = [(r["data"]["inputsHash"], r["data"]["podHash"]) for r in revisions]
        assert len(decided) == len(set(decided)), "a decision was made twice"
        assert len({r["revision"] for r in revisions}) == len(revisions), "two revisions have one number"
        serving = installation.existing("deployment", name, namespace)["metadata"]["annotations"]
        assert serving["kubequant.dev/revision"] == revisions[-1]["metadata"]["name"]


# --- restarted ---------------------------------------------------------------------------------------------------


def test_a_restart_with_ready_models_writes_nothing_and_asks_nothing(
    installation: Installation, configuration: dict[str, Any], start: Start, hub: FakeHub, namespace: str
) -> None:
    first = start(configuration).wait_until_working()
    ready_models(installation, namespace, 20)
    pods = pod_uids(installation, namespace)
    first.stop()
    since, asked = installation.now(), hub.requests.count()
    second = start(configuration).wait_until_working()
    # A model that is created now is worked on after the others, which were queued before it.
    installation.apply(make_model("last", namespace))
    installation.wait_condition("last", "Ready", "True", namespace=namespace)
    written = {
        (entry.key.verb, entry.key.resource, entry.name)
        for entry in operator_writes(installation, since)
        if not entry.name.startswith("last")
    }
    assert written == set()
    assert pod_uids(installation, namespace) > pods
    facts_of_last = hub.requests.count()
    assert "decided m" not in second.log_of_this_run()
    assert facts_of_last - asked <= 8, "only the new model was asked for"


def operator_writes(installation: Installation, since: Any) -> list[Any]:
    return [
        entry
        for entry in installation.cluster.audit_entries(OPERATOR_USER, since)
        if entry.key.verb in WRITES and entry.key.resource not in ("leases", "events")
    ]


def test_a_newer_engine_image_restarts_nothing(
    installation: Installation, configuration: dict[str, Any], start: Start, namespace: str
) -> None:
    first = start(configuration).wait_until_working()
    ready_models(installation, namespace, 3)
    pods = pod_uids(installation, namespace)
    first.stop()
    newer = {**configuration, "engine": {"image": "registry.example/vllm:newer"}}
    start(newer).wait_until_working()
    installation.apply(make_model("new", namespace))
    installation.wait_condition("new", "Ready", "True", namespace=namespace)
    assert images(installation, "new", namespace) == {"registry.example/vllm:newer"}
    assert pods < pod_uids(installation, namespace)

    installation.patch("qm", "m0", {"spec": {"pod": {"labels": {"team": "a"}}}}, namespace)
    installation.wait_condition("m0", "Ready", "True", namespace=namespace)
    assert images(installation, "m0", namespace) != {"registry.example/vllm:newer"}, "the same plan, the same engine"
    installation.patch("qm", "m0", {"metadata": {"annotations": {"kubequant.dev/replan": "1"}}}, namespace)
    wait_for("the newer engine", lambda: images(installation, "m0", namespace) == {"registry.example/vllm:newer"})


def images(installation: Installation, name: str, namespace: str) -> set[str]:
    pod = installation.existing("deployment", name, namespace)["spec"]["template"]["spec"]
    return {container["image"] for container in (*pod["containers"], *pod["initContainers"])}


def test_one_leads_and_the_other_takes_over(
    installation: Installation, configuration: dict[str, Any], start: Start, namespace: str
) -> None:
    leader = start(configuration).wait_until_working()
    standby = start(configuration)
    wait_for("the standby's probes", lambda: "probes and metrics" in standby.log_of_this_run())
    assert standby.get("/readyz")[0] == standby.get("/healthz")[0] == 200
    ready_models(installation, namespace, 2)
    assert "works on" not in standby.log()
    leader.kill()
    standby.wait_until_working(seconds=15)
    installation.apply(make_model("after", namespace))
    installation.wait_condition("after", "Ready", "True", namespace=namespace)

    heir = start(configuration)
    wait_for("the heir's probes", lambda: "probes and metrics" in heir.log_of_this_run())
    assert standby.stop() == 0
    heir.wait_until_working(seconds=5)  # at once: the Lease was given up


# --- the API server ----------------------------------------------------------------------------------------------


def test_the_api_server_restarts(
    installation: Installation, configuration: dict[str, Any], start: Start, namespace: str
) -> None:
    operator = start({**configuration, "leaderElection": {"leaseSeconds": 60}}).wait_until_working()
    ready_models(installation, namespace, 2)
    pods = pod_uids(installation, namespace)
    installation.cluster.restart_api_server()
    installation.apply(make_model("after", namespace))
    installation.delete("deployment", "m0", namespace)
    installation.wait_condition("after", "Ready", "True", namespace=namespace, seconds=CONVERGE_SECONDS)
    wait_for(
        "the deleted Deployment", lambda: installation.get("deployment", "m0", namespace), seconds=CONVERGE_SECONDS
    )
    assert operator.exit_code is None, "the same process goes on"
    assert pods & pod_uids(installation, namespace), "m1's pod was left alone"


@pytest.fixture
def proxy(installation: Installation, tmp_path: Path) -> Iterator[ApiProxy]:
    with ApiProxy(installation.operator_kubeconfig, tmp_path) as running:
        yield running


@pytest.mark.parametrize(
    ("code", "reason"), [(410, "Expired"), (500, "InternalError")], ids=["too old", "internal error"]
)
def test_the_server_ends_watches_with_an_error(
    installation: Installation,
    configuration: dict[str, Any],
    start: Start,
    proxy: ApiProxy,
    namespace: str,
    code: int,
    reason: str,
) -> None:
    operator = start(configuration, proxy.kubeconfig).wait_until_working()
    ready_models(installation, namespace, 2)
    since = installation.now()
    for _ in range(2):
        wait_for("watches of all kinds", lambda: proxy.open_watches >= len(WATCHED), seconds=20)
        assert proxy.say_into_watches(code, reason, "played by a test") >= len(WATCHED)
        wait_for("the watches to end", lambda: proxy.open_watches < len(WATCHED), seconds=5, every=0.01)
    installation.apply(make_model("after", namespace))
    installation.wait_condition("after", "Ready", "True", namespace=namespace, seconds=CONVERGE_SECONDS)
    installation.delete("service", "m0", namespace)
    wait_for("the deleted Service", lambda: installation.get("service", "m0", namespace), seconds=CONVERGE_SECONDS)
    assert operator.exit_code is None, "the same process goes on"
    written = [e for e in operator_writes(installation, since) if e.namespace == namespace and e.name.startswith("m1")]
    assert not written, "what nobody touched was not written"


def test_what_happens_while_watches_are_cut_is_not_lost(
    installation: Installation, configuration: dict[str, Any], start: Start, proxy: ApiProxy, namespace: str
) -> None:
    """A deletion that no watch brings is found by the full list that follows a broken watch."""
    operator = start(configuration, proxy.kubeconfig).wait_until_working()
    ready_models(installation, namespace, 3)
    with proxy.without_watches():
        installation.delete("deployment", "m0", namespace)
        installation.delete("qm", "m1", namespace)
        installation.apply(make_model("new", namespace))
        installation.patch("qm", "m2", {"spec": {"replicas": 2}}, namespace)
    wait_for(
        "the deleted Deployment", lambda: installation.get("deployment", "m0", namespace), seconds=CONVERGE_SECONDS
    )
    installation.wait_condition("new", "Ready", "True", namespace=namespace, seconds=CONVERGE_SECONDS)
    wait_for(
        "two replicas", lambda: installation.status("m2", namespace).get("readyReplicas") == 2, seconds=CONVERGE_SECONDS
    )
    assert operator.exit_code is None
    assert_exactly(installation, namespace, {"m0", "m2", "new"})

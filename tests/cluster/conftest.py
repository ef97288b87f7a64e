"""The cluster lane: one control plane, one fake Hub and one operator for all tests; each test has its own namespace."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakehub import FakeHub
from tests.fakehub.standard import STANDARD_RENAMED, STANDARD_TOKENS, standard_repositories
from tests.harness import Installation, OperatorProcess
from tests.harness.api_server import path_of
from tests.localcluster import Cluster

HERE = Path(__file__).parent
FIRST_TIME_SECONDS = 2400  # the first test of all builds Kubernetes, on a new machine and beside other lanes


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.cluster)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(FIRST_TIME_SECONDS))


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    with Cluster.temporary(fleets=["rtx4090", "a100-80"]) as running:
        yield running


@pytest.fixture(scope="session")
def installation(cluster: Cluster) -> Installation:
    return Installation(cluster)


@pytest.fixture(scope="session")
def hub() -> Iterator[FakeHub]:
    with FakeHub(standard_repositories(), tokens=STANDARD_TOKENS, renamed=STANDARD_RENAMED) as running:
        yield running


@pytest.fixture(scope="session")
def configuration(hub: FakeHub) -> dict[str, object]:
    return {
        "hub": {"endpoint": hub.url},
        "inspector": {"image": "registry.example/kubequant:test"},
        "leaderElection": {"leaseSeconds": 5},
        "resyncSeconds": 10,
    }


@pytest.fixture(scope="session")
def operator(
    installation: Installation, configuration: dict[str, object], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OperatorProcess]:
    """The one that most tests share. A test that kills or restarts it starts it again before it ends."""
    process = OperatorProcess(installation.operator_kubeconfig, configuration, tmp_path_factory.mktemp("operator"))
    with process as running:
        running.wait_until_working()
        yield running


@pytest.fixture
def namespace(installation: Installation) -> Iterator[str]:
    """A namespace of the test's own, which takes pods of Pod Security `restricted` alone."""
    name = f"t-{uuid.uuid4().hex[:8]}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    installation.api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    yield name
    # At once: a namespace takes a while to go, and a model that waits for something asks the Hub into the next test.
    installation.api.send("DELETE", path_of("quantizedmodels", name))
    installation.api.delete("namespaces", name)

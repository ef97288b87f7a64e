"""The node lane: a real kubelet runs what the operator makes. Skipped, visibly, where the machine cannot."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines.hardware import can_serve_w4a16
from tests.engines.tiny_model import tiny_models
from tests.fakehub import FakeHub
from tests.fakehub.standard import STANDARD_TOKENS, standard_repositories
from tests.harness import Installation, OperatorProcess
from tests.harness.engine import cpu_engine, tiny_repositories
from tests.localcluster import Cluster
from tests.localcluster.images import ensure_engine_image

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.node)
            item.add_marker(pytest.mark.timeout(2400))


@pytest.fixture(scope="session")
def node_cluster() -> Iterator[Cluster]:
    blockers = [*Cluster.real_node_blockers(), *filter(None, [can_serve_w4a16()])]
    if blockers:
        pytest.skip("pods cannot run on this machine, so nothing below is shown here: " + "; ".join(blockers))
    if name := os.environ.get("KUBEQUANT_CLUSTER"):  # a running one, to save its start while a test is written
        running_already = Cluster.find(name)
        assert running_already, f"there is no cluster {name}"
        yield running_already
        return
    with Cluster.temporary(real_node=True, real_node_file=HERE / "fake-gpus.yaml") as running:
        yield running


@pytest.fixture(scope="session")
def installation(node_cluster: Cluster) -> Installation:
    return Installation(node_cluster)


@pytest.fixture(scope="session")
def engine_image(node_cluster: Cluster) -> str:
    return ensure_engine_image(node_cluster)


@pytest.fixture(scope="session")
def hub() -> Iterator[FakeHub]:
    repositories = [*standard_repositories(), *tiny_repositories(tiny_models())]
    with FakeHub(repositories, tokens=STANDARD_TOKENS, host="0.0.0.0") as running:
        yield running


@pytest.fixture(scope="session")
def hub_address(hub: FakeHub, node_cluster: Cluster) -> str:
    """As pods and the operator reach it."""
    return hub.url_for(node_cluster.node_address)


@pytest.fixture(scope="session")
def operator(
    installation: Installation, engine_image: str, hub_address: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OperatorProcess]:
    configuration = {
        "engine": cpu_engine(engine_image),
        "hub": {"endpoint": hub_address},
        "leaderElection": {"leaseSeconds": 5},
    }
    folder = tmp_path_factory.mktemp("operator")
    with OperatorProcess(installation.operator_kubeconfig, configuration, folder) as running:
        running.wait_until_working()
        yield running

"""`kubequant plan REPOSITORY` with a Hub, and what is read of a cluster."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import Result

from kubequant.cluster.api import ApiError
from kubequant.cluster.kinds import NODE, POD, Kind
from kubequant.reconcile.kinds import QUANTIZED_MODEL
from tests.fakehub import FakeHub
from tests.fakehub.standard import STANDARD_RENAMED, STANDARD_TOKENS, standard_repositories
from tests.unit.cli.making import node, run
from tests.unit.fakes import FakeKubeApi

AWQ = "Qwen/Qwen2.5-7B-Instruct-AWQ"


@pytest.fixture(scope="module")
def hub() -> Iterator[FakeHub]:
    with FakeHub(standard_repositories(), tokens=STANDARD_TOKENS, renamed=STANDARD_RENAMED) as running:
        yield running


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> FakeKubeApi:
    """A cluster of two L4 nodes in place of whatever kube-config there is."""
    api = FakeKubeApi()
    for number, gpus in enumerate((4, 2)):
        api.put(NODE, node(f"n{number}", "NVIDIA-L4", gpus))

    @asynccontextmanager
    async def faked(kubeconfig: str | None) -> AsyncIterator[FakeKubeApi]:
        yield api

    monkeypatch.setattr("kubequant.cli.cluster._api", faked)
    return api


def plan(hub: FakeHub, *arguments: str | Path) -> Result:
    return run("plan", *arguments, KUBEQUANT_HUB__ENDPOINT=hub.url)


def manifest(folder: Path, **serving: Any) -> Path:
    body = {"kind": "QuantizedModel", "metadata": {"name": "m"}, "spec": {"model": {"repository": AWQ}}}
    body["spec"] = {"model": {"repository": AWQ}, "serving": serving}
    (folder / "qm.yaml").write_text(yaml.safe_dump(body))
    return folder / "qm.yaml"


def test_a_repository(hub: FakeHub) -> None:
    done = plan(hub, AWQ, "--gpu", "L4", "-o", "json")
    assert done.exit_code == 0 and done.stderr == ""
    assert json.loads(done.stdout)["plan"]["arguments"][:2] == ["--served-model-name", AWQ]


def test_the_deployment_downloads_the_pinned_commit(hub: FakeHub) -> None:
    made = yaml.safe_load(plan(hub, AWQ, "--gpu", "L4", "-o", "manifest").stdout)
    (download,) = made["spec"]["template"]["spec"]["initContainers"]
    arguments = dict(zip(download["args"][::2], download["args"][1::2], strict=True))
    assert arguments["--repository"] == AWQ and len(arguments["--revision"]) == 40
    assert made["metadata"]["name"] == "qwen2-5-7b-instruct-awq"


@pytest.mark.parametrize(
    ("repository", "reason"),
    [
        ("nobody/nothing", "RepositoryNotFound"),
        ("meta-llama/Llama-3.1-8B-Instruct", "AccessGated"),
        ("neuralmagic/Meta-Llama-3.1-8B-Instruct-FP8-dynamic", "RepositoryRenamed"),
    ],
)
def test_a_repository_that_is_refused(hub: FakeHub, repository: str, reason: str) -> None:
    done = plan(hub, repository, "--gpu", "L4", "-o", "json")
    assert done.exit_code == 3
    document = json.loads(done.stdout)
    assert (document["fits"], document["plan"], document["reason"]) == (False, None, reason)
    assert document["message"] and document["refusals"] == []


def test_gpus_of_other_makers_in_the_cluster_are_said(cluster: FakeKubeApi) -> None:
    cluster.put(NODE, {"metadata": {"name": "amd"}, "status": {"allocatable": {"amd.com/gpu": "8"}}})
    document = json.loads(run("gpus", "-o", "json").stdout)
    assert [other["node"] for other in document["notPlannedOn"]] == ["amd"] and document["nodes"] == 3


def test_a_bad_flag_is_misuse_before_anybody_is_asked(hub: FakeHub) -> None:
    hub.requests.clear()
    assert plan(hub, "nobody/nothing", "--gpu", "RTX-4909").exit_code == 2
    assert hub.requests.count() == 0


# --- the current cluster ---------------------------------------------------------------------------------------------


def test_the_current_cluster_is_the_default(hub: FakeHub, cluster: FakeKubeApi) -> None:
    done = plan(hub, AWQ, "-o", "json")
    assert done.exit_code == 0 and json.loads(done.stdout)["plan"]["gpuProduct"] == "NVIDIA-L4"
    assert cluster.writes() == []


def test_a_replan_that_changes_nothing_and_one_that_does(hub: FakeHub, cluster: FakeKubeApi, tmp_path: Path) -> None:
    file = manifest(tmp_path, contextTokens=8192)
    rolled_out = json.loads(plan(hub, "-f", file, "-o", "json").stdout)["plan"]
    live = {"metadata": {"name": "m", "namespace": "default"}, "status": {"plan": rolled_out}}
    cluster.put(QUANTIZED_MODEL, live)
    same = plan(hub, "-f", file, "--diff", "-o", "json")
    assert same.exit_code == 0 and json.loads(same.stdout)["changes"] == []
    done = plan(hub, "-f", file, "--context", "16384", "--diff", "-o", "json")
    changed = {change["field"]: (change["before"], change["after"]) for change in json.loads(done.stdout)["changes"]}
    assert changed["contextTokens"] == (8192, 16384) and "arguments" in changed
    assert "gpuProduct" not in changed
    text = plan(hub, "-f", file, "--context", "16384", "--diff").stdout
    assert "  contextTokens: 8,192 -> 16,384" in text
    assert cluster.writes() == []


def test_a_model_without_a_plan_gets_all_of_it(hub: FakeHub, cluster: FakeKubeApi, tmp_path: Path) -> None:
    cluster.put(QUANTIZED_MODEL, {"metadata": {"name": "m", "namespace": "default"}})
    done = plan(hub, "-f", manifest(tmp_path), "--diff", "-o", "json")
    changes = json.loads(done.stdout)["changes"]
    assert {change["before"] for change in changes} == {None} and len(changes) > 20


def test_diff_of_a_model_that_nobody_applied(hub: FakeHub, cluster: FakeKubeApi, tmp_path: Path) -> None:
    done = plan(hub, "-f", manifest(tmp_path), "--diff")
    assert done.exit_code == 2 and "no QuantizedModel default/m" in done.stderr


@pytest.mark.parametrize("status", [0, 403])
def test_a_cluster_that_says_no(hub: FakeHub, cluster: FakeKubeApi, status: int) -> None:
    cluster.fail = lambda verb, kind, name: ApiError(status, "No", "not today")
    done = plan(hub, AWQ)
    assert done.exit_code == 1 and "not today" in done.stderr and "--gpu PRODUCT" in done.stderr


def pod(name: str, on: str, gpus: str, phase: str = "Running") -> dict[str, Any]:
    limits = {"nvidia.com/gpu": gpus}
    spec = {"nodeName": on, "containers": [{"name": "c", "resources": {"limits": limits}}]}
    return {"metadata": {"name": name, "namespace": "x"}, "spec": spec, "status": {"phase": phase}}


def test_gpus_that_are_free_now(cluster: FakeKubeApi) -> None:
    for body in (pod("a", "n0", "3"), pod("b", "n1", "1"), pod("ended", "n1", "1", "Succeeded")):
        cluster.put(POD, body)
    (l4,) = json.loads(run("gpus", "-o", "json").stdout)["gpus"]
    assert (l4["gpus"], l4["free"]) == (6, 2)


def test_pods_that_may_not_be_listed_leave_free_unknown(cluster: FakeKubeApi) -> None:
    def no_pods(verb: str, kind: Kind, name: str) -> ApiError | None:
        return ApiError(403, "Forbidden", "pods is forbidden") if kind == POD else None

    cluster.fail = no_pods
    done = run("gpus", "-o", "json")
    assert done.exit_code == 0 and json.loads(done.stdout)["gpus"][0]["free"] is None

"""`kubequant plan` says what the operator would decide, with the rights to read nodes alone, and creates nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.fakehub import FakeHub
from tests.harness import Installation, OperatorProcess, make_model
from tests.localcluster import Cluster


def run(
    installation: Installation, hub: FakeHub, folder: Path, manifest: object, *flags: str, kubeconfig: str = ""
) -> subprocess.CompletedProcess[str]:
    file, configuration = folder / "model.yaml", folder / "operator.yaml"
    file.write_text(manifest if isinstance(manifest, str) else json.dumps(manifest))
    configuration.write_text(yaml.safe_dump({"hub": {"endpoint": hub.url}}))
    command = [sys.executable, "-m", "kubequant", "plan", str(file), "--config", str(configuration), *flags]
    return subprocess.run(
        [*command, "--kubeconfig", kubeconfig or str(installation.operator_kubeconfig)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_a_plan_is_explained(installation: Installation, hub: FakeHub, tmp_path: Path) -> None:
    result = run(installation, hub, tmp_path, make_model("qwen").manifest())
    assert result.returncode == 0, result.stderr
    assert "1 x NVIDIA-GeForce-RTX-4090" in result.stdout
    assert "KV cache" in result.stdout and "--max-model-len" in result.stdout
    assert installation.get("qm", "qwen") is None


def test_a_refusal_ends_with_three_and_its_number(installation: Installation, hub: FakeHub, tmp_path: Path) -> None:
    model = make_model("big").repository("hugging-quants/Meta-Llama-3.1-70B-Instruct-AWQ-INT4")
    result = run(installation, hub, tmp_path, model.gpu(products=["NVIDIA-GeForce-RTX-4090"], perReplica=1).manifest())
    assert result.returncode == 3
    assert "37.1 GiB" in result.stdout and "DoesNotFit" in result.stdout


def test_json_goes_to_the_standard_output_alone(installation: Installation, hub: FakeHub, tmp_path: Path) -> None:
    result = run(installation, hub, tmp_path, make_model("qwen").manifest(), "-o", "json")
    assert result.returncode == 0 and json.loads(result.stdout)["plan"]["gpuProduct"] == "NVIDIA-GeForce-RTX-4090"


def test_diff_needs_the_model_in_the_cluster(
    cluster: Cluster, installation: Installation, hub: FakeHub, tmp_path: Path
) -> None:
    manifest = make_model("nobody-applied-me").manifest()
    result = run(installation, hub, tmp_path, manifest, "--diff", kubeconfig=str(cluster.kubeconfig))
    assert result.returncode == 2 and "nobody-applied-me" in result.stderr


def test_diff_against_what_the_operator_decided(
    cluster: Cluster,
    installation: Installation,
    operator: OperatorProcess,
    hub: FakeHub,
    namespace: str,
    tmp_path: Path,
) -> None:
    model = make_model("m", namespace).context(8192).mode("Plan")
    installation.apply(model)
    installation.wait_condition("m", "Planned", "True", namespace=namespace)
    flags = ("--diff", "-o", "json")
    same = run(installation, hub, tmp_path, model.manifest(), *flags, kubeconfig=str(cluster.kubeconfig))
    assert same.returncode == 0 and json.loads(same.stdout)["changes"] == [], same.stdout
    longer = model.context(16384).manifest()
    done = run(installation, hub, tmp_path, longer, *flags, kubeconfig=str(cluster.kubeconfig))
    changes = {change["field"]: change["after"] for change in json.loads(done.stdout)["changes"]}
    assert changes["contextTokens"] == 16384 and "arguments" in changes


def test_the_api_server_takes_the_deployment(
    cluster: Cluster, installation: Installation, hub: FakeHub, tmp_path: Path
) -> None:
    result = run(installation, hub, tmp_path, make_model("qwen").manifest(), "-o", "manifest")
    assert result.returncode == 0, result.stderr
    file = tmp_path / "deployment.yaml"
    file.write_text(result.stdout)
    said = cluster.kubectl("apply", "--dry-run=server", "-f", str(file))
    assert "deployment.apps/qwen created (server dry run)" in said


def test_a_cluster_that_does_not_answer_ends_with_one(installation: Installation, hub: FakeHub, tmp_path: Path) -> None:
    nowhere = tmp_path / "kubeconfig"
    cluster = {"name": "c", "cluster": {"server": "http://127.0.0.1:9"}}
    context = {"name": "x", "context": {"cluster": "c", "user": "u"}}
    users = [{"name": "u", "user": {}}]
    nowhere.write_text(
        json.dumps({"current-context": "x", "clusters": [cluster], "contexts": [context], "users": users})
    )
    result = run(installation, hub, tmp_path, make_model("m").manifest(), kubeconfig=str(nowhere))
    assert result.returncode == 1 and "--fleet FILE" in result.stderr and "Traceback" not in result.stderr


def test_gpus_of_the_cluster_and_what_is_free(installation: Installation) -> None:
    command = [sys.executable, "-m", "kubequant", "gpus", "-o", "json"]
    result = subprocess.run(
        [*command, "--kubeconfig", str(installation.operator_kubeconfig)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    classes = {gpu["product"]: gpu for gpu in json.loads(result.stdout)["gpus"]}
    assert classes["NVIDIA-GeForce-RTX-4090"]["gpus"] > 0


def test_an_unknown_repository_is_said(installation: Installation, hub: FakeHub, tmp_path: Path) -> None:
    result = run(installation, hub, tmp_path, make_model("m").repository("nobody/nothing").manifest())
    assert result.returncode == 3 and "RepositoryNotFound" in result.stdout


@pytest.mark.parametrize(
    ("manifest", "said"), [("kind: Pod", "holds a Pod"), ("- a", "holds a list"), ("kind: [", "cannot be planned")]
)
def test_what_is_no_model_is_said(
    installation: Installation, hub: FakeHub, tmp_path: Path, manifest: str, said: str
) -> None:
    result = run(installation, hub, tmp_path, manifest)
    assert result.returncode == 2 and said in result.stderr and "Traceback" not in result.stderr

"""`kubequant plan` says what the operator would decide, with the rights to read nodes alone, and creates nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.fakehub import FakeHub
from tests.harness import Installation, make_model


def run(installation: Installation, hub: FakeHub, folder: Path, manifest: object) -> subprocess.CompletedProcess[str]:
    file, configuration = folder / "model.yaml", folder / "operator.yaml"
    file.write_text(manifest if isinstance(manifest, str) else json.dumps(manifest))
    configuration.write_text(yaml.safe_dump({"hub": {"endpoint": hub.url}}))
    kubeconfig = str(installation.operator_kubeconfig)
    command = [sys.executable, "-m", "kubequant", "plan", str(file), "--config", str(configuration)]
    return subprocess.run(
        [*command, "--kubeconfig", kubeconfig], capture_output=True, text=True, timeout=60, check=False
    )


def test_a_plan_is_explained(installation: Installation, hub: FakeHub, tmp_path: Path) -> None:
    result = run(installation, hub, tmp_path, make_model("qwen").manifest())
    assert result.returncode == 0, result.stderr
    assert "1 x NVIDIA-GeForce-RTX-4090" in result.stdout
    assert "KV cache" in result.stdout and "--max-model-len" in result.stdout
    assert installation.get("qm", "qwen") is None


def test_a_refusal_ends_with_two_and_its_number(installation: Installation, hub: FakeHub, tmp_path: Path) -> None:
    model = make_model("big").repository("hugging-quants/Meta-Llama-3.1-70B-Instruct-AWQ-INT4")
    result = run(installation, hub, tmp_path, model.gpu(products=["NVIDIA-GeForce-RTX-4090"], perReplica=1).manifest())
    assert result.returncode == 2
    assert "37.1 GiB" in result.stdout and "DoesNotFit" in result.stdout


def test_an_unknown_repository_is_said(installation: Installation, hub: FakeHub, tmp_path: Path) -> None:
    result = run(installation, hub, tmp_path, make_model("m").repository("nobody/nothing").manifest())
    assert result.returncode == 2 and "RepositoryNotFound" in result.stdout


@pytest.mark.parametrize(
    ("manifest", "said"), [("kind: Pod", "holds a Pod"), ("- a", "holds a list"), ("kind: [", "cannot be planned")]
)
def test_what_is_no_model_is_said(
    installation: Installation, hub: FakeHub, tmp_path: Path, manifest: str, said: str
) -> None:
    result = run(installation, hub, tmp_path, manifest)
    assert result.returncode == 1 and said in result.stderr and "Traceback" not in result.stderr

"""Model folders and calls of the command line, as tests put them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from kubequant.cli.main import main
from tests.fakehub import quantized_headers
from tests.fakehub.content import SparseContent
from tests.fakehub.safetensors_files import checkpoint_files
from tests.fakehub.tensors import model_config, model_tensors


def run(*arguments: str | Path, stdin: str | None = None, **environment: str | None) -> Result:
    """`kubequant ARGUMENTS`, with the standard output and the standard error apart."""
    runner = CliRunner(env={"KUBECONFIG": None, "HOME": "/nonexistent", **environment})
    return runner.invoke(main, [str(argument) for argument in arguments], input=stdin)


def answer(*arguments: str | Path) -> tuple[int, dict[str, Any]]:
    """Exit code and document of `kubequant plan ... -o json`."""
    done = run("plan", *arguments, "-o", "json")
    assert "Traceback" not in done.output, done.output
    return done.exit_code, json.loads(done.stdout)


def llama_70b_awq(folder: Path) -> Path:
    """Meta-Llama-3.1-70B-Instruct-AWQ-INT4: nine whole headers without the 37 GiB behind them."""
    return model_folder(folder, "llama-3.1-70b-awq", quantized_headers.awq_gemm(model_tensors("llama-3.1-70b")))


def qwen_7b_awq(folder: Path) -> Path:
    return model_folder(folder, "qwen2.5-7b-awq", quantized_headers.awq_gemm(model_tensors("qwen2.5-7b")))


def model_folder(folder: Path, config: str, tensors: list[Any], *, shard_bytes: int = 5_000_000_000) -> Path:
    """A folder as a download that was stopped leaves it: config.json and headers."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(model_config(config)), encoding="utf-8")
    for name, content in checkpoint_files(tensors, shard_bytes).items():
        raw = content.head if isinstance(content, SparseContent) else content.read(0, content.size)
        (folder / name).write_bytes(raw)
    return folder


def node(name: str, product: str, gpus: int, **more: Any) -> dict[str, Any]:
    """A Node as kubectl prints it, with the labels of GPU Feature Discovery; the shipped table knows the rest."""
    labels = {"kubernetes.io/hostname": name, "nvidia.com/gpu.product": product, "nvidia.com/gpu.count": str(gpus)}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "spec": {},
        "status": {"allocatable": {"cpu": "32", "memory": "256Gi", "nvidia.com/gpu": str(gpus)}},
        **more,
    }

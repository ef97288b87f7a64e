"""The demo's cluster with a Hub and the operator on it, as processes that outlive the command that started them."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests.engines.hardware import can_serve_w4a16
from tests.engines.tiny_model import tiny_models
from tests.harness import Installation, wait_for
from tests.harness.engine import TINY, TINY_AWQ, TINY_AWQ_FP8_KV, cpu_engine
from tests.localcluster import Cluster
from tests.localcluster.images import ensure_engine_image
from tests.localcluster.processes import Processes

CLUSTER = "demo"
ROOT = Path(__file__).resolve().parents[2]
FAKE_GPUS = ROOT / "tests/node/fake-gpus.yaml"


@dataclass(frozen=True)
class Environment:
    """What runs. `real` tells whether pods run; else KWOK plays them."""

    installation: Installation
    real: bool
    processes: Processes


def blockers() -> list[str]:
    """Why pods cannot run on this machine; empty when they can."""
    return [*Cluster.real_node_blockers(), *filter(None, [can_serve_w4a16()])]


def bring_up(real: bool) -> Environment:
    """Starts or adopts everything. Raises ClusterError, BuildError, TimeoutError."""
    print("-> a local Kubernetes (the first time on a machine its binaries are built: about 9 minutes)", flush=True)
    fleets = [] if real else ["rtx4090"]
    cluster = Cluster.up(CLUSTER, fleets=fleets, real_node=real, real_node_file=FAKE_GPUS if real else None)
    installation = Installation(cluster)
    folder = cluster.directory / "demo"
    folder.mkdir(exist_ok=True)
    processes = Processes(folder)
    engine = {}
    if real:
        print("-> the engine's image: vLLM for the CPU (minutes the first time)", flush=True)
        engine = {"engine": cpu_engine(ensure_engine_image(cluster))}
    endpoint = _start_hub(cluster, processes, folder, real)
    _start_operator(installation, processes, folder, {"hub": {"endpoint": endpoint}, **engine})
    return Environment(installation, real, processes)


def take_down() -> None:
    """Ends what `bring_up` started; nothing happens where nothing runs."""
    cluster = Cluster.find(CLUSTER)
    if cluster is None:
        return
    processes = Processes(cluster.directory / "demo")
    for name in ("operator", "hub"):
        processes.stop(name)
    cluster.down()


def _start_hub(cluster: Cluster, processes: Processes, folder: Path, real: bool) -> str:
    """The stand-in for the public Hub, with a tiny model that was trained and quantised on this machine."""
    command = [sys.executable, "-m", "tests.fakehub", "--port", "0", "--url-file", str(folder / "hub.url")]
    if real:
        print(
            "-> a tiny Llama, trained and quantised to AWQ by llm-compressor (about a minute the first time)",
            flush=True,
        )
        models = tiny_models()
        command += ["--host", "0.0.0.0", "--advertise", cluster.node_address]
        for repository, path in ((TINY, models.base), (TINY_AWQ, models.awq), (TINY_AWQ_FP8_KV, models.awq_fp8_kv)):
            command += ["--folder", f"{repository}={path}"]
        command += ["--quantized-of", f"{TINY_AWQ}={TINY}"]
    if not processes.is_alive("hub"):
        (folder / "hub.url").unlink(missing_ok=True)
    processes.start("hub", command)
    return wait_for("the fake Hub", lambda: _read(folder / "hub.url"))


def _start_operator(
    installation: Installation, processes: Processes, folder: Path, configuration: dict[str, object]
) -> None:
    file = folder / "operator.yaml"
    text = yaml.safe_dump({"httpPort": 0, **json.loads(json.dumps(configuration))})
    if processes.is_alive("operator") and _read(file) != text.strip():
        processes.stop("operator")
    file.write_text(text)
    command = [sys.executable, "-m", "kubequant", "operator"]
    processes.start("operator", [*command, "--config", file, "--kubeconfig", installation.operator_kubeconfig])
    log = processes.log("operator")
    wait_for(f"the operator to work (log: {log})", lambda: "works on " in (_read(log) or ""), seconds=60)


def _read(file: Path) -> str | None:
    return file.read_text(errors="replace").strip() if file.exists() else None

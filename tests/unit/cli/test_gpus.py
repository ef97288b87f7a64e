"""`kubequant gpus`: what a file of nodes holds, and the table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kubequant.planning.gpu_table import known_gpus
from tests.unit.cli.making import node, run

MIB = 1024**2


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    shared = node("d", "NVIDIA-A10-SHARED", 4)
    nodes = [node("a", "NVIDIA-L4", 4), node("b", "NVIDIA-L4", 2), node("c", "Tesla-T4", 1), shared]
    file = tmp_path / "nodes.json"
    file.write_text(json.dumps({"kind": "List", "items": [*nodes, {"kind": "Node", "metadata": {"name": "cpu"}}]}))
    return file


def test_classes_and_what_is_not_planned_on(fleet: Path) -> None:
    done = run("gpus", "--fleet", fleet, "--price", "L4=0.8", "-o", "json")
    assert done.exit_code == 0
    document = json.loads(done.stdout)
    assert document["nodes"] == 5
    l4, t4 = document["gpus"]
    assert (l4["product"], l4["perNode"], l4["nodes"], l4["gpus"], l4["pricePerHour"]) == ("NVIDIA-L4", 4, 2, 6, 0.8)
    assert (t4["product"], t4["computeCapability"], t4["origin"]) == ("Tesla-T4", "7.5", "Table")
    assert t4["labelMemoryBytes"] == 15360 * MIB > t4["memoryBytes"] and t4["free"] is None
    (other,) = document["notPlannedOn"]
    assert other["node"] == "d" and "time-sliced" in other["reason"]


def test_text(fleet: Path) -> None:
    lines = run("gpus", "--fleet", fleet).stdout.splitlines()
    assert lines[0].split()[:3] == ["product", "a", "node"]
    assert lines[1].split()[:4] == ["NVIDIA-L4", "4", "2", "6"]
    assert lines[-1].startswith("not planned on: node d ")
    assert "free now" not in lines[0] and "price" not in lines[0]


def test_a_fleet_without_gpus(tmp_path: Path) -> None:
    file = tmp_path / "nodes.yaml"
    file.write_text("kind: Node\nmetadata: {name: a}\n")
    done = run("gpus", "--fleet", file)
    assert done.exit_code == 0 and "no GPU to plan on; 1 nodes in all" in done.stdout


def test_gpus_of_other_makers_are_said(tmp_path: Path) -> None:
    others = {"a": {"amd.com/gpu": "8"}, "b": {"gpu.intel.com/i915": 1}, "c": {"amd.com/gpu": "0"}}
    file = tmp_path / "nodes.json"
    file.write_text(json.dumps([{"metadata": {"name": n}, "status": {"allocatable": a}} for n, a in others.items()]))
    document = json.loads(run("gpus", "--fleet", file, "-o", "json").stdout)
    assert document["gpus"] == [] and document["nodes"] == 3
    assert document["notPlannedOn"] == [
        {"node": "a", "reason": "advertises 8 amd.com/gpu: only NVIDIA's GPUs are planned on"},
        {"node": "b", "reason": "advertises 1 gpu.intel.com/i915: only NVIDIA's GPUs are planned on"},
    ]


def test_the_standard_input(fleet: Path) -> None:
    assert run("gpus", "--fleet", "-", stdin=fleet.read_text()).stdout == run("gpus", "--fleet", fleet).stdout


def test_the_table_is_whole() -> None:
    done = run("gpus", "--known", "-o", "json")
    assert done.exit_code == 0
    shown = {gpu["product"]: gpu for gpu in json.loads(done.stdout)["gpus"]}
    assert shown.keys() == known_gpus().keys()
    assert shown["NVIDIA-L4"]["labelMemoryBytes"] == 23034 * MIB
    text = run("gpus", "--known").stdout
    assert all(product in text for product in shown)


def test_without_a_cluster() -> None:
    done = run("gpus")
    assert done.exit_code == 1 and "--fleet FILE" in done.stderr and "Traceback" not in done.output


def test_the_configuration_adds_pools_prices_and_rows(tmp_path: Path, fleet: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        "gpuPrices: {Tesla-T4: 0.35}\n"
        "gpuPools: [{name: big, product: NVIDIA-H100-80GB-HBM3, gpusPerNode: 8, maxNodes: 2, nodeSelector: {pool: big}}]\n"
    )
    document = json.loads(run("gpus", "--fleet", fleet, "--config", config, "-o", "json").stdout)
    by_product = {gpu["product"]: gpu for gpu in document["gpus"]}
    assert by_product["Tesla-T4"]["pricePerHour"] == 0.35
    h100 = by_product["NVIDIA-H100-80GB-HBM3"]
    assert (h100["origin"], h100["perNode"], h100["gpus"]) == ("Declared", 8, 16)

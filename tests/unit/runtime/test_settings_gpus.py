"""The configuration's GPUs: rows of the table, prices, declared pools."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from kubequant.planning.gpus import fleet_of
from kubequant.planning.values import ComputeCapability, GpuOrigin, Toleration
from kubequant.runtime.core import Core
from kubequant.runtime.settings import Settings, gpu_pools, gpu_table, load_settings

MIB = 2**20
PAGE = Path(__file__).resolve().parents[3] / "docs/configuration.md"
POOL: dict[str, Any] = {
    "name": "l4",
    "product": "NVIDIA-L4",
    "gpusPerNode": 2,
    "maxNodes": 4,
    "nodeSelector": {"example.com/pool": "l4"},
}


def load(folder: Path, **document: Any) -> Settings:
    file = folder / "operator.yaml"
    file.write_text(yaml.safe_dump(document))
    return load_settings(file)


def test_without_any_the_shipped_table_holds(tmp_path: Path) -> None:
    settings = load(tmp_path)
    assert gpu_pools(settings) == ()
    assert len(gpu_table(settings).rows) == 71
    assert gpu_table(settings).prices == {}


def test_a_whole_row(tmp_path: Path) -> None:
    row = {"product": "NVIDIA-New", "memoryMiB": 20000, "computeCapability": "13.0", "bandwidthGBs": 1500.5,
           "fp16Tflops": 100, "fp8Tflops": 200, "fp4Tflops": 400, "int8Tops": 50, "nvlink": False, "pricePerHour": 2}  # fmt: skip
    table = gpu_table(load(tmp_path, gpuTable=[row]))
    known = table.rows["NVIDIA-New"]
    assert (known.memory_bytes, known.compute_capability) == (20000 * MIB, ComputeCapability(13, 0))
    assert known.bandwidth_bytes_per_second == 1500_500_000_000
    assert (known.flops_16bit, known.flops_fp8, known.flops_fp4, known.ops_int8) == (
        100 * 10**12, 200 * 10**12, 400 * 10**12, 50 * 10**12)  # fmt: skip
    assert (known.nvlink, table.prices) == (False, {"NVIDIA-New": 2.0})


def test_prices_go_before_those_of_rows(tmp_path: Path) -> None:
    settings = load(tmp_path, gpuTable=[{"product": "NVIDIA-L4", "pricePerHour": 2}], gpuPrices={"NVIDIA-L4": 0.5})
    assert gpu_table(settings).prices == {"NVIDIA-L4": 0.5}
    assert gpu_table(settings).rows["NVIDIA-L4"].memory_bytes == 23034 * MIB


def test_a_whole_pool(tmp_path: Path) -> None:
    toleration = {"key": "dedicated", "operator": "Equal", "value": "ml", "effect": "NoSchedule"}
    more = {"memory": "20Gi", "computeCapability": "8.9", "tolerations": [toleration], "pricePerHour": 0.7}
    (pool,) = gpu_pools(load(tmp_path, gpuPools=[{**POOL, **more}]))
    assert (pool.name, pool.gpus_per_node, pool.max_nodes, pool.memory_bytes) == ("l4", 2, 4, 20 * 2**30)
    assert pool.selector == (("example.com/pool", "l4"),)
    assert pool.tolerations == (Toleration("dedicated", "Equal", "ml", "NoSchedule"),)
    assert (pool.compute_capability, pool.price_per_hour) == (ComputeCapability(8, 9), 0.7)


def test_the_environment_gives_pools_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBEQUANT_GPU_POOLS", json.dumps([POOL]))
    assert [pool.name for pool in gpu_pools(load_settings(None))] == ["l4"]


def test_the_operator_s_fleet_has_the_pools_and_prices(tmp_path: Path) -> None:
    core = Core(load(tmp_path, gpuPools=[POOL], gpuPrices={"NVIDIA-L4": 0.5}), None)
    (gpu,) = core.store.fleet.classes
    assert (gpu.origin, gpu.gpus, gpu.price_per_hour) == (GpuOrigin.DECLARED, 8, 0.5)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "pool of an unknown GPU": ({"gpuPools": [{**POOL, "product": "L4"}]}, "L4 is not in the table of GPUs"),
    "row of an unknown GPU without capability": (
        {"gpuTable": [{"product": "NVIDIA-New"}]},
        "give its computeCapability",
    ),
    "two pools of one name": ({"gpuPools": [POOL, POOL]}, "two gpuPools are called l4"),
    "two pools of the same nodes": ({"gpuPools": [POOL, {**POOL, "name": "b"}]}, "l4 and b select the same nodes"),
    "pool that selects every node": ({"gpuPools": [{**POOL, "nodeSelector": {}}]}, "nodeSelector"),
    "no GPU a node": ({"gpuPools": [{**POOL, "gpusPerNode": 0}]}, "gpusPerNode"),
    "memory that is none": ({"gpuPools": [{**POOL, "memory": "much"}]}, "is no quantity"),
    "memory of a byte": ({"gpuPools": [{**POOL, "memory": "1"}]}, "from 1Gi to 4Ti"),
    "memory beyond any": ({"gpuPools": [{**POOL, "memory": "1Ei"}]}, "from 1Gi to 4Ti"),
    "capability that is none": ({"gpuPools": [{**POOL, "computeCapability": "ada"}]}, "computeCapability"),
    "negative price": ({"gpuPrices": {"NVIDIA-L4": -1}}, "gpuPrices"),
    "price that is no number": ({"gpuPrices": {"NVIDIA-L4": float("nan")}}, "gpuPrices"),
    "absurd bandwidth": ({"gpuTable": [{"product": "NVIDIA-L4", "bandwidthGBs": 1e30}]}, "bandwidthGBs"),
    "unknown field": ({"gpuTable": [{"product": "NVIDIA-L4", "vram": 1}]}, "vram"),
    "taint effect that is none": ({"gpuPools": [{**POOL, "tolerations": [{"effect": "Never"}]}]}, "effect"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_by_name(tmp_path: Path, case: str) -> None:
    document, said = REFUSED[case]
    with pytest.raises(ValidationError) as refused:
        load(tmp_path, **document)
    assert said.lower().replace("_", "") in str(refused.value).lower().replace("_", "")


def test_the_page_s_example_of_gpus_can_be_used(tmp_path: Path) -> None:
    (example,) = [text for text in re.findall(r"```yaml\n(.+?)```", PAGE.read_text(), re.DOTALL) if "gpuPools" in text]
    settings = load(tmp_path, **yaml.safe_load(example))
    (gpu,) = fleet_of([], gpu_pools(settings), gpu_table(settings)).classes
    assert (gpu.product, gpu.price_per_hour) == ("NVIDIA-L4", 0.71)
    assert "NVIDIA-RTX-PRO-2000-Blackwell" in gpu_table(settings).rows

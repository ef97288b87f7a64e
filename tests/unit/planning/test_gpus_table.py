"""The shipped table, what a configuration changes in it, and the names that people say to its rows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubequant.api.conditions import Reason
from kubequant.errors import Refused
from kubequant.planning.gpu_table import (
    GpuNotFoundError,
    cuda_total_bytes,
    find_gpu,
    gpu_class_of,
    known_gpus,
    shipped_table,
)
from kubequant.planning.gpus import fleet_of
from kubequant.planning.values import ComputeCapability, GpuOrigin
from tests.unit.planning.models import GIB, MIB, node

TABLE = shipped_table()
NAMES = {
    "RTX-4090": "NVIDIA-GeForce-RTX-4090",
    "4090": "NVIDIA-GeForce-RTX-4090",
    "rtx4090": "NVIDIA-GeForce-RTX-4090",
    "GeForce RTX 4090": "NVIDIA-GeForce-RTX-4090",
    "4090D": "NVIDIA-GeForce-RTX-4090-D",
    "4060Ti": "NVIDIA-GeForce-RTX-4060-Ti",
    "4080-SUPER": "NVIDIA-GeForce-RTX-4080-SUPER",
    "H100": "NVIDIA-H100-80GB-HBM3",
    "H100-PCIe": "NVIDIA-H100-PCIe",
    "h100-nvl": "NVIDIA-H100-NVL",
    "A100-80GB": "NVIDIA-A100-SXM4-80GB",
    "A100-40GB": "NVIDIA-A100-SXM4-40GB",
    "L4": "NVIDIA-L4",
    "NVIDIA-L4": "NVIDIA-L4",
    "L40S": "NVIDIA-L40S",
    "T4": "Tesla-T4",
    "V100-32GB": "Tesla-V100-SXM2-32GB",
    "A6000": "NVIDIA-RTX-A6000",
    "RTX-6000-Ada": "NVIDIA-RTX-6000-Ada-Generation",
    "RTX-PRO-6000": "NVIDIA-RTX-PRO-6000-Blackwell-Server-Edition",
    "B300": "NVIDIA-B300-SXM6-AC",
}


@pytest.mark.parametrize("name", NAMES)
def test_names_that_people_say(name: str) -> None:
    assert find_gpu(name, TABLE).product == NAMES[name]


@pytest.mark.parametrize("product", sorted(known_gpus()))
def test_every_product_label_names_itself(product: str) -> None:
    assert find_gpu(product, TABLE).product == product
    assert find_gpu(product.lower(), TABLE).product == product


def test_no_two_rows_have_one_name() -> None:
    names = [name.upper() for known in known_gpus().values() for name in (known.product, *known.also_called)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(("name", "candidate"), [("A100", "NVIDIA-A100-SXM4-40GB"), ("V100", "Tesla-V100-SXM2-32GB"),
                                                 ("6000", "NVIDIA-RTX-6000-Ada-Generation")])  # fmt: skip
def test_name_of_several_gpus_with_different_memory_is_refused_with_all_of_them(name: str, candidate: str) -> None:
    with pytest.raises(GpuNotFoundError) as refused:
        find_gpu(name, TABLE)
    assert candidate in refused.value.candidates
    assert candidate in str(refused.value)
    assert refused.value.reason == Reason.NO_MATCHING_GPU


@pytest.mark.parametrize(("name", "nearest"), [("RTX-9090", "NVIDIA-GeForce-RTX-4090"), ("L5", "NVIDIA-L4"),
                                               ("H101", "NVIDIA-H100-80GB-HBM3")])  # fmt: skip
def test_unknown_name_is_refused_with_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(GpuNotFoundError, match="nearest are") as refused:
        find_gpu(name, TABLE)
    assert nearest in refused.value.candidates


@given(st.text(max_size=40) | st.just("x" * 10_000) | st.sampled_from(["NVIDIA", "RTX", " ", "-"]))
def test_any_text_is_found_or_refused(name: str) -> None:
    try:
        assert find_gpu(name, TABLE).product in TABLE.rows
    except GpuNotFoundError as refused:
        assert len(refused.message) < 1000


def test_rates_come_with_their_evidence() -> None:
    for known in known_gpus().values():
        assert known.bandwidth_bytes_per_second and known.flops_16bit, known.product
        assert known.rates_evidence in (
            "aiconfigurator YAML @095f58a",
            "from memory, unverified",
            "compute from clocks and bandwidth from memory: unverified",
        )
        assert known.memory_evidence
    h100 = known_gpus()["NVIDIA-H100-80GB-HBM3"]
    assert (h100.bandwidth_bytes_per_second, h100.flops_16bit, h100.flops_fp8, h100.flops_fp4, h100.ops_int8) == (
        3350 * 10**9, 989 * 10**12, 1979 * 10**12, None, 1979 * 10**12)  # fmt: skip
    assert h100.mig_profiles[-1] == "7g.80gb"


def test_fp8_and_fp4_rates_are_there_exactly_where_the_hardware_is() -> None:
    for known in known_gpus().values():
        assert (known.flops_fp8 is not None) == (known.compute_capability >= ComputeCapability(8, 9)), known.product
        assert (known.flops_fp4 is not None) == (known.compute_capability >= ComputeCapability(10, 0)), known.product


def test_class_from_the_table_alone() -> None:
    gpu = gpu_class_of(find_gpu("H100", TABLE), per_node=8, nodes=2)
    assert (gpu.per_node, gpu.nodes, gpu.gpus, gpu.origin) == (8, 2, 16, GpuOrigin.TABLE)
    assert gpu.memory_bytes == int(79.1 * GIB)
    (seen,) = fleet_of(
        [node("NVIDIA-H100-80GB-HBM3", gpus=8, name="a"), node("NVIDIA-H100-80GB-HBM3", gpus=8, name="b")]
    ).classes
    assert (seen.memory_bytes, seen.bandwidth_bytes_per_second) == (gpu.memory_bytes, gpu.bandwidth_bytes_per_second)


def test_gpu_without_memory_of_its_own_is_refused() -> None:
    with pytest.raises(Refused, match="memoryMiB"):
        gpu_class_of(find_gpu("GB10", TABLE), per_node=1)


def test_row_replaces_fields_and_keeps_the_others() -> None:
    changed = TABLE.with_row("NVIDIA-L4", {"bandwidth_bytes_per_second": 1})
    known = changed.rows["NVIDIA-L4"]
    assert (known.bandwidth_bytes_per_second, known.memory_bytes) == (1, 23034 * MIB)
    assert TABLE.rows["NVIDIA-L4"].bandwidth_bytes_per_second == 300 * 10**9, "the shipped table stays"


def test_total_seen_with_another_memory_does_not_hold_for_a_new_one() -> None:
    changed = TABLE.with_row("NVIDIA-GeForce-RTX-4090", {"memory_bytes": 48 * GIB})
    (gpu,) = fleet_of([node("NVIDIA-GeForce-RTX-4090", memory_mib=48 * 1024)], table=changed).classes
    assert gpu.memory_bytes == cuda_total_bytes(48 * GIB)


def test_new_row_needs_its_capability_and_then_fills_in_what_labels_leave_out() -> None:
    with pytest.raises(ValueError, match="computeCapability"):
        TABLE.with_row("NVIDIA-New", {"memory_bytes": 20 * GIB})
    changed = TABLE.with_row("NVIDIA-New", {"memory_bytes": 20 * GIB, "compute_capability": ComputeCapability(13, 0)})
    bare = node("NVIDIA-New", memory_mib=1)
    bare = type(bare)("bare", {"nvidia.com/gpu.product": "NVIDIA-New"}, bare.allocatable)
    (gpu,) = fleet_of([bare], table=changed).classes
    assert (gpu.label_memory_bytes, gpu.compute_capability) == (20 * GIB, ComputeCapability(13, 0))
    assert find_gpu("new", changed).product == "NVIDIA-New"


def test_old_drivers_leave_the_maker_s_name_out() -> None:
    (gpu,) = fleet_of([node("A100-SXM4-40GB", memory_mib=39538, capability="8.0")]).classes
    assert gpu.bandwidth_bytes_per_second == 1555 * 10**9
    assert gpu.product == "A100-SXM4-40GB", "pods select by what the label says"


@pytest.mark.parametrize("name", ["RTX 2080", "RTX-4070-Ti"])
def test_what_makes_another_card_must_be_said(name: str) -> None:
    """The table has the 2080 Ti and the 4070 Ti SUPER, which have other memory."""
    with pytest.raises(GpuNotFoundError, match="is in the table"):
        find_gpu(name, TABLE)

"""Where a pod may run: the resource it asks for, the nodes it selects, the taints it tolerates."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kubequant.api.spec import Pod
from kubequant.manifests.pod import build_pod_template
from kubequant.manifests.recipe import Recipe
from kubequant.planning.values import Toleration
from tests.unit.manifests.making import OWNER, recipe

GKE = (("cloud.google.com/gke-accelerator", "nvidia-l4"),)
POOL = (("example.com/pool", "l4"),)
PRODUCT, MEMORY = "nvidia.com/gpu.product", "nvidia.com/gpu.memory"


def spec(pod: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = build_pod_template(OWNER, recipe(**changes), Pod.model_validate(pod or {}), "files")["spec"]
    return made


def selects(labels: dict[str, str], **changes: Any) -> bool:
    """Whether the scheduler would take a node with these labels: one term of which every expression holds."""
    required = spec(**changes)["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    return any(
        all(_holds(expression, labels.get(expression["key"])) for expression in term["matchExpressions"])
        for term in required["nodeSelectorTerms"]
    )


def _holds(expression: dict[str, Any], value: str | None) -> bool:
    match expression["operator"]:
        case "In":
            return value in expression["values"]
        case "Gt":
            return value is not None and int(value) > int(expression["values"][0])
        case "DoesNotExist":
            return value is None
    raise AssertionError(expression)


L4 = {PRODUCT: "NVIDIA-L4", MEMORY: "23034"}
SHARED_BY_GKE = {"cloud.google.com/gke-gpu-sharing-strategy": "time-sharing"}
CUT_BY_GKE = {"cloud.google.com/gke-gpu-partition-size": "1g.10gb"}
SLICES = {
    "nvidia.com/mig-3g.40gb.product": "NVIDIA-A100-SXM4-80GB-MIG-3g.40gb",
    "nvidia.com/mig-3g.40gb.memory": "40192",
}
SLICE: dict[str, Any] = {
    "gpu_resource": "nvidia.com/mig-3g.40gb",
    "gpu_product": "NVIDIA-A100-SXM4-80GB-MIG-3g.40gb",
    "gpu_memory_mib": 40192,
}

NODES: dict[str, tuple[dict[str, Any], dict[str, str], bool]] = {
    "GFD, the same": ({}, L4, True),
    "GFD, more memory": ({}, {**L4, MEMORY: "24000"}, True),
    "GFD, less memory": ({}, {**L4, MEMORY: "23033"}, False),
    "GFD, another product": ({}, {**L4, PRODUCT: "NVIDIA-L40S"}, False),
    "GFD, a slice of it": ({}, {PRODUCT: "NVIDIA-L4-MIG-1g.6gb", MEMORY: "6000"}, False),
    "GFD, no memory label": ({}, {PRODUCT: "NVIDIA-L4"}, False),
    "memory from the table, none labelled": ({"gpu_memory_labelled": False}, {PRODUCT: "NVIDIA-L4"}, True),
    "memory from the table, less labelled": ({"gpu_memory_labelled": False}, {**L4, MEMORY: "20000"}, False),
    "memory not asked for": ({"gpu_memory_mib": 0}, {PRODUCT: "NVIDIA-L4"}, True),
    "GKE": ({"gpu_selector": GKE}, dict(GKE), True),
    "GKE, another accelerator": ({"gpu_selector": GKE}, {GKE[0][0]: "nvidia-tesla-t4"}, False),
    "GKE, shared": ({"gpu_selector": GKE}, {**dict(GKE), **SHARED_BY_GKE}, False),
    "GKE, cut": ({"gpu_selector": GKE}, {**dict(GKE), **CUT_BY_GKE}, False),
    "GKE, GFD installed later": ({"gpu_selector": GKE}, {**dict(GKE), **L4}, True),
    "GKE, GFD tells that it is shared": ({"gpu_selector": GKE}, {**dict(GKE), **L4, PRODUCT: "NVIDIA-L4-SHARED"}, False),
    "only GFD where the cloud's label was planned on": ({"gpu_selector": GKE}, L4, False),
    "pool, a node yet to come": ({"gpu_selector": POOL, "gpu_memory_labelled": False}, dict(POOL), True),
    "pool, a node with GFD": ({"gpu_selector": POOL, "gpu_memory_labelled": False}, {**dict(POOL), **L4}, True),
    "pool, elsewhere": ({"gpu_selector": POOL}, L4, False),
    "MIG, mixed strategy": (SLICE, SLICES, True),
    "MIG, other slices": (SLICE, {"nvidia.com/mig-1g.10gb.product": "NVIDIA-A100-SXM4-80GB-MIG-1g.10gb"}, False),
    "MIG, smaller slices of the name": (SLICE, {**SLICES, "nvidia.com/mig-3g.40gb.memory": "20000"}, False),
}  # fmt: skip


@pytest.mark.parametrize("case", NODES)
def test_the_pod_selects(case: str) -> None:
    changes, labels, selected = NODES[case]
    assert selects(labels, **changes) is selected


def test_a_pool_may_select_by_a_label_that_tells_a_fraction() -> None:
    label = "cloud.google.com/gke-gpu-partition-size"
    assert selects({label: "7g.80gb"}, gpu_selector=((label, "7g.80gb"),))


def test_a_slice_is_asked_for_by_its_own_resource() -> None:
    (engine,) = spec(**SLICE)["containers"]
    assert engine["resources"]["limits"] == {"nvidia.com/mig-3g.40gb": "1"}
    assert engine["resources"]["requests"]["nvidia.com/mig-3g.40gb"] == "1"
    assert "nvidia.com/gpu" not in json.dumps(spec(**SLICE)["containers"])


def test_tolerations_are_the_customary_one_the_class_s_and_the_user_s() -> None:
    ours = (
        Toleration("nvidia.com/gpu", "Exists", "", "NoSchedule"),
        Toleration("dedicated", "Equal", "ml", "NoExecute"),
    )
    made = spec({"tolerations": [{"key": "team", "operator": "Exists"}]}, tolerations=ours)
    assert made["tolerations"] == [
        {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
        {"key": "dedicated", "operator": "Equal", "value": "ml", "effect": "NoExecute"},
        {"key": "team", "operator": "Exists"},
    ]


def test_recipe_survives_the_controller_revision() -> None:
    placed = recipe(gpu_selector=GKE, gpu_memory_labelled=False, tolerations=(Toleration("a", "Exists"),), **SLICE)
    assert Recipe.from_json(json.loads(json.dumps(placed.to_json()))) == placed


def test_recipe_of_an_older_operator_is_read_as_it_was_meant() -> None:
    written = recipe().to_json()
    for name in ("gpu_resource", "gpu_selector", "gpu_memory_labelled", "tolerations"):
        del written[name]
    assert Recipe.from_json(written) == recipe()

"""Owners and recipes for the tests of manifests, with numbers that are easy to check by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from kubequant.manifests.names import Owner
from kubequant.manifests.recipe import EngineSettings, Recipe

GIB = 2**30
OWNER = Owner("kubequant.dev/v1alpha1", "QuantizedModel", "team-a", "qwen", "uid-1")
ENGINE = EngineSettings(
    name="vLLM",
    version="0.33.0",
    image="registry.example/vllm:1",
    image_pull_policy="IfNotPresent",
    environment=(("LOG", "1"),),
    extra_arguments=("--disable-log-stats",),
    start_allowance_seconds=600,
    load_floor_bytes_per_second=100_000_000,
    hub_endpoint="https://hub.example",
)
RECIPE = Recipe(
    repository="a/b",
    commit="0" * 40,
    gpu_product="NVIDIA-L4",
    gpu_memory_mib=23034,
    gpus=1,
    arguments=("--max-model-len", "8192", "--served-model-name", "a/b"),
    weight_bytes=5_000_000_001,
    download_bytes=10 * GIB,
    token_secret=None,
    engine=ENGINE,
)


def recipe(**changes: Any) -> Recipe:
    return replace(RECIPE, **changes)

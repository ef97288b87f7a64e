"""The operator's configuration for the CPU build of vLLM, and the tiny models that it serves."""

from __future__ import annotations

from typing import Any

from tests.engines.tiny_model import TinyModels
from tests.fakehub import Repository
from tests.fakehub.repository import quantized_card

TINY = "kubequant/tiny-llama"
TINY_AWQ = "kubequant/tiny-llama-AWQ"
TINY_AWQ_FP8_KV = "kubequant/tiny-llama-AWQ-FP8-KV"

# What one engine on two busy cores needs, beside its GPUs.
POD_RESOURCES = {"cpu": "200m", "memory": "6Gi"}


def tiny_repositories(models: TinyModels) -> list[Repository]:
    return [
        Repository.from_folder(TINY, models.base),
        Repository.from_folder(TINY_AWQ, models.awq, card=quantized_card(TINY)),
        Repository.from_folder(TINY_AWQ_FP8_KV, models.awq_fp8_kv),
    ]


def cpu_engine(image: str, **overrides: Any) -> dict[str, Any]:
    """The section `engine`. The KV space is configuration of this engine: a CPU has no memory budget to derive it from."""
    return {
        "image": image,
        "environment": {"VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "2"},
        "extraArguments": ["--enforce-eager"],
        "startAllowanceSeconds": 300,
        **overrides,
    }

"""Every command line that KubeQuant makes, asked of vLLM's own parser and configuration."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from kubequant.api.spec import Pod
from kubequant.manifests.names import Owner
from kubequant.manifests.pod import MODEL_FOLDER, build_pod_template
from kubequant.manifests.recipe import EngineSettings, Recipe
from kubequant.planning.engines.vllm import VLLM_0_33
from kubequant.planning.engines.vllm_arguments import ALLOWED_ENGINE_ARGUMENTS
from kubequant.planning.plan import plan
from kubequant.planning.values import Fleet, Intent, KvCacheDtype, Plan
from tests.engines.argv_check import ParseResult, parse_with_vllm
from tests.unit.planning.models import ModelBuilder, fleet, model, node

pytestmark = pytest.mark.engine

INTENT = Intent(repository="org/name")
ENGINE = EngineSettings(
    "vLLM", "0.33.0", "image", "IfNotPresent", (), ("--enforce-eager",), 600, 100_000_000, "http://hub"
)
VALUES = {
    "chat-template-content-format": "openai",
    "generation-config": "vllm",
    "max-logprobs": "5",
    "max-num-queued-reqs": "100",
    "max-num-queued-tokens": "100000",
    "scheduling-policy": "priority",
    "seed": "7",
    "tool-call-parser": "hermes",
    "uvicorn-log-level": "warning",
}
# A reasoning parser is made with the tokenizer, which these folders do not have; the node lane gives one.
ALL_ARGUMENTS = tuple(
    (name, VALUES.get(name, "true")) for name in sorted(ALLOWED_ENGINE_ARGUMENTS) if name != "reasoning-parser"
)

CASES: dict[str, tuple[ModelBuilder, Fleet, Intent]] = {
    "16 bit on an L40S": (model("Llama-3.1-8B"), fleet(node("NVIDIA-L40S")), INTENT),
    "AWQ on a T4: float16": (model("Qwen2.5-7B").stored_as("AWQ"), fleet(node("Tesla-T4")), INTENT),
    "AWQ with FP8 KV cache": (model("Qwen2.5-7B").stored_as("AWQ"), fleet(node("NVIDIA-L4")), INTENT),
    "GPTQ over four GPUs": (model("Qwen2.5-72B-padded").stored_as("GPTQ"), fleet(node("NVIDIA-A10", gpus=4)), INTENT),
    "FP8 on an H100": (model("Llama-3.1-8B").stored_as("FP8"), fleet(node("NVIDIA-H100-80GB-HBM3")), INTENT),
    "W4A16 with a stored FP8 KV cache on an A10": (
        model("Llama-3.1-8B").stored_as("W4A16").with_fp8_kv_scales(),
        fleet(node("NVIDIA-A10")),
        INTENT,
    ),
    "everything a user may add": (
        model("Llama-3.1-8B"),
        fleet(node("NVIDIA-L40S")),
        dataclasses.replace(
            INTENT,
            context_tokens=4096,
            concurrent_requests=24,
            kv_cache_dtype=KvCacheDtype.FP8,
            served_model_name="llama",
            engine_arguments=ALL_ARGUMENTS,
        ),
    ),
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ParseResult]:
    lines = [_line(tmp_path_factory.mktemp("model"), *case) for case in CASES.values()]
    return dict(zip(CASES, parse_with_vllm(lines), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_vllm_takes_the_command_line(results: dict[str, ParseResult], name: str) -> None:
    assert results[name] == ParseResult(parses=True, configures=True, error="")


def _line(folder: Path, builder: ModelBuilder, gpus: Fleet, intent: Intent) -> list[str]:
    """What follows `vllm serve` in the pod, with a folder of this machine in the place of the pod's."""
    config = {**builder.full_config(), "model_type": _MODEL_TYPES[builder.full_config()["architectures"][0]]}
    (folder / "config.json").write_text(json.dumps(config))
    outcome = plan(intent, builder.facts(), gpus, VLLM_0_33)
    assert isinstance(outcome, Plan), outcome
    container = build_pod_template(_OWNER, _recipe(outcome), Pod(), "files")["spec"]["containers"][0]
    command, *line = container["args"][1:]
    assert command == "serve" and line[0] == MODEL_FOLDER
    return [str(folder), "--skip-tokenizer-init", *line[1:]]


def _recipe(outcome: Plan) -> Recipe:
    return Recipe(
        repository=outcome.repository,
        commit=outcome.commit,
        gpu_product=outcome.gpu.product,
        gpu_memory_mib=0,
        gpus=outcome.gpus_per_replica,
        arguments=outcome.arguments,
        weight_bytes=outcome.weight_bytes,
        download_bytes=outcome.download_bytes,
        token_secret=None,
        engine=ENGINE,
    )


_OWNER = Owner("kubequant.dev/v1alpha1", "QuantizedModel", "default", "m", "uid")
_MODEL_TYPES = {"LlamaForCausalLM": "llama", "Qwen2ForCausalLM": "qwen2"}

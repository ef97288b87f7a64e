"""The standard set: models that people ask for, under their real names, with true headers and no weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tests.fakehub import quantized_headers as quantized
from tests.fakehub.broken import broken_repositories
from tests.fakehub.content import BytesContent, Content
from tests.fakehub.family import family
from tests.fakehub.repository import Repository, readme
from tests.fakehub.safetensors_files import checkpoint_files
from tests.fakehub.tensors import Tensor, model_config, model_tensors

GATED_TOKEN = "hf_fake_token_that_may_read_gated_models"
OUTSIDER_TOKEN = "hf_fake_token_of_somebody_without_access"
STANDARD_TOKENS: Mapping[str, tuple[str, ...]] = {
    GATED_TOKEN: ("meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Llama-3.1-70B-Instruct", "google/gemma-3-1b-it"),
    OUTSIDER_TOKEN: (),
}
STANDARD_RENAMED: Mapping[str, str] = {
    "neuralmagic/Meta-Llama-3.1-8B-Instruct-FP8-dynamic": "RedHatAI/Meta-Llama-3.1-8B-Instruct-FP8-dynamic"
}

_LLAMA_CARD = {"license": "llama3.1", "pipeline_tag": "text-generation"}
_APACHE_CARD = {"license": "apache-2.0", "pipeline_tag": "text-generation"}


def standard_repositories() -> list[Repository]:
    """New repositories each time: a test may change them."""
    return [*_qwen(), *_llama(), *_others(), *broken_repositories(), *family()]


def _qwen() -> list[Repository]:
    base_7b, base_32b = model_tensors("qwen2.5-7b"), model_tensors("qwen2.5-32b")
    of_7b = _APACHE_CARD | {"base_model": "Qwen/Qwen2.5-7B-Instruct", "base_model_relation": "quantized"}
    of_32b = _APACHE_CARD | {"base_model": "Qwen/Qwen2.5-32B-Instruct", "base_model_relation": "quantized"}
    gptq_7b = quantized.gptq(base_7b)
    return [
        model("Qwen/Qwen2.5-7B-Instruct", "qwen2.5-7b", base_7b, _APACHE_CARD, downloads=9000),
        model("Qwen/Qwen2.5-7B-Instruct-AWQ", "qwen2.5-7b-awq", quantized.awq_gemm(base_7b), of_7b, downloads=900),
        model("Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4", "qwen2.5-7b-gptq-int4", gptq_7b, of_7b, downloads=800),
        model("example/Qwen2.5-7B-Instruct-GPTQ-Int4-act-order", "qwen2.5-7b-gptq-int4-act-order", gptq_7b, of_7b),
        model("Qwen/Qwen2.5-32B-Instruct", "qwen2.5-32b", base_32b, _APACHE_CARD, downloads=3000),
        model("Qwen/Qwen2.5-32B-Instruct-AWQ", "qwen2.5-32b-awq", quantized.awq_gemm(base_32b), of_32b, downloads=700),
        model("Qwen/Qwen3-Next-80B-A3B-Instruct", "qwen3-next-80b", model_tensors("qwen3-next-80b"), _APACHE_CARD),
    ]


def _llama() -> list[Repository]:
    base_8b, base_70b = model_tensors("llama-3.1-8b"), model_tensors("llama-3.1-70b")
    of_8b = _LLAMA_CARD | {"base_model": "meta-llama/Llama-3.1-8B-Instruct", "base_model_relation": "quantized"}
    of_70b = _LLAMA_CARD | {"base_model": "meta-llama/Llama-3.1-70B-Instruct", "base_model_relation": "quantized"}
    return [
        model("meta-llama/Llama-3.1-8B-Instruct", "llama-3.1-8b", base_8b, _LLAMA_CARD, gated="manual", downloads=9500),
        model("meta-llama/Llama-3.1-70B-Instruct", "llama-3.1-70b", base_70b, _LLAMA_CARD, gated="manual"),
        model(
            "RedHatAI/Meta-Llama-3.1-8B-Instruct-FP8-dynamic",
            "llama-3.1-8b-fp8-dynamic",
            quantized.fp8_per_channel(base_8b),
            of_8b,
        ),
        model(
            "RedHatAI/Meta-Llama-3.1-8B-Instruct-quantized.w4a16",
            "llama-3.1-8b-w4a16",
            quantized.pack_quantized(base_8b),
            of_8b,
        ),
        model(
            "hugging-quants/Meta-Llama-3.1-70B-Instruct-AWQ-INT4",
            "llama-3.1-70b-awq",
            quantized.awq_gemm(base_70b),
            of_70b,
        ),
    ]


def _others() -> list[Repository]:
    gpt_oss = model_tensors("gpt-oss-20b-bf16")
    return [
        model("mistralai/Mistral-7B-v0.1", "mistral-7b-v0.1", model_tensors("mistral-7b-v0.1"), _APACHE_CARD),
        model("google/gemma-3-1b-it", "gemma-3-1b", model_tensors("gemma-3-1b"), {"license": "gemma"}, gated="manual"),
        model(
            "deepseek-ai/DeepSeek-V2-Lite",
            "deepseek-v2-lite",
            model_tensors("deepseek-v2-lite"),
            {"license": "other", "license_name": "deepseek"},
        ),
        model("openai/gpt-oss-20b", "gpt-oss-20b", quantized.mxfp4_experts(gpt_oss), _APACHE_CARD),
        model(
            "unsloth/gpt-oss-20b-BF16", "gpt-oss-20b-bf16", gpt_oss, _APACHE_CARD | {"base_model": "openai/gpt-oss-20b"}
        ),
    ]


def model(repo_id: str, config: str, tensors: list[Tensor], card: Mapping[str, Any], **options: Any) -> Repository:
    """A repository with a card, the `config.json` of a folder in `models`, and headers of these tensors."""
    files: dict[str, Content] = {
        "README.md": readme(repo_id, card),
        "config.json": BytesContent(json.dumps(model_config(config), indent=2).encode()),
    }
    return Repository.from_files(repo_id, files | checkpoint_files(tensors), **options)

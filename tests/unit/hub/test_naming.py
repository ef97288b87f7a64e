"""A repository's name against its content: an alarm where they disagree, and none where they do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from kubequant.hub.naming import name_disagreement
from kubequant.planning.values import StoredMethod, StoredQuantization

ARCHITECTURES = sorted(path.stem for path in (Path(__file__).parents[2] / "data" / "architectures").glob("*.json"))
AWQ = StoredQuantization(StoredMethod.AWQ, "W4A16", 4, 128, symmetric=False)
GPTQ = StoredQuantization(StoredMethod.GPTQ, "W4A16", 4, 128)
GPTQ8 = StoredQuantization(StoredMethod.GPTQ, "W8A16", 8, 128)
FP8 = StoredQuantization(StoredMethod.FP8, "FP8", 8, block=(128, 128))
CT4 = StoredQuantization(StoredMethod.COMPRESSED_TENSORS, "W4A16", 4, 128)
CT8 = StoredQuantization(StoredMethod.COMPRESSED_TENSORS, "W8A8", 8, -1)
CT_FP8 = StoredQuantization(StoredMethod.COMPRESSED_TENSORS, "FP8", 8, -1)
NVFP4 = StoredQuantization(StoredMethod.MODELOPT, "NVFP4", 4, 16)
MXFP4 = StoredQuantization(StoredMethod.MXFP4, "MXFP4", 4, 32)

AGREE = [
    ("Qwen/Qwen2.5-14B-Instruct", None),
    ("Qwen/Qwen2.5-14B-Instruct-AWQ", AWQ),
    ("Qwen/Qwen2.5-14B-Instruct-GPTQ-Int4", GPTQ),
    ("Qwen/Qwen2.5-14B-Instruct-GPTQ-Int8", GPTQ8),
    ("Qwen/Qwen3-8B-FP8", FP8),
    ("some/Mistral-7B-FP8-dynamic", CT_FP8),
    ("RedHatAI/Meta-Llama-3.1-8B-Instruct-quantized.w4a16", CT4),
    ("RedHatAI/Meta-Llama-3.1-8B-Instruct-quantized.w8a8", CT8),
    ("RedHatAI/Meta-Llama-3.1-8B-Instruct-FP8-block", CT_FP8),
    ("hugging-quants/Meta-Llama-3.1-70B-Instruct-AWQ-INT4", AWQ),
    ("cyankiwi/Qwen3-30B-A3B-Instruct-AWQ-4bit", CT4),
    ("ModelCloud/Llama-3.2-1B-gptqmodel-4bit-vortex", GPTQ),
    ("nvidia/Llama-3.1-8B-Instruct-NVFP4", NVFP4),
    ("nvidia/Llama-3.3-70B-Instruct-FP4", NVFP4),
    ("openai/gpt-oss-20b", MXFP4),
    ("some/gpt-oss-20b-MXFP4", MXFP4),
    ("unsloth/gpt-oss-20b-BF16", None),
    ("deepseek-ai/DeepSeek-V3", FP8),
    ("some/Llama-3-8B-W4A16-KV-FP8", CT4),
    ("some/Llama-3-8B-W4A16-FP8-KV", CT4),
    ("microsoft/Phi-4-mini-instruct", None),
    ("meta-llama/Llama-4-Scout-17B-16E-Instruct", None),
    ("google/gemma-3-4b-it", None),
    ("bigcode/starcoder2-15b", None),
    ("some/AWQ", AWQ),
    ("GPTQ-team/Llama", AWQ),  # an owner's name says nothing of one repository
]


@pytest.mark.parametrize(("name", "stored"), AGREE)
def test_no_alarm(name: str, stored: StoredQuantization | None) -> None:
    assert name_disagreement(name, stored) is None


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_no_alarm_on_models_as_published(name: str) -> None:
    assert name_disagreement(f"some/{name}", None) is None
    if "bf16" not in name:
        assert all(name_disagreement(f"some/{name}", stored) is None for stored in (AWQ, GPTQ, FP8, CT4, MXFP4))


@pytest.mark.parametrize(
    ("name", "stored", "content"),
    [
        ("some/Llama-3.1-8B-AWQ", GPTQ, "GPTQ with 4 bits"),
        ("some/Llama-3.1-8B-AWQ", None, "weights that are not quantised"),
        ("some/Llama-3.1-8B-GPTQ-Int4", GPTQ8, "GPTQ with 8 bits"),
        ("some/Llama-3.1-8B-GPTQ", AWQ, "AWQ with 4 bits"),
        ("some/Llama-3.1-8B-Int8", CT4, "compressed-tensors W4A16 with 4 bits"),
        ("some/Llama-3.1-8B.w4a16", CT8, "compressed-tensors W8A8 with 8 bits"),
        ("some/Llama-3.1-8B-FP8", CT8, "compressed-tensors W8A8 with 8 bits"),
        ("some/Llama-3.1-8B-NVFP4", MXFP4, "MXFP4 with 4 bits"),
        ("some/Llama-3.1-8B-MXFP4", NVFP4, "ModelOpt NVFP4 with 4 bits"),
        ("some/Llama-3.1-8B-4bit", FP8, "FP8 with 8 bits"),
        ("unsloth/Llama-3.1-8B-bnb-4bit", AWQ, "AWQ with 4 bits"),
        ("some/Llama-3.1-8B-GGUF", None, "weights that are not quantised"),
        ("some/Llama-3.1-8B-BF16", FP8, "FP8 with 8 bits"),
        ("some/Llama-3.1-8B-8bit", AWQ, "AWQ with 4 bits"),
    ],
)
def test_an_alarm_says_what_it_is_called_and_what_it_holds(
    name: str, stored: StoredQuantization | None, content: str
) -> None:
    assert name_disagreement(name, stored) == f"it is called '{name}', but holds {content}: content counts"


def test_a_name_of_any_length_makes_a_short_sentence() -> None:
    sentence = name_disagreement("some/" + "x" * 5000 + "-AWQ", None)
    assert sentence is not None and len(sentence) < 200

"""Quantises the tiny model with llm-compressor: AWQ W4A16, and the same with FP8 KV scales.

Runs in the llm-compressor environment: `quantise_tiny_llama.py BASE AWQ AWQ_FP8_KV`. Both in one process, because the
import takes longer than the work.
"""

import json
import sys
from pathlib import Path

import torch
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.quantization import QuantizationModifier
from llmcompressor.modifiers.transform.awq import AWQModifier
from llmcompressor.pipelines.cache import IntermediatesCache
from transformers import AutoModelForCausalLM, AutoTokenizer

SEED = 20
SAMPLES = 16
SEQUENCE_LENGTH = 128
FP8_KV_CACHE = {"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": False, "symmetric": True}


def let_awq_run_without_an_accelerator() -> None:
    """llm-compressor 0.14.0.1 pins the memory of AWQ's cached tensors even where there is nothing to pin it for."""
    if not torch.accelerator.is_available():
        IntermediatesCache.pin_memory = lambda self, *args, **kwargs: None


def calibration_set(base: Path) -> Dataset:
    """`SAMPLES` rows of `SEQUENCE_LENGTH` tokens, already tokenised: nothing is fetched."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokens = tokenizer("\n\n".join(json.loads((base / "held_out.json").read_text())))["input_ids"]
    rows = [tokens[row * SEQUENCE_LENGTH : (row + 1) * SEQUENCE_LENGTH] for row in range(SAMPLES)]
    return Dataset.from_dict({"input_ids": rows, "attention_mask": [[1] * SEQUENCE_LENGTH] * SAMPLES})


def quantise(base: Path, output: Path, kv_cache_scheme: dict[str, object] | None) -> None:
    torch.manual_seed(SEED)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    oneshot(
        model=model,
        dataset=calibration_set(base),
        recipe=[
            AWQModifier(duo_scaling="both"),
            QuantizationModifier(
                targets=["Linear"], ignore=["lm_head"], scheme="W4A16", kv_cache_scheme=kv_cache_scheme
            ),
        ],
        max_seq_length=SEQUENCE_LENGTH,
        num_calibration_samples=SAMPLES,
        pipeline="sequential",
    )
    model.save_pretrained(output, save_compressed=True)
    AutoTokenizer.from_pretrained(base).save_pretrained(output)


def main(base: Path, awq: Path, awq_fp8_kv: Path) -> None:
    let_awq_run_without_an_accelerator()
    quantise(base, awq, kv_cache_scheme=None)
    quantise(base, awq_fp8_kv, kv_cache_scheme=FP8_KV_CACHE)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))

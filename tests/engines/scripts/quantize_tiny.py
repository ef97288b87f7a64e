"""Makes tiny random models of several architectures and quantises them with llm-compressor, as a list of jobs says.

Runs in the llm-compressor environment: `quantize_tiny.py FOLDER`, with the jobs as JSON on standard input. Each job is
{"base", "name", "preset", "method", "ignore"}; its checkpoint comes to FOLDER/BASE/NAME and the base itself to
FOLDER/BASE/base. What llm-compressor refuses leaves a `refused.txt` there instead. All in one process, because the
import takes longer than the work.
"""

import json
import sys
from pathlib import Path

import torch
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modeling.moe.conversion_mappings import (
    get_linearize_load_mappings,
    has_linearize_load_mappings,
    set_save_conversion_mapping,
)
from llmcompressor.modeling.moe.linearize import linearize_moe
from llmcompressor.modifiers.gptq import GPTQModifier
from llmcompressor.modifiers.quantization import QuantizationModifier
from llmcompressor.modifiers.transform.awq import AWQModifier
from llmcompressor.pipelines.cache import IntermediatesCache
from loguru import logger
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    CLIPVisionConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.models.deepseek_v3 import DeepseekV3Config
from transformers.models.llama import LlamaConfig
from transformers.models.llava import LlavaConfig
from transformers.models.mixtral import MixtralConfig
from transformers.models.qwen2 import Qwen2Config
from transformers.models.qwen3_moe import Qwen3MoeConfig
from transformers.models.qwen3_next import Qwen3NextConfig

SEED = 20
VOCABULARY = 512
SAMPLES, SEQUENCE_LENGTH = 8, 64

COMMON = {"vocab_size": VOCABULARY, "num_hidden_layers": 2, "max_position_embeddings": 256, "dtype": "bfloat16"}
# Every in_features is a multiple of 128, which groups ask for; k_proj and v_proj have 20 outputs, no multiple of 8.
GROUPED = {"hidden_size": 256, "intermediate_size": 384, "head_dim": 20}
# In_features of 144 and 208 are multiples of 16 and of nothing larger.
ODD = {"hidden_size": 144, "intermediate_size": 208, "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 16}
EXPERTS = {"hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32}
CONFIGS = {
    "llama": LlamaConfig(**COMMON, **GROUPED, num_attention_heads=32, num_key_value_heads=1, tie_word_embeddings=False),
    "llama-odd": LlamaConfig(**COMMON, **ODD, tie_word_embeddings=False),
    "qwen2-tied": Qwen2Config(
        **COMMON | {"num_attention_heads": 4, "num_key_value_heads": 2},
        hidden_size=256,
        intermediate_size=384,
        tie_word_embeddings=True,
    ),
    "qwen3-moe": Qwen3MoeConfig(
        **COMMON, **EXPERTS, intermediate_size=256, moe_intermediate_size=128, num_experts=4, num_experts_per_tok=2
    ),
    "mixtral": MixtralConfig(
        **COMMON, **EXPERTS, intermediate_size=256, num_local_experts=4, num_experts_per_tok=2, sliding_window=None
    ),
    "deepseek-v3": DeepseekV3Config(
        **COMMON,
        hidden_size=128,
        intermediate_size=256,
        moe_intermediate_size=128,
        num_attention_heads=4,
        num_key_value_heads=4,
        q_lora_rank=128,
        kv_lora_rank=128,
        qk_rope_head_dim=16,
        qk_nope_head_dim=32,
        v_head_dim=32,
        n_routed_experts=4,
        n_shared_experts=1,
        num_experts_per_tok=2,
        n_group=1,
        topk_group=1,
        first_k_dense_replace=1,
    ),
    "qwen3-next": Qwen3NextConfig(
        **COMMON,
        **EXPERTS,
        intermediate_size=256,
        moe_intermediate_size=128,
        shared_expert_intermediate_size=128,
        num_experts=4,
        num_experts_per_tok=2,
        layer_types=["linear_attention", "full_attention"],
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_key_head_dim=32,
        linear_value_head_dim=32,
    ),
    "llava": LlavaConfig(
        text_config=LlamaConfig(**COMMON, **EXPERTS, intermediate_size=256, tie_word_embeddings=False),
        vision_config=CLIPVisionConfig(
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=28,
            patch_size=14,
        ),
        image_token_index=1,
        tie_word_embeddings=False,
    ),
}

# Layers for multi-token prediction as checkpoints on the Hub have them, which transformers neither makes nor loads:
# numbered on after the last layer, or under a prefix of their own.
NEXT_TOKEN_LAYERS = {
    "deepseek-v3": ("model.layers.1.", "model.layers.2."),
    "qwen3-moe": ("model.layers.1.", "mtp.layers.0."),
}


def let_awq_run_without_an_accelerator() -> None:
    """llm-compressor 0.14.0.1 pins the memory of AWQ's cached tensors even where there is nothing to pin it for."""
    if not torch.accelerator.is_available():
        IntermediatesCache.pin_memory = lambda self, *args, **kwargs: None


def let_gptq_report_with_the_log_switched_off() -> None:
    """GPTQ reports at a level that llm-compressor registers only together with its log."""
    logger.level("METRIC", no=38)


def make_base(name: str, folder: Path) -> None:
    torch.manual_seed(SEED)
    config = CONFIGS[name]
    auto_class(config).from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    # What transformers keeps in float32 it makes in bfloat16 at first, and in float32 only when it has loaded it.
    auto_class(config).from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(folder)
    if name in NEXT_TOKEN_LAYERS:
        add_next_token_layer(folder / "model.safetensors", *NEXT_TOKEN_LAYERS[name])


def auto_class(config: object) -> type[AutoModelForCausalLM] | type[AutoModelForImageTextToText]:
    return AutoModelForImageTextToText if hasattr(config, "vision_config") else AutoModelForCausalLM


def add_next_token_layer(file: Path, copied: str, prefix: str) -> None:
    tensors = load_file(file)
    hidden = tensors["model.norm.weight"].shape[0]
    layer = {
        name.replace(copied, prefix): tensor.clone() for name, tensor in tensors.items() if name.startswith(copied)
    }
    layer[f"{prefix}eh_proj.weight"] = torch.zeros(hidden, 2 * hidden, dtype=torch.bfloat16)
    layer[f"{prefix}enorm.weight"] = torch.ones(hidden, dtype=torch.bfloat16)
    layer[f"{prefix}shared_head.head.weight"] = torch.zeros(VOCABULARY, hidden, dtype=torch.bfloat16)
    save_file(tensors | layer, file, metadata={"format": "pt"})


def load(base: Path) -> PreTrainedModel:
    """With one linear module an expert and projection, as llm-compressor's own `load_context` would give it.

    That context looks into every module of transformers, one of which asks for torchvision, which nobody here needs.
    """
    model = auto_class(AutoConfig.from_pretrained(base)).from_pretrained(base, dtype=torch.bfloat16)
    linearize_moe(model)
    if has_linearize_load_mappings(model.config.model_type):
        set_save_conversion_mapping(model, get_linearize_load_mappings(model.config.model_type)[2])
    return model


def calibration_arguments() -> dict[str, object]:
    """Random tokens; the tokenizer is asked for, but has nothing to do."""
    torch.manual_seed(SEED)
    rows = torch.randint(VOCABULARY, (SAMPLES, SEQUENCE_LENGTH)).tolist()
    return {
        "dataset": Dataset.from_dict({"input_ids": rows, "attention_mask": [[1] * SEQUENCE_LENGTH] * SAMPLES}),
        "processor": PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"x": 0}, unk_token="x"))),
        "max_seq_length": SEQUENCE_LENGTH,
        "num_calibration_samples": SAMPLES,
    }


def recipe(preset: str, method: str, ignore: list[str]) -> list[object]:
    quantization = {"targets": ["Linear"], "scheme": preset, "ignore": ignore}
    if method == "GPTQ":
        return [GPTQModifier(**quantization)]
    transforms = [AWQModifier()] if method == "AWQ" else []
    return [*transforms, QuantizationModifier(**quantization)]


def quantize(base: Path, output: Path, preset: str, method: str, ignore: list[str]) -> None:
    model = load(base)
    needs_data = method != "RoundToNearest" or preset == "NVFP4"
    oneshot(model=model, recipe=recipe(preset, method, ignore), **(calibration_arguments() if needs_data else {}))
    model.save_pretrained(output, save_compressed=True)


def main(folder: Path) -> None:
    let_awq_run_without_an_accelerator()
    let_gptq_report_with_the_log_switched_off()
    for job in json.load(sys.stdin):
        base = folder / job["base"] / "base"
        if not base.exists():
            make_base(job["base"], base)
        output = folder / job["base"] / job["name"]
        try:
            quantize(base, output, job["preset"], job["method"], job["ignore"])
        except ValueError as refusal:
            output.mkdir()
            (output / "refused.txt").write_text(str(refusal))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

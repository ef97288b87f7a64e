"""Models and fleets for the tests of planning: facts that read like a sentence.

model("Qwen2.5-7B").stored_as("AWQ").facts()
fleet(node("NVIDIA-L4", gpus=4))
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from bench.dense_checkpoints import Tensor, dense_checkpoint
from kubequant.planning.architectures import shape_of
from kubequant.planning.gpus import NodeFacts, fleet_of, known_gpus
from kubequant.planning.quantization import stored_quantization
from kubequant.planning.tensors import classes_of
from kubequant.planning.values import Fleet, ModelFacts, ModelShape

MIB, GIB = 1024**2, 1024**3


def config(
    architecture: str,
    layers: int,
    hidden: int,
    inner: int,
    heads: int,
    kv_heads: int,
    vocab: int,
    context: int,
    **more: Any,
) -> dict[str, Any]:
    """The part of config.json that planning reads."""
    return {
        "architectures": [architecture], "model_type": "test", "num_hidden_layers": layers, "hidden_size": hidden,
        "intermediate_size": inner, "num_attention_heads": heads, "num_key_value_heads": kv_heads, "vocab_size": vocab,
        "max_position_embeddings": context, "torch_dtype": "bfloat16", "tie_word_embeddings": False, **more,
    }  # fmt: skip


CONFIGS = {
    "Tiny": config("LlamaForCausalLM", 2, 256, 512, 4, 2, 1024, 2048),
    "Llama-3.1-8B": config("LlamaForCausalLM", 32, 4096, 14336, 32, 8, 128256, 131072, head_dim=128),
    "Llama-3.1-70B": config("LlamaForCausalLM", 80, 8192, 28672, 64, 8, 128256, 131072, head_dim=128),
    "Qwen2.5-0.5B": config("Qwen2ForCausalLM", 24, 896, 4864, 14, 2, 151936, 32768, tie_word_embeddings=True),
    "Qwen2.5-7B": config("Qwen2ForCausalLM", 28, 3584, 18944, 28, 4, 152064, 32768),
    "Qwen2.5-72B": config("Qwen2ForCausalLM", 80, 8192, 29568, 64, 8, 152064, 32768),
    "Qwen2.5-72B-padded": config("Qwen2ForCausalLM", 80, 8192, 29696, 64, 8, 152064, 32768),
    "Phi-4": config("Phi3ForCausalLM", 40, 5120, 17920, 40, 10, 100352, 16384),
}

QUANTIZATION_CONFIGS: Mapping[str, dict[str, Any]] = {
    "AWQ": {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm", "zero_point": True},
    "GPTQ": {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True, "desc_act": False},
    "W4A16": {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "ignore": ["lm_head"],
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128, "symmetric": True},
                "input_activations": None,
            }
        },
    },
    "FP8": {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": {"num_bits": 8, "type": "float", "strategy": "channel"},
                "input_activations": {"num_bits": 8, "type": "float", "strategy": "token", "dynamic": True},
            }
        },
    },
    "FP8_BLOCK": {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]},
    "W8A8": {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": {"num_bits": 8, "type": "int", "strategy": "channel"},
                "input_activations": {"num_bits": 8, "type": "int", "strategy": "token", "dynamic": True},
            }
        },
    },
}


@dataclass(frozen=True)
class ModelBuilder:
    """Immutable: every step gives a new one."""

    name: str
    config: Mapping[str, Any]
    scheme: str = "Unquantized"

    def stored_as(self, scheme: str) -> ModelBuilder:
        return replace(self, scheme=scheme)

    def with_config(self, **fields: Any) -> ModelBuilder:
        return replace(self, config={**self.config, **fields})

    def with_fp8_kv_scales(self) -> ModelBuilder:
        scheme = {"num_bits": 8, "type": "float", "strategy": "tensor", "symmetric": True, "dynamic": False}
        quantization = {**QUANTIZATION_CONFIGS[self.scheme], "kv_cache_scheme": scheme}
        return self.with_config(quantization_config=quantization)

    def full_config(self) -> dict[str, Any]:
        quantization = QUANTIZATION_CONFIGS.get(self.scheme)
        return {**({"quantization_config": quantization} if quantization else {}), **self.config}

    def shape(self) -> ModelShape:
        return shape_of(self.full_config())

    def tensors(self) -> list[Tensor]:
        return list(dense_checkpoint(self.shape(), self.scheme, qkv_bias=self.name.startswith("Qwen2")))

    def facts(self) -> ModelFacts:
        tensors = classes_of(self.tensors())
        return ModelFacts(
            repository=f"org/{self.name}",
            commit="0" * 40,
            shape=self.shape(),
            tensors=tensors,
            stored=stored_quantization(self.full_config(), tensors),
            download_bytes=sum(tensor.bytes for tensor in tensors) + 10 * MIB,
        )


def model(name: str) -> ModelBuilder:
    return ModelBuilder(name, CONFIGS[name])


def node(
    product: str, *, gpus: int = 1, name: str = "", memory_mib: int | None = None, capability: str = ""
) -> NodeFacts:
    """A node with the labels of GPU Feature Discovery; what is not given comes from the shipped table."""
    known = known_gpus().get(product)
    memory = memory_mib or (known.memory_bytes // MIB if known and known.memory_bytes else 0)
    major, _, minor = (capability or str(known.compute_capability if known else "8.9")).partition(".")
    labels = {
        "nvidia.com/gpu.product": product,
        "nvidia.com/gpu.memory": str(memory),
        "nvidia.com/gpu.count": str(gpus),
        "nvidia.com/gpu.compute.major": major,
        "nvidia.com/gpu.compute.minor": minor,
    }
    return NodeFacts(name or f"node-{product}", labels, {"nvidia.com/gpu": str(gpus)})


def fleet(*nodes: NodeFacts) -> Fleet:
    return fleet_of(nodes)

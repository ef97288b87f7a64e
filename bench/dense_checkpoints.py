"""Headers of dense checkpoints that are true to a shape and a scheme: names, dtypes, shapes and bytes, without any weights.

Tests and benches plan models of 70 billion parameters with them. Layouts are those of the exports: AutoAWQ (GEMM),
GPTQ, compressed-tensors, FP8 per channel and in blocks, ModelOpt.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from kubequant.planning.values import ModelShape

Tensor = tuple[str, str, tuple[int, ...], int]
"""Name, safetensors dtype, shape, bytes."""

_BYTES = {"BF16": 2, "F16": 2, "F32": 4, "I32": 4, "I64": 8, "F8_E4M3": 1, "I8": 1, "U8": 1}


def tensor(name: str, dtype: str, *shape: int) -> Tensor:
    return name, dtype, shape, prod(shape) * _BYTES[dtype]


def dense_checkpoint(
    shape: ModelShape,
    scheme: str = "Unquantized",
    *,
    group_size: int = 128,
    qkv_bias: bool = False,
    stored_head: bool | None = None,
) -> Iterator[Tensor]:
    """`scheme`: Unquantized, AWQ, GPTQ, FP8_BLOCK, of compressed-tensors W4A16, FP8 (per channel), W8A8, NVFP4, MXFP4, of
    ModelOpt MODELOPT_FP8 and MODELOPT_NVFP4."""
    hidden, inner, dtype = shape.hidden_size, shape.intermediate_size, shape.dtype
    query, key = shape.num_attention_heads * shape.head_dim, shape.num_key_value_heads * shape.head_dim
    linears = {
        "self_attn.q_proj": (hidden, query), "self_attn.k_proj": (hidden, key), "self_attn.v_proj": (hidden, key),
        "self_attn.o_proj": (query, hidden), "mlp.gate_proj": (hidden, inner), "mlp.up_proj": (hidden, inner),
        "mlp.down_proj": (inner, hidden),
    }  # fmt: skip
    yield tensor("model.embed_tokens.weight", dtype, shape.vocab_size, hidden)
    for layer in range(shape.num_hidden_layers):
        prefix = f"model.layers.{layer}."
        for name, (inputs, outputs) in linears.items():
            yield from linear(f"{prefix}{name}.", scheme, inputs, outputs, group_size, dtype)
            if qkv_bias and name[10:] in ("q_proj", "k_proj", "v_proj"):
                yield tensor(f"{prefix}{name}.bias", dtype, outputs)
        yield tensor(f"{prefix}input_layernorm.weight", dtype, hidden)
        yield tensor(f"{prefix}post_attention_layernorm.weight", dtype, hidden)
    yield tensor("model.norm.weight", dtype, hidden)
    if not shape.tie_word_embeddings if stored_head is None else stored_head:
        yield tensor("lm_head.weight", dtype, shape.vocab_size, hidden)


def linear(prefix: str, scheme: str, inputs: int, outputs: int, group: int, dtype: str) -> Iterator[Tensor]:
    """The tensors of one linear layer without bias; `prefix` ends with a dot."""
    groups = inputs // group
    if scheme == "AWQ":
        yield tensor(prefix + "qweight", "I32", inputs, outputs // 8)
        yield tensor(prefix + "qzeros", "I32", groups, outputs // 8)
        yield tensor(prefix + "scales", "F16", groups, outputs)
    elif scheme == "GPTQ":
        yield tensor(prefix + "qweight", "I32", inputs // 8, outputs)
        yield tensor(prefix + "qzeros", "I32", groups, outputs // 8)
        yield tensor(prefix + "scales", "F16", groups, outputs)
        yield tensor(prefix + "g_idx", "I32", inputs)
    elif scheme == "W4A16":
        yield tensor(prefix + "weight_packed", "I32", outputs, inputs // 8)
        yield tensor(prefix + "weight_scale", dtype, outputs, groups)
        yield tensor(prefix + "weight_shape", "I64", 2)
    elif scheme == "FP8":
        yield tensor(prefix + "weight", "F8_E4M3", outputs, inputs)
        yield tensor(prefix + "weight_scale", dtype, outputs, 1)
    elif scheme == "FP8_BLOCK":
        yield tensor(prefix + "weight", "F8_E4M3", outputs, inputs)
        yield tensor(prefix + "weight_scale_inv", "F32", -(-outputs // 128), -(-inputs // 128))
    elif scheme == "W8A8":
        yield tensor(prefix + "weight", "I8", outputs, inputs)
        yield tensor(prefix + "weight_scale", "F32", outputs, 1)
    elif scheme == "NVFP4":
        yield tensor(prefix + "weight_packed", "U8", outputs, inputs // 2)
        yield tensor(prefix + "weight_scale", "F8_E4M3", outputs, inputs // 16)
        yield tensor(prefix + "weight_global_scale", "F32", 1)
        yield tensor(prefix + "input_global_scale", "F32", 1)
    elif scheme == "MXFP4":
        yield tensor(prefix + "weight_packed", "U8", outputs, inputs // 2)
        yield tensor(prefix + "weight_scale", "U8", outputs, inputs // 32)
    elif scheme == "MODELOPT_NVFP4":
        yield tensor(prefix + "weight", "U8", outputs, inputs // 2)
        yield tensor(prefix + "weight_scale", "F8_E4M3", outputs, inputs // 16)
        yield tensor(prefix + "weight_scale_2", "F32")
        yield tensor(prefix + "input_scale", "F32")
    elif scheme == "MODELOPT_FP8":
        yield tensor(prefix + "weight", "F8_E4M3", outputs, inputs)
        yield tensor(prefix + "weight_scale", "F32")
        yield tensor(prefix + "input_scale", "F32")
    else:
        yield tensor(prefix + "weight", dtype, outputs, inputs)

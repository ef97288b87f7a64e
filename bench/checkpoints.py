"""Headers of checkpoints that are not dense: experts (Mixtral's names), latent attention (DeepSeek's), gpt-oss in MXFP4."""

from __future__ import annotations

from collections.abc import Iterator

from bench.dense_checkpoints import Tensor, linear, tensor
from kubequant.planning.values import ModelShape


def mixtral_checkpoint(shape: ModelShape, scheme: str = "Unquantized", *, group_size: int = 128) -> Iterator[Tensor]:
    """Every layer has experts (`shape.experts`); the router and the vocabulary stay in 16 bit."""
    hidden, dtype = shape.hidden_size, shape.dtype
    assert shape.experts is not None
    inner = shape.experts.intermediate_size
    query, key = shape.num_attention_heads * shape.head_dim, shape.num_key_value_heads * shape.head_dim
    attention = {"q_proj": (hidden, query), "k_proj": (hidden, key), "v_proj": (hidden, key), "o_proj": (query, hidden)}
    expert = {"w1": (hidden, inner), "w2": (inner, hidden), "w3": (hidden, inner)}
    yield tensor("model.embed_tokens.weight", dtype, shape.vocab_size, hidden)
    for layer in range(shape.num_hidden_layers):
        prefix = f"model.layers.{layer}."
        for name, (inputs, outputs) in attention.items():
            yield from linear(f"{prefix}self_attn.{name}.", scheme, inputs, outputs, group_size, dtype)
        yield tensor(f"{prefix}block_sparse_moe.gate.weight", dtype, shape.experts.experts, hidden)
        for number in range(shape.experts.experts):
            for name, (inputs, outputs) in expert.items():
                at = f"{prefix}block_sparse_moe.experts.{number}.{name}."
                yield from linear(at, scheme, inputs, outputs, group_size, dtype)
        yield tensor(f"{prefix}input_layernorm.weight", dtype, hidden)
        yield tensor(f"{prefix}post_attention_layernorm.weight", dtype, hidden)
    yield tensor("model.norm.weight", dtype, hidden)
    yield tensor("lm_head.weight", dtype, shape.vocab_size, hidden)


def gpt_oss_checkpoint(shape: ModelShape) -> Iterator[Tensor]:
    """As published: experts fused and in MXFP4 blocks of 32, all else in 16 bit, with biases and attention sinks."""
    hidden, dtype = shape.hidden_size, shape.dtype
    assert shape.experts is not None
    experts, inner = shape.experts.experts, shape.experts.intermediate_size
    query, key = shape.num_attention_heads * shape.head_dim, shape.num_key_value_heads * shape.head_dim
    attention = {"q_proj": (hidden, query), "k_proj": (hidden, key), "v_proj": (hidden, key), "o_proj": (query, hidden)}
    yield tensor("model.embed_tokens.weight", dtype, shape.vocab_size, hidden)
    for layer in range(shape.num_hidden_layers):
        prefix = f"model.layers.{layer}."
        for name, (inputs, outputs) in attention.items():
            yield tensor(f"{prefix}self_attn.{name}.weight", dtype, outputs, inputs)
            yield tensor(f"{prefix}self_attn.{name}.bias", dtype, outputs)
        yield tensor(f"{prefix}self_attn.sinks", dtype, shape.num_attention_heads)
        yield tensor(f"{prefix}mlp.router.weight", dtype, experts, hidden)
        yield tensor(f"{prefix}mlp.router.bias", dtype, experts)
        for name, (inputs, outputs) in {"gate_up_proj": (hidden, 2 * inner), "down_proj": (inner, hidden)}.items():
            at = f"{prefix}mlp.experts.{name}"
            yield tensor(f"{at}_blocks", "U8", experts, outputs, inputs // 32, 16)
            yield tensor(f"{at}_scales", "U8", experts, outputs, inputs // 32)
            yield tensor(f"{at}_bias", dtype, experts, outputs)
        yield tensor(f"{prefix}input_layernorm.weight", dtype, hidden)
        yield tensor(f"{prefix}post_attention_layernorm.weight", dtype, hidden)
    yield tensor("model.norm.weight", dtype, hidden)
    yield tensor("lm_head.weight", dtype, shape.vocab_size, hidden)

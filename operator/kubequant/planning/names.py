"""What a stored tensor is, by its name: the module it belongs to, and how vLLM's layer of that name splits it.

The tables list names of many exports; what each group of them means stands in `sharding`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from kubequant.planning.values import TensorClass

COLUMN = frozenset({
    "q_proj", "q_b_proj", "kv_b_proj", "gate_proj", "up_proj", "gate_up_proj", "w1", "w3", "w13", "v1", "fc1",
    "fc_in", "c_fc", "linear_fc1", "linear_1", "dense_h_to_4h", "intermediate", "gate_up", "input_linear",
    "in_proj", "in_proj_qkvz", "in_proj_ba", "in_proj_qkv", "in_proj_z", "in_proj_a", "in_proj_b", "conv1d",
    "conv", "dt_proj", "linear_left", "per_layer_model_projection", "altup_projections",
    "altup_unembed_projections", "q_conv1d", "k_conv1d", "v_conv1d", "f_b_proj", "g_b_proj", "b_proj",
})  # fmt: skip
ROW = frozenset({
    "o_proj", "out_proj", "down_proj", "w2", "fc2", "fc_out", "c_proj", "linear_fc2", "linear_2", "dense",
    "dense_4h_to_h", "wo", "output_linear", "x_proj", "linear_right", "projection_layer", "attention_output",
})  # fmt: skip
KEY_VALUE = frozenset({"k_proj", "v_proj"})
FUSED_QKV = frozenset({"qkv_proj", "qkv", "c_attn", "W_pack", "query_key_value", "Wqkv", "wqkv"})
_EMBEDDING = frozenset({
    "embed_tokens", "wte", "word_embeddings", "embed_in", "embeddings", "tok_embeddings",
    "embed_tokens_per_layer",
})  # fmt: skip
_HEAD = frozenset({"lm_head", "embed_out"})
_TOWERS = frozenset({
    "visual", "vision_tower", "vision_model", "vision_encoder", "vision_embed_tokens", "audio_tower",
    "audio_model", "model_vision",
})  # fmt: skip
_FUSED_EXPERTS = re.compile(r"(gate_up_proj|down_proj|gate_proj|up_proj|w1|w2|w3|v1)(_\w+)?$")
"""gpt-oss, Llama 4 and Qwen3-VL keep all experts of a layer in one tensor, and call it like a module."""


@dataclass(frozen=True)
class TensorName:
    """model.layers.*.mlp.experts.*.down_proj.weight: module down_proj, parameter weight, within model ... experts *."""

    module: str
    parameter: str
    within: tuple[str, ...]

    @classmethod
    def of(cls, tensor: TensorClass) -> TensorName:
        *path, parameter = tensor.pattern.split(".")
        if fused := path and path[-1] == "experts" and _FUSED_EXPERTS.match(parameter):
            return cls(fused[1], _FUSED_PARAMETERS.get(fused[2] or "", "weight"), tuple(path))
        while path and path[-1] == "*":
            path.pop()
        return cls(path[-1] if path else "", parameter, tuple(path[:-1]))

    @property
    def of_experts(self) -> bool:
        return "experts" in self.within or (self.module in ("input_linear", "output_linear") and self._in_moe)

    @property
    def _in_moe(self) -> bool:
        return "block_sparse_moe" in self.within

    @property
    def of_recurrence(self) -> bool:
        """Of a Mamba layer, by the two names that its mixer goes by. (Nemotron-H calls all its layers mixers.)"""
        return self.within[-1:] in (("mamba",), ("mixer",))

    @property
    def of_tower(self) -> bool:
        return not _TOWERS.isdisjoint(self.within)


_FUSED_PARAMETERS = {"_bias": "bias", "_scales": "weight_scale", "_scale": "weight_scale"}


def is_embedding(tensor: TensorClass) -> bool:
    name = TensorName.of(tensor)
    return name.module in _EMBEDDING and not name.of_tower


def is_head(tensor: TensorClass) -> bool:
    return TensorName.of(tensor).module in _HEAD or tensor.pattern == "output.weight"


def is_of_tower(pattern: str) -> bool:
    """Whether a tensor belongs to a vision or audio encoder."""
    return not _TOWERS.isdisjoint(pattern.split("."))

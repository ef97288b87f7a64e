"""How vLLM lays one kind of tensor over the ranks: by the name of its module, as vLLM's own layers split it.

    column     outputs are split, a bias with them             q_proj, gate_proj, fc1, in_proj, conv1d
    row        inputs are split, a bias is on every rank       o_proj, down_proj, fc2, out_proj, x_proj
    key-value  like column, but a head is never cut            k_proj, v_proj, the end of a fused qkv_proj
    vocabulary rows are padded to 64, then split               embed_tokens, lm_head
    experts    each is split like an MLP, or kept whole at expert parallelism
    anything else is on every rank: norms, routers, latent projections (MLA), positions, and names that nobody knows.

Vision and audio towers are split in the same way (vLLM's default, mm_encoder_tp_mode = weights).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import prod

from kubequant.planning.values import ModelFacts, ModelShape, TensorClass

VOCAB_PADDING = 64
"""vLLM pads the vocabulary to this (vocab_parallel_embedding.py), then splits it."""

_COLUMN = frozenset({
    "q_proj", "q_b_proj", "kv_b_proj", "gate_proj", "up_proj", "gate_up_proj", "w1", "w3", "w13", "v1", "fc1",
    "fc_in", "c_fc", "linear_fc1", "linear_1", "dense_h_to_4h", "intermediate", "gate_up", "input_linear",
    "in_proj", "in_proj_qkvz", "in_proj_ba", "in_proj_qkv", "in_proj_z", "in_proj_a", "in_proj_b", "conv1d",
    "conv", "dt_proj", "linear_left", "per_layer_model_projection", "altup_projections",
    "altup_unembed_projections", "q_conv1d", "k_conv1d", "v_conv1d", "f_b_proj", "g_b_proj", "b_proj",
})  # fmt: skip
_ROW = frozenset({
    "o_proj", "out_proj", "down_proj", "w2", "fc2", "fc_out", "c_proj", "linear_fc2", "linear_2", "dense",
    "dense_4h_to_h", "wo", "output_linear", "x_proj", "linear_right", "projection_layer", "attention_output",
})  # fmt: skip
_KEY_VALUE = frozenset({"k_proj", "v_proj"})
_FUSED_QKV = frozenset({"qkv_proj", "qkv", "c_attn", "W_pack", "query_key_value", "Wqkv", "wqkv"})
_EMBEDDING = frozenset({
    "embed_tokens", "wte", "word_embeddings", "embed_in", "embeddings", "tok_embeddings",
    "embed_tokens_per_layer",
})  # fmt: skip
_HEAD = frozenset({"lm_head", "embed_out"})
_HEAD_VECTORS = frozenset({"A_log", "A", "D", "dt_bias", "sinks", "attention_sink_bias"})
_FLOAT32 = frozenset({"A_log", "e_score_correction_bias", "correct_output_scale"})
"""vLLM keeps these in 32 bit, whatever the files hold."""

_FLOAT32_ROUTERS = frozenset({
    "AfmoeForCausalLM", "Ernie4_5_MoeForCausalLM", "Ernie4_5_VLMoeForConditionalGeneration",
    "Glm4MoeForCausalLM", "Glm4MoeLiteForCausalLM", "Glm4vMoeForConditionalGeneration", "HYV3ForCausalLM",
    "MiMoV2FlashForCausalLM", "MiniMaxM2ForCausalLM", "Step3p5ForCausalLM",
})  # fmt: skip
"""Architectures whose routers vLLM computes, and so keeps, in 32 bit."""

_WHOLE_MLP = frozenset({"GPTBigCodeForCausalLM"})
"""vLLM runs this one through transformers, which has no plan for splitting its MLP."""

_TOWERS = frozenset({
    "visual", "vision_tower", "vision_model", "vision_encoder", "vision_embed_tokens", "audio_tower",
    "audio_model", "model_vision",
})  # fmt: skip
_SCALES = frozenset({"scales", "qzeros", "weight_scale", "weight_scale_inv", "weight_zero_point", "zeros"})
_ON_EVERY_RANK = frozenset({
    "weight_shape", "input_scale", "k_scale", "v_scale", "weight_scale_2", "weight_global_scale",
    "input_global_scale", "activation_scale",
})  # fmt: skip
_FUSED_EXPERTS = re.compile(r"(gate_up_proj|down_proj|gate_proj|up_proj|w1|w2|w3|v1)(_\w+)?$")
"""gpt-oss, Llama 4 and Qwen3-VL keep all experts of a layer in one tensor, and call it like a module."""


@dataclass(frozen=True)
class Split:
    """Over how many GPUs a layer's tensors are laid, and whether experts are dealt out whole.

    `padded_experts`: the Marlin kernel wants MXFP4 experts in tiles of 256 x 128, and pads them
    (fused_moe/oracle/mxfp4.py).
    """

    ranks: int = 1
    expert_parallel: bool = False
    padded_experts: bool = False


def padded_vocabulary(vocab_size: int) -> int:
    """Rows of the embedding as vLLM allocates it."""
    return -(-vocab_size // VOCAB_PADDING) * VOCAB_PADDING


def is_embedding(tensor: TensorClass) -> bool:
    name = _Name.of(tensor)
    return name.module in _EMBEDDING and not name.of_tower


def is_head(tensor: TensorClass) -> bool:
    return _Name.of(tensor).module in _HEAD or tensor.pattern == "output.weight"


def is_of_tower(pattern: str) -> bool:
    """Whether a tensor belongs to a vision or audio encoder."""
    return not _TOWERS.isdisjoint(pattern.split("."))


def bytes_per_rank(tensor: TensorClass, facts: ModelFacts, split: Split) -> int:
    """Bytes that one rank keeps of all tensors of a class: of the rank that keeps most, before a kernel's repacking."""
    name, shape = _Name.of(tensor), facts.shape
    size = _loaded_bytes(tensor, name, facts)
    if name.of_experts:
        return _expert_bytes(tensor, name, size, facts, split)
    if is_embedding(tensor) or is_head(tensor):
        return -(-size * padded_vocabulary(shape.vocab_size) // (shape.vocab_size * split.ranks))
    if name.parameter in _ON_EVERY_RANK or max(tensor.shape, default=1) == 1:
        return size
    return _divided(tensor, name, size, facts, split.ranks) + _absorbed(tensor, name, facts, split.ranks)


@dataclass(frozen=True)
class _Name:
    """model.layers.*.mlp.experts.*.down_proj.weight: module down_proj, parameter weight, within model ... experts *."""

    module: str
    parameter: str
    within: tuple[str, ...]

    @classmethod
    def of(cls, tensor: TensorClass) -> _Name:
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


def _loaded_bytes(tensor: TensorClass, name: _Name, facts: ModelFacts) -> int:
    """vLLM runs a float32 model in 16 bit. Scales stay as they are, those of 8-bit weights are in 32 bit."""
    if name.parameter in _FLOAT32 or (name.module == "gate" and facts.shape.architecture in _FLOAT32_ROUTERS):
        return 4 * tensor.count * prod(tensor.shape)
    if name.parameter == "weight_scale" and tensor.dtype in ("BF16", "F16") and facts.stored and facts.stored.bits == 8:
        return tensor.bytes if facts.stored.scheme == "W8A16" else 2 * tensor.bytes
    return tensor.bytes // 2 if facts.stored is None and tensor.dtype == "F32" else tensor.bytes


def _divided(tensor: TensorClass, name: _Name, size: int, facts: ModelFacts, ranks: int) -> int:
    shape = facts.shape
    one_per_output = name.parameter == "bias" or (
        name.parameter in _SCALES and (len(tensor.shape) < 2 or 1 in tensor.shape)
    )
    if name.module in ("q_norm", "k_norm") and shape.architecture.startswith("MiniMax"):
        return -(-size // (ranks if name.module == "q_norm" else min(ranks, shape.num_key_value_heads)))
    if shape.architecture in _WHOLE_MLP and name.within[-1:] == ("mlp",):
        return size
    if name.module == "mlp" and name.within[-1:] == ("merger",):  # two linear layers, told apart by their outputs
        row = name.parameter == "bias" and tensor.shape == (shape.hidden_size,)
        return size if row else -(-size // ranks)
    if name.module in _FUSED_QKV:
        return -(-size // ranks) if name.of_tower else _fused_qkv(size, shape, ranks)
    if name.module in _KEY_VALUE and not name.of_tower:
        return -(-size // min(ranks, max(1, shape.num_key_value_heads)))
    if name.of_recurrence and name.module in ("in_proj", "conv1d"):
        rows = tensor.shape[-1] if name.parameter in ("scales", "qweight", "qzeros") else tensor.shape[0]
        return _recurrent_rows(size, rows, facts, ranks)
    if name.module in _COLUMN or name.module in _KEY_VALUE or _of_heads(name):
        return -(-size // ranks)
    if (name.module in _ROW or _is_tower_projection(name)) and not one_per_output:
        return -(-size // ranks)
    return size


def _is_tower_projection(name: _Name) -> bool:
    return name.of_tower and name.module == "proj" and name.within[-1] in ("attn", "attention", "self_attn")


def _fused_qkv(size: int, shape: ModelShape, ranks: int) -> int:
    heads = shape.num_attention_heads + 2 * shape.num_key_value_heads
    query = size * shape.num_attention_heads // heads
    return -(-query // ranks) + -(-(size - query) // min(ranks, shape.num_key_value_heads))


# --- experts ---------------------------------------------------------------------------------------------------------


def _expert_bytes(tensor: TensorClass, name: _Name, size: int, facts: ModelFacts, split: Split) -> int:
    if split.padded_experts and tensor.dtype == "U8":
        size = _padded_to_tiles(tensor, name, size, split)
    if split.expert_parallel:
        experts = max(1, _experts(tensor, name, facts.shape))
        return -(-size * -(-experts // split.ranks) // experts)
    if name.parameter in _ON_EVERY_RANK or max(tensor.shape, default=1) == 1:
        return size
    if name.module in _ROW and (name.parameter == "bias" or tensor.shape[-1] == 1 or len(tensor.shape) < 2):
        return size
    return -(-size // split.ranks)


def _experts(tensor: TensorClass, name: _Name, shape: ModelShape) -> int:
    fused = name.within[-1:] == ("experts",) and "*" not in tensor.pattern.rpartition("experts")[2]
    if fused or name.module in ("input_linear", "output_linear"):
        return tensor.shape[0]
    return shape.experts.experts if shape.experts else tensor.count


def _padded_to_tiles(tensor: TensorClass, name: _Name, size: int, split: Split) -> int:
    """For Marlin: the hidden size in multiples of 256, the intermediate size of a rank in multiples of 128."""
    ranks = 1 if split.expert_parallel else split.ranks
    if len(tensor.shape) < 3:
        return size
    outputs, inputs = tensor.shape[1], prod(tensor.shape[2:])
    per_value = 2 if name.parameter == "weight" else 32  # two values in a byte; 32 share a scale
    inputs *= per_value if name.parameter == "weight" else 32
    hidden, inner = (outputs, inputs) if name.module in _ROW else (inputs, outputs // 2)
    padded = _ceil(hidden, 256) * _ceil(-(-inner // ranks), 128) * ranks
    return size * padded // (hidden * inner)


def _ceil(value: int, step: int) -> int:
    return -(-value // step) * step


# --- recurrent layers ------------------------------------------------------------------------------------------------


def _of_heads(name: _Name) -> bool:
    """Values of each head (A, D, dt, attention sinks), and the gated norm of Mamba 2, which spans all of them."""
    return name.parameter in _HEAD_VECTORS or (name.of_recurrence and name.module == "norm")


def _recurrent_rows(size: int, rows: int, facts: ModelFacts, ranks: int) -> int:
    """Rows of heads are split; rows of the groups that they share are on every rank which has such a head.

    Mamba 2 convolves [heads, B of each group, C of each group]; its in_proj makes the gate and the steps besides.
    """
    groups, group_rows = _groups(facts)
    grouped = size * group_rows // rows
    return -(-(size - grouped) // ranks) + -(-grouped // min(ranks, groups))


def _groups(facts: ModelFacts) -> tuple[int, int]:
    """How many groups Mamba 2 has, and the rows of B and C of all of them; (1, 0) for Mamba 1, which has none.

    From the headers: in_proj has 2 inner + 2 groups x state + heads rows, conv1d inner + 2 groups x state.
    """
    rows: dict[str, int] = {}
    for tensor in facts.tensors:
        name = _Name.of(tensor)
        if name.parameter == "A_log" and len(tensor.shape) == 1:
            rows["heads"] = tensor.shape[0]
        elif name.of_recurrence and _counts_outputs(name, tensor):
            rows[name.module] = _outputs(name, tensor)
    if not rows.keys() >= {"heads", "conv1d", "in_proj"}:
        return 1, 0
    inner = rows["in_proj"] - rows["conv1d"] - rows["heads"]
    group_rows = rows["conv1d"] - inner
    if inner <= 0 or group_rows <= 0:
        return 1, 0
    # The recurrent state is the largest that such a layer keeps: inner x state numbers.
    sizes = [one.units * one.values_per_unit for cache in facts.shape.caches for one in cache.state]
    state = max(sizes, default=0) // inner
    return max(1, group_rows // (2 * state)) if state else 1, group_rows


def _counts_outputs(name: _Name, tensor: TensorClass) -> bool:
    return name.parameter in ("weight", "weight_packed", "scales") and len(tensor.shape) > 1


def _outputs(name: _Name, tensor: TensorClass) -> int:
    """AWQ and GPTQ keep their scales as [groups, outputs]; everybody else has the outputs first."""
    return tensor.shape[-1] if name.parameter == "scales" else tensor.shape[0]


# --- latent attention ------------------------------------------------------------------------------------------------


def _absorbed(tensor: TensorClass, name: _Name, facts: ModelFacts, ranks: int) -> int:
    """MLA keeps kv_b_proj a second time in 16 bit when it is quantised; when it is not, both share their storage."""
    if name.module != "kv_b_proj" or tensor.dtype not in _VALUES_PER_ITEM or name.parameter in _SCALES:
        return 0
    packed = 32 // facts.stored.bits if facts.stored and tensor.dtype == "I32" else _VALUES_PER_ITEM[tensor.dtype]
    return -(-2 * tensor.count * prod(tensor.shape) * packed // ranks)


_VALUES_PER_ITEM = {"F8_E4M3": 1, "I8": 1, "U8": 2, "I32": 8}

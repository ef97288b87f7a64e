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

from dataclasses import dataclass
from math import prod

from kubequant.planning.cuts import expert_block, expert_group
from kubequant.planning.names import COLUMN, FUSED_QKV, KEY_VALUE, ROW, TensorName, is_embedding, is_head
from kubequant.planning.values import ModelFacts, ModelShape, StoredMethod, StoredQuantization, TensorClass

VOCAB_PADDING = 64
"""vLLM pads the vocabulary to this (vocab_parallel_embedding.py), then splits it."""

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

_SCALES = frozenset({"scales", "qzeros", "weight_scale", "weight_scale_inv", "weight_zero_point", "zeros"})
_ON_EVERY_RANK = frozenset({
    "weight_shape", "input_scale", "k_scale", "v_scale", "weight_scale_2", "weight_global_scale",
    "input_global_scale", "activation_scale",
})  # fmt: skip


@dataclass(frozen=True)
class Split:
    """Over how many GPUs a layer's tensors are laid, and whether experts are dealt out whole.

    `padded_experts`: the Marlin kernel wants MXFP4 experts in tiles of 256 x 128 and pads them; the others round the
    inner size of a rank up to 64 (fused_moe/oracle/mxfp4.py).
    """

    ranks: int = 1
    expert_parallel: bool = False
    padded_experts: bool = False


def padded_vocabulary(vocab_size: int) -> int:
    """Rows of the embedding as vLLM allocates it."""
    return -(-vocab_size // VOCAB_PADDING) * VOCAB_PADDING


def bytes_per_rank(tensor: TensorClass, facts: ModelFacts, split: Split) -> int:
    """Bytes that one rank keeps of all tensors of a class: of the rank that keeps most, before a kernel's repacking."""
    name, shape = TensorName.of(tensor), facts.shape
    size = loaded_bytes(tensor, facts)
    if name.of_experts:
        return _expert_bytes(tensor, name, size, facts, split)
    if is_embedding(tensor) or is_head(tensor):
        return -(-size * padded_vocabulary(shape.vocab_size) // (shape.vocab_size * split.ranks))
    if name.parameter in _ON_EVERY_RANK or max(tensor.shape, default=1) == 1:
        return size
    return _divided(tensor, name, size, facts, split.ranks) + _absorbed(tensor, name, facts, split.ranks)


def loaded_bytes(tensor: TensorClass, facts: ModelFacts) -> int:
    """Bytes of all tensors of a class once loaded: vLLM runs a float32 model in 16 bit.

    Scales stay as they are, those of 8-bit weights are in 32 bit.
    """
    name = TensorName.of(tensor)
    if name.parameter in _FLOAT32 or (name.module == "gate" and facts.shape.architecture in _FLOAT32_ROUTERS):
        return 4 * tensor.count * prod(tensor.shape)
    if name.parameter == "weight_scale" and tensor.dtype in ("BF16", "F16") and facts.stored and facts.stored.bits == 8:
        return tensor.bytes if facts.stored.scheme == "W8A16" else 2 * tensor.bytes
    return tensor.bytes // 2 if facts.stored is None and tensor.dtype == "F32" else tensor.bytes


def _divided(tensor: TensorClass, name: TensorName, size: int, facts: ModelFacts, ranks: int) -> int:
    shape = facts.shape
    one_per_output = name.parameter == "bias" or (
        name.parameter in _SCALES and (len(tensor.shape) < 2 or 1 in tensor.shape)
    )
    if name.module in ("q_norm", "k_norm") and shape.architecture.startswith("MiniMax"):
        return -(-size // (ranks if name.module == "q_norm" else min(ranks, max(1, shape.num_key_value_heads))))
    if shape.architecture in _WHOLE_MLP and name.within[-1:] == ("mlp",):
        return size
    if name.module == "mlp" and name.within[-1:] == ("merger",):  # two linear layers, told apart by their outputs
        row = name.parameter == "bias" and tensor.shape == (shape.hidden_size,)
        return size if row else -(-size // ranks)
    if name.module in FUSED_QKV:
        return -(-size // ranks) if name.of_tower else _fused_qkv(size, shape, ranks)
    if name.module in KEY_VALUE and not name.of_tower:
        return -(-size // min(ranks, max(1, shape.num_key_value_heads)))
    if name.of_recurrence and name.module in ("in_proj", "conv1d"):
        rows = tensor.shape[-1] if name.parameter in ("scales", "qweight", "qzeros") else tensor.shape[0]
        return _recurrent_rows(size, rows, facts, ranks)
    if name.module in COLUMN or name.module in KEY_VALUE or _of_heads(name):
        return -(-size // ranks)
    if (name.module in ROW or _is_tower_projection(name)) and not one_per_output:
        return -(-size // ranks)
    return size


def _is_tower_projection(name: TensorName) -> bool:
    return name.of_tower and name.module == "proj" and name.within[-1] in ("attn", "attention", "self_attn")


def _fused_qkv(size: int, shape: ModelShape, ranks: int) -> int:
    kv_heads = max(1, shape.num_key_value_heads)
    query = size * shape.num_attention_heads // (shape.num_attention_heads + 2 * kv_heads)
    return -(-query // ranks) + -(-(size - query) // min(ranks, kv_heads))


# --- experts ---------------------------------------------------------------------------------------------------------


def _expert_bytes(tensor: TensorClass, name: TensorName, size: int, facts: ModelFacts, split: Split) -> int:
    ranks = 1 if split.expert_parallel else split.ranks
    if facts.stored and facts.stored.method is StoredMethod.MXFP4 and tensor.dtype == "U8":
        size = _padded_to_tiles(tensor, name, size, ranks, split.padded_experts)
    elif facts.stored and name.parameter in _SCALES:
        size *= _scales_repeated(facts.stored, facts.shape, ranks)
    if split.expert_parallel:
        experts = max(1, _experts(tensor, name, facts.shape))
        return -(-size * -(-experts // split.ranks) // experts)
    if name.parameter in _ON_EVERY_RANK or max(tensor.shape, default=1) == 1:
        return size
    if name.module in ROW and (name.parameter == "bias" or tensor.shape[-1] == 1 or len(tensor.shape) < 2):
        return size
    return -(-size // split.ranks)


def _experts(tensor: TensorClass, name: TensorName, shape: ModelShape) -> int:
    fused = name.within[-1:] == ("experts",) and "*" not in tensor.pattern.rpartition("experts")[2]
    if tensor.shape and (fused or name.module in ("input_linear", "output_linear")):
        return tensor.shape[0]
    return shape.experts.experts if shape.experts else tensor.count


def _padded_to_tiles(tensor: TensorClass, name: TensorName, size: int, ranks: int, marlin: bool) -> int:
    """MXFP4: each rank has whole blocks of the inner size, rounded up as the kernel wants them."""
    if len(tensor.shape) < 3 or tensor.shape[1] < 2:
        return size
    values = 2 if name.parameter == "weight" else 32  # two in a byte; 32 share a scale
    outputs, inputs = tensor.shape[1], prod(tensor.shape[2:]) * values
    hidden, inner = (outputs, inputs) if name.module in ROW else (inputs, outputs // 2)
    hidden_step, inner_step = (256, 128) if marlin else (1, 64)
    padded = _ceil(hidden, hidden_step) * _ceil(-(-inner // ranks), inner_step) * ranks
    return size * padded // (hidden * inner)


def _scales_repeated(stored: StoredQuantization, shape: ModelShape, ranks: int) -> int:
    """How often vLLM repeats the experts' scales, because its groups or blocks are smaller than those stored."""
    if shape.experts is None:
        return 1
    if stored.block:
        block = expert_block(stored, shape, ranks) or stored.block
        return stored.block[0] // block[0] * (stored.block[1] // block[1])
    if stored.group_size and stored.group_size > 0:
        return stored.group_size // (expert_group(stored, shape, ranks) or stored.group_size)
    return 1


def _ceil(value: int, step: int) -> int:
    return -(-value // step) * step


# --- recurrent layers ------------------------------------------------------------------------------------------------


def _of_heads(name: TensorName) -> bool:
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
        name = TensorName.of(tensor)
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


def _counts_outputs(name: TensorName, tensor: TensorClass) -> bool:
    return name.parameter in ("weight", "weight_packed", "scales") and len(tensor.shape) > 1


def _outputs(name: TensorName, tensor: TensorClass) -> int:
    """AWQ and GPTQ keep their scales as [groups, outputs]; everybody else has the outputs first."""
    return tensor.shape[-1] if name.parameter == "scales" else tensor.shape[0]


# --- latent attention ------------------------------------------------------------------------------------------------


def _absorbed(tensor: TensorClass, name: TensorName, facts: ModelFacts, ranks: int) -> int:
    """MLA keeps kv_b_proj a second time in 16 bit when it is quantised; when it is not, both share their storage."""
    if name.module != "kv_b_proj" or tensor.dtype not in _VALUES_PER_ITEM or name.parameter in _SCALES:
        return 0
    packed = 32 // facts.stored.bits if facts.stored and tensor.dtype == "I32" else _VALUES_PER_ITEM[tensor.dtype]
    return -(-2 * tensor.count * prod(tensor.shape) * packed // ranks)


_VALUES_PER_ITEM = {"F8_E4M3": 1, "I8": 1, "U8": 2, "I32": 8}

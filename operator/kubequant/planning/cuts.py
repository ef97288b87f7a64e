"""Whether the groups and blocks of a quantised layer lie whole on each rank, as vLLM's layers ask for.

Column-parallel layers are cut along their outputs, row-parallel ones along their inputs; the other side is never cut, and
may end in a part of a block. Experts are less strict: where their scales cannot be cut, vLLM repeats them for smaller
groups or blocks, down to 32 (moe_wna16.py for AWQ and GPTQ, fused_moe/oracle/fp8.py for FP8 blocks).
"""

from __future__ import annotations

from collections.abc import Iterator
from math import gcd

from kubequant.planning.names import COLUMN, FUSED_QKV, KEY_VALUE, ROW, TensorName
from kubequant.planning.values import CacheKind, ModelFacts, ModelShape, StoredMethod, StoredQuantization, TensorClass

_SMALLEST = 32


def expert_group(stored: StoredQuantization, shape: ModelShape, ranks: int) -> int | None:
    """The group that vLLM runs the experts' AWQ or GPTQ weights with on so many ranks, None where it cannot cut them.

    `stored` must have a group size above zero, and the model experts.
    """
    assert stored.group_size and shape.experts
    inner, group = shape.experts.intermediate_size // ranks, stored.group_size
    if stored.method not in (StoredMethod.AWQ, StoredMethod.GPTQ):
        return None if inner % group else group
    while inner % group or shape.hidden_size % group:
        group //= 2
        if group < _SMALLEST:
            return None
    return group


def expert_block(stored: StoredQuantization, shape: ModelShape, ranks: int) -> tuple[int, int] | None:
    """The FP8 block that vLLM runs the experts with on so many ranks, None where it cannot cut them.

    `stored` must have a block, and the model experts.
    """
    assert stored.block and shape.experts
    outputs, inputs = stored.block
    inner = shape.experts.intermediate_size // ranks
    if inner % outputs == 0 and (ranks == 1 or inner % inputs == 0):
        return stored.block
    smaller = gcd(outputs, inputs, inner, shape.hidden_size)
    return (smaller, smaller) if stored.method is StoredMethod.FP8 and smaller >= _SMALLEST else None


def broken_block(facts: ModelFacts, ranks: int) -> tuple[str, str, int, int] | None:
    """The first layer (experts aside) whose FP8 blocks do not lie whole on each rank, None when all do.

    Its module, which side is cut ("inputs" or "outputs"), the numbers of it on one rank, and the block's side. What
    validate_fp8_block_shape (fp8_utils.py) asks for. vLLM 0.33 waives that for merged layers of `fp8` checkpoints, but
    still deals their scales out by whole blocks, so that loading then fails or takes another row's scales.
    """
    block = facts.stored.block if facts.stored else None
    if block is None:
        return None
    for tensor in facts.tensors:
        name = TensorName.of(tensor)
        if tensor.dtype != "F8_E4M3" or len(tensor.shape) != 2 or name.of_experts or name.of_recurrence:
            continue
        if ranks > 1 and name.module in ROW and tensor.shape[1] // ranks % block[1]:
            return name.module, "inputs", tensor.shape[1] // ranks, block[1]
        for outputs in _outputs(tensor, name, facts.shape, ranks):
            if outputs % block[0]:
                return name.module, "outputs", outputs, block[0]
    return None


def _outputs(tensor: TensorClass, name: TensorName, shape: ModelShape, ranks: int) -> Iterator[int]:
    """The outputs on one rank that must be whole blocks: of each part, where several are stored as one."""
    outputs, heads, kv_heads = tensor.shape[0], shape.num_attention_heads, max(1, shape.num_key_value_heads)
    if name.of_tower:
        heads = kv_heads = 1  # towers have as many keys as queries, and never replicate them
    kv_ranks = ranks if name.of_tower else min(ranks, kv_heads)
    if name.module in FUSED_QKV:
        yield outputs * heads // (heads + 2 * kv_heads) // ranks
        yield outputs * kv_heads // (heads + 2 * kv_heads) // kv_ranks
    elif name.module == "gate_up_proj":
        yield outputs // 2 // ranks
    elif name.module in KEY_VALUE and (ranks > 1 or name.module == "k_proj"):
        yield outputs // kv_ranks
    elif name.within[-1:] != ("linear_attn",) and (ranks > 1 or _is_merged(name, shape)) and name.module in COLUMN:
        yield outputs // ranks


def _is_merged(name: TensorName, shape: ModelShape) -> bool:
    """vLLM makes one layer of gate and up, and one of q, k and v, but for latent attention. The last need not be whole."""
    return name.module == "gate_proj" or (name.module == "q_proj" and not shape.keeps(CacheKind.LATENT))

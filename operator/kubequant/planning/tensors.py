"""Stored tensors in classes, and what of them one tensor-parallel rank keeps.

Sharding follows vLLM's layers: attention and MLP projections are column- or row-parallel, the embedding and the head are
split over a vocabulary padded to 64, everything else (norms, act-order indices, scalars) is on every rank.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

from kubequant.api.conditions import Reason
from kubequant.errors import Refused
from kubequant.planning.values import ModelFacts, ModelShape, TensorClass

VOCAB_PADDING = 64
"""vLLM pads the vocabulary to this (vocab_parallel_embedding.py), then splits it."""

_MAX_CLASSES = 256
"""Dense decoders have 10 to 40. A bound keeps hostile headers out of the cluster's memory."""

_COLUMN_PARALLEL = {"q_proj", "gate_proj", "up_proj", "gate_up_proj"}
_KV_PROJECTIONS = {"k_proj", "v_proj"}
_FUSED_QKV = {"qkv_proj"}
_ROW_PARALLEL = {"o_proj", "down_proj"}
_VOCABULARY = {"embed_tokens", "lm_head"}
_LAYER_OUTPUT = re.compile(r"layers\.\*\.mlp\.down_proj\.(weight|qweight|weight_packed)$")
_SCALES = {"scales", "qzeros", "weight_scale", "weight_scale_inv", "weight_zero_point"}
_ON_EVERY_RANK = {"g_idx", "weight_g_idx", "weight_shape", "input_scale", "k_scale", "v_scale"}


def classes_of(tensors: Iterable[tuple[str, str, tuple[int, ...], int]]) -> tuple[TensorClass, ...]:
    """Groups (name, dtype, shape, bytes) by name with its numbers starred, dtype and shape; sorted.

    Raises Refused when there are more classes than any supported model has.
    """
    groups: defaultdict[tuple[str, str, tuple[int, ...]], list[int]] = defaultdict(list)
    for name, dtype, shape, size in tensors:
        groups[(_starred(name), dtype, tuple(shape))].append(size)
        if len(groups) > _MAX_CLASSES:
            raise Refused(
                Reason.UNSUPPORTED_ARCHITECTURE,
                f"the checkpoint has more than {_MAX_CLASSES} kinds of tensors; this release plans dense decoders, "
                "which have a few dozen",
            )
    return tuple(
        TensorClass(pattern, dtype, shape, len(sizes), sum(sizes))
        for (pattern, dtype, shape), sizes in sorted(groups.items())
    )


def _starred(name: str) -> str:
    return ".".join("*" if part.isdigit() else part for part in name.split("."))


def padded_vocabulary(vocab_size: int) -> int:
    """Rows of the embedding as vLLM allocates it."""
    return -(-vocab_size // VOCAB_PADDING) * VOCAB_PADDING


def weights_per_rank(facts: ModelFacts, tensor_parallel_size: int) -> int:
    """Bytes of weights that each rank holds after loading, before a kernel's repacking."""
    return sum(_bytes_per_rank(tensor, facts, tensor_parallel_size) for tensor in facts.tensors)


def largest_layer_per_rank(facts: ModelFacts, tensor_parallel_size: int) -> int:
    """Bytes of one decoder layer on a rank: what repacking at load needs a second time."""
    layers = [tensor for tensor in facts.tensors if "layers.*." in tensor.pattern]
    stored = sum(_bytes_per_rank(tensor, facts, tensor_parallel_size) for tensor in layers)
    return -(-stored // facts.shape.num_hidden_layers)


def disagreement(facts: ModelFacts) -> str | None:
    """How the headers contradict config.json, None when they do not: arithmetic would be right about neither."""
    shape = facts.shape
    layers = sum(tensor.count for tensor in facts.tensors if _LAYER_OUTPUT.search(tensor.pattern))
    if layers not in (0, shape.num_hidden_layers):
        return f"config.json says {shape.num_hidden_layers} layers, the headers hold {layers}"
    for tensor in facts.tensors:
        if tensor.pattern.endswith("embed_tokens.weight") and tensor.shape != (shape.vocab_size, shape.hidden_size):
            said = f"{shape.vocab_size} tokens x {shape.hidden_size}"
            return f"config.json says an embedding of {said}, the headers hold {' x '.join(map(str, tensor.shape))}"
    return None


def _bytes_per_rank(tensor: TensorClass, facts: ModelFacts, ranks: int) -> int:
    shape = facts.shape
    module, _, parameter = tensor.pattern.rpartition(".")
    layer = module.rpartition(".")[2]
    if layer == "lm_head" and shape.tie_word_embeddings:
        return 0  # shares the embedding's storage, also when the files hold it twice
    size = _loaded_bytes(tensor, facts)
    if layer in _VOCABULARY:
        return -(-size * padded_vocabulary(shape.vocab_size) // (shape.vocab_size * ranks))
    if parameter in _ON_EVERY_RANK or max(tensor.shape, default=1) == 1:
        return size
    if layer in _COLUMN_PARALLEL:
        return -(-size // ranks)
    if layer in _KV_PROJECTIONS:
        return -(-size // min(ranks, shape.num_key_value_heads))
    if layer in _FUSED_QKV:
        return _fused_qkv(size, shape, ranks)
    if layer in _ROW_PARALLEL and not _one_value_per_output(tensor, parameter):
        return -(-size // ranks)
    return size


def _loaded_bytes(tensor: TensorClass, facts: ModelFacts) -> int:
    """vLLM runs a float32 model in 16 bit; scales of a quantised one stay as they are."""
    return tensor.bytes // 2 if facts.stored is None and tensor.dtype == "F32" else tensor.bytes


def _one_value_per_output(tensor: TensorClass, parameter: str) -> bool:
    """A bias or one scale per output channel: a row-parallel layer splits its inputs, so each rank needs all."""
    return parameter == "bias" or (parameter in _SCALES and (len(tensor.shape) < 2 or 1 in tensor.shape))


def _fused_qkv(size: int, shape: ModelShape, ranks: int) -> int:
    heads = shape.num_attention_heads + 2 * shape.num_key_value_heads
    query = size * shape.num_attention_heads // heads
    return -(-query // ranks) + -(-(size - query) // min(ranks, shape.num_key_value_heads))

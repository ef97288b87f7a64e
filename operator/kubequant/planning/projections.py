"""Attention and MLP as config.json says them against the matrices that the headers hold.

Only where names and layout leave no doubt: layers called model.layers.*.self_attn and .mlp whose KV caches all have one
number of heads and one width, and a projection that has the same shape in every layer. Elsewhere nothing is said.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from kubequant.planning.values import CacheKind, ModelShape, StoredMethod, StoredQuantization, TensorClass

_PROJECTION = re.compile(
    r"(?:model|language_model\.model|model\.language_model)\.layers\.\*\.(?:self_attn|mlp)\."
    r"(?P<module>[qkvo]_proj|qkv_proj|gate_proj|up_proj|gate_up_proj|down_proj)\."
    r"(?P<parameter>weight|qweight|weight_packed)"
)
_LAYER = re.compile(r"(?:.*\.)?layers\.\*\.(?P<component>\w+)\.")
_BLOCKS = (CacheKind.FULL, CacheKind.SLIDING, CacheKind.CHUNKED, CacheKind.STATE)

_Sides = tuple[int, int | None]  # outputs, inputs; None where packing leaves those open


def projection_disagreement(
    shape: ModelShape, stored: StoredQuantization | None, tensors: Sequence[TensorClass]
) -> str | None:
    """How the first projection contradicts config.json, None where none does. `tensors` are those that are loaded."""
    if shape.upper_bound:
        return None
    found: defaultdict[str, set[_Sides]] = defaultdict(set)
    for tensor in tensors:
        match = _PROJECTION.fullmatch(tensor.pattern)
        if match and (sides := _sides(tensor, match["parameter"], stored)):
            found[match["module"]].add(sides)
    expected = dict(_expected(shape))
    for module, shapes in found.items():
        said = expected.get(module)
        if said and len(shapes) == 1 and not _agree(module, said[0], *shapes):
            outputs, inputs = next(iter(shapes))
            held = f"{outputs} x {inputs}" if inputs else f"{outputs} outputs"
            return f"config.json says {module} of {said[0][0]} x {said[0][1]} ({said[1]}), the headers hold {held}"
    return _missing_mlp(shape, tensors, found)


def _sides(tensor: TensorClass, parameter: str, stored: StoredQuantization | None) -> _Sides | None:
    """Of the matrix that is stored so, unpacked; None where the format is not known."""
    if len(tensor.shape) != 2:
        return None
    first, second = tensor.shape
    if parameter == "qweight" and stored and tensor.dtype == "I32":
        return (second * 8, first) if stored.method is StoredMethod.AWQ else (second, None)
    if parameter == "weight_packed":
        return (first, second * 2) if tensor.dtype == "U8" else (first, None)
    if tensor.dtype == "U8":
        return first, second * 2
    return (first, second) if tensor.dtype in ("BF16", "F16", "F32", "F8_E4M3", "I8") else None


def _expected(shape: ModelShape) -> Iterator[tuple[str, tuple[tuple[int, int], str]]]:
    """(outputs, inputs) by config.json, and the fields that say so."""
    hidden, inner, experts = shape.hidden_size, shape.intermediate_size, shape.experts
    if heads := _one_attention(shape):
        query, key = (number * shape.head_dim for number in heads)
        asked, kept = f"num_attention_heads {heads[0]}", f"num_key_value_heads {heads[1]}"
        by = f", head_dim {shape.head_dim}"
        yield "q_proj", ((query, hidden), asked + by)
        yield "k_proj", ((key, hidden), kept + by)
        yield "v_proj", ((key, hidden), kept + by)
        yield "qkv_proj", ((query + 2 * key, hidden), f"{asked}, {kept}{by}")
        yield "o_proj", ((hidden, query), asked + by)
    if inner and experts is None:
        said = f"intermediate_size {inner}"
        yield "gate_proj", ((inner, hidden), said)
        yield "up_proj", ((inner, hidden), said)
        yield "gate_up_proj", ((2 * inner, hidden), said)
        yield "down_proj", ((hidden, inner), said)


def _one_attention(shape: ModelShape) -> tuple[int, int] | None:
    """(heads, KV heads) where all layers with a KV cache have the same ones."""
    caches = [cache for cache in shape.caches if cache.kind is not CacheKind.STATE]
    same = {(cache.kv_heads, cache.key_dim, cache.value_dim) for cache in caches}
    if any(cache.kind not in _BLOCKS for cache in caches) or same != {
        (shape.num_key_value_heads, shape.head_dim, shape.head_dim)
    }:
        return None
    return shape.num_attention_heads, shape.num_key_value_heads


def _agree(module: str, said: tuple[int, int], held: _Sides) -> bool:
    outputs, inputs = held
    gated = module == "q_proj" and outputs == 2 * said[0]  # Qwen3-Next: a gate beside the query
    return (outputs == said[0] or gated) and inputs in (None, said[1])


def _missing_mlp(shape: ModelShape, tensors: Sequence[TensorClass], found: Mapping[str, object]) -> str | None:
    """Decoder layers that hold attention and norms, and nothing else."""
    components = {match["component"] for tensor in tensors if (match := _LAYER.match(tensor.pattern))}
    attention = found.keys() & {"q_proj", "qkv_proj"}
    if not attention or not all("attn" in one or "norm" in one for one in components):
        return None
    return f"config.json says MLPs of {shape.intermediate_size} in its layers, the headers hold none"

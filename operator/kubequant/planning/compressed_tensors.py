"""Checkpoints of llm-compressor: one or several groups of layers, each with a scheme of its own.

    weights                                    stored as                       scheme
    int, 4 or 8 bit, activations in 16 bit     weight_packed I32               W4A16, W8A16
    int, 8 bit, activations in 8 bit           weight I8                       W8A8
    float, 8 bit                               weight F8_E4M3                  FP8
    float, 4 bit, groups of 16 (tensor_group)  weight_packed U8, global scale  NVFP4
    float, 4 bit, groups of 32                 weight_packed U8                MXFP4

A mixture is called by the scheme that holds most of the bytes; the bytes themselves come from the headers anyway.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from kubequant.planning.quantization_fields import (
    FP8_DTYPES,
    INSTEAD,
    Config,
    block,
    corrupt,
    group_size,
    names,
    parameter,
    require,
    require_dtype,
    unsupported,
    whole,
)
from kubequant.planning.values import StoredMethod, StoredQuantization, TensorClass

_UNPACKED = ("int-quantized", "naive-quantized")
_STORED_AS = {
    "W4A16": ("weight_packed", ("I32",)),
    "W8A16": ("weight_packed", ("I32",)),
    "W8A8": ("weight", ("I8",)),
    "FP8": ("weight", FP8_DTYPES),
    "NVFP4": ("weight_packed", ("U8",)),
    "MXFP4": ("weight_packed", ("U8",)),
}


def compressed_tensors(declared: Config, tensors: Sequence[TensorClass]) -> StoredQuantization:
    """Raises Refused with UnsupportedQuantization, or CorruptCheckpoint when headers and config disagree."""
    _refuse_sparsity(declared.get("sparsity_config"))
    if declared.get("transform_config"):
        raise unsupported(f"compressed-tensors with rotations (transform_config) are not served: {INSTEAD}")
    groups = declared.get("config_groups")
    kv_cache_dtype = _kv_cache_dtype(declared.get("kv_cache_scheme"))
    if kv_cache_dtype and not groups:
        raise unsupported(
            "a checkpoint that quantises nothing but its KV cache is not served: take its 16-bit base, and set "
            "serving.kvCacheDtype FP8"
        )
    if not isinstance(groups, Mapping) or not groups:
        raise corrupt("compressed-tensors without config_groups: config.json does not say how weights are stored")
    found = [_group(group, declared, tensors) for group in groups.values() if not _of_attention(group)]
    if not found:
        raise unsupported(f"compressed-tensors of attention alone are not served: {INSTEAD}")
    most = max(found, key=lambda stored: _bytes_stored_as(stored.scheme, tensors))
    return replace(most, kv_cache_dtype=kv_cache_dtype, ignored=names(declared.get("ignore")))


def _refuse_sparsity(sparsity: object) -> None:
    """vLLM takes a sparsity_config that targets nothing, and refuses any other: no kernel for 2:4 is left."""
    if not sparsity:
        return
    if not isinstance(sparsity, Mapping) or sparsity.get("format", "dense") != "dense" or sparsity.get("targets"):
        raise unsupported(f"sparse compressed-tensors (2:4 and others) are not served: {INSTEAD}")


def _of_attention(group: object) -> bool:
    """Such a group says how queries and the KV cache are quantised: kv_cache_scheme says that too, and vLLM skips it."""
    targets = group.get("targets") if isinstance(group, Mapping) else None
    return isinstance(targets, list) and len(targets) == 1 and str(targets[0]).endswith("Attention")


def _bytes_stored_as(scheme: str, tensors: Sequence[TensorClass]) -> int:
    called, dtypes = _STORED_AS[scheme]
    return sum(tensor.bytes for tensor in tensors if parameter(tensor) == called and tensor.dtype in dtypes)


def _group(group: object, declared: Config, tensors: Sequence[TensorClass]) -> StoredQuantization:
    fields: Config = group if isinstance(group, Mapping) else {}
    weights, activations = fields.get("weights"), fields.get("input_activations")
    if not isinstance(weights, Mapping) or not isinstance(activations, Mapping | None):
        raise corrupt("a group of compressed-tensors names no weights: config.json does not say how they are stored")
    kind, bits = str(weights.get("type", "int")), whole(weights, "num_bits")
    layout = str(fields.get("format") or declared.get("format") or "")
    if layout.startswith("marlin"):
        raise unsupported(f"compressed-tensors in the format {layout[:30]!r} are not served: {INSTEAD}")
    if kind == "int" and activations is None and layout in _UNPACKED:
        raise unsupported(
            f"compressed-tensors in the format {layout!r} with activations in 16 bit are not served: {INSTEAD}"
        )
    if kind == "float" and bits == 8 and weights.get("strategy") != "group":
        return _fp8(weights, tensors)
    if kind == "float" and bits == 4:
        return _fp4(weights, activations, tensors)
    if kind == "int" and activations is None and bits in (4, 8):
        return _packed(weights, bits, tensors)
    if kind == "int" and bits == 8 and activations and activations.get("num_bits") == 8:
        require_dtype("compressed-tensors W8A8", tensors, "weight", "I8")
        return StoredQuantization(StoredMethod.COMPRESSED_TENSORS, "W8A8", 8, _channel(weights))
    raise unsupported(f"compressed-tensors with {bits}-bit {kind[:20]} weights like these are not served: {INSTEAD}")


def _fp8(weights: Config, tensors: Sequence[TensorClass]) -> StoredQuantization:
    require_dtype("compressed-tensors FP8", tensors, "weight", *FP8_DTYPES)
    strategy = weights.get("strategy")
    if strategy not in ("tensor", "channel", "block"):
        raise unsupported(f"FP8 weights with one scale per {strategy!r:.20} are not served: {INSTEAD}")
    sides = block(weights.get("block_structure")) if strategy == "block" else None
    return StoredQuantization(StoredMethod.COMPRESSED_TENSORS, "FP8", 8, _channel(weights), block=sides)


def _fp4(weights: Config, activations: Config | None, tensors: Sequence[TensorClass]) -> StoredQuantization:
    layout = (str(weights.get("strategy")), str(weights.get("group_size")))
    scheme = {("tensor_group", "16"): "NVFP4", ("group", "32"): "MXFP4"}.get(layout)
    if scheme is None or weights.get("symmetric", True) is False:
        raise unsupported(f"4-bit floats with one scale per {layout!r:.60} are not served: {INSTEAD}")
    if activations is not None and activations.get("num_bits") != 4:
        raise unsupported(f"{scheme} weights with activations of another format are not served: {INSTEAD}")
    require_dtype(f"compressed-tensors {scheme}", tensors, "weight_packed", "U8")
    scales = ("weight_scale", "weight_global_scale") if scheme == "NVFP4" else ("weight_scale",)
    require(f"compressed-tensors {scheme}", tensors, *scales)
    return StoredQuantization(StoredMethod.COMPRESSED_TENSORS, scheme, 4, int(weights["group_size"]))


def _packed(weights: Config, bits: int, tensors: Sequence[TensorClass]) -> StoredQuantization:
    require("compressed-tensors (pack-quantized)", tensors, "weight_packed", "weight_scale")
    require_dtype("compressed-tensors (pack-quantized)", tensors, "weight_packed", "I32")
    if weights.get("actorder") in (True, "group", "dynamic"):
        raise unsupported(
            "compressed-tensors with act-order in groups are no longer served: take an export with actorder: static, or "
            "none"
        )
    symmetric = weights.get("symmetric", True) is not False
    if bits == 8 and not symmetric:
        raise unsupported(f"8-bit weights with zero points are not served, only symmetric ones: {INSTEAD}")
    channel = weights.get("strategy") == "channel"
    size = -1 if channel else group_size(weights, "compressed-tensors", "group_size")
    return StoredQuantization(StoredMethod.COMPRESSED_TENSORS, f"W{bits}A16", bits, size, symmetric=symmetric)


def _channel(weights: Config) -> int | None:
    return -1 if weights.get("strategy") == "channel" else None


def _kv_cache_dtype(scheme: object) -> str | None:
    if scheme is None:
        return None
    if not isinstance(scheme, Mapping) or (scheme.get("num_bits"), scheme.get("type")) != (8, "float"):
        raise unsupported(f"a KV cache scheme other than 8-bit float is not served: {INSTEAD}")
    if scheme.get("strategy") != "tensor" or scheme.get("symmetric") is not True:
        raise unsupported(f"a KV cache scheme other than symmetric with one scale a layer is not served: {INSTEAD}")
    return "FP8"

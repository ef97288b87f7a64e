"""What a stored checkpoint is: its config's word, checked against what its headers hold.

    config.json says         headers must hold
    awq                      qweight, qzeros, scales          4 bit, GEMM layout
    gptq                     qweight, qzeros, scales, g_idx   4 or 8 bit, symmetric, no act-order within groups
    compressed-tensors       weight_packed | F8_E4M3 | I8     W4A16, W8A16 | FP8 | W8A8
    fp8                      F8_E4M3 weights                  per tensor or in blocks
    (nothing)                none of these

Everything else is refused with what to take instead. A config that contradicts its headers is a corrupt checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kubequant.api.conditions import Reason
from kubequant.errors import Refused
from kubequant.planning.values import StoredMethod, StoredQuantization, TensorClass

_GROUP_SIZES = (-1, 32, 64, 128)
"""What the Marlin kernels take; -1 is one scale per output channel."""

_FP8_DTYPES = ("F8_E4M3", "F8_E4M3FN")
_INSTEAD = "use a checkpoint in AWQ, GPTQ or compressed-tensors (W4A16, FP8), or the 16-bit original"
_MAX_IGNORED = 32

Config = Mapping[str, Any]


def stored_quantization(config: Config, tensors: Sequence[TensorClass]) -> StoredQuantization | None:
    """What config.json and the headers agree on, None for a model that is not quantised.

    Raises Refused with UnsupportedQuantization, or CorruptCheckpoint when the two disagree.
    """
    declared = config.get("quantization_config", config.get("compression_config"))
    if not declared:
        _refuse_undeclared(tensors)
        return None
    if not isinstance(declared, Mapping):
        raise _corrupt(f"quantization_config in config.json must be an object, not {declared!r:.50}")
    method = str(declared.get("quant_method", "")).lower()
    reader = _READERS.get(method)
    if reader is None:
        raise _unsupported(
            f"quantisation {method[:50] or 'without quant_method'!r} is not served by this release: {_INSTEAD}"
        )
    return reader(declared, tensors)


def _refuse_undeclared(tensors: Sequence[TensorClass]) -> None:
    quantised = next((tensor for tensor in tensors if _looks_quantised(tensor)), None)
    if quantised:
        raise _corrupt(
            f"config.json has no quantization_config, but the headers hold {quantised.pattern} in {quantised.dtype}: "
            "one of the two is wrong; take the files of one and the same export"
        )


def _looks_quantised(tensor: TensorClass) -> bool:
    return _parameter(tensor) in ("qweight", "weight_packed") or (
        _parameter(tensor) == "weight" and tensor.dtype in (*_FP8_DTYPES, "I8", "U8")
    )


def _parameter(tensor: TensorClass) -> str:
    return tensor.pattern.rpartition(".")[2]


def _parameters(tensors: Sequence[TensorClass]) -> set[str]:
    return {_parameter(tensor) for tensor in tensors}


def _require(method: str, tensors: Sequence[TensorClass], *parameters: str) -> None:
    missing = [name for name in parameters if name not in _parameters(tensors)]
    if missing:
        raise _corrupt(
            f"config.json says {method}, whose layers hold {', '.join(parameters)}, but no tensor is called "
            f"{missing[0]}: config and weights are not of one export"
        )


def _require_weight_dtype(method: str, tensors: Sequence[TensorClass], dtypes: Sequence[str]) -> None:
    if not any(_parameter(tensor) == "weight" and tensor.dtype in dtypes for tensor in tensors):
        raise _corrupt(
            f"config.json says {method}, but no weight is stored in {dtypes[0]}: config and weights are not of one export"
        )


# --- AWQ and GPTQ ----------------------------------------------------------------------------------------------------


def _awq(declared: Config, tensors: Sequence[TensorClass]) -> StoredQuantization:
    bits = _whole(declared, "bits", "w_bit")
    layout = str(declared.get("version", "gemm")).lower()
    if bits != 4:
        raise _unsupported(f"AWQ with {bits} bits is not served, only 4: {_INSTEAD}")
    if layout != "gemm":
        raise _unsupported(f"AWQ in the layout {layout[:30]!r} is not served, only gemm: {_INSTEAD}")
    if declared.get("zero_point") is False:
        raise _unsupported(f"AWQ without zero points is not served: {_INSTEAD}")
    _require("AWQ", tensors, "qweight", "qzeros", "scales")
    group_size = _group_size(declared, "AWQ", "group_size", "q_group_size")
    _check_groups("AWQ", tensors, bits, group_size, packed_along_inputs=False)
    ignored = _names(declared.get("modules_to_not_convert"))
    return StoredQuantization(StoredMethod.AWQ, "W4A16", bits, group_size, symmetric=False, ignored=ignored)


def _gptq(declared: Config, tensors: Sequence[TensorClass]) -> StoredQuantization:
    bits, act_order = _whole(declared, "bits"), bool(declared.get("desc_act", False))
    group_size = _group_size(declared, "GPTQ", "group_size")
    if bits not in (4, 8):
        raise _unsupported(f"GPTQ with {bits} bits is not served, only 4 and 8: {_INSTEAD}")
    if declared.get("sym", True) is not True:
        raise _unsupported(f"asymmetric GPTQ (sym: false) is not served: {_INSTEAD}")
    if act_order and group_size != -1:
        raise _unsupported(
            f"GPTQ with act-order in groups (desc_act: true, group_size: {group_size}) is no longer served: take an "
            "export with desc_act: false, or an AWQ or compressed-tensors checkpoint"
        )
    if str(declared.get("checkpoint_format", "gptq")) not in ("gptq", "gptq_v2"):
        raise _unsupported(f"GPTQ in the format {declared['checkpoint_format']!r:.30} is not served: {_INSTEAD}")
    _require("GPTQ", tensors, "qweight", "scales")
    _check_groups("GPTQ", tensors, bits, group_size, packed_along_inputs=True)
    return StoredQuantization(StoredMethod.GPTQ, f"W{bits}A16", bits, group_size, act_order=act_order)


def _check_groups(
    method: str, tensors: Sequence[TensorClass], bits: int, group_size: int, *, packed_along_inputs: bool
) -> None:
    """The packed weights and their scales must have the shape that bits and group size give."""
    by_pattern = {tensor.pattern: tensor for tensor in tensors}
    for tensor in tensors:
        scales = by_pattern.get(tensor.pattern.removesuffix("qweight") + "scales")
        if _parameter(tensor) != "qweight" or scales is None:
            continue
        if len(tensor.shape) != 2 or len(scales.shape) != 2:
            raise _corrupt(f"{tensor.pattern} has the shape {tensor.shape}, which is no packed matrix")
        packing = 32 // bits
        inputs = tensor.shape[0] * (packing if packed_along_inputs else 1)
        groups = 1 if group_size == -1 else -(-inputs // group_size)
        if scales.shape[0] != groups:
            raise _corrupt(
                f"config.json says {method} with {bits} bits and groups of {group_size}, so {tensor.pattern} would have "
                f"{groups} groups, but its scales hold {scales.shape[0]}"
            )


# --- compressed-tensors ----------------------------------------------------------------------------------------------


def _compressed_tensors(declared: Config, tensors: Sequence[TensorClass]) -> StoredQuantization:
    sparsity = declared.get("sparsity_config") or {}
    if not isinstance(sparsity, Mapping) or sparsity.get("format", "dense") != "dense":
        raise _unsupported(f"sparse compressed-tensors are not served: {_INSTEAD}")
    if declared.get("transform_config"):
        raise _unsupported(f"compressed-tensors with rotations (transform_config) are not served: {_INSTEAD}")
    weights, activations = _only_group(declared)
    kind, bits = str(weights.get("type", "int")), _whole(weights, "num_bits")
    kv_cache_dtype = _kv_cache_dtype(declared.get("kv_cache_scheme"))
    ignored = _names(declared.get("ignore"))
    if kind == "float" and bits == 8:
        return _compressed_fp8(weights, tensors, kv_cache_dtype, ignored)
    if kind == "int" and activations is None and bits in (4, 8):
        return _compressed_packed(weights, bits, tensors, kv_cache_dtype, ignored)
    if kind == "int" and bits == 8 and activations and activations.get("num_bits") == 8:
        _require_weight_dtype("compressed-tensors W8A8", tensors, ("I8",))
        return StoredQuantization(
            StoredMethod.COMPRESSED_TENSORS,
            "W8A8",
            8,
            _channel(weights),
            kv_cache_dtype=kv_cache_dtype,
            ignored=ignored,
        )
    raise _unsupported(f"compressed-tensors with {bits}-bit {kind[:20]} weights like these are not served: {_INSTEAD}")


def _only_group(declared: Config) -> tuple[Config, Config | None]:
    """Weights and input activations; several groups are fine when they say the same."""
    groups = declared.get("config_groups")
    if not isinstance(groups, Mapping) or not groups:
        raise _corrupt("compressed-tensors without config_groups: config.json does not say how weights are stored")
    pairs = [_scheme_of(group) for group in groups.values()]
    if any(pair != pairs[0] for pair in pairs):
        raise _unsupported(f"compressed-tensors that mix {len(pairs)} schemes are not served: {_INSTEAD}")
    return pairs[0]


def _scheme_of(group: object) -> tuple[Config, Config | None]:
    weights = group.get("weights") if isinstance(group, Mapping) else None
    activations = group.get("input_activations") if isinstance(group, Mapping) else None
    if not isinstance(weights, Mapping) or not isinstance(activations, Mapping | None):
        raise _corrupt("a group of compressed-tensors names no weights: config.json does not say how they are stored")
    return weights, activations


def _compressed_fp8(
    weights: Config, tensors: Sequence[TensorClass], kv_cache_dtype: str | None, ignored: tuple[str, ...]
) -> StoredQuantization:
    _require_weight_dtype("compressed-tensors FP8", tensors, _FP8_DTYPES)
    strategy = weights.get("strategy")
    if strategy not in ("tensor", "channel", "block"):
        raise _unsupported(f"FP8 weights with one scale per {strategy!r:.20} are not served: {_INSTEAD}")
    block = _block(weights.get("block_structure")) if strategy == "block" else None
    return StoredQuantization(
        StoredMethod.COMPRESSED_TENSORS, "FP8", 8, _channel(weights), block=block, kv_cache_dtype=kv_cache_dtype,
        ignored=ignored,
    )  # fmt: skip


def _compressed_packed(
    weights: Config, bits: int, tensors: Sequence[TensorClass], kv_cache_dtype: str | None, ignored: tuple[str, ...]
) -> StoredQuantization:
    _require("compressed-tensors (pack-quantized)", tensors, "weight_packed", "weight_scale")
    if weights.get("actorder") in (True, "group"):
        raise _unsupported(f"compressed-tensors with act-order in groups are not served: {_INSTEAD}")
    symmetric = weights.get("symmetric", True) is not False
    if bits == 8 and not symmetric:
        raise _unsupported(f"8-bit weights with zero points are not served, only symmetric ones: {_INSTEAD}")
    channel = weights.get("strategy") == "channel"
    group_size = -1 if channel else _group_size(weights, "compressed-tensors", "group_size")
    return StoredQuantization(
        StoredMethod.COMPRESSED_TENSORS, f"W{bits}A16", bits, group_size, symmetric=symmetric,
        kv_cache_dtype=kv_cache_dtype, ignored=ignored,
    )  # fmt: skip


def _channel(weights: Config) -> int | None:
    return -1 if weights.get("strategy") == "channel" else None


def _kv_cache_dtype(scheme: object) -> str | None:
    if scheme is None:
        return None
    if isinstance(scheme, Mapping) and scheme.get("num_bits") == 8 and scheme.get("type") == "float":
        return "FP8"
    raise _unsupported(f"a KV cache scheme other than 8-bit float is not served: {_INSTEAD}")


# --- FP8 of its own --------------------------------------------------------------------------------------------------


def _fp8(declared: Config, tensors: Sequence[TensorClass]) -> StoredQuantization:
    _require_weight_dtype("fp8", tensors, _FP8_DTYPES)
    sides = declared.get("weight_block_size")
    block = _block(sides) if sides is not None else None
    if block and declared.get("activation_scheme", "dynamic") != "dynamic":
        raise _unsupported(
            "FP8 in blocks with static activation scales is not served: take one with dynamic activations"
        )
    ignored = _names(declared.get("modules_to_not_convert") or declared.get("ignored_layers"))
    return StoredQuantization(StoredMethod.FP8, "FP8", 8, block=block, ignored=ignored)


def _block(sides: object) -> tuple[int, int]:
    if isinstance(sides, list) and len(sides) == 2 and all(type(side) is int and 0 < side <= 4096 for side in sides):
        return sides[0], sides[1]
    raise _unsupported(f"FP8 weight blocks of {sides!r:.50} are not served: {_INSTEAD}")


# --- reading ---------------------------------------------------------------------------------------------------------


def _whole(declared: Config, *names: str) -> int:
    value = next((declared[name] for name in names if name in declared), None)
    if type(value) is not int:
        raise _corrupt(f"{names[0]} in quantization_config must be a whole number, not {value!r:.50}")
    return value


def _group_size(declared: Config, method: str, *names: str) -> int:
    size = _whole(declared, *names)
    if size not in _GROUP_SIZES:
        sizes = ", ".join(str(size) for size in _GROUP_SIZES)
        raise _unsupported(f"{method} with groups of {size} is not served, only {sizes}: {_INSTEAD}")
    return size


def _names(value: object) -> tuple[str, ...]:
    """Layers left in 16 bit, as the config names them: for people to read; bytes come from the headers."""
    if not isinstance(value, list):
        return ()
    return tuple(str(name)[:128] for name in value[:_MAX_IGNORED])


def _unsupported(message: str) -> Refused:
    return Refused(Reason.UNSUPPORTED_QUANTIZATION, message)


def _corrupt(message: str) -> Refused:
    return Refused(Reason.CORRUPT_CHECKPOINT, message)


_READERS: Mapping[str, Callable[[Config, Sequence[TensorClass]], StoredQuantization]] = {
    "awq": _awq,
    "gptq": _gptq,
    "compressed-tensors": _compressed_tensors,
    "fp8": _fp8,
}

"""What a stored checkpoint is: its config's word, checked against what its headers hold.

    config.json says         headers must hold
    awq                      qweight, qzeros, scales                   4 bit, GEMM layout
    gptq                     qweight, qzeros, scales, g_idx            4 or 8 bit, symmetric, no act-order within groups
    compressed-tensors       weight_packed | F8_E4M3 | I8              see compressed_tensors
    fp8                      F8_E4M3 weights                           per tensor or in blocks
    modelopt                 F8_E4M3 | U8 weights, weight_scale(_2)    FP8, NVFP4 and mixtures of both
    mxfp4                    experts' *_blocks and *_scales in U8      gpt-oss
    (nothing)                none of these

Everything else is refused with what to take instead. A config that contradicts its headers is a corrupt checkpoint.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from kubequant.planning.compressed_tensors import compressed_tensors
from kubequant.planning.quantization_fields import (
    FP8_DTYPES,
    INSTEAD,
    Config,
    block,
    corrupt,
    flag,
    group_size,
    names,
    parameter,
    require,
    require_dtype,
    unsupported,
    whole,
)
from kubequant.planning.quantization_foreign import refuse_foreign_tensors, refused_method
from kubequant.planning.values import StoredMethod, StoredQuantization, TensorClass

_TEXT_MODELS = ("text_config", "llm_config", "language_config")


def refuse_unserved(config: Config) -> None:
    """Raises Refused where config.json alone says that the checkpoint is not served, before any header is read."""
    declared = _declared(config)
    if isinstance(declared, Mapping) and _method(declared) not in _READERS:
        raise refused_method(_method(declared))


def stored_quantization(config: Config, tensors: Sequence[TensorClass]) -> StoredQuantization | None:
    """What config.json and the headers agree on, None for a model that is not quantised.

    Raises Refused with UnsupportedQuantization, or CorruptCheckpoint when the two disagree.
    """
    declared = _declared(config)
    if not declared:
        refuse_foreign_tensors(tensors, "")
        _refuse_undeclared(tensors)
        return None
    if not isinstance(declared, Mapping):
        raise corrupt(f"quantization_config in config.json must be an object, not {declared!r:.50}")
    method = _method(declared)
    reader = _READERS.get(method)
    if reader is None:
        raise refused_method(method)
    refuse_foreign_tensors(tensors, method)
    return reader(declared, tensors)


def kv_scales_note(stored: StoredQuantization | None, tensors: Sequence[TensorClass]) -> str | None:
    """One sentence where a config promises scales for an FP8 KV cache and the headers hold none. Their values are not read."""
    if stored is None or stored.kv_cache_dtype != "FP8":
        return None
    if any(parameter(tensor) in ("k_scale", "v_scale", "kv_scale") and tensor.bytes for tensor in tensors):
        return None
    return "its config promises an FP8 KV cache, but its files hold no scales for one: vLLM takes 1.0, which may cost accuracy"


def _method(declared: Config) -> str:
    """As vLLM reads it: ModelOpt's exports may name their producer instead."""
    producer = declared.get("producer")
    if isinstance(producer, Mapping) and producer.get("name") == "modelopt" and "quant_method" not in declared:
        return "modelopt"
    return str(declared.get("quant_method") or "").lower().replace("compressed_tensors", "compressed-tensors")


def _declared(config: Config) -> object:
    """Multimodal configs may say it of their text model only."""
    nested = (config.get(name) for name in _TEXT_MODELS)
    for level in (config, *(part for part in nested if isinstance(part, Mapping))):
        if declared := level.get("quantization_config") or level.get("compression_config"):
            return declared
    return None


def _refuse_undeclared(tensors: Sequence[TensorClass]) -> None:
    quantised = next((tensor for tensor in tensors if _looks_quantised(tensor)), None)
    if quantised:
        raise corrupt(
            f"config.json has no quantization_config, but the headers hold {quantised.pattern} in {quantised.dtype}: "
            "vLLM looks for it nowhere else (a quantize_config.json does not count). Add it there, or take another export"
        )


def _looks_quantised(tensor: TensorClass) -> bool:
    name = parameter(tensor)
    return name in ("qweight", "weight_packed") or (
        name.endswith(("weight", "_proj", "_blocks")) and tensor.dtype in (*FP8_DTYPES, "I8", "U8", "U32")
    )


# --- AWQ and GPTQ ----------------------------------------------------------------------------------------------------


def _awq(declared: Config, tensors: Sequence[TensorClass]) -> StoredQuantization:
    bits = whole(declared, "bits", "w_bit")
    layout = str(declared.get("version", "gemm")).lower()
    if bits != 4:
        raise unsupported(f"AWQ with {bits} bits is not served, only 4: {INSTEAD}")
    if layout != "gemm":
        raise unsupported(f"AWQ in the layout {layout[:30]!r} is not served, only gemm: {INSTEAD}")
    if not flag(declared, "zero_point"):
        raise unsupported(f"AWQ without zero points is not served: {INSTEAD}")
    require("AWQ", tensors, "qweight", "qzeros", "scales")
    _refuse_other_awq_layouts(tensors)
    size = group_size(declared, "AWQ", "group_size", "q_group_size")
    _check_groups("AWQ", tensors, bits, size, packed_along_inputs=False)
    ignored = names(declared.get("modules_to_not_convert"))
    return StoredQuantization(StoredMethod.AWQ, "W4A16", bits, size, symmetric=False, ignored=ignored)


def _refuse_other_awq_layouts(tensors: Sequence[TensorClass]) -> None:
    """GEMV has outputs before inputs, and so one row of scales a row of weights; GEMV-fast packs into 16 bit."""
    rows = {t.pattern.removesuffix("scales"): t.shape[0] for t in tensors if parameter(t) == "scales" and t.shape}
    for tensor in tensors:
        if parameter(tensor) != "qweight" or not tensor.shape:
            continue
        gemv = rows.get(tensor.pattern.removesuffix("qweight")) == tensor.shape[0]
        if gemv or tensor.dtype != "I32":
            layout = "gemv" if gemv else f"that packs into {tensor.dtype} (gemv_fast)"
            raise unsupported(f"the headers hold AWQ in the layout {layout}, and only gemm is served: {INSTEAD}")


def _gptq(declared: Config, tensors: Sequence[TensorClass]) -> StoredQuantization:
    bits, act_order = whole(declared, "bits"), flag(declared, "desc_act")
    size = group_size(declared, "GPTQ", "group_size")
    if str(declared.get("checkpoint_format", "gptq")) not in ("gptq", "gptq_v2"):
        raise unsupported(f"GPTQ in the format {declared['checkpoint_format']!r:.30} is not served: {INSTEAD}")
    rules = [declared, *({**declared, **rule} for rule in _positive_rules(declared.get("dynamic")))]
    for rule in rules:
        _refuse_gptq(rule)
    require("GPTQ", tensors, "qweight", "scales")
    if len(rules) == 1:
        _check_groups("GPTQ", tensors, bits, size, packed_along_inputs=True)
    return StoredQuantization(StoredMethod.GPTQ, f"W{bits}A16", bits, size, act_order=act_order)


def _refuse_gptq(rule: Config) -> None:
    """Of the whole checkpoint, or of the layers that one of its `dynamic` rules names."""
    bits, size = whole(rule, "bits"), group_size(rule, "GPTQ", "group_size")
    if bits not in (4, 8):
        raise unsupported(f"GPTQ with {bits} bits is not served, only 4 and 8: {INSTEAD}")
    if not flag(rule, "sym"):
        raise unsupported(f"asymmetric GPTQ (sym: false) is not served: {INSTEAD}")
    if flag(rule, "desc_act") and size != -1:
        raise unsupported(
            f"GPTQ with act-order in groups (desc_act: true, group_size: {size}) is no longer served: take an "
            "export with desc_act: false, or an AWQ or compressed-tensors checkpoint"
        )


def _positive_rules(dynamic: object) -> list[Config]:
    """GPTQModel's rules by layer: those that begin with "-:" leave a layer in 16 bit, others change what they name."""
    rules = dynamic.items() if isinstance(dynamic, Mapping) else ()
    return [rule for name, rule in rules if not str(name).startswith("-:") and isinstance(rule, Mapping)]


def _check_groups(
    method: str, tensors: Sequence[TensorClass], bits: int, size: int, *, packed_along_inputs: bool
) -> None:
    """The packed weights and their scales must have the shape that bits and group size give."""
    held: defaultdict[str, set[int]] = defaultdict(set)
    for tensor in tensors:
        if parameter(tensor) == "scales" and len(tensor.shape) == 2:
            held[tensor.pattern.removesuffix("scales")].add(tensor.shape[0])
    for tensor in tensors:
        if parameter(tensor) != "qweight":
            continue
        if len(tensor.shape) != 2:
            raise corrupt(f"{tensor.pattern} has the shape {tensor.shape}, which is no packed matrix")
        inputs = tensor.shape[0] * (32 // bits if packed_along_inputs else 1)
        groups = 1 if size == -1 else -(-inputs // size)
        stored = held[tensor.pattern.removesuffix("qweight")]
        if groups not in stored:
            raise corrupt(
                f"config.json says {method} with {bits} bits and groups of {size}, so {tensor.pattern} would have "
                f"{groups} groups, but its scales hold {min(stored, default=0)}"
            )


# --- FP8 of its own --------------------------------------------------------------------------------------------------


def _fp8(declared: Config, tensors: Sequence[TensorClass]) -> StoredQuantization:
    require_dtype("fp8", tensors, "weight", *FP8_DTYPES)
    activations = declared.get("activation_scheme")
    if activations not in ("dynamic", "static"):
        raise corrupt(f"activation_scheme in quantization_config must be dynamic or static, not {activations!r:.50}")
    sides = declared.get("weight_block_size")
    of_block = block(sides) if sides is not None else None
    if of_block and activations == "static":
        raise unsupported(
            "FP8 in blocks with static activation scales is not served: take one with dynamic activations"
        )
    require("fp8 in blocks" if of_block else "fp8", tensors, "weight_scale_inv" if of_block else "weight_scale")
    if activations == "static":
        require("fp8 with static activations", tensors, "input_scale")
    ignored = names(declared.get("ignored_layers") or declared.get("modules_to_not_convert"))
    return StoredQuantization(StoredMethod.FP8, "FP8", 8, block=of_block, ignored=ignored)


# --- ModelOpt and MXFP4 ----------------------------------------------------------------------------------------------


def _modelopt(declared: Config, tensors: Sequence[TensorClass]) -> StoredQuantization:
    inner = declared.get("quantization")
    fields = inner if isinstance(inner, Mapping) else declared
    algorithm = str(fields.get("quant_algo", "")).upper()
    stored = _MODELOPT.get(algorithm)
    if algorithm == "MIXED_PRECISION":
        stored = _mostly(tensors)
    if stored is None:
        raise unsupported(
            f"ModelOpt {algorithm[:30] or 'without quant_algo'} is not served, only {', '.join(_MODELOPT)}: {INSTEAD}"
        )
    method = f"ModelOpt {algorithm}"
    require_dtype(method, tensors, "weight", *(("U8",) if stored.bits == 4 else FP8_DTYPES))
    require(method, tensors, "weight_scale", *(("weight_scale_2",) if stored.bits == 4 else ()))
    if stored.bits == 4 and fields.get("group_size", 16) != 16:
        raise unsupported(f"NVFP4 with groups of {fields['group_size']!r:.20} is not served, only 16: {INSTEAD}")
    return StoredQuantization(
        StoredMethod.MODELOPT, stored.scheme, stored.bits, stored.group_size, block=stored.block,
        kv_cache_dtype=_modelopt_kv_cache(fields), ignored=names(fields.get("ignore", fields.get("exclude_modules"))),
    )  # fmt: skip


def _mostly(tensors: Sequence[TensorClass]) -> StoredQuantization:
    """What most weights of a mixture are: U8 holds two of them in a byte."""
    in_fp4 = sum(2 * tensor.bytes for tensor in tensors if parameter(tensor) == "weight" and tensor.dtype == "U8")
    in_fp8 = sum(tensor.bytes for tensor in tensors if parameter(tensor) == "weight" and tensor.dtype in FP8_DTYPES)
    return _MODELOPT["NVFP4" if in_fp4 >= in_fp8 else "FP8"]


def _modelopt_kv_cache(fields: Config) -> str | None:
    algorithm, scheme = fields.get("kv_cache_quant_algo"), fields.get("kv_cache_scheme")
    if algorithm is None and isinstance(scheme, Mapping):
        algorithm = "FP8" if (scheme.get("type"), scheme.get("num_bits")) == ("float", 8) else str(scheme)
    if algorithm is None or algorithm == "FP8":
        return algorithm
    raise unsupported(f"a KV cache in {algorithm!r:.30} is not served, only FP8: {INSTEAD}")


_MODELOPT = {
    "FP8": StoredQuantization(StoredMethod.MODELOPT, "FP8", 8),
    "FP8_PER_CHANNEL_PER_TOKEN": StoredQuantization(StoredMethod.MODELOPT, "FP8", 8, -1),
    "FP8_PB_WO": StoredQuantization(StoredMethod.MODELOPT, "FP8", 8, block=(128, 128)),
    "NVFP4": StoredQuantization(StoredMethod.MODELOPT, "NVFP4", 4, 16),
    "W4A16_NVFP4": StoredQuantization(StoredMethod.MODELOPT, "NVFP4", 4, 16),
}


def _mxfp4(declared: Config, tensors: Sequence[TensorClass]) -> StoredQuantization:
    require_dtype("mxfp4", tensors, "_blocks", "U8")
    require_dtype("mxfp4", tensors, "_scales", "U8")
    return StoredQuantization(StoredMethod.MXFP4, "MXFP4", 4, 32, ignored=names(declared.get("modules_to_not_convert")))


_READERS: Mapping[str, Callable[[Config, Sequence[TensorClass]], StoredQuantization]] = {
    "awq": _awq,
    "gptq": _gptq,
    "compressed-tensors": compressed_tensors,
    "fp8": _fp8,
    "modelopt": _modelopt,
    "modelopt_fp4": _modelopt,
    "modelopt_mixed": _modelopt,
    "mxfp4": _mxfp4,
}

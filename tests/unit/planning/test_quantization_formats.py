"""Every format that is published: its config as its tool writes it, the headers of one of its layers, and what comes of it."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubequant.errors import Refused
from kubequant.planning.quantization import kv_scales_note, refuse_unserved, stored_quantization
from kubequant.planning.quantization_foreign import FOREIGN
from kubequant.planning.values import TensorClass

INPUTS, OUTPUTS, LAYERS = 4096, 14336, 32
Header = tuple[str, str, tuple[int, ...]]
Outcome = tuple[str, str, int] | tuple[str, str]


def held(*parameters: Header, module: str = "model.layers.*.mlp.up_proj") -> tuple[TensorClass, ...]:
    """One linear layer, 14336 x 4096, and an embedding in 16 bit."""
    embedding = TensorClass("model.embed_tokens.weight", "BF16", (128256, INPUTS), 1, 128256 * INPUTS * 2)
    return embedding, *_classes(module, parameters)


def _classes(module: str, parameters: tuple[Header, ...]) -> Iterator[TensorClass]:
    for name, dtype, shape in parameters:
        yield TensorClass(f"{module}.{name}", dtype, shape, LAYERS, max(1, LAYERS * prod(shape)))


def awq(bits: int = 4, group: int = 128) -> tuple[TensorClass, ...]:
    packed, groups = OUTPUTS * bits // 32, INPUTS // group
    return held(
        ("qweight", "I32", (INPUTS, packed)),
        ("qzeros", "I32", (groups, packed)),
        ("scales", "F16", (groups, OUTPUTS)),
    )


AWQ_GEMV = held(
    ("qweight", "I32", (OUTPUTS, INPUTS // 8)), ("qzeros", "I32", (OUTPUTS, 4)), ("scales", "F16", (OUTPUTS, 32))
)
AWQ_GEMV_FAST = held(
    ("qweight", "I16", (OUTPUTS // 4, INPUTS)), ("qzeros", "F16", (32, OUTPUTS)), ("scales", "F16", (32, OUTPUTS))
)
AWQ_MARLIN = held(("qweight", "I32", (INPUTS // 16, OUTPUTS * 2)), ("scales", "F16", (32, OUTPUTS)))


def gptq(bits: int = 4, group: int = 128) -> tuple[TensorClass, ...]:
    groups = 1 if group == -1 else INPUTS // group
    return held(
        ("g_idx", "I32", (INPUTS,)),
        ("qweight", "I32", (INPUTS * bits // 32, OUTPUTS)),
        ("qzeros", "I32", (groups, OUTPUTS * bits // 32)),
        ("scales", "F16", (groups, OUTPUTS)),
    )


PACKED = held(
    ("weight_packed", "I32", (OUTPUTS, INPUTS // 8)),
    ("weight_scale", "BF16", (OUTPUTS, INPUTS // 128)),
    ("weight_shape", "I64", (2,)),
)
FP8_CHANNEL = held(("weight", "F8_E4M3", (OUTPUTS, INPUTS)), ("weight_scale", "BF16", (OUTPUTS, 1)))
FP8_TENSOR = held(("weight", "F8_E4M3", (OUTPUTS, INPUTS)), ("weight_scale", "F32", ()))
FP8_STATIC = FP8_TENSOR + held(("input_scale", "F32", ()))[1:]
FP8_BLOCK = held(("weight", "F8_E4M3", (OUTPUTS, INPUTS)), ("weight_scale_inv", "F32", (112, 32)))
INT8 = held(("weight", "I8", (OUTPUTS, INPUTS)), ("weight_scale", "F32", (OUTPUTS, 1)))
NVFP4 = held(
    ("weight_packed", "U8", (OUTPUTS, INPUTS // 2)),
    ("weight_scale", "F8_E4M3", (OUTPUTS, INPUTS // 16)),
    ("weight_global_scale", "F32", (1,)),
)
MXFP4 = held(("weight_packed", "U8", (OUTPUTS, INPUTS // 2)), ("weight_scale", "U8", (OUTPUTS, INPUTS // 32)))
MODELOPT_NVFP4 = held(
    ("weight", "U8", (OUTPUTS, INPUTS // 2)),
    ("weight_scale", "F8_E4M3", (OUTPUTS, INPUTS // 16)),
    ("weight_scale_2", "F32", ()),
)
GPT_OSS = held(
    ("gate_up_proj_blocks", "U8", (32, 5760, 90, 16)),
    ("gate_up_proj_scales", "U8", (32, 5760, 90)),
    module="model.layers.*.mlp.experts",
)
BNB4 = held(
    ("weight", "U8", (OUTPUTS * INPUTS // 2, 1)),
    ("weight.absmax", "U8", (OUTPUTS * INPUTS // 64,)),
    ("weight.quant_map", "F32", (16,)),
    ("weight.quant_state.bitsandbytes__nf4", "U8", (80,)),
)
BNB8 = held(("weight", "I8", (OUTPUTS, INPUTS)), ("SCB", "F32", (OUTPUTS,)), ("weight_format", "U8", ()))
EXL2 = held(
    ("q_invperm", "I16", (INPUTS,)), ("q_scale", "I32", (32, 1792)), ("q_weight", "I32", (640, OUTPUTS)),
    ("q_groups", "I16", (64,)),
)  # fmt: skip
PLAIN = held(("weight", "BF16", (OUTPUTS, INPUTS)))

AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm", "zero_point": True}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": True, "damp_percent": 0.01}
MODELOPT = {"quant_method": "modelopt", "producer": {"name": "modelopt", "version": "0.33.0"}, "ignore": ["lm_head"]}


def compressed(
    layout: str, weights: dict[str, Any], inputs: dict[str, Any] | None = None, **more: Any
) -> dict[str, Any]:
    weights = {"dynamic": False, "symmetric": True, "observer": "minmax", "actorder": None, **weights}
    group = {"targets": ["Linear"], "weights": weights, "input_activations": inputs, "output_activations": None}
    return {
        "quant_method": "compressed-tensors", "format": layout, "quantization_status": "compressed",
        "ignore": ["lm_head"], "kv_cache_scheme": None, "config_groups": {"group_0": group}, **more,
    }  # fmt: skip


INT4 = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128}
CHANNEL8 = {"num_bits": 8, "type": "int", "strategy": "channel"}
TOKEN8 = {"num_bits": 8, "type": "int", "strategy": "token", "dynamic": True, "symmetric": True}
FLOAT8 = {"num_bits": 8, "type": "float", "strategy": "channel"}
TOKEN_FLOAT8 = {**FLOAT8, "strategy": "token", "dynamic": True}
FLOAT4 = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}
MX4 = {**FLOAT4, "strategy": "group", "group_size": 32}
KV8 = {"num_bits": 8, "type": "float", "strategy": "tensor", "symmetric": True, "dynamic": False}
W4A16 = compressed("pack-quantized", INT4)
FP8 = compressed("float-quantized", FLOAT8, TOKEN_FLOAT8)
ATTENTION = {"group_1": {"targets": ["LlamaAttention"], "weights": None, "input_activations": KV8}}

NOT_SERVED, CORRUPT = "UnsupportedQuantization", "CorruptCheckpoint"

FORMATS: dict[str, tuple[dict[str, Any] | None, tuple[TensorClass, ...], Outcome]] = {
    "16 bit": (None, PLAIN, ("", "", 16)),
    "AutoAWQ, GEMM": (AWQ, awq(), ("AWQ", "W4A16", 4)),
    "AutoAWQ, GEMM, groups of 64": ({**AWQ, "group_size": 64}, awq(group=64), ("AWQ", "W4A16", 4)),
    "AutoAWQ, old spelling": (
        {"quant_method": "awq", "w_bit": 4, "q_group_size": 128, "zero_point": True, "version": "GEMM"},
        awq(), ("AWQ", "W4A16", 4),
    ),
    "AutoAWQ, GEMV said": ({**AWQ, "version": "gemv"}, AWQ_GEMV, (NOT_SERVED, "'gemv' is not served, only gemm")),
    "AutoAWQ, GEMV stored": (AWQ, AWQ_GEMV, (NOT_SERVED, "the headers hold AWQ in the layout gemv")),
    "AutoAWQ, GEMV-fast said": ({**AWQ, "version": "gemv_fast"}, AWQ_GEMV_FAST, (NOT_SERVED, "'gemv_fast'")),
    "AutoAWQ, GEMV-fast stored": (AWQ, AWQ_GEMV_FAST, (NOT_SERVED, "packs into I16")),
    "AutoAWQ, Marlin": ({**AWQ, "version": "marlin", "zero_point": False}, AWQ_MARLIN, (NOT_SERVED, "'marlin'")),
    "AutoAWQ without zero points": ({**AWQ, "zero_point": False}, awq(), (NOT_SERVED, "without zero points")),
    "AutoAWQ, zero points not said": ({**AWQ, "zero_point": None}, awq(), (CORRUPT, "zero_point")),
    "GPTQ": (GPTQ, gptq(), ("GPTQ", "W4A16", 4)),
    "GPTQ, version 1": ({**GPTQ, "checkpoint_format": "gptq"}, gptq(), ("GPTQ", "W4A16", 4)),
    "GPTQ, version 2": ({**GPTQ, "checkpoint_format": "gptq_v2"}, gptq(), ("GPTQ", "W4A16", 4)),
    "GPTQ, Marlin": ({**GPTQ, "checkpoint_format": "marlin"}, gptq(), (NOT_SERVED, "'marlin'")),
    "GPTQ in 8 bit": ({**GPTQ, "bits": 8}, gptq(8), ("GPTQ", "W8A16", 8)),
    "GPTQ in 2 bit": ({**GPTQ, "bits": 2}, gptq(2), (NOT_SERVED, "2 bits is not served, only 4 and 8")),
    "GPTQ in 3 bit": ({**GPTQ, "bits": 3}, gptq(3), (NOT_SERVED, "3 bits is not served")),
    "GPTQ, act-order without groups": (
        {**GPTQ, "desc_act": True, "group_size": -1}, gptq(group=-1), ("GPTQ", "W4A16", 4),
    ),
    "GPTQ, act-order in groups": ({**GPTQ, "desc_act": True}, gptq(), (NOT_SERVED, "take an export with desc_act: false")),
    "GPTQ, act-order in some layers": (
        {**GPTQ, "dynamic": {"+:.*down_proj": {"desc_act": True}}}, gptq(), (NOT_SERVED, "desc_act: true"),
    ),
    "GPTQ, 2 bit in some layers": ({**GPTQ, "dynamic": {".*up_proj": {"bits": 2}}}, gptq(), (NOT_SERVED, "2 bits")),
    "GPTQ, some layers in 16 bit": ({**GPTQ, "dynamic": {"-:.*gate": {}}}, gptq(), ("GPTQ", "W4A16", 4)),
    "GPTQ, asymmetric": ({**GPTQ, "sym": False}, gptq(), (NOT_SERVED, "asymmetric")),
    "GPTQ, act-order not said": ({k: v for k, v in GPTQ.items() if k != "desc_act"}, gptq(), (CORRUPT, "desc_act")),
    "compressed-tensors, pack-quantized": (W4A16, PACKED, ("CompressedTensors", "W4A16", 4)),
    "compressed_tensors, spelt so": ({**W4A16, "quant_method": "compressed_tensors"}, PACKED, ("CompressedTensors", "W4A16", 4)),
    "compressed-tensors, asymmetric": (
        compressed("pack-quantized", {**INT4, "symmetric": False}), PACKED, ("CompressedTensors", "W4A16", 4),
    ),
    "compressed-tensors, static act-order": (
        compressed("pack-quantized", {**INT4, "actorder": "static"}), PACKED, ("CompressedTensors", "W4A16", 4),
    ),
    "compressed-tensors, act-order in groups": (
        compressed("pack-quantized", {**INT4, "actorder": "group"}), PACKED, (NOT_SERVED, "actorder: static"),
    ),
    "compressed-tensors, 3 bit": (compressed("pack-quantized", {**INT4, "num_bits": 3}), PACKED, (NOT_SERVED, "3-bit int")),
    "compressed-tensors, int-quantized": (
        compressed("int-quantized", CHANNEL8, TOKEN8), INT8, ("CompressedTensors", "W8A8", 8),
    ),
    "compressed-tensors, naive int8": (compressed("naive-quantized", CHANNEL8), INT8, (NOT_SERVED, "'naive-quantized'")),
    "compressed-tensors, naive FP8": (
        compressed("naive-quantized", FLOAT8, TOKEN_FLOAT8), FP8_CHANNEL, ("CompressedTensors", "FP8", 8),
    ),
    "compressed-tensors, float-quantized": (FP8, FP8_CHANNEL, ("CompressedTensors", "FP8", 8)),
    "compressed-tensors, FP8 in blocks": (
        compressed("float-quantized", {**FLOAT8, "strategy": "block", "block_structure": [128, 128]}, TOKEN_FLOAT8),
        FP8_CHANNEL, ("CompressedTensors", "FP8", 8),
    ),
    "compressed-tensors, FP8 static": (
        compressed("float-quantized", {**FLOAT8, "strategy": "tensor"}, {**FLOAT8, "strategy": "tensor"}),
        FP8_STATIC, ("CompressedTensors", "FP8", 8),
    ),
    "compressed-tensors, MXFP8": (
        compressed("mxfp8-quantized", {**FLOAT8, "strategy": "group", "group_size": 32}), FP8_CHANNEL,
        (NOT_SERVED, "8-bit float weights like these"),
    ),
    "compressed-tensors, nvfp4-pack-quantized": (
        compressed("nvfp4-pack-quantized", FLOAT4, FLOAT4), NVFP4, ("CompressedTensors", "NVFP4", 4),
    ),
    "compressed-tensors, mxfp4-pack-quantized": (
        compressed("mxfp4-pack-quantized", MX4), MXFP4, ("CompressedTensors", "MXFP4", 4),
    ),
    "compressed-tensors, two schemes": (
        {**W4A16, "format": "mixed-precision",
         "config_groups": {**W4A16["config_groups"], "group_1": FP8["config_groups"]["group_0"]}},
        (*PACKED, *FP8_CHANNEL[1:]), ("CompressedTensors", "FP8", 8),
    ),
    "compressed-tensors, a group of attention": (
        {**FP8, "kv_cache_scheme": KV8, "config_groups": {**FP8["config_groups"], **ATTENTION}}, FP8_CHANNEL,
        ("CompressedTensors", "FP8", 8),
    ),
    "compressed-tensors, attention alone": ({**FP8, "config_groups": ATTENTION}, PLAIN, (NOT_SERVED, "attention alone")),
    "compressed-tensors, KV cache alone": (
        {"quant_method": "compressed-tensors", "kv_cache_scheme": KV8, "config_groups": {}}, PLAIN,
        (NOT_SERVED, "nothing but its KV cache"),
    ),
    "compressed-tensors, KV scales by head": (
        {**FP8, "kv_cache_scheme": {**KV8, "strategy": "attn_head"}}, FP8_CHANNEL, (NOT_SERVED, "one scale a layer"),
    ),
    "compressed-tensors, KV cache in int8": (
        {**FP8, "kv_cache_scheme": {**KV8, "type": "int"}}, FP8_CHANNEL, (NOT_SERVED, "8-bit float"),
    ),
    "compressed-tensors, 2:4 sparse": (
        {**FP8, "sparsity_config": {"format": "sparse-24-bitmask", "sparsity_structure": "2:4", "targets": ["Linear"]}},
        FP8_CHANNEL, (NOT_SERVED, "2:4"),
    ),
    "compressed-tensors, 2:4 sparse, stored dense": (
        {**FP8, "sparsity_config": {"format": "dense", "sparsity_structure": "2:4", "targets": ["Linear"]}},
        FP8_CHANNEL, (NOT_SERVED, "2:4"),
    ),
    "compressed-tensors, not sparse": (
        {**FP8, "sparsity_config": {"format": "dense", "targets": [], "ignore": []}}, FP8_CHANNEL,
        ("CompressedTensors", "FP8", 8),
    ),
    "compressed-tensors, marlin-24": (compressed("marlin-24", INT4), PACKED, (NOT_SERVED, "'marlin-24'")),
    "compressed-tensors, rotated": (
        {**W4A16, "transform_config": {"config_groups": {"u": {"type": "hadamard"}}}}, PACKED, (NOT_SERVED, "rotations"),
    ),
    "compressed-tensors, W4A8": (compressed("pack-quantized", INT4, TOKEN8), PACKED, (NOT_SERVED, "4-bit int")),
    "FP8 in blocks (DeepSeek)": (
        {"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3", "weight_block_size": [128, 128]},
        FP8_BLOCK, ("FP8", "FP8", 8),
    ),
    "FP8 per tensor": ({"quant_method": "fp8", "activation_scheme": "dynamic"}, FP8_TENSOR, ("FP8", "FP8", 8)),
    "FP8 per tensor, static": ({"quant_method": "fp8", "activation_scheme": "static"}, FP8_STATIC, ("FP8", "FP8", 8)),
    "FP8 static, no scales": ({"quant_method": "fp8", "activation_scheme": "static"}, FP8_TENSOR, (CORRUPT, "input_scale")),
    "FP8, activations not said": ({"quant_method": "fp8"}, FP8_TENSOR, (CORRUPT, "activation_scheme")),
    "FBGEMM FP8": ({"quant_method": "fbgemm_fp8"}, FP8_CHANNEL, (NOT_SERVED, "deprecated")),
    "ModelOpt FP8": ({**MODELOPT, "quant_algo": "FP8"}, FP8_TENSOR, ("ModelOpt", "FP8", 8)),
    "ModelOpt FP8, old file inside": (
        {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}},
        FP8_TENSOR, ("ModelOpt", "FP8", 8),
    ),
    "ModelOpt NVFP4": ({**MODELOPT, "quant_algo": "NVFP4", "group_size": 16}, MODELOPT_NVFP4, ("ModelOpt", "NVFP4", 4)),
    "ModelOpt mixed": (
        {**MODELOPT, "quant_algo": "MIXED_PRECISION", "quantized_layers": {"a": {"quant_algo": "FP8"}}},
        (*MODELOPT_NVFP4, *FP8_TENSOR[1:]), ("ModelOpt", "NVFP4", 4),
    ),
    "ModelOpt MXFP8": ({**MODELOPT, "quant_algo": "MXFP8"}, FP8_TENSOR, (NOT_SERVED, "MXFP8")),
    "ModelOpt, KV cache in NVFP4": (
        {**MODELOPT, "quant_algo": "FP8", "kv_cache_quant_algo": "NVFP4"}, FP8_TENSOR, (NOT_SERVED, "'NVFP4'"),
    ),
    "MXFP4 (gpt-oss)": ({"quant_method": "mxfp4"}, GPT_OSS, ("MXFP4", "MXFP4", 4)),
    "bitsandbytes in 4 bit": (
        {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, BNB4,
        (NOT_SERVED, "take its 16-bit base with another scheme"),
    ),
    "bitsandbytes in 4 bit, not said": (None, BNB4, (NOT_SERVED, "absmax and quant_map: that is bitsandbytes in 4 bit")),
    "bitsandbytes in 8 bit": ({"quant_method": "bitsandbytes", "load_in_8bit": True}, BNB8, (NOT_SERVED, "bitsandbytes")),
    "bitsandbytes in 8 bit, not said": (None, BNB8, (NOT_SERVED, "SCB: that is bitsandbytes in 8 bit")),
    "GGUF in a config": ({"quant_method": "gguf"}, PLAIN, (NOT_SERVED, "safetensors sibling")),
    "torchao": ({"quant_method": "torchao", "quant_type": {"default": {}}}, PLAIN, (NOT_SERVED, "torchao")),
    "Quark": ({"quant_method": "quark", "global_quant_config": {}}, FP8_TENSOR, (NOT_SERVED, "other hardware")),
    "AQLM": (
        {"quant_method": "aqlm", "nbits_per_codebook": 16},
        held(("codes", "I16", (OUTPUTS, 512, 1)), ("codebooks", "F16", (1, 65536, 1, 8)), ("scales", "F16", (OUTPUTS, 1))),
        (NOT_SERVED, "AQLM"),
    ),
    "EXL2": ({"quant_method": "exl2", "bits": 4.65}, EXL2, (NOT_SERVED, "EXL2")),
    "EXL2 called GPTQ": (GPTQ, EXL2, (NOT_SERVED, "says 'gptq', but the headers hold q_weight and q_invperm: that is EXL2")),
    "EXL3": (
        {"quant_method": "exl3", "bits": 3.0},
        held(("trellis", "I16", (256, 896, 48)), ("suh", "F16", (INPUTS,)), ("svh", "F16", (OUTPUTS,))),
        (NOT_SERVED, "EXL3"),
    ),
    "EXL3, not said": (None, held(("trellis", "I16", (256, 896, 48))), (NOT_SERVED, "trellis: that is EXL3")),
    "HQQ": (None, held(("W_q", "U8", (OUTPUTS * INPUTS // 128, 64))), (NOT_SERVED, "that is HQQ")),
    "EETQ": ({"quant_method": "eetq"}, INT8, (NOT_SERVED, "EETQ")),
    "VPTQ": (
        {"quant_method": "vptq"}, held(("indices", "I16", (1, 9, 12)), ("centroids", "F16", (1, 65536, 8))), (NOT_SERVED, "VPTQ"),
    ),
    "QuIP": (None, held(("Qidxs", "I16", (OUTPUTS, 512)), ("SU", "F16", (INPUTS,))), (NOT_SERVED, "that is QuIP")),
    "SpQR": ({"quant_method": "spqr"}, PLAIN, (NOT_SERVED, "SpQR")),
    "BitNet": ({"quant_method": "bitnet"}, PLAIN, (NOT_SERVED, "BitNet")),
    "AutoRound in its own format": (
        {"quant_method": "auto-round", "packing_format": "auto_round:auto_gptq", "bits": 4, "sym": True}, gptq(),
        (NOT_SERVED, "export it again in AutoRound's format auto_gptq"),
    ),
    "AutoRound exported as GPTQ": ({**GPTQ, "autoround_version": "0.5.1", "iters": 200}, gptq(), ("GPTQ", "W4A16", 4)),
    "Intel Neural Compressor": ({"quant_method": "inc"}, FP8_TENSOR, (NOT_SERVED, "Intel Neural Compressor")),
    "Quanto": (None, held(("weight._data", "I8", (OUTPUTS, INPUTS)), ("weight._scale", "F16", (OUTPUTS, 1))), (NOT_SERVED, "Quanto")),
    "MLX": (
        None,
        held(("weight", "U32", (OUTPUTS, 512)), ("scales", "BF16", (OUTPUTS, 64)), ("biases", "BF16", (OUTPUTS, 64))),
        (NOT_SERVED, "that is MLX"),
    ),
    "Marlin's own layout": (None, held(("B", "I32", (256, 28672)), ("s", "F16", (32, OUTPUTS))), (NOT_SERVED, "Marlin")),
    "a method of tomorrow": ({"quant_method": "int1"}, PLAIN, (NOT_SERVED, "'int1'")),
    "no method": ({"bits": 4}, PLAIN, (NOT_SERVED, "without quant_method")),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
def test_formats(name: str) -> None:
    declared, tensors, outcome = FORMATS[name]
    config = {} if declared is None else {"quantization_config": declared}
    try:
        stored = stored_quantization(config, tensors)
    except Refused as refused:
        assert (refused.reason, outcome[1] in refused.message) == (outcome[0], True), refused.message
        assert len(refused.message) < 500
        assert refused.reason == CORRUPT or any(word in refused.message for word in ("take", "use a", "export it"))
    else:
        found = (stored.method.value, stored.scheme, stored.bits) if stored else ("", "", 16)
        assert found == outcome


@pytest.mark.parametrize("foreign", FOREIGN, ids=lambda one: one.title)
def test_a_format_that_is_not_served_is_known_by_its_word_or_its_tensors(foreign: Any) -> None:
    assert foreign.methods or foreign.parameters
    for method in foreign.methods:
        with pytest.raises(Refused, match="is not served"):
            refuse_unserved({"quantization_config": {"quant_method": method.upper()}})


@pytest.mark.parametrize("name", [name for name, (_, _, outcome) in FORMATS.items() if len(outcome) == 3])
def test_what_is_served_is_not_refused_before_its_headers_are_read(name: str) -> None:
    refuse_unserved({"quantization_config": FORMATS[name][0]})


def test_a_long_list_of_ignored_layers_is_short_with_its_numbers_starred() -> None:
    gates = [f"model.layers.{layer}.mlp.gate" for layer in range(60)]
    experts = [f"model.layers.{layer}.mlp.experts.{expert}.w2" for layer in (0, 59) for expert in range(256)]
    stored = stored_quantization(
        {"quantization_config": {**W4A16, "ignore": ["lm_head", *gates, *experts, "re:.*shared.*"]}}, PACKED
    )
    assert stored is not None
    assert stored.ignored == ("lm_head", "model.layers.*.mlp.gate", "model.layers.*.mlp.experts.*.w2", "re:.*shared.*")


KV_SCALES = {"present": (1,), "of no numbers": (0,), "absent": None}


@pytest.mark.parametrize("scales", KV_SCALES)
def test_scales_of_the_kv_cache(scales: str) -> None:
    shape = KV_SCALES[scales]
    size = LAYERS * 2 * prod(shape) if shape else 0
    extra = () if shape is None else (TensorClass("model.layers.*.self_attn.k_scale", "BF16", shape, LAYERS, size),)
    tensors = (*FP8_CHANNEL, *extra)
    stored = stored_quantization({"quantization_config": {**FP8, "kv_cache_scheme": KV8}}, tensors)
    assert stored is not None and stored.kv_cache_dtype == "FP8"
    assert (kv_scales_note(stored, tensors) is None) == (scales == "present")
    assert kv_scales_note(None, tensors) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)
FIELDS = sorted({field for declared, _, _ in FORMATS.values() if declared for field in declared})
GROUP = st.fixed_dictionaries(
    {},
    optional={
        "targets": JSON | st.just(["Linear"]),
        "weights": JSON
        | st.dictionaries(st.sampled_from(sorted(INT4)), JSON | st.sampled_from([4, 8, "int", "float"])),
        "input_activations": JSON | st.just(TOKEN8),
        "format": JSON,
    },
)


@given(
    st.sampled_from(sorted(name for name, (declared, _, _) in FORMATS.items() if declared)),
    st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=3),
    st.none() | st.dictionaries(st.text(max_size=3), GROUP, max_size=2),
)
def test_any_declaration_is_read_or_refused(name: str, fields: dict[str, Any], groups: dict[str, Any] | None) -> None:
    declared, tensors, _ = FORMATS[name]
    config = {**(declared or {}), **fields, **({"config_groups": groups} if groups else {})}
    try:
        refuse_unserved({"quantization_config": config})
        stored = stored_quantization({"quantization_config": config}, tensors)
    except Refused as refused:
        assert refused.reason in (NOT_SERVED, CORRUPT)
        assert len(refused.message) < 600
    else:
        assert stored is None or (stored.bits in (4, 8) and len(stored.ignored) <= 32)

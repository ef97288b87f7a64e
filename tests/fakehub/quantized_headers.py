"""How each quantisation tool rewrites a checkpoint's tensors: pure functions from base tensors to quantised ones.

Each replaces the weights of linear modules, [out_features, in_features], but for those in `ignore`, and keeps
everything else. Packed integers are I32, eight 4-bit values each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from tests.fakehub.tensors import Tensor, with_dtype

_VALUES_PER_I32 = 8
_FP8_BLOCK = 128
_MXFP4_BLOCK = 32
_NF4_BLOCK = 64
_NF4_NESTED_BLOCK = 256
_NF4_STATE_BYTES = 80  # a small JSON text; its length varies by a few bytes

IGNORE_HEAD = ("lm_head",)


def awq_gemm(tensors: list[Tensor], group_size: int = 128, ignore: Iterable[str] = IGNORE_HEAD) -> list[Tensor]:
    """AutoAWQ's "gemm" layout: transposed, output features packed; the rest in float16."""

    def quantise(weight: Tensor) -> list[Tensor]:
        out, in_ = weight.shape
        return [
            weight.renamed("qweight", "I32", (in_, _packed(out))),
            weight.renamed("qzeros", "I32", (_ceil(in_, group_size), _packed(out))),
            weight.renamed("scales", "F16", (_ceil(in_, group_size), out)),
        ]

    return _replaced(with_dtype(tensors, "F16"), ignore, quantise)


def awq_gemv(tensors: list[Tensor], group_size: int = 128, ignore: Iterable[str] = IGNORE_HEAD) -> list[Tensor]:
    """AutoAWQ's "gemv" layout: not transposed, input features packed, groups filled up to a multiple of eight."""

    def quantise(weight: Tensor) -> list[Tensor]:
        out, in_ = weight.shape
        zeros = _packed(_ceil(in_, group_size))
        return [
            weight.renamed("qweight", "I32", (out, _packed(in_))),
            weight.renamed("qzeros", "I32", (out, zeros)),
            weight.renamed("scales", "F16", (out, zeros * _VALUES_PER_I32)),
        ]

    return _replaced(with_dtype(tensors, "F16"), ignore, quantise)


def gptq(
    tensors: list[Tensor], group_size: int = 128, ignore: Iterable[str] = IGNORE_HEAD, bits: int = 4
) -> list[Tensor]:
    """AutoGPTQ's layout: transposed, input features packed, `g_idx` with or without act-order; the rest in float16."""

    def packed(features: int) -> int:
        return _ceil(features * bits, 32)

    def quantise(weight: Tensor) -> list[Tensor]:
        out, in_ = weight.shape
        return [
            weight.renamed("g_idx", "I32", (in_,)),
            weight.renamed("qweight", "I32", (packed(in_), out)),
            weight.renamed("qzeros", "I32", (_ceil(in_, group_size), packed(out))),
            weight.renamed("scales", "F16", (_ceil(in_, group_size), out)),
        ]

    return _replaced(with_dtype(tensors, "F16"), ignore, quantise)


def pack_quantized(
    tensors: list[Tensor], group_size: int = 128, symmetric: bool = True, ignore: Iterable[str] = IGNORE_HEAD
) -> list[Tensor]:
    """compressed-tensors' "pack-quantized", 4 bit: not transposed, input features packed."""

    def quantise(weight: Tensor) -> list[Tensor]:
        out, in_ = weight.shape
        groups = _ceil(in_, group_size)
        zero_point = weight.renamed("weight_zero_point", "I32", (_packed(out), groups))
        return [
            weight.renamed("weight_packed", "I32", (out, _packed(in_))),
            weight.renamed("weight_scale", weight.dtype, (out, groups)),
            weight.renamed("weight_shape", "I64", (2,)),
        ] + ([] if symmetric else [zero_point])

    return _replaced(tensors, ignore, quantise)


def fp8_per_channel(tensors: list[Tensor], ignore: Iterable[str] = IGNORE_HEAD) -> list[Tensor]:
    """compressed-tensors' "float-quantized" with one scale an output feature (FP8_DYNAMIC)."""

    def quantise(weight: Tensor) -> list[Tensor]:
        scale = weight.renamed("weight_scale", weight.dtype, (weight.shape[0], 1))
        return [weight.renamed("weight", "F8_E4M3", weight.shape), scale]

    return _replaced(tensors, ignore, quantise)


def fp8_block(tensors: list[Tensor], ignore: Iterable[str] = IGNORE_HEAD) -> list[Tensor]:
    """The "fp8" method with `weight_block_size` [128, 128], as DeepSeek publishes it."""

    def quantise(weight: Tensor) -> list[Tensor]:
        out, in_ = weight.shape
        scale = weight.renamed("weight_scale_inv", "F32", (_ceil(out, _FP8_BLOCK), _ceil(in_, _FP8_BLOCK)))
        return [weight.renamed("weight", "F8_E4M3", weight.shape), scale]

    return _replaced(tensors, ignore, quantise)


def fp8_kv_scales(tensors: list[Tensor], dtype: str = "BF16") -> list[Tensor]:
    """The scales of a calibrated FP8 KV cache, beside whatever else the checkpoint holds."""
    attentions = dict.fromkeys(
        tensor.name.partition(".self_attn.")[0] for tensor in tensors if ".self_attn." in tensor.name
    )
    scales = [
        Tensor(f"{layer}.self_attn.{name}", dtype, (1,)) for layer in attentions for name in ("k_scale", "v_scale")
    ]
    return tensors + scales


def mxfp4_experts(tensors: list[Tensor]) -> list[Tensor]:
    """gpt-oss as published: the experts' [experts, in, out] as blocks of 32 4-bit values with a shared scale."""
    rewritten: list[Tensor] = []
    for tensor in tensors:
        if tensor.name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            experts, in_, out = tensor.shape
            scales = (experts, out, in_ // _MXFP4_BLOCK)
            rewritten.append(Tensor(f"{tensor.name}_blocks", "U8", (*scales, _MXFP4_BLOCK // 2)))
            rewritten.append(Tensor(f"{tensor.name}_scales", "U8", scales))
        else:
            rewritten.append(tensor)
    return rewritten


def bitsandbytes_nf4(tensors: list[Tensor], ignore: Iterable[str] = IGNORE_HEAD) -> list[Tensor]:
    """bitsandbytes, 4-bit NF4 with nested quantisation of the scales."""

    def quantise(weight: Tensor) -> list[Tensor]:
        values = weight.shape[0] * weight.shape[1]
        blocks = _ceil(values, _NF4_BLOCK)
        return [
            weight.renamed("weight", "U8", (values // 2, 1)),
            weight.renamed("weight.absmax", "U8", (blocks,)),
            weight.renamed("weight.nested_absmax", "F32", (_ceil(blocks, _NF4_NESTED_BLOCK),)),
            weight.renamed("weight.nested_quant_map", "F32", (_NF4_NESTED_BLOCK,)),
            weight.renamed("weight.quant_map", "F32", (16,)),
            weight.renamed("weight.quant_state.bitsandbytes__nf4", "U8", (_NF4_STATE_BYTES,)),
        ]

    return _replaced(tensors, ignore, quantise)


def _replaced(tensors: list[Tensor], ignore: Iterable[str], quantise: Callable[[Tensor], list[Tensor]]) -> list[Tensor]:
    ignored = set(ignore)
    return [
        new
        for tensor in tensors
        for new in (quantise(tensor) if tensor.linear and tensor.module not in ignored else [tensor])
    ]


def _packed(features: int) -> int:
    return _ceil(features, _VALUES_PER_I32)


def _ceil(value: int, divisor: int) -> int:
    return -(-value // divisor)

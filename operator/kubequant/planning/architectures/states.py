"""The states of recurrent layers, as vLLM shapes them: what a rank keeps of the channels, groups and heads."""

from __future__ import annotations

from collections.abc import Callable

from kubequant.planning.architectures.fields import Fields
from kubequant.planning.values import StateTensor

ReadState = Callable[[Fields], tuple[StateTensor, ...]]

EXPORTING = 3  # states of a sequence: Mamba-2 always, delta attention with the kernels of FlashInfer and FlashKDA
NOT_EXPORTING = 2  # Mamba-1, short convolutions


def mamba1_state(inner: Callable[[Fields], int], size: str, kernel: str) -> ReadState:
    def read(fields: Fields) -> tuple[StateTensor, ...]:
        return (
            StateTensor(inner(fields), fields.number(kernel) - 1),
            StateTensor(inner(fields), fields.number(size)),
        )

    return read


def mamba2_state(
    inner: Callable[[Fields], int],
    *,
    groups: str,
    heads: str,
    dim: str,
    size: str,
    kernel: str,
    dtype: Callable[[Fields], str] = lambda fields: "Model",
) -> ReadState:
    """The convolution sees the inner channels, and twice the groups' state; a rank keeps at least one group."""

    def read(fields: Fields) -> tuple[StateTensor, ...]:
        steps, state = fields.number(kernel) - 1, fields.number(size)
        return (
            StateTensor(inner(fields), steps),
            StateTensor(fields.number(groups), 2 * state * steps),
            StateTensor(fields.number(heads), fields.number(dim) * state, dtype(fields)),
        )

    return read


def delta_state(fields: Fields) -> tuple[StateTensor, ...]:
    """Gated DeltaNet (Qwen3-Next and after)."""
    keys = fields.number("linear_num_key_heads") * fields.number("linear_key_head_dim")
    value_heads, value_dim = fields.number("linear_num_value_heads"), fields.number("linear_value_head_dim")
    steps = fields.number("linear_conv_kernel_dim") - 1
    return (
        StateTensor(2 * keys + value_heads * value_dim, steps),
        StateTensor(value_heads, value_dim * fields.number("linear_key_head_dim"), state_dtype(fields, "Model")),
    )


def conv_state(fields: Fields) -> tuple[StateTensor, ...]:
    """A short convolution (LFM 2)."""
    channels = fields.number("conv_dim", fields.number("hidden_size"))
    return (StateTensor(channels, fields.number("conv_L_cache") - 1),)


def state_dtype(fields: Fields, default: str) -> str:
    """`mamba_ssm_dtype` of Qwen 3.5, `mamba_ssm_cache_dtype` of Nemotron-H."""
    stated = fields.raw("mamba_ssm_dtype") or fields.raw("mamba_ssm_cache_dtype")
    return default if stated is None else {"float32": "F32"}.get(str(stated), "Model")


def kimi_delta_state(linear: Fields) -> tuple[StateTensor, ...]:
    """Kimi's delta attention, from its `linear_attn_config`."""
    heads, dim = linear.number("num_heads"), linear.number("head_dim")
    steps = linear.number("short_conv_kernel_size") - 1
    return (StateTensor(3 * heads * dim, steps), StateTensor(heads, dim * dim, "F32"))

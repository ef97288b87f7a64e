"""The mixture of experts of a config, where it has one."""

from __future__ import annotations

from collections.abc import Callable

from kubequant.planning.architectures.fields import Fields, invalid
from kubequant.planning.values import Experts


def experts_of(fields: Fields) -> Experts | None:
    """None for a dense model. One expert is none."""
    experts = fields.optional("num_experts") or 0
    if experts < 2:
        return None
    per_token = fields.number("num_experts_per_tok")
    if per_token > experts:
        raise invalid(f"num_experts_per_tok {per_token} exceeds the number of experts {experts}")
    intermediate = fields.optional("moe_intermediate_size") or fields.number("intermediate_size")
    layers = _layers(fields)
    if not layers:
        return None
    return Experts(experts, per_token, layers, intermediate, _shared(fields, intermediate))


def _shared(fields: Fields, intermediate: int) -> int:
    """The shared experts' width: given as a whole, or as a number of experts."""
    for name in (
        "moe_shared_expert_intermediate_size",
        "shared_expert_intermediate_size",
        "shared_intermediate_size",
    ):
        if (width := fields.optional(name)) is not None:
            return width
    if fields.raw("interleave_moe_layer_step") is not None:
        return fields.number("intermediate_size")  # Llama 4 has one beside the routed ones, without a field of its own
    return (fields.optional("n_shared_experts") or 0) * intermediate


def _layers(fields: Fields) -> int:
    """How many decoder layers have experts."""
    layers = fields.number("num_hidden_layers")
    letters = fields.raw("hybrid_override_pattern")
    if isinstance(letters, str):
        return letters.count("E")
    words = fields.raw("layer_types")
    if isinstance(words, list) and "moe" in words:
        return words.count("moe")
    return sum(map(_has_experts(fields, layers), range(layers)))


def _has_experts(fields: Fields, layers: int) -> Callable[[int], bool]:
    """Which layers have experts. The config's lists can be long, so each is read once, not once a layer."""
    first = fields.optional("first_k_dense_replace") or fields.optional("num_dense_layers") or 0
    first = max(first, fields.optional("moe_layer_start_index") or 0)
    last = fields.optional("moe_layer_end_index") or layers
    stated = fields.raw("mlp_only_layers")
    if isinstance(stated, list) and len(stated) > layers:
        raise invalid(f"mlp_only_layers names {len(stated)} layers and num_hidden_layers is {layers}")
    dense = fields.indices("mlp_only_layers", layers)
    if (period := fields.optional("expert_layer_period")) is not None:
        remainder = fields.number("expert_layer_offset", 0, least=0)
    else:
        names = ("decoder_sparse_step", "interleave_moe_layer_step", "moe_layer_interval")
        period = next((value for name in names if (value := fields.optional(name)) is not None), 1)
        remainder = period - 1
    return lambda layer: first <= layer <= last and layer not in dense and layer % period == remainder

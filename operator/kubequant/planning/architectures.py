"""Which models this release plans: dense decoders whose every layer keeps a full KV cache (MHA, GQA, MQA).

config.json is untrusted input: every number is checked for type and bounds before arithmetic sees it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kubequant.api.conditions import Reason
from kubequant.errors import Refused
from kubequant.planning.values import ModelShape


@dataclass(frozen=True)
class _Family:
    """What an absent field of config.json means, where the families differ. None: must be there."""

    tied_by_default: bool = False
    kv_heads_default_to_heads: bool = False
    head_dim_derived: bool = True


_FAMILIES: Mapping[str, _Family] = {
    "LlamaForCausalLM": _Family(kv_heads_default_to_heads=True),
    "MistralForCausalLM": _Family(),
    "Qwen2ForCausalLM": _Family(),
    "Qwen3ForCausalLM": _Family(head_dim_derived=False),
    "Phi3ForCausalLM": _Family(kv_heads_default_to_heads=True),
    "GraniteForCausalLM": _Family(kv_heads_default_to_heads=True),
    "Olmo2ForCausalLM": _Family(kv_heads_default_to_heads=True),
    "GemmaForCausalLM": _Family(tied_by_default=True, head_dim_derived=False),
}
"""vLLM's names of architectures."""

SUPPORTED_ARCHITECTURES = tuple(_FAMILIES)

_DTYPES = {"bfloat16": "BF16", "float16": "F16", "half": "F16", "float32": "F32", "float": "F32"}

_BOUNDS = {
    "num_hidden_layers": 512,
    "hidden_size": 65_536,
    "intermediate_size": 1_048_576,
    "num_attention_heads": 1_024,
    "num_key_value_heads": 1_024,
    "head_dim": 1_024,
    "vocab_size": 2_097_152,
    "max_position_embeddings": 67_108_864,
}
"""Far above any model known; what exceeds them is a mistake or an attack, not a model."""


def shape_of(config: Mapping[str, Any], default_dtype: str = "BF16") -> ModelShape:
    """Reads config.json. `default_dtype` holds where the config names none (the caller may know it from headers).

    Raises Refused with UnsupportedArchitecture or ConfigInvalid.
    """
    architecture, family = _architecture(config)
    _refuse_partial_caches(config, architecture)
    heads = _number(config, "num_attention_heads")
    hidden = _number(config, "hidden_size")
    kv_heads = _number(config, "num_key_value_heads", heads if family.kv_heads_default_to_heads else None)
    head_dim = _number(config, "head_dim", hidden // heads if family.head_dim_derived else None)
    if heads % kv_heads:
        raise _invalid(f"num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}")
    return ModelShape(
        architecture=architecture,
        model_type=str(config.get("model_type", ""))[:64],
        num_hidden_layers=_number(config, "num_hidden_layers"),
        hidden_size=hidden,
        intermediate_size=_number(config, "intermediate_size"),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        vocab_size=_number(config, "vocab_size"),
        max_position_embeddings=_number(config, "max_position_embeddings"),
        tie_word_embeddings=_flag(config, "tie_word_embeddings", family.tied_by_default),
        dtype=_dtype(config, default_dtype),
    )


def _architecture(config: Mapping[str, Any]) -> tuple[str, _Family]:
    names = config.get("architectures")
    if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str):
        raise _invalid(f"architectures must be a list of one name, not {names!r:.100}")
    family = _FAMILIES.get(names[0])
    if family is None:
        raise _unsupported(f"architecture {names[0][:100]}")
    return names[0], family


def _refuse_partial_caches(config: Mapping[str, Any], architecture: str) -> None:
    """Known names may carry what changes the KV cache: sliding windows, experts, mixed layer types."""
    if _window_in_effect(config, architecture):
        raise _unsupported(f"{architecture} with a sliding window of {config.get('sliding_window')!r:.20}")
    layer_types = config.get("layer_types")
    if isinstance(layer_types, list) and any(kind != "full_attention" for kind in layer_types):
        raise _unsupported(f"{architecture} with layers that are not full attention")
    for field in ("num_local_experts", "num_experts", "n_routed_experts"):
        if config.get(field) not in (None, 0, 1):
            raise _unsupported(f"{architecture} with {config[field]!r:.20} experts")
    for field in ("vision_config", "audio_config", "kv_lora_rank"):
        if config.get(field) is not None:
            raise _unsupported(f"{architecture} with {field}")
    if config.get("is_encoder_decoder"):
        raise _unsupported(f"{architecture} as encoder-decoder")


def _window_in_effect(config: Mapping[str, Any], architecture: str) -> bool:
    """Qwen keeps a window in its configs and switches it off beside it; elsewhere a window is one, unless it is
    no shorter than the context."""
    window = config.get("sliding_window")
    if window is None:
        return False
    if architecture.startswith("Qwen") and not config.get("use_sliding_window", False):
        return False
    longest = config.get("max_position_embeddings")
    return not (_is_count(window) and _is_count(longest) and window >= longest)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _number(config: Mapping[str, Any], field: str, default: int | None = None) -> int:
    value = config.get(field)
    if value is None and default is not None:
        value = default
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _BOUNDS[field]:
        raise _invalid(f"{field} must be a number from 1 to {_BOUNDS[field]:,}, not {value!r:.50}")
    return value


def _flag(config: Mapping[str, Any], field: str, default: bool) -> bool:
    value = config.get(field, default)
    if not isinstance(value, bool):
        raise _invalid(f"{field} must be true or false, not {value!r:.50}")
    return value


def _dtype(config: Mapping[str, Any], default: str) -> str:
    value = config.get("dtype", config.get("torch_dtype"))  # transformers 5 writes `dtype`
    if value is None:
        return default
    name = _DTYPES.get(value.removeprefix("torch.")) if isinstance(value, str) else None
    if name is None:
        raise _invalid(f"torch_dtype must be bfloat16, float16 or float32, not {value!r:.50}")
    return name


def _unsupported(what: str) -> Refused:
    return Refused(
        Reason.UNSUPPORTED_ARCHITECTURE,
        f"{what} is not planned by this release, which plans dense decoders with a full KV cache: "
        f"{', '.join(SUPPORTED_ARCHITECTURES)}",
    )


def _invalid(what: str) -> Refused:
    return Refused(Reason.CONFIG_INVALID, f"config.json cannot be planned on: {what}")

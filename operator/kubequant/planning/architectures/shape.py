"""From config.json, and where the architecture is not known in detail from tensor headers, to the shape of a model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from kubequant.api.conditions import Reason
from kubequant.errors import Refused
from kubequant.planning.architectures import bounds
from kubequant.planning.architectures.caches import head_dim, kv_heads
from kubequant.planning.architectures.experts import experts_of
from kubequant.planning.architectures.families import (
    ALIBI,
    BY_MODEL_TYPE,
    FAMILIES,
    FLOAT16_REFUSED,
    WRAPPERS,
    Family,
)
from kubequant.planning.architectures.fields import Fields, invalid, text_fields
from kubequant.planning.architectures.served import ENCODER_DECODER, MULTIMODAL, TEXT
from kubequant.planning.architectures.vision import KEEPS_VISION_WHOLE, vision_heads
from kubequant.planning.values import CacheKind, CacheLayers, ModelShape, TensorClass

SUPPORTED_ARCHITECTURES = tuple(sorted({*FAMILIES, *WRAPPERS}))
"""vLLM's names of what is known in detail; of the others that it serves, bounds are planned on."""

_SPLITS_VISION = (MULTIMODAL & frozenset(SUPPORTED_ARCHITECTURES)) - KEEPS_VISION_WHOLE

_DTYPES = {"bfloat16": "BF16", "float16": "F16", "half": "F16", "float32": "F32", "float": "F32"}
_LENGTHS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "model_max_length",
    "max_target_positions",
    "max_sequence_length",
    "max_seq_length",
    "seq_len",
)
_STRETCHED_ALREADY = frozenset(("su", "longrope", "llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling"))
_WITHOUT_MLP_WIDTH = frozenset(("gpt2", "gptj", "gpt_bigcode", "bloom", "falcon", "mamba", "mamba2", "falcon_mamba"))
_LENGTH_WITHOUT_ANY = 2048  # what vLLM assumes of a model that has no field for it


def shape_of(config: Mapping[str, Any], default_dtype: str = "BF16", tensors: Sequence[TensorClass] = ()) -> ModelShape:
    """Reads config.json. `default_dtype` holds where the config names none (the caller may know it from headers);
    `tensors` bound the KV cache of an architecture that is served but not known in detail.

    Raises Refused with UnsupportedArchitecture or ConfigInvalid.
    """
    architecture = _architecture(config)
    if config.get("is_encoder_decoder") or architecture in ENCODER_DECODER:
        raise _unsupported(f"{architecture}, an encoder-decoder model, keeps another cache than a decoder's")
    family = FAMILIES.get(architecture)
    fields = text_fields(config, family.model_type if family else "")
    if family is None and architecture in WRAPPERS:
        family = _wrapped(fields)
    caches = family.caches(fields) if family else bounds.caches_of(fields, tensors)
    model_type = str(fields.config.get("model_type") or config.get("model_type") or "")[:64]
    return ModelShape(
        architecture=architecture,
        model_type=model_type,
        num_hidden_layers=fields.number("num_hidden_layers"),
        hidden_size=fields.number("hidden_size"),
        intermediate_size=_intermediate(fields),
        **_heads(fields, caches),
        vocab_size=fields.number("vocab_size"),
        max_position_embeddings=_longest(fields),
        tie_word_embeddings=_tied(fields),
        dtype=_dtype(fields, default_dtype),
        caches=caches,
        experts=experts_of(fields),
        multimodal=architecture in MULTIMODAL,
        attention_sinks=bool(family and family.attention_sinks),
        alibi=architecture in ALIBI or (architecture == "FalconForCausalLM" and fields.flag("alibi")),
        vision_heads=vision_heads(config) if architecture in _SPLITS_VISION else 0,
        float16_refused=bool({model_type, str(config.get("model_type"))} & FLOAT16_REFUSED),
        rope_scaling=_rope_scaling(fields),
        upper_bound=family is None,
    )


def _architecture(config: Mapping[str, Any]) -> str:
    names = config.get("architectures")
    if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str):
        raise invalid(f"architectures must be a list of one name, not {names!r:.100}")
    if names[0] not in TEXT | MULTIMODAL | ENCODER_DECODER:
        raise _unsupported(f"architecture {names[0][:100]} is not among those that vLLM 0.33 generates text with")
    return str(names[0])


def _wrapped(fields: Fields) -> Family | None:
    names = fields.config.get("architectures")
    inner = FAMILIES.get(names[0]) if isinstance(names, list) and names and isinstance(names[0], str) else None
    model_type = fields.config.get("model_type")
    return inner or (BY_MODEL_TYPE.get(model_type) if isinstance(model_type, str) else None)


def _heads(fields: Fields, caches: Sequence[CacheLayers]) -> dict[str, int]:
    """Attention heads; none at all in a model of states only, which the fields cannot say: one of size 1 then."""
    if all(cache.kind is CacheKind.STATE for cache in caches):
        return {"num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 1}
    heads = fields.number("num_attention_heads")
    shown = next(cache for cache in caches if cache.kind is not CacheKind.STATE)
    latent = shown.kind is CacheKind.LATENT
    found = kv_heads(fields) if latent else shown.kv_heads
    if heads % found:
        raise invalid(f"num_attention_heads {heads} is not a multiple of num_key_value_heads {found}")
    return {
        "num_attention_heads": heads,
        "num_key_value_heads": found,
        "head_dim": head_dim(fields) if latent else shown.key_dim,
    }


def _intermediate(fields: Fields) -> int:
    """Of the dense layers. GPT-2's kin mean four times the hidden size where they say nothing; Mamba, and models whose
    every MLP is a mixture of experts, have no such layer, and the same number stands in."""
    silent = str(fields.config.get("model_type")) in _WITHOUT_MLP_WIDTH
    if fields.raw("intermediate_size") is None and (
        silent or fields.optional("moe_intermediate_size") is not None or fields.raw("block_configs") is not None
    ):
        return 4 * fields.number("hidden_size")
    return fields.number("intermediate_size")


def _tied(fields: Fields) -> bool:
    """The outer config's word counts where the text model is nested, as transformers reads it."""
    value = fields.outer.get("tie_word_embeddings") if fields.nested else None
    return value if isinstance(value, bool) else fields.flag("tie_word_embeddings")


def _rope_parameters(fields: Fields) -> list[Mapping[str, Any]]:
    """One set, or one for each kind of layer; transformers 5 writes `rope_parameters`."""
    stated = fields.config.get("rope_parameters") or fields.config.get("rope_scaling")
    if stated is None:
        return []
    if not isinstance(stated, Mapping):
        raise invalid(f"rope_scaling must be an object, not {stated!r:.50}")
    nested = [value for value in stated.values() if isinstance(value, Mapping)]
    return nested or [stated]


def _rope_type(parameters: Mapping[str, Any]) -> str:
    return str(parameters.get("rope_type") or parameters.get("type") or "default")[:32]


def _factor(parameters: Mapping[str, Any]) -> float:
    value = parameters.get("factor")
    if value is None:
        return 1.0
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 65_536:
        raise invalid(f"rope_scaling factor must be a number above 0, not {value!r:.50}")
    return float(value)


def _rope_scaling(fields: Fields) -> str:
    texts = [
        f"{_rope_type(parameters)} x {_factor(parameters):g}" if parameters.get("factor") else _rope_type(parameters)
        for parameters in _rope_parameters(fields)
        if _rope_type(parameters) not in ("default", "mrope")
    ]
    return texts[0] if texts else ""


def _longest(fields: Fields) -> int:
    """As vLLM derives it: the smallest of the fields for it, times a RoPE scaling factor that is not in it yet."""
    names = [name for name in _LENGTHS if fields.config.get(name) is not None] or _LENGTHS
    stated = [fields.number(name) for name in names if fields.raw(name) is not None]
    if (own := fields.raw("model_max_length")) is not None:
        stated = [fields.number("model_max_length")] if own else stated
    if not stated and "max_position_embeddings" in fields.config:
        raise invalid("max_position_embeddings must be a number from 1 to 67,108,864, not None")
    longest = min(stated, default=_LENGTH_WITHOUT_ANY)
    factor = 1.0
    if "gemma3" not in str(fields.outer.get("model_type")):
        for parameters in _rope_parameters(fields):
            if _rope_type(parameters) not in _STRETCHED_ALREADY and parameters.get("factor") is not None:
                factor = _factor(parameters)
    return max(1, math.floor(longest * factor))


def _dtype(fields: Fields, default: str) -> str:
    for config in (fields.outer, fields.config):
        value = config.get("dtype", config.get("torch_dtype"))  # transformers 5 writes `dtype`
        if value is None:
            continue
        name = _DTYPES.get(value.removeprefix("torch.")) if isinstance(value, str) else None
        if name is None:
            raise invalid(f"torch_dtype must be bfloat16, float16 or float32, not {value!r:.50}")
        return name
    return default


def _unsupported(what: str) -> Refused:
    return Refused(
        Reason.UNSUPPORTED_ARCHITECTURE,
        f"{what}. Planned are the {len(TEXT | MULTIMODAL)} decoder architectures that vLLM 0.33 serves, such as "
        "LlamaForCausalLM, Qwen3MoeForCausalLM or DeepseekV3ForCausalLM",
    )

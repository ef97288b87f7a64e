"""Reading config.json, which is untrusted: every number has its type and bounds checked before arithmetic sees it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from kubequant.api.conditions import Reason
from kubequant.errors import Refused

_MOST = {
    "num_hidden_layers": 512,
    "hidden_size": 65_536,
    "num_attention_heads": 1_024,
    "num_key_value_heads": 1_024,
    "head_dim": 4_096,
    "vocab_size": 2_097_152,
    "max_position_embeddings": 67_108_864,
    "sliding_window": 67_108_864,
    "attention_chunk_size": 67_108_864,
    "num_experts": 4_096,
}
"""Far above any model known; what exceeds them is a mistake or an attack, not a model."""
_MOST_ELSEWHERE = 1_048_576

_SPELLINGS: Mapping[str, tuple[str, ...]] = {
    "num_hidden_layers": ("n_layer", "n_layers", "num_layers"),
    "hidden_size": ("n_embd", "n_embed", "d_model"),
    "intermediate_size": ("n_inner", "ffn_dim", "ffn_hidden_size", "block_ff_dim"),
    "num_attention_heads": ("n_head", "n_heads"),
    "num_key_value_heads": ("n_head_kv", "num_kv_heads", "multi_query_group_num", "num_attention_groups"),
    "head_dim": ("kv_channels", "attention_head_dim"),
    "vocab_size": ("padded_vocab_size",),
    "num_experts": ("n_routed_experts", "num_local_experts", "moe_num_experts"),
    "num_experts_per_tok": ("num_experts_per_token", "moe_topk", "moe_k", "top_k_experts", "experts_per_token"),
    "n_shared_experts": ("num_shared_experts", "moe_num_shared_experts", "num_shared_expert"),
    "moe_intermediate_size": ("expert_ffn_hidden_size",),
    "layer_types": ("layers_block_type",),
    "tie_word_embeddings": ("tie_embedding",),
}
"""Other names of a field, in families that have their own."""

_MOST_LAYERS = 512
_NESTED = ("text_config", "llm_config", "language_config")
_SIZES = frozenset(("num_hidden_layers", "hidden_size", "num_attention_heads", "vocab_size", "intermediate_size"))
"""Without a default in a config of its own: a file that leaves them out is cut short."""


@cache
def class_defaults() -> Mapping[str, Mapping[str, Any]]:
    """What a field means that a config leaves out, by model_type: the defaults of transformers' config classes."""
    text = files("kubequant.planning").joinpath("data/config_defaults.json").read_text(encoding="utf-8")
    return dict(json.loads(text))


@dataclass(frozen=True)
class Fields:
    """The text model's part of a config. `outer` is the whole of it; the same, unless the text model is nested."""

    config: Mapping[str, Any]
    outer: Mapping[str, Any]
    defaults: Mapping[str, Any]

    @property
    def nested(self) -> bool:
        return self.config is not self.outer

    def raw(self, name: str) -> Any:
        """The field's value, in whatever spelling. One that is there and null is null, whatever the default is."""
        spellings = (name, *_SPELLINGS.get(name, ()))
        present = [spelling for spelling in spellings if spelling in self.config]
        for spelling in present:
            if self.config[spelling] is not None:
                return self.config[spelling]
        if present or (name in _SIZES and not self.nested):
            return None
        return next((self.defaults[spelling] for spelling in spellings if spelling in self.defaults), None)

    def number(self, name: str, default: int | None = None, *, least: int = 1) -> int:
        """A count; the largest, where the config has one for each layer.

        Raises Refused with ConfigInvalid when it is missing without a default, no integer or out of bounds.
        """
        value = self.raw(name)
        if value is None:
            value = default
        most = _MOST.get(name, _MOST_ELSEWHERE)
        numbers = value if isinstance(value, list) and 0 < len(value) <= _MOST_LAYERS else [value]
        if not all(type(number) is int and least <= number <= most for number in numbers):
            raise invalid(f"{name} must be a number from {least} to {most:,}, not {value!r:.50}")
        return int(max(numbers))

    def optional(self, name: str) -> int | None:
        """A count where zero and null both mean none."""
        return (self.number(name, least=0) or None) if self.raw(name) is not None else None

    def flag(self, name: str, default: bool = False) -> bool:
        value = self.raw(name)
        if value is None:
            value = default
        if not isinstance(value, bool):
            raise invalid(f"{name} must be true or false, not {value!r:.50}")
        return value

    def words(self, name: str, length: int) -> Sequence[str] | None:
        """A list with a word for each layer. None where there is none."""
        value = self.raw(name)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
            raise invalid(f"{name} must be a list of words, not {value!r:.50}")
        if len(value) != length:
            raise invalid(f"{name} names {len(value)} layers and num_hidden_layers is {length}")
        return value

    def indices(self, name: str, length: int, *, first: int = 0) -> frozenset[int]:
        """A list of layer numbers from `first` on; empty where there is none."""
        value = self.raw(name)
        if value is None:
            return frozenset()
        inside = range(first, first + length)
        if not isinstance(value, list) or not all(type(index) is int and index in inside for index in value):
            raise invalid(f"{name} must be a list of layers from {first} to {first + length - 1}, not {value!r:.50}")
        return frozenset(value)

    def part(self, name: str) -> Fields:
        """A mapping inside, without defaults. Raises Refused when it is missing or none."""
        value = self.config.get(name)
        if not isinstance(value, Mapping):
            raise invalid(f"{name} must be an object, not {value!r:.50}")
        return Fields(value, self.outer, {})


def text_fields(config: Mapping[str, Any], model_type: str) -> Fields:
    """The text model's fields, nested under one of a few names or on top. `model_type` names the defaults."""
    inner: Mapping[str, Any] = config
    for thinker in ("thinker_config", *_NESTED):
        nested = inner.get(thinker)
        if isinstance(nested, Mapping):
            inner = nested
    stated = inner.get("model_type")
    known = class_defaults()
    defaults = known.get(stated) if isinstance(stated, str) else None
    return Fields(inner, config, known.get(model_type, {}) if defaults is None else defaults)


def invalid(what: str) -> Refused:
    """The refusal of a config that says something impossible."""
    return Refused(Reason.CONFIG_INVALID, f"config.json cannot be planned on: {what}")

"""Whether a quantised checkpoint still is the base model: sizes, settings and special tokens. Pure.

Facts and configs are compared, not names. What may differ: how numbers are stored (dtype, quantisation), who saved them
(transformers_version, paths), what only training reads (dropout, initialisers, router losses), and a padding token,
which serving does not use. Everything else that both state must be equal: a longer max_position_embeddings or another
rope_scaling makes another model of it, as a change of eos_token_id does for whoever waits for an answer to end. What
only one of the two states is no difference: newer releases of transformers write defaults that older ones left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from kubequant.hub.documents import quoted
from kubequant.planning.values import Experts, ModelFacts, ModelShape, TensorClass

Config = Mapping[str, Any]

MAX_DIFFERENCES = 4  # that a message names

_SIZES = (
    "architecture", "model_type", "num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads",
    "num_key_value_heads", "head_dim", "vocab_size", "max_position_embeddings", "experts", "caches", "attention_sinks",
    "alibi", "multimodal",
)  # fmt: skip
_MAY_DIFFER = frozenset(
    {
        "quantization_config", "compression_config", "torch_dtype", "dtype", "transformers_version", "_name_or_path", "name_or_path",
        "use_cache", "architectures", "auto_map", "tie_word_embeddings", "pad_token_id", "pretraining_tp", "initializer_range",
        "initializer_factor", "router_aux_loss_coef", "router_jitter_noise", "output_router_logits", "output_attentions",
        "output_hidden_states", "return_dict", "torchscript", "problem_type", "task_specific_params", "_attn_implementation",
        "_attn_implementation_autoset", "gradient_checkpointing", "unsloth_fixed", "unsloth_version", "id2label", "label2id", "num_labels",
        "chunk_size_feed_forward", "is_decoder", "min_length", "max_length", "transformers.js_config", "onnx", "tokenizer_class",
        # Compared as what they come to, in ModelShape: some write them where they have no effect.
        "sliding_window", "use_sliding_window", "max_window_layers", "layer_types",
    }
)  # fmt: skip
_ROPE = frozenset({"rope_theta", "rope_scaling", "rope_parameters", "rope_local_base_freq"})
_ROPE_BESIDE = ("rope_theta", "partial_rotary_factor", "original_max_position_embeddings")  # it, in older releases
_ROPE_TYPES = {"su": "longrope", "mrope": "default"}  # what transformers made of older words
_TOKENS = frozenset({"bos_token_id", "eos_token_id", "decoder_start_token_id"})  # see token_differences
_NUMBERS_AS_STORED = frozenset({"BF16", "F16", "F32", "F8_E4M3", "F8_E5M2"})


def shape_differences(base: ModelFacts, candidate: ModelFacts) -> list[str]:
    """What of the sizes differs: "hidden_size is 4096, of the base 5120"."""
    differing = [
        name
        for name in _compared(base.shape, candidate.shape)
        if getattr(base.shape, name) != getattr(candidate.shape, name)
    ]
    found = [
        _said(name, getattr(candidate.shape, name), getattr(base.shape, name)) for name in differing if name != "caches"
    ]
    found += _tensor_differences(base.tensors, candidate.tensors)
    found += _head_difference(base, candidate)
    # Seldom alone, and too long to show: which layers keep what follows from the sizes above.
    return found or ["what its layers keep of a sequence (windows, latent or recurrent layers)"] * (
        "caches" in differing
    )


def config_differences(base: Config, candidate: Config, path: str = "") -> list[str]:
    """What two config.json state differently, settings of nested models included."""
    found = [f"{path}{difference}" for difference in _rope_differences(rope_of(base), rope_of(candidate))]
    for key in base.keys() & candidate.keys() - _MAY_DIFFER - _ROPE - _TOKENS:
        ours, theirs = base[key], candidate[key]
        if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
            found += config_differences(ours, theirs, f"{path}{key}.")
        elif None not in (ours, theirs) and _plain(ours) != _plain(theirs) and not _is_training(key):
            found.append(_said(f"{path}{key}", theirs, ours))
    return sorted(found, key=_by_weight)


def _by_weight(difference: str) -> tuple[int, str]:
    """Sizes first, for a message names a few."""
    name = difference.partition(" ")[0].rpartition(".")[2]
    return _SIZES.index(name) if name in _SIZES else len(_SIZES), difference


def rope_of(config: Config) -> Mapping[str, Config]:
    """Rotary positions by kind of layer, in one spelling.

    transformers 5 writes rope_parameters, of each kind of layer where they differ; older releases rope_scaling and what
    stands beside it, and for the sliding layers of Gemma 3 rope_local_base_freq.
    """
    stated = config.get("rope_parameters") or config.get("rope_scaling")
    scaling: Config = stated if isinstance(stated, Mapping) else {}
    if scaling and all(isinstance(part, Mapping) for part in scaling.values()):
        return {layers: _rope(part) for layers, part in scaling.items()}
    beside = {name: config[name] for name in _ROPE_BESIDE if config.get(name) is not None}
    sliding = config.get("rope_local_base_freq")
    local = {"sliding_attention": _rope({"rope_theta": sliding})} if sliding is not None else {}
    return {"full_attention": _rope({**beside, **scaling}), **local}


def token_differences(base: Config, candidate: Config, base_generation: Config, generation: Config) -> list[str]:
    """What differs of the tokens that begin a prompt and end an answer, by config.json and generation_config.json."""
    ours, theirs = end_of_sequence(base, base_generation), end_of_sequence(candidate, generation)
    found = [f"answers end at the tokens {_listed(theirs)}, of the base {_listed(ours)}"] if ours != theirs else []
    ours, theirs = _tokens("bos_token_id", base), _tokens("bos_token_id", candidate)
    if ours and theirs and ours != theirs:
        found.append(f"prompts begin with the token {_listed(theirs)}, of the base {_listed(ours)}")
    return found


def end_of_sequence(config: Config, generation_config: Config) -> frozenset[int]:
    """The tokens that end an answer: generation_config.json's where it names some, as in vLLM, else config.json's."""
    return _tokens("eos_token_id", generation_config, config)


def _tokens(name: str, *levels: Config) -> frozenset[int]:
    """Of the first that states some; a multimodal config may state them of its text model."""
    nested = [part for part in (level.get("text_config") for level in levels) if isinstance(part, Mapping)]
    stated: object = next((level[name] for level in (*levels, *nested) if level.get(name) is not None), [])
    return frozenset(one for one in (stated if isinstance(stated, list) else [stated]) if type(one) is int)


def _listed(tokens: frozenset[int]) -> str:
    return ", ".join(map(str, sorted(tokens)))[:80] or "(none)"


def needs_code(config: Config) -> bool:
    return bool(config.get("auto_map"))


def sentence(differences: list[str]) -> str:
    """The first few of them, and how many more there are."""
    shown = "; ".join(differences[:MAX_DIFFERENCES])
    more = len(differences) - MAX_DIFFERENCES
    return f"{shown}; and {more} more" if more > 0 else shown


def _compared(base: ModelShape, candidate: ModelShape) -> Iterable[str]:
    """Of an architecture that is not known the figures are bounds taken from headers, which quantising changes."""
    bounds = {"caches", "intermediate_size", "experts"} if base.upper_bound or candidate.upper_bound else set()
    return (name for name in _SIZES if name not in bounds)


def _rope(stated: Config) -> Config:
    kind = stated.get("rope_type") or stated.get("type") or "default"
    others = {
        key: _plain(value) for key, value in stated.items() if key not in ("rope_type", "type") and value is not None
    }
    return {"rope_type": _ROPE_TYPES.get(kind, kind) if isinstance(kind, str) else kind, **others}


def _rope_differences(base: Mapping[str, Config], candidate: Mapping[str, Config]) -> Iterator[str]:
    for layers in sorted(base.keys() & candidate.keys()):
        ours, theirs = base[layers], candidate[layers]
        differing = sorted(key for key in ours.keys() & theirs.keys() if ours[key] != theirs[key])
        yield from (
            _said("the rope_theta" if key == "rope_theta" else f"the rope's {key}", theirs[key], ours[key])
            for key in differing
        )


def _head_difference(base: ModelFacts, candidate: ModelFacts) -> list[str]:
    """A quantiser may store the head that the base shares with its embedding; it may not drop one that is of its own."""
    ours, theirs = base.shape.tie_word_embeddings, candidate.shape.tie_word_embeddings
    stored = any("lm_head" in one.pattern for one in candidate.tensors)
    if ours == theirs or (ours and stored):
        return []
    return [f"tie_word_embeddings is {theirs}, of the base {ours}" + ("" if theirs else ", and no lm_head is stored")]


def _tensor_differences(base: Iterable[TensorClass], candidate: Iterable[TensorClass]) -> Iterator[str]:
    """Tensors of the same name that are stored number by number must have the base's shape; packed ones cannot."""
    shapes: dict[str, set[tuple[int, ...]]] = {}
    for one in base:
        shapes.setdefault(one.pattern, set()).add(one.shape)
    for one in candidate:
        due = shapes.get(one.pattern)
        if due and one.dtype in _NUMBERS_AS_STORED and one.shape not in due:
            yield _said(f"the shape of {quoted(one.pattern)}", list(one.shape), [list(shape) for shape in sorted(due)])


def _said(what: str, candidate: object, base: object) -> str:
    return f"{what[:120]} is {_shown(candidate)}, of the base {_shown(base)}"


def _shown(value: object) -> str:
    if isinstance(value, Experts):
        return f"{value.experts} of {value.intermediate_size:,}, {value.per_token} a token"
    return str(value) if value is None or isinstance(value, int) else quoted(value)


def _is_training(key: str) -> bool:
    return "dropout" in key or "initializer" in key or key.startswith("_")


def _plain(value: object) -> object:
    """1e6, 1000000 and 1000000.0 are one number; of a list of one it is the one."""
    if isinstance(value, list):
        return [_plain(one) for one in value] if len(value) != 1 else _plain(value[0])
    return int(value) if isinstance(value, float) and value.is_integer() else value

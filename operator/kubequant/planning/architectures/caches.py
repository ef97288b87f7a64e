"""What each layer of a family keeps of a sequence, read from its config. A family gives one of the functions here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from kubequant.planning.architectures.fields import Fields, invalid
from kubequant.planning.architectures.states import EXPORTING, ReadState, kimi_delta_state
from kubequant.planning.values import CacheKind, CacheLayers

FULL, LATENT, SLIDING, CHUNKED, STATE = (
    CacheKind.FULL,
    CacheKind.LATENT,
    CacheKind.SLIDING,
    CacheKind.CHUNKED,
    CacheKind.STATE,
)
Caches = tuple[CacheLayers, ...]
ReadCaches = Callable[[Fields], Caches]

_KINDS: Mapping[str, tuple[CacheKind, ...]] = {
    "full_attention": (FULL,),
    "attention": (FULL,),
    "sliding_attention": (SLIDING,),
    "chunked_attention": (CHUNKED,),
    "linear_attention": (STATE,),
    "mamba": (STATE,),
    "conv": (STATE,),
    "mlp": (),
    "moe": (),
    "hybrid": (STATE, FULL),
}
"""The words of `layer_types`."""
_NEMOTRON_LETTERS = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}
_INDEXER_SCALE_BYTES = 4
_INDEXER_BLOCK = 128  # numbers that share a scale


def kv_heads(fields: Fields) -> int:
    """As many as there are attention heads where the config does not say."""
    return fields.number("num_key_value_heads", fields.number("num_attention_heads"))


def head_dim(fields: Fields) -> int:
    """hidden_size / num_attention_heads where the config does not say (some write 0)."""
    given = fields.optional("head_dim")
    return given or max(1, fields.number("hidden_size") // fields.number("num_attention_heads"))


def attention(fields: Fields, kinds: Mapping[CacheKind, int], dim: int = 0, value_dim: int = 0) -> Caches:
    """`kinds` says how many layers there are of each kind that keeps keys and values."""
    dim = dim or head_dim(fields)
    windows = {SLIDING: "sliding_window", CHUNKED: "attention_chunk_size"}
    return tuple(
        CacheLayers(
            kind,
            layers,
            kv_heads(fields),
            dim,
            value_dim or dim,
            window=fields.number(windows[kind]) if kind in windows else 0,
        )
        for kind in (FULL, SLIDING, CHUNKED)
        if (layers := kinds.get(kind, 0))
    )


def count_kinds(fields: Fields, words: Iterable[str]) -> Counter[CacheKind]:
    """Layers of each kind, from the words of `layer_types`."""
    kinds: Counter[CacheKind] = Counter()
    for word in words:
        if word not in _KINDS:
            raise invalid(f"layer_types has {word!r:.50}, which no layer of vLLM 0.33 is")
        kinds.update(_KINDS[word])
    return kinds


def every(
    period: int, kind: str = "full_attention", others: str = "sliding_attention"
) -> Callable[[Fields], list[str]]:
    """Words for layers of which each `period`-th is `kind`; the config may have a period of its own."""

    def words(fields: Fields) -> list[str]:
        stated = fields.raw("sliding_window_pattern") or fields.raw("full_attention_interval")
        if isinstance(stated, str):  # EXAONE 4 spells it out: LLLG
            stated = len(stated)
        n = period if stated is None else stated
        if type(n) is not int or not 1 <= n <= fields.number("num_hidden_layers"):
            raise invalid(f"sliding_window_pattern must be a number of layers, not {stated!r:.50}")
        return [others if (layer + 1) % n else kind for layer in range(fields.number("num_hidden_layers"))]

    return words


def layer_words(fields: Fields, pattern: Callable[[Fields], list[str]] | None) -> list[str]:
    """`layer_types`, else what the family's pattern says; empty where neither is there."""
    stated = fields.words("layer_types", fields.number("num_hidden_layers"))
    if stated is not None:
        return list(stated)
    return pattern(fields) if pattern else []


def windowed(pattern: Callable[[Fields], list[str]] | None = None, *, beyond: int = 0) -> ReadCaches:
    """Keys and values in every layer. A window holds where `layer_types` or the family's pattern says so, and
    everywhere when neither says anything. A layer sees `beyond` tokens more than the window's number (Cohere 2)."""

    def read(fields: Fields) -> Caches:
        window = fields.optional("sliding_window") if fields.flag("use_sliding_window", True) else None
        kinds = count_kinds(fields, layer_words(fields, pattern))
        if window is None:
            kinds[FULL] += kinds.pop(SLIDING, 0)
        if not kinds.total():
            kinds[SLIDING if window else FULL] = fields.number("num_hidden_layers")
        found = attention(fields, kinds)
        return tuple(replace(cache, window=cache.window + beyond) if cache.window else cache for cache in found)

    return read


def qwen_words(fields: Fields) -> list[str]:
    """The first `max_window_layers` have no window, where one is switched on at all. vLLM refuses to mix them."""
    layers = fields.number("num_hidden_layers")
    if not (fields.optional("sliding_window") and fields.flag("use_sliding_window")):
        return ["full_attention"] * layers
    without = fields.number("max_window_layers", layers, least=0)
    if 0 < without < layers:
        raise invalid(f"max_window_layers is {without} of {layers}: vLLM 0.33 runs a window in all layers or in none")
    return ["full_attention" if without else "sliding_attention"] * layers


def without_shared(pattern: Callable[[Fields], list[str]]) -> ReadCaches:
    """The last `num_kv_shared_layers` keep nothing of their own (Gemma 3n)."""

    def read(fields: Fields) -> Caches:
        layers, shared = fields.number("num_hidden_layers"), fields.number("num_kv_shared_layers", 0, least=0)
        if shared >= layers:
            raise invalid(f"num_kv_shared_layers {shared} is not below num_hidden_layers {layers}")
        return attention(fields, count_kinds(fields, layer_words(fields, pattern)[: layers - shared]))

    return read


def latent(per_layer: int = 1) -> ReadCaches:
    """MLA: one vector a token. `per_layer` attentions are in one layer of the config (LongCat has two)."""

    def read(fields: Fields) -> Caches:
        layers = fields.number("num_hidden_layers") * per_layer
        width = fields.number("kv_lora_rank") + fields.number("qk_rope_head_dim")
        found = (CacheLayers(LATENT, layers, 1, width),)
        if fields.optional("index_topk") is None:
            return found
        index = fields.number("index_head_dim")
        return (
            *found,
            CacheLayers(LATENT, layers, 1, token_bytes=index + index // _INDEXER_BLOCK * _INDEXER_SCALE_BYTES),
        )

    return read


def latent_or_windowed(fields: Fields) -> Caches:
    """The small DeepSeek of the first generation writes the same config without a latent."""
    return latent()(fields) if fields.optional("kv_lora_rank") else windowed()(fields)


def expanded_latent(fields: Fields) -> Caches:
    """MLA run as plain attention: every head keeps its whole key, and a value padded to its size (MiniCPM 3)."""
    dim = fields.number("qk_nope_head_dim") + fields.number("qk_rope_head_dim")
    heads = fields.number("num_attention_heads")
    return (CacheLayers(FULL, fields.number("num_hidden_layers"), heads, dim, dim),)


def hybrid(
    state: ReadState, pattern: Callable[[Fields], list[str]] | None = None, *, states: int = EXPORTING
) -> ReadCaches:
    """Some layers keep keys and values, others a state. Without words for them, all keep both (Falcon-H1)."""

    def read(fields: Fields) -> Caches:
        words = layer_words(fields, pattern) or ["hybrid"] * fields.number("num_hidden_layers")
        kinds = count_kinds(fields, words)
        found = (CacheLayers(STATE, kinds[STATE], state=state(fields), states=states),) if kinds[STATE] else ()
        return (*attention(fields, kinds), *found)

    return read


def only_state(state: ReadState, *, states: int = EXPORTING) -> ReadCaches:
    """No attention at all (Mamba)."""
    return lambda fields: (CacheLayers(STATE, fields.number("num_hidden_layers"), state=state(fields), states=states),)


def jamba_words(fields: Fields) -> list[str]:
    period, offset = fields.number("attn_layer_period"), fields.number("attn_layer_offset", least=0)
    layers = range(fields.number("num_hidden_layers"))
    return ["attention" if layer % period == offset else "mamba" for layer in layers]


def nemotron_words(fields: Fields) -> list[str]:
    letters = fields.raw("hybrid_override_pattern")
    if not isinstance(letters, str) or len(letters) != fields.number("num_hidden_layers"):
        raise invalid(f"hybrid_override_pattern must have a letter for each layer, not {letters!r:.50}")
    if unknown := set(letters) - set(_NEMOTRON_LETTERS):
        raise invalid(f"hybrid_override_pattern has {sorted(unknown)!r:.50}")
    return [_NEMOTRON_LETTERS[letter] for letter in letters]


def lfm2_words(fields: Fields) -> list[str]:
    layers = fields.number("num_hidden_layers")
    full = fields.indices("full_attn_idxs", layers) or frozenset(range(layers))
    return ["full_attention" if layer in full else "conv" for layer in range(layers)]


def kimi_linear(fields: Fields) -> Caches:
    """MLA in some layers, Kimi's delta attention, whose state is 32 bit, in the others."""
    layers = fields.number("num_hidden_layers")
    linear = fields.part("linear_attn_config")
    full = linear.indices("full_attn_layers", layers, first=1)
    state = kimi_delta_state(linear)
    width = fields.number("kv_lora_rank") + fields.number("qk_rope_head_dim")
    found = (
        CacheLayers(LATENT, len(full), 1, width),
        CacheLayers(STATE, layers - len(full), state=state, states=EXPORTING),
    )
    return tuple(cache for cache in found if cache.layers)


def falcon(fields: Fields) -> Caches:
    """One KV head, unless the newer architecture or `multi_query: false` says otherwise."""
    if fields.flag("multi_query", True) and not fields.flag("new_decoder_architecture"):
        dim = fields.number("hidden_size") // fields.number("num_attention_heads")
        return (CacheLayers(FULL, fields.number("num_hidden_layers"), 1, dim, dim),)
    return windowed()(fields)


def bigcode(fields: Fields) -> Caches:
    dim = head_dim(fields)
    heads = 1 if fields.flag("multi_query", True) else fields.number("num_attention_heads")
    return (CacheLayers(FULL, fields.number("num_hidden_layers"), heads, dim, dim),)


def mimo_v2(fields: Fields) -> Caches:
    """Windowed layers have KV heads and sizes of their own; values are smaller than keys."""
    layers = fields.number("num_hidden_layers")
    stated = fields.words("layer_types", layers)
    if stated is None:
        pattern = fields.raw("hybrid_layer_pattern")
        if not isinstance(pattern, list) or len(pattern) != layers:
            raise invalid(f"hybrid_layer_pattern must have a number for each layer, not {pattern!r:.50}")
        stated = ["sliding_attention" if windowed_layer else "full_attention" for windowed_layer in pattern]
    kinds = count_kinds(fields, stated)
    dim, value = fields.number("head_dim"), fields.number("v_head_dim")
    found = (
        CacheLayers(FULL, kinds[FULL], kv_heads(fields), dim, value),
        CacheLayers(
            SLIDING,
            kinds[SLIDING],
            fields.number("swa_num_key_value_heads", kv_heads(fields)),
            fields.number("swa_head_dim", dim),
            fields.number("swa_v_head_dim", value),
            window=fields.number("sliding_window_size", fields.optional("sliding_window")),
        ),
    )
    return tuple(cache for cache in found if cache.layers)


def by_block(fields: Fields) -> Caches:
    """Nemotron NAS: each block says how many heads share a KV head, or that it has no attention."""
    heads, dim = fields.number("num_attention_heads"), head_dim(fields)
    blocks = fields.raw("block_configs")
    if not isinstance(blocks, list) or len(blocks) != fields.number("num_hidden_layers"):
        raise invalid("block_configs must have an entry for each layer")
    layers: Counter[int] = Counter()
    for block in blocks:
        part: Any = block.get("attention") if isinstance(block, Mapping) else None
        if not isinstance(part, Mapping):
            raise invalid(f"block_configs has {block!r:.50} for a layer")
        if part.get("no_op") or part.get("replace_with_linear"):
            continue
        group = part.get("n_heads_in_group")
        if type(group) is not int or group < 1 or heads % group:
            raise invalid(f"n_heads_in_group must divide num_attention_heads {heads}, not {group!r:.50}")
        layers[heads // group] += 1
    return tuple(CacheLayers(FULL, count, kv, dim, dim) for kv, count in sorted(layers.items()))

"""Model shapes out of models.csv: what the planner would read from config.json, and weights counted from it.

Cells that the file leaves empty are taken from the model's family where one is named, else from a model of common size, so that
no start-up is left out for want of a cell that hardly matters.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from kubequant.planning.values import CacheKind, CacheLayers, Experts, ModelShape, StateTensor

COLUMNS = (
    "arch", "num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim", "intermediate_size",
    "vocab_size", "tie_word_embeddings", "max_position_embeddings", "sliding_window", "num_experts", "num_experts_per_tok",
    "n_shared_experts", "moe_intermediate_size", "kv_lora_rank", "qk_rope_head_dim", "q_lora_rank", "moe_text", "hybrid_text",
)  # fmt: skip

_VOCABULARIES = (
    ("granite", 49155), ("qwen3.5", 248320), ("qwen3.6", 248320), ("qwen3.8", 248320), ("qwen", 151936), ("gemma-2", 256000),
    ("gemma", 262144), ("llama-2", 32000), ("llama-3", 128256), ("llama3", 128256), ("llama-4", 202048), ("llama", 128256),
    ("mixtral", 32000), ("mistral-7b", 32768), ("mistral", 131072), ("nemotron", 131072), ("deepseek-v2", 102400),
    ("deepseek", 129280), ("kimi-k2", 163840), ("glm-4", 151552), ("gpt-oss", 201088), ("phi-4", 100352), ("phi-3", 32064),
    ("minimax", 200064), ("falcon", 65024), ("smollm", 49152), ("olmo", 100352), ("exaone", 102400),
)  # fmt: skip
"""By words of the model's name; the first that occurs wins."""

_TYPICAL = ModelShape("unknown", "unknown", 36, 4096, 12288, 32, 8, 128, 151936, 40960, False, "BF16", upper_bound=True)

_MULTIMODAL = re.compile(
    r"llava|vision|pixtral|mistral-small-3\.[12]|-vl\b|-vl-|omni|gemma-3-(4|12|27)b|gemma-4|gemma-3n|kimi-vl|internvl|llama-4|"
    r"qwen3\.[5-9]|minicpm-v|phi-4-multimodal",
    re.IGNORECASE,
)
_DYNAMIC = re.compile(r"qwen.*(vl|omni)|qwen3\.[5-9]", re.IGNORECASE)

Row = Mapping[str, str]


def shape_of(model: Row | None, name: str, text_only: bool) -> ModelShape:
    """The shape of a row of models.csv; without one, a common shape with the vocabulary of its family."""
    row: Row = model or dict.fromkeys((*COLUMNS, "model"), "")
    layers = count(row, "num_hidden_layers", _TYPICAL.num_hidden_layers)
    hidden = count(row, "hidden_size", _TYPICAL.hidden_size)
    heads = count(row, "num_attention_heads", _TYPICAL.num_attention_heads)
    shape = ModelShape(
        architecture=row["arch"] or "unknown",
        model_type="qwen3_vl" if _DYNAMIC.search(name) else row["arch"] or "unknown",
        num_hidden_layers=layers,
        hidden_size=hidden,
        intermediate_size=count(row, "intermediate_size", 0 if row["num_experts"] else 3 * hidden),
        num_attention_heads=heads,
        num_key_value_heads=count(row, "num_key_value_heads", 1 if row["kv_lora_rank"] else heads),
        head_dim=count(row, "head_dim", max(1, hidden // heads)),
        vocab_size=count(row, "vocab_size", _vocabulary(f"{name} {row['arch']}")),
        max_position_embeddings=count(row, "max_position_embeddings", _TYPICAL.max_position_embeddings),
        tie_word_embeddings=row["tie_word_embeddings"] == "true",
        dtype="BF16",
        experts=_experts(row, layers, hidden),
        multimodal=bool(_MULTIMODAL.search(name)) and not text_only,
        upper_bound=not row["num_hidden_layers"],
    )
    return replace(shape, caches=_caches(row, shape))


def count(row: Row, column: str, otherwise: int) -> int:
    """A cell of a model that `bench.startups` made readable."""
    return int(row[column]) if row[column] else otherwise


def _vocabulary(name: str) -> int:
    lowered = name.lower()
    return next((size for words, size in _VOCABULARIES if words in lowered), _TYPICAL.vocab_size)


def _experts(row: Row, layers: int, hidden: int) -> Experts | None:
    if not row["num_experts"]:
        return None
    dense = re.search(r"first (\d+) dense", row["moe_text"])
    inner = count(row, "moe_intermediate_size", count(row, "intermediate_size", hidden))
    shared = re.search(r"shared ffn (\d+)", row["moe_text"])
    return Experts(
        experts=count(row, "num_experts", 1),
        per_token=count(row, "num_experts_per_tok", 8),
        layers=layers - (int(dense[1]) if dense else 0),
        intermediate_size=inner,
        shared_intermediate_size=int(shared[1]) if shared else count(row, "n_shared_experts", 0) * inner,
    )


def _caches(row: Row, shape: ModelShape) -> tuple[CacheLayers, ...]:
    layers = shape.num_hidden_layers
    if row["kv_lora_rank"]:
        values = count(row, "kv_lora_rank", 0) + count(row, "qk_rope_head_dim", 0)
        return (CacheLayers(CacheKind.LATENT, layers, kv_heads=1, key_dim=values),)
    full = CacheLayers(CacheKind.FULL, layers, shape.num_key_value_heads, shape.head_dim, shape.head_dim)
    if match := re.search(r"(\d+) full-attention \+ (\d+)", row["hybrid_text"]):
        recurrent = CacheLayers(CacheKind.STATE, int(match[2]), state=_state(row["hybrid_text"]))
        return replace(full, layers=int(match[1])), recurrent
    if match := re.match(r"(\d+) on (?:(\d+) of (\d+)|every second)", row["sliding_window"]):
        local, period = (int(match[2]), int(match[3])) if match[2] else (1, 2)
        whole = layers * (period - local) // period
        window = replace(full, kind=CacheKind.SLIDING, layers=layers - whole, window=int(match[1]))
        return replace(full, layers=whole), window
    return (full,)


def _state(text: str) -> tuple[StateTensor, ...]:
    """Gated delta net: a convolution's window over q, k and v, and one matrix a value head."""
    match = re.search(r"k heads (\d+), v heads (\d+), dims (\d+), conv (\d+)", text)
    if not match:
        return ()
    keys, values, dim, window = map(int, match.groups())
    precision = "F32" if "ssm state fp32" in text else "Model"
    convolution = StateTensor(keys, (2 * keys + values) * dim // keys * (window - 1))
    return convolution, StateTensor(values, dim * dim, precision)


_MXFP4_ROWS, _MXFP4_COLUMNS = 256, 128
"""Marlin pads the two sides of an MXFP4 expert to these: 2,880 x 2,880 becomes 3,072 x 2,944."""


_BITS = (
    ("nvfp4", 4.5), ("mxfp4", 4.25), ("awq", 4.156), ("gptq", 4.156), ("int4", 4.156), ("4bit", 4.156), ("4-bit", 4.156),
    ("w4a16", 4.156), ("bitsandbytes", 4.5), ("int8", 8.0), ("w8a8", 8.0), ("w8a16", 8.0), ("fp8", 8.0), ("q8_0", 8.5),
)  # fmt: skip
"""Bits of a quantised weight with its scales, by words of the quantisation's name; the first that occurs wins."""


def weight_bytes(model: Row, shape: ModelShape, weight_quant: str, ranks: int, expert_ranks: int) -> int | None:
    """Weights of one rank, counted from the architecture; None where it is not known. Embedding and head stay in 16 bit."""
    if shape.upper_bound:
        return None
    hidden, layers, experts = shape.hidden_size, shape.num_hidden_layers, shape.experts
    bits = next((bits for words, bits in _BITS if words in weight_quant.lower()), 16.0)
    dense_layers = layers - (experts.layers if experts else 0)
    linear = layers * _attention_values(model, shape) + dense_layers * 3 * hidden * shape.intermediate_size
    expert_values = 0
    if experts:
        rows, columns = hidden, experts.intermediate_size
        if weight_quant.lower().startswith("mxfp4"):
            rows, columns = -(-rows // _MXFP4_ROWS) * _MXFP4_ROWS, -(-columns // _MXFP4_COLUMNS) * _MXFP4_COLUMNS
        expert_values = experts.layers * experts.experts * 3 * rows * columns
        linear += experts.layers * 3 * hidden * experts.shared_intermediate_size
    vocabulary = shape.vocab_size * hidden * (1 if shape.tie_word_embeddings else 2)
    dense_bits = 16.0 if weight_quant.lower().startswith("mxfp4") else bits
    kept = int(linear * dense_bits / 8) + 2 * vocabulary
    return kept // ranks + int(expert_values * bits / 8) // expert_ranks


_NAMED_SIZE = re.compile(r"(?<![a-z0-9.])(?:(\d+)x)?(\d+(?:\.\d+)?)b(?![a-z0-9])", re.IGNORECASE)
_NAMES_ROUND = 0.9  # Llama-3.1-8B has 8.03 billion parameters, Qwen2.5-7B 7.6
_EXPERTS_SHARE = 0.75  # 8x7B shares attention: 46.7 billion, not 56
_LEAST_BITS = 4.0


def least_weight_bytes(name: str, weight_quant: str, ranks: int) -> int | None:
    """A bound out of a model's name (30B in Qwen3-30B-A3B), None where the name has no size. Never good enough to compare with."""
    match = _NAMED_SIZE.search(name)
    if not match:
        return None
    parameters = float(match[2]) * 1e9 * _NAMES_ROUND * (int(match[1]) * _EXPERTS_SHARE if match[1] else 1)
    quantization = f"{weight_quant} {name}".lower()
    unquantised = 16.0 if weight_quant.lower() in ("none", "bf16", "fp16", "bfloat16", "float16") else _LEAST_BITS
    bits = next((bits for words, bits in _BITS if words in quantization), unquantised)
    return int(parameters * bits / 8) // ranks


def _attention_values(model: Row, shape: ModelShape) -> int:
    hidden, heads = shape.hidden_size, shape.num_attention_heads
    if not model["kv_lora_rank"]:
        return hidden * shape.head_dim * (2 * heads + 2 * shape.num_key_value_heads)
    latent, rope = count(model, "kv_lora_rank", 0), count(model, "qk_rope_head_dim", 0)
    nope = value = 128
    query_rank = count(model, "q_lora_rank", 0)
    query = query_rank * (hidden + heads * (nope + rope)) if query_rank else hidden * heads * (nope + rope)
    return query + hidden * (latent + rope) + latent * heads * (nope + value) + heads * value * hidden

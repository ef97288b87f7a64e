"""config.json is untrusted: what is planned is known by name, and its numbers are checked."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubequant.errors import Refused
from kubequant.planning.architectures import SUPPORTED_ARCHITECTURES, shape_of
from kubequant.planning.architectures.served import MULTIMODAL, TEXT
from kubequant.planning.kv_cache import kv_layout
from kubequant.planning.values import Experts, ModelShape, TensorClass
from tests.unit.planning.models import CONFIGS, config

LLAMA = CONFIGS["Llama-3.1-8B"]
DATA = Path(__file__).parents[2] / "data" / "architectures"

ARCHITECTURES = {
    "llama31-8b": "32 Full",
    "mistral7b-v01": "32 SlidingWindow(4096)",
    "phi-3-mini": "32 SlidingWindow(2047)",
    "gemma-2-9b": "21 Full, 21 SlidingWindow(4096)",
    "gemma3-1b": "4 Full, 22 SlidingWindow(512)",
    "gemma-3-27b": "10 Full, 52 SlidingWindow(1024)",
    "gemma-3n-e4b": "4 Full, 16 SlidingWindow(512)",
    "command-r7b": "8 Full, 24 SlidingWindow(4097)",
    "exaone-4-32b": "16 Full, 48 SlidingWindow(4096)",
    "gpt-oss-120b": "18 Full, 18 SlidingWindow(128)",
    "llama-4-scout": "12 Full, 36 ChunkedLocal(8192)",
    "mimo-v2-flash": "9 Full, 39 SlidingWindow(128)",
    "deepseek-v3": "61 Latent",
    "deepseek-v3.2": "61 Latent, 61 Latent",
    "glm-4.7-flash": "47 Latent",
    "longcat-flash": "56 Latent",
    "minicpm3-4b": "62 Full",
    "kimi-linear-48b": "7 Latent, 20 State",
    "qwen3next-80b": "12 Full, 36 State",
    "qwen3.5-35b-a3b": "10 Full, 30 State",
    "jamba-mini": "4 Full, 28 State",
    "granite-4-h-tiny": "4 Full, 36 State",
    "nemotron-nano-9b-v2": "4 Full, 27 State",
    "falcon-h1-7b": "44 Full, 44 State",
    "lfm2-1.2b": "6 Full, 10 State",
    "mamba-2.8b": "64 State",
    "mamba-codestral-7b": "64 State",
    "qwen2-vl-7b": "28 Full",
    "llava-v1.6-mistral-7b": "32 Full",
}


@cache
def config_of(name: str) -> dict[str, Any]:
    return dict(json.loads((DATA / f"{name}.json").read_text()))


def kinds(shape: ModelShape) -> str:
    """Such as "4 Full, 22 SlidingWindow(512)"."""
    window = [f"({cache.window})" if cache.window else "" for cache in shape.caches]
    return ", ".join(f"{cache.layers} {cache.kind}{w}" for cache, w in zip(shape.caches, window, strict=True))


def test_what_is_known_in_detail_is_served() -> None:
    assert set(SUPPORTED_ARCHITECTURES) <= TEXT | MULTIMODAL
    assert len(SUPPORTED_ARCHITECTURES) > 100


@pytest.mark.parametrize("name", sorted(TEXT | MULTIMODAL))
def test_any_served_architecture_is_planned_or_refused(name: str) -> None:
    try:
        shape = shape_of({**LLAMA, "architectures": [name]})
    except Refused as refused:
        assert refused.reason == "ConfigInvalid"
    else:
        assert shape.upper_bound or name in SUPPORTED_ARCHITECTURES
        assert shape.multimodal == (name in MULTIMODAL)


def test_llama() -> None:
    shape = shape_of(LLAMA)
    assert (shape.num_hidden_layers, shape.num_key_value_heads, shape.head_dim, shape.dtype) == (32, 8, 128, "BF16")


def test_absent_fields_mean_what_the_family_says() -> None:
    multi_head = {key: value for key, value in LLAMA.items() if key not in ("num_key_value_heads", "head_dim")}
    assert shape_of(multi_head).num_key_value_heads == 32
    assert shape_of(multi_head).head_dim == 128
    gemma = config("GemmaForCausalLM", 28, 3072, 24576, 16, 16, 256000, 8192, head_dim=256)
    del gemma["tie_word_embeddings"]
    assert shape_of(gemma).tie_word_embeddings is True


def test_window_that_is_switched_off_is_none() -> None:
    qwen = CONFIGS["Qwen2.5-7B"]
    assert kinds(shape_of({**qwen, "sliding_window": 131072, "use_sliding_window": False})) == "28 Full"
    mistral = {**LLAMA, "architectures": ["MistralForCausalLM"]}
    assert kinds(shape_of({**mistral, "sliding_window": None})) == "32 Full"
    assert kinds(shape_of({**mistral, "sliding_window": 4096})) == "32 SlidingWindow(4096)"


def test_dtype_of_transformers_5() -> None:
    modern = {key: value for key, value in LLAMA.items() if key != "torch_dtype"}
    assert shape_of({**modern, "dtype": "float16"}).dtype == "F16"
    assert shape_of(modern, default_dtype="F32").dtype == "F32"


def test_auto_map_of_a_native_architecture_is_harmless() -> None:
    assert shape_of({**LLAMA, "auto_map": {"AutoModel": "evil.Model"}}) == shape_of(LLAMA)


UNSUPPORTED: dict[str, tuple[dict[str, Any], str]] = {
    "a name of no model": ({"architectures": ["EvilForCausalLM"]}, "EvilForCausalLM"),
    "embeddings": ({"architectures": ["BertModel"]}, "BertModel"),
    "served until 0.10.2": ({"architectures": ["Phi4FlashForCausalLM"]}, "vLLM 0.33"),
    "speech to text": ({"architectures": ["WhisperForConditionalGeneration"]}, "encoder-decoder"),
    "said to be encoder-decoder": ({"is_encoder_decoder": True}, "encoder-decoder"),
}


@pytest.mark.parametrize("case", UNSUPPORTED)
def test_what_vllm_does_not_serve(case: str) -> None:
    fields, words = UNSUPPORTED[case]
    with pytest.raises(Refused) as refused:
        shape_of({**LLAMA, **fields})
    assert refused.value.reason == "UnsupportedArchitecture"
    assert words in refused.value.message


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_caches_of_families(name: str) -> None:
    assert kinds(shape_of(config_of(name))) == ARCHITECTURES[name]


def test_the_small_parts_of_a_config() -> None:
    gemma = shape_of(config_of("gemma-3-27b"))
    assert (gemma.multimodal, gemma.float16_refused, gemma.tie_word_embeddings) == (True, True, True)
    # What the nested config leaves out are its class's defaults; Gemma 3 has its RoPE scaling in the length already.
    assert (gemma.vocab_size, gemma.max_position_embeddings, gemma.rope_scaling) == (262208, 131072, "linear x 8")
    oss = shape_of(config_of("gpt-oss-120b"))
    assert (oss.attention_sinks, oss.rope_scaling, oss.max_position_embeddings) == (True, "yarn x 32", 131072)
    assert shape_of(config_of("command-r")).max_position_embeddings == 131072  # model_max_length goes before


def test_rope_scaling_stretches_only_where_vllm_does() -> None:
    for kind in ("yarn", "llama3", "longrope", "su"):
        assert shape_of({**LLAMA, "rope_scaling": {"type": kind, "factor": 4.0}}).max_position_embeddings == 131072
    for kind in ("linear", "dynamic"):
        stretched = shape_of({**LLAMA, "rope_scaling": {"rope_type": kind, "factor": 4.0}})
        assert (stretched.max_position_embeddings, stretched.rope_scaling) == (524288, f"{kind} x 4")


EXPERTS = {
    "mixtral-8x7b": Experts(8, 2, 32, 14336),
    "qwen1.5-moe": Experts(60, 4, 24, 1408, 5632),
    "qwen3-30b-a3b": Experts(128, 8, 48, 768),
    "deepseek-v3": Experts(256, 8, 58, 2048, 2048),
    "dsv2-lite": Experts(64, 6, 26, 1408, 2816),
    "glm-4.5-air": Experts(128, 8, 45, 1408, 1408),
    "llama-4-scout": Experts(16, 1, 48, 8192, 8192),
    "jamba-mini": Experts(16, 2, 16, 14336),
    "ernie-4.5-21b-a3b": Experts(64, 6, 27, 1536, 3072),
    "granite-4-h-tiny": Experts(64, 6, 40, 512, 1024),
    "qwen3next-80b": Experts(512, 10, 48, 512, 512),
    "nemotron-nano-9b-v2": None,
    "llama31-8b": None,
}


def test_experts_given_layer_by_layer() -> None:
    hunyuan = {**LLAMA, "architectures": ["HunYuanMoEV1ForCausalLM"], "num_experts": 64, "moe_topk": [8] * 32}
    shape = shape_of({**hunyuan, "moe_intermediate_size": [3072] * 32, "num_shared_expert": [1] * 32})
    assert shape.experts == Experts(64, 8, 32, 3072, 3072)


@pytest.mark.parametrize("name", EXPERTS)
def test_experts(name: str) -> None:
    assert shape_of(config_of(name)).experts == EXPERTS[name]


def test_sparse_attention_keeps_an_index_beside_the_latent() -> None:
    latent, index = shape_of(config_of("deepseek-v3.2")).caches
    assert (latent.key_dim, index.token_bytes) == (576, 132)  # 128 of one byte, and a scale of four


def test_kimi_linear_state_is_32_bit() -> None:
    _, state = shape_of(config_of("kimi-linear-48b")).caches
    assert [(tensor.units, tensor.values_per_unit, tensor.dtype) for tensor in state.state] == [
        (12288, 3, "Model"),
        (32, 16384, "F32"),
    ]


def test_text_model_of_a_wrapper_is_found_by_its_name() -> None:
    inner = CONFIGS["Qwen2.5-72B"] | {"model_type": "qwen2"}
    shape = shape_of({"architectures": ["InternVLChatModel"], "model_type": "internvl_chat", "llm_config": inner})
    assert (shape.multimodal, shape.upper_bound, kinds(shape)) == (True, False, "80 Full")


def test_blocks_that_differ() -> None:
    heads = [{"n_heads_in_group": 8}, {"n_heads_in_group": 4}, {"no_op": True}, {"replace_with_linear": True}] * 8
    blocks = [{"attention": attention, "ffn": {}} for attention in heads]
    shape = shape_of({**LLAMA, "architectures": ["DeciLMForCausalLM"], "block_configs": blocks})
    assert [(cache.layers, cache.kv_heads) for cache in shape.caches] == [(8, 4), (8, 8)]


def test_architecture_known_by_name_only_is_bounded_by_its_headers() -> None:
    config = {**LLAMA, "architectures": ["Step1ForCausalLM"]}
    wide = TensorClass("model.layers.*.self_attn.k_proj.weight", "BF16", (2048, 4096), 32, 2048 * 4096 * 2 * 32)
    tower = replace(wide, pattern="vision_tower.layers.*.self_attn.k_proj.weight", shape=(65536, 4096))
    shape = shape_of(config, tensors=(wide, tower))
    assert shape.upper_bound
    assert [(cache.kv_heads * cache.key_dim, cache.layers) for cache in shape.caches] == [(2048, 32)]
    assert [cache.kv_heads * cache.key_dim for cache in shape_of(config).caches] == [1024]


FALCON = {**LLAMA, "architectures": ["FalconForCausalLM"]}
BLOOM = {**LLAMA, "architectures": ["BloomForCausalLM"]}


def test_alibi() -> None:
    assert shape_of(BLOOM).alibi
    assert shape_of({**LLAMA, "architectures": ["Step1ForCausalLM"]}).alibi
    assert shape_of({**FALCON, "alibi": True}).alibi
    assert not shape_of({**FALCON, "alibi": False}).alibi
    assert not shape_of(FALCON).alibi
    assert not shape_of({**LLAMA, "alibi": True}).alibi  # no other family's code looks at it


GLM_VISION = {"architectures": ["Glm4vForConditionalGeneration"], "text_config": LLAMA}
VISION_HEADS: dict[str, tuple[dict[str, Any], int]] = {
    "SigLIP": (config_of("gemma-3-27b"), 16),
    "MoonViT": (config_of("kimi-vl-a3b"), 16),
    "CLIP": (config_of("llava-v1.6-mistral-7b"), 16),
    "Pixtral": (config_of("mistral-small-3.2-24b"), 16),
    "Qwen": (config_of("qwen2.5-vl-7b"), 16),
    "GLM": ({**GLM_VISION, "vision_config": {"num_heads": 12}}, 12),
    "a third spelling": ({**GLM_VISION, "vision_config": {"heads": 12}}, 12),
    "under a thinker": (
        {
            "architectures": ["Qwen2_5OmniModel"],
            "thinker_config": {"text_config": LLAMA, "vision_config": {"num_heads": 12}},
        },
        12,
    ),
    "not said": ({**GLM_VISION, "vision_config": {"depth": 24}}, 0),
    "no tower": (GLM_VISION, 0),
    "a tower kept whole": (
        {"architectures": ["InternVLChatModel"], "llm_config": LLAMA, "vision_config": {"num_attention_heads": 25}},
        0,
    ),
    "an architecture known by name only": (
        {**LLAMA, "architectures": ["Step3VLForConditionalGeneration"], "vision_config": {"num_attention_heads": 16}},
        0,
    ),
    "text": ({**LLAMA, "vision_config": {"num_attention_heads": 16}}, 0),
}


@pytest.mark.parametrize("case", VISION_HEADS)
def test_heads_of_a_vision_tower(case: str) -> None:
    config, heads = VISION_HEADS[case]
    assert shape_of(config).vision_heads == heads


INVALID: dict[str, dict[str, Any]] = {
    "a vision tower with heads of words": {**GLM_VISION, "vision_config": {"num_heads": "many"}},
    "text for a number": {"hidden_size": "4096"},
    "a boolean for a number": {"num_hidden_layers": True},
    "zero": {"num_attention_heads": 0},
    "negative": {"vocab_size": -1},
    "absurd": {"num_hidden_layers": 10**9},
    "a float": {"intermediate_size": 14336.0},
    "heads that do not group": {"num_key_value_heads": 7},
    "no architectures": {"architectures": []},
    "architectures as text": {"architectures": "LlamaForCausalLM"},
    "two architectures": {"architectures": ["LlamaForCausalLM", "X"]},
    "a dtype that is none": {"torch_dtype": "complex64"},
    "tied by a word": {"tie_word_embeddings": "yes"},
    "no context length": {"max_position_embeddings": None},
    "no layers": {"num_hidden_layers": None},
    "more layer types than layers": {"layer_types": ["full_attention"] * 33},
    "a layer type of no layer": {"layer_types": ["telepathy"] * 32},
    "a window of words": {"sliding_window": "wide"},
    "more experts a token than experts": {"num_local_experts": 2, "num_experts_per_tok": 3},
    "experts and no word on how many a token": {"num_local_experts": 8},
    "a window in some layers of Qwen": {
        "architectures": ["Qwen2ForCausalLM"],
        "sliding_window": 4096,
        "use_sliding_window": True,
        "max_window_layers": 16,
    },
    "everything shared": {"architectures": ["Gemma3nForCausalLM"], "num_kv_shared_layers": 32},
    "MLA without a latent": {"architectures": ["DeepseekV3ForCausalLM"], "kv_lora_rank": 0},
    "a negative factor": {"rope_scaling": {"type": "linear", "factor": -4}},
    "scaling that is a word": {"rope_scaling": "yarn"},
    "letters of no layer": {"architectures": ["NemotronHForCausalLM"], "hybrid_override_pattern": "X" * 32},
    "heads that divide nothing": {
        "architectures": ["DeciLMForCausalLM"],
        "block_configs": [{"attention": {"n_heads_in_group": 7}}] * 32,
    },
}


@pytest.mark.parametrize("case", INVALID)
def test_config_that_cannot_be_planned_on(case: str) -> None:
    with pytest.raises(Refused) as refused:
        shape_of({**LLAMA, **INVALID[case]})
    assert refused.value.reason == "ConfigInvalid"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


FIELDS = sorted({field for name in ARCHITECTURES for field in config_of(name)} | {"index_topk", "is_encoder_decoder"})


@given(st.sampled_from(sorted(ARCHITECTURES)), st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=4))
def test_any_json_is_read_or_refused(name: str, fields: dict[str, Any]) -> None:
    try:
        shape = shape_of({**config_of(name), **fields})
    except Refused as refused:
        assert refused.reason in ("UnsupportedArchitecture", "ConfigInvalid")
        assert len(refused.message) < 600
    else:
        assert all(cache.layers > 0 for cache in shape.caches)
        assert kv_layout(shape, "BF16").block_bytes > 0

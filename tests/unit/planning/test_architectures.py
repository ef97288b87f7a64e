"""config.json is untrusted: what is planned is known by name, and its numbers are checked."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubequant.errors import Refused
from kubequant.planning.architectures import SUPPORTED_ARCHITECTURES, shape_of
from tests.unit.planning.models import CONFIGS, config

LLAMA = CONFIGS["Llama-3.1-8B"]


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
    assert shape_of({**qwen, "sliding_window": 131072, "use_sliding_window": False}).max_position_embeddings == 32768
    mistral = {**LLAMA, "architectures": ["MistralForCausalLM"]}
    assert shape_of({**mistral, "sliding_window": None}).architecture == "MistralForCausalLM"


def test_dtype_of_transformers_5() -> None:
    modern = {key: value for key, value in LLAMA.items() if key != "torch_dtype"}
    assert shape_of({**modern, "dtype": "float16"}).dtype == "F16"
    assert shape_of(modern, default_dtype="F32").dtype == "F32"


def test_auto_map_of_a_native_architecture_is_harmless() -> None:
    assert shape_of({**LLAMA, "auto_map": {"AutoModel": "evil.Model"}}) == shape_of(LLAMA)


UNSUPPORTED: dict[str, dict[str, Any]] = {
    "unknown name": {"architectures": ["MixtralForCausalLM"]},
    "multimodal": {"architectures": ["Qwen2VLForConditionalGeneration"]},
    "Mistral with a window": {"architectures": ["MistralForCausalLM"], "sliding_window": 4096},
    "Qwen with its window on": {
        "architectures": ["Qwen2ForCausalLM"],
        "sliding_window": 4096,
        "use_sliding_window": True,
    },
    "mixed layer types": {"layer_types": ["full_attention", "sliding_attention"]},
    "experts": {"num_local_experts": 8},
    "vision": {"vision_config": {}},
    "MLA": {"kv_lora_rank": 512},
    "encoder-decoder": {"is_encoder_decoder": True},
}


@pytest.mark.parametrize("case", UNSUPPORTED)
def test_what_this_release_does_not_plan(case: str) -> None:
    with pytest.raises(Refused) as refused:
        shape_of({**LLAMA, **UNSUPPORTED[case]})
    assert refused.value.reason == "UnsupportedArchitecture"
    assert "dense decoders" in refused.value.message


INVALID: dict[str, dict[str, Any]] = {
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


@given(st.dictionaries(st.sampled_from([*LLAMA, "sliding_window", "layer_types", "dtype", "num_experts"]), JSON))
def test_any_json_is_read_or_refused(fields: dict[str, Any]) -> None:
    try:
        shape = shape_of({**LLAMA, **fields})
    except Refused as refused:
        assert refused.reason in ("UnsupportedArchitecture", "ConfigInvalid")
        assert len(refused.message) < 600
    else:
        assert shape.architecture in SUPPORTED_ARCHITECTURES

"""Whether a quantised checkpoint still is the base model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kubequant.hub.likeness import (
    config_differences,
    end_of_sequence,
    needs_code,
    rope_of,
    sentence,
    shape_differences,
    token_differences,
)
from kubequant.planning.values import Experts, ModelFacts, ModelShape, TensorClass

SHAPE = ModelShape(
    architecture="Qwen2ForCausalLM", model_type="qwen2", num_hidden_layers=28, hidden_size=3584, intermediate_size=18944,
    num_attention_heads=28, num_key_value_heads=4, head_dim=128, vocab_size=152064, max_position_embeddings=32768,
    tie_word_embeddings=False, dtype="BF16",
)  # fmt: skip
CONFIG: dict[str, Any] = {
    "hidden_size": 3584, "rope_theta": 1000000.0, "rms_norm_eps": 1e-06, "eos_token_id": 151645, "bos_token_id": 151643,
    "max_position_embeddings": 32768, "sliding_window": 131072, "torch_dtype": "bfloat16", "hidden_act": "silu", "use_mrope": False,
}  # fmt: skip


def facts(shape: ModelShape = SHAPE, *tensors: TensorClass) -> ModelFacts:
    return ModelFacts("a/b", "c" * 40, shape, tensors, None, 0)


def tensor(pattern: str, dtype: str, *shape: int) -> TensorClass:
    return TensorClass(pattern, dtype, shape, 1, 1)


@pytest.mark.parametrize("same", [{}, {"dtype": "F16"}, {"rope_scaling": "yarn x 4"}])
def test_how_numbers_are_stored_is_no_difference_of_the_shape(same: dict[str, Any]) -> None:
    assert shape_differences(facts(), facts(replace(SHAPE, **same))) == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"architecture": "LlamaForCausalLM"}, "architecture is 'LlamaForCausalLM', of the base 'Qwen2ForCausalLM'"),
        ({"num_hidden_layers": 20, "caches": ()}, "num_hidden_layers is 20, of the base 28"),
        ({"intermediate_size": 9472}, "9472"),
        ({"num_key_value_heads": 8, "caches": ()}, "num_key_value_heads"),
        ({"vocab_size": 151936}, "vocab_size is 151936, of the base 152064"),
        ({"max_position_embeddings": 131072}, "max_position_embeddings"),
        ({"experts": Experts(8, 2, 28, 1024)}, "experts is 8 of 1,024, 2 a token, of the base None"),
    ],
)
def test_sizes_that_differ_are_named_with_both_numbers(changed: dict[str, Any], said: str) -> None:
    assert any(said in one for one in shape_differences(facts(), facts(replace(SHAPE, **changed))))


def test_bounds_of_an_unknown_architecture_are_not_compared() -> None:
    bound = replace(SHAPE, upper_bound=True, intermediate_size=1)
    assert shape_differences(facts(), facts(bound)) == []
    assert shape_differences(facts(), facts(replace(bound, hidden_size=1)))


def test_tensors_that_are_stored_number_by_number_have_the_base_s_shape() -> None:
    base = facts(SHAPE, tensor("norm.weight", "BF16", 3584), tensor("q.weight", "BF16", 3584, 3584))
    packed = facts(SHAPE, tensor("norm.weight", "F16", 3584), tensor("q.qweight", "I32", 3584, 448))
    fp8 = facts(SHAPE, tensor("q.weight", "F8_E4M3", 3584, 3584), tensor("q.weight_scale", "F32", 3584, 1))
    halves = facts(SHAPE, tensor("q.weight", "U8", 3584, 1792))
    assert [shape_differences(base, one) for one in (packed, fp8, halves)] == [[], [], []]
    (said,) = shape_differences(base, facts(SHAPE, tensor("norm.weight", "BF16", 4096)))
    assert said == "the shape of 'norm.weight' is '[4096]', of the base '[[3584]]'"


@pytest.mark.parametrize(
    "same",
    [
        {"torch_dtype": "float16", "dtype": "float16", "transformers_version": "5.0", "_name_or_path": "/tmp/x", "use_cache": False},
        {"quantization_config": {"bits": 4}, "pad_token_id": 0, "attention_dropout": 0.1, "head_dim": 128, "mlp_bias": False},
        {"sliding_window": -1, "use_sliding_window": False, "max_window_layers": 21, "layer_types": ["full_attention"]},
        {"rope_theta": 1000000, "rms_norm_eps": 0.000001, "eos_token_id": 151645},
        {"rope_theta": None, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
    ],
)  # fmt: skip
def test_what_saving_again_changes_is_no_difference(same: dict[str, Any]) -> None:
    saved = {key: value for key, value in (CONFIG | same).items() if value is not None}
    assert config_differences(CONFIG, saved) == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"max_position_embeddings": 131072}, "max_position_embeddings is 131072, of the base 32768"),
        ({"rope_theta": 10000.0}, "the rope_theta is 10000, of the base 1000000"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "the rope's rope_type is 'yarn', of the base 'default'"),
        ({"rms_norm_eps": 1e-05}, "rms_norm_eps"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"use_mrope": True}, "use_mrope is True, of the base False"),
    ],
)
def test_what_changes_the_model_is(changed: dict[str, Any], said: str) -> None:
    (found,) = config_differences(CONFIG, CONFIG | changed)
    assert said in found


def test_settings_of_nested_models_count() -> None:
    base = {"text_config": CONFIG, "vision_config": {"depth": 32}}
    assert (
        config_differences(base, {"text_config": CONFIG | {"dtype": "float16"}, "vision_config": {"depth": 32}}) == []
    )
    (found,) = config_differences(base, {"text_config": CONFIG, "vision_config": {"depth": 16}})
    assert found == "vision_config.depth is 16, of the base 32"


YARN = {"type": "yarn", "factor": 4, "original_max_position_embeddings": 32768}
GEMMA = {"rope_theta": 1e6, "rope_local_base_freq": 1e4, "rope_scaling": {"rope_type": "linear", "factor": 8.0}}


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ({}, {"rope_scaling": None}),
        (
            {"rope_theta": 1e6, "rope_scaling": YARN},
            {"rope_parameters": {**YARN, "rope_type": "yarn", "rope_theta": 1000000}},
        ),
        (
            {"rope_theta": 1e6, "partial_rotary_factor": 0.5},
            {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "partial_rotary_factor": 0.5}},
        ),
        (
            {"rope_theta": 1e4, "rope_scaling": {"type": "su", "factor": [1, 2]}},
            {"rope_theta": 1e4, "rope_scaling": {"rope_type": "longrope", "factor": [1.0, 2.0]}},
        ),
        (
            {"rope_scaling": {"type": "mrope", "mrope_section": [16, 24]}},
            {"rope_scaling": {"type": "default", "rope_type": "default", "mrope_section": [16, 24]}},
        ),
        (
            GEMMA,
            {
                "rope_parameters": {
                    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
                }
            },
        ),
    ],
)
def test_rotary_positions_in_every_spelling(older: dict[str, Any], newer: dict[str, Any]) -> None:
    assert rope_of(older) == rope_of(newer)
    assert config_differences(older, newer) == []


def test_rotary_positions_that_only_one_states_are_those_of_the_architecture() -> None:
    assert config_differences({}, {"rope_theta": 10000.0}) == []
    assert config_differences(GEMMA, GEMMA | {"rope_local_base_freq": 1e5}) == [
        "the rope_theta is 100000, of the base 10000"
    ]


def test_a_head_may_be_stored_beside_the_embedding_and_not_be_dropped() -> None:
    tied, own = replace(SHAPE, tie_word_embeddings=True), SHAPE
    head = tensor("lm_head.weight", "BF16", 152064, 3584)
    assert shape_differences(facts(tied), facts(own, head)) == []
    assert shape_differences(facts(tied), facts(own)) == [
        "tie_word_embeddings is False, of the base True, and no lm_head is stored"
    ]
    assert shape_differences(facts(own, head), facts(tied)) == ["tie_word_embeddings is True, of the base False"]


def test_answers_end_where_vllm_ends_them() -> None:
    assert end_of_sequence({"eos_token_id": 2}, {}) == {2}
    assert end_of_sequence({"eos_token_id": 2}, {"eos_token_id": [7, 2]}) == {2, 7}
    assert end_of_sequence({"text_config": {"eos_token_id": [1, True, "x"]}}, {"max_new_tokens": 5}) == {1}
    assert end_of_sequence({}, {}) == frozenset()


def test_tokens_that_begin_and_end_are_compared_by_what_they_do() -> None:
    assert (
        token_differences({"eos_token_id": 2}, {"eos_token_id": 5}, {"eos_token_id": [2, 7]}, {"eos_token_id": [7, 2]})
        == []
    )
    assert token_differences({"eos_token_id": 2}, {"eos_token_id": 2}, {"eos_token_id": [2, 7]}, {}) == [
        "answers end at the tokens 2, of the base 2, 7"
    ]
    assert token_differences(CONFIG, CONFIG | {"bos_token_id": 1}, {}, {}) == [
        "prompts begin with the token 1, of the base 151643"
    ]


def test_an_auto_map_is_code() -> None:
    assert needs_code({"auto_map": {"AutoModel": "x.Y"}})
    assert not needs_code({"auto_map": {}})


def test_a_sentence_names_a_few_and_counts_the_rest() -> None:
    assert sentence(["a", "b"]) == "a; b"
    assert sentence(list("abcdefg")) == "a; b; c; d; and 3 more"


def test_what_a_stranger_wrote_is_quoted_and_cut() -> None:
    (found,) = config_differences({"x": 1}, {"x": "\x1b\n" + "y" * 100_000})
    assert len(found) < 250 and found.isprintable()

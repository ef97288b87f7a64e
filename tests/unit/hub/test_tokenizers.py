"""Two tokenizers that make the same tokens are one, however they were saved."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubequant.hub.tokenizers import PARTS, chat_template_of, print_of, setting_differences, template_difference

TOKENIZER: dict[str, Any] = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [
        {"id": 0, "content": "<s>", "special": True, "lstrip": False, "rstrip": False, "normalized": False},
        {"id": 5, "content": "</s>", "special": True, "lstrip": False, "rstrip": False, "normalized": False},
    ],
    "normalizer": {"type": "NFC"},
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}]},
    "decoder": {"type": "ByteLevel"},
    "model": {
        "type": "BPE",
        "unk_token": None,
        "vocab": {"<s>": 0, "a": 1, "b": 2, "ab": 3, "abb": 4},
        "merges": ["a b", "ab b"],
    },
}


def differences(**changes: Any) -> list[str]:
    """Between TOKENIZER and itself with parts changed; of its model those behind `model_`."""
    changed = copy.deepcopy(TOKENIZER)
    for name, value in changes.items():
        part, key = (changed["model"], name[6:]) if name.startswith("model_") else (changed, name)
        part[key] = value
    return print_of(TOKENIZER).differences(changed)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"model_merges": [["a", "b"], ["ab", "b"]]},
        {"model_ignore_merges": False, "model_dropout": None, "model_continuing_subword_prefix": ""},
        {"truncation": {"max_length": 2048}, "padding": {"strategy": "BatchLongest"}, "version": "1.1"},
        {"added_tokens": list(reversed(TOKENIZER["added_tokens"]))},
        {"added_tokens": [one | {"single_word": False} for one in TOKENIZER["added_tokens"]]},
        {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False}},
        {"model_vocab": dict(reversed(TOKENIZER["model"]["vocab"].items()))},
    ],
)
def test_what_another_release_saves_otherwise_is_the_same(changes: dict[str, Any]) -> None:
    assert differences(**changes) == []


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        (
            {"model_vocab": TOKENIZER["model"]["vocab"] | {"<s>": 1, "a": 0}},
            "vocabulary (5 entries, of the base 5; '<s>' is 1, of the base 0)",
        ),
        (
            {"model_vocab": TOKENIZER["model"]["vocab"] | {"c": 9}},
            "vocabulary (6 entries, of the base 5; 'c' is 9, which the base has not)",
        ),
        (
            {"model_vocab": {"<s>": 0, "a": 1, "ab": 3, "abb": 4}},
            "(4 entries, of the base 5; the base's token 2 is not there)",
        ),
        (
            {"model_vocab": {"<s>": 0, "a": 1, "b": 2, "ab": 3, "abb": None}},
            "of the base 5; the base's token 4 is not there)",
        ),
        ({"model_vocab": {"\x1b\n" + "y" * 9999: 7}}, r"(1 entries, of the base 5; '\x1b\nyyy"),
        ({"model_merges": ["ab b", "a b"]}, "merges (2 entries, of the base 2)"),
        ({"model_merges": [["a", "b b"]]}, "merges (1 entries"),
        ({"model_type": "Unigram"}, "model ("),
        ({"model_byte_fallback": True}, "model ("),
        ({"added_tokens": TOKENIZER["added_tokens"][:1]}, "added tokens (1 entries, of the base 2)"),
        ({"added_tokens": [one | {"special": False} for one in TOKENIZER["added_tokens"]]}, "added tokens"),
        ({"added_tokens": [one | {"id": one["id"] + 1} for one in TOKENIZER["added_tokens"]]}, "added tokens"),
        ({"normalizer": None}, "normalizer"),
        ({"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True}}, "pre_tokenizer"),
        ({"pre_tokenizer": {"type": "ByteLevel"}}, "pre_tokenizer"),
        ({"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}}, "pre_tokenizer"),
        ({"post_processor": None}, "post_processor"),
        ({"decoder": {"type": "Fuse"}}, "decoder"),
    ],
)
def test_what_makes_other_tokens_is_named(changes: dict[str, Any], part: str) -> None:
    (found,) = differences(**changes)
    assert part in found and found.isprintable() and len(found) < 300


def test_metaspace_is_one_in_both_spellings() -> None:
    def of(pre_tokenizer: dict[str, Any]) -> Any:
        return {**TOKENIZER, "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", **pre_tokenizer}}

    base = print_of(of({"prepend_scheme": "always", "split": True}))
    assert not base.differences(of({"add_prefix_space": True}))
    assert base.differences(of({"add_prefix_space": False}))
    assert base.differences(of({"prepend_scheme": "first"}))
    assert base.differences(of({"prepend_scheme": "always", "split": False}))


@pytest.mark.parametrize("kind", ["split", "metaspace", "unigram"])
def test_what_tokenizers_0_22_saves_of_a_file_of_0_13_is_the_same(kind: str) -> None:
    """Written by the library itself, of these two releases."""
    folder = Path(__file__).parent / "saved_tokenizers"
    older, newer = (json.loads((folder / f"{kind}-{release}.json").read_text()) for release in ("0.13", "0.22"))
    assert older != newer
    assert print_of(older).differences(newer) == []


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from([*TOKENIZER, "vocab"]), json_values))
def test_any_json_has_a_print_that_saving_it_again_does_not_change(document: dict[str, Any]) -> None:
    found = print_of(document)
    assert set(found.parts) == set(PARTS)
    assert found == print_of(json.loads(json.dumps(document, indent=2)))


@given(json_values, json_values)
def test_vocabularies_are_equal_only_if_they_are(one: Any, other: Any) -> None:
    differ = bool(differences(model_vocab=one)) != bool(differences(model_vocab=other))
    if differ:
        assert one != other


def test_a_list_of_pieces_is_numbered_by_place() -> None:
    pieces = [["<unk>", 0.0], ["a", -1.0], ["b", -2.0]]
    base = print_of({"model": {"vocab": pieces}})
    (said,) = base.differences({"model": {"vocab": [pieces[0], pieces[2], pieces[1]]}})
    assert said == "its vocabulary (3 entries, of the base 3; 'b' is 1, of the base 2)"
    (said,) = base.differences({"model": {"vocab": [["<unk>", 0.0], ["a", -1.5], ["b", -2.0]]}})
    assert said == "its vocabulary (3 entries, of the base 3)"  # a score differs


@pytest.mark.parametrize(
    ("base", "candidate", "said"),
    [
        ("one two", "one two three", "from character 8 on, 'one two three' where the base has its end"),
        ("{% if a %}", "{% if b %}", "from character 7 on, '{% if b %}' where the base has '{% if a %}'"),
        (
            "a" * 99 + "\n\x1b",
            "a" * 99 + "c" * 9999,
            f"from character 100 on, '{'a' * 10}{'c' * 30}' where the base has",
        ),
    ],
)
def test_templates_are_shown_where_they_first_differ(base: str, candidate: str, said: str) -> None:
    found = template_difference({"default": base}, {"default": candidate})
    assert found.startswith(said) and found.isprintable() and len(found) < 200
    assert template_difference({"default": base}, {"default": base}) == ""
    assert template_difference({"a": "x"}, {"a": "x", "tool": "y"}) == "the one called 'tool' is only its own"


# --- Chat templates and settings --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "found"),
    [
        (({}, None, None), {}),
        (({"chat_template": "{{ a }}\n"}, None, None), {"default": "{{ a }}"}),
        (({"chat_template": "old"}, "{{ a }}\n\n", None), {"default": "{{ a }}"}),
        (({"chat_template": [{"name": "default", "template": "x "}, {"name": "rag", "template": "y"}, 3]}, None, None), {"default": "x", "rag": "y"}),
        (({"chat_template": "  "}, None, None), {}),
        (({}, None, {"chat_template": "legacy"}), {"default": "legacy"}),
        (({"chat_template": {"odd": 1}}, None, {"chat_template": 5}), {}),
    ],
)  # fmt: skip
def test_the_chat_template_wherever_it_stands(told: tuple[Any, ...], found: dict[str, str]) -> None:
    assert chat_template_of(*told) == found


def test_special_tokens_are_compared_in_both_spellings() -> None:
    base = {"eos_token": {"content": "</s>", "lstrip": False}, "bos_token": "<s>", "add_bos_token": True}
    assert setting_differences(base, {"eos_token": "</s>", "add_bos_token": True, "pad_token": "<s>"}) == []
    assert setting_differences(base, {"eos_token": "<end>"}) == ["its eos_token ('<end>', of the base '</s>')"]
    assert setting_differences(base, {"auto_map": {"AutoTokenizer": ["x.Y", None]}}) == [
        "it needs code of its own (auto_map)"
    ]
    assert setting_differences(base, {"add_bos_token": False}) == ["its add_bos_token (False, of the base True)"]


def test_what_a_stranger_wrote_is_cut() -> None:
    (found,) = setting_differences({"eos_token": "</s>"}, {"eos_token": "x" * 10_000})
    assert len(found) < 200

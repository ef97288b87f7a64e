"""Which listed repositories are candidates, and what their listing alone says against them."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from huggingface_hub import ModelInfo
from hypothesis import given
from hypothesis import strategies as st

from kubequant.hub.candidates import (
    Candidate,
    Terms,
    bases_of,
    by_trust,
    candidates_of,
    is_named_after,
    is_repository,
    is_same_model,
    rejected,
)
from kubequant.hub.licences import Licence
from kubequant.hub.trust import TRUSTED_PUBLISHERS, Rejection, tier_of

BASE = "meta-llama/Llama-3.1-8B-Instruct"
TERMS = Terms(BASE, Licence("llama3.1"), TRUSTED_PUBLISHERS)
RELATION = [f"base_model:{BASE}", f"base_model:quantized:{BASE}"]
TUNED = "RedHatAI/Llama-3.1-8B-Instruct-Medical-FP8"
WHOLE = ("config.json", "model.safetensors", "tokenizer.json")


def listed(
    name: str = "RedHatAI/Llama-3.1-8B-Instruct-FP8", files: tuple[str, ...] | None = WHOLE, **more: Any
) -> ModelInfo:
    siblings = None if files is None else [{"rfilename": file} for file in files]
    return ModelInfo(**{"id": name, "tags": RELATION, "siblings": siblings, "sha": "a" * 40} | more)  # type: ignore[no-untyped-call]


def candidate(name: str = "RedHatAI/Llama-3.1-8B-Instruct-FP8", **more: Any) -> Candidate:
    (found,) = candidates_of(BASE, [listed(name, **more)])
    return found


def reason_of(**more: Any) -> str | None:
    found = rejected(candidate(**more), TERMS)
    return found.reason if found else None


# --- What is a candidate ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "RedHatAI/Meta-Llama-3.1-8B-Instruct-quantized.w4a16",
        "RedHatAI/Llama-3.1-8B-Instruct-FP8-block",
        "nvidia/Llama-3.1-8B-Instruct-NVFP4",
        "hugging-quants/Meta-Llama-3.1-8B-Instruct-AWQ-INT4",
        "casperhansen/llama-3.1-8b-instruct-awq",
        "some/Llama-3.1-8B-Instruct-GPTQ-Int4-128g",
        "some/Llama-3.1-8B-Instruct-4bit",
        "some/Llama-3.1-8B-Instruct-FP8-KV",
        "some/llama_3.1_8b_instruct_w8a8",
    ],
)
def test_a_name_with_words_of_quantisation_behind_is_the_base_s(name: str) -> None:
    assert is_named_after(name, BASE)


@pytest.mark.parametrize(
    "name",
    [
        "some/Llama-3.1-8B-Instruct",
        "some/Llama-3.1-8B-FP8",
        "some/Llama-3.1-70B-Instruct-FP8",
        "some/Llama-3.1-8B-Instruct-abliterated-AWQ",
        "some/Llama-3.1-8B-Instruct-v2",
        "some/Llama-3.1-8B-Instruct-v2-AWQ",
        "some/Llama-3.1-8B-Instruct-4-AWQ",
        "some/Hermes-Llama-3.1-8B-Instruct-AWQ",
        "some/AWQ",
        "meta-llama/",
    ],
)
def test_another_model_s_name_is_not(name: str) -> None:
    assert not is_named_after(name, BASE)


@pytest.mark.parametrize(
    ("named", "is_base"),
    [
        ("meta-llama/Meta-Llama-3.1-8B-Instruct", True),
        ("Meta-Llama/llama-3.1-8b-instruct", True),
        ("meta-llama/Llama-3.1-8B", False),
        ("somebody/Llama-3.1-8B-Instruct", False),
        ("meta-llama/Llama-3.3-8B-Instruct", False),
    ],
)
def test_a_card_may_call_the_base_by_an_old_name(named: str, is_base: bool) -> None:
    assert is_same_model(named, BASE) is is_base
    found = candidates_of(BASE, [listed(tags=[f"base_model:quantized:{named}"])])
    assert [one.related for one in found] == [True] * is_base


def test_a_base_model_is_not_taken_for_its_instruct_sibling() -> None:
    assert not is_named_after("Qwen/Qwen2.5-7B-Instruct-AWQ", "Qwen/Qwen2.5-7B")


@pytest.mark.parametrize(
    ("more", "is_one"),
    [
        ({}, True),
        ({"tags": []}, True),
        ({"tags": [], "name": TUNED}, False),
        ({"tags": ["base_model:finetune:" + BASE]}, True),
        ({"tags": ["base_model:finetune:" + BASE], "name": TUNED}, False),
        ({"private": True}, False),
        (
            {"tags": ["base_model:finetune:" + BASE], "name": TUNED, "config": {"quantization_config": {"bits": 4}}},
            True,
        ),
        ({"tags": [], "cardData": {"base_model": BASE, "base_model_relation": "quantized"}}, True),
        ({"tags": [], "cardData": {"base_model": [BASE]}, "config": {"quantization_config": {"bits": 4}}}, True),
        ({"tags": ["base_model:quantized:other/Model"], "config": {"quantization_config": {"bits": 4}}}, False),
        ({"tags": ["base_model:other/Model"], "config": {"quantization_config": {"bits": 4}}}, False),
    ],
)
def test_who_says_it_or_is_quantised_and_names_the_base_is_a_candidate(more: dict[str, Any], is_one: bool) -> None:
    assert bool(candidates_of(BASE, [listed(**more)])) is is_one


def test_a_name_counts_only_where_no_base_is_named() -> None:
    named = "some/Llama-3.1-8B-Instruct-AWQ"
    assert candidates_of(BASE, [listed(named, tags=[])])
    assert not candidates_of(BASE, [listed(named, tags=["base_model:quantized:some/Finetune"])])


@pytest.mark.parametrize("name", ["../etc", "a/b/c", "a/..", "a b/c", "nobody", "a/b\n", "a/" + "b" * 97, "a--b/c", ""])
def test_what_is_no_name_of_a_repository_is_left_out(name: str) -> None:
    assert not is_repository(name)
    assert not candidates_of(BASE, [listed(name)])


def test_the_base_itself_and_what_is_listed_twice() -> None:
    assert candidates_of(BASE, [listed(BASE)]) == []
    assert len(candidates_of(BASE, [listed(), listed(tags=[]), listed()])) == 1


def test_odd_answers_of_strangers_are_read_without_an_error() -> None:
    odd = listed(files=None, tags=[None, 7, *RELATION], sha="main", config=[], downloads="many", library_name={"a": 1})
    (found,) = candidates_of(BASE, [odd])
    assert (found.commit, found.files, found.downloads, found.has_code) == ("", None, 0, False)


def test_the_bases_that_a_repository_names_are_those_it_quantises_and_others() -> None:
    told = listed(tags=["base_model:quantized:a/b", "base_model:a/b"], cardData={"base_model": ["c/d", 5, "no name"]})
    assert bases_of(told) == (("c/d", "a/b"), ("a/b",))


# --- What speaks against one ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({}, None),
        ({"files": None}, None),
        ({"files": (*WHOLE, "pytorch_model.bin", "model-Q4.gguf")}, None),
        ({"disabled": True}, Rejection.DISABLED),
        ({"files": ("config.json", "pytorch_model.bin")}, Rejection.NO_SAFETENSORS),
        ({"files": ("config.json", "weights/model.safetensors")}, Rejection.NO_SAFETENSORS),
        ({"files": ("config.json", "model-Q4_K_M.gguf")}, Rejection.GGUF_ONLY),
        ({"files": ("adapter_config.json", "adapter_model.safetensors")}, Rejection.ADAPTER_ONLY),
        ({"library_name": "mlx"}, Rejection.OTHER_FORMAT),
        ({"tags": [*RELATION, "exl2"]}, Rejection.OTHER_FORMAT),
        ({"files": (*WHOLE, "modeling_llama.py")}, Rejection.NEEDS_CODE),
        ({"config": {"auto_map": {"AutoModel": "x.Y"}}}, Rejection.NEEDS_CODE),
        ({"cardData": {"license": "apache-2.0"}}, Rejection.LICENCE_WIDER),
        ({"cardData": {"license": "llama3.1"}}, None),
        ({"name": "somebody/Llama-3.1-8B-Instruct-FP8"}, Rejection.NOT_TRUSTED),
        ({"name": "RedHatAl/Llama-3.1-8B-Instruct-FP8"}, Rejection.NOT_TRUSTED),
        ({"gated": "manual"}, Rejection.ACCESS_GATED),
        ({"name": "somebody/Llama-3.1-8B-Instruct-GGUF", "files": ("a.gguf",)}, Rejection.GGUF_ONLY),
        ({"name": "somebody/Llama-3.1-8B-Instruct-FP8", "gated": "auto"}, Rejection.NOT_TRUSTED),
    ],
)
def test_the_first_thing_that_nobody_could_change_is_the_reason(more: dict[str, Any], reason: str | None) -> None:
    assert reason_of(**more) == reason


QUANTISED_CARD, TUNED_CARD = ({"base_model": BASE, "base_model_relation": said} for said in ("quantized", "finetune"))


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"name": TUNED}, Rejection.OTHER_MODEL),
        ({"name": TUNED, "cardData": {"base_model": BASE}}, Rejection.OTHER_MODEL),
        ({"name": TUNED, "cardData": QUANTISED_CARD}, None),
        ({"cardData": {"base_model": BASE}}, None),
        ({"cardData": TUNED_CARD}, Rejection.OTHER_MODEL),
        ({"cardData": TUNED_CARD, "tags": []}, Rejection.OTHER_MODEL),
        ({"cardData": {"base_model": [BASE, "a/b"], "base_model_relation": " MERGE"}}, Rejection.OTHER_MODEL),
        ({"cardData": {"base_model": BASE, "base_model_relation": ["finetune"]}}, None),
        ({"name": "somebody/Llama-FP8", "cardData": TUNED_CARD}, Rejection.OTHER_MODEL),
        ({"name": TUNED, "files": ("a.gguf",)}, Rejection.GGUF_ONLY),
    ],
)
def test_what_its_card_does_not_call_quantised_must_have_the_base_s_name(
    more: dict[str, Any], reason: str | None
) -> None:
    given = {"config": {"quantization_config": {"bits": 4}}, **more}
    assert reason_of(**given) == reason


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"name": "RedHatAl/Llama-3.1-8B-Instruct-FP8"}, "only resembles RedHatAI"),
        ({"name": "somebody/Llama-3.1-8B-Instruct-FP8"}, "not among the 7 publishers"),
        ({"cardData": {"license": "mit"}}, "'mit'"),
        ({"files": (*WHOLE, "a.py", "b.py")}, "Python files (2, first 'a.py')"),
        ({"files": ("a.gguf", "b.gguf")}, "GGUF files (2)"),
    ],
)
def test_messages_say_what_and_how_many(more: dict[str, Any], said: str) -> None:
    found = rejected(candidate(**more), TERMS)
    assert found and said in found.message


@pytest.mark.parametrize("text", ["x" * 100_000, "\x1b[31m\n" * 50])
def test_what_a_stranger_wrote_is_quoted_and_cut(text: str) -> None:
    for more in ({"cardData": {"license": "mit"}, "files": WHOLE}, {"files": (*WHOLE, text + ".py")}):
        found = rejected(candidate(**more), TERMS)
        assert found and len(found.message) < 600 and found.message.isprintable()


# --- Order ------------------------------------------------------------------------------------------------------------

many = st.lists(
    st.builds(
        lambda number, publisher, related, created, downloads: candidate(
            f"{publisher}/Llama-3.1-8B-Instruct-AWQ-{number}g",
            tags=RELATION if related else [],
            createdAt=f"2025-01-{created:02}T00:00:00.000Z",
            downloads=downloads,
        ),
        st.sampled_from(["32", "64", "128"]),
        st.sampled_from(["meta-llama", "RedHatAI", "Qwen", "somebody", "nobody"]),
        st.booleans(),
        st.integers(1, 28),
        st.integers(0, 3),
    ),
    max_size=12,
)


@given(many, st.randoms())
def test_the_order_is_the_same_whatever_the_lists_order(candidates: list[Candidate], random: Any) -> None:
    shuffled = list(candidates)
    random.shuffle(shuffled)
    assert [one.repository for one in by_trust(shuffled, TERMS)] == [
        one.repository for one in by_trust(candidates, TERMS)
    ]


@given(many)
def test_publisher_then_relation_then_age_then_downloads(candidates: list[Candidate]) -> None:
    ordered = by_trust(candidates, TERMS)
    for first, second in pairwise(ordered):
        tiers = [tier_of(one.publisher, BASE, TRUSTED_PUBLISHERS) for one in (first, second)]
        ranks = [len(TRUSTED_PUBLISHERS) + 1 if tier is None else tier for tier in tiers]
        assert ranks[0] <= ranks[1]
        if ranks[0] == ranks[1]:
            assert first.related or not second.related
            if first.related == second.related:
                assert first.created >= second.created
                assert first.created > second.created or first.downloads >= second.downloads


@given(st.lists(st.sampled_from(["a/Llama-3.1-8B-Instruct-AWQ", "b/Llama-3.1-8B-Instruct-FP8", "../x", BASE])))
def test_each_repository_is_a_candidate_once(names: list[str]) -> None:
    found = [one.repository for one in candidates_of(BASE, [listed(name, tags=[]) for name in names])]
    assert sorted(found) == sorted(set(names) - {"../x", BASE})

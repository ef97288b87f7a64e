"""A copy permits no more than its base."""

from __future__ import annotations

from typing import Any

import pytest
from huggingface_hub import ModelInfo
from hypothesis import given
from hypothesis import strategies as st

from kubequant.hub.licences import Licence, Width, licence_of

NAMES = [
    "",
    "apache-2.0",
    "mit",
    "cc0-1.0",
    "gpl-3.0",
    "cc-by-nc-4.0",
    "llama3.1",
    "gemma",
    "other",
    "deepseek",
    "unknown",
]
licences = st.one_of(st.sampled_from(NAMES), st.text(max_size=20)).map(Licence)


def info(**more: Any) -> ModelInfo:
    return ModelInfo(id="some/model", **more)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(
    "base", ["llama3.1", "llama4", "gemma", "other", "deepseek", "cc-by-nc-4.0", "a-licence-nobody-knows"]
)
@pytest.mark.parametrize("copy", ["apache-2.0", "mit", "cc0-1.0", "cc-by-4.0", "gpl-3.0", "bsd-3-clause"])
def test_an_open_licence_on_a_copy_of_a_restricted_model_is_wider(base: str, copy: str) -> None:
    assert Licence(copy).is_wider_than(Licence(base))


@pytest.mark.parametrize(
    ("copy", "base"), [("mit", "apache-2.0"), ("cc0-1.0", "mit"), ("apache-2.0", "gpl-3.0"), ("gpl-3.0", "gemma")]
)
def test_so_is_one_with_fewer_conditions(copy: str, base: str) -> None:
    assert Licence(copy).is_wider_than(Licence(base))


@pytest.mark.parametrize(
    ("copy", "base"),
    [
        ("llama3.1", "llama3.1"),
        ("gemma", "apache-2.0"),
        ("apache-2.0", "mit"),
        ("cc-by-4.0", "apache-2.0"),
        ("cc-by-nc-4.0", "mit"),
        ("other", "llama3.1"),
        ("", "llama3.1"),
        ("unknown", "gemma"),
        ("mit", ""),
    ],
)
def test_an_equal_narrower_or_unstated_licence_is_not_wider(copy: str, base: str) -> None:
    assert not Licence(copy).is_wider_than(Licence(base))


@given(licences, licences)
def test_never_are_both_wider_than_the_other(one: Licence, other: Licence) -> None:
    assert not (one.is_wider_than(other) and other.is_wider_than(one))


@given(licences, licences, licences)
def test_who_is_wider_than_a_wider_one_is_wider(first: Licence, second: Licence, third: Licence) -> None:
    if first.is_wider_than(second) and second.is_wider_than(third):
        assert first.is_wider_than(third)


@given(licences)
def test_no_licence_is_wider_than_itself(licence: Licence) -> None:
    assert not licence.is_wider_than(licence)


@pytest.mark.parametrize(
    ("told", "name"),
    [
        ({"cardData": {"license": "Apache-2.0"}}, "apache-2.0"),
        ({"cardData": {"license": "other", "license_name": "Qwen-Research"}}, "qwen-research"),
        ({"cardData": {"license": "other"}}, "other"),
        ({"cardData": {"license": ["llama3.1", "apache-2.0"]}}, "apache-2.0"),
        ({"cardData": {"license": ""}, "tags": ["license:gemma"]}, "gemma"),
        ({"tags": ["safetensors", "license:mit"]}, "mit"),
        ({"tags": [1, None]}, ""),
        ({"cardData": {"license": {"odd": 1}}}, "{'odd': 1}"),
        ({}, ""),
    ],
)
def test_the_licence_of_a_card_or_else_of_the_tags(told: dict[str, Any], name: str) -> None:
    assert licence_of(info(**told)) == Licence(name)


def test_a_stranger_s_licence_is_cut_and_taken_as_restricted() -> None:
    found = licence_of(info(cardData={"license": "x" * 10_000}))
    assert len(found.name) == 100
    assert found.width is Width.RESTRICTED

"""Whose checkpoints are believed."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from kubequant.api.conditions import Reason
from kubequant.hub.trust import TRUSTED_PUBLISHERS, Rejection, resembled, tier_of

BASE = "aurora-ai/Aurora-7B"


def test_the_base_organisation_comes_before_the_list_in_its_order() -> None:
    tiers = [tier_of(publisher, BASE, TRUSTED_PUBLISHERS) for publisher in ("aurora-ai", *TRUSTED_PUBLISHERS)]
    assert tiers == list(range(len(TRUSTED_PUBLISHERS) + 1))
    assert all(first < second for first, second in pairwise(map(int, filter(None, tiers))))


@pytest.mark.parametrize("publisher", ["redhatai", "RedHatAl", "RedHatAI-", "aurora", "Aurora-AI", ""])
def test_nobody_else_is_trusted_whatever_the_name_resembles(publisher: str) -> None:
    assert tier_of(publisher, BASE, TRUSTED_PUBLISHERS) is None


def test_a_base_organisation_on_the_list_is_the_most_trusted_for_its_own_models() -> None:
    assert tier_of("Qwen", "Qwen/Qwen2.5-7B", TRUSTED_PUBLISHERS) == 0
    assert tier_of("Qwen", BASE, TRUSTED_PUBLISHERS) == 1 + TRUSTED_PUBLISHERS.index("Qwen")


@pytest.mark.parametrize(
    ("publisher", "taken_for"),
    [("RedHatAl", "RedHatAI"), ("redhat-ai", "RedHatAI"), ("nvidla", "nvidia"), ("aur0ra-ai", "aurora-ai"), ("somebody", None)],
)  # fmt: skip
def test_a_look_alike_is_named(publisher: str, taken_for: str | None) -> None:
    assert resembled(publisher, BASE, TRUSTED_PUBLISHERS) == taken_for


def test_the_words_of_rejection_are_camel_case_and_mean_what_the_same_reason_means() -> None:
    assert all(re.fullmatch("([A-Z][a-z]+)+", word) for word in Rejection)
    shared = {word.name for word in Rejection} & {word.name for word in Reason}
    assert {"ACCESS_GATED", "GGUF_ONLY", "CORRUPT_CHECKPOINT"} <= shared
    assert all(Rejection[name].value == Reason[name].value for name in shared)

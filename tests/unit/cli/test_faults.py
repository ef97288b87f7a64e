"""What validation finds wrong is said in sentences of our own."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from kubequant.cli.faults import sentences


class Inner(BaseModel):
    level: Literal["high", "low"] = "low"


class Sample(BaseModel):
    model_config = ConfigDict(extra="forbid")
    least: Annotated[int, Field(ge=1_000)] = 1_000
    above: Annotated[float, Field(gt=0, le=9)] = 1
    text: Annotated[str, Field(max_length=3)] = ""
    many: Annotated[list[int], Field(max_length=2)] = []
    inner: Inner = Inner()
    odd: int = 1

    @field_validator("odd")
    @classmethod
    def _is_odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError("an odd number is needed")
        return value


def said(written: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        Sample.model_validate(written)
    return sentences(caught.value)


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        ({"least": 5}, "least 5: must be at least 1,000"),
        ({"least": "x"}, "least x: must be a whole number"),
        ({"least": 1e400}, "least inf: must be a finite number"),
        ({"least": None}, "least: must be a whole number"),
        ({"above": 0}, "above 0: must be above 0.0"),
        ({"above": 10}, "above 10: must be at most 9.0"),
        ({"text": "abcd"}, "text abcd: must have at most 3 characters"),
        ({"text": 3}, "text 3: must be text"),
        ({"many": [1, 2, 3]}, "many: must have at most 2 entries"),
        ({"many": {}}, "many: must be a list"),
        ({"inner": 3}, "inner 3: must be fields and their values"),
        ({"inner": {"level": "mid"}}, "inner.level mid: must be 'high' or 'low'"),
        ({"odd": 2}, "odd 2: an odd number is needed"),
        ({"nope": 1}, "nope: there is no such field"),
        ([], "must be fields and their values"),
    ],
)
def test_sentences(written: Any, sentence: str) -> None:
    assert said(written) == sentence


def test_a_long_value_is_cut_and_many_faults_are_counted() -> None:
    assert said({"text": "a" * 1000}) == f"text {'a' * 40}: must have at most 3 characters"
    assert said({f"f{number}": 1 for number in range(9)}).endswith("; and 4 more")

"""The answer of an inspector: always within what a pod can hand over, and read as the word of a stranger."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubequant.api.conditions import Reason
from kubequant.errors import Refused, Throttled, Waiting
from kubequant.planning.facts_json import packed_facts
from kubequant.planning.inspection import MESSAGE_BYTES, SHOWN_CHARACTERS, answer_text, read_answer
from kubequant.planning.values import ModelFacts, TensorClass
from tests.unit.planning.models import model

FACTS = replace(model("Llama-3.1-70B").stored_as("AWQ").facts(), checksums="a" * 64, notes=("a note",))


def test_facts_come_through_as_they_are() -> None:
    text = answer_text(FACTS)
    assert len(text.encode()) <= MESSAGE_BYTES
    assert read_answer(text) == FACTS


@pytest.mark.parametrize("problem", [Refused, Waiting, Throttled])
def test_a_problem_comes_through_with_its_reason(problem: type[Refused | Waiting]) -> None:
    reason = Reason.ACCESS_GATED if problem is Refused else Reason.HUB_THROTTLED
    answer = read_answer(answer_text(problem(reason, "what, 12, do this")))
    assert isinstance(answer, Refused if problem is Refused else Waiting)
    assert (answer.reason, answer.message) == (reason, "what, 12, do this")


def test_a_long_message_is_cut_and_not_the_json() -> None:
    text = answer_text(Refused(Reason.CONFIG_INVALID, "\N{PILE OF POO}" * 5000))
    assert len(text.encode()) <= MESSAGE_BYTES
    answer = read_answer(text)
    assert isinstance(answer, Refused) and len(answer.message) <= SHOWN_CHARACTERS


def test_facts_that_do_not_fit_are_said_to_be_too_large() -> None:
    classes = tuple(TensorClass(f"{number * 7919:x}.weight", "BF16", (number, 3), 1, 6) for number in range(1, 900))
    answer = read_answer(answer_text(replace(FACTS, tensors=classes)))
    assert isinstance(answer, Refused)
    assert answer.reason == Reason.INSPECTION_FAILED and "899 classes" in answer.message and "4,096" in answer.message


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("", "no JSON"),
        ("Killed", "no JSON"),
        ("[" * 4000, "no JSON"),
        ("[]", "no JSON object"),
        ("{}", "version 1"),
        ('{"version": 2, "facts": "x"}', "version 1"),
        ('{"version": true, "facts": "x"}', "version 1"),
        ('{"version": "1", "facts": "x"}', "version 1"),
        ('{"version": 1}', "exactly one"),
        ('{"version": 1, "facts": "x", "refused": {}}', "exactly one"),
        ('{"version": 1, "facts": 7}', "no text"),
        ('{"version": 1, "facts": "not base64!"}', ""),
        ('{"version": 1, "facts": ""}', ""),
        ('{"version": 1, "refused": "no"}', "no message"),
        ('{"version": 1, "refused": {"reason": "AccessGated", "message": 7}}', "no message"),
        ('{"version": 1, "waiting": null}', "no message"),
        ('{"version": 1, "facts": "' + "a" * 5000 + '"}', "4,096"),
    ],
)
def test_what_is_no_answer(message: str, said: str) -> None:
    with pytest.raises(ValueError) as caught:
        read_answer(message)
    assert said in str(caught.value)


@pytest.mark.parametrize("reason", ["Ready", "Resolved", "QuotaExceeded", "nonsense", "", 7, None, ["x"], {}])
@pytest.mark.parametrize("kind", ["refused", "waiting"])
def test_a_reason_that_no_inspector_has(kind: str, reason: object) -> None:
    answer = read_answer(json.dumps({"version": 1, kind: {"reason": reason, "message": "x"}}))
    assert isinstance(answer, Refused | Waiting)
    assert answer.reason == Reason.INSPECTION_FAILED


def test_texts_garble_no_terminal() -> None:
    said = "\x1b[31mred\r\n\x00\ud800 text"
    answer = read_answer(json.dumps({"version": 1, "refused": {"reason": "AccessGated", "message": said}}))
    assert isinstance(answer, Refused)
    assert answer.message == "[31mred     text" and answer.message.isprintable()


@given(st.text(max_size=400) | st.recursive(st.none() | st.integers() | st.text(max_size=8), lambda inner: st.lists(
    inner, max_size=4) | st.dictionaries(st.sampled_from(["version", "facts", "refused", "waiting", "reason", "message"]),
    inner, max_size=4), max_leaves=12).map(json.dumps))  # fmt: skip
def test_nothing_that_a_pod_writes_is_more_than_a_value_error(message: str) -> None:
    try:
        answer = read_answer(message)
    except ValueError:
        return
    assert isinstance(answer, ModelFacts | Refused | Waiting)


def _altered(facts: str, at: int, by: str) -> str:
    return facts[:at] + by + facts[at + 1 :]


@given(st.integers(0, len(packed_facts(FACTS)) - 1), st.sampled_from("ABCxyz019+/=\n"))
def test_damaged_facts_are_a_value_error_or_other_facts(at: int, by: str) -> None:
    damaged = json.dumps({"version": 1, "facts": _altered(packed_facts(FACTS), at, by)})
    try:
        answer = read_answer(damaged)
    except ValueError:
        return
    assert isinstance(answer, ModelFacts)

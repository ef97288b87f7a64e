"""JSON of strangers."""

from __future__ import annotations

import tracemalloc

import pytest

from kubequant.hub.documents import InvalidDocumentError, max_new_tokens, parse_object, quantization_config, quoted


def test_nesting_that_would_exhaust_the_stack() -> None:
    with pytest.raises(InvalidDocumentError, match="nested too deeply"):
        parse_object(b'{"a":' + b"[" * 20_000 + b"]" * 20_000 + b"}")


@pytest.mark.parametrize("raw", [b"", b"{", b"null", b"[1]", b'"x"', b"\xff{}", b'{"a": Infinity}'])
def test_what_is_no_object(raw: bytes) -> None:
    with pytest.raises(InvalidDocumentError):
        parse_object(raw)


@pytest.mark.parametrize("crowd", [b"[],", b"{},", b"[[[]]],", b'{"":{}},'])
def test_a_crowd_of_brackets_takes_no_memory(crowd: bytes) -> None:
    raw = b'{"a":[' + crowd * (5_000_000 // len(crowd)) + b"1]}"
    tracemalloc.start()
    with pytest.raises(InvalidDocumentError, match="lists and objects in"):
        parse_object(raw)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000


def test_quoted_is_short_and_on_one_line() -> None:
    assert quoted("a\nb") == r"'a\nb'"
    assert len(quoted("x" * 1000)) <= 82


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (
            {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8"}},
            {"quant_method": "modelopt", "quant_algo": "FP8"},
        ),
        ({"quantization": 7}, {"quant_method": "modelopt"}),
    ],
)
def test_the_file_of_modelopt_speaks_like_config_json(document: dict[str, object], expected: dict[str, object]) -> None:
    assert quantization_config(document) == expected


@pytest.mark.parametrize(("said", "expected"), [(512, 512), (None, None), (2**31 - 1, 2**31 - 1)])
def test_tokens_of_an_answer(said: object, expected: int | None) -> None:
    assert max_new_tokens({"max_new_tokens": said}) == expected


@pytest.mark.parametrize("said", [0, -1, True, 2.0, "512", 2**31, [1]])
def test_what_is_no_count_of_tokens(said: object) -> None:
    with pytest.raises(InvalidDocumentError, match="no count of tokens"):
        max_new_tokens({"max_new_tokens": said})

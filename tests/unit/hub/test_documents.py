"""JSON of strangers."""

from __future__ import annotations

import pytest

from kubequant.hub.documents import InvalidDocumentError, parse_object, quantization_config, quoted


def test_nesting_that_would_exhaust_the_stack() -> None:
    with pytest.raises(InvalidDocumentError, match="nested too deeply"):
        parse_object(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}")


@pytest.mark.parametrize("raw", [b"", b"{", b"null", b"[1]", b'"x"', b"\xff{}", b'{"a": Infinity}'])
def test_what_is_no_object(raw: bytes) -> None:
    with pytest.raises(InvalidDocumentError):
        parse_object(raw)


def test_quoted_is_short_and_on_one_line() -> None:
    assert quoted("a\nb") == r"'a\nb'"
    assert len(quoted("x" * 1000)) <= 82


@pytest.mark.parametrize(
    ("name", "document", "expected"),
    [
        (
            "quantize_config.json",
            {"bits": 4, "group_size": 128, "desc_act": True},
            {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": True},
        ),
        (
            "quant_config.json",
            {"w_bit": 4, "q_group_size": 64, "zero_point": True, "version": "GEMM"},
            {"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": True, "version": "GEMM"},
        ),
        ("quantize_config.json", {"quant_method": "awq", "bits": 4}, {"quant_method": "awq", "bits": 4}),
        (
            "hf_quant_config.json",
            {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8"}},
            {"quant_method": "modelopt", "quant_algo": "FP8"},
        ),
        ("hf_quant_config.json", {"quantization": 7}, {"quant_method": "modelopt"}),
    ],
)
def test_files_of_older_quantisers_speak_like_config_json(
    name: str, document: dict[str, object], expected: dict[str, object]
) -> None:
    assert quantization_config(name, document) == expected

"""JSON of strangers: config.json and its companions. Sizes are capped by the reader, shapes and depth here. No I/O."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NoReturn

MAX_QUOTED = 80  # characters of a stranger's text that a message repeats

# Where older quantisers wrote what config.json's `quantization_config` says today, and who that was.
QUANTIZATION_FILES: Mapping[str, str] = {
    "quantize_config.json": "gptq",
    "quant_config.json": "awq",
    "hf_quant_config.json": "modelopt",
}
_AWQ_NAMES = {"w_bit": "bits", "q_group_size": "group_size"}


class InvalidDocumentError(ValueError):
    """Not a JSON object. The text says where it broke."""


def parse_object(raw: bytes) -> dict[str, Any]:
    """One JSON object in UTF-8. Raises InvalidDocumentError, also for NaN and for nesting deeper than Python's stack."""
    try:
        document = json.loads(raw.decode("utf-8"), parse_constant=_refuse_constant)
    except RecursionError:
        raise InvalidDocumentError("it is nested too deeply") from None
    except ValueError as error:  # JSON, UTF-8, or an integer of thousands of digits
        raise InvalidDocumentError(f"it is no JSON: {error}"[:200]) from None
    if not isinstance(document, dict):
        raise InvalidDocumentError(f"it holds a JSON {type(document).__name__}, not an object")
    return document


def quoted(text: object) -> str:
    """A stranger's text for a message: short, on one line, and visibly quoted."""
    shown = str(text)
    return repr(shown if len(shown) <= MAX_QUOTED else shown[: MAX_QUOTED - 1] + "…")


def quantization_config(name: str, document: Mapping[str, Any]) -> dict[str, Any]:
    """What the fallback file `name` says, as config.json's `quantization_config` would have said it."""
    inner = document.get("quantization") if name == "hf_quant_config.json" else document
    fields = dict(inner) if isinstance(inner, Mapping) else {}
    renamed = {_AWQ_NAMES.get(key, key): value for key, value in fields.items()}
    return {"quant_method": QUANTIZATION_FILES[name], **renamed}


def base_of_adapter(adapter_config: Mapping[str, Any]) -> str | None:
    """The model that a PEFT adapter belongs to."""
    base = adapter_config.get("base_model_name_or_path")
    return base if isinstance(base, str) and base else None


def has_chat_template(tokenizer_config: Mapping[str, Any]) -> bool:
    """`chat_template` is one template, or a list of named ones."""
    return bool(tokenizer_config.get("chat_template"))


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON number")

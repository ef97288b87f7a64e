"""JSON of strangers: config.json and its companions. Sizes are capped by the reader, shapes and depth here. No I/O."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

MAX_NEW_TOKENS = 2**31 - 1
_SMALL_BYTES = 100_000
_BYTES_A_BRACKET = 12  # at least; headers have three in 60 bytes or more
Pairs = list[tuple[str, Any]]
MAX_QUOTED = 80  # characters of a stranger's text that a message repeats


class InvalidDocumentError(ValueError):
    """Not a JSON object. The text says where it broke."""


def parse_object(
    raw: bytes,
    of_object: Callable[[Pairs], object] | None = None,
    of_number: Callable[[str], object] | None = None,
    of_fraction: Callable[[str], object] | None = None,
) -> dict[str, Any]:
    """One JSON object in UTF-8. Raises InvalidDocumentError, also for NaN and for nesting deeper than Python's stack.

    `of_object` makes what each object in it becomes, as soon as it ends, the outermost last (which must become a dict);
    `of_number` what each whole number becomes, `of_fraction` what each with a point or an exponent.
    """
    _refuse_crowded(raw)
    try:
        text = raw.decode("utf-8")
        document = json.loads(
            text,
            parse_constant=_refuse_constant,
            parse_int=of_number,
            parse_float=of_fraction,
            object_pairs_hook=of_object,
        )
    except RecursionError:
        raise InvalidDocumentError("it is nested too deeply") from None
    except InvalidDocumentError:
        raise
    except ValueError as error:  # JSON, UTF-8, or an integer of thousands of digits
        raise InvalidDocumentError(f"it is no JSON: {error}"[:200]) from None
    if not isinstance(document, dict):
        raise InvalidDocumentError(f"it holds a JSON {type(document).__name__}, not an object")
    return document


def _refuse_crowded(raw: bytes) -> None:
    """A large document of almost nothing but brackets would take twenty times its bytes, and is none that is read here."""
    if len(raw) <= _SMALL_BYTES:
        return
    opened = raw.count(b"[") + raw.count(b"{")
    if opened * _BYTES_A_BRACKET > len(raw):
        raise InvalidDocumentError(f"it opens {opened:,} lists and objects in {len(raw):,} bytes")


def with_unique_names(pairs: Pairs) -> dict[str, Any]:
    """For `parse_object`: raises InvalidDocumentError for a name that stands twice, of which `json` keeps the last silently."""
    entries = dict(pairs)
    if len(entries) == len(pairs):
        return entries
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            break
        seen.add(name)
    raise InvalidDocumentError(f"it names {quoted(name)} twice")


def quoted(text: object) -> str:
    """A stranger's text for a message: short, on one line, and visibly quoted."""
    shown = str(text)
    return repr(shown if len(shown) <= MAX_QUOTED else shown[: MAX_QUOTED - 1] + "…")


def quantization_config(document: Mapping[str, Any]) -> dict[str, Any]:
    """What ModelOpt's hf_quant_config.json says, as config.json's `quantization_config` would have said it."""
    inner = document.get("quantization")
    return {"quant_method": "modelopt", **(inner if isinstance(inner, Mapping) else {})}


def base_of_adapter(adapter_config: Mapping[str, Any]) -> str | None:
    """The model that a PEFT adapter belongs to."""
    base = adapter_config.get("base_model_name_or_path")
    return base if isinstance(base, str) and base else None


def has_chat_template(tokenizer_config: Mapping[str, Any]) -> bool:
    """`chat_template` is one template, or a list of named ones."""
    return bool(tokenizer_config.get("chat_template"))


def max_new_tokens(generation_config: Mapping[str, Any]) -> int | None:
    """Tokens after which an answer ends; None where it says none. Raises InvalidDocumentError for what is no count."""
    limit = generation_config.get("max_new_tokens")
    if limit is None or (type(limit) is int and 0 < limit <= MAX_NEW_TOKENS):
        return limit
    raise InvalidDocumentError(f"max_new_tokens is {quoted(limit)}, which is no count of tokens")


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON number")

"""What validation found wrong, in sentences of our own: pydantic's speak of its types and point to its web site."""

from __future__ import annotations

import re
from collections.abc import Callable

from pydantic import ValidationError
from pydantic_core import ErrorDetails

SHOWN_FAULTS = 5
_SHOWN_CHARACTERS = 40

_SENTENCES = {
    "missing": "is missing",
    "extra_forbidden": "there is no such field",
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be at most {le}",
    "enum": "must be {expected}",
    "literal_error": "must be {expected}",
    "string_pattern_mismatch": "must match {pattern}",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "too_short": "must have at least {min_length} entries",
    "too_long": "must have at most {max_length} entries",
    "path_type": "must be the path of a file or a folder",
    "url_type": "must be a URL by http or https",
    "url_parsing": "must be a URL by http or https: {error}",
    "url_scheme": "must be a URL by http or https",
    "value_error": "{error}",
} | {
    kind: f"must be {what}"
    for kinds, what in (
        (("int_type", "int_parsing", "int_from_float", "int_parsing_size"), "a whole number"),
        (("float_type", "float_parsing"), "a number"),
        (("finite_number",), "a finite number"),
        (("bool_type", "bool_parsing"), "true or false"),
        (("string_type",), "text"),
        (("list_type", "tuple_type"), "a list"),
        (("dict_type", "mapping_type", "model_type", "model_attributes_type"), "fields and their values"),
    )
    for kind in kinds
}
_AGAIN = re.compile(r"(?:Asked|Tried) again (?=(?:about|after) )|It is read again from the start\.")
_WITHOUT_VALUE = frozenset({"missing", "extra_forbidden"})


def by_hand(message: str) -> str:
    """The operator's message, where nobody but the user tries again."""
    return _AGAIN.sub(lambda said: "Run it again " if said[0].endswith(" ") else "Run it again.", message)


def sentences(error: ValidationError, name: Callable[[str], str] = str) -> str:
    """`--context 5: must be at least 128`, one for each fault. `name` makes what users wrote of a field's path."""
    faults = error.errors(include_url=False)
    said = [_sentence(fault, name) for fault in faults[:SHOWN_FAULTS]]
    return "; ".join(said) + (f"; and {len(faults) - SHOWN_FAULTS} more" if len(faults) > SHOWN_FAULTS else "")


def _sentence(fault: ErrorDetails, name: Callable[[str], str]) -> str:
    where, value, context = name(".".join(map(str, fault["loc"]))), fault["input"], fault.get("ctx", {})
    known = _SENTENCES.get(fault["type"])
    what = known.format(**{key: _shown(number) for key, number in context.items()}) if known else fault["msg"]
    if fault["type"] not in _WITHOUT_VALUE and isinstance(value, str | int | float):
        where += f" {_written(value)}"
    return f"{where.strip()}: {what}" if where.strip() else what


def _written(value: str | float) -> str:
    """Quoted where one would not see what is there: blanks at an end, nothing at all."""
    text = str(value)[:_SHOWN_CHARACTERS]
    return text if text and text == text.strip() and text.isprintable() else repr(text)


def kind_of(value: object) -> str:
    """What a document holds in place of fields and their values."""
    if value is None:
        return "nothing"
    return {str: "text", list: "a list", dict: "fields and their values", bool: "true or false"}.get(
        type(value), "a number"
    )


def _shown(value: object) -> str:
    return f"{value:,}" if type(value) is int else str(value)

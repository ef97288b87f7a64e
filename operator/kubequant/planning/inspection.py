"""What an inspector says: the one JSON object that `kubequant inspect` leaves as its pod's termination message.

    {"version": 1, "facts": "<facts_json.packed_facts>"}
    {"version": 1, "refused": {"reason": "AccessGated", "message": "what, the number, what to do"}}
    {"version": 1, "waiting": {"reason": "HubThrottled", "message": "..."}}

At most 4,096 bytes of UTF-8, of which the kubelet keeps no more; a writer shortens texts, never the JSON. A reader takes
it for what it is, the word of a pod in a user's namespace: nothing of it is believed unchecked.
"""

from __future__ import annotations

import json
from typing import Any

from kubequant.api.conditions import Reason
from kubequant.errors import KubeQuantError, Refused, Waiting
from kubequant.planning.facts_json import packed_facts, unpacked_facts
from kubequant.planning.values import ModelFacts

VERSION = 1
MESSAGE_BYTES = 4096
TEXT_BYTES = 2000
SHOWN_CHARACTERS = 700  # of a text: a condition holds 1,024, and what is added to it

PASSING = frozenset({Reason.HUB_THROTTLED, Reason.HUB_UNAVAILABLE})
PERMANENT = frozenset(
    {
        Reason.REPOSITORY_NOT_FOUND,
        Reason.REPOSITORY_RENAMED,
        Reason.REVISION_NOT_FOUND,
        Reason.ACCESS_GATED,
        Reason.TOKEN_INVALID,
        Reason.CONFIG_MISSING,
        Reason.CONFIG_INVALID,
        Reason.NO_SAFETENSORS,
        Reason.GGUF_ONLY,
        Reason.ADAPTER_ONLY,
        Reason.CORRUPT_CHECKPOINT,
        Reason.UNSUPPORTED_QUANTIZATION,
        Reason.UNSUPPORTED_ARCHITECTURE,
        Reason.INSPECTION_FAILED,
    }
)

Answer = ModelFacts | Refused | Waiting


def answer_text(answer: Answer) -> str:
    """The message, at most MESSAGE_BYTES of UTF-8. Facts that do not fit become a refusal that says so."""
    if isinstance(answer, KubeQuantError):
        kind = "waiting" if isinstance(answer, Waiting) else "refused"
        return _document(kind, {"reason": str(answer.reason), "message": _cut(answer.message)})
    text = _document("facts", packed_facts(answer))
    if len(text.encode()) <= MESSAGE_BYTES:
        return text
    too_long = (
        f"the facts of {answer.repository} take {len(text.encode()):,} bytes, and a pod can hand over {MESSAGE_BYTES:,}: "
        f"{len(answer.tensors)} classes of tensors are more than any known architecture has. Please report this model."
    )
    return answer_text(Refused(Reason.INSPECTION_FAILED, too_long))


def read_answer(message: str) -> Answer:
    """What a pod wrote, checked. Raises ValueError with what is wrong with it: no answer, or none of this version.

    A reason that an inspector has no business with is InspectionFailed; texts are printable and bounded.
    """
    if len(message.encode("utf-8", "replace")) > MESSAGE_BYTES:
        raise ValueError(f"it is longer than {MESSAGE_BYTES:,} bytes")
    try:
        document = json.loads(message)
    except (ValueError, RecursionError):
        raise ValueError("it is no JSON") from None
    if not isinstance(document, dict):
        raise ValueError("it is no JSON object")
    version = document.get("version")
    if type(version) is not int or version != VERSION:
        raise ValueError(f"it is no answer of version {VERSION}")
    kinds = [kind for kind in ("facts", "refused", "waiting") if kind in document]
    if len(kinds) != 1:
        raise ValueError("it holds not exactly one of facts, refused and waiting")
    return _answer(kinds[0], document[kinds[0]])


def _answer(kind: str, value: Any) -> Answer:
    if kind == "facts":
        if not isinstance(value, str):
            raise ValueError("its facts are no text")
        return unpacked_facts(value)
    if not isinstance(value, dict) or not isinstance(value.get("message"), str):
        raise ValueError(f"its {kind} has no message")
    message = printable(value["message"])
    if kind == "refused":
        reason = _reason(value.get("reason"), PERMANENT)
        return Refused(reason, message)
    return Waiting(_reason(value.get("reason"), PASSING), message)


def _reason(word: object, known: frozenset[Reason]) -> Reason:
    return Reason(word) if isinstance(word, str) and word in known else Reason.INSPECTION_FAILED


def printable(text: str) -> str:
    """One line that garbles no condition, Event or terminal, of at most SHOWN_CHARACTERS."""
    plain = "".join(char if char.isprintable() else " " for char in text[: 2 * SHOWN_CHARACTERS])
    plain = plain.encode("utf-8", "ignore").decode().strip()
    return plain if len(plain) <= SHOWN_CHARACTERS else plain[: SHOWN_CHARACTERS - 1] + "…"


def _document(kind: str, value: Any) -> str:
    return json.dumps({"version": VERSION, kind: value}, ensure_ascii=False, separators=(",", ":"))


def _cut(text: str) -> str:
    return printable(text).encode()[:TEXT_BYTES].decode(errors="ignore")

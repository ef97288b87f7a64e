"""One candidate, read at one commit and compared with its base: facts, or why it is not taken.

    information --unsafe?--> settings --tokenizer--> chat template --headers--> quantised? --sizes--> facts with notes

The cheapest first: one that is turned down for its small files costs no request for its headers.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from kubequant.api.conditions import Reason
from kubequant.errors import Refused, Throttled, Unavailable, Waiting
from kubequant.hub.candidates import GATED, SERVE_ANYWAY, Candidate, Terms
from kubequant.hub.comparing import (
    Files,
    NotComparableError,
    chat_template_difference,
    config_differences,
    tokenizer_differences,
)
from kubequant.hub.documents import quoted
from kubequant.hub.failures import without_promise
from kubequant.hub.likeness import needs_code, sentence, shape_differences
from kubequant.hub.repository import CONFIG
from kubequant.hub.requests import Requests
from kubequant.hub.scans import Scan
from kubequant.hub.trust import Rejection
from kubequant.planning.values import ModelFacts, Rejected

MAX_MESSAGE_CHARACTERS = 600
CANDIDATE_SECONDS = 60.0
_PRIVATE = (
    "It is private: the pods of a model have no token but the model's own. Name it under spec.quantization.checkpoint, and a "
    "token that opens it in spec.model.tokenSecretRef."
)


@dataclass(frozen=True)
class Base:
    """The model that candidates are compared with."""

    facts: ModelFacts
    files: Files
    terms: Terms


class _RejectedError(Exception):
    """Ends the examination of one candidate."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


async def examined(requests: Requests, candidate: Candidate, base: Base) -> ModelFacts | Rejected | Waiting:
    """Raises Throttled: that is nothing of this candidate's."""
    try:
        async with asyncio.timeout(CANDIDATE_SECONDS):
            return await _examined(requests, candidate, base)
    except TimeoutError:
        return Unavailable(Reason.HUB_UNAVAILABLE, f"Reading it took longer than {CANDIDATE_SECONDS:g} s.")
    except _RejectedError as error:
        return _rejected(candidate, error.reason, error.message)
    except NotComparableError as error:
        return _rejected(
            candidate,
            Rejection.NOT_COMPARABLE,
            f"It cannot be compared with {base.facts.repository}: {error} {SERVE_ANYWAY}",
        )
    except Refused as refused:
        return _rejected(candidate, refused.reason, _without_name(refused.message, candidate))
    except RecursionError:
        return _rejected(
            candidate, Rejection.CONFIG_INVALID, f"Its JSON files are nested too deeply to compare. {SERVE_ANYWAY}"
        )
    except Throttled:
        raise
    except Waiting as waiting:  # its files fail, or change while they are read
        return waiting


def could_not_be_read(candidate: Candidate, waiting: Waiting) -> Rejected:
    return _rejected(
        candidate,
        Rejection.COULD_NOT_BE_READ,
        f"It could not be read when this search was made; another search asks for it again. {without_promise(waiting)}",
    )


async def _examined(requests: Requests, candidate: Candidate, base: Base) -> ModelFacts:
    listing = await requests.listing(candidate.repository, candidate.commit or "main")
    if (
        listing.private or listing.gated
    ):  # whatever the list said: the operator's token opens it, and pods do not have it
        raise _RejectedError(
            *(Rejection.ACCESS_GATED, GATED) if listing.gated else (Rejection.REPOSITORY_NOT_FOUND, _PRIVATE)
        )
    notes = list(_scan_notes(listing.scan))
    await _compare_files(base, Files(requests, listing))
    facts = await requests.describe(candidate.repository, listing.commit)
    if facts.stored is None:
        raise _RejectedError(
            Rejection.NOT_QUANTIZED,
            f"Its weights are not quantised: {facts.weight_bytes:,} bytes, those of the base {base.facts.weight_bytes:,}.",
        )
    _refuse(Rejection.SHAPE_DIFFERS, shape_differences(base.facts, facts), "It is not the base model's shape")
    return replace(facts, notes=(*facts.notes, *notes, *_licence_notes(candidate, base.terms)))


async def _compare_files(base: Base, files: Files) -> None:
    """Raises _RejectedError for the first of the files that is not the base's."""
    if needs_code(await files.document(CONFIG)):
        raise _RejectedError(
            Rejection.NEEDS_CODE,
            "It has an auto_map in config.json: code of a stranger, which is never run here. Take another checkpoint.",
        )
    settings = await config_differences(base.files, files)
    _refuse(Rejection.SHAPE_DIFFERS, settings, "Its config.json is not the base's")
    tokens = await tokenizer_differences(base.files, files)
    _refuse(Rejection.TOKENIZER_DIFFERS, tokens, "Its tokenizer is not the base's")
    template = await chat_template_difference(base.files, files)
    _refuse(Rejection.CHAT_TEMPLATE_DIFFERS, [template] if template else [], "Prompts would not be the base's")


def _refuse(reason: Rejection, differences: list[str], what: str) -> None:
    if differences:
        raise _RejectedError(reason, f"{what}: {sentence(differences)}. {SERVE_ANYWAY}")


def _rejected(candidate: Candidate, reason: str, message: str) -> Rejected:
    cut = message if len(message) <= MAX_MESSAGE_CHARACTERS else message[: MAX_MESSAGE_CHARACTERS - 1] + "…"
    return Rejected(candidate.repository, reason, cut)


def _without_name(message: str, candidate: Candidate) -> str:
    """Whoever shows a rejection shows its repository beside it."""
    named = re.match(rf"{re.escape(candidate.repository)} at [0-9a-f]+: ", message)
    rest = message[named.end() :] if named else message
    return rest[:1].upper() + rest[1:]


def _scan_notes(scan: Scan) -> Iterator[str]:
    if scan.unsafe:
        raise _RejectedError(
            Rejection.MARKED_UNSAFE,
            f"The hub's scan marks {len(scan.unsafe)} of its files as unsafe, first {quoted(scan.unsafe[0])}. Do not serve it.",
        )
    if not scan.done:
        yield "the hub has not scanned its files: nobody says that they are safe"


def _licence_notes(candidate: Candidate, terms: Terms) -> Iterator[str]:
    ours, theirs = terms.licence, candidate.licence
    if theirs.stated and ours.stated and theirs != ours:
        yield f"its card states the licence {quoted(theirs.name)}; {quoted(ours.name)} of {terms.base} holds as well"

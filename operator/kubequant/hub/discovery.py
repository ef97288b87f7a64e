"""Quantised checkpoints of a base model: what others have published, which of it is trusted, and why the rest is not.

    lists of the hub --candidates--> Candidate --without a request--> the most trusted few --examining--> Found
                                              `-> Rejected                                    `-> Rejected

The lists: who says that it quantises the base (a relation that anybody may claim, that many leave out, and that proves
nothing), and who has the base's name in its own. Where so many do that a list is full, the base's organisation and each
trusted publisher are asked for by name. Candidates are read until MAX_TAKEN of them are taken, and MAX_READ at most: the
number of requests is bounded, however many strangers there are.

Throttled ends a search, for it is the operator's own budget that is used up, and so does a failure of the lists. A
candidate whose files fail is rejected as CouldNotBeRead, and what is found is partial; where all of them fail and the
base's own files, too, it is the hub that does, and the failure is raised.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import TypeVar

from huggingface_hub import ModelInfo

from kubequant.errors import Refused, Waiting
from kubequant.hub.candidates import (
    SERVE_ANYWAY,
    Candidate,
    Terms,
    bases_of,
    by_trust,
    candidates_of,
    is_repository,
    rejected,
)
from kubequant.hub.comparing import Files, NotComparableError
from kubequant.hub.examining import Base, could_not_be_read, examined
from kubequant.hub.licences import licence_of
from kubequant.hub.memory import ExpiringCache
from kubequant.hub.repository import CONFIG, listing_of
from kubequant.hub.requests import NoListsError, Requests
from kubequant.hub.trust import Rejection, owner_of
from kubequant.planning.facts_json import facts_to_json
from kubequant.planning.values import Found, ModelFacts, Rejected

MAX_LISTED = 100  # of one list
MAX_PUBLISHERS = 16  # that are asked for by name
MAX_CANDIDATES = 100
MAX_TAKEN = 12
MAX_READ = 24
AT_ONCE = 3

Answer = TypeVar("Answer")
Verdict = ModelFacts | Rejected | Waiting
Verdicts = ExpiringCache[tuple[str, str, str, str], Verdict]
"""By `fingerprint` of the base, and repository and commit of the candidate."""

_OF_THE_MOMENT = (
    Rejection.ACCESS_GATED,
    Rejection.REPOSITORY_NOT_FOUND,
    Rejection.REPOSITORY_RENAMED,
    Rejection.TOKEN_INVALID,
    Rejection.NOT_COMPARABLE,
)


async def search(requests: Requests, base: ModelFacts, publishers: Sequence[str], known: Verdicts) -> Found:
    """The trusted checkpoints of an unquantised base at its commit. `known` verdicts are not asked for again.

    Raises Throttled and Unavailable.
    """
    if base.stored or not is_repository(base.repository):
        note = f"{base.repository} is no unquantised model of a hub: no checkpoints of it are looked for."
        return Found(notes=(note,))
    try:
        info = await requests.info(base.repository, base.commit)
    except Refused as refused:  # only the user's own token opens it
        note = f"The operator cannot see {base.repository}, so nothing can be compared with it: {refused.message}"
        return Found(notes=(note,))
    terms = Terms(base.repository, licence_of(info), tuple(publishers))
    try:
        listed, notes = await _listed(requests, terms)
    except NoListsError as error:
        note = f"The hub lists no models ({error}), so checkpoints cannot be searched for. Name one under spec.quantization.checkpoint."
        return Found(notes=(note,))
    files = Files(requests, listing_of(info, requests.page(base.repository)), of_base=True)
    candidates = by_trust(candidates_of(base.repository, listed), terms)
    return await _sifted(requests, Base(base, files, terms), candidates, known, notes)


async def base_named_by(requests: Requests, repository: str, revision: str) -> str | None:
    """The model that a repository names as its base, one that it quantises before others; None where it names none.

    Raises Refused, Throttled and Unavailable.
    """
    bases, quantised = bases_of(await requests.info(repository, revision))
    return next((base for base in (*quantised, *bases) if base != repository), None)


def fingerprint(base: ModelFacts) -> tuple[str, str]:
    """What is remembered of a base is remembered by its repository and all of its facts: a pod in a user's namespace may have
    told them, and what it lied of must reach no other model of that base."""
    return base.repository, hashlib.sha256(facts_to_json(base).encode()).hexdigest()


async def _listed(requests: Requests, terms: Terms) -> tuple[list[ModelInfo], tuple[str, ...]]:
    """What the hub lists, and what it was not asked for."""
    name = terms.base.partition("/")[2]
    ask = partial(requests.listed, MAX_LISTED)
    related, named = await _side_by_side(
        [partial(ask, filter=[f"base_model:quantized:{terms.base}"]), partial(ask, search=name)]
    )
    if max(len(related), len(named)) < MAX_LISTED:
        return [*related, *named], ()
    authors = list(dict.fromkeys((owner_of(terms.base), *terms.publishers)))
    asked = [partial(ask, author=author, search=name) for author in authors[:MAX_PUBLISHERS]]
    theirs = [info for infos in await _side_by_side(asked) for info in infos]
    more = len(authors) - MAX_PUBLISHERS
    note = f"{more} publishers after the first {MAX_PUBLISHERS} were not asked for by name, though many repositories have it."
    return [*related, *named, *theirs], (note,) if more > 0 else ()


async def _sifted(
    requests: Requests, base: Base, candidates: Sequence[Candidate], known: Verdicts, notes: tuple[str, ...]
) -> Found:
    """The verdict on each of the candidates, which come the most trusted first."""
    seen = candidates[:MAX_CANDIDATES]
    at_sight = {one: rejected(one, base.terms) for one in seen}
    verdicts = await _examined(requests, base, [one for one in seen if not at_sight[one]], known)
    read = verdicts.values()
    if read and all(isinstance(one, Waiting) for one in read):
        await _prove(requests, base)
    return Found(
        checkpoints=tuple(one for one in read if isinstance(one, ModelFacts)),
        rejected=tuple(_refusals((one, at_sight[one] or verdicts.get(one)) for one in seen)),
        notes=(*notes, *_left_out(len(candidates) - len(seen))),
        partial=any(isinstance(one, Waiting) for one in read),
    )


async def _prove(requests: Requests, base: Base) -> None:
    """Raises Throttled and Unavailable where the hub gives no file of the base either. What was read before proves nothing."""
    with suppress(NotComparableError):
        await Files(requests.anew(), base.files.listing, of_base=True).document(CONFIG)


async def _examined(
    requests: Requests, base: Base, worthy: Sequence[Candidate], known: Verdicts
) -> dict[Candidate, Verdict]:
    """The verdicts on the first of them, until enough are taken."""

    async def examine(candidate: Candidate) -> Verdict:
        key = (*fingerprint(base.facts), candidate.repository, candidate.commit)
        verdict = known.get(key) or await examined(requests, candidate, base)
        if candidate.commit and _is_lasting(verdict):
            known.put(key, verdict)
        return verdict

    verdicts: dict[Candidate, Verdict] = {}
    for start in range(0, min(len(worthy), MAX_READ), AT_ONCE):
        few = worthy[start : min(start + AT_ONCE, MAX_READ)]
        verdicts |= zip(few, await _side_by_side([partial(examine, one) for one in few]), strict=True)
        if sum(isinstance(one, ModelFacts) for one in verdicts.values()) >= MAX_TAKEN:
            break
    return verdicts


def _is_lasting(verdict: Verdict) -> bool:
    """Whether it is on what the commit holds, not on who asks or when."""
    return isinstance(verdict, ModelFacts) or (isinstance(verdict, Rejected) and verdict.reason not in _OF_THE_MOMENT)


def _refusals(verdicts: Iterable[tuple[Candidate, Verdict | None]]) -> Iterable[Rejected]:
    for candidate, verdict in verdicts:
        match verdict:
            case Rejected():
                yield verdict
            case Waiting():
                yield could_not_be_read(candidate, verdict)
            case None:
                yield Rejected(
                    candidate.repository,
                    Rejection.TOO_MANY,
                    f"It was not read: enough candidates came before it, of more trusted publishers or newer. {SERVE_ANYWAY}",
                )


def _left_out(more: int) -> tuple[str, ...]:
    return (f"{more:,} candidates more than the {MAX_CANDIDATES} most trusted were not looked at.",) if more > 0 else ()


async def _side_by_side(questions: Sequence[Callable[[], Awaitable[Answer]]]) -> list[Answer]:
    """The answers, a few questions at a time; the first failure ends the others."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def ask(question: Callable[[], Awaitable[Answer]]) -> Answer:
        async with slots:
            return await question()

    tasks = [asyncio.ensure_future(ask(question)) for question in questions]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()

"""`Hub.describe`: a repository and a revision become pinned ModelFacts.

    (repository, revision) --info--> commit + files --config, index, headers at that commit--> ModelFacts

A thousand models of one repository make one description: callers with one question share a flight, a branch stands for
its commit for a minute, and a commit's facts never change; in a folder they outlive the process. Requests block, so
they run in threads of the Hub's own, no more than its session has connections; each description has some in flight and
is given up after DEADLINE_SECONDS. What it had read by then is kept for the next attempt.
"""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from kubequant.errors import Refused, Waiting
from kubequant.hub import failures
from kubequant.hub.answers import Answers, InMemory, OnDisk
from kubequant.hub.description import describe_at, resolve
from kubequant.hub.discovery import Verdicts, base_named_by, fingerprint, search
from kubequant.hub.limits import Returns
from kubequant.hub.memory import ExpiringCache, SingleFlight
from kubequant.hub.pinned import PinnedFiles, Unfinished, known_facts, remember_facts
from kubequant.hub.repository import Listing
from kubequant.hub.requests import Progress, Requests
from kubequant.hub.session import CONNECTIONS, Clocks, Connecting, Session
from kubequant.hub.transport import Transport
from kubequant.hub.trust import TRUSTED_PUBLISHERS
from kubequant.planning.values import Found, ModelFacts

DEADLINE_SECONDS = 30.0
FOUND_SECONDS = 3600.0  # how long the candidates of a base are not looked for again
FIND_DEADLINE_SECONDS = 600.0
SEARCHES_AT_ONCE = 4
SEARCHES_KEPT = 64
PROGRESS_SECONDS = 600.0  # how long the answers of a search that was cut short are good for the next attempt
VERDICT_SECONDS = 86_400.0  # on a candidate's commit, which never changes; the hub's scan of it may
VERDICTS = 2048
ANSWER_SECONDS = 60.0  # how long a branch stands for a commit, and a refusal for itself
CACHE_BYTES = 256 * 2**20  # of the folder
MEMORY_BYTES = 4 * 2**20  # of the API's answers, without a folder
_LISTINGS = 128  # of repositories that are being described

_COMMIT = re.compile(r"[0-9a-f]{40}")
Answer = TypeVar("Answer")


class Hub:
    """One hub, read with the operator's own identity.

    `endpoint` without a trailing path, e.g. https://huggingface.co, or with the one below which a mirror serves; `token`
    is asked before every description, so that a mounted file may change, and says None where there is none;
    `cache_entries` bounds the commits whose facts are kept, `concurrency` the descriptions at once. `cache_folder` keeps
    facts and answers of the API for the next process, in `cache_bytes`. Use one instance in one event loop.
    """

    def __init__(
        self,
        *,
        endpoint: str,
        token: Callable[[], str | None] | None = None,
        cache_entries: int = 512,
        concurrency: int = 16,
        deadline_seconds: float = DEADLINE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        publishers: Sequence[str] = TRUSTED_PUBLISHERS,
        connecting: Connecting | None = None,
        clocks: Clocks | None = None,
        cache_folder: Path | None = None,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        """Raises OSError for a folder, a file of certificates or a proxy that cannot be used."""
        self._endpoint = endpoint.rstrip("/")
        self._token = token or (lambda: None)
        self._deadline_seconds = deadline_seconds
        self._clocks = clocks or replace(Clocks(), monotonic=clock)
        self._session = Session(self._endpoint, connecting or Connecting(), self._clocks)
        self._returns = Returns(self._clocks.monotonic, self._clocks.random)
        self._kept: Answers = OnDisk(cache_folder, cache_bytes) if cache_folder else InMemory(MEMORY_BYTES)
        self._threads = ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="hub")
        # Parsed JSON takes ten times its bytes: one 25 MB header at a time, or a few hostile models exhaust the memory.
        self._large = threading.Lock()
        self._slots = asyncio.Semaphore(concurrency)
        self._flights: SingleFlight[tuple[str, str], ModelFacts] = SingleFlight()
        self._resolving: SingleFlight[tuple[str, str], Listing] = SingleFlight()
        self._identity = ""
        self._facts: ExpiringCache[tuple[str, str], ModelFacts] = ExpiringCache(cache_entries, clock)
        self._answers: ExpiringCache[tuple[str, str], str | Refused] = ExpiringCache(
            4 * cache_entries, clock, ANSWER_SECONDS
        )
        self._listings: ExpiringCache[tuple[str, str], Listing] = ExpiringCache(_LISTINGS, clock, ANSWER_SECONDS)
        self._unfinished = Unfinished()
        self._publishers = tuple(publishers)
        self._searches: SingleFlight[tuple[str, str], Found] = SingleFlight()
        self._progress: ExpiringCache[tuple[str, str], Progress] = ExpiringCache(SEARCHES_KEPT, clock, PROGRESS_SECONDS)
        self._searching = asyncio.Semaphore(SEARCHES_AT_ONCE)
        self._comparing = threading.Lock()  # as `_large`: one tokenizer of 30 MB at a time
        self._verdicts: Verdicts = ExpiringCache(VERDICTS, clock, VERDICT_SECONDS)
        self._found: ExpiringCache[tuple[str, str], Found] = ExpiringCache(cache_entries, clock, FOUND_SECONDS)
        self._found_in_part: ExpiringCache[tuple[str, str], Found] = ExpiringCache(cache_entries, clock, ANSWER_SECONDS)

    async def describe(self, repository: str, revision: str = "main", *, fresh: bool = False) -> ModelFacts:
        """The facts of a repository at a branch, tag or commit.

        `fresh` asks which commit a branch stands for now, whatever was answered within the last minute.
        Raises Refused (remembered for a minute), Throttled, Unavailable, and Waiting for a repository that changes meanwhile.
        """
        if fresh:
            self._answers.discard((repository, revision))
            self._listings.discard((repository, revision))
        try:
            return self._remembered(repository, revision) or await self._flights.run(
                (repository, revision), lambda: self._describe(repository, revision)
            )
        except Refused as refused:
            raise failures.without_context(refused) from refused.__cause__
        except Waiting as waiting:
            raise self._spread(waiting) from waiting.__cause__

    async def moved(self, repository: str, revision: str, pinned_commit: str) -> str | None:
        """The commit that a branch or tag names now; None where that still is the pinned one.

        One request within ANSWER_SECONDS, for all who ask. Raises as `describe` does.
        """
        if _COMMIT.fullmatch(revision):
            return None  # whatever else the repository holds by now
        answer = self._answers.get((repository, revision))
        if isinstance(answer, Refused):
            raise answer
        transport = await self._transport()
        try:
            commit = answer or (await self._resolved(transport, self._question(transport, repository, revision))).commit
        except Waiting as waiting:
            raise self._spread(waiting) from waiting.__cause__
        return None if commit == pinned_commit else commit

    async def close(self) -> None:
        """Gives up what is in flight. A thread inside a request ends with that request's time-out."""
        await self._flights.close()
        await self._searches.close()
        await self._resolving.close()
        self._session.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _remembered(self, repository: str, revision: str) -> ModelFacts | None:
        answer = self._answers.get((repository, revision))
        if isinstance(answer, Refused):
            raise answer
        commit = revision if _COMMIT.fullmatch(revision) else answer
        return self._facts.get((repository, commit)) if commit else None

    async def _describe(self, repository: str, revision: str) -> ModelFacts:
        async with self._slots:
            transport = await self._transport()
            question = self._question(transport, repository, revision)
            try:
                async with asyncio.timeout(self._deadline_seconds):
                    return await self._ask(transport, question)
            except TimeoutError:
                if self._session.is_throttled:
                    raise failures.throttled(question, 0.0) from None
                raise failures.timed_out(question, self._deadline_seconds) from None
            except Refused as refused:
                self._answers.put((repository, revision), failures.without_context(refused))
                raise

    async def _ask(self, transport: Transport, question: failures.Question) -> ModelFacts:
        if _COMMIT.fullmatch(question.revision):
            facts = await self._known(transport, question.repository, question.revision)
            if facts:
                return facts
        listing = await self._resolved(transport, question)
        facts = await self._known(transport, question.repository, listing.commit) or await self._described(
            transport, question, listing
        )
        self._answers.put((question.repository, question.revision), listing.commit)
        self._listings.discard((question.repository, question.revision))
        return facts

    async def _resolved(self, transport: Transport, question: failures.Question) -> Listing:
        key = (question.repository, question.revision)
        listing = self._listings.get(key)
        if listing is None:
            listing = await self._resolving.run(key, lambda: resolve(self._in_thread, transport, question))
            self._listings.put(key, listing)
        return listing

    async def _known(self, transport: Transport, repository: str, commit: str) -> ModelFacts | None:
        facts = self._facts.get((repository, commit)) or await self._in_thread(
            lambda: known_facts(self._kept, transport, repository, commit)
        )
        if facts:
            self._facts.put((repository, commit), facts)
        return facts

    async def _described(self, transport: Transport, question: failures.Question, listing: Listing) -> ModelFacts:
        key = (listing.repository, listing.commit)
        source = PinnedFiles(transport, listing, self._unfinished.of(key))
        try:
            facts = await describe_at(self._in_thread, source, question, listing, self._large)
        except (Refused, Waiting) as failure:
            if isinstance(failure, Refused) or failures.is_change(failure):
                self._unfinished.discard(key)
                self._listings.discard((question.repository, question.revision))
            raise
        self._unfinished.discard(key)
        self._facts.put(key, facts)
        await self._in_thread(lambda: remember_facts(self._kept, transport, facts))
        return facts

    async def _transport(self) -> Transport:
        """For one description: as the identity that the operator has now. Raises Refused for a token that is none."""
        token = await self._in_thread(self._token)
        if token and not (token.isascii() and token.isprintable() and " " not in token):
            raise failures.no_token(self._endpoint)
        transport = Transport(self._session, token, self._kept, self._clocks.random)
        if transport.identity != self._identity:
            # What one identity may see, another may not.
            self._identity = transport.identity
            for memory in (
                self._facts,
                self._answers,
                self._listings,
                self._unfinished,
                self._found,
                self._found_in_part,
                self._verdicts,
                self._progress,
            ):
                memory.clear()
        return transport

    def _spread(self, waiting: Waiting) -> Waiting:
        """Those who share a failure must not come back in the same second."""
        return failures.at_another_time(waiting, self._returns.after(waiting.retry_after_seconds))

    def _question(self, transport: Transport, repository: str, revision: str) -> failures.Question:
        return failures.Question(self._endpoint, repository, revision, transport.authenticated)

    async def _in_thread(self, work: Callable[[], Answer]) -> Answer:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def find(self, base: ModelFacts, *, fresh: bool = False) -> Found:
        """Quantised checkpoints of an unquantised base at its commit: the trusted ones, and why the others are not.

        Remembered for an hour; for a minute where a candidate could not be read. `fresh` asks anew.
        Raises Throttled and Unavailable.
        """
        key = fingerprint(base)
        remembered = None if fresh else self._found.get(key) or self._found_in_part.get(key)
        try:
            return remembered or await self._searches.run(key, lambda: self._search(base, fresh))
        except Waiting as waiting:
            raise self._spread(waiting) from waiting.__cause__

    async def base_of(self, repository: str, revision: str = "main") -> str | None:
        """The model that a quantised repository says it was made from. Raises Refused, Throttled and Unavailable."""
        return await base_named_by(await self._requests(Progress()), repository, revision)

    async def _search(self, base: ModelFacts, fresh: bool) -> Found:
        key = fingerprint(base)
        async with self._searching:
            if fresh:
                self._verdicts.clear()
                self._progress.discard(key)
            progress = self._progress.get(key) or Progress()
            self._progress.put(key, progress)
            requests = await self._requests(progress)
            try:
                async with asyncio.timeout(FIND_DEADLINE_SECONDS):
                    outcome = await search(requests, base, self._publishers, self._verdicts)
            except TimeoutError:
                question = self._question(requests.transport, base.repository, base.commit)
                raise failures.timed_out(question, FIND_DEADLINE_SECONDS) from None
        memory = self._found_in_part if outcome.passing else self._found
        memory.put(key, outcome.found)
        self._progress.discard(key)
        return outcome.found

    async def _requests(self, progress: Progress) -> Requests:
        transport = await self._transport()
        kept = self._unfinished.of
        return Requests(transport, self._in_thread, self._resolved, self.describe, kept, self._comparing, progress)

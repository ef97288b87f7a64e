"""`Hub.describe`: a repository and a revision become pinned ModelFacts.

    (repository, revision) --info--> commit + files --config, index, headers at that commit--> ModelFacts

A thousand models of one repository make one description: callers with one question share a flight, a branch stands for
its commit for a minute, and a commit's facts never change; in a folder they outlive the process. Requests block, so
they run in threads of the Hub's own, no more than its session has connections; each description has some in flight and
is given up after DEADLINE_SECONDS. What it had read by then is kept for the next attempt.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from kubequant.errors import Refused, Waiting
from kubequant.hub import failures
from kubequant.hub.answers import Answers, InMemory, OnDisk
from kubequant.hub.description import describe_at, resolve
from kubequant.hub.discovery import base_named_by, fingerprint
from kubequant.hub.limits import UNNAMED_SECONDS, Returns
from kubequant.hub.memory import SingleFlight
from kubequant.hub.outages import Outages
from kubequant.hub.pinned import PinnedFiles, known_facts, remember_facts
from kubequant.hub.remembered import Remembered, View, is_commit
from kubequant.hub.repository import Listing
from kubequant.hub.requests import Progress, Requests
from kubequant.hub.searching import COME_BACK_SECONDS, Searches, goes_on
from kubequant.hub.session import CONNECTIONS, Clocks, Connecting, Session
from kubequant.hub.transport import NO_TOKEN, Transport
from kubequant.hub.trust import TRUSTED_PUBLISHERS
from kubequant.planning.values import Found, ModelFacts

DEADLINE_SECONDS = 30.0
FIND_PATIENCE_SECONDS = 5.0  # then who asks comes back for the answer: models that serve wait for the same workers
CACHE_BYTES = 256 * 2**20  # of the folder
MEMORY_BYTES = 4 * 2**20  # of the API's answers, without a folder

Answer = TypeVar("Answer")


class Hub:
    """One hub, read with the operator's own identity.

    `endpoint` without a trailing path, e.g. https://huggingface.co, or with the one below which a mirror serves; `token`
    is asked before every question, so that a mounted file may change, and says None where there is none: `no_token`
    then says why, for messages;
    `cache_entries` bounds the commits whose facts are kept, `concurrency` the descriptions at once. `cache_folder` keeps
    facts and answers of the API for the next process, in `cache_bytes`. Use one instance in one event loop.
    """

    def __init__(
        self,
        *,
        endpoint: str,
        token: Callable[[], str | None] | None = None,
        no_token: Callable[[], str] = lambda: NO_TOKEN,
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
        self._no_token = no_token
        self._deadline_seconds = deadline_seconds
        self._clocks = clocks or replace(Clocks(), monotonic=clock)
        self._session = Session(self._endpoint, connecting or Connecting(), self._clocks)
        self._outages = Outages(4 * cache_entries, self._clocks.monotonic, self._clocks.now)
        self._returns = Returns(self._clocks.monotonic, self._clocks.random)
        self._kept: Answers = OnDisk(cache_folder, cache_bytes) if cache_folder else InMemory(MEMORY_BYTES)
        self._threads = ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="hub")
        # One of its own: what is remembered is told at once, also while every other thread waits for a slow hub.
        self._token_reader = ThreadPoolExecutor(1, thread_name_prefix="hub-token")
        # Parsed JSON takes ten times its bytes: one 25 MB header at a time, or a few hostile models exhaust the memory.
        self._large = threading.Lock()
        self._slots = asyncio.Semaphore(concurrency)
        self._flights: SingleFlight[tuple[str, str, str], ModelFacts] = SingleFlight()
        self._resolving: SingleFlight[tuple[str, str, str], Listing] = SingleFlight()
        self._remember = partial(Remembered, entries=cache_entries, clock=clock)
        self._told = self._remember("")
        self._comparing = threading.Lock()  # as `_large`: one tokenizer of 30 MB at a time
        self._searches = Searches(publishers)

    async def describe(self, repository: str, revision: str = "main", *, fresh: bool = False) -> ModelFacts:
        """The facts of a repository at a branch, tag or commit.

        `fresh` asks which commit a branch stands for now, whatever was answered within the last minute.
        Raises Refused (remembered for a minute), Throttled, Unavailable, and Waiting for a repository that changes meanwhile.
        """
        question = (repository, revision)
        try:
            view = await self._view()
            if fresh:
                view.told.answers.discard(question)
                view.told.listings.discard(question)
            facts = await self._seen(view, repository, revision)
        except Refused as refused:
            self._outages.answered(question)
            raise failures.without_context(refused) from refused.__cause__
        except Waiting as waiting:
            raise self._spread(waiting, question) from waiting.__cause__
        self._outages.answered(question)
        return facts

    async def moved(self, repository: str, revision: str, pinned_commit: str) -> str | None:
        """The commit that a branch or tag names now; None where that still is the pinned one.

        One request within ANSWER_SECONDS, for all who ask. Raises as `describe` does.
        """
        if is_commit(revision):
            return None  # whatever else the repository holds by now
        view = await self._view()
        answer = view.told.answers.get((repository, revision))
        if isinstance(answer, Refused):
            raise failures.without_context(answer)
        try:
            commit = answer or (await self._resolved(view, self._question(view, repository, revision))).commit
        except Waiting as waiting:
            raise self._spread(waiting, (repository, revision)) from waiting.__cause__
        self._outages.answered((repository, revision))
        return None if commit == pinned_commit else commit

    async def close(self) -> None:
        """Gives up what is in flight. A thread inside a request ends with that request's time-out."""
        await self._flights.close()
        await self._searches.close()
        await self._resolving.close()
        self._session.close()
        for threads in (self._threads, self._token_reader):
            threads.shutdown(wait=False, cancel_futures=True)

    async def _seen(self, view: View, repository: str, revision: str) -> ModelFacts:
        key = (view.told.identity, repository, revision)
        return view.told.facts_at(repository, revision) or await self._flights.run(
            key, lambda: self._describe(view, repository, revision)
        )

    async def _describe(self, view: View, repository: str, revision: str) -> ModelFacts:
        async with self._slots:
            question = self._question(view, repository, revision)
            try:
                async with asyncio.timeout(self._deadline_seconds):
                    return await self._ask(view, question)
            except TimeoutError:
                if self._session.is_throttled:
                    raise failures.throttled(question, 0.0) from None
                raise failures.timed_out(question, self._deadline_seconds) from None
            except Refused as refused:
                view.told.answers.put((repository, revision), failures.without_context(refused))
                raise

    async def _ask(self, view: View, question: failures.Question) -> ModelFacts:
        if is_commit(question.revision):
            facts = await self._known(view, question.repository, question.revision)
            if facts:
                return facts
        listing = await self._resolved(view, question)
        facts = await self._known(view, question.repository, listing.commit) or await self._described(
            view, question, listing
        )
        view.told.answers.put((question.repository, question.revision), listing.commit)
        view.told.listings.discard((question.repository, question.revision))
        return facts

    async def _resolved(self, view: View, question: failures.Question) -> Listing:
        key = (question.repository, question.revision)

        async def asked() -> Listing:
            listing = await resolve(self._in_thread, view.transport, question)
            view.told.listings.put(key, listing)  # before the flight ends, or whoever comes then asks again
            return listing

        return view.told.listings.get(key) or await self._resolving.run((view.told.identity, *key), asked)

    async def _known(self, view: View, repository: str, commit: str) -> ModelFacts | None:
        facts = view.told.facts.get((repository, commit)) or await self._in_thread(
            lambda: known_facts(self._kept, view.transport, repository, commit)
        )
        if facts:
            view.told.facts.put((repository, commit), facts)
        return facts

    async def _described(self, view: View, question: failures.Question, listing: Listing) -> ModelFacts:
        key, told = (listing.repository, listing.commit), view.told
        source = PinnedFiles(view.transport, listing, told.unfinished.of(key))
        try:
            facts = await describe_at(self._in_thread, source, question, listing, self._large)
        except (Refused, Waiting) as failure:
            if isinstance(failure, Refused) or failures.is_change(failure):
                told.unfinished.discard(key)
                told.listings.discard((question.repository, question.revision))
            raise
        told.unfinished.discard(key)
        told.facts.put(key, facts)
        await self._in_thread(lambda: remember_facts(self._kept, view.transport, facts))
        return facts

    async def _view(self) -> View:
        """For one question: as the identity that the operator has now. Raises Refused for a token that is none."""
        token = await asyncio.get_running_loop().run_in_executor(self._token_reader, self._token)
        if token and not (token.isascii() and token.isprintable() and " " not in token):
            raise failures.no_token(self._endpoint)
        transport = Transport(self._session, token, self._kept, self._clocks.random, self._no_token())
        if transport.identity != self._told.identity:
            self._told = self._remember(
                transport.identity
            )  # what is under way as another writes into the other's memory
        return View(transport, self._told)

    def _spread(self, waiting: Waiting, question: Hashable) -> Waiting:
        """Those who share a failure are told the same, and must not come back in the same second."""
        seconds = UNNAMED_SECONDS if waiting.retry_after_seconds is None else waiting.retry_after_seconds
        said = failures.with_times(waiting, *self._outages.failed(question, seconds))
        return failures.at_another_time(said, self._returns.after(seconds))

    def _question(self, view: View, repository: str, revision: str) -> failures.Question:
        transport = view.transport
        return failures.Question(
            self._endpoint, repository, revision, transport.authenticated, no_token=transport.no_token
        )

    async def _in_thread(self, work: Callable[[], Answer]) -> Answer:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def find(
        self, base: ModelFacts, *, fresh: bool = False, patience_seconds: float | None = FIND_PATIENCE_SECONDS
    ) -> Found:
        """Quantised checkpoints of an unquantised base at its commit: the trusted ones, and why the others are not.

        Remembered for an hour; for a minute where a candidate could not be read. `fresh` asks anew; a search of the base
        that is under way is joined all the same.
        Raises Throttled, Unavailable, and after `patience_seconds` (None: never) Waiting, while the search goes on.
        """
        question = ("find", fingerprint(base))
        try:
            async with asyncio.timeout(patience_seconds):
                view = await self._view()
                found = await self._searches.found(view.told, partial(self._requests, view), base, fresh=fresh)
        except TimeoutError:
            raise failures.at_another_time(goes_on(base), self._returns.after(COME_BACK_SECONDS)) from None
        except Waiting as waiting:
            raise self._spread(waiting, question) from waiting.__cause__
        self._outages.answered(question)
        return found

    async def base_of(self, repository: str, revision: str = "main") -> str | None:
        """The model that a quantised repository says it was made from. Raises Refused, Throttled and Unavailable."""
        try:
            return await base_named_by(self._requests(await self._view(), Progress()), repository, revision)
        except Waiting as waiting:
            raise self._spread(waiting, (repository, revision)) from waiting.__cause__

    def _requests(self, view: View, progress: Progress) -> Requests:
        return Requests(
            view.transport,
            self._in_thread,
            lambda _, question: self._resolved(view, question),
            partial(self._seen, view),
            view.told.unfinished.of,
            self._comparing,
            progress,
        )

"""`Hub.describe`: a repository and a revision become pinned ModelFacts.

    (repository, revision) --info--> commit + files --config, index, headers at that commit--> ModelFacts

A thousand models of one repository make one description: callers with one question share a flight, a branch stands for
its commit for a minute, and a commit's facts never change. Requests block, so they run in threads of the Hub's own;
each description has a few in flight and is given up after DEADLINE_SECONDS.
"""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from kubequant.errors import Refused, Throttled
from kubequant.hub import failures
from kubequant.hub.description import REQUESTS_AT_ONCE, describe_at, resolve
from kubequant.hub.memory import ExpiringCache, SingleFlight
from kubequant.hub.transport import TIMEOUT_SECONDS, Transport
from kubequant.planning.values import ModelFacts

DEADLINE_SECONDS = 30.0
ANSWER_SECONDS = 60.0  # how long a branch stands for a commit, and a refusal for itself

_COMMIT = re.compile(r"[0-9a-f]{40}")
Answer = TypeVar("Answer")


class Hub:
    """One hub, read with the operator's own identity.

    `endpoint` without a trailing path, e.g. https://huggingface.co; `token` is asked before every description, so that a
    mounted file may change, and says None where there is none; `cache_entries` bounds the commits whose facts are kept,
    `concurrency` the descriptions at once. Use one instance in one event loop.
    """

    def __init__(
        self,
        *,
        endpoint: str,
        token: Callable[[], str | None] | None = None,
        cache_entries: int = 512,
        concurrency: int = 4,
        timeout_seconds: float = TIMEOUT_SECONDS,
        deadline_seconds: float = DEADLINE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._endpoint = endpoint.rstrip("/")
        self._token = token or (lambda: None)
        self._timeout_seconds = timeout_seconds
        self._deadline_seconds = deadline_seconds
        self._clock = clock
        self._threads = ThreadPoolExecutor(concurrency * REQUESTS_AT_ONCE, thread_name_prefix="hub")
        # Parsed JSON takes ten times its bytes: one 25 MB header at a time, or a few hostile models exhaust the memory.
        self._large = threading.Lock()
        self._slots = asyncio.Semaphore(concurrency)
        self._flights: SingleFlight[tuple[str, str], ModelFacts] = SingleFlight()
        self._facts: ExpiringCache[tuple[str, str], ModelFacts] = ExpiringCache(cache_entries, clock)
        self._answers: ExpiringCache[tuple[str, str], str | Refused] = ExpiringCache(
            4 * cache_entries, clock, ANSWER_SECONDS
        )
        self._silent_until = 0.0  # on `clock`: the hub asked for patience until then

    async def describe(
        self, repository: str, revision: str = "main", *, has_user_token: bool = False, fresh: bool = False
    ) -> ModelFacts:
        """The facts of a repository at a branch, tag or commit.

        `has_user_token` says that the model names a token for its pods: refusals then say why it did not help.
        `fresh` asks which commit a branch stands for now, whatever was answered within the last minute.
        Raises Refused (remembered for a minute), Throttled and Unavailable.
        """
        try:
            remembered = None if fresh else self._remembered(repository, revision)
            return remembered or await self._flights.run(
                (repository, revision), lambda: self._describe(repository, revision)
            )
        except Refused as refused:
            raise failures.with_user_token_hint(refused, has_user_token) from refused.__cause__

    async def close(self) -> None:
        """Gives up what is in flight. A thread inside a request ends with that request's time-out."""
        await self._flights.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _remembered(self, repository: str, revision: str) -> ModelFacts | None:
        answer = self._answers.get((repository, revision))
        if isinstance(answer, Refused):
            raise answer
        commit = revision if _COMMIT.fullmatch(revision) else answer
        return self._facts.get((repository, commit)) if commit else None

    async def _describe(self, repository: str, revision: str) -> ModelFacts:
        async with self._slots:
            token = await self._in_thread(self._token)
            transport = Transport(self._endpoint, token, self._timeout_seconds)
            question = failures.Question(self._endpoint, repository, revision, transport.authenticated)
            self._refuse_while_silent(question)
            try:
                async with asyncio.timeout(self._deadline_seconds):
                    return await self._ask(transport, question)
            except TimeoutError:
                raise failures.timed_out(question, self._deadline_seconds) from None
            except Throttled as throttled:
                self._silent_until = self._clock() + (throttled.retry_after_seconds or 0.0)
                raise
            except Refused as refused:
                self._answers.put((repository, revision), failures.without_context(refused))
                raise

    async def _ask(self, transport: Transport, question: failures.Question) -> ModelFacts:
        listing = await resolve(self._in_thread, transport, question)
        facts = self._facts.get((question.repository, listing.commit))
        if facts is None:
            facts = await describe_at(self._in_thread, transport, question, listing, self._large)
            self._facts.put((question.repository, listing.commit), facts)
        self._answers.put((question.repository, question.revision), listing.commit)
        return facts

    def _refuse_while_silent(self, question: failures.Question) -> None:
        """After a 429 the others that wait in line must not each collect one of their own."""
        remaining = self._silent_until - self._clock()
        if remaining > 0:
            raise failures.throttled(question.endpoint, remaining, question.authenticated)

    async def _in_thread(self, work: Callable[[], Answer]) -> Answer:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

"""What discovery asks a hub for, each with the house's errors: lists of models, information, small files, facts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from http import HTTPStatus
from typing import Any, TypeVar

from huggingface_hub import ModelInfo
from huggingface_hub.errors import HfHubHTTPError

from kubequant.api.conditions import Reason
from kubequant.hub.description import SMALL_BYTES, InThread
from kubequant.hub.documents import InvalidDocumentError, quoted
from kubequant.hub.failures import Question, translated
from kubequant.hub.memory import SingleFlight
from kubequant.hub.pinned import Kept, PinnedFiles
from kubequant.hub.repository import Listing
from kubequant.hub.transport import FileTooLargeError, NotAHubError, Transport
from kubequant.planning.values import ModelFacts

LISTED = [
    "author",
    "cardData",
    "config",
    "createdAt",
    "disabled",
    "downloads",
    "gated",
    "library_name",
    "private",
    "sha",
    "siblings",
    "tags",
]
_WITHOUT_LISTS = (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED)

Answer = TypeVar("Answer")
Read = TypeVar("Read")


class NoListsError(Exception):
    """The endpoint serves models and lists none, as many mirrors. The text says what it answered."""


class Progress:
    """What one search has been answered. It is kept until the search is done: one that a rate limit ended goes on there."""

    def __init__(self) -> None:
        self._answers: dict[tuple[Hashable, ...], Any] = {}
        self._flights: SingleFlight[tuple[Hashable, ...], Any] = SingleFlight()

    def forget_names(self) -> None:
        """What may have changed since: lists and what a branch stands for. Files at a commit stay what they are."""
        self._answers = {key: answer for key, answer in self._answers.items() if key[0] == "file"}

    async def once(self, key: tuple[Hashable, ...], ask: Callable[[], Awaitable[Answer]]) -> Answer:
        """The answer to a question, asked once however many want it; again after a failure."""

        async def asked() -> Answer:
            answer = self._answers[key] = await ask()
            return answer

        if key not in self._answers:
            await self._flights.run(key, asked)
        answer: Answer = self._answers[key]
        return answer


@dataclass(frozen=True)
class Requests:
    """The questions of one search, through one transport; none is asked twice.

    `resolve` and `describe` are the hub's own, shared with whoever else describes, and `kept` is what a description of a
    repository at a commit has read: what is compared first is not fetched again to describe it. Threads enter `large`
    to parse what takes much memory.
    """

    transport: Transport
    in_thread: InThread
    resolve: Callable[[Transport, Question], Awaitable[Listing]]
    describe: Callable[[str, str], Awaitable[ModelFacts]]
    kept: Callable[[tuple[str, str]], Kept]
    large: AbstractContextManager[object]
    progress: Progress

    def anew(self) -> Requests:
        """The same questions, with nothing remembered."""
        return replace(self, progress=Progress(), kept=lambda _: Kept())

    async def listed(self, limit: int, **query: str | list[str]) -> list[ModelInfo]:
        """The most downloaded models of a query. Raises NoListsError, Throttled and Unavailable."""

        def ask() -> list[ModelInfo]:
            return self.transport.list_models(limit=limit, sort="downloads", expand=LISTED, **query)

        with translated(self.question("", "")):
            try:
                return await self.progress.once(("list", str(query)), partial(self.in_thread, ask))
            except HfHubHTTPError as error:
                if error.response.status_code not in _WITHOUT_LISTS:
                    raise
                raise NoListsError(f"HTTP {error.response.status_code}") from error
            except NotAHubError as error:
                raise NoListsError(quoted(error)) from error

    async def info(self, repository: str, revision: str) -> ModelInfo:
        """Raises Refused, Throttled and Unavailable."""
        ask = partial(self.transport.model_info, repository, revision)
        with translated(self.question(repository, revision)):
            return await self.progress.once(("info", repository, revision), partial(self.in_thread, ask))

    async def listing(self, repository: str, revision: str) -> Listing:
        """Raises Refused, Throttled and Unavailable."""
        ask = partial(self.resolve, self.transport, self.question(repository, revision))
        return await self.progress.once(("listing", repository, revision), ask)

    async def file(self, listing: Listing, name: str, read: Callable[[bytes], Read], limit: int) -> Read:
        """What `read`, one of a module's functions, makes of a file of at most `limit` bytes. Raises Refused, Throttled and Unavailable."""
        size = listing.files.get(name)
        turn: AbstractContextManager[object] = nullcontext() if size is not None and size <= SMALL_BYTES else self.large

        def fetch() -> Read:
            with turn:
                files = PinnedFiles(self.transport, listing, self.kept((listing.repository, listing.commit)))
                return read(files.read_file(listing.repository, listing.commit, name, limit))

        try:
            with translated(replace(self.question(listing.repository, listing.commit), gated=listing.gated)):
                if size is not None and size > limit:
                    raise FileTooLargeError(name, limit)
                key = ("file", listing.repository, listing.commit, name, read)
                return await self.progress.once(key, partial(self.in_thread, fetch))
        except (InvalidDocumentError, FileTooLargeError) as error:
            raise listing.refused(Reason.CONFIG_INVALID, f"{quoted(name)} cannot be used: {error}.") from None

    def page(self, repository: str) -> str:
        return self.question(repository, "").page

    def question(self, repository: str, revision: str) -> Question:
        transport = self.transport
        return Question(transport.endpoint, repository, revision, transport.authenticated, no_token=transport.no_token)

"""What a hub has told one identity. Another may not see it: whose token changes begins with nothing."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from kubequant.errors import Refused, Waiting
from kubequant.hub.discovery import Verdicts
from kubequant.hub.memory import ExpiringCache
from kubequant.hub.pinned import Unfinished
from kubequant.hub.repository import Listing
from kubequant.hub.requests import Progress
from kubequant.hub.transport import Transport
from kubequant.planning.values import Found, ModelFacts

ANSWER_SECONDS = (
    60.0  # how long a branch stands for a commit, a refusal for itself, and a partial search for the candidates
)
FOUND_SECONDS = 3600.0  # how long the candidates of a base are not looked for again
PROGRESS_SECONDS = 1800.0  # how long the answers of a search that was cut short are good for the next attempt
VERDICT_SECONDS = 86_400.0  # on a candidate's commit, which never changes; the hub's scan of it may
VERDICTS = 2048
SEARCHES_KEPT = 64
_LISTINGS = 128  # of repositories that are being described

_COMMIT = re.compile(r"[0-9a-f]{40}")
_Named = tuple[str, str]  # a repository and a revision or commit; of a search, the base's fingerprint


class Remembered:
    """For the event loop alone, `unfinished` excepted. `clock` in seconds, `entries` bounds the commits whose facts are kept."""

    def __init__(self, identity: str, entries: int, clock: Callable[[], float]) -> None:
        self.identity = identity
        self.facts: ExpiringCache[_Named, ModelFacts] = ExpiringCache(entries, clock)
        self.answers: ExpiringCache[_Named, str | Refused] = ExpiringCache(4 * entries, clock, ANSWER_SECONDS)
        self.listings: ExpiringCache[_Named, Listing] = ExpiringCache(_LISTINGS, clock, ANSWER_SECONDS)
        self.unfinished = Unfinished()
        self.found: ExpiringCache[_Named, Found] = ExpiringCache(entries, clock, FOUND_SECONDS)
        self.found_in_part: ExpiringCache[_Named, Found] = ExpiringCache(entries, clock, ANSWER_SECONDS)
        self.failed: ExpiringCache[_Named, Waiting] = ExpiringCache(SEARCHES_KEPT, clock, ANSWER_SECONDS)
        self.verdicts: Verdicts = ExpiringCache(VERDICTS, clock, VERDICT_SECONDS)
        self.progress: ExpiringCache[_Named, Progress] = ExpiringCache(SEARCHES_KEPT, clock, PROGRESS_SECONDS)

    def facts_at(self, repository: str, revision: str) -> ModelFacts | None:
        """Raises Refused where that was the answer a moment ago."""
        answer = self.answers.get((repository, revision))
        if isinstance(answer, Refused):
            raise answer
        commit = revision if is_commit(revision) else answer
        return self.facts.get((repository, commit)) if commit else None


@dataclass(frozen=True)
class View:
    """The hub as one identity sees it: how it is asked, and what it has said."""

    transport: Transport
    told: Remembered


def is_commit(revision: str) -> bool:
    return bool(_COMMIT.fullmatch(revision))

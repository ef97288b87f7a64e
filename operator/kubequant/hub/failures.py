"""What the transport raises, in the house's errors and the user's words: what is wrong, the number, what to do.

Order matters: GatedRepoError is a RepositoryNotFoundError, and all of them are HfHubHTTPErrors, which are HTTPErrors.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus

import httpx2
from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from kubequant.api.conditions import Reason
from kubequant.errors import KubeQuantError, Refused, Throttled, Unavailable, Waiting
from kubequant.hub.breaker import OpenError
from kubequant.hub.documents import quoted
from kubequant.hub.limits import ThrottledError
from kubequant.hub.session import RedirectError, cause_of
from kubequant.hub.transport import NO_TOKEN, ChangedError, NotAHubError, RangeIgnoredError

CHANGED_RETRY_SECONDS = 15.0
_HUB_HEADERS = ("x-error-code", "x-error-message", "x-request-id", "x-repo-commit")
_PROMISE = re.compile(r" (Asked|It is read) again[^.]*\.")
_COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
_TRANSPORT_ERRORS = (
    ThrottledError,
    OpenError,
    RedirectError,
    ChangedError,
    OfflineModeIsEnabled,
    httpx2.HTTPError,
    httpx2.InvalidURL,
    HFValidationError,
    RangeIgnoredError,
    NotAHubError,
)


@dataclass(frozen=True)
class Question:
    """Who asks which hub for what: the words that messages need."""

    endpoint: str
    repository: str
    revision: str
    authenticated: bool  # the operator has a token of its own
    gated: bool = False  # as the repository's own information says
    no_token: str = NO_TOKEN  # why it is asked without

    @property
    def page(self) -> str:
        return f"{self.endpoint}/{self.repository}"

    @property
    def why_no_token(self) -> str:
        """In brackets, where there is more to say than that there is none."""
        return "" if self.no_token == NO_TOKEN else f" ({self.no_token})"


@contextmanager
def translated(question: Question) -> Iterator[None]:
    """Raises the house's error in place of what the transport raised."""
    try:
        yield
    except KubeQuantError:
        raise
    except _TRANSPORT_ERRORS as error:
        raise failure_of(error, question) from error


def failure_of(error: Exception, question: Question) -> KubeQuantError:
    """The house's error for what the transport raised."""
    match error:
        case ThrottledError():
            return throttled(question, error.retry_after_seconds)
        case OpenError():
            return _unavailable(question, str(error), error.retry_after_seconds)
        case ChangedError():
            return _changed(question, str(error))
        case RedirectError():
            return _unavailable(question, f"{error}.")
        case GatedRepoError():
            return _gated(question)
        case RepositoryNotFoundError():
            return _not_found_or_gated(question, error.response)
        case RevisionNotFoundError():
            return _revision_not_found(question)
        case DisabledRepoError():
            return _disabled(question)
        case RemoteEntryNotFoundError():
            return _entry_missing(error, question)
        case HfHubHTTPError():
            return _by_status(error, question)
        case HFValidationError():
            return _bad_name(question)
        case OfflineModeIsEnabled():
            return _unavailable(question, "HF_HUB_OFFLINE is set in the operator's environment. Remove it.")
        case NotAHubError():
            return not_a_hub(question, str(error))
        case RangeIgnoredError():
            return _unavailable(
                question,
                f"it does not serve parts of files ({error} for a ranged request). Headers cannot be read "
                "without fetching all weights; let the operator's endpoint, or the proxy before it, support Range.",
            )
    return _unavailable(question, f"{cause_of(error)}.")


def without_context(refused: Refused) -> Refused:
    """A copy to remember: without the traceback, which holds on to responses and grows each time it is raised."""
    return Refused(refused.reason, refused.message)


def is_change(waiting: Waiting) -> bool:
    """What was read so far is of no use."""
    return waiting.reason == Reason.REPOSITORY_CHANGED


def without_promise(waiting: Waiting) -> str:
    """Its message, to be kept: nobody may be asking again by the time it is read."""
    return _PROMISE.sub("", waiting.message)


def with_times(waiting: Waiting, since: datetime, again: datetime) -> Waiting:
    """A copy that says since when and when again, unless it does or names a pause of its own: the times stay the same
    until `again`, or each look would write status anew and wake its own watch."""
    if isinstance(waiting.__cause__, OpenError) or not isinstance(waiting, Throttled | Unavailable):
        return waiting
    said = f"{waiting.message} Failing since {_utc(since)}. Asked again about {_utc(again)}."
    return type(waiting)(waiting.reason, said, waiting.retry_after_seconds)


def at_another_time(waiting: Waiting, retry_after_seconds: float) -> Waiting:
    """A copy to raise."""
    return type(waiting)(waiting.reason, waiting.message, retry_after_seconds)


def renamed(question: Question, now: str) -> Refused:
    """The hub followed an old name. Served under the new one, spec would say what is not so, and an old name can be
    taken by somebody else tomorrow: so the user decides."""
    return Refused(
        Reason.REPOSITORY_RENAMED,
        f"{question.repository} is called {quoted(now)} on the hub now. Set spec.model.repository to that name, "
        f"after a look at {question.endpoint}/{now[:200]}.",
    )


def no_token(endpoint: str) -> Refused:
    return Refused(
        Reason.TOKEN_INVALID,
        f"The operator's token for the hub at {endpoint} is none: it holds blanks, lines or characters that no token has. "
        "Put the token alone into the operator's Secret, or remove it to read public models without one.",
    )


def not_a_hub(question: Question, cause: str) -> Unavailable:
    return _unavailable(
        question, f"{cause}. Point the operator at an endpoint that speaks the Hugging Face Hub's protocol."
    )


def timed_out(question: Question, seconds: float) -> Unavailable:
    return _unavailable(question, f"describing {question.repository} took longer than {seconds:g} s.")


def throttled(question: Question, retry_after_seconds: float) -> Throttled:
    advice = "" if question.authenticated else f" A token for the operator raises the limit{question.why_no_token}."
    return Throttled(
        Reason.HUB_THROTTLED,
        f"The hub at {question.endpoint} takes no more requests from the operator for now (HTTP 429).{advice}",
        retry_after_seconds,
    )


def _by_status(error: HfHubHTTPError, question: Question) -> KubeQuantError:
    status = error.response.status_code
    said = quoted(error.server_message or error.response.reason_phrase)
    if status == HTTPStatus.UNAUTHORIZED:
        if "Invalid credentials" in str(error):
            return _token_invalid(question, said)
        return _not_found_or_gated(question, error.response)
    if status == HTTPStatus.FORBIDDEN:
        return _forbidden(question, said, error.response)
    if status == HTTPStatus.NOT_FOUND:
        return _not_found_or_gated(question, error.response)
    return _unavailable(question, f"HTTP {status} {said}.")


def _gated(question: Question) -> Refused:
    who = "the account of the operator's token" if question.authenticated else "an account"
    then = "" if question.authenticated else f" and give the operator a token of that account{question.why_no_token}"
    return Refused(
        Reason.ACCESS_GATED,
        f"{question.repository} is gated: the hub gives its files only to accounts that accepted its terms. "
        f"Accept them at {question.page} with {who}{then}.",
    )


def foreign(response: httpx2.Response, endpoint: str) -> str:
    """A sentence for an answer that nothing marks as a hub's; a mirror that sends no codes answers so, too."""
    if any(name in response.headers for name in _HUB_HEADERS):
        return ""
    return (
        f" Or nothing at {endpoint} is a hub: its answer (HTTP {response.status_code}) has none of the Hub's headers. Then "
        "correct hub.endpoint, or ask who runs the proxy or the firewall before it."
    )


def _not_found_or_gated(question: Question, response: httpx2.Response) -> Refused:
    if question.gated:  # its information is public, its files are not
        return _gated(question)
    who = "the operator's token does not open it" if question.authenticated else question.no_token
    return Refused(
        Reason.REPOSITORY_NOT_FOUND,
        f"{question.repository} is not at {question.page}: it does not exist, or it is private and {who} "
        "(the hub tells no difference). Check spec.model.repository, or give the operator a token that may read it."
        f"{foreign(response, question.endpoint)}",
    )


def _bad_name(question: Question) -> Refused:
    return Refused(
        Reason.REPOSITORY_NOT_FOUND,
        f"{quoted(question.repository)} is no name of a repository. Write it as owner/name, as in the hub's address bar.",
    )


def _revision_not_found(question: Question) -> Refused:
    if _COMMIT.fullmatch(question.revision):
        return Refused(
            Reason.REVISION_NOT_FOUND,
            f"{question.repository} has no commit {question.revision} (any more): it never was there, or the repository's history "
            f"has been rewritten. Set spec.model.revision to a commit, tag or branch of {question.page}/commits/main.",
        )
    return Refused(
        Reason.REVISION_NOT_FOUND,
        f"{question.repository} has no branch or tag {quoted(question.revision)}. "
        f"See {question.page}/tree/main and correct spec.model.revision.",
    )


def _changed(question: Question, how: str) -> Waiting:
    return Waiting(
        Reason.REPOSITORY_CHANGED,
        f"{question.repository} changed while it was read: {how}. It is read again from the start.",
        CHANGED_RETRY_SECONDS,
    )


def _disabled(question: Question) -> Refused:
    return Refused(
        Reason.REPOSITORY_NOT_FOUND,
        f"{question.repository} has been disabled on the hub (HTTP 403). See {question.page} and name another repository.",
    )


def _entry_missing(error: RemoteEntryNotFoundError, question: Question) -> Refused:
    name = error.response.request.url.path.rpartition("/")[2]
    return Refused(
        Reason.CORRUPT_CHECKPOINT,
        f"{question.repository}: {quoted(name)} is in the list of files, but the hub does not have it (HTTP 404). "
        f"Name another revision, or ask its owner to upload it again ({question.page}).",
    )


def _token_invalid(question: Question, said: str) -> Refused:
    return Refused(
        Reason.TOKEN_INVALID,
        f"The hub at {question.endpoint} does not accept the operator's token (HTTP 401 {said}): it has expired or been "
        "revoked. Put a valid one into the operator's Secret, or remove it to read public models without one.",
    )


def _forbidden(question: Question, said: str, response: httpx2.Response) -> Refused:
    return Refused(
        Reason.ACCESS_GATED,
        f"The hub refuses {question.repository} to the operator (HTTP 403 {said}). Accept its terms at {question.page}, "
        f"and let the operator's token read gated repositories.{foreign(response, question.endpoint)}",
    )


def _utc(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M} UTC"


def _unavailable(question: Question, cause: str, retry_after_seconds: float | None = None) -> Unavailable:
    return Unavailable(
        Reason.HUB_UNAVAILABLE, f"The hub at {question.endpoint} cannot be used: {cause}", retry_after_seconds
    )

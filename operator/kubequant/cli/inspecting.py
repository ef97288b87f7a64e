"""`kubequant inspect`: a repository or a folder becomes the answer of an inspector Job (planning.inspection)."""

from __future__ import annotations

import asyncio
import logging
import os
from dataclasses import dataclass
from pathlib import Path

import click

from kubequant.api.conditions import Reason
from kubequant.cli.output import answering
from kubequant.errors import KubeQuantError, Refused, Waiting
from kubequant.hub.client import Hub
from kubequant.hub.local import describe_volume
from kubequant.hub.session import Connecting
from kubequant.planning.facts_json import facts_to_json
from kubequant.planning.inspection import Answer, answer_text
from kubequant.planning.values import ModelFacts

log = logging.getLogger(__name__)

DESCRIBED, LATER, REFUSED = 0, 1, 3
DEADLINE_SECONDS = 300.0  # nobody else waits for this process: longer than the operator gives one of many models
TOKEN_VARIABLE = "HF_TOKEN"  # noqa: S105 - its name


@dataclass(frozen=True)
class HubOptions:
    """Where the Hub is, and how it is reached."""

    endpoint: str
    redirect_hosts: tuple[str, ...]
    ca_file: Path | None


@dataclass(frozen=True)
class InspectOptions:
    """Exactly one of `repository` and `folder` is given. `within` is what no link of the folder may lead out of."""

    repository: str | None
    revision: str
    hub: HubOptions
    folder: Path | None
    within: Path | None
    termination_log: Path | None


def run_inspect(options: InspectOptions) -> int:
    """Prints the facts, or why there are none; writes the answer into the termination log where there is one."""
    answer = _answer(options)
    if options.termination_log is not None:
        _leave(options.termination_log, answer_text(answer))
    if isinstance(answer, ModelFacts):
        with answering():
            click.echo(facts_to_json(answer))
        return DESCRIBED
    click.echo(f"{answer.reason}: {answer.message}", err=True)
    return LATER if isinstance(answer, Waiting) else REFUSED


def _answer(options: InspectOptions) -> Answer:
    try:
        return _described(options)
    except (Refused, Waiting) as problem:
        return problem
    except KubeQuantError as problem:
        return Refused(problem.reason, problem.message)
    except OSError as error:
        return _unreadable(error)
    except Exception as error:
        log.exception("the inspector failed")
        cause = f"{type(error).__name__}: {error}"[:200]
        return Refused(Reason.INSPECTION_FAILED, f"a fault of KubeQuant, please report it with the model: {cause}")


def _described(options: InspectOptions) -> ModelFacts:
    if options.folder is not None:
        return describe_volume(options.folder, options.within or options.folder)
    assert options.repository is not None, "the command line takes exactly one of the two"
    return asyncio.run(_of_repository(options.repository, options.revision, options.hub))


async def _of_repository(repository: str, revision: str, options: HubOptions) -> ModelFacts:
    token = (os.environ.get(TOKEN_VARIABLE) or "").strip()
    hub = Hub(
        endpoint=options.endpoint,
        token=lambda: token or None,
        deadline_seconds=DEADLINE_SECONDS,
        concurrency=1,
        connecting=Connecting(ca_file=options.ca_file, redirect_hosts=options.redirect_hosts),
    )
    try:
        return await hub.describe(repository, revision)
    except Refused as refused:
        raise _of_this_token(refused, repository, options.endpoint, has_token=bool(token)) from refused
    finally:
        await hub.close()


def _of_this_token(refused: Refused, repository: str, endpoint: str, *, has_token: bool) -> Refused:
    """The Hub's refusals speak of the operator's token; it is the model's that was sent from here."""
    page = f"{endpoint.rstrip('/')}/{repository}"
    match refused.reason:
        case Reason.ACCESS_GATED:
            message = (
                f"{repository} is gated: the hub gives its files only to accounts that accepted its terms. Accept them "
                f"at {page} with the account of the token that the model names, and let that token read gated repositories."
            )
        case Reason.TOKEN_INVALID:
            message = (
                f"the hub at {endpoint} does not accept the token that the model names (HTTP 401): it has expired, was "
                "revoked, or the Secret's key holds something else. Put a valid one into the Secret."
            )
        case Reason.REPOSITORY_NOT_FOUND:
            message = (
                f"{repository} is not at {page}: it does not exist, or it is private and the token that the model names "
                "does not open it (the hub tells no difference). Check spec.model.repository and the token's account."
            )
            if not has_token:
                message = f"{refused.message} The Secret's key that the model names holds no token: it is empty."
        case _:
            return refused
    return Refused(refused.reason, message)


def _unreadable(error: OSError) -> Refused:
    where = f"{error.filename}: " if error.filename else ""
    if isinstance(error, PermissionError):
        message = (
            f"{where}the user {os.getuid()} of group {os.getgid()}, which pods run as, may not read it. Let everybody "
            "read the model's files: chmod -R a+rX on its folder."
        )
    else:
        message = f"{where}cannot be read: {error.strerror or error}."
    return Refused(Reason.INSPECTION_FAILED, message)


def _leave(file: Path, text: str) -> None:
    """The termination log is a bind mount: written in place. By hand there is none, and the answer is on the standard output."""
    try:
        with file.open("r+", encoding="utf-8") as opened:
            opened.write(text)
            opened.truncate()
    except FileNotFoundError:
        return
    except OSError as error:
        raise click.ClickException(f"cannot write the answer into {file}: {error.strerror or error}") from error

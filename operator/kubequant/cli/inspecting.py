"""`kubequant inspect`: a repository or a folder becomes the answer of an inspector Job (planning.inspection)."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path

import click
from huggingface_hub.errors import HfHubHTTPError
from pydantic import HttpUrl, TypeAdapter, ValidationError

from kubequant.api.conditions import Reason
from kubequant.cli.asking import repository_name
from kubequant.cli.faults import by_hand
from kubequant.cli.options import Misuse
from kubequant.cli.output import answering
from kubequant.errors import KubeQuantError, Refused, Waiting
from kubequant.hub.client import Hub
from kubequant.hub.failures import foreign
from kubequant.hub.local import describe_volume
from kubequant.hub.session import Connecting
from kubequant.planning.facts_json import facts_to_json
from kubequant.planning.inspection import Answer, answer_text
from kubequant.planning.values import ModelFacts

log = logging.getLogger(__name__)

DESCRIBED, LATER, REFUSED = 0, 1, 3
DEADLINE_SECONDS = 300.0  # nobody else waits for this process: longer than the operator gives one of many models
TOKEN_VARIABLE = "HF_TOKEN"  # noqa: S105 - its name
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,254}")  # as the API has it
_HOST = re.compile(r"([*][.])?[A-Za-z0-9]([A-Za-z0-9.:-]{0,251}[A-Za-z0-9])?")  # as hub.redirectHosts
_endpoint: TypeAdapter[HttpUrl] = TypeAdapter(HttpUrl)


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


def check(options: InspectOptions) -> None:
    """Raises Misuse for what no hub is asked for."""
    if options.repository is not None:
        repository_name(options.repository)
    if not _REVISION.fullmatch(options.revision) or ".." in options.revision:
        raise Misuse(f"--revision {options.revision[:80]!r}: a branch, a tag or a commit, as in main")
    try:
        _endpoint.validate_python(options.hub.endpoint)
    except ValidationError:
        raise Misuse(
            f"--endpoint {options.hub.endpoint[:80]!r}: the URL of a hub by http or https, as in https://huggingface.co"
        ) from None
    for host in options.hub.redirect_hosts:
        if not _HOST.fullmatch(host):
            raise Misuse(
                f"--redirect-host {host[:80]!r}: a host without scheme, port and path, as in cdn.example.com; *. before it "
                "stands for all below it"
            )


def run_inspect(options: InspectOptions) -> int:
    """Prints the facts, or why there are none; writes the answer into the termination log where there is one."""
    answer = _answer(options)
    if options.termination_log is not None:
        _leave(options.termination_log, answer_text(answer))
    if isinstance(answer, ModelFacts):
        with answering():
            click.echo(facts_to_json(answer))
        return DESCRIBED
    click.echo(f"{answer.reason}: {by_hand(answer.message)}", err=True)
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
    written = os.environ.get(TOKEN_VARIABLE)
    token = (written or "").strip()
    no_token = (
        "HF_TOKEN is not set" if written is None else "the key of the Secret that the model names is empty (HF_TOKEN)"
    )
    hub = Hub(
        endpoint=options.endpoint,
        token=lambda: token or None,
        no_token=lambda: no_token,
        deadline_seconds=DEADLINE_SECONDS,
        concurrency=1,
        connecting=Connecting(ca_file=options.ca_file, redirect_hosts=options.redirect_hosts),
    )
    try:
        return await hub.describe(repository, revision)
    except Refused as refused:
        raise _of_this_token(refused, repository, options.endpoint, "" if token else no_token) from refused
    finally:
        await hub.close()


def _of_this_token(refused: Refused, repository: str, endpoint: str, no_token: str) -> Refused:
    """The Hub's refusals speak of the operator's token; it is the model's that was sent from here, or `no_token` says why none."""
    page = f"{endpoint.rstrip('/')}/{repository}"
    answered = refused.__cause__
    doubt = foreign(answered.response, endpoint) if isinstance(answered, HfHubHTTPError) else ""
    match refused.reason:
        case Reason.ACCESS_GATED:
            how = (
                f"with an account, and put a token of it that reads gated repositories into the Secret: {no_token}."
                if no_token
                else "with the account of the token that the model names, and let that token read gated repositories."
            )
            message = (
                f"{repository} is gated: the hub gives its files only to accounts that accepted its terms. Accept them "
                f"at {page} {how}"
            )
        case Reason.TOKEN_INVALID:
            message = (
                f"the hub at {endpoint} does not accept the token that the model names (HTTP 401): it has expired, was "
                "revoked, or the Secret's key holds something else. Put a valid one into the Secret."
            )
        case Reason.REPOSITORY_NOT_FOUND:
            message = (
                f"{repository} is not at {page}: it does not exist, or it is private and "
                f"{no_token or 'the token that the model names does not open it'} (the hub tells no difference). Check "
                "spec.model.repository and the token's account."
            )
        case _:
            return refused
    return Refused(refused.reason, message + doubt)


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

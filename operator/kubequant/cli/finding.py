"""`kubequant find`: the published checkpoints of a model, which of them are trusted, and why the others are not.

REPOSITORY -> the base model it is, or names -> Found, by the operator's own discovery
           -> with GPUs: what would be planned of them -> text, JSON or YAML
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import replace

import click
from pydantic import ValidationError

from kubequant.api.conditions import Reason
from kubequant.cli import documents, drawing
from kubequant.cli.asking import repository_name
from kubequant.cli.fleet import fleet_to_plan_on
from kubequant.cli.found import Answer, answer_document, draw_answer
from kubequant.cli.options import FindOptions, Misuse
from kubequant.cli.output import answering
from kubequant.errors import Refused as RefusedModel
from kubequant.hub.client import Hub
from kubequant.planning.plan import plan
from kubequant.planning.values import Intent, ModelFacts, Plan, Refused
from kubequant.reconcile.discovery_status import judged, what_it_is
from kubequant.reconcile.inputs import DEFAULT_REVISION
from kubequant.runtime.configured import engine_settings, hub_client
from kubequant.runtime.profile import engine_profile
from kubequant.runtime.sections import DiscoverySection
from kubequant.runtime.settings import Settings

FOUND, NONE_TRUSTED = 0, 3

_STILL_NAMES_A_BASE = (
    Reason.UNSUPPORTED_QUANTIZATION,
    Reason.UNSUPPORTED_ARCHITECTURE,
    Reason.GGUF_ONLY,
    Reason.ADAPTER_ONLY,
    Reason.NO_SAFETENSORS,
)
"""What cannot be served can still say of which model it was made."""
_SWITCHED_OFF = "discovery.enabled is false in this configuration: the operator looks for no checkpoint by itself"


def run_find(options: FindOptions, settings: Settings) -> int:
    """Prints the answer and gives the exit code. Raises Misuse, kubequant.errors.Waiting and OSError."""
    try:
        answer = answered(options, settings)
    except RefusedModel as refused:
        return _print_refusal(refused, options.output)
    with answering():
        if options.output == "text":
            draw_answer(drawing.console(), answer, everything=options.everything)
        else:
            _echo(answer_document(answer, engine_settings(settings)), options.output)
    return FOUND if answer.is_found else NONE_TRUSTED


def answered(options: FindOptions, settings: Settings) -> Answer:
    """What is found and, with GPUs, planned. Raises as `run_find`, and kubequant.errors.Refused."""
    repository = repository_name(options.repository)
    fleet = None if options.fleet.of_cluster else fleet_to_plan_on(options.fleet, settings)
    trusting = _trusting(settings, options.publishers)
    answer = asyncio.run(_asked(repository, options.revision or DEFAULT_REVISION, trusting))
    outcome: Plan | Refused | None = None
    if fleet is not None:
        intent = Intent(repository=answer.base.repository, prefer_existing=True)
        profile = engine_profile(engine_settings(settings))
        outcome = plan(intent, answer.base, fleet, profile, found=answer.found.checkpoints)
    return replace(answer, outcome=outcome, candidates=judged(answer.found, outcome))


def _trusting(settings: Settings, publishers: Sequence[str]) -> Settings:
    """The settings with further publishers, which come after those that are trusted anyway."""
    discovery = settings.discovery.model_dump()
    discovery["additional_publishers"] += publishers
    try:
        return settings.model_copy(update={"discovery": DiscoverySection.model_validate(discovery)})
    except ValidationError as error:
        names = " ".join(publishers)[:200]
        raise Misuse(
            f"--publisher {names}: the name of an organisation or a user of the Hub, as in RedHatAI"
        ) from error


async def _asked(repository: str, revision: str, settings: Settings) -> Answer:
    hub = hub_client(settings)
    try:
        base, asked_is = await _base(hub, repository, revision)
        found = await hub.find(base, patience_seconds=None)
    finally:
        await hub.close()
    if not settings.discovery.enabled:
        found = replace(found, notes=(*found.notes, _SWITCHED_OFF))
    return Answer(base, found, (), repository if asked_is else "", asked_is)


async def _base(hub: Hub, repository: str, revision: str) -> tuple[ModelFacts, str]:
    """The model whose checkpoints are looked for, and what the repository named is where that is another."""
    try:
        facts = await hub.describe(repository, revision)
    except RefusedModel as refused:
        name = await hub.base_of(repository, revision) if refused.reason in _STILL_NAMES_A_BASE else None
        if name is None:
            raise
        said = re.sub(f"^{re.escape(repository)} (at [0-9a-f]+): ", r"\1 ", refused.message)
        return await _named_base(hub, repository, name), f"cannot be served ({refused.reason}): {said}"
    if facts.stored is None:
        return facts, ""
    name = await hub.base_of(repository, revision)
    if name is None:
        raise RefusedModel(
            Reason.NO_CHECKPOINT,
            f"{repository} is a checkpoint itself, {what_it_is(facts)}, and its card names no base model (base_model): find "
            "the checkpoints of its base by the base's own name",
        )
    return await _named_base(hub, repository, name), f"at commit {facts.commit} is {what_it_is(facts)}"


async def _named_base(hub: Hub, repository: str, base: str) -> ModelFacts:
    try:
        return await hub.describe(base)
    except RefusedModel as refused:
        raise RefusedModel(refused.reason, f"{repository} names {base} as its base. {refused.message}") from refused


def _print_refusal(refused: RefusedModel, output: str) -> int:
    """The model itself cannot be looked at, or names no base."""
    with answering():
        if output == "text":
            drawing.draw_line(drawing.console(), f"refused ({refused.reason}): {refused.message}", style="bold red")
        else:
            _echo({"found": False, "reason": refused.reason, "message": refused.message}, output)
    return NONE_TRUSTED


def _echo(document: documents.Document, output: str) -> None:
    click.echo((documents.as_json if output == "json" else documents.as_yaml)(document))

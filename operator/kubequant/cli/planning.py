"""`kubequant plan`: what the operator would decide, by the operator's own code, and nothing created.

options -> Asked (a QuantizedModel) + Fleet (flags, a file, the cluster) + ModelFacts (the Hub, a folder)
        -> Plan | Refused -> text, JSON, YAML, or the Deployment
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass

import click

from kubequant.api.conditions import Reason
from kubequant.cli import documents, drawing
from kubequant.cli.asking import Asked, asked
from kubequant.cli.cluster import live_model
from kubequant.cli.difference import Change, changes
from kubequant.cli.fleet import fleet_to_plan_on
from kubequant.cli.options import Misuse, PlanOptions
from kubequant.cli.output import answering
from kubequant.errors import Refused as RefusedModel
from kubequant.hub.local import LOCAL_COMMIT, describe_folder, identity_of
from kubequant.planning.explain import cost_per_million_tokens, headline
from kubequant.planning.plan import plan
from kubequant.planning.text import money, rate
from kubequant.planning.values import Found, ModelFacts, Plan, Refused
from kubequant.reconcile.discovery_status import discovery_status, found_sentence
from kubequant.reconcile.inputs import VolumeSource, discovery_is_wanted, model_name_of, source_of
from kubequant.reconcile.plan_status import plan_status
from kubequant.reconcile.status import no_checkpoint
from kubequant.runtime.configured import engine_settings, hub_client
from kubequant.runtime.profile import engine_profile
from kubequant.runtime.settings import Settings

FITS, REFUSED = 0, 3
_OPENED_BY_A_TOKEN = (Reason.ACCESS_GATED, Reason.REPOSITORY_NOT_FOUND, Reason.TOKEN_INVALID)


@dataclass(frozen=True)
class Answer:
    """`facts` is None where the model itself was refused, `found` where nobody looked; `changes` where nobody asked for
    them, or nothing fits."""

    asked: Asked
    result: Plan | Refused
    facts: ModelFacts | None = None
    found: Found | None = None
    changes: list[Change] | None = None


def run_plan(options: PlanOptions, settings: Settings) -> int:
    """Prints the answer and gives the exit code. Raises Misuse, kubequant.errors.Waiting, ApiError and OSError."""
    answer = answered(options, settings)
    code = FITS if isinstance(answer.result, Plan) else REFUSED
    with answering():
        if options.output == "manifest":
            return _print_manifest(answer, settings)
        _print(answer, options, settings)
    return code


def answered(options: PlanOptions, settings: Settings) -> Answer:
    """Everything that is read, and what is decided on it. Raises as `run_plan`."""
    _check(options)
    question = asked(options, identity_of(options.folder)[0] if options.folder else None)
    fleet = fleet_to_plan_on(options.fleet, settings)
    running = _running(question, options) if options.diff else {}
    try:
        facts, found = _read(question, options, settings)
    except RefusedModel as refused:
        return Answer(question, Refused(refused.reason, refused.message + _unread_secret(question, refused.reason)))
    engine = engine_settings(settings)
    published = found.checkpoints if found else ()
    result = plan(question.intent, facts, fleet, engine_profile(engine), found=published)
    compared = changes(running, plan_status(result, engine)) if options.diff and isinstance(result, Plan) else None
    return Answer(question, result, _planned_with(result, facts, published), found, compared)


def _check(options: PlanOptions) -> None:
    if str(options.manifest) == str(options.fleet.file) == "-":
        raise Misuse("-f - and --fleet -: the standard input can be read once; give one of them a file")
    if options.diff and options.manifest is None:
        raise Misuse("--diff compares with the QuantizedModel of a manifest: name it with -f FILE")
    given = options.throughput
    if given is not None and not (math.isfinite(given) and given > 0):
        raise Misuse(f"--throughput {given}: the tokens a second that one replica was measured to give, above 0")


def _read(question: Asked, options: PlanOptions, settings: Settings) -> tuple[ModelFacts, Found | None]:
    if options.folder:
        return describe_folder(options.folder), None
    return asyncio.run(_from_hub(question, settings, discovery=options.discovery))


async def _from_hub(question: Asked, settings: Settings, *, discovery: bool) -> tuple[ModelFacts, Found | None]:
    """The model, and where the operator would look for them, its published checkpoints."""
    source = source_of(question.spec)
    if isinstance(source, VolumeSource):
        raise Misuse(f"the claim {source.claim} cannot be read from here: plan a copy of it with --model-path FOLDER")
    hub = hub_client(settings)
    try:
        facts = await hub.describe(source.repository, source.revision)
        looks = discovery and settings.discovery.enabled and facts.stored is None and discovery_is_wanted(question.spec)
        return facts, await hub.find(facts, patience_seconds=None) if looks else None
    finally:
        await hub.close()


def _unread_secret(asked: Asked, reason: str) -> str:
    """In the cluster an inspector Job would ask with the model's own token; here nobody has it."""
    if asked.spec.model.token_secret_ref is None or reason not in _OPENED_BY_A_TOKEN:
        return ""
    return (
        " The model's Secret is not read from here: put a token that opens it into a file and name it by hub.tokenFile "
        "(KUBEQUANT_HUB__TOKEN_FILE)."
    )


def _planned_with(result: Plan | Refused, facts: ModelFacts, published: Sequence[ModelFacts]) -> ModelFacts:
    """The checkpoint that was taken, the model itself where none was found."""
    taken = (one for one in published if isinstance(result, Plan) and one.repository == result.repository)
    return next(taken, facts)


def _running(question: Asked, options: PlanOptions) -> dict[str, object]:
    """status.plan of the model as the cluster has it."""
    live = asyncio.run(live_model(options.fleet.kubeconfig, question.namespace, question.name))
    if live is None:
        raise Misuse(f"--diff: the cluster has no QuantizedModel {question.namespace}/{question.name} to compare with")
    return dict((live.get("status") or {}).get("plan") or {})


def _print(answer: Answer, options: PlanOptions, settings: Settings) -> None:
    engine, result = engine_settings(settings), answer.result
    cost = _cost(result, options.throughput)
    if options.output in ("json", "yaml"):
        discovery = discovery_status(_base(answer), answer.found, result) if answer.found else None
        document = documents.plan_document(
            result, engine, cost_per_million_tokens=cost, changes=answer.changes, discovery=discovery
        )
        click.echo((documents.as_json if options.output == "json" else documents.as_yaml)(document))
    else:
        out = drawing.console()
        found = found_sentence(_base(answer), answer.found, result) if answer.found else None
        drawing.draw_plan(out, result, _cost_line(cost, options.throughput), found)
        if answer.changes is not None:
            drawing.draw_changes(out, answer.changes)
    if cost is None and options.throughput is not None and isinstance(result, Plan):
        click.echo(f"no cost: --throughput needs --price {result.gpu.product}=... beside it", err=True)


def _base(answer: Answer) -> str:
    return model_name_of(answer.asked.spec)


def _print_manifest(answer: Answer, settings: Settings) -> int:
    """Where the operator would make no Deployment, the reason goes beside the standard output, which stays empty."""
    if isinstance(answer.result, Refused) or answer.facts is None:
        click.echo(headline(answer.result), err=True)
        return REFUSED
    decision = documents.decision(answer.asked, answer.facts, answer.result, engine_settings(settings))
    if decision.is_predicted:
        click.echo(f"no Deployment ({Reason.NO_CHECKPOINT}): {no_checkpoint(decision)}", err=True)
        return REFUSED
    if answer.facts.commit == LOCAL_COMMIT:
        click.echo(f"its pods would download {answer.facts.repository}, which is a folder here and on no hub", err=True)
    click.echo(documents.as_yaml(documents.deployment(answer.asked, decision)))
    return FITS


def _cost(result: Plan | Refused, throughput: float | None) -> float | None:
    if throughput is None or isinstance(result, Refused) or result.price_per_hour is None:
        return None
    return cost_per_million_tokens(result.price_per_hour, throughput)


def _cost_line(cost: float | None, throughput: float | None) -> str | None:
    if cost is None or throughput is None:
        return None
    return f"{money(cost)} per million tokens, if one replica gives {rate(throughput)}, as --throughput says"

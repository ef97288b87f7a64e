"""`kubequant plan`: what the operator would decide, without asking the cluster for more than its nodes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from kubequant.api.spec import QuantizedModelSpec
from kubequant.cluster.api import HttpKubeApi, load_configuration
from kubequant.cluster.kinds import NODE
from kubequant.hub.client import Hub
from kubequant.planning.explain import explain
from kubequant.planning.gpus import fleet_of
from kubequant.planning.plan import plan
from kubequant.planning.values import Plan
from kubequant.reconcile.inputs import intent_of, source_of
from kubequant.reconcile.kinds import QUANTIZED_MODEL
from kubequant.reconcile.records import node_facts
from kubequant.runtime.profile import engine_profile
from kubequant.runtime.settings import Settings, engine_settings, hub_token


class NotAModelError(Exception):
    """The file holds no QuantizedModel; the message says what it holds."""


def read_manifest(file: Path) -> QuantizedModelSpec:
    """The spec in a manifest. Raises NotAModelError, yaml.YAMLError, pydantic.ValidationError."""
    body: Any = yaml.safe_load(file.read_text(encoding="utf-8"))
    kind = body.get("kind") if isinstance(body, Mapping) else type(body).__name__
    if kind != QUANTIZED_MODEL.kind:
        raise NotAModelError(f"{file} holds a {kind}, not a {QUANTIZED_MODEL.kind}")
    return QuantizedModelSpec.model_validate(body.get("spec") or {})


async def planned(spec: QuantizedModelSpec, settings: Settings, kubeconfig: str | None) -> tuple[bool, str]:
    """Whether there is a plan, and its explanation. Raises ApiError, KubeQuantError."""
    api = HttpKubeApi(await load_configuration(kubeconfig))
    hub = Hub(endpoint=str(settings.hub.endpoint).rstrip("/"), token=lambda: hub_token(settings))
    try:
        fleet = fleet_of([node_facts(body) async for body in api.list(NODE)])
        repository, revision = source_of(spec)
        facts = await hub.describe(repository, revision, has_user_token=spec.model.token_secret_ref is not None)
    finally:
        await hub.close()
        await api.close()
    outcome = plan(intent_of(spec), facts, fleet, engine_profile(engine_settings(settings)))
    return isinstance(outcome, Plan), explain(outcome)

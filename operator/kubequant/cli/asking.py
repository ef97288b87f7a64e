"""What is to be planned: a QuantizedModel, from a manifest or made of flags, and nothing of it read from elsewhere yet."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from kubequant.api.spec import MAX_NAME_LENGTH, KvCacheDtypeName, QuantizedModelSpec, Scheme
from kubequant.cli.faults import kind_of, sentences
from kubequant.cli.options import Misuse, PlanOptions, read_bounded
from kubequant.planning.values import Intent, Objective
from kubequant.reconcile.inputs import intent_of, model_name_of
from kubequant.reconcile.kinds import QUANTIZED_MODEL

MAX_MANIFEST_BYTES = 3_000_000  # the API server takes no larger object

_FLAGS = {
    "serving.contextTokens": "--context",
    "serving.concurrentRequests": "--concurrency",
    "serving.tokensPerRequest": "--tokens-per-request",
}
_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")


@dataclass(frozen=True)
class Asked:
    """A QuantizedModel as it would be applied. `body` is the spec as written, flags included."""

    name: str
    namespace: str
    body: dict[str, Any]
    spec: QuantizedModelSpec
    intent: Intent


def asked(options: PlanOptions, folder_name: str | None = None) -> Asked:
    """The question that the options put. Raises Misuse."""
    if options.manifest is not None:
        body = _manifest(options.manifest)
        metadata, spec = _mapping(body, "metadata"), _mapping(body, "spec")
    else:
        metadata, spec = {}, {"model": {"repository": folder_name or repository_name(options.repository or "")}}
    written = _with_flags(spec, options)
    parsed = _parsed(written, options)
    return Asked(
        name=str(metadata.get("name") or _object_name(model_name_of(parsed))),
        namespace=str(metadata.get("namespace") or "default"),
        body=written,
        spec=parsed,
        intent=replace(_intent(parsed), prefer_existing=options.existing or options.manifest is not None),
    )


def _manifest(file: Path) -> Mapping[str, Any]:
    try:
        body = yaml.safe_load(read_bounded(file, MAX_MANIFEST_BYTES).decode("utf-8"))
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
        raise Misuse(f"{file} cannot be planned: it cannot be read as YAML: {error}") from error
    if not isinstance(body, Mapping):
        raise Misuse(f"{file} cannot be planned: it holds {kind_of(body)}, not a {QUANTIZED_MODEL.kind}")
    if (kind := body.get("kind")) != QUANTIZED_MODEL.kind:
        raise Misuse(
            f"{file} cannot be planned: it holds {f'a {kind}' if kind else 'no kind'}, not a {QUANTIZED_MODEL.kind}"
        )
    return body


def _mapping(body: Mapping[str, Any], field: str) -> dict[str, Any]:
    value = body.get(field)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise Misuse(f"{field} must hold fields and their values, not {kind_of(value)}")
    return dict(value)


def repository_name(name: str) -> str:
    """Raises Misuse for what no Hub would take."""
    if _REPOSITORY.fullmatch(name) and ".." not in name and "--" not in name:
        return name
    hint = f" For the folder of that name: --model-path {name}." if Path(name).is_dir() else ""
    raise Misuse(f"{name!r} is no repository: write organisation/name, as in Qwen/Qwen2.5-14B-Instruct.{hint}")


def _with_flags(spec: dict[str, Any], options: PlanOptions) -> dict[str, Any]:
    """The spec with what flags say in place of its own."""
    serving = {
        **_numbers(options),
        "objective": _word(options.objective, Objective, "--objective"),
        "kvCacheDtype": _word(options.kv_cache_dtype, KvCacheDtypeName, "--kv-cache-dtype"),
    }
    quantization = {"scheme": _word(options.scheme, Scheme, "--scheme")}
    return _merged(_merged(spec, "serving", serving), "quantization", quantization)


def _numbers(options: PlanOptions) -> dict[str, Any]:
    return {
        "contextTokens": options.context_tokens,
        "concurrentRequests": options.concurrent_requests,
        "tokensPerRequest": options.tokens_per_request,
    }


def _merged(spec: dict[str, Any], section: str, flags: Mapping[str, Any]) -> dict[str, Any]:
    given = {name: value for name, value in flags.items() if value is not None}
    return {**spec, section: {**_mapping(spec, section), **given}} if given else spec


def _word(text: str | None, words: type[StrEnum], flag: str) -> str | None:
    """The API's spelling of a word given in any case."""
    if text is None:
        return None
    for word in words:
        if word.value.lower() == text.lower():
            return word.value
    raise Misuse(f"{flag} {text}: one of {', '.join(word.value for word in words)}")


def _parsed(written: Mapping[str, Any], options: PlanOptions) -> QuantizedModelSpec:
    given = {f"serving.{field}" for field, value in _numbers(options).items() if value is not None}

    def name(field: str) -> str:
        return _FLAGS[field] if field in given else f"spec.{field}"

    try:
        return QuantizedModelSpec.model_validate(written)
    except ValidationError as error:
        raise Misuse(f"the model cannot be planned: {sentences(error, name)}") from error


def _intent(spec: QuantizedModelSpec) -> Intent:
    try:
        return intent_of(spec)
    except (ValueError, ArithmeticError) as error:  # what the API server would have refused: quantities, capabilities
        raise Misuse(f"the model cannot be planned: spec.gpu: {error}") from error


def _object_name(repository: str) -> str:
    """A name that Kubernetes takes: the repository's own, without its organisation."""
    name = re.sub(r"[^a-z0-9]+", "-", repository.rpartition("/")[2].lower())
    return name[:MAX_NAME_LENGTH].strip("-") or "model"

"""ModelFacts as compact JSON, to stand in a ControllerRevision. Versioned: an older operator's facts are read or refused, never guessed."""

from __future__ import annotations

import base64
import json
import zlib
from dataclasses import asdict
from typing import Any

from kubequant.planning.values import (
    CacheKind,
    CacheLayers,
    Experts,
    ModelFacts,
    ModelShape,
    StateTensor,
    StoredMethod,
    StoredQuantization,
    TensorClass,
)

VERSION = 3
_READABLE = (1, 2, 3)
"""1 knew only dense decoders, 2 neither checksums nor notes: what a version does not say has the defaults of `values`."""


def facts_to_json(facts: ModelFacts) -> str:
    """One line; equal facts give equal text."""
    document = {
        "version": VERSION,
        "repository": facts.repository,
        "commit": facts.commit,
        "shape": asdict(facts.shape),
        "tensors": [
            [tensor.pattern, tensor.dtype, tensor.shape, tensor.count, tensor.bytes] for tensor in facts.tensors
        ],
        "stored": asdict(facts.stored) if facts.stored else None,
        "downloadBytes": facts.download_bytes,
        "hasChatTemplate": facts.has_chat_template,
        "predicted": facts.predicted,
        "checksums": facts.checksums,
        "maxNewTokens": facts.max_new_tokens,
        "notes": facts.notes,
    }
    return json.dumps(document, sort_keys=True, separators=(",", ":"))


def packed_facts(facts: ModelFacts) -> str:
    """Compressed and in base64: any model's facts fit 4 KiB, small enough to stand beside each decision."""
    return base64.b64encode(zlib.compress(facts_to_json(facts).encode(), level=9)).decode()


def unpacked_facts(text: str) -> ModelFacts:
    """Raises ValueError for what `packed_facts` did not write."""
    try:
        return facts_from_json(zlib.decompress(base64.b64decode(text, validate=True)).decode())
    except zlib.error as error:
        raise ValueError(f"model facts cannot be unpacked: {error}") from error


def facts_from_json(text: str) -> ModelFacts:
    """Raises ValueError for another version and for what is no such document."""
    document = json.loads(text)
    if not isinstance(document, dict) or document.get("version") not in _READABLE:
        raise ValueError(f"model facts must be a document of version {' or '.join(map(str, _READABLE))}")
    try:
        return _facts(document)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"model facts are incomplete: {error}") from error


def _facts(document: dict[str, Any]) -> ModelFacts:
    return ModelFacts(
        repository=document["repository"],
        commit=document["commit"],
        shape=_shape(document["shape"]),
        tensors=tuple(
            TensorClass(pattern, dtype, tuple(shape), count, size)
            for pattern, dtype, shape, count, size in document["tensors"]
        ),
        stored=_stored(document["stored"]),
        download_bytes=document["downloadBytes"],
        has_chat_template=document["hasChatTemplate"],
        predicted=document.get("predicted", False),
        checksums=document.get("checksums", ""),
        max_new_tokens=document.get("maxNewTokens"),
        notes=tuple(document.get("notes", ())),
    )


def _shape(fields: dict[str, Any]) -> ModelShape:
    caches = tuple(_cache(cache) for cache in fields.get("caches", ()))
    experts = fields.get("experts")
    return ModelShape(
        **{**fields, "caches": caches, "experts": Experts(**experts) if experts is not None else None},
    )


def _cache(fields: dict[str, Any]) -> CacheLayers:
    state = tuple(StateTensor(**one) for one in fields["state"])
    return CacheLayers(**{**fields, "kind": CacheKind(fields["kind"]), "state": state})


def _stored(fields: dict[str, Any] | None) -> StoredQuantization | None:
    if fields is None:
        return None
    block = tuple(fields["block"]) if fields["block"] else None
    return StoredQuantization(
        **{**fields, "method": StoredMethod(fields["method"]), "block": block, "ignored": tuple(fields["ignored"])}
    )

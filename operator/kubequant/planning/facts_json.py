"""ModelFacts as compact JSON, to stand in a ControllerRevision or a pod's termination message.

Versioned: an older operator's facts are read or refused, never guessed. What comes from a pod is a stranger's: bytes, counts and
lengths are bounded here, and every field has its type and its range checked (planning divides by some of them).
"""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, is_dataclass
from typing import Literal

from pydantic import BaseModel, Field, ValidationError

from kubequant.planning.values import CacheKind, CacheLayers, ModelFacts, ModelShape, StoredQuantization, TensorClass

VERSION = 3
_READABLE = (1, 2, 3)
"""1 knew only dense decoders, 2 neither checksums nor notes: what a version does not say has the defaults of `values`."""


MAX_CLASSES = 256
MAX_PACKED_CHARACTERS = 65_536
MAX_JSON_BYTES = 262_144  # 256 classes of tensors take 40 kB
MAX_CHARACTERS = 1_024  # of one text
MAX_ITEMS = 512  # of any list: layers may keep as many different caches
_MAX_LAYERS = 4_096
_BEYOND = 2**63

_DIVISORS = (
    "num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim", "vocab_size",
    "max_position_embeddings",
)  # fmt: skip
_SCHEMES = ("W4A16", "W8A16", "W8A8", "FP8", "NVFP4", "MXFP4")
_CHECKSUMS = re.compile(r"(?:[0-9a-f]{64})?")


class _Document(BaseModel):
    """The JSON as it is written; what an older version leaves out has its default."""

    version: Literal[1, 2, 3]
    repository: str
    commit: str
    shape: ModelShape
    tensors: list[tuple[str, str, tuple[int, ...], int, int]]
    stored: StoredQuantization | None
    download_bytes: int = Field(alias="downloadBytes")
    has_chat_template: bool = Field(alias="hasChatTemplate")
    predicted: bool = False
    base: str = Field("", max_length=193, pattern=r"^[A-Za-z0-9._/-]*$")  # messages repeat it
    checksums: str = ""
    max_new_tokens: int | None = Field(None, alias="maxNewTokens")
    notes: tuple[str, ...] = ()


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
        "base": facts.base,
        "checksums": facts.checksums,
        "maxNewTokens": facts.max_new_tokens,
        "notes": facts.notes,
    }
    return json.dumps(document, sort_keys=True, separators=(",", ":"))


def packed_facts(facts: ModelFacts) -> str:
    """Compressed and in base64: any model's facts fit 4 KiB, small enough to stand beside each decision."""
    return base64.b64encode(zlib.compress(facts_to_json(facts).encode(), level=9)).decode()


def unpacked_facts(text: str) -> ModelFacts:
    """Raises ValueError, in one sentence, for what `packed_facts` did not write. Takes bounded memory for any text."""
    if len(text) > MAX_PACKED_CHARACTERS:
        raise ValueError(f"model facts have {len(text):,} characters; at most {MAX_PACKED_CHARACTERS:,} are read")
    try:
        unpacking = zlib.decompressobj()
        document = unpacking.decompress(base64.b64decode(text, validate=True), MAX_JSON_BYTES + 1)
        if len(document) <= MAX_JSON_BYTES and not unpacking.eof:
            raise ValueError("they end too early")
        return facts_from_json(document.decode())
    except zlib.error as error:
        raise ValueError(f"model facts cannot be unpacked: {error}") from None
    except ValueError as error:
        raise ValueError(f"model facts cannot be unpacked: {error!s:.200}") from None


def facts_from_json(text: str) -> ModelFacts:
    """Raises ValueError, in one sentence, for another version and for what is no such document."""
    if len(text) > MAX_JSON_BYTES:
        raise ValueError(f"model facts have more than {MAX_JSON_BYTES:,} bytes")
    try:
        document = _Document.model_validate_json(text, strict=True, extra="forbid")
    except ValidationError as error:
        raise ValueError(f"model facts are none: {_first(error)}") from None
    if wrong := _out_of_range(document):
        raise ValueError(f"model facts are none: {wrong}")
    return ModelFacts(
        repository=document.repository,
        commit=document.commit,
        shape=document.shape,
        tensors=tuple(TensorClass(*one) for one in document.tensors),
        stored=document.stored,
        download_bytes=document.download_bytes,
        has_chat_template=document.has_chat_template,
        predicted=document.predicted,
        base=document.base,
        checksums=document.checksums,
        max_new_tokens=document.max_new_tokens,
        notes=document.notes,
    )


def _first(error: ValidationError) -> str:
    """Which field, and what is wrong with it; never its value, which is a stranger's."""
    found = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(part)[:40] for part in found["loc"][:4]) or "the document"
    return f"{ascii(where)[1:-1]}: {found['msg']}"[:200]


def _out_of_range(document: _Document) -> str | None:
    shape, stored = document.shape, document.stored
    if len(document.tensors) > MAX_CLASSES:
        return f"{len(document.tensors):,} classes of tensors, more than {MAX_CLASSES}"
    wrong = {
        "a size of the model is 0": any(getattr(shape, name) < 1 for name in _DIVISORS),
        f"more than {_MAX_LAYERS:,} layers": shape.num_hidden_layers > _MAX_LAYERS,
        "a dtype that is none": shape.dtype not in ("BF16", "F16", "F32"),
        "layers that keep nothing": any(not _keeps_something(cache) for cache in shape.caches),
        "a class of no tensors": any(count < 1 for *_, count, _ in document.tensors),
        "checksums that are none": not _CHECKSUMS.fullmatch(document.checksums),
        "answers of no tokens": document.max_new_tokens is not None and document.max_new_tokens < 1,
    }
    if shape.experts:
        experts = shape.experts
        wrong["experts that are none"] = not 1 <= experts.per_token <= experts.experts or experts.layers < 1
    if stored:
        wrong["a scheme that is none"] = stored.scheme not in _SCHEMES or not 1 <= stored.bits <= 16
        wrong["a KV cache that is none"] = stored.kv_cache_dtype not in (None, "FP8")
        wrong["groups of no weights"] = stored.group_size == 0
        wrong["blocks of no weights"] = stored.block is not None and 0 in stored.block
    return next((text for text, is_so in wrong.items() if is_so), None) or _odd_leaf(document)


def _keeps_something(cache: CacheLayers) -> bool:
    if cache.layers < 1 or cache.states < 1:
        return False
    if cache.kind is CacheKind.STATE:
        sound = (one.units > 0 and one.values_per_unit > 0 and one.dtype in ("Model", "F32") for one in cache.state)
        return bool(cache.state) and all(sound)
    if cache.kind in (CacheKind.SLIDING, CacheKind.CHUNKED) and cache.window < 1:
        return False
    return (
        min(cache.key_dim, cache.value_dim) >= 0
        and cache.token_bytes + cache.kv_heads * (cache.key_dim + cache.value_dim) > 0
    )


def _odd_leaf(document: _Document) -> str | None:
    """Any text that is too long or cannot be printed, any number beyond 63 bits, any list that is too long."""
    for value in _values(document.__dict__.values()):
        if isinstance(value, (tuple, list)) and len(value) > MAX_ITEMS:
            return f"a list of {len(value):,}, more than {MAX_ITEMS}"
        if isinstance(value, str) and not (len(value) <= MAX_CHARACTERS and value.isprintable()):
            return f"a text of {len(value):,} characters, or one that cannot be printed"
        if isinstance(value, int) and not -1 <= value < _BEYOND:
            return "a number out of range"
    return None


def _values(some: Iterable[object]) -> Iterator[object]:
    """These and all within them."""
    for value in some:
        yield value
        if isinstance(value, (tuple, list)):
            yield from _values(value)
        elif is_dataclass(value):
            yield from _values(value.__dict__.values())

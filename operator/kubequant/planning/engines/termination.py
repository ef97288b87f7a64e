"""The termination message: how a pod tells the operator why it ended.

The engine launcher and the downloader (`manifests/files/`) write it; the kubelet puts it into
`pod.status.*.state.terminated.message` (or `lastState`). It is one JSON object, at most 4,096 bytes of UTF-8 (the
kubelet keeps no more), always whole: a writer shortens texts, never the JSON.

    {"kubequantTermination": 1,             the version; a reader ignores others
     "stage": "engine" | "download",
     "reason": "KvCacheTooSmall",           a word of api.conditions.Reason
     "message": "what, the number, what to do",
     "details": {"needed_gib": 24.0}}       numbers, words, or a list of lines; keys are snake_case

The reasons in use: GpuOutOfMemory, KvCacheTooSmall, EngineArgumentRefused, CheckpointRefused, ModelNotFound,
WorkerKilled, ContainerOutOfMemory, DiskFull and EngineFailed by the engine; Downloading (in progress: what is left when
the container is killed), DownloadAccessDenied, ModelNotFound, DownloadFailed, CorruptCheckpoint, ChecksumMismatch and
DiskFull by the download; VolumePending by the launcher, where a cache volume does not hold the whole model.

Details of the engine (each where the log states it): `weights_gib`, `available_kv_cache_gib`, `kv_cache_tokens`,
`kernel`, `attention_backend`; of GpuOutOfMemory `tried_to_allocate`, `total`, `free` (texts with unit) or `free_gib`,
`total_gib`, `wanted_gib`, `utilization`; of KvCacheTooSmall `needed_gib`, `available_gib`, `max_model_len`,
`estimated_max_model_len`; of WorkerKilled `process`, `signal`; `tail`, the last lines, where the cause is not certain.

A container killed for memory ends without a chance to write: the kubelet's own reason `OOMKilled` goes before whatever
an earlier line left here.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import TypeAlias

from kubequant.api.conditions import Reason

VERSION = 1
STAGES = ("engine", "download")
MESSAGE_BYTES = 4096
MAX_DETAILS = 32
MAX_KEY_CHARS = 64
MAX_LINES = 32
_REASONS = frozenset(Reason)

Detail: TypeAlias = str | int | float | bool | tuple[str, ...]


@dataclass(frozen=True)
class Termination:
    """A checked termination message. `details` holds only plain values; what had another type is left out."""

    stage: str
    reason: Reason
    message: str
    details: dict[str, Detail] = field(default_factory=dict)

    def number(self, key: str) -> int | float | None:
        """A detail that is a number (GiB, tokens, a signal: the key says which), else None."""
        value = self.details.get(key)
        return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def parse_termination(message: str | None) -> Termination | None:
    """Reads what a pod wrote. Untrusted: anything but a whole message of the known version is None, never an error."""
    if not message or len(message.encode("utf-8", "replace")) > MESSAGE_BYTES:
        return None
    try:
        document = json.loads(message, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict) or not _is_version(document.get("kubequantTermination")):
        return None
    stage, reason, text, details = (document.get(key) for key in ("stage", "reason", "message", "details"))
    if stage not in STAGES or not isinstance(reason, str) or reason not in _REASONS or not isinstance(text, str):
        return None
    return Termination(stage, Reason(reason), _printable(text), _details(details))


def _is_version(value: object) -> bool:
    return type(value) is int and value == VERSION  # True == 1, and is no version


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def _details(value: object) -> dict[str, Detail]:
    if not isinstance(value, dict):
        return {}
    checked = ((key, _detail(item)) for key, item in list(value.items())[:MAX_DETAILS] if len(key) <= MAX_KEY_CHARS)
    return {key: item for key, item in checked if item is not None}


def _detail(value: object) -> Detail | None:
    if isinstance(value, str):
        return _printable(value)
    if isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None  # 1e999 is JSON, and infinite
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(_printable(item) for item in value[:MAX_LINES])
    return None


def _printable(text: str) -> str:
    """Without control characters, which would garble conditions, Events and terminals; and without lone surrogates."""
    plain = "".join(char if char.isprintable() else " " for char in text)
    return plain.encode("utf-8", "ignore").decode().strip()

"""Figures, their thresholds, and the arithmetic between the audit log and them. No I/O but the thresholds' file."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

import yaml

THRESHOLDS = Path(__file__).with_name("thresholds.yaml")
WRITES = frozenset({"create", "update", "patch", "delete"})
NOT_COUNTED = frozenset({"events", "leases"})


@dataclass(frozen=True)
class Figure:
    """One measured number. `name` is what a threshold is found by, `case` the circumstances (`200 models`)."""

    name: str
    case: str
    value: float
    unit: str = ""


@dataclass(frozen=True)
class Verdict:
    """A figure against its threshold; `at_most` is None where the figure is for information only."""

    figure: Figure
    at_most: float | None

    @property
    def is_met(self) -> bool:
        return self.at_most is None or self.figure.value <= self.at_most


class Key(Protocol):
    """What a request asked for."""

    @property
    def verb(self) -> str: ...
    @property
    def resource(self) -> str: ...
    @property
    def subresource(self) -> str: ...


class Request(Protocol):
    """A line of the audit log, as tests.localcluster reads it."""

    @property
    def key(self) -> Key: ...
    @property
    def namespace(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def code(self) -> int: ...
    @property
    def received(self) -> datetime: ...


def load_thresholds(path: Path = THRESHOLDS) -> dict[str, float]:
    """Thresholds by the name of their figure."""
    document: dict[str, float] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return document


def judge(figures: Iterable[Figure], thresholds: Mapping[str, float]) -> list[Verdict]:
    return [Verdict(figure, thresholds.get(figure.name)) for figure in figures]


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile: with 200 values, p99 is the third largest; never an interpolation."""
    if not values:
        raise ValueError("no values to take a percentile of")
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


def counted_writes(requests: Iterable[Request]) -> Counter[str]:
    """Writes by `verb resource[/subresource]`, Events and Leases aside."""
    return Counter(
        " ".join((request.key.verb, "/".join(filter(None, (request.key.resource, request.key.subresource)))))
        for request in requests
        if request.key.verb in WRITES and request.key.resource not in NOT_COUNTED
    )


def first_seen(requests: Iterable[Request], verb: str, resource: str, namespace: str) -> dict[str, datetime]:
    """When the first accepted request of this kind for each name reached the API server."""
    seen: dict[str, datetime] = {}
    for request in requests:
        key = request.key
        wanted = (key.verb, key.resource, key.subresource, request.namespace) == (verb, resource, "", namespace)
        if wanted and request.code < 400:
            seen[request.name] = min(request.received, seen.get(request.name, request.received))
    return seen


def seconds_between(starts: Mapping[str, datetime], ends: Mapping[str, datetime]) -> list[float]:
    """By name. Raises ValueError where one has not ended: a percentile of the rest would flatter."""
    missing = sorted(starts.keys() - ends.keys())
    if missing or not starts:
        raise ValueError(f"{len(missing)} of {len(starts)} models have no Deployment: {', '.join(missing[:3])}")
    return [(ends[name] - start).total_seconds() for name, start in starts.items()]

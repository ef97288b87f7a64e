"""What a replan would change: two `status.plan`, field by field."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_EXPLANATIONS = frozenset({"alternatives", "refusals"})  # why it was chosen: no part of what runs


@dataclass(frozen=True)
class Change:
    """A field of `status.plan` by its path (`memory.weights`). None: it is not there."""

    field: str
    before: Any
    after: Any


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """In the order of the new plan; what only the old one has comes last."""
    old, new = dict(_leaves(before)), dict(_leaves(after))
    return [
        Change(field, old.get(field), new.get(field))
        for field in [*new, *(field for field in old if field not in new)]
        if old.get(field) != new.get(field)
    ]


def _leaves(plan: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in plan.items():
        if not prefix and name in _EXPLANATIONS:
            continue
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value

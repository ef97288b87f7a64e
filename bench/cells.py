"""Tables of start-ups and models as people write them: a column may be missing, a number may carry its unit.

Where the meaning of a cell is plain it is read (`79.2 GiB`, `31,232`, `90%`); where it is not, the row says so and nothing else is lost.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

GIB = 1024**3

Row = Mapping[str, str]

_NUMBER = re.compile(
    r"[~≈]?\s*([-+]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d*)?(?:e[-+]?\d+)?)\s*(gib|gb|g|mib|mb|%|tokens)?", re.IGNORECASE
)
_SCALES = {"mib": 1 / 1024, "mb": 1 / 1024, "%": 0.01}
"""Of a unit, against GiB or 1. Logs of old engines write GB and mean GiB."""
_LARGEST = 1e12


class BadData(ValueError):
    """A file that is no table of start-ups or models at all; the text says where and why."""


def read_table(path: Path, columns: tuple[str, ...], needed: str) -> list[tuple[int, Row]]:
    """(line, cells) of each row. A column that is missing is empty in every row; without `needed` it is no such table.
    Raises BadData."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines, restval="")
            reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or ()]
            if needed not in reader.fieldnames:
                raise BadData(f"{path}: column {needed!r} is missing")
            return [(reader.line_num, {name: row.get(name, "").strip() for name in columns}) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadData(f"{path}: {error}") from error


def parse_number(text: str) -> float | None:
    """A number with or without a unit, thousands commas and "about"; None where the meaning is not plain."""
    match = _NUMBER.fullmatch(text.strip())
    if not match or not any(map(str.isdigit, match[1])):
        return None
    value = float(match[1].replace(",", "")) * _SCALES.get((match[2] or "").lower(), 1)
    return value if abs(value) < _LARGEST else None


@dataclass(frozen=True)
class Cells:
    """Typed access to one row; an empty cell is None, and so is one that cannot be read: `unread` then says why, by column."""

    row: Row
    unread: dict[str, str] = field(default_factory=dict)

    def text(self, column: str) -> str:
        return self.row[column]

    def number(self, column: str, least: float = float("-inf"), most: float = float("inf")) -> float | None:
        text = self.row[column]
        if not text:
            return None
        value = parse_number(text)
        if value is None:
            self.unread[column] = f"{column} must be a number, not {text[:40]!r}"
        elif not least <= value <= most:
            limit = f"at least {least:g}" if value < least else f"at most {most:g}"
            self.unread[column] = f"{column} must be {limit}, not {text[:40]}"
            return None
        return value

    def count(self, column: str, least: int = 1, most: int = 10**9) -> int | None:
        value = self.number(column, least, most)
        if value is not None and value != int(value):
            self.unread[column] = f"{column} must be a whole number, not {self.row[column][:40]}"
            return None
        return None if value is None else int(value)

    def gib(self, column: str, least: float = float("-inf"), most: float = float("inf")) -> int | None:
        value = self.number(column, least, most)
        return None if value is None else int(value * GIB)

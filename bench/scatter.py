"""Predicted against real as an SVG: one dot a start-up, on logarithmic axes, with lines at 8 % off."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from bench.groups import Evaluated
from bench.peers import kind_of
from bench.startups import GIB

_SIDE, _MARGIN = 520, 56
_LOW, _HIGH = 1.0, 128.0  # GiB
_TICKS = (1, 2, 4, 8, 16, 32, 64, 128)
_COLOURS = {
    "independent": "#c2410c",
    "llm-d-sweep": "#1d4ed8",
    "llm-d-empirical": "#0e7490",
    "llm-d-version-sweep": "#6d28d9",
}
_BAND = 0.08


def scatter(rows: Sequence[Evaluated]) -> str:
    """The whole SVG document. Rows that are not usable are left out."""
    size = _SIDE + 2 * _MARGIN
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size} {size}" font-family="sans-serif" font-size="12">',
            f'<rect width="{size}" height="{size}" fill="white"/>',
            *_axes(),
            *_bands(),
            *_dots(rows),
            *_legend(rows),
            "</svg>",
            "",
        )
    )


def _at(gib: float) -> float:
    """Pixels from the lower left corner."""
    clipped = min(max(gib, _LOW), _HIGH)
    return _SIDE * math.log(clipped / _LOW) / math.log(_HIGH / _LOW)


def _x(gib: float) -> str:
    return f"{_MARGIN + _at(gib):.1f}"


def _y(gib: float) -> str:
    return f"{_MARGIN + _SIDE - _at(gib):.1f}"


def _axes() -> Iterator[str]:
    end, middle = _MARGIN + _SIDE, _MARGIN + _SIDE / 2
    for tick in _TICKS:
        yield f'<path d="M{_x(tick)} {_MARGIN}V{end}M{_MARGIN} {_y(tick)}H{end}" stroke="#e5e7eb"/>'
        yield f'<text x="{_x(tick)}" y="{end + 18}" text-anchor="middle">{tick}</text>'
        yield f'<text x="{_MARGIN - 8}" y="{_y(tick)}" text-anchor="end" dominant-baseline="middle">{tick}</text>'
    yield f'<text x="{middle}" y="{end + 40}" text-anchor="middle">taken besides the KV cache, GiB of one GPU</text>'
    yield f'<text x="16" y="{middle}" text-anchor="middle" transform="rotate(-90 16 {middle})">expected, GiB</text>'


def _bands() -> Iterator[str]:
    yield f'<path d="M{_x(_LOW)} {_y(_LOW)}L{_x(_HIGH)} {_y(_HIGH)}" stroke="#6b7280"/>'
    for factor in (1 - _BAND, 1 + _BAND):
        low, high = max(_LOW, _LOW / factor), min(_HIGH, _HIGH / factor)
        line = f"M{_x(low)} {_y(low * factor)}L{_x(high)} {_y(high * factor)}"
        yield f'<path d="{line}" stroke="#9ca3af" stroke-dasharray="4 4"/>'


def _dots(rows: Sequence[Evaluated]) -> Iterator[str]:
    for row in rows:
        if row.replayed is None:
            continue
        real, expected = row.replayed.real_non_kv_bytes / GIB, row.replayed.expected_non_kv_bytes / GIB
        colour = _COLOURS[kind_of(row.start_up)]
        title = f"<title>{row.start_up.id}: {real:.2f} GiB, expected {expected:.2f}</title>"
        yield f'<circle cx="{_x(real)}" cy="{_y(expected)}" r="3.5" fill="{colour}" fill-opacity="0.6">{title}</circle>'


def _legend(rows: Sequence[Evaluated]) -> Iterator[str]:
    shown = 0
    for kind, colour in _COLOURS.items():
        count = sum(row.replayed is not None and kind_of(row.start_up) == kind for row in rows)
        if not count:
            continue
        height = _MARGIN + 20 + 18 * shown
        shown += 1
        yield f'<circle cx="{_MARGIN + 16}" cy="{height}" r="4" fill="{colour}"/>'
        yield f'<text x="{_MARGIN + 26}" y="{height}" dominant-baseline="middle">{kind} ({count})</text>'
    yield f'<text x="{_MARGIN + 10}" y="{_MARGIN + 20 + 18 * shown}" dominant-baseline="middle">dashed: 8 % off</text>'

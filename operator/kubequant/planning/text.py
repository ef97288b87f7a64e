"""Figures as people read them."""

from __future__ import annotations

_GIB = 1024**3


def gib(size: int) -> str:
    """As in "37.0 GiB"; below 0.1 GiB in MiB, so that small models do not read as nothing."""
    return f"{size / _GIB:.1f} GiB" if abs(size) >= _GIB // 10 else f"{size / 1024**2:.1f} MiB"


def tokens(count: int) -> str:
    """As in "174,336 tokens"."""
    return f"{count:,} tokens"

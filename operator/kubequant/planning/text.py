"""Figures as people read them."""

from __future__ import annotations

_GIB = 1024**3


def gib(size: int) -> str:
    """As in "37.0 GiB"; below 0.1 GiB in MiB, so that small models do not read as nothing."""
    return f"{size / _GIB:.1f} GiB" if abs(size) >= _GIB // 10 else f"{size / 1024**2:.1f} MiB"


def tokens(count: int) -> str:
    """As in "174,336 tokens"."""
    return f"{count:,} tokens"


def rate(tokens_per_second: float) -> str:
    """As in "1,234 tokens/s": no decimals, but below ten, where they are most of what there is."""
    return f"{tokens_per_second:,.0f} tokens/s" if tokens_per_second >= 10 else f"{tokens_per_second:.2f} tokens/s"


def money(amount: float) -> str:
    """As in "0.80", in the user's own unit; small amounts keep three figures."""
    return f"{amount:,.2f}" if amount >= 0.1 or amount == 0 else f"{amount:.3g}"

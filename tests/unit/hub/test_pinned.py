"""What unfinished descriptions have read, kept for all threads within a bound."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator

import pytest

from kubequant.hub.pinned import MAX_KEPT_BYTES, MAX_UNFINISHED_BYTES, Unfinished
from kubequant.hub.transport import Piece


@pytest.fixture
def _hasty_threads() -> Iterator[None]:
    """They take turns in the middle of everything."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("_hasty_threads")
def test_threads_that_come_and_go_share_it() -> None:
    unfinished, errors = Unfinished(), list[Exception]()

    def work(seed: int) -> None:
        try:
            for turn in range(4000):
                kept = unfinished.of((f"some/model{(seed * 7919 + turn) % 40}", "c"))
                kept.bytes = 2_000_000
                if turn % 3 == 0:
                    unfinished.discard((f"some/model{turn % 40}", "c"))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert errors == []


def test_the_least_recently_used_goes_first() -> None:
    unfinished, whole = Unfinished(), Piece(bytes(MAX_KEPT_BYTES), MAX_KEPT_BYTES)
    count = MAX_UNFINISHED_BYTES // MAX_KEPT_BYTES
    for number in range(count + 1):
        unfinished.of((f"some/model{number}", "c")).put("file", 0, MAX_KEPT_BYTES, whole)
        unfinished.of(("some/model0", "c"))
    unfinished.of(("some/new", "c"))
    held = [bool(unfinished.of((f"some/model{number}", "c")).bytes) for number in range(count + 1)]
    assert held == [True, False, *[True] * (count - 1)]

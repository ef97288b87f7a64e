"""Bounded waits that say what they waited for."""

import time
from collections.abc import Callable
from pathlib import Path

from .errors import ProcessDiedError, WaitTimeoutError

_POLL_SECONDS = 0.1
_LOG_TAIL_LINES = 15


def wait_until(
    condition: Callable[[], bool],
    what: str,
    timeout: float,
    log: Path | None = None,
    alive: Callable[[], bool] | None = None,
) -> None:
    """Poll `condition` until it holds.

    Raises WaitTimeoutError after `timeout` seconds, and ProcessDiedError as soon as `alive` says no: a component that
    has ended will not become ready. Both name `what` and show the end of `log`.
    """
    deadline = time.monotonic() + timeout
    while not condition():
        if alive is not None and not alive():
            raise ProcessDiedError(f"the process ended while waiting for {what}{_log_hint(log)}")
        if time.monotonic() > deadline:
            raise WaitTimeoutError(f"gave up after {timeout:.0f} s waiting for {what}{_log_hint(log)}")
        time.sleep(_POLL_SECONDS)


def _log_hint(log: Path | None) -> str:
    if log is None:
        return ""
    try:
        lines = log.read_text(errors="replace").splitlines()[-_LOG_TAIL_LINES:]
    except OSError:
        lines = []
    return "\n".join([f"; log: {log}", *(f"  | {line[:300]}" for line in lines)])

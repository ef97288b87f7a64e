"""The operator's own token for the Hub, in a file that may change at any time."""

from __future__ import annotations

import logging
from pathlib import Path

from kubequant.hub.transport import NO_TOKEN

log = logging.getLogger(__name__)


class TokenFile:
    """Read at each use, so that a rotated token counts at once. Without one the Hub is asked anonymously."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._trouble = ""

    def token(self) -> str | None:
        """None where there is none: `why_none` says why. Each new trouble is warned of once."""
        if self._file is None:
            return None
        text, trouble = _read(self._file)
        if trouble and trouble != self._trouble:
            log.warning("%s: the Hub is asked without a token", trouble)
        self._trouble = trouble
        return text or None

    def why_none(self) -> str:
        return f"the operator has no token, for {self._trouble}" if self._trouble else NO_TOKEN


def _read(file: Path) -> tuple[str, str]:
    """The token, or what is wrong with the file."""
    try:
        text = file.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        cause = error.strerror if isinstance(error, OSError) else "it is no text"
        return "", f"its token file {file} (hub.tokenFile) cannot be read: {cause}"
    return text, "" if text else f"its token file {file} (hub.tokenFile) is empty"

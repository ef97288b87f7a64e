"""What the hub's scan says of a repository's files. A repository that was not scanned is not safe: nobody has looked. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from huggingface_hub import ModelInfo

_UNSAFE = ("unsafe", "infected")


@dataclass(frozen=True)
class Scan:
    """Whether it is done, and the files that it marks as unsafe."""

    done: bool = False
    unsafe: tuple[str, ...] = ()


def scan_of(info: ModelInfo) -> Scan:
    """The scan as the repository's information has it, where that was asked for with securityStatus."""
    status = info.security_repo_status
    if not isinstance(status, Mapping):
        return Scan()
    stated = status.get("filesWithIssues")
    issues = [one for one in stated if isinstance(one, Mapping)] if isinstance(stated, list) else []
    unsafe = tuple(str(one.get("path"))[:200] for one in issues if one.get("level") in _UNSAFE)
    return Scan(status.get("scansDone") is True, unsafe)

"""What the hub's scan says of a repository's files. A repository that was not scanned is not safe: nobody has looked. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from huggingface_hub import ModelInfo

from kubequant.hub.documents import quoted

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


def unsafe_note(scan: Scan) -> str | None:
    """For a repository that somebody named: it is served, and what is known against it is said."""
    if not scan.unsafe:
        return None
    others = f" and {len(scan.unsafe) - 1} more" if len(scan.unsafe) > 1 else ""
    return (
        f"the hub's scan marks {quoted(scan.unsafe[0])}{others} as unsafe: look at the repository before you serve it"
    )

"""Who asked the API server for what: counts from its audit log."""

import json
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple


class AuditKey(NamedTuple):
    """What requests are counted by; `resource` is the URL's path for requests that are not for an object."""

    user: str
    verb: str
    resource: str
    subresource: str


@dataclass(frozen=True)
class AuditEntry:
    """One request, with the HTTP status that it got (a watch: when it opened)."""

    key: AuditKey
    api_group: str
    namespace: str
    name: str
    code: int
    message: str  # the server's words where it refused
    received: datetime

    @property
    def is_rejected(self) -> bool:
        return self.code >= 400


def read_entries(log: Path, user_prefix: str | None = None, since: datetime | None = None) -> Iterator[AuditEntry]:
    """Requests in `log` and in the files that the server has rotated it into.

    Lines that cannot match are skipped before they are parsed as JSON, which is what makes 100 MB quick.
    """
    # json.dumps escapes exactly as Go's encoder does for the characters that user names have.
    needle = f'"username":{json.dumps(user_prefix)[:-1]}'.encode() if user_prefix else b""
    opened: set[str] = set()
    for path in sorted(log.parent.glob(f"{log.stem}*{log.suffix}")):
        with path.open("rb") as lines:
            for line in lines:
                if needle in line and line.endswith(b"\n") and _is_new_request(event := json.loads(line), opened):
                    entry = _entry(event)
                    if _matches(entry, user_prefix, since):
                        yield entry


def count(
    entries: Iterator[AuditEntry], verbs: Collection[str] | None = None, rejected_only: bool = False
) -> Counter[AuditKey]:
    """Requests by user, verb, resource and subresource."""
    return Counter(
        entry.key
        for entry in entries
        if (verbs is None or entry.key.verb in verbs) and (entry.is_rejected or not rejected_only)
    )


def _is_new_request(event: dict[str, object], opened: set[str]) -> bool:
    """False for the second line of a watch, which is written once when it opens and once when it closes."""
    identifier = str(event["auditID"])
    if event["stage"] == "ResponseStarted":
        opened.add(identifier)
        return True
    return identifier not in opened


def _matches(entry: AuditEntry, user_prefix: str | None, since: datetime | None) -> bool:
    # The prefix was found somewhere in the line; here it must be the requesting user's.
    return entry.key.user.startswith(user_prefix or "") and (since is None or entry.received >= since.astimezone(UTC))


def _entry(event: dict[str, object]) -> AuditEntry:
    reference, user, status = (_mapping(event.get(key)) for key in ("objectRef", "user", "responseStatus"))
    resource = str(reference.get("resource") or str(event["requestURI"]).partition("?")[0])
    key = AuditKey(str(user.get("username", "")), str(event["verb"]), resource, str(reference.get("subresource", "")))
    return AuditEntry(
        key=key,
        api_group=str(reference.get("apiGroup", "")),
        namespace=str(reference.get("namespace", "")),
        name=str(reference.get("name", "")),
        code=int(str(status.get("code", 0))),
        message=str(status.get("message", "")),
        received=datetime.fromisoformat(str(event["requestReceivedTimestamp"])),
    )


def _mapping(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}

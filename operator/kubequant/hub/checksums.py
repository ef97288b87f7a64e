"""One checksum for every file that a pod fetches. Pure; the download step in the pod computes the same.

The format, exactly:

    a digest   sha256:<64 hex digits>            of a file in LFS, of its bytes
               git:<40 or 64 hex digits>         of any other file, git's blob id: the hash of b"blob <size>\\0" + its bytes
    a line     <digest>  <name>\\n               two spaces; the name relative to the repository's top
    the whole  sha256 over the lines, sorted as Python sorts strings, in UTF-8; 64 hex digits

All hex digits are lower case. The names are those of `patterns.downloaded`. Where one of them has no such digest, or is not
printable, so that a line could not be told from two, there is no checksum: "". tests/data/checksums.json holds examples.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|git:(?:[0-9a-f]{40}|[0-9a-f]{64})")


def digest_of(lfs_sha256: object, blob_id: object) -> str:
    """What the hub says of one file, as a digest; "" where it says neither."""
    if lfs_sha256:
        return f"sha256:{lfs_sha256}"
    return f"git:{blob_id}" if blob_id else ""


def checksum_of(digests: Mapping[str, str]) -> str:
    """64 hex digits for files by name, "" where a digest or a name is none, or where there is no file."""
    if not digests or not all(_DIGEST.fullmatch(digest) and name.isprintable() for name, digest in digests.items()):
        return ""
    lines = sorted(f"{digest}  {name}\n" for name, digest in digests.items())
    return hashlib.sha256("".join(lines).encode()).hexdigest()

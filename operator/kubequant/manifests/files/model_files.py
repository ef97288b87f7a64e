"""What a model's volume holds: which files, from where, and whether they are those that were planned with.

Used by download.py beside it, in the engine's own image. A file has its own name only once it is whole and verified; until
then its bytes stand in PARTS, where the next run goes on. (huggingface_hub starts a file anew after a kill.)
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import urlsplit

ALLOWED = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "tokenizer*")
IGNORED = ("original/*", "*.py", "consolidated*.safetensors")  # the operator's hub/patterns.py says why
INDEX = "model.safetensors.index.json"
OWN = ".kubequant"  # what our own files in the volume begin with
PARTS = f"{OWN}-parts"
DIGEST = re.compile(r"sha256:[0-9a-f]{64}|git:(?:[0-9a-f]{40}|[0-9a-f]{64})")
MAX_HEADER_BYTES = 100 * 1024 * 1024  # the bound of the safetensors format itself
MAX_HTTP_BYTES = 50 * 1000**3  # a larger file comes through huggingface_hub's Xet client only, and is not resumed
MAX_MESSAGE_CHARS = 500
BLOCK_BYTES = 4 * 1024 * 1024


class Failure(Exception):
    """Why the volume is not filled. `passing` ones are tried again."""

    def __init__(self, reason: str, message: str, passing: bool = False, **details: Any) -> None:
        super().__init__(message)
        self.reason, self.message, self.passing, self.details = reason, message, passing, details


class Entry(NamedTuple):
    """A file as the Hub lists it: bytes (None where it does not say), and `sha256:` or `git:` with hex digits, or ""."""

    size: int | None
    digest: str


class Wanted(NamedTuple):
    """The files to fetch, by name."""

    entries: dict[str, Entry]

    @property
    def total(self) -> int:
        return sum(entry.size or 0 for entry in self.entries.values())

    @property
    def is_sized(self) -> bool:
        return all(entry.size is not None for entry in self.entries.values())


def select(names: list[str]) -> list[str]:
    """The files that an engine reads, of all that a repository has."""
    allowed = [name for name in names if any(fnmatch.fnmatch(name, pattern) for pattern in ALLOWED)]
    return sorted(name for name in allowed if not any(fnmatch.fnmatch(name, pattern) for pattern in IGNORED))


def wanted_files(repository: str, revision: str, checksums: str) -> Wanted:
    """Asks the Hub for names, sizes and digests at the pinned commit; `checksums` is what the plan pinned, or ""."""
    from huggingface_hub import HfApi

    siblings = HfApi().model_info(repository, revision=revision, files_metadata=True).siblings or []
    listed = {sibling.rfilename: Entry(sibling.size, digest_listed(sibling)) for sibling in siblings}
    names = select(list(listed))
    if not any(name.endswith(".safetensors") for name in names):
        raise Failure("ModelNotFound", f"{repository} at {revision} has no safetensors file. Name another checkpoint.")
    for name in names:
        check_name(name)
    wanted = Wanted({name: listed[name] for name in names})
    check_pinned(repository, wanted, checksums)
    return wanted


def digest_listed(sibling: Any) -> str:
    large = getattr(sibling, "lfs", None)
    digest = f"sha256:{large.sha256}" if large else f"git:{getattr(sibling, 'blob_id', None)}"
    return digest if DIGEST.fullmatch(digest) else ""


def check_name(name: str) -> None:
    """Names are the repository's: they must stay below the folder, and keep away from our own files in it."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or path.parts[0].startswith(OWN) or "\0" in name:
        raise Failure("CorruptCheckpoint", f"The repository has a file {name[:200]!r}, which cannot be stored.")


def check_pinned(repository: str, wanted: Wanted, checksums: str) -> None:
    """That the Hub lists the very files that were planned with."""
    if not checksums:
        return
    advice = (
        "Use a hub that has the very files of this commit, or set the annotation kubequant.dev/replan on the model."
    )
    nameless = [name for name, entry in wanted.entries.items() if not entry.digest]
    if nameless:
        message = f"The hub names no digest of {nameless[0]}, and the plan pinned one for each file. {advice}"
        raise Failure("ChecksumMismatch", message, file=nameless[0], files=len(nameless))
    found = checksum_of({name: entry.digest for name, entry in wanted.entries.items()})
    if found != checksums:
        message = f"The files of {repository} are not those that were planned with. {advice}"
        raise Failure("ChecksumMismatch", message, expected=checksums, found=found)


def checksum_of(digests: dict[str, str]) -> str:
    """One for all files, as the operator's hub/checksums.py computes it."""
    if not digests or not all(DIGEST.fullmatch(digest) and name.isprintable() for name, digest in digests.items()):
        return ""
    lines = sorted(f"{digest}  {name}\n" for name, digest in digests.items())
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def fetch(repository: str, revision: str, folder: Path, name: str, entry: Entry) -> None:
    """Brings one file into the folder, from where an earlier run left off. Raises Failure, OSError and the client's errors."""
    if entry.size is not None and entry.size > MAX_HTTP_BYTES:
        part, resumed = fetch_whole(repository, revision, folder, name), False
    else:
        part, resumed = fetch_rest(repository, revision, folder, name, entry)
    verify(part, name, entry, again=resumed)
    with part.open("rb") as file:
        os.fsync(file.fileno())  # a name says that the file is whole, also after the node has lost power
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    part.replace(target)


def fetch_rest(repository: str, revision: str, folder: Path, name: str, entry: Entry) -> tuple[Path, bool]:
    """The part, whole, and whether it had been begun by an earlier run."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import http_get

    part = part_of(folder, name, revision)
    part.parent.mkdir(parents=True, exist_ok=True)
    url = hf_hub_url(repository, name, revision=revision)
    told = get_hf_file_metadata(url, retry_on_errors=True)
    size = told.size if entry.size is None else entry.size
    # Small files, those of git, may come compressed all the same: a range would mean something else there.
    begun = part.stat().st_size if part.is_file() and not entry.digest.startswith("git:") else 0
    if size is None or begun > size:
        begun = 0
    with part.open("ab") as file:
        file.truncate(begun)
        http_get(told.location, file, resume_size=begun, headers=headers_for(told.location, url), expected_size=size)
    return part, begun > 0


def headers_for(location: str, url: str) -> dict[str, str]:
    """The token goes to the Hub itself and never to where it points."""
    from huggingface_hub.utils import build_hf_headers

    same = urlsplit(location)[:2] == urlsplit(url)[:2]
    return {**build_hf_headers(token=None if same else False), "Accept-Encoding": "identity"}


def fetch_whole(repository: str, revision: str, folder: Path, name: str) -> Path:
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(repository, name, revision=revision, local_dir=str(folder / PARTS)))


def part_of(folder: Path, name: str, revision: str) -> Path:
    """One flat folder, and a name that no other commit's file has."""
    return folder / PARTS / f"{hashlib.sha256(f'{revision} {name}'.encode()).hexdigest()}.part"


def verify(path: Path, name: str, entry: Entry, again: bool) -> None:
    """That a fetched file is the one listed; else it is removed. `again`: what an earlier run left may be at fault."""
    size = path.stat().st_size
    if entry.size is not None and size != entry.size:
        path.unlink()
        message = f"{name} has {size} bytes after the download, not {entry.size}."
        raise Failure("DownloadFailed", message, True, file=name)
    found = digest_of(path, entry.digest) if entry.digest else ""
    if found != entry.digest:
        path.unlink()
        message = (
            f"{name} is not the file that the hub lists: its digest is {found}, not {entry.digest}. "
            "Find out what stands between this cluster and the hub, or name another checkpoint."
        )
        raise Failure("ChecksumMismatch", message, passing=again, file=name)


def digest_of(path: Path, like: str) -> str:
    """The digest of a file, by the algorithm of `like`."""
    kind, _, digits = like.partition(":")
    git = kind == "git"
    state = hashlib.new("sha1" if git and len(digits) == 40 else "sha256")
    if git:
        state.update(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            state.update(block)
    return f"{kind}:{state.hexdigest()}"


def is_there(folder: Path, name: str, entry: Entry, trusted: bool) -> bool:
    """Whether a file needs no fetching. Not `trusted`: nobody knows how it came by its name, so its digest decides."""
    path = folder / name
    if not path.is_file() or entry.size is None or path.stat().st_size != entry.size:
        return False
    return trusted or (entry.digest != "" and digest_of(path, entry.digest) == entry.digest)


def check_checkpoint(folder: Path, wanted: Wanted) -> None:
    """Every safetensors header fits its file, and the index names no file that the repository does not have."""
    for name in wanted.entries:
        if name.endswith(".safetensors"):
            check_header(folder / name, name)
    index = folder / INDEX
    if index.is_file():
        missing = sorted(shards_of(index) - set(wanted.entries))
        if missing:
            message = f"{INDEX} names {missing[0]}, which the repository does not have. Name another checkpoint."
            raise Failure("CorruptCheckpoint", message, file=missing[0], missing=len(missing))


def check_header(path: Path, name: str) -> None:
    """The size of the file is the Hub's, so a header that does not fit it was published so."""
    try:
        end = header_end(path)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        message = f"The header of {name} cannot be read ({error}). Name another checkpoint."
        raise Failure("CorruptCheckpoint", message, file=name) from error
    size = path.stat().st_size
    if end != size:
        message = f"The header of {name} describes {end} bytes and the file has {size}. Name another checkpoint."
        raise Failure("CorruptCheckpoint", message, file=name, described_bytes=end, file_bytes=size)


def header_end(path: Path) -> int:
    """Where the last tensor ends, in bytes from the start of the file."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= MAX_HEADER_BYTES:
            raise ValueError(f"it would be {length} bytes long")
        header = json.loads(file.read(length))
    ends = [tensor["data_offsets"][1] for key, tensor in header.items() if key != "__metadata__"]
    return 8 + length + max(ends, default=0)


def shards_of(index: Path) -> set[str]:
    try:
        return {str(name) for name in json.loads(index.read_text("utf-8"))["weight_map"].values()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Failure("CorruptCheckpoint", f"{INDEX} cannot be read ({error}). Name another checkpoint.") from error


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it was raised from: huggingface_hub wraps the error that tells."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def failure_of(error: BaseException, repository: str, revision: str) -> Failure:
    """What an error of huggingface_hub, of the network or of the disk means."""
    if isinstance(error, Failure):
        return error
    causes = list(chain(error))
    if any(isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT) for cause in causes):
        return Failure("DiskFull", "The model volume is full. Give it more space.")
    status = next((code for code in map(status_of, causes) if code is not None), None)
    if status in (401, 403):
        advice = "Accept the licence of the model, and name a Secret with a token that may read it."
        return Failure(
            "DownloadAccessDenied", f"The Hub denies access to {repository} (HTTP {status}). {advice}", http=status
        )
    if status == 404:
        advice = "Check the name; a private repository needs a token."
        return Failure("ModelNotFound", f"The Hub has no {repository} at {revision} (HTTP 404). {advice}", http=status)
    text = f"{type(error).__name__}: {error}"[:MAX_MESSAGE_CHARS]
    if status is not None:
        return Failure("DownloadFailed", f"The Hub answers HTTP {status} for {repository}. {text}", True, http=status)
    return Failure("DownloadFailed", f"The download of {repository} does not get through. {text}", True)


def status_of(error: BaseException) -> int | None:
    code = getattr(getattr(error, "response", None), "status_code", None)
    return code if isinstance(code, int) else None


def present_bytes(folder: Path) -> int:
    """Bytes that the download has put there by now, unfinished files too."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # renamed in the meantime
                total += Path(parent, name).lstat().st_size
    return total

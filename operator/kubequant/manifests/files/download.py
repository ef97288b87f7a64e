"""Fills the model volume: the init container of the engine's own image, before the launcher.

    python3 /kubequant/download.py --repository R --revision SHA --to /models/model --expected-bytes N

It uses what the image brings (`huggingface_hub` 1.x or 2.x, found through HF_ENDPOINT, HF_TOKEN, HF_HOME) and
`launcher.py` beside it for the termination message. Files that are complete are not fetched again, so that a restarted
container goes on where it was; a marker written last makes the next start ask nobody anything.

Exit codes: 0 when every file is there, 1 otherwise (the termination message says why), 128 + n after a signal.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import fnmatch
import glob
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from launcher import Redactor, say, termination, write_termination  # type: ignore[import-not-found]

ALLOWED = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "tokenizer*")
IGNORED = ("original/*", "*.py")
CONSOLIDATED = "consolidated*.safetensors"  # the same weights again, in Mistral's own layout
INDEX = "model.safetensors.index.json"
MARKER = ".kubequant-complete.json"
ATTEMPTS = 6
FIRST_PAUSE_SECONDS = 2.0
LONGEST_PAUSE_SECONDS = 60.0
PROGRESS_SECONDS = 10.0
MAX_HEADER_BYTES = 100 * 1024 * 1024  # the bound of the safetensors format itself
MAX_MESSAGE_CHARS = 500
GIB = 1024**3


class Failure(Exception):
    """Why the volume is not filled. `passing` ones are tried again."""

    def __init__(self, reason: str, message: str, passing: bool = False, **details: Any) -> None:
        super().__init__(message)
        self.reason, self.message, self.passing, self.details = reason, message, passing, details


class Wanted(NamedTuple):
    """The files to fetch and their sizes in bytes, as the Hub says (None where it does not)."""

    sizes: dict[str, int | None]

    @property
    def total(self) -> int:
        return sum(size or 0 for size in self.sizes.values())


def select(names: list[str]) -> list[str]:
    """The files that an engine reads, of all that a repository has."""
    ignored = list(IGNORED)
    if any(fnmatch.fnmatch(name, "model*.safetensors") for name in names):
        ignored.append(CONSOLIDATED)
    allowed = [name for name in names if any(fnmatch.fnmatch(name, pattern) for pattern in ALLOWED)]
    return sorted(name for name in allowed if not any(fnmatch.fnmatch(name, pattern) for pattern in ignored))


def gib(count: int) -> str:
    return f"{count / GIB:.2f} GiB"


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


def wanted_files(repository: str, revision: str) -> Wanted:
    """Asks the Hub for the names and sizes at the pinned commit."""
    from huggingface_hub import HfApi

    siblings = HfApi().model_info(repository, revision=revision, files_metadata=True).siblings or []
    sizes = {sibling.rfilename: sibling.size for sibling in siblings}
    names = select(list(sizes))
    if not any(name.endswith(".safetensors") for name in names):
        raise Failure("ModelNotFound", f"{repository} at {revision} has no safetensors file. Name another checkpoint.")
    return Wanted({name: sizes[name] for name in names})


def present_bytes(folder: Path) -> int:
    """Bytes that the download has put there by now, unfinished files too."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # renamed in the meantime
                total += Path(parent, name).lstat().st_size
    return total


def check_space(folder: Path, wanted: Wanted, expected_bytes: int) -> None:
    needed = max(wanted.total, 0 if all(size is not None for size in wanted.sizes.values()) else expected_bytes)
    missing, free = max(needed - present_bytes(folder), 0), shutil.disk_usage(folder).free
    if missing > free:
        message = (
            f"The model volume is too small: it needs {gib(missing)} more and has {gib(free)} free. Give it more space."
        )
        raise Failure("DiskFull", message, needed_bytes=missing, free_bytes=free, total_bytes=needed)


def fetch(repository: str, revision: str, folder: Path, wanted: Wanted) -> None:
    from huggingface_hub import snapshot_download

    names = [glob.escape(name) for name in wanted.sizes]
    snapshot_download(repository, revision=revision, local_dir=str(folder), allow_patterns=names, max_workers=4)


def verify(folder: Path, wanted: Wanted) -> None:
    """Every file is there with its size, every safetensors header fits its file, and the index names no other."""
    for name, size in wanted.sizes.items():
        path = folder / name
        found = path.stat().st_size if path.is_file() else None
        if found is None or (size is not None and found != size):
            remove(folder, name)  # or the next attempt would take it for complete
            raise Failure(
                "DownloadFailed", f"{name} has {found} bytes after the download, not {size}.", True, file=name
            )
        if name.endswith(".safetensors"):
            check_header(path, name)
    index = folder / INDEX
    if index.is_file():
        missing = sorted(shards_of(index) - set(wanted.sizes))
        if missing:
            message = f"{INDEX} names {missing[0]}, which the repository does not have. Name another checkpoint."
            raise Failure("CorruptCheckpoint", message, file=missing[0], missing=len(missing))


def remove(folder: Path, name: str) -> None:
    for path in (folder / name, folder / ".cache/huggingface/download" / f"{name}.metadata"):
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


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


def identity(repository: str, revision: str) -> dict[str, Any]:
    return {"version": 1, "repository": repository, "revision": revision}


def is_complete(folder: Path, repository: str, revision: str) -> bool:
    """Whether the marker is there, for this very commit, and so are its files with their sizes."""
    try:
        marker = json.loads((folder / MARKER).read_text("utf-8"))
        files = marker.pop("files")
        return marker == identity(repository, revision) and all(
            (folder / name).stat().st_size == size for name, size in files.items()
        )
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return False


def mark_complete(folder: Path, repository: str, revision: str, wanted: Wanted) -> None:
    files = {name: (folder / name).stat().st_size for name in wanted.sizes}
    unfinished = folder / f"{MARKER}.tmp"
    with unfinished.open("w", encoding="utf-8") as file:
        json.dump({**identity(repository, revision), "files": files}, file)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(folder / MARKER)


class Progress:
    """Says every ten seconds how far it is: in the log, and in the termination log for the case of a sudden end."""

    def __init__(self, folder: Path, total: int, termination_log: str) -> None:
        self._folder, self._total, self._log = folder, total, termination_log
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> None:
        self._tell()
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(PROGRESS_SECONDS):
            self._tell()

    def _tell(self) -> None:
        done = min(present_bytes(self._folder), self._total)
        text = f"{gib(done)} of {gib(self._total)}"
        print(f"download: {text}", flush=True)
        details = {"done_bytes": done, "total_bytes": self._total}
        write_termination(self._log, termination("download", "Downloading", f"Downloading: {text}.", details))


def attempt(options: argparse.Namespace, folder: Path) -> Wanted:
    wanted = wanted_files(options.repository, options.revision)
    check_space(folder, wanted, options.expected_bytes)
    with Progress(folder, wanted.total or options.expected_bytes, options.termination_log):
        fetch(options.repository, options.revision, folder, wanted)
    verify(folder, wanted)
    return wanted


def download(options: argparse.Namespace) -> None:
    """Tries until it is done, or until the failure is not a passing one, or ATTEMPTS are used up."""
    folder = Path(options.to)
    if is_complete(folder, options.repository, options.revision):
        print(f"download: {options.repository} is complete already", flush=True)
        return
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(1, options.attempts + 1):
        try:
            wanted = attempt(options, folder)
        except Exception as error:  # huggingface_hub's own errors differ between its versions
            failure = failure_of(error, options.repository, options.revision)
            if not failure.passing or number == options.attempts:
                raise failure from error
            pause = min(options.pause * 2 ** (number - 1), LONGEST_PAUSE_SECONDS)
            say(f"attempt {number} of {options.attempts}: {failure.message} Again in {pause:.0f} s.")
            time.sleep(pause)
        else:
            mark_complete(folder, options.repository, options.revision, wanted)
            print(f"download: complete, {len(wanted.sizes)} files, {gib(wanted.total)}", flush=True)
            return


def prepare_environment() -> None:
    """Before huggingface_hub is imported: it reads its settings then."""
    for name, value in (
        ("HF_HUB_DISABLE_TELEMETRY", "1"),
        ("HF_HUB_DISABLE_PROGRESS_BARS", "1"),
        ("HF_HUB_ETAG_TIMEOUT", "30"),
        ("HF_HUB_DOWNLOAD_TIMEOUT", "30"),
    ):
        os.environ.setdefault(name, value)


def end_at_once(number: int, _frame: Any) -> NoReturn:
    """PID 1 has no default actions; and threads that fetch need not be waited for, since what they fetched stays."""
    os._exit(128 + number)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="download.py", description="Fills the model volume from a model hub.")
    parser.add_argument("--repository", required=True)
    parser.add_argument("--revision", required=True, help="a commit")
    parser.add_argument("--to", required=True, help="the folder to fill")
    parser.add_argument(
        "--expected-bytes", type=int, default=0, help="what the plan expects, where the Hub gives no sizes"
    )
    parser.add_argument("--attempts", type=int, default=ATTEMPTS)
    parser.add_argument(
        "--pause", type=float, default=FIRST_PAUSE_SECONDS, help="seconds after the first failed attempt"
    )
    parser.add_argument(
        "--termination-log", default=os.environ.get("KUBEQUANT_TERMINATION_LOG", "/dev/termination-log")
    )
    options = parser.parse_args(arguments)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end_at_once)
    prepare_environment()
    redact = Redactor(dict(os.environ), [])
    try:
        download(options)
    except Failure as failure:
        message = redact(failure.message)
        say(f"{failure.reason}: {message}")
        write_termination(options.termination_log, termination("download", failure.reason, message, failure.details))
        return 1
    write_termination(options.termination_log, None)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

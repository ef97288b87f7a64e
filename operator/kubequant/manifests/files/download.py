"""Fills the model volume, in the engine's own image: the init container of a pod, or the Job of a cache volume.

    python3 /kubequant/download.py --repository R --revision SHA --to /models/model --expected-bytes N --checksums HEX

It uses what the image brings (`huggingface_hub` 1.x or 2.x, found through HF_ENDPOINT, HF_TOKEN, HF_HOME) and, beside it,
`launcher.py` for the termination message, `model_files.py`, and ca.pem where the operator was given authorities to trust.

A restarted container goes on where it was, also within a file. One process at a time fills a volume; a marker written last
makes the next one ask nobody anything.

Exit codes: 0 when every file is there, 1 when another run may succeed, 3 when it cannot unless something is changed (the
termination message says what), 128 + n after a signal.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import fcntl
import json
import os
import shutil
import signal
import ssl
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from launcher import (  # type: ignore[import-not-found]
    MARKER,
    VERSION,
    Redactor,
    say,
    serve_status,
    termination,
    write_termination,
)
from model_files import (  # type: ignore[import-not-found]
    OWN,
    PARTS,
    Failure,
    Wanted,
    check_checkpoint,
    failure_of,
    fetch,
    is_there,
    present_bytes,
    wanted_files,
)

LOCK = f"{OWN}-lock"
BEGUN = f"{OWN}-begun.json"
AUTHORITIES = "ca.pem"
ATTEMPTS = 6
FIRST_PAUSE_SECONDS = 2.0
LONGEST_PAUSE_SECONDS = 60.0
LOCK_SECONDS = 2.0
PROGRESS_SECONDS = 10.0
FILES_AT_ONCE = 4
EXIT_PASSING = 1
EXIT_PERMANENT = 3
GIB = 1024**3


def gib(count: int) -> str:
    return f"{count / GIB:.2f} GiB"


def check_space(folder: Path, wanted: Wanted, expected_bytes: int) -> None:
    needed = max(wanted.total, 0 if wanted.is_sized else expected_bytes)
    missing, free = max(needed - present_bytes(folder), 0), shutil.disk_usage(folder).free
    if missing > free:
        message = (
            f"The model volume is too small: it needs {gib(missing)} more and has {gib(free)} free. Give it more space."
        )
        raise Failure("DiskFull", message, needed_bytes=missing, free_bytes=free, total_bytes=needed)


def identity(options: argparse.Namespace) -> dict[str, Any]:
    """What a volume is filled with."""
    return {
        "version": 2,
        "repository": options.repository,
        "revision": options.revision,
        "checksums": options.checksums,
    }


def is_complete(folder: Path, wanted: dict[str, Any]) -> bool:
    """Whether the marker is there, for this very commit, and so are its files with their sizes."""
    try:
        marker = json.loads((folder / MARKER).read_text("utf-8"))
        files = marker.pop("files")
        return marker == wanted and all((folder / name).stat().st_size == size for name, size in files.items())
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return False


def write_whole(path: Path, document: dict[str, Any]) -> None:
    unfinished = path.with_name(f"{path.name}.tmp")
    with unfinished.open("w", encoding="utf-8") as file:
        json.dump(document, file)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


def begin(folder: Path, wanted: dict[str, Any]) -> bool:
    """Notes what the folder is being filled with. True where an earlier run has begun the same: its files are verified."""
    path = folder / BEGUN
    with contextlib.suppress(OSError, ValueError):
        if json.loads(path.read_text("utf-8")) == wanted:
            return True
    write_whole(path, wanted)
    return False


class Progress:
    """How far it is: in the log and the termination log (for the case of a sudden end) every ten seconds, and for who asks."""

    def __init__(self, folder: Path, expected_bytes: int, termination_log: str) -> None:
        self.total = expected_bytes
        self._folder, self._log = folder, termination_log
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Progress:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def status(self) -> dict[str, Any]:
        return {
            "version": VERSION,
            "phase": "Downloading",
            "downloaded_bytes": min(present_bytes(self._folder), self.total),
            "total_bytes": self.total,
        }

    def tell(self, text: str = "") -> None:
        status = self.status()
        done, total = status["downloaded_bytes"], status["total_bytes"]
        text = text or f"{gib(done)} of {gib(total)}"
        print(f"download: {text}", flush=True)
        details = {"done_bytes": done, "total_bytes": total}
        write_termination(self._log, termination("download", "Downloading", f"Downloading: {text}.", details))

    def _run(self) -> None:
        while not self._stop.wait(PROGRESS_SECONDS):
            self.tell()


@contextlib.contextmanager
def alone(folder: Path, progress: Progress) -> Iterator[None]:
    """Holds the volume's lock, which the kernel takes away from a process that dies."""
    with (folder / LOCK).open("w") as file:
        waits = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not waits:
                    waits = True
                    progress.tell("another pod fills this volume, waiting for it")
                time.sleep(LOCK_SECONDS)
            except OSError as error:
                say(f"this volume has no file locks ({error}): two pods that fill it at once would fetch twice.")
                break
        yield


def attempt(options: argparse.Namespace, folder: Path, progress: Progress) -> Wanted:
    wanted = wanted_files(options.repository, options.revision, options.checksums)
    progress.total = wanted.total or options.expected_bytes
    check_space(folder, wanted, options.expected_bytes)
    trusted = begin(folder, identity(options))
    progress.tell()
    executor = concurrent.futures.ThreadPoolExecutor(FILES_AT_ONCE)

    def bring(name: str) -> None:
        entry = wanted.entries[name]
        if not is_there(folder, name, entry, trusted):
            fetch(options.repository, options.revision, folder, name, entry)

    fetched = [executor.submit(bring, name) for name in wanted.entries]
    for future in concurrent.futures.as_completed(fetched):
        error = future.exception()
        if error is not None:
            failure = failure_of(error, options.repository, options.revision)
            # What can be mended is tried again once nobody writes any more; else the process ends, whoever writes.
            executor.shutdown(wait=failure.passing, cancel_futures=True)
            raise failure from error
    check_checkpoint(folder, wanted)
    return wanted


def download(options: argparse.Namespace) -> None:
    """Tries until it is done, or until the failure is not a passing one, or the attempts are used up."""
    folder = Path(options.to)
    if is_complete(folder, identity(options)):
        print(f"download: {options.repository} is complete already", flush=True)
        return
    folder.mkdir(parents=True, exist_ok=True)
    with Progress(folder, options.expected_bytes, options.termination_log) as progress:
        if options.port is not None:
            serve_status(options.port, progress.status)
        with alone(folder, progress):
            if is_complete(folder, identity(options)):
                print(f"download: {options.repository} was completed by another pod", flush=True)
                return
            fill(options, folder, progress)


def fill(options: argparse.Namespace, folder: Path, progress: Progress) -> None:
    for number in range(1, options.attempts + 1):
        try:
            wanted = attempt(options, folder, progress)
        except Exception as error:  # huggingface_hub's own errors differ between its versions
            failure = failure_of(error, options.repository, options.revision)
            if not failure.passing or number == options.attempts:
                raise failure from error
            pause = min(options.pause * 2 ** (number - 1), LONGEST_PAUSE_SECONDS)
            say(f"attempt {number} of {options.attempts}: {failure.message} Again in {pause:.0f} s.")
            time.sleep(pause)
        else:
            shutil.rmtree(folder / PARTS, ignore_errors=True)  # of files that another commit had
            files = {name: (folder / name).stat().st_size for name in wanted.entries}
            write_whole(folder / MARKER, {**identity(options), "files": files})
            print(f"download: complete, {len(files)} files, {gib(wanted.total)}", flush=True)
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
    authorities = Path(__file__).with_name(AUTHORITIES)
    if authorities.is_file():
        bundle = bundle_with(authorities)
        os.environ.update({"SSL_CERT_FILE": bundle, "REQUESTS_CA_BUNDLE": bundle})


def bundle_with(authorities: Path) -> str:
    """A file with the public authorities that are trusted anyway, and those of the operator's configuration."""
    try:
        from certifi import where  # type: ignore[import-not-found,unused-ignore]

        public: str | None = where()
    except ImportError:
        public = ssl.get_default_verify_paths().cafile
    parts = [Path(path).read_bytes() for path in (public, authorities) if path and Path(path).is_file()]
    with tempfile.NamedTemporaryFile(prefix="kubequant-ca-", suffix=".pem", delete=False) as file:
        file.write(b"\n".join(parts))
    return file.name


def end_at_once(number: int, _frame: Any) -> NoReturn:
    """PID 1 has no default actions; and threads that fetch need not be waited for, since what they fetched stays."""
    os._exit(128 + number)


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="download.py", description="Fills the model volume from a model hub.")
    parser.add_argument("--repository", required=True)
    parser.add_argument("--revision", required=True, help="a commit")
    parser.add_argument("--to", required=True, help="the folder to fill")
    parser.add_argument("--checksums", default="", help="64 hex digits over the digests of all files, as planned with")
    parser.add_argument(
        "--expected-bytes", type=int, default=0, help="what the plan expects, where the Hub gives no sizes"
    )
    parser.add_argument("--port", type=int, help="serve GET /status here")
    parser.add_argument("--attempts", type=int, default=ATTEMPTS)
    parser.add_argument(
        "--pause", type=float, default=FIRST_PAUSE_SECONDS, help="seconds after the first failed attempt"
    )
    parser.add_argument(
        "--termination-log", default=os.environ.get("KUBEQUANT_TERMINATION_LOG", "/dev/termination-log")
    )
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    options = parse(arguments)
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
        return EXIT_PASSING if failure.passing else EXIT_PERMANENT
    write_termination(options.termination_log, None)
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(code)  # not sys.exit: threads that fetch must not hold the end up

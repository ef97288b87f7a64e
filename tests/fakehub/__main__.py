"""`python -m tests.fakehub`: serves the standard set until it is told to end."""

from __future__ import annotations

import argparse
import signal
import threading
from pathlib import Path

from tests.fakehub.repository import Repository, quantized_card
from tests.fakehub.server import FakeHub
from tests.fakehub.standard import STANDARD_RENAMED, STANDARD_TOKENS, standard_repositories


def main() -> None:
    arguments = _parser().parse_args()
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    bases = dict(arguments.quantized_of)
    folders = [_served(repo_id, folder, bases.get(repo_id)) for repo_id, folder in arguments.folder]
    repositories = [*standard_repositories(), *folders]
    with FakeHub(
        repositories,
        host=arguments.host,
        port=arguments.port,
        tokens=STANDARD_TOKENS,
        renamed=STANDARD_RENAMED,
    ) as hub:
        url = hub.url_for(arguments.advertise) if arguments.advertise else hub.url
        print(url, flush=True)
        if arguments.url_file:
            _write_whole(arguments.url_file, url)
        ended.wait()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.fakehub", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (0.0.0.0: all)")
    parser.add_argument("--port", type=int, default=0, help="port to listen on (0: any free one)")
    parser.add_argument("--advertise", help="address that clients use, for the URL that is printed")
    parser.add_argument("--url-file", type=Path, help="file that the URL is written to once the hub answers")
    parser.add_argument(
        "--folder", type=_pair, action="append", default=[], metavar="ID=FOLDER", help="serve a real checkpoint too"
    )
    parser.add_argument(
        "--quantized-of", type=_pair, action="append", default=[], metavar="ID=BASE", help="what a folder was made from"
    )
    return parser


def _pair(text: str) -> tuple[str, str]:
    first, separator, second = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"{text!r} is no ID=VALUE")
    return first, second


def _served(repo_id: str, folder: str, base: str | None) -> Repository:
    return Repository.from_folder(repo_id, Path(folder), quantized_card(base) if base else None)


def _write_whole(path: Path, text: str) -> None:
    """So that a reader who waits for the file never finds half of it."""
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(text)
    unfinished.rename(path)


if __name__ == "__main__":
    main()

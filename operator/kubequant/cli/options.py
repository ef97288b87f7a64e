"""What the command line was asked, before anything is read. Imports nothing slow: --help must not wait."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import click


class Misuse(click.ClickException):
    """The question itself is wrong: a flag, a file, a name. Ends with 2."""

    exit_code = 2


@dataclass(frozen=True)
class FleetOptions:
    """Which GPUs to plan on: those named, those of a file, or else the cluster's."""

    gpus: tuple[str, ...] = ()
    file: Path | None = None
    prices: tuple[str, ...] = ()
    kubeconfig: str | None = None

    @property
    def of_cluster(self) -> bool:
        return not self.gpus and self.file is None


@dataclass(frozen=True)
class PlanOptions:
    """The flags of `kubequant plan`. Exactly one of `repository`, `manifest` and `folder` is given."""

    repository: str | None
    manifest: Path | None
    folder: Path | None
    fleet: FleetOptions
    context_tokens: int | None
    concurrent_requests: int | None
    tokens_per_request: int | None
    scheme: str | None
    objective: str | None
    kv_cache_dtype: str | None
    throughput: float | None  # tokens a second of one replica
    output: str
    diff: bool
    existing: bool = False  # what exists goes first, as the operator has it; a manifest always is planned so
    discovery: bool = True  # whether published checkpoints of the model compete with it


@dataclass(frozen=True)
class FindOptions:
    """The flags of `kubequant find`. Without GPUs in `fleet` nothing is planned."""

    repository: str
    revision: str | None
    fleet: FleetOptions
    publishers: tuple[str, ...]
    everything: bool
    output: str


def read_bounded(file: Path, maximum: int) -> bytes:
    """The bytes of a file, of the standard input for `-`. Raises Misuse beyond `maximum` bytes, and OSError."""
    if str(file) != "-":
        with file.open("rb") as opened:
            data = opened.read(maximum + 1)
    elif sys.stdin is None:
        raise Misuse("- is the standard input, which is closed")
    else:
        data = sys.stdin.buffer.read(maximum + 1)
    if len(data) > maximum:
        raise Misuse(f"{file} has more than {maximum:,} bytes, more than is read of such a file")
    return data


def source_of_arguments(
    source: str | None, manifest: Path | None, folder: Path | None
) -> tuple[str | None, Path | None, Path | None]:
    """(repository, manifest, folder), one of which is given: SOURCE is a manifest where such a file exists.

    Raises click.UsageError.
    """
    if sum(given is not None for given in (source, manifest, folder)) != 1:
        raise click.UsageError(
            "name one model: a REPOSITORY of the Hub, a manifest (-f FILE) or a folder (--model-path DIR)"
        )
    if source is None:
        return None, manifest, folder
    file = Path(source)
    if file.is_file():
        return None, file, None
    if file.suffix in (".yaml", ".yml", ".json"):
        raise click.UsageError(f"there is no file {source}")
    return source, None, None

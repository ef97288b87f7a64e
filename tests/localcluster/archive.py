"""Container images written straight from folders, without a container engine and without a file in between.

The format is `docker save`'s. A tar member's size stands before its bytes, so a layer is walked twice: once for the
sizes, once for the bytes; 6 GB of engine never lie on the disk a second time.
"""

import hashlib
import io
import json
import os
import stat
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

_BLOCK_BYTES = 512
_CHUNK_BYTES = 4 << 20
_END_OF_ARCHIVE = bytes(2 * _BLOCK_BYTES)


@dataclass(frozen=True)
class Layer:
    """The tree below `source`, put at `target` in the image; `replaced` has other content or symlinks for some files.

    Keys of `replaced` are paths below `source`; a str is a symlink's target, bytes are a file's content.
    """

    source: Path
    target: str = ""
    replaced: Mapping[str, str | bytes] = field(default_factory=dict)

    def entries(self) -> Iterator[tuple[tarfile.TarInfo, Path | bytes | None]]:
        """Members in a stable order, owned by root as images are, each with where its bytes are."""
        parents = [str(parent) for parent in reversed(Path(self.target).parents) if str(parent) != "."]
        yield from ((_directory(name), None) for name in parents if self.target)
        yield from self._walk(self.source, "")

    def _walk(self, folder: Path, relative: str) -> Iterator[tuple[tarfile.TarInfo, Path | bytes | None]]:
        if relative or self.target:
            yield _directory(self._name(relative), folder.stat().st_mode), None
        for entry in sorted(os.scandir(folder), key=lambda item: item.name):
            path = f"{relative}/{entry.name}" if relative else entry.name
            if entry.is_dir(follow_symlinks=False):
                yield from self._walk(Path(entry.path), path)
            elif (member := self._member(entry, path)) is not None:
                yield member

    def _name(self, relative: str) -> str:
        return "/".join(part for part in (self.target, relative) if part)

    def _member(self, entry: os.DirEntry[str], path: str) -> tuple[tarfile.TarInfo, Path | bytes] | None:
        info = tarfile.TarInfo(self._name(path))
        status = entry.stat(follow_symlinks=False)
        info.mode, info.mtime = stat.S_IMODE(status.st_mode), int(status.st_mtime)
        content = self.replaced.get(path)
        if isinstance(content, bytes):
            info.size = len(content)
            return info, content
        if isinstance(content, str) or entry.is_symlink():
            info.type, info.linkname = tarfile.SYMTYPE, content or str(Path(entry.path).readlink())
            return info, b""
        if not entry.is_file(follow_symlinks=False):
            return None  # device nodes and sockets: the runtime makes what a container needs
        info.size = status.st_size
        return info, Path(entry.path)


@dataclass(frozen=True)
class ImageConfig:
    """How a container of the image starts."""

    environment: Sequence[str]
    entrypoint: Sequence[str] = ()
    user: str = ""
    working_directory: str = "/"

    def document(self, layer_digests: Sequence[str]) -> bytes:
        """The image's configuration as JSON."""
        config = {
            "Env": list(self.environment),
            "Entrypoint": list(self.entrypoint) or None,
            "User": self.user,
            "WorkingDir": self.working_directory,
        }
        rootfs = {"type": "layers", "diff_ids": [f"sha256:{digest}" for digest in layer_digests]}
        return json.dumps({"architecture": "amd64", "os": "linux", "config": config, "rootfs": rootfs}).encode()


def write_image(output: BinaryIO, reference: str, config: ImageConfig, layers: Iterable[Layer]) -> None:
    """Write the image called `reference` to a stream that need not be seekable."""
    names, digests = [], []
    for index, layer in enumerate(layers):
        names.append(f"layer-{index}.tar")
        digests.append(_write_layer(output, names[-1], layer))
    document = config.document(digests)
    _write_file(output, "config.json", document)
    manifest = [{"Config": "config.json", "RepoTags": [reference], "Layers": names}]
    _write_file(output, "manifest.json", json.dumps(manifest).encode())
    output.write(_END_OF_ARCHIVE)


def _write_layer(output: BinaryIO, name: str, layer: Layer) -> str:
    members = list(layer.entries())
    size = sum(len(_header(info)) + _padded(info.size) for info, _ in members) + len(_END_OF_ARCHIVE)
    outer = tarfile.TarInfo(name)
    outer.size = size
    output.write(_header(outer))
    digest = hashlib.sha256()

    def put(data: bytes | memoryview) -> None:
        digest.update(data)
        output.write(data)

    buffer = memoryview(bytearray(_CHUNK_BYTES))
    for info, content in members:
        put(_header(info))
        for chunk in _chunks(info, content, buffer):
            put(chunk)
        put(bytes(_padded(info.size) - info.size))
    put(_END_OF_ARCHIVE)
    output.write(bytes(_padded(size) - size))
    return digest.hexdigest()


def _chunks(info: tarfile.TarInfo, content: Path | bytes | None, buffer: memoryview) -> Iterator[bytes | memoryview]:
    stream: BinaryIO = content.open("rb", buffering=0) if isinstance(content, Path) else io.BytesIO(content or b"")
    remaining = info.size
    with stream:
        while remaining:
            count = stream.readinto(buffer[: min(len(buffer), remaining)])  # type: ignore[attr-defined]
            if not count:
                raise OSError(f"{info.name} became shorter while it was read")
            yield buffer[:count]
            remaining -= count


def _write_file(output: BinaryIO, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    output.write(_header(info) + content + bytes(_padded(len(content)) - len(content)))


def _directory(name: str, mode: int = 0o755) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode = tarfile.DIRTYPE, stat.S_IMODE(mode)
    return info


def _header(info: tarfile.TarInfo) -> bytes:
    return info.tobuf(tarfile.GNU_FORMAT)


def _padded(size: int) -> int:
    return -(-size // _BLOCK_BYTES) * _BLOCK_BYTES

"""A safetensors file: read or refused in bounded memory, and never read where the safetensors library would refuse it."""

from __future__ import annotations

from contextlib import nullcontext

import safetensors

from kubequant.errors import Refused
from kubequant.hub.shards import CorruptShardError, Header, read_header
from kubequant.hub.tensors import ShardIndex
from kubequant.hub.transport import Piece
from kubequant.planning.tensors import classes_of

_MAX_DATA_BYTES = 65_536  # of files that are laid before the library


def fuzz(data: bytes) -> None:
    """The bytes as a whole file, as a header whose length is right, and as one whose data are cut off."""
    _read(data)
    file = len(data).to_bytes(8, "little") + data
    described = _read(file, data_required=False)
    if described is None:
        return
    needed = sum(tensor.bytes for tensor in described.values())
    if needed <= _MAX_DATA_BYTES:
        whole = file + bytes(needed)
        assert _read(whole) == described
        safetensors.deserialize(whole)


def _read(file: bytes, *, data_required: bool = True) -> Header | None:
    def piece(start: int, end: int) -> Piece:
        return Piece(file[start:end], len(file))

    try:
        header = read_header(piece, nullcontext(), data_required=data_required)
        loaded = ShardIndex({}).loaded_from("model.safetensors", header)
        classes_of((name, one.dtype, one.shape, one.bytes) for name, one in loaded.items())
    except CorruptShardError as error:
        assert len(str(error)) < 500 and str(error).isprintable(), str(error)
        return None
    except Refused:
        return None
    return header

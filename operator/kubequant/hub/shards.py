"""Headers of safetensors files: read with two ranged requests at most, checked like the safetensors library checks them.

The file: 8 bytes little-endian length N, N bytes of JSON {name: {dtype, shape, data_offsets}}, then data. The library
itself (and so vLLM) refuses a file whose offsets leave holes, overlap, or do not end with the file; so do we, before a
pod has fetched it. `huggingface_hub`'s parser checks none of that and ignores bytes that are no UTF-8.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from kubequant.hub.documents import InvalidDocumentError, parse_object, quoted
from kubequant.hub.transport import Piece

FIRST_BYTES = 100_000  # 97 % of the Hub's headers are shorter (huggingface_hub's own measurement)
MAX_HEADER_BYTES = 25_000_000  # huggingface_hub's bound; the safetensors library allows 100 MB
MAX_NAME_CHARACTERS = 512
MAX_DIMENSIONS = 16
_PREFIX_BYTES = 8
_METADATA = "__metadata__"

DTYPE_BITS: Mapping[str, int] = (
    {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}
    | dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8)
    | dict.fromkeys(("I16", "U16", "F16", "BF16"), 16)
    | dict.fromkeys(("I32", "U32", "F32"), 32)
    | dict.fromkeys(("I64", "U64", "F64", "C64"), 64)
)

ReadRange = Callable[[int, int], Piece]  # start, end (not included)


class CorruptShardError(Exception):
    """The file is no sound safetensors file. The text says what is wrong with it, with numbers."""


@dataclass(frozen=True)
class StoredTensor:
    """One tensor as a header states it. `end - start` are its bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def bytes(self) -> int:
        return self.end - self.start


def read_header(
    read: ReadRange, turn: AbstractContextManager[object], *, data_required: bool = True
) -> list[StoredTensor]:
    """The tensors of one file, by one request, or two where the header is longer than FIRST_BYTES.

    `turn` is entered to read and parse the rest of a longer one. Without `data_required` the file may end anywhere
    after its header. Raises CorruptShardError.
    """
    first = read(0, FIRST_BYTES)
    header_bytes = header_length(first.data, first.file_bytes)
    raw, data_start = first.data[_PREFIX_BYTES:], _PREFIX_BYTES + header_bytes
    data_bytes = first.file_bytes - data_start
    if len(raw) >= header_bytes:
        return parse_header(raw[:header_bytes], data_bytes, data_required=data_required)
    with turn:
        raw += read(len(first.data), data_start).data
        if len(raw) < header_bytes:
            raise CorruptShardError(f"its header ends after {len(raw):,} of {header_bytes:,} bytes")
        return parse_header(raw, data_bytes, data_required=data_required)


def header_length(prefix: bytes, file_bytes: int) -> int:
    """Bytes of JSON that follow the first eight. Raises CorruptShardError where that cannot be."""
    if len(prefix) < _PREFIX_BYTES or file_bytes < _PREFIX_BYTES:
        raise CorruptShardError(f"it has {file_bytes:,} bytes, too few for a safetensors file")
    length = int.from_bytes(prefix[:_PREFIX_BYTES], "little")
    if length + _PREFIX_BYTES > file_bytes:
        raise CorruptShardError(f"its header claims {length:,} bytes, but the whole file has {file_bytes:,}")
    if length > MAX_HEADER_BYTES:
        raise CorruptShardError(f"its header has {length:,} bytes; at most {MAX_HEADER_BYTES:,} are read")
    return length


def parse_header(raw: bytes, data_bytes: int, *, data_required: bool = True) -> list[StoredTensor]:
    """The tensors in the order of their data, which fill `data_bytes` without a hole. Raises CorruptShardError.

    Without `data_required` they may need more than there is.
    """
    try:
        entries = parse_object(raw)
    except InvalidDocumentError as error:
        raise CorruptShardError(f"its header cannot be read: {error}") from None
    entries.pop(_METADATA, None)
    tensors = sorted(_tensors(entries), key=lambda tensor: (tensor.start, tensor.end))
    _check_data(tensors, data_bytes, data_required)
    return tensors


def _tensors(entries: Mapping[str, Any]) -> Iterator[StoredTensor]:
    for name, entry in entries.items():
        if not (0 < len(name) <= MAX_NAME_CHARACTERS and name.isprintable()):
            raise CorruptShardError(f"it names a tensor {quoted(name)} ({len(name)} characters)")
        try:
            yield _tensor(name, entry)
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptShardError(f"its entry for {quoted(name)} is broken: {error!s:.120}") from None


def _tensor(name: str, entry: Mapping[str, Any]) -> StoredTensor:
    dtype, shape, (start, end) = entry["dtype"], _counts(entry["shape"]), _counts(entry["data_offsets"])
    if dtype not in DTYPE_BITS:
        raise ValueError(f"unknown dtype {quoted(dtype)}")
    if len(shape) > MAX_DIMENSIONS:
        raise ValueError(f"{len(shape)} dimensions")
    bits = math.prod(shape) * DTYPE_BITS[dtype]
    if bits != (end - start) * 8:
        raise ValueError(f"{dtype} {list(shape)} needs {bits // 8:,} bytes, its offsets give {end - start:,}")
    return StoredTensor(name, dtype, shape, start, end)


def _counts(numbers: object) -> tuple[int, ...]:
    """Non-negative integers below 2^63; JSON's true and 1.0 are none."""
    if not isinstance(numbers, list) or not all(type(number) is int and 0 <= number < 2**63 for number in numbers):
        raise ValueError(f"{quoted(numbers)} is no list of counts")
    return tuple(numbers)


def _check_data(tensors: list[StoredTensor], data_bytes: int, required: bool) -> None:
    reached = 0
    for tensor in tensors:
        if tensor.start != reached:
            raise CorruptShardError(
                f"the data of {quoted(tensor.name)} starts at byte {tensor.start:,}, where {reached:,} was due"
            )
        reached = tensor.end
    if reached < data_bytes or (reached > data_bytes and required):
        raise CorruptShardError(f"its header describes {reached:,} bytes of data, but {data_bytes:,} follow it")

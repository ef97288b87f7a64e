"""Headers of safetensors files: read with two ranged requests at most, checked like the safetensors library checks them.

The file: 8 bytes little-endian length N, N bytes of JSON {name: {dtype, shape, data_offsets}}, then data. The library
itself (and so vLLM) refuses a file whose offsets leave holes, overlap, or do not end with the file; so do we, before a
pod has fetched it. `huggingface_hub`'s parser checks none of that and ignores bytes that are no UTF-8. Stricter than the library: a name
that stands twice is refused, where JSON parsers take the last one silently.

A header of 50,000 tensors is read in less than twice the time of json.loads, and in less memory (bench/headers.py): what is
the same for many tensors is checked once, and a culprit is looked for only where there is one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import cache
from typing import Any, NamedTuple

from kubequant.hub.documents import InvalidDocumentError, Pairs, parse_object, quoted, with_unique_names
from kubequant.hub.transport import Piece

FIRST_BYTES = 100_000  # 97 % of the Hub's headers are shorter (huggingface_hub's own measurement)
MAX_HEADER_BYTES = 25_000_000  # huggingface_hub's bound; the safetensors library allows 100 MB
MAX_NAME_CHARACTERS = 512
MAX_DIMENSIONS = 16
_PREFIX_BYTES = 8
_BEYOND = 2**63  # numbers of the format have 64 bits
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


class StoredTensor(NamedTuple):
    """What a header states of one tensor; those that are alike share it."""

    bytes: int
    dtype: str
    shape: tuple[int, ...]


Header = dict[str, StoredTensor]
_Entry = tuple[int, int, StoredTensor]  # the first byte of its data, and the one after the last


def read_header(read: ReadRange, turn: AbstractContextManager[object], *, data_required: bool = True) -> Header:
    """The tensors of one file by name, by one request, or two where the header is longer than FIRST_BYTES.

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


def parse_header(raw: bytes, data_bytes: int, *, data_required: bool = True) -> Header:
    """The tensors by name, whose data fill `data_bytes` without a hole. Raises CorruptShardError.

    Without `data_required` they may need more than there is.
    """
    try:
        entries = parse_object(raw, _entry_reader(raw), _count if b"-" in raw else None, _refuse_fraction)
    except InvalidDocumentError as error:
        raise CorruptShardError(f"its header cannot be read: {error}") from None
    _check_metadata(entries.pop(_METADATA, None))
    _check_names(entries, raw)
    if odd := next((name for name, entry in entries.items() if type(entry) is not tuple), None):
        raise _broken(odd, entries[odd])
    _check_data(entries, data_bytes, data_required)
    return {name: tensor for name, (_, _, tensor) in entries.items()}


def _entry_reader(raw: bytes) -> Callable[[Pairs], object]:
    """Makes sound entries short while the rest is still being parsed, which halves the memory of 50,000 of them.

    Objects that are no sound entry stay as they are: all entries together, metadata, and one that is complained of later,
    when its name is known.
    """
    known: dict[str, dict[tuple[int, ...], StoredTensor]] = {}  # by dtype and shape

    @cache
    def has_truths() -> bool:
        return b"true" in raw or b"false" in raw

    def read(pairs: Pairs) -> object:
        try:
            (first, dtype), (second, shape), (third, (start, end)) = pairs
            tensor = known[dtype][tuple(shape)]
            if (
                end - start == tensor[0]
                and first == "dtype"
                and second == "shape"
                and third == "data_offsets"
                and type(shape) is list
            ):
                return start, end, tensor
        except (KeyError, TypeError, ValueError):
            pass
        fields = with_unique_names(pairs)
        try:
            start, end, tensor = _entry(fields)
        except (KeyError, TypeError, ValueError):
            return fields
        if min(tensor.shape, default=2) > 1 or not has_truths():  # as keys of a dict they are 1 and 0
            known.setdefault(tensor.dtype, {})[tensor.shape] = tensor
        return start, end, tensor

    return read


def _entry(fields: Any) -> _Entry:
    """Raises KeyError, TypeError or ValueError."""
    tensor = _tensor(fields["dtype"], fields["shape"])
    start, end = fields["data_offsets"]
    if type(start) is not int or type(end) is not int or start < 0:
        raise ValueError(f"{quoted([start, end])} are no offsets")
    if end - start != tensor.bytes:
        needed = f"{tensor.dtype} {list(tensor.shape)} needs {tensor.bytes:,} bytes"
        raise ValueError(f"{needed}, its offsets give {end - start:,}")
    return start, end, tensor


def _tensor(dtype: object, shape: object) -> StoredTensor:
    """JSON's true is no count. Raises ValueError."""
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise ValueError(f"unknown dtype {quoted(dtype)}")
    if not isinstance(shape, list) or not all(type(side) is int and 0 <= side < _BEYOND for side in shape):
        raise ValueError(f"{quoted(shape)} is no shape")
    if len(shape) > MAX_DIMENSIONS:
        raise ValueError(f"{len(shape)} dimensions")
    bits = math.prod(shape) * DTYPE_BITS[dtype]
    if bits % 8 or bits >= 8 * _BEYOND:
        raise ValueError(f"no whole number of bytes, or too many: {dtype} {shape}")
    return StoredTensor(bits // 8, dtype, tuple(shape))


def _broken(name: str, entry: object) -> CorruptShardError:
    try:
        _entry(entry)
    except (KeyError, TypeError, ValueError) as error:
        return CorruptShardError(f"its entry for {quoted(name)} is broken: {error!s:.120}")
    return CorruptShardError(f"its entry for {quoted(name)} is broken")


def _count(number: str) -> int:
    """-0 is none: to Python it is 0."""
    if number.startswith("-"):
        raise InvalidDocumentError(f"it holds {quoted(number)}, which is no count")
    return int(number)


def _refuse_fraction(number: str) -> object:
    raise InvalidDocumentError(f"it holds {quoted(number)}, which is no count")


def _check_metadata(metadata: object) -> None:
    if metadata is None:
        return
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CorruptShardError(f"its {_METADATA} hold something else than texts")


def _check_names(entries: Mapping[str, object], raw: bytes) -> None:
    # JSON has control characters escaped only, and of ASCII's other characters one alone cannot be printed.
    printable = raw.isascii() and b"\\" not in raw and b"\x7f" not in raw
    if max(map(len, entries), default=0) > MAX_NAME_CHARACTERS or "" in entries or not printable:
        odd = (name for name in entries if not (0 < len(name) <= MAX_NAME_CHARACTERS and name.isprintable()))
        for name in odd:
            raise CorruptShardError(f"it names a tensor {quoted(name)} ({len(name)} characters)")


def _check_data(entries: Mapping[str, _Entry], data_bytes: int, required: bool) -> None:
    reached = 0
    for start, end, _ in sorted(entries.values()):
        if start != reached or (start < 2 and bool in (type(start), type(end))):
            name = next(name for name, entry in entries.items() if entry[0] == start)
            raise CorruptShardError(f"the data of {quoted(name)} starts at byte {start}, where {reached:,} was due")
        reached = end
    if reached < data_bytes or (reached > data_bytes and required):
        raise CorruptShardError(f"its header describes {reached:,} bytes of data, but {data_bytes:,} follow it")

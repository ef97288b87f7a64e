"""Headers of safetensors files: sound ones are read, and nothing that the safetensors library refuses passes."""

from __future__ import annotations

import json
import math
from contextlib import nullcontext
from typing import Any

import pytest
import safetensors
from hypothesis import given
from hypothesis import strategies as some

from kubequant.hub.shards import (
    DTYPE_BITS,
    FIRST_BYTES,
    MAX_HEADER_BYTES,
    CorruptShardError,
    header_length,
    parse_header,
    read_header,
)
from kubequant.hub.transport import Piece

Entries = dict[str, Any]


def entry(dtype: str = "BF16", shape: tuple[int, ...] = (2, 3), start: int = 0, end: int = 12) -> Entries:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


def raw(entries: object) -> bytes:
    return json.dumps(entries).encode()


def in_file(entries: object, data_bytes: int) -> bytes:
    text = raw(entries)
    return len(text).to_bytes(8, "little") + text + bytes(data_bytes)


class Reader:
    """Reads ranges of a file in memory and counts them."""

    def __init__(self, file: bytes) -> None:
        self.file = file
        self.ranges: list[tuple[int, int]] = []

    def __call__(self, start: int, end: int) -> Piece:
        self.ranges.append((start, end))
        return Piece(self.file[start:end], len(self.file))


class Turn:
    """Counts how often it is entered."""

    taken = 0

    def __enter__(self) -> None:
        self.taken += 1

    def __exit__(self, *_: object) -> None:
        pass


shapes = some.lists(some.integers(0, 5), max_size=4).map(tuple)
whole_byte_dtypes = some.sampled_from(sorted(name for name, bits in DTYPE_BITS.items() if bits % 8 == 0))


@given(
    some.dictionaries(some.from_regex(r"[a-z][a-z0-9_.]{0,40}", fullmatch=True), some.tuples(whole_byte_dtypes, shapes))
)
def test_any_sound_file_is_read_as_it_is(described: dict[str, tuple[str, tuple[int, ...]]]) -> None:
    entries: Entries = {"__metadata__": {"format": "pt"}}
    reached = 0
    for name, (dtype, shape) in described.items():
        end = reached + math.prod(shape) * DTYPE_BITS[dtype] // 8
        entries[name] = entry(dtype, shape, reached, end)
        reached = end
    tensors = read_header(Reader(in_file(entries, reached)), nullcontext())
    assert {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()} == described
    assert sum(tensor.bytes for tensor in tensors.values()) == reached


@given(some.binary(max_size=60))
def test_any_bytes_are_read_or_refused(noise: bytes) -> None:
    for file in (noise, len(noise).to_bytes(8, "little") + noise):
        try:
            tensors = read_header(Reader(file), nullcontext())
        except CorruptShardError:
            continue
        assert tensors == {}


BROKEN = {
    "a hole": {"a": entry("U8", (10,), 0, 10), "b": entry("U8", (12,), 12, 24)},
    "an overlap": {"a": entry("U8", (14,), 0, 14), "b": entry("U8", (12,), 12, 24)},
    "data missing": {"a": entry(), "b": entry(start=12, end=24), "c": entry(start=24, end=36)},
    "data left over": {"a": entry()},
    "offsets backwards": {"a": entry(start=12, end=0)},
    "bytes unlike the shape": {"a": entry(shape=(2, 6), end=23), "b": entry("U8", (2,), 23, 25)},
    "unknown dtype": {"a": entry("BF17"), "b": entry(start=12, end=24)},
    "shape of floats": {"a": {"dtype": "BF16", "shape": [6.0], "data_offsets": [0, 12]}},
    "negative shape": {"a": {"dtype": "BF16", "shape": [-2, -6], "data_offsets": [0, 24]}},
    "shape missing": {"a": {"dtype": "BF16", "data_offsets": [0, 24]}},
    "three offsets": {"a": {"dtype": "BF16", "shape": [12], "data_offsets": [0, 12, 24]}},
    "entry is a list": {"a": [1, 2]},
    "integer beyond the format": {"a": {"dtype": "BF16", "shape": [2**64], "data_offsets": [0, 24]}},
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_headers_are_refused_here_as_by_the_safetensors_library(name: str) -> None:
    with pytest.raises(safetensors.SafetensorError):
        safetensors.deserialize(in_file(BROKEN[name], 24))
    with pytest.raises(CorruptShardError):
        parse_header(raw(BROKEN[name]), 24)


@pytest.mark.parametrize(
    "entries",
    [
        {"": entry()},
        {"a\nb": entry()},
        {"a" * 513: entry()},
        {"a": {"dtype": ["BF16"], "shape": [6], "data_offsets": [0, 12]}},
        {"a": {"dtype": "BF16", "shape": [True, 6], "data_offsets": [0, 12]}},
        {"a": entry(shape=(1,) * 15 + (2, 3))},
    ],
)
def test_stricter_than_the_library(entries: Entries) -> None:
    with pytest.raises(CorruptShardError):
        parse_header(raw(entries), 12)


def test_sub_byte_dtypes() -> None:
    header = parse_header(raw({"a": entry("F4", (3, 8), 0, 12)}), 12)
    assert header["a"].bytes == 12


@pytest.mark.parametrize(
    ("length", "file_bytes", "words"),
    [
        (10, 17, "claims 10 bytes, but the whole file has 17"),
        (2**63, 10**9, "but the whole file has 1,000,000,000"),
        (MAX_HEADER_BYTES + 1, 10**12, "at most 25,000,000 are read"),
    ],
)
def test_lengths_that_cannot_be(length: int, file_bytes: int, words: str) -> None:
    with pytest.raises(CorruptShardError, match=words):
        header_length(length.to_bytes(8, "little"), file_bytes)


def test_a_header_takes_a_second_request_only_beyond_the_first_piece() -> None:
    padding = FIRST_BYTES - 8 - len(raw({"__metadata__": {"x": ""}, "a": entry()}))
    for more, requests in ((0, 1), (1, 2)):
        reader = Reader(in_file({"__metadata__": {"x": "y" * (padding + more)}, "a": entry()}, 12))
        turn = Turn()
        assert len(read_header(reader, turn)) == 1
        assert turn.taken == requests - 1
        assert len(reader.ranges) == requests
        assert max(end for _, end in reader.ranges) == FIRST_BYTES + more


def test_a_server_that_sends_less_than_it_said() -> None:
    whole = in_file({"__metadata__": {"x": "y" * FIRST_BYTES}}, 0)

    def read(start: int, end: int) -> Piece:
        return Piece(whole[start:end][:50_000], len(whole))

    with pytest.raises(CorruptShardError, match="its header ends after"):
        read_header(read, nullcontext())

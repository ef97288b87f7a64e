"""Headers of safetensors files: sound ones are read, and nothing that the safetensors library refuses passes."""

from __future__ import annotations

import json
import math
import tracemalloc
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


numbers = some.integers(-1, 9) | some.sampled_from([True, False, None, 0.0, 1.0, 2**63, 2**64, "1", []])
described = some.fixed_dictionaries(
    {},
    optional={
        "dtype": some.sampled_from(["U8", "F32", "F4", "BF17", None, ["U8"]]),
        "shape": some.lists(numbers, max_size=3) | numbers,
        "data_offsets": some.lists(numbers, min_size=1, max_size=3) | numbers,
    },
)


@given(some.dictionaries(some.sampled_from(["a", "b", "c", "__metadata__", "", "\n"]), described), some.integers(0, 20))
def test_nothing_passes_that_the_library_refuses(entries: Entries, data_bytes: int) -> None:
    file = in_file(entries, data_bytes)
    try:
        tensors = read_header(Reader(file), nullcontext())
    except CorruptShardError as error:
        assert len(str(error)) < 300
    else:
        assert {name: list(one.shape) for name, one in tensors.items()} == {
            name: one["shape"] for name, one in safetensors.deserialize(file)
        }


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


ENTRY = b'{"dtype":"U8","shape":[1],"data_offsets":[0,1]}'
NEXT = b'{"dtype":"U8","shape":[1],"data_offsets":[1,2]}'
HOSTILE: dict[str, tuple[bytes, int, str]] = {
    "a name twice": (b'{"a":%b,"a":%b}' % (ENTRY, ENTRY), 1, "it names 'a' twice"),
    "a name twice, the first a null": (b'{"a":null,"a":%b}' % ENTRY, 1, "it names 'a' twice"),
    "a name twice, once escaped": (b'{"a":%b,"\\u0061":%b}' % (ENTRY, NEXT), 2, "it names 'a' twice"),
    "a field twice": (b'{"a":{"dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1]}}', 1, "'dtype' twice"),
    "metadata twice": (b'{"__metadata__":{},"a":%b,"__metadata__":{}}' % ENTRY, 1, "'__metadata__' twice"),
    "metadata of numbers": (b'{"__metadata__":{"a":1},"a":%b}' % ENTRY, 1, "something else than texts"),
    "true after a sound 1": (b'{"a":%b,"b":{"dtype":"U8","shape":[true],"data_offsets":[1,2]}}' % ENTRY, 2, "no shape"),
    "true as an offset": (b'{"a":%b,"b":{"dtype":"U8","shape":[1],"data_offsets":[true,2]}}' % ENTRY, 2, "offsets"),
    "false as an offset": (
        b'{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[2,4]},'
        b'"c":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"d":{"dtype":"U8","shape":[0],"data_offsets":[false,0]}}',
        4, "'d'",
    ),
    "1.0 after a sound 1": (b'{"a":%b,"b":{"dtype":"U8","shape":[1.0],"data_offsets":[1,2]}}' % ENTRY, 2, "'1.0'"),
    "an exponent": (b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1e0]}}', 1, "'1e0', which is no count"),
    "minus zero": (b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[-0,0]}}', 0, "'-0', which is no count"),
    "an object for a shape": (  # as empty as a sound list
        b'{"a":{"dtype":"U8","shape":[],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":{},"data_offsets":[1,2]}}', 2, "no shape"),
    "deep JSON": (b'{"a":' + b"[" * 20_000 + b"]" * 20_000 + b"}", 1, "nested too deeply"),
    "a deep shape": (b'{"a":{"dtype":"U8","shape":' + b"[" * 900 + b"]" * 900 + b',"data_offsets":[0,1]}}', 1, "its "),
    "an integer of 5,000 digits": (b'{"a":{"dtype":"U8","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,1]}}', 1, "no JSON"),
    "an integer of 4,000 digits": (b'{"a":{"dtype":"U8","shape":[' + b"9" * 4000 + b'],"data_offsets":[0,1]}}', 1, "no shape"),
    "sides whose product is beyond the format": (
        b'{"a":{"dtype":"U8","shape":[' + b",".join([b"9223372036854775807"] * 16) + b'],"data_offsets":[0,1]}}', 1, "too many",
    ),
    "a name with a bell": (b'{"a\\u0007":%b}' % ENTRY, 1, r"'a\x07'"),
    "a name with a delete": (b'{"a\x7f":%b}' % ENTRY, 1, r"'a\x7f'"),
    "a name that turns text around": (b'{"a\xe2\x80\xae":%b}' % ENTRY, 1, "202e"),
    "half a character": (b'{"\\ud800":%b}' % ENTRY, 1, "ud800"),
    "no UTF-8": (b'{"\xff":%b}' % ENTRY, 1, "no JSON"),
    "cut": (b'{"a":%b' % ENTRY, 1, "no JSON"),
    "a list": (b"[]", 0, "JSON list"),
    "a sound entry where all entries should be": (ENTRY, 1, "JSON tuple"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_headers_get_one_clear_error(name: str) -> None:
    header, data_bytes, words = HOSTILE[name]
    with pytest.raises(CorruptShardError) as refused:
        read_header(Reader(len(header).to_bytes(8, "little") + header + bytes(data_bytes)), nullcontext())
    assert words in str(refused.value)
    assert len(str(refused.value)) < 300 and str(refused.value).isprintable()


SOUND = {
    "fields in another order": (b'{"a":{"data_offsets":[0,1],"shape":[1],"dtype":"U8"}}', ["a"]),
    "tensors in another order": (b'{"b":%b,"a":%b}' % (NEXT, ENTRY), ["b", "a"]),
    "a field more": (b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":{}}}', ["a"]),
    "tensors called like fields": (b'{"data_offsets":%b,"dtype":%b}' % (ENTRY, NEXT), ["data_offsets", "dtype"]),
    "a name with a minus and a truth": (b'{"a-0.true":%b}' % ENTRY, ["a-0.true"]),
    "metadata that is null": (b'{"__metadata__":null,"a":%b}' % ENTRY, ["a"]),
    "metadata with escapes": (b'{"__metadata__":{"a":"\\n\\"true\\""},"a":%b}' % ENTRY, ["a"]),
    "tensors of no bytes": (b'{"a":{"dtype":"U8","shape":[0,4],"data_offsets":[0,0]}}', ["a"]),
    "padded with spaces": (b'{"a":%b}     ' % ENTRY, ["a"]),
    "letters of other scripts": (b'{"gr\xc3\xb6\xc3\x9fe":%b}' % ENTRY, ["größe"]),
}


@pytest.mark.parametrize("name", SOUND)
def test_unusual_headers_that_the_library_reads_are_read(name: str) -> None:
    header, names = SOUND[name]
    data_bytes = 0 if b"[0,0]" in header else len(names)
    file = len(header).to_bytes(8, "little") + header + bytes(data_bytes)
    assert sorted(dict(safetensors.deserialize(file))) == sorted(names)
    assert list(read_header(Reader(file), nullcontext())) == names


def test_memory_is_bounded_by_the_header() -> None:
    entries: Entries = {
        f"model.layers.{n}.mlp.experts.{n}.w1.weight": entry("U8", (2, 3), 6 * n, 6 * n + 6) for n in range(20_000)
    }
    header = raw(entries)
    tracemalloc.start()
    parse_header(header, 120_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5 * len(header)


def test_a_file_that_claims_more_than_is_read_is_never_asked_for() -> None:
    def read(start: int, end: int) -> Piece:
        assert end <= FIRST_BYTES
        return Piece((MAX_HEADER_BYTES + 1).to_bytes(8, "little") + b"{" * (end - start - 8), 10**12)

    with pytest.raises(CorruptShardError, match="at most 25,000,000 are read"):
        read_header(read, nullcontext())

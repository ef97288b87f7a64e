"""Facts as JSON: what was written is read, small enough for a termination message, and what a stranger wrote is checked."""

from __future__ import annotations

import base64
import json
import tracemalloc
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.checkpoints import mixtral_checkpoint
from kubequant.planning.architectures import shape_of
from kubequant.planning.facts_json import facts_from_json, facts_to_json, packed_facts, unpacked_facts
from kubequant.planning.quantization_fields import names
from kubequant.planning.tensors import classes_of
from kubequant.planning.values import (
    CacheKind,
    CacheLayers,
    Experts,
    ModelFacts,
    ModelShape,
    StateTensor,
    StoredMethod,
    StoredQuantization,
    TensorClass,
)
from tests.unit.planning.models import CONFIGS, model

SCHEMES = ("Unquantized", "AWQ", "GPTQ", "W4A16", "FP8", "FP8_BLOCK", "W8A8")
DATA = Path(__file__).parents[2] / "data" / "architectures"
TERMINATION_MESSAGE = 3_000  # characters; the kubelet keeps 4,096 bytes, some of which the envelope takes

NAMES = st.text(st.characters(codec="utf-8", categories=("L", "N", "P")), max_size=30)
COUNTS, SIZES = st.integers(0, 2**50), st.integers(1, 4096)
TENSORS = st.tuples(NAMES, NAMES, st.lists(COUNTS, max_size=3).map(tuple), SIZES, COUNTS).map(
    lambda one: TensorClass(*one)
)
STORED = st.builds(
    StoredQuantization,
    st.sampled_from(StoredMethod), st.sampled_from(("W4A16", "FP8", "NVFP4")), st.integers(1, 16),
    st.none() | st.sampled_from((-1, 16, 128)), st.booleans(), st.booleans(), st.none() | st.tuples(SIZES, SIZES),
    st.none() | st.just("FP8"), st.lists(NAMES, max_size=3).map(tuple),
)  # fmt: skip
STATES = st.lists(st.builds(StateTensor, SIZES, SIZES, st.sampled_from(("Model", "F32"))), min_size=1, max_size=3).map(
    tuple
)
CACHES = st.builds(CacheLayers, st.sampled_from(CacheKind), *[SIZES] * 5, STATES)
EXPERTS = st.builds(Experts, st.integers(8, 4096), st.integers(1, 8), SIZES, COUNTS, COUNTS)
SHAPES = st.builds(
    ModelShape, NAMES, NAMES, *[SIZES] * 8, st.booleans(), st.sampled_from(("BF16", "F16", "F32")),
    st.lists(CACHES, max_size=3).map(tuple), st.none() | EXPERTS, *[st.booleans()] * 3, SIZES, st.booleans(), NAMES,
    st.booleans(),
)  # fmt: skip
BASES = st.from_regex(r"\A([A-Za-z0-9._-]{1,96}/[A-Za-z0-9._-]{1,96})?\Z")
FACTS = st.builds(
    ModelFacts, NAMES, NAMES, SHAPES, st.lists(TENSORS, max_size=3).map(tuple), st.none() | STORED, COUNTS, st.booleans(),
    st.booleans(), BASES, st.just("") | st.just("0a" * 32), st.none() | SIZES, st.lists(NAMES, max_size=3).map(tuple),
)  # fmt: skip


@given(FACTS)
def test_facts_survive_json(facts: ModelFacts) -> None:
    assert facts_from_json(facts_to_json(facts)) == facts
    assert unpacked_facts(packed_facts(facts)) == facts


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", CONFIGS)
def test_facts_of_any_model_are_small(name: str, scheme: str) -> None:
    assert len(packed_facts(model(name).stored_as(scheme).facts())) < 2048


@pytest.mark.parametrize("base", ["x" * 194, "a b", "org/base\nReady=True", "<b>"])
def test_a_base_that_is_no_name_is_refused(base: str) -> None:
    """An inspector's answer is anybody's in its namespace, and messages repeat the base."""
    with pytest.raises(ValueError, match="base"):
        unpacked_facts(packed_facts(replace(model("Qwen2.5-7B").facts(), base=base)))


@pytest.mark.parametrize("text", ["no base64!", "AAAA", "eJwDAAAAAAE="])
def test_what_was_not_packed_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        unpacked_facts(text)


@pytest.mark.parametrize("text", ["[]", "{}", '{"version":3}', '{"version":2}', '{"version":1}', "no json"])
def test_foreign_facts_are_refused(text: str) -> None:
    with pytest.raises(ValueError):
        facts_from_json(text)


def test_facts_with_an_unknown_field_are_refused() -> None:
    document = json.loads(facts_to_json(model("Tiny").facts()))
    document["shape"]["wheels"] = 8
    with pytest.raises(ValueError, match="wheels"):
        facts_from_json(json.dumps(document))


@pytest.mark.parametrize("experts", [8, [1], {"wheels": 8}])
def test_facts_with_broken_experts_are_refused(experts: object) -> None:
    document = json.loads(facts_to_json(model("Tiny").facts()))
    document["shape"]["experts"] = experts
    with pytest.raises(ValueError, match="experts"):
        facts_from_json(json.dumps(document))


def test_facts_of_an_older_operator_are_read() -> None:
    facts = model("Llama-3.1-8B").stored_as("AWQ").facts()
    document = json.loads(facts_to_json(facts))
    document["version"] = 1
    del document["predicted"]
    for field in (
        "caches",
        "experts",
        "multimodal",
        "attention_sinks",
        "float16_refused",
        "rope_scaling",
        "upper_bound",
    ):
        del document["shape"][field]
    assert facts_from_json(json.dumps(document)) == facts


# --- the size of a termination message -----------------------------------------------------------------------------


def facts_of(config: dict[str, Any], tensors: tuple[TensorClass, ...], ignored: tuple[str, ...] = ()) -> ModelFacts:
    """Facts as an inspector would hand them back, with everything that takes room."""
    stored = StoredQuantization(StoredMethod.COMPRESSED_TENSORS, "W4A16", 4, 128, ignored=ignored)
    return ModelFacts(
        repository="some-organisation/Some-Model-With-A-Long-Name-Instruct-2512-quantized.w4a16",
        commit="0123456789abcdef" * 2 + "01234567",
        shape=shape_of(config),
        tensors=tensors,
        stored=stored,
        download_bytes=123_456_789_012,
        has_chat_template=True,
        base="some-organisation/Some-Model-With-A-Long-Name-Instruct-2512",
        checksums="0123456789abcdef" * 4,
        max_new_tokens=2048,
        notes=("generation_config.json ends an answer after 2,048 tokens where a request sets no max_tokens",),
    )


@pytest.mark.parametrize("name", sorted(path.stem for path in DATA.glob("*.json")))
def test_facts_of_any_architecture_survive_and_fit(name: str) -> None:
    config = json.loads((DATA / f"{name}.json").read_text())
    facts = facts_of(config, model("Llama-3.1-70B").stored_as("W4A16").facts().tensors)
    assert len(packed_facts(facts)) < TERMINATION_MESSAGE
    assert unpacked_facts(packed_facts(facts)) == facts


MIXTURE = replace(model("Llama-3.1-8B").shape(), num_hidden_layers=60, experts=Experts(256, 8, 60, 2048, 2048))
GATES = [f"model.layers.{layer}.mlp.gate" for layer in range(60)]
EVERY_EXPERT = [
    f"model.layers.{n}.mlp.experts.{e}.{w}_proj" for n in (0, 59) for e in range(256) for w in ("up", "down")
]


@pytest.mark.parametrize("scheme", ["Unquantized", "AWQ", "FP8_BLOCK", "W4A16"])
def test_facts_of_a_mixture_of_256_experts_in_60_layers_fit(scheme: str) -> None:
    tensors = classes_of(mixtral_checkpoint(MIXTURE, scheme))
    assert sum(tensor.count for tensor in tensors) > 60 * 256 * 3
    facts = replace(
        facts_of(CONFIGS["Llama-3.1-8B"], tensors, names(["lm_head", *GATES, *EVERY_EXPERT])), shape=MIXTURE
    )
    assert len(packed_facts(facts)) < TERMINATION_MESSAGE
    assert unpacked_facts(packed_facts(facts)) == facts


# --- what a stranger wrote -----------------------------------------------------------------------------------------


def document() -> dict[str, Any]:
    return dict(json.loads(facts_to_json(replace(model("Llama-3.1-8B").stored_as("AWQ").facts(), notes=("a note",)))))


def at(*path: str | int) -> Callable[[dict[str, Any], Any], None]:
    def put(into: Any, value: Any) -> None:
        for part in path[:-1]:
            into = into[part]
        into[path[-1]] = value

    return put


HOSTILE: dict[str, tuple[tuple[str | int, ...], Any, str]] = {
    "a number as text": (("downloadBytes",), "12", "downloadBytes"),
    "a number with a point": (("downloadBytes",), 12.0, "downloadBytes"),
    "true as a number": (("shape", "hidden_size"), True, "hidden_size"),
    "a number as true": (("hasChatTemplate",), 1, "hasChatTemplate"),
    "bytes below zero": (("downloadBytes",), -5, "out of range"),
    "more bytes than there are": (("downloadBytes",), 2**63, "out of range"),
    "a number of a thousand digits": (("tensors", 0, 3), 10**999, ""),
    "no layers": (("shape", "num_hidden_layers"), 0, "a size of the model is 0"),
    "no KV heads": (("shape", "num_key_value_heads"), 0, "a size of the model is 0"),
    "a million layers": (("shape", "num_hidden_layers"), 10**6, "more than 4,096 layers"),
    "another dtype": (("shape", "dtype"), "F13", "a dtype that is none"),
    "a cache of no layers": (("shape", "caches", 0, "layers"), 0, "layers that keep nothing"),
    "a cache of no heads": (("shape", "caches", 0, "kv_heads"), 0, "layers that keep nothing"),
    "a window of nothing": (("shape", "caches", 0, "kind"), "SlidingWindow", "layers that keep nothing"),
    "a state of nothing": (("shape", "caches", 0, "kind"), "State", "layers that keep nothing"),
    "a cache of another kind": (("shape", "caches", 0, "kind"), "Psychic", "kind"),
    "a class of no tensors": (("tensors", 0, 3), 0, "a class of no tensors"),
    "a tensor of four fields": (("tensors", 0), ["a", "BF16", [1], 1], "tensors.0"),
    "too many classes": (("tensors",), [["a", "BF16", [1], 1, 2]] * 257, "257 classes of tensors"),
    "too many dimensions": (("tensors", 0, 2), [1] * 513, "a list of 513"),
    "a text too long": (("repository",), "x" * 1025, "1,025 characters"),
    "a text of two lines": (("notes", 0), "a\nb", "cannot be printed"),
    "too many notes": (("notes",), ["a"] * 513, "a list of 513"),
    "checksums of another kind": (("checksums",), "g" * 64, "checksums"),
    "answers of no tokens": (("maxNewTokens",), 0, "answers of no tokens"),
    "another scheme": (("stored", "scheme"), "W1A1", "a scheme that is none"),
    "another method": (("stored", "method"), "EXL2", "method"),
    "no bits": (("stored", "bits"), 0, "a scheme that is none"),
    "groups of nothing": (("stored", "group_size"), 0, "groups of no weights"),
    "blocks of nothing": (("stored", "block"), [0, 128], "blocks of no weights"),
    "a KV cache of another dtype": (("stored", "kv_cache_dtype"), "INT2", "a KV cache that is none"),
    "more experts a token than experts": (
        ("shape", "experts"),
        {"experts": 2, "per_token": 3, "layers": 1, "intermediate_size": 1},
        "experts that are none",
    ),
    "a field that is none": (("wheels",), 8, "wheels"),
    "another version": (("version",), 99, "version"),
    "a shape that is a list": (("shape",), [], "shape"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_facts_of_a_stranger_are_refused_in_one_sentence(case: str) -> None:
    path, value, words = HOSTILE[case]
    whole = document()
    at(*path)(whole, value)
    text = json.dumps(whole)
    for refused in (lambda: facts_from_json(text), lambda: unpacked_facts(packed(text.encode()))):
        with pytest.raises(ValueError) as error:
            refused()
        assert words in str(error.value)
        assert len(str(error.value)) < 300 and str(error.value).isprintable()


def packed(raw: bytes) -> str:
    return base64.b64encode(zlib.compress(raw)).decode()


@pytest.mark.parametrize("nested", [b"[" * 100_000, b'{"a":' * 50_000, b'{"shape":' * 10_000])
def test_deep_nesting_is_refused(nested: bytes) -> None:
    with pytest.raises(ValueError):
        unpacked_facts(packed(nested))


def test_a_bomb_takes_no_memory() -> None:
    bomb = base64.b64encode(zlib.compress(b" " * 30_000_000, 9)).decode()
    assert len(bomb) < 65_536
    tracemalloc.start()
    with pytest.raises(ValueError, match="more than 262,144 bytes"):
        unpacked_facts(bomb)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000


@pytest.mark.parametrize("text", ["A" * 65_537, packed(b"{}")[:-8], packed(b"\xff\xfe"), packed(b"")])
def test_what_is_no_packed_document(text: str) -> None:
    with pytest.raises(ValueError):
        unpacked_facts(text)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(noise: bytes) -> None:
    with pytest.raises(ValueError):
        unpacked_facts(base64.b64encode(noise).decode())
    with pytest.raises(ValueError):
        unpacked_facts(packed(noise))

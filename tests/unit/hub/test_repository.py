"""Which files are the weights, decided from names alone."""

from __future__ import annotations

import pytest
from huggingface_hub import ModelInfo

from kubequant.api.conditions import Reason
from kubequant.errors import Refused
from kubequant.hub.documents import InvalidDocumentError, parse_object, with_unique_names
from kubequant.hub.patterns import downloaded
from kubequant.hub.repository import Listing, candidate_weights, indexed_weights, listing_of, unindexed_weights


def listing(*names: str, base_models: tuple[str, ...] = ()) -> Listing:
    return Listing("some/model", "c" * 40, "https://hub/some/model", dict.fromkeys(names, 1), base_models)


@pytest.mark.parametrize(
    ("names", "reason", "words"),
    [
        ((), Reason.NO_SAFETENSORS, "no weights at the top of the repository (0 files)"),
        (("config.json", "unet/model.safetensors"), Reason.NO_SAFETENSORS, "no weights at the top"),
        (
            ("config.json", "consolidated.safetensors", "params.json"),
            Reason.NO_SAFETENSORS,
            "Mistral's own layout only",
        ),
        (("config.json", "original/consolidated.00.pth"), Reason.NO_SAFETENSORS, "pickle files (1 of .bin, .pt)"),
        (("adapter_config.json", "adapter_model.bin"), Reason.ADAPTER_ONLY, "load its base model with the adapter"),
        (("a.Q4_K_M.gguf", "a.Q8_0.gguf", "config.json"), Reason.GGUF_ONLY, "GGUF files (2)"),
        (("model.safetensors",), Reason.CONFIG_MISSING, "no config.json"),
    ],
)
def test_what_has_no_weights_to_serve(names: tuple[str, ...], reason: Reason, words: str) -> None:
    with pytest.raises(Refused) as caught:
        candidate_weights(listing(*names))
    assert caught.value.reason is reason
    assert words in caught.value.message


def test_weights_are_those_at_the_top_in_the_transformers_layout() -> None:
    names = (
        "config.json",
        "model.safetensors",
        "consolidated.safetensors",
        "adapter_model.safetensors",
        "x/model.safetensors",
    )
    assert candidate_weights(listing(*names)) == ["model.safetensors"]


@pytest.mark.parametrize(
    "name",
    ["../model.safetensors", "/etc/x.json", "a/../../x.json", "a//b.json", "a\nb.json", "a\\b.json", "\ud800.json"],
)
def test_files_that_pods_cannot_write_beside_the_others(name: str) -> None:
    with pytest.raises(Refused, match="cannot be written beside the others") as caught:
        candidate_weights(listing("config.json", "model.safetensors", name))
    assert caught.value.reason is Reason.CORRUPT_CHECKPOINT
    assert caught.value.message.isprintable()


def test_a_shard_that_pods_do_not_fetch_is_missing() -> None:
    with pytest.raises(Refused, match="1 missing, first 'consolidated"):
        indexed_weights(
            listing("config.json", "model.safetensors", "consolidated.safetensors"),
            {"weight_map": {"a": "model.safetensors", "b": "consolidated.safetensors"}},
        )


def test_one_tensor_in_two_files_is_refused_with_the_index() -> None:
    twice = b'{"weight_map": {"a": "model-1.safetensors", "a": "model-2.safetensors"}}'
    with pytest.raises(InvalidDocumentError, match="it names 'a' twice"):
        parse_object(twice, with_unique_names)


def test_numbered_shards_are_bounded() -> None:
    with pytest.raises(Refused, match="99,999 weight files"):
        unindexed_weights(listing(), ["model-00001-of-99999.safetensors"])


def test_download_takes_what_is_allowed_and_not_ignored() -> None:
    names = [
        "config.json",
        "model.safetensors",
        "tokenizer.model",
        "tokenizer.vocab",
        "merges.txt",
        "chat_template.jinja",
    ]
    ignored = [
        "README.md",
        "original/params.json",
        "configuration.py",
        "tokenizer.py",
        "consolidated.00.safetensors",
        "a.bin",
    ]
    assert downloaded([*names, *ignored]) == names


@pytest.mark.parametrize(
    ("information", "base"),
    [
        ({"cardData": {"base_model": "a/base"}}, ("a/base",)),
        ({"cardData": {"base_model": ["a/base", "b/other"]}}, ("a/base", "b/other")),
        ({"tags": ["text-generation", "base_model:quantized:a/base"]}, ("a/base",)),
        ({"cardData": {"base_model": 7}}, ()),
        ({}, ()),
    ],
)
def test_base_models_come_from_the_card_and_the_tags(information: dict[str, object], base: tuple[str, ...]) -> None:
    info = ModelInfo(id="some/model", sha="c" * 40, siblings=[], **information)
    assert listing_of(info, "https://hub/some/model").base_models == base


def test_a_base_that_is_no_name_of_a_repository_is_not_repeated() -> None:
    named = ["some text of a stranger, with a comma", "x" * 500, "../../etc/passwd", "org/base"]
    info = ModelInfo(id="some/model", sha="c" * 40, cardData={"base_model": named}, tags=["base_model:a/b", 7])
    assert listing_of(info, "https://hub/some/model").base_models == ("org/base", "a/b")

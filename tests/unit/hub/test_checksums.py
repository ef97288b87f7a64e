"""One checksum over what a pod fetches: the operator and the download step in the pod read the same examples."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelInfo

from kubequant.hub.checksums import checksum_of, digest_of
from kubequant.hub.repository import listing_of
from tests.fakehub import FakeHub
from tests.unit.hub.asking import changed, describe, model

EXAMPLES: list[dict[str, Any]] = json.loads((Path(__file__).parents[2] / "data/checksums.json").read_text())["cases"]


@pytest.mark.parametrize("example", EXAMPLES, ids=[example["case"] for example in EXAMPLES])
def test_examples_that_the_pod_shares(example: dict[str, Any]) -> None:
    assert checksum_of(example["digests"]) == example["expected"]


def test_the_format_as_it_is_written_down() -> None:
    sha256, blob = hashlib.sha256(b"weights").hexdigest(), hashlib.sha1(b"blob 2\0{}").hexdigest()
    text = f"git:{blob}  config.json\nsha256:{sha256}  model.safetensors\n"
    digests = {"model.safetensors": digest_of(sha256, "0" * 40), "config.json": digest_of(None, blob)}
    assert checksum_of(digests) == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(("lfs", "blob"), [(None, None), ("", ""), (7, "0" * 40), (None, 3)])
def test_a_hub_that_says_no_digest(lfs: object, blob: object) -> None:
    assert checksum_of({"model.safetensors": digest_of(lfs, blob)}) == ""


def sibling(name: str, **more: Any) -> dict[str, Any]:
    return {"rfilename": name, "size": 1, "blobId": "a" * 40, **more}


def test_only_what_a_pod_fetches_counts() -> None:
    lfs = {"size": 1, "sha256": "b" * 64, "pointerSize": 134}
    siblings = [sibling("config.json"), sibling("model.safetensors", lfs=lfs)]
    listed = [listing_of(ModelInfo(id="a/b", sha="c" * 40, siblings=found), "") for found in (
        siblings, [*siblings, sibling("README.md"), sibling("pytorch_model.bin", blobId=None)], siblings[:1],
    )]  # fmt: skip
    assert listed[0].checksums == listed[1].checksums != listed[2].checksums
    assert len(listed[0].checksums) == 64


def test_described_repositories_carry_it(empty: FakeHub) -> None:
    empty.add(model())
    first = describe(empty.url, "some/model").checksums
    empty.add(changed(model(), README__md=b"another card"))
    card = describe(empty.url, "some/model").checksums
    empty.add(changed(model(), generation_config__json=b"{}"))
    file = describe(empty.url, "some/model").checksums
    assert len(first) == 64
    assert first == card != file

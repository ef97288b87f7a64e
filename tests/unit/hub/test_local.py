"""A folder on this machine gives the facts that its repository on the Hub would give, or the same refusals."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from kubequant.api.conditions import Reason
from kubequant.errors import Refused
from kubequant.hub.local import describe_folder
from tests.fakehub import FakeHub
from tests.fakehub.content import SparseContent
from tests.fakehub.safetensors_files import checkpoint_files
from tests.fakehub.standard import standard_repositories
from tests.unit.hub.asking import TENSORS, TENSORS_BYTES, describe, model_config

AWQ = "hugging-quants/Meta-Llama-3.1-70B-Instruct-AWQ-INT4"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def written(folder: Path, repository: str, *, data: bool) -> Path:
    """The files of a standard repository: weights as sparse files, or cut behind their headers."""
    commit = next(one for one in standard_repositories() if one.id == repository).find("main")
    assert commit is not None
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in commit.files.items():
        with (folder / name).open("wb") as file:
            if isinstance(content, SparseContent):
                file.write(content.head)
                file.truncate(content.size if data else len(content.head))
            else:
                file.write(content.read(0, content.size))
    return folder


def small(folder: Path, *, shard_bytes: int = 20_000) -> Path:
    """Eighteen small tensors in four whole shards."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(model_config("qwen2.5-7b")))
    for name, content in checkpoint_files(TENSORS, shard_bytes).items():
        (folder / name).write_bytes(content.read(0, content.size))
    return folder


def refusal(folder: Path) -> Refused:
    with pytest.raises(Refused) as caught:
        describe_folder(folder)
    return caught.value


@pytest.mark.parametrize("data", [True, False], ids=["whole files", "headers alone"])
def test_a_folder_says_what_its_repository_says(standard: FakeHub, tmp_path: Path, data: bool) -> None:
    hub, local = describe(standard.url, AWQ), describe_folder(written(tmp_path / "m", AWQ, data=data))
    assert (local.shape, local.tensors, local.stored) == (hub.shape, hub.tensors, hub.stored)
    assert (local.repository, local.commit) == ("m", "local")
    assert local.weight_bytes == hub.weight_bytes == 39_767_785_472
    assert abs(local.download_bytes - hub.download_bytes) < 5_000_000  # headers and the card


def test_missing_data_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        describe_folder(written(tmp_path / "m", AWQ, data=False))
    assert "bytes of weights are not there; planned from the headers alone" in caplog.text


def test_whole_files_need_no_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert describe_folder(small(tmp_path / "m")).weight_bytes == TENSORS_BYTES
    assert not caplog.text


def test_a_snapshot_of_the_cache_keeps_its_name_and_commit(tmp_path: Path) -> None:
    blobs = small(tmp_path / "blobs")
    snapshot = tmp_path / "models--Qwen--Qwen2.5-7B-Instruct" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    for file in blobs.iterdir():
        (snapshot / file.name).symlink_to(file)
    facts = describe_folder(snapshot)
    assert (facts.repository, facts.commit) == ("Qwen/Qwen2.5-7B-Instruct", COMMIT)
    assert facts.weight_bytes == TENSORS_BYTES
    (tmp_path / "current").symlink_to(snapshot)
    assert describe_folder(tmp_path / "current").commit == COMMIT


def test_a_link_that_leads_nowhere_is_a_missing_shard(tmp_path: Path) -> None:
    folder = small(tmp_path / "m")
    shard = sorted(folder.glob("*.safetensors"))[1]
    shard.unlink()
    shard.symlink_to(tmp_path / "nothing")
    refused = refusal(folder)
    assert refused.reason == Reason.CORRUPT_CHECKPOINT and shard.name in refused.message


@pytest.mark.parametrize(
    ("files", "reason", "said"),
    [
        ({}, Reason.NO_SAFETENSORS, "no weights"),
        ({"pytorch_model.bin": b"x", "config.json": b"{}"}, Reason.NO_SAFETENSORS, "pickle"),
        ({"model.gguf": b"x"}, Reason.GGUF_ONLY, "GGUF"),
        ({"adapter_config.json": b"{}", "adapter_model.safetensors": b"x"}, Reason.ADAPTER_ONLY, "adapter"),
        ({"model.safetensors": b"x"}, Reason.CONFIG_MISSING, "config.json"),
        ({"model.safetensors": b"x", "config.json": b"{"}, Reason.CONFIG_INVALID, "no JSON"),
        ({"model.safetensors": b"x", "config.json": b"[]"}, Reason.CONFIG_INVALID, "list"),
        (
            {"model.safetensors": b"x", "config.json": b" " * 10_000_001},
            Reason.CONFIG_INVALID,
            "larger than 10,000,000",
        ),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else None,
)
def test_what_is_no_model_is_refused(tmp_path: Path, files: dict[str, bytes], reason: Reason, said: str) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    refused = refusal(tmp_path)
    assert refused.reason == reason and said in refused.message


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "0 bytes, too few"),
        (b"\x00" * 7, "7 bytes, too few"),
        ((2**40).to_bytes(8, "little") + b"{}", "claims 1,099,511,627,776 bytes, but the whole file has 10"),
        ((100).to_bytes(8, "little") + b"{" * 50, "claims 100 bytes"),
        ((4).to_bytes(8, "little") + b"{}  and more", "describes 0 bytes of data, but 8 follow"),
        ((2).to_bytes(8, "little") + b"[]", "holds a JSON list"),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    folder = small(tmp_path, shard_bytes=10**9)
    (folder / "model.safetensors").write_bytes(content)
    refused = refusal(folder)
    assert refused.reason == Reason.CORRUPT_CHECKPOINT and said in refused.message


@pytest.mark.parametrize(
    "header", [b"{}", b'{"__metadata__": {}}', b'{"a": {"dtype": "F16", "shape": [0], "data_offsets": [0, 0]}}']
)
def test_weights_of_no_bytes_are_refused(tmp_path: Path, header: bytes) -> None:
    folder = small(tmp_path, shard_bytes=10**9)
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    refused = refusal(folder)
    assert refused.reason == Reason.CORRUPT_CHECKPOINT and "hold not one byte of weights" in refused.message


def test_a_header_that_was_cut_is_refused(tmp_path: Path) -> None:
    file = small(tmp_path, shard_bytes=10**9) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:200])
    assert refusal(tmp_path).reason == Reason.CORRUPT_CHECKPOINT


def test_an_index_alone_is_refused_with_what_to_add(tmp_path: Path) -> None:
    folder = small(tmp_path)
    for shard in folder.glob("*.safetensors"):
        shard.unlink()
    refused = refusal(folder)
    assert refused.reason == Reason.CORRUPT_CHECKPOINT and "as many bytes as its header has" in refused.message


def test_an_index_that_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    folder = small(tmp_path)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": "../other.safetensors"}}))
    assert "no safetensors file beside it" in refusal(folder).message


@pytest.mark.parametrize("name", ["--trust me", "a b", "..."])
def test_a_folder_of_any_name_gives_one_that_the_engine_takes(tmp_path: Path, name: str) -> None:
    facts = describe_folder(small(tmp_path / name))
    assert facts.repository in {"trust-me", "a-b", "model"}


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        describe_folder(tmp_path / "none")

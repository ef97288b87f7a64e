"""A folder of a mounted volume: what pods will serve from, whole, readable, and pinned by its content."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from kubequant.api.conditions import Reason
from kubequant.errors import Refused
from kubequant.hub.local import describe_volume
from tests.unit.hub.asking import TENSORS_BYTES
from tests.unit.hub.test_local import small


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """A volume with a model in the folder models/m."""
    (tmp_path / "volume" / "models").mkdir(parents=True)
    small(tmp_path / "volume" / "models" / "m")
    return tmp_path / "volume"


def refusal(folder: Path, volume: Path) -> Refused:
    with pytest.raises(Refused) as caught:
        describe_volume(folder, volume)
    return caught.value


def test_a_folder_is_pinned_by_its_content(volume: Path) -> None:
    facts = describe_volume(volume / "models/m", volume)
    assert facts.repository == "m" and facts.weight_bytes == TENSORS_BYTES
    assert re.fullmatch("[0-9a-f]{40}", facts.commit)
    assert describe_volume(volume / "models/m", volume) == facts


def _changed_config(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 4096}))


def _changed_header(folder: Path) -> None:
    shard = min(folder.glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes().replace(b'"BF16"', b'"F16" '))


def _added(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ messages }}")


@pytest.mark.parametrize("change", [_changed_config, _changed_header, _added])
def test_another_content_is_another_commit(volume: Path, change: Callable[[Path], None]) -> None:
    before = describe_volume(volume / "models/m", volume).commit
    change(volume / "models/m")
    assert describe_volume(volume / "models/m", volume).commit != before


def test_what_pods_do_not_read_changes_nothing(volume: Path) -> None:
    folder = volume / "models/m"
    before = describe_volume(folder, volume).commit
    (folder / "README.md").write_text("changed")
    (folder / "modeling.py").write_text("raise SystemExit")
    for file in folder.iterdir():
        os.utime(file, (0, 0))
    assert describe_volume(folder, volume).commit == before


def test_the_numbers_of_weights_are_not_read(volume: Path) -> None:
    """Said in docs: replaced weights of the same shapes need the annotation kubequant.dev/replan, and look the same."""
    folder = volume / "models/m"
    before = describe_volume(folder, volume).commit
    shard = min(folder.glob("*.safetensors"))
    data = shard.read_bytes()
    shard.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert describe_volume(folder, volume).commit == before


def test_a_snapshot_of_the_cache_within_the_volume(volume: Path) -> None:
    """Its files are links to blobs beside it: the volume is mounted as a whole, so they lead there in pods too."""
    snapshot = volume / "hub/models--a--b/snapshots/0123456789abcdef0123456789abcdef01234567"
    snapshot.mkdir(parents=True)
    for file in (volume / "models/m").iterdir():
        (snapshot / file.name).symlink_to(os.path.relpath(file, snapshot))
    facts = describe_volume(snapshot, volume)
    assert facts.repository == "a/b" and facts.weight_bytes == TENSORS_BYTES
    assert facts.commit == describe_volume(volume / "models/m", volume).commit


def test_a_path_that_is_not_there(volume: Path) -> None:
    refused = refusal(volume / "modles/m", volume)
    assert refused.reason == Reason.INSPECTION_FAILED
    assert "no folder modles/m" in refused.message and "'models'" in refused.message


def test_a_path_to_a_file(volume: Path) -> None:
    assert "is a file" in refusal(volume / "models/m/config.json", volume).message


def test_an_empty_volume(tmp_path: Path) -> None:
    refused = refusal(tmp_path, tmp_path)
    assert refused.reason == Reason.NO_SAFETENSORS and "is empty" in refused.message


def test_a_top_that_holds_folders_alone(volume: Path) -> None:
    refused = refusal(volume, volume)
    assert refused.reason == Reason.NO_SAFETENSORS
    assert "it holds 'models'" in refused.message and "persistentVolumeClaim.path" in refused.message


@pytest.mark.parametrize("name", ["config.json", "model-00002-of-00005.safetensors"])
@pytest.mark.parametrize("target", ["/etc/hostname", "../../../../outside"])
def test_a_file_that_links_out_of_the_volume(volume: Path, tmp_path: Path, name: str, target: str) -> None:
    (tmp_path / "outside").write_text("{}")
    file = volume / "models/m" / name
    assert file.is_file()
    file.unlink()
    file.symlink_to(target)
    refused = refusal(volume / "models/m", volume)
    assert refused.reason == Reason.INSPECTION_FAILED
    assert name in refused.message and "out of the volume" in refused.message


def test_a_folder_that_links_out_of_the_volume(volume: Path, tmp_path: Path) -> None:
    small(tmp_path / "elsewhere")
    (volume / "models/linked").symlink_to(tmp_path / "elsewhere")
    assert "out of the volume" in refusal(volume / "models/linked", volume).message


def test_a_file_that_links_nowhere(volume: Path) -> None:
    file = volume / "models/m/model-00002-of-00005.safetensors"
    file.unlink()
    file.symlink_to("blobs/gone")
    assert "leads nowhere" in refusal(volume / "models/m", volume).message


def test_a_circle_of_links(volume: Path) -> None:
    file = volume / "models/m/config.json"
    file.unlink()
    file.symlink_to("config.json")
    assert "leads nowhere" in refusal(volume / "models/m", volume).message


def test_weights_that_are_cut_short(volume: Path) -> None:
    """For planning the headers suffice; what pods are to serve must be whole."""
    shard = min((volume / "models/m").glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-100])
    refused = refusal(volume / "models/m", volume)
    assert refused.reason == Reason.CORRUPT_CHECKPOINT and shard.name in refused.message


@pytest.mark.parametrize("first", [b"", b"\xff" * 8, b"\x00" * 8, (2**40).to_bytes(8, "little") + b"{}"])
def test_headers_that_lie(volume: Path, first: bytes) -> None:
    shard = min((volume / "models/m").glob("*.safetensors"))
    shard.write_bytes(first)
    assert refusal(volume / "models/m", volume).reason == Reason.CORRUPT_CHECKPOINT


def test_a_pipe_in_the_place_of_a_file_is_not_opened(volume: Path) -> None:
    file = volume / "models/m/config.json"
    file.unlink()
    os.mkfifo(file)
    assert refusal(volume / "models/m", volume).reason == Reason.CONFIG_MISSING

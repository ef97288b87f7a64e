"""What keeps the slow things safe: made once, whole or not at all. And what the processor is asked."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from tests.engines.cache import cache_folder, content_key, held, made_once, remove_older
from tests.engines.hardware import can_serve_w4a16


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KUBEQUANT_CACHE", str(tmp_path))
    return tmp_path


def test_cache_folder_follows_the_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_folder() == tmp_path
    monkeypatch.delenv("KUBEQUANT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/kubequant")


def test_many_that_want_it_make_it_once() -> None:
    makers: list[Path] = []

    def make(folder: Path) -> None:
        makers.append(folder)
        (folder / "done").touch()

    threads = [threading.Thread(target=made_once, args=("things/one", make)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(makers) == 1 and (made_once("things/one", make) / "done").exists()


def test_a_failure_leaves_nothing_and_the_next_try_succeeds(empty_cache: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        made_once("things/one", fail)
    assert [path.name for path in (empty_cache / "things").iterdir() if path.is_dir()] == []
    assert made_once("things/one", lambda folder: None).is_dir()


def test_what_a_killed_process_left_is_removed(empty_cache: Path) -> None:
    left_over = empty_cache / "things" / ".one.abc.unfinished"
    left_over.mkdir(parents=True)
    made_once("things/one", lambda folder: None)
    assert not left_over.exists()


def test_all_but_the_folders_touched_last_go_and_none_that_somebody_holds(empty_cache: Path) -> None:
    for number, name in enumerate(["op-held", "op-old", "op-new", "op-newest", "other"]):
        folder = made_once(f"things/{name}", lambda folder: (folder / "file").touch())
        os.utime(folder, (number, number))
    held("things/op-held")
    remove_older("things/op-*", 2)
    left = {path.name for path in (empty_cache / "things").iterdir() if path.is_dir()}
    assert left == {"op-held", "op-new", "op-newest", "other"}
    assert (made_once("things/op-old", lambda folder: None)).is_dir(), "it can be made anew"


def test_what_is_held_is_held_before_it_is_there(empty_cache: Path) -> None:
    held("things/one")
    held("things/one")
    made_once("things/one", lambda folder: None)
    remove_older("things/*", 0)
    assert (empty_cache / "things" / "one").is_dir()


def test_key_depends_on_names_contents_and_extras(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_text("1")
    keys = {content_key([file]), content_key([file], "3.11")}
    file.write_text("2")
    keys.add(content_key([file]))
    keys.add(content_key([file.rename(tmp_path / "b")]))
    assert len(keys) == 4


@pytest.mark.parametrize(
    ("cpuinfo", "reason"),
    [
        ("flags\t\t: fpu avx2 avx512f avx512bw\n", None),
        ("flags\t\t: fpu avx2\n", "no AVX-512"),
        ("Features : fp asimd\n", "no AVX-512"),
    ],
)
def test_processor_is_asked_for_avx512(tmp_path: Path, cpuinfo: str, reason: str | None) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text(cpuinfo)
    answer = can_serve_w4a16(file)
    assert answer is None if reason is None else reason in (answer or "")

"""What outlives the process: facts and answers in a folder, bounded, shared, and worth nothing once they are broken."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubequant.hub.answers import InMemory, OnDisk
from kubequant.hub.client import Hub
from kubequant.planning.values import ModelFacts
from tests.fakehub import FakeHub, rate_limited
from tests.unit.hub.asking import changed, describe, model, with_hub
from tests.unit.hub.test_sharing import Clock

ROOT = Path(__file__).parents[3]
MIB = 2**20


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "some" / "cache"


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix == ".kept")


def test_a_restart_asks_which_commit_and_describes_nothing_again(empty: FakeHub, folder: Path) -> None:
    repository = model()
    empty.add(repository)
    first = describe(empty.url, "some/model", cache_folder=folder)
    empty.requests.clear()
    assert describe(empty.url, "some/model", cache_folder=folder) == first
    assert [(request.path, request.status) for request in empty.requests.select()] == [
        ("/api/models/some/model/revision/main", 304)
    ]
    empty.requests.clear()
    assert describe(empty.url, "some/model", first.commit, cache_folder=folder) == first
    assert empty.requests.count() == 0
    changed(repository, chat_template__jinja=b"x")
    assert describe(empty.url, "some/model", cache_folder=folder).commit == repository.branches["main"] != first.commit


def test_a_restart_in_the_middle_of_a_burst(empty: FakeHub, folder: Path) -> None:
    for number in range(6):
        empty.add(model(f"some/model{number}"))

    async def interrupted(hub: Hub) -> None:
        asking = [asyncio.ensure_future(hub.describe(f"some/model{number}")) for number in range(6)]
        await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
        await hub.close()
        await asyncio.gather(*asking, return_exceptions=True)

    with_hub(empty.url, interrupted, cache_folder=folder, concurrency=2)
    described = {
        number for number in range(6) if any(f"model{number}/" in r.path for r in empty.requests.select(role="cdn"))
    }
    assert described

    async def all_of_them(hub: Hub) -> list[ModelFacts]:
        return await asyncio.gather(*(hub.describe(f"some/model{number}") for number in range(6)))

    with_hub(empty.url, all_of_them, cache_folder=folder)
    empty.requests.clear()
    with_hub(empty.url, all_of_them, cache_folder=folder)
    assert {request.status for request in empty.requests.select()} == {304}
    assert empty.requests.count() == 6


def test_without_a_folder_an_answer_is_asked_for_with_its_etag(empty: FakeHub) -> None:
    clock = Clock()
    empty.add(model())

    async def over_time(hub: Hub) -> None:
        await hub.describe("some/model")
        clock.now += 61
        await hub.describe("some/model")

    with_hub(empty.url, over_time, clock=clock)
    assert [request.status for request in empty.requests.select("^/api/models/some")] == [200, 304]


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "text", "swapped"])
def test_a_broken_file_is_ignored_and_replaced(empty: FakeHub, folder: Path, damage: str) -> None:
    empty.add(model())
    first = describe(empty.url, "some/model", cache_folder=folder)
    kept = files(folder)
    assert len(kept) == 2
    contents = [path.read_bytes() for path in kept]
    for path, content, other in zip(kept, contents, reversed(contents), strict=True):
        flipped = content[:-1] + bytes([content[-1] ^ 1])
        broken = {"empty": b"", "cut": content[:-7], "flipped": flipped, "text": b"no such thing", "swapped": other}
        path.write_bytes(broken[damage])
    empty.requests.clear()
    assert describe(empty.url, "some/model", cache_folder=folder) == first
    assert {request.status for request in empty.requests.select("^/api/")} == {200}
    assert [path.read_bytes() for path in files(folder)] == contents


def test_what_one_token_opened_is_not_served_to_another(empty: FakeHub, folder: Path) -> None:
    """Nor to none; and no file tells a token."""
    secret = model("some/secret")
    secret.private = True
    empty.add(secret)
    mine = describe(empty.url, "some/secret", cache_folder=folder, token=lambda: "hf_operator")
    for token in (None, "hf_another"):
        with pytest.raises(Exception, match=r"is not at|does not accept"):
            describe(empty.url, "some/secret", mine.commit, cache_folder=folder, token=lambda token=token: token)
    assert all(b"hf_operator" not in path.read_bytes() for path in folder.iterdir())
    empty.requests.clear()
    describe(empty.url, "some/secret", mine.commit, cache_folder=folder, token=lambda: "hf_operator")
    assert empty.requests.count() == 0


def test_a_token_that_changes_forgets_what_the_other_saw(empty: FakeHub) -> None:
    secret = model("some/secret")
    secret.private = True
    empty.add(secret)
    empty.add(model())
    tokens = ["hf_operator"]

    async def ask(hub: Hub) -> None:
        facts = await hub.describe("some/secret")
        tokens[0] = "hf_another"
        with pytest.raises(Exception, match="does not accept"):
            await hub.describe("some/model")  # which reads the token
        with pytest.raises(Exception, match="does not accept"):
            await hub.describe("some/secret", facts.commit)

    with_hub(empty.url, ask, token=lambda: tokens[0])


def test_another_endpoint_has_its_own(empty: FakeHub, folder: Path) -> None:
    repository = model()
    empty.add(repository)
    facts = describe(empty.url, "some/model", cache_folder=folder)
    with FakeHub([repository]) as other:
        describe(other.url, "some/model", facts.commit, cache_folder=folder)
        assert other.requests.count() > 1


def test_facts_of_another_release_are_read_anew(empty: FakeHub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty.add(model())
    facts = describe(empty.url, "some/model", cache_folder=folder)
    monkeypatch.setattr("kubequant.hub.pinned.version", lambda _: "999")
    empty.requests.clear()
    describe(empty.url, "some/model", facts.commit, cache_folder=folder)
    assert empty.requests.count(role="cdn") > 0


def test_the_folder_keeps_within_its_bound_and_drops_what_was_used_least(folder: Path) -> None:
    kept = OnDisk(folder, MIB)
    kept.put("first", b"x" * 1000)
    for number in range(300):
        kept.put(f"value {number}", bytes(10_000))
        assert kept.get("first") == b"x" * 1000
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 1.03 * MIB
    assert kept.get("value 0") is None
    assert kept.get("value 299") == bytes(10_000)
    kept.put("huge", bytes(MIB // 2))
    assert kept.get("huge") is None


def test_a_folder_that_is_full_already_is_brought_within_the_bound(folder: Path) -> None:
    OnDisk(folder, 10 * MIB).put("old", bytes(2 * MIB))
    os.utime(files(folder)[0], (1, 1))
    kept = OnDisk(folder, MIB)
    assert (files(folder), kept.get("old")) == ([], None)


def test_an_unfinished_file_goes_after_an_hour_and_strangers_files_stay(folder: Path) -> None:
    OnDisk(folder, MIB)
    for name in ("a.part", "b.part", "somebodys.txt"):
        (folder / name).write_bytes(b"x")
    os.utime(folder / "a.part", (1, 1))
    OnDisk(folder, MIB)
    assert sorted(path.name for path in folder.iterdir()) == ["b.part", "somebodys.txt"]


def test_only_the_owner_may_look(folder: Path) -> None:
    OnDisk(folder, MIB).put("a", b"b")
    assert [path.stat().st_mode & 0o777 for path in (folder, *files(folder))] == [0o700, 0o600]


def test_a_folder_that_fails_later_costs_the_cache_and_nothing_else(empty: FakeHub, folder: Path) -> None:
    empty.add(model())

    def spoil() -> None:
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
        folder.write_text("a file in its place")

    async def ask(hub: Hub) -> str:
        spoil()
        return (await hub.describe("some/model")).repository

    assert with_hub(empty.url, ask, cache_folder=folder) == "some/model"


def test_a_folder_that_cannot_be_made_is_said_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        Hub(endpoint="http://127.0.0.1:9", cache_folder=tmp_path / "file" / "cache")


def test_two_processes_share_a_folder(folder: Path) -> None:
    """Each writes, reads and sweeps the same names; nobody ever reads what nobody wrote."""
    script = (
        "import sys; from pathlib import Path; from kubequant.hub.answers import OnDisk\n"
        "kept = OnDisk(Path(sys.argv[1]), 1 << 20)\n"
        "for turn in range(300):\n"
        "    name = str(turn % 7)\n"
        "    kept.put(name, name.encode() * (20_000 + 13 * turn))\n"
        "    found = kept.get(name)\n"
        "    assert found is None or set(found) == set(name.encode()), name\n"
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(folder)],
            env=os.environ | {"PYTHONPATH": str(ROOT / "operator")},
            stderr=subprocess.PIPE,
        )
        for _ in range(2)
    ]
    for process in running:
        _, complaints = process.communicate(timeout=60)
        assert (process.returncode, complaints) == (0, b"")


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.binary(max_size=400)), max_size=60))
def test_memory_keeps_the_newest_within_its_bound(puts: list[tuple[str, bytes]]) -> None:
    kept, newest = InMemory(1000), dict[str, bytes]()
    for name, value in puts:
        kept.put(name, value)
        if len(value) <= 250:
            newest[name] = value
            assert kept.get(name) == value
    found = {name: value for name in newest if (value := kept.get(name)) is not None}
    assert all(value == newest[name] for name, value in found.items())
    assert sum(map(len, found.values())) <= 1000


def test_a_thousand_models_that_are_pinned_make_no_request_at_a_restart(empty: FakeHub, folder: Path) -> None:
    """Making a Hub asks nothing, and neither does a commit that is on the disk, throttled or not."""
    empty.add(model())
    facts = describe(empty.url, "some/model", cache_folder=folder)
    empty.faults.add(rate_limited(times=10**6))
    empty.requests.clear()

    async def ask(hub: Hub) -> list[ModelFacts]:
        return await asyncio.gather(*(hub.describe("some/model", facts.commit) for _ in range(1000)))

    assert with_hub(empty.url, ask, cache_folder=folder) == [facts] * 1000
    assert empty.requests.count() == 0

"""Who may do what, what is downloaded twice, and mirrors: the real huggingface_hub client is the judge."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.fakehub import FakeHub, Fault, Repository, rate_limited
from tests.fakehub.content import Content, SparseContent
from tests.fakehub.family import BASE, Sibling, sibling
from tests.fakehub.faults import ALWAYS
from tests.fakehub.safetensors_files import safetensors_file
from tests.fakehub.tensors import Tensor

OPEN, GATED, PRIVATE, MISSING, DISABLED = "a/open", "a/gated", "a/private", "a/missing", "a/disabled"
GRANTED, OUTSIDER, WRONG = "hf_granted", "hf_outsider", "hf_wrong"
WEIGHTS = safetensors_file([Tensor("model.norm.weight", "BF16", (4096,))])
SMALL_FILE = b'{"model_type": "llama"}'
FILES: dict[str, Content | bytes] = {"config.json": SMALL_FILE, "model.safetensors": WEIGHTS}


@pytest.fixture(scope="module")
def running() -> Iterator[FakeHub]:
    repositories = [
        Repository.from_files(OPEN, FILES),
        Repository.from_files(GATED, FILES, gated="auto"),
        Repository.from_files(PRIVATE, FILES, private=True),
        Repository.from_files(DISABLED, FILES, disabled=True),
    ]
    with FakeHub(repositories, tokens={GRANTED: [GATED, PRIVATE], OUTSIDER: []}, renamed={"a/old": OPEN}) as hub:
        yield hub


@pytest.fixture
def hub(running: FakeHub) -> FakeHub:
    running.faults.clear()
    running.requests.clear()
    return running


def client(hub: FakeHub, token: str | None = None) -> HfApi:
    return HfApi(endpoint=hub.url, token=token or False)


Ask = Callable[[HfApi, str, Path], object]
LOOK: dict[str, Ask] = {
    "info": lambda api, repo_id, _: api.model_info(repo_id),
    "tree": lambda api, repo_id, _: list(api.list_repo_tree(repo_id)),
    "refs": lambda api, repo_id, _: api.list_repo_refs(repo_id),
    "paths": lambda api, repo_id, _: api.get_paths_info(repo_id, ["config.json"]),
}
READ: dict[str, Ask] = {
    "auth-check": lambda api, repo_id, _: api.auth_check(repo_id),
    "file": lambda api, repo_id, folder: api.hf_hub_download(repo_id, "config.json", cache_dir=folder),
    "weights": lambda api, repo_id, folder: api.hf_hub_download(repo_id, "model.safetensors", cache_dir=folder),
    "header": lambda api, repo_id, _: api.parse_safetensors_file_metadata(repo_id, "model.safetensors"),
}
REFUSALS = [
    (MISSING, None, RepositoryNotFoundError, 401),
    (MISSING, OUTSIDER, RepositoryNotFoundError, 404),
    (MISSING, WRONG, HfHubHTTPError, 401),
    (PRIVATE, None, RepositoryNotFoundError, 401),
    (PRIVATE, OUTSIDER, RepositoryNotFoundError, 404),
    (PRIVATE, WRONG, HfHubHTTPError, 401),
    (OPEN, WRONG, HfHubHTTPError, 401),
    (GATED, WRONG, HfHubHTTPError, 401),
    (DISABLED, None, DisabledRepoError, 403),
]
REFUSED_READING = [(GATED, None, GatedRepoError, 401), (GATED, OUTSIDER, GatedRepoError, 403)]
# What the client's own module makes of answers: the fake must not be told apart from the Hub by any call.
CASES = [(ask, *refusal) for ask in [*LOOK.values(), *READ.values()] for refusal in REFUSALS] + [
    (ask, *refusal) for ask in READ.values() for refusal in REFUSED_READING
]


@pytest.mark.parametrize(
    ("ask", "repo_id", "token", "error", "status"),
    CASES,
    ids=[
        f"{name}-{repo_id}-{token}"
        for names, refusals in ((LOOK | READ, REFUSALS), (READ, REFUSED_READING))
        for name in names
        for repo_id, token, *_ in refusals
    ],
)
def test_refusals_are_those_of_the_hub(
    hub: FakeHub, tmp_path: Path, ask: Ask, repo_id: str, token: str | None, error: type[HfHubHTTPError], status: int
) -> None:
    with pytest.raises((HfHubHTTPError, LocalEntryNotFoundError)) as raised:
        ask(client(hub, token), repo_id, tmp_path)
    # A download that fails for other reasons than access tells of its cache first.
    told = raised.value.__cause__ if type(raised.value) is LocalEntryNotFoundError else raised.value
    assert type(told) is error and told.response.status_code == status
    if token == WRONG:
        assert "Invalid credentials" in str(told)


@pytest.mark.parametrize("ask", [*LOOK.values(), *READ.values()], ids=[*LOOK, *READ])
def test_who_was_granted_access_is_let_in(hub: FakeHub, tmp_path: Path, ask: Ask) -> None:
    for repo_id, token in ((OPEN, None), (OPEN, OUTSIDER), (GATED, GRANTED), (PRIVATE, GRANTED), ("a/old", None)):
        ask(client(hub, token), repo_id, tmp_path / repo_id)


@pytest.mark.parametrize("ask", LOOK.values(), ids=LOOK)
def test_everyone_may_look_at_a_gated_model(hub: FakeHub, tmp_path: Path, ask: Ask) -> None:
    ask(client(hub), GATED, tmp_path)
    assert client(hub).model_info(GATED).gated == "auto"


def test_link_to_the_cdn_cannot_be_guessed(hub: FakeHub) -> None:
    link = httpx.get(f"{hub.url}/{OPEN}/resolve/main/model.safetensors").headers["Location"]
    assert httpx.get(link).status_code == 200
    assert httpx.get(link.partition("?")[0]).status_code == 403
    assert httpx.get(link.replace(OPEN, GATED)).status_code == 403


def test_checksums_are_those_of_the_bytes(hub: FakeHub, tmp_path: Path) -> None:
    weights = b"not a checkpoint, but bytes"
    hub.add(Repository.from_files("a/bytes", {"config.json": SMALL_FILE, "weights.bin": weights}))
    api = client(hub)
    files: dict[str, Any] = {
        file.rfilename: file for file in api.model_info("a/bytes", files_metadata=True).siblings or []
    }
    entries: dict[str, Any] = {entry.path: entry for entry in api.list_repo_tree("a/bytes", expand=True)}
    for entry in (files["weights.bin"], entries["weights.bin"]):
        assert entry.lfs.sha256 == hashlib.sha256(weights).hexdigest() and entry.size == entry.lfs.size == len(weights)
    blob_id = hashlib.sha1(b"blob %d\0" % len(SMALL_FILE) + SMALL_FILE).hexdigest()
    assert files["config.json"].blob_id == entries["config.json"].blob_id == blob_id
    assert files["config.json"].lfs is None
    path = Path(api.hf_hub_download("a/bytes", "weights.bin", cache_dir=tmp_path))
    assert path.resolve().name == files["weights.bin"].lfs.sha256
    assert all(file.lfs is None and file.size is None for file in api.model_info("a/bytes").siblings or [])


def test_file_that_is_in_the_cache_is_not_fetched_again(hub: FakeHub, tmp_path: Path) -> None:
    api = client(hub)
    first = api.hf_hub_download(OPEN, "model.safetensors", cache_dir=tmp_path)
    hub.requests.clear()
    assert api.hf_hub_download(OPEN, "model.safetensors", cache_dir=tmp_path) == first
    assert [request.method for request in hub.requests.select()] == ["HEAD"]
    hub.requests.clear()
    commit = api.model_info(OPEN).sha
    assert api.hf_hub_download(OPEN, "model.safetensors", revision=commit, cache_dir=tmp_path) == first
    assert hub.requests.count("/resolve/") == 0


def test_new_commit_brings_only_the_files_that_changed(hub: FakeHub, tmp_path: Path) -> None:
    repository = Repository.from_files("a/changing", FILES)
    hub.add(repository)
    client(hub).snapshot_download("a/changing", cache_dir=tmp_path)
    repository.commit({**FILES, "config.json": b"{}"})
    hub.requests.clear()
    folder = Path(client(hub).snapshot_download("a/changing", cache_dir=tmp_path))
    assert folder.name == repository.branches["main"] and (folder / "config.json").read_bytes() == b"{}"
    assert {request.path.rpartition("/")[2] for request in hub.requests.select("/resolve/|/repos/", method="GET")} == {
        "config.json"
    }


def test_snapshot_that_was_given_up_keeps_whole_files_only(hub: FakeHub, tmp_path: Path) -> None:
    """The client resumes within a call; what another call left of a file it throws away since version 2."""
    size = 25_000_000  # the client counts what arrived in steps of 10 MB
    large = SparseContent(b"head", size)
    hub.add(Repository.from_files("a/large", {"config.json": b"{}", "one.bin": large, "two.bin": WEIGHTS}))
    broken = f"/repos/a/large/{large.sha256}"
    hub.faults.add(Fault(broken, times=1, method="GET", cut_after_bytes=15_000_000))
    hub.faults.add(Fault(broken, times=ALWAYS, method="GET", status=403))
    with pytest.raises(HfHubHTTPError):
        client(hub).snapshot_download("a/large", cache_dir=tmp_path, max_workers=1)
    first, second = hub.requests.select(broken, method="GET")
    assert first.range is None and second.range is not None and second.range >= "bytes=10000000-"
    hub.faults.clear()
    hub.requests.clear()
    folder = Path(client(hub).snapshot_download("a/large", cache_dir=tmp_path, max_workers=1))
    assert (folder / "one.bin").stat().st_size == size
    assert [read.range for read in hub.requests.select(broken, method="GET")] == [None]
    assert hub.requests.count("config.json", method="GET") == 0


def test_dry_run_knows_the_bytes_without_fetching_them(hub: FakeHub, tmp_path: Path) -> None:
    files = client(hub).snapshot_download(OPEN, cache_dir=tmp_path, dry_run=True)
    assert {file.filename: file.file_size for file in files} == {"config.json": 23, "model.safetensors": WEIGHTS.size}
    assert hub.requests.count(role="cdn", method="GET") == 0


def test_client_comes_back_when_the_window_ends(hub: FakeHub) -> None:
    hub.faults.add(rate_limited("/api/models$", reset_seconds=1))
    assert OPEN in [info.id for info in client(hub).list_models(author="a")]
    refused, answered = hub.requests.select("/api/models$")
    assert (refused.status, answered.status) == (429, 200) and 1 <= answered.at - refused.at < 10


def test_dead_hub_is_no_answer_and_no_missing_model(hub: FakeHub) -> None:
    hub.dead()
    try:
        with pytest.raises(httpx2.ConnectError):
            client(hub).model_info(OPEN)
    finally:
        hub.alive()
    assert client(hub).model_info(OPEN).sha


def test_reset_in_the_middle_of_a_download_is_not_taken_for_its_end(hub: FakeHub, tmp_path: Path) -> None:
    hub.faults.add(Fault("/repos/", bytes_per_second=10_000))
    dying = threading.Timer(0.3, hub.dead)
    dying.start()
    try:
        with pytest.raises(httpx2.NetworkError):
            client(hub).hf_hub_download(OPEN, "model.safetensors", cache_dir=tmp_path)
    finally:
        dying.join()
        hub.alive()
    path = client(hub).hf_hub_download(OPEN, "model.safetensors", cache_dir=tmp_path)
    assert Path(path).stat().st_size == WEIGHTS.size


@pytest.fixture(scope="module")
def mirror() -> Iterator[FakeHub]:
    repositories = [Repository.from_files(OPEN, FILES), sibling(Sibling.OWN_AWQ, "awq")]
    with FakeHub(repositories, prefix="/hf", mirror=True) as mirror:
        yield mirror


def test_mirror_serves_models_and_files_under_its_path(mirror: FakeHub, tmp_path: Path) -> None:
    assert mirror.url.endswith("/hf")
    mirror.requests.clear()
    folder = Path(client(mirror).snapshot_download(OPEN, cache_dir=tmp_path))
    assert (folder / "model.safetensors").stat().st_size == WEIGHTS.size
    assert {request.path.startswith("/hf/") for request in mirror.requests.select(role="hub")} == {True}
    assert client(mirror).model_info(Sibling.OWN_AWQ).sha
    assert len(client(mirror).get_safetensors_metadata(Sibling.OWN_AWQ).files_metadata) == 2


def test_mirror_says_neither_checksums_nor_scans_and_knows_no_search(mirror: FakeHub) -> None:
    api = client(mirror)
    info = api.model_info(OPEN, files_metadata=True, securityStatus=True)
    assert info.security_repo_status is None
    assert all(file.lfs is None and file.blob_id is None for file in info.siblings or [])
    entries: list[Any] = list(api.list_repo_tree(OPEN, expand=True))
    assert entries and all(entry.lfs is None and entry.security is None for entry in entries)
    with pytest.raises(HfHubHTTPError) as raised:
        list(api.list_models(filter=f"base_model:quantized:{BASE}"))
    assert raised.value.response.status_code == 404 and type(raised.value) is HfHubHTTPError


def test_outside_its_path_a_mirror_has_nothing(mirror: FakeHub) -> None:
    api = HfApi(endpoint=mirror.url.removesuffix("/hf"), token=False)
    with pytest.raises(HfHubHTTPError):
        api.model_info(OPEN)


def test_revision_and_file_that_are_not_there(hub: FakeHub) -> None:
    with pytest.raises(RevisionNotFoundError):
        list(client(hub).list_repo_tree(OPEN, revision="v9"))
    with pytest.raises(RemoteEntryNotFoundError):
        list(client(hub).list_repo_tree(OPEN, "no/such/folder"))

"""The real huggingface_hub client against the fake Hub: what works there works for the operator's tests as well."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    NotASafetensorsRepoError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    SafetensorsParsingError,
)

from tests.fakehub import FakeHub, Fault, Repository, rate_limited
from tests.fakehub.content import SparseContent
from tests.fakehub.standard import (
    GATED_TOKEN,
    OUTSIDER_TOKEN,
    STANDARD_RENAMED,
    STANDARD_TOKENS,
    standard_repositories,
)

AWQ = "Qwen/Qwen2.5-7B-Instruct-AWQ"
GATED = "meta-llama/Llama-3.1-8B-Instruct"
SMALL = "example/small"
WEIGHTS = bytes(range(256)) * 4096  # 1 MiB, in LFS by its name


@pytest.fixture(scope="module")
def running() -> Iterator[FakeHub]:
    repositories = [*standard_repositories(), Repository.from_files(SMALL, small_files())]
    with FakeHub(repositories, tokens=STANDARD_TOKENS, renamed=STANDARD_RENAMED) as hub:
        yield hub


@pytest.fixture
def hub(running: FakeHub) -> FakeHub:
    running.faults.clear()
    running.requests.clear()
    return running


def small_files() -> dict[str, bytes]:
    return {"config.json": b'{"model_type": "llama"}', "weights.bin": WEIGHTS, "folder/notes.txt": b"notes"}


def client(hub: FakeHub, token: str | None = None) -> HfApi:
    return HfApi(endpoint=hub.url, token=token or False)


def test_model_info_tells_commit_files_and_card(hub: FakeHub) -> None:
    info = client(hub).model_info(AWQ, files_metadata=True)
    assert info.sha and len(info.sha) == 40
    assert info.gated is False and info.private is False
    assert info.card_data and info.card_data["base_model"] == "Qwen/Qwen2.5-7B-Instruct"
    assert "base_model:quantized:Qwen/Qwen2.5-7B-Instruct" in (info.tags or [])
    shards = [file for file in info.siblings or [] if file.rfilename.endswith(".safetensors")]
    assert len(shards) == 2
    assert all(file.lfs and file.lfs.size == file.size and len(file.lfs.sha256) == 64 for file in shards)
    assert client(hub).model_info(AWQ, revision=info.sha).sha == info.sha


def test_safetensors_metadata_of_a_sharded_model_is_read_by_range(hub: FakeHub) -> None:
    metadata = client(hub).get_safetensors_metadata(AWQ)
    tensors = {name: tensor for file in metadata.files_metadata.values() for name, tensor in file.tensors.items()}
    qweight = tensors["model.layers.0.self_attn.q_proj.qweight"]
    assert (qweight.dtype, list(qweight.shape)) == ("I32", [3584, 448])
    data_bytes = sum(end - start for start, end in (tensor.data_offsets for tensor in tensors.values()))
    assert metadata.metadata == {"total_size": data_bytes}
    assert data_bytes / 2**30 == pytest.approx(5.19, abs=0.01)
    reads = hub.requests.select(role="cdn", method="GET")
    assert {read.range for read in reads} >= {"bytes=0-100000"} and {read.status for read in reads} == {206}


def test_download_follows_the_redirect_and_leaves_the_token_behind(hub: FakeHub, tmp_path: Path) -> None:
    path = client(hub, GATED_TOKEN).hf_hub_download(SMALL, "weights.bin", cache_dir=tmp_path)
    assert Path(path).read_bytes() == WEIGHTS
    assert Path(path).resolve().name == hashlib.sha256(WEIGHTS).hexdigest()
    assert all(request.authorized for request in hub.requests.select(role="hub"))
    assert [request.authorized for request in hub.requests.select(role="cdn")] == [False]
    assert hub.requests.count("xet") == 0


def test_snapshot_has_every_file_of_the_commit(hub: FakeHub, tmp_path: Path) -> None:
    folder = Path(client(hub).snapshot_download(SMALL, cache_dir=tmp_path))
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert found == small_files()


def test_an_interrupted_download_is_resumed(hub: FakeHub, tmp_path: Path) -> None:
    size = 25_000_000  # the client keeps what arrived in steps of 10 MB
    hub.add(Repository.from_files("example/large", {"weights.bin": SparseContent(b"head", size)}))
    hub.faults.add(Fault("/repos/example/large", method="GET", cut_after_bytes=15_000_000))
    path = client(hub).hf_hub_download("example/large", "weights.bin", cache_dir=tmp_path)
    assert Path(path).stat().st_size == size
    first, second = hub.requests.select("/repos/example/large", method="GET")
    assert first.range is None and second.range is not None and second.status == 206


def test_a_truncated_file_is_noticed(hub: FakeHub, tmp_path: Path) -> None:
    hub.faults.add(Fault("/repos/example/small", times=9, method="GET", truncate_to_bytes=1000))
    with pytest.raises(OSError, match="Consistency check failed"):
        client(hub).hf_hub_download(SMALL, "weights.bin", cache_dir=tmp_path)


def test_gated_files_need_a_token_that_was_granted_access(hub: FakeHub, tmp_path: Path) -> None:
    assert client(hub).model_info(GATED).gated == "manual"
    for token in (None, OUTSIDER_TOKEN):
        with pytest.raises(GatedRepoError):
            client(hub, token).hf_hub_download(GATED, "config.json", cache_dir=tmp_path)
        with pytest.raises(GatedRepoError):
            client(hub, token).auth_check(GATED)
    client(hub, GATED_TOKEN).auth_check(GATED)
    assert Path(client(hub, GATED_TOKEN).hf_hub_download(GATED, "config.json", cache_dir=tmp_path)).is_file()


def test_private_repositories_do_not_exist_for_others() -> None:
    private = Repository.from_files("us/secret", {"config.json": b"{}"}, private=True)
    with FakeHub([private], tokens={"ours": ["us/secret"], "theirs": []}) as hub:
        assert client(hub, "ours").model_info("us/secret").private
        for token in (None, "theirs"):
            with pytest.raises(RepositoryNotFoundError):
                client(hub, token).model_info("us/secret")


@pytest.mark.parametrize(("token", "status"), [(None, 401), (OUTSIDER_TOKEN, 404)])
def test_unknown_repository(hub: FakeHub, token: str | None, status: int) -> None:
    with pytest.raises(RepositoryNotFoundError) as raised:
        client(hub, token).model_info("nobody/nothing")
    assert raised.value.response.status_code == status


def test_bad_token_is_not_mistaken_for_a_missing_repository(hub: FakeHub) -> None:
    with pytest.raises(HfHubHTTPError, match="Invalid credentials") as raised:
        client(hub, "hf_wrong").model_info(AWQ)
    assert not isinstance(raised.value, RepositoryNotFoundError)


def test_unknown_revision_and_file(hub: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(RevisionNotFoundError):
        client(hub).model_info(AWQ, revision="v9")
    with pytest.raises(RemoteEntryNotFoundError):
        client(hub).hf_hub_download(AWQ, "missing.json", cache_dir=tmp_path)


def test_rate_limit_tells_when_to_come_back(hub: FakeHub) -> None:
    hub.faults.add(rate_limited("/api/models", reset_seconds=55))
    with pytest.raises(HfHubHTTPError, match="Retry after 55 seconds") as raised:
        client(hub).model_info(AWQ)
    assert raised.value.response.status_code == 429
    assert client(hub).model_info(AWQ).sha


def test_status_on_demand_is_used_up(hub: FakeHub) -> None:
    hub.faults.add(Fault("/api/models", times=2, status=503))
    statuses = [httpx.get(f"{hub.url}/api/models/{AWQ}").status_code for _ in range(3)]
    assert statuses == [503, 503, 200]
    assert hub.requests.count("/api/models", method="GET") == 3


def test_connection_cut_before_an_answer(hub: FakeHub) -> None:
    hub.faults.add(Fault("/api/models", cut_after_bytes=0))
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(f"{hub.url}/api/models/{AWQ}")
    assert [request.status for request in hub.requests.select("/api/models")] == [0]


def test_delay_makes_clients_time_out(hub: FakeHub) -> None:
    hub.faults.add(Fault("/api/models", delay_seconds=5))
    with pytest.raises(httpx.ReadTimeout):
        httpx.get(f"{hub.url}/api/models/{AWQ}", timeout=0.2)


def test_slow_body(hub: FakeHub) -> None:
    hub.faults.add(Fault("/repos/", bytes_per_second=len(WEIGHTS) * 2))
    started = time.monotonic()
    answer = httpx.get(f"{hub.url}/{SMALL}/resolve/main/weights.bin", follow_redirects=True)
    assert answer.content == WEIGHTS and 0.4 < time.monotonic() - started < 5


def test_renamed_repository_redirects_api_and_files(hub: FakeHub, tmp_path: Path) -> None:
    (old, new), *_ = STANDARD_RENAMED.items()
    assert httpx.head(f"{hub.url}/api/models/{old}").status_code == 307
    assert client(hub).model_info(old).id == new
    assert Path(client(hub).hf_hub_download(old, "config.json", cache_dir=tmp_path)).is_file()


def test_ranges_of_a_file_that_is_not_there(hub: FakeHub) -> None:
    """A shard of 15 GB of zeros: true length, any range, nothing on the disk."""
    url = f"{hub.url}/broken/data-shorter-than-the-header-says/resolve/main/model.safetensors"
    head = httpx.head(url)
    size = int(head.headers["X-Linked-Size"])
    assert head.status_code == 302 and size > 15 * 10**9

    def read(asked: str) -> httpx.Response:
        return httpx.get(url, headers={"Range": asked}, follow_redirects=True)

    assert read("bytes=0-7").headers["Content-Range"] == f"bytes 0-7/{size}"
    assert read(f"bytes={size - 3}-").content == b"\0\0\0"
    assert read("bytes=-5").headers["Content-Range"] == f"bytes {size - 5}-{size - 1}/{size}"
    beyond = read(f"bytes={size}-")
    assert (beyond.status_code, beyond.headers["Content-Range"]) == (416, f"bytes */{size}")


def test_small_files_are_served_without_a_redirect(hub: FakeHub) -> None:
    answer = httpx.head(f"{hub.url}/{SMALL}/resolve/main/config.json")
    assert (answer.status_code, answer.headers["Content-Length"]) == (200, str(len(small_files()["config.json"])))
    assert answer.headers["Accept-Ranges"] == "bytes" and len(answer.headers["X-Repo-Commit"]) == 40


def test_tree_is_paged(hub: FakeHub) -> None:
    hub.add(Repository.from_files("example/many", {f"part/{number:04}.txt": b"x" for number in range(1200)}))
    entries = list(client(hub).list_repo_tree("example/many", recursive=True))
    assert len(entries) == 1201  # and the folder
    assert hub.requests.count("/tree/") == 2


def test_branches_and_tags_move(hub: FakeHub) -> None:
    repository = Repository.from_files("example/moving", {"config.json": b"{}"})
    first = repository.branches["main"]
    repository.tags["v1"] = first
    hub.add(repository)
    second = repository.commit({"config.json": b'{"newer": true}'})
    assert client(hub).model_info("example/moving").sha == second != first
    assert client(hub).model_info("example/moving", revision="v1").sha == first
    references = client(hub).list_repo_refs("example/moving")
    assert {branch.target_commit for branch in references.branches} == {second}
    assert {tag.target_commit for tag in references.tags} == {first}


def test_search_for_quantised_checkpoints_of_a_base(hub: FakeHub) -> None:
    base = "base_model:quantized:Qwen/Qwen2.5-7B-Instruct"
    found = client(hub).list_models(filter=[base, "awq"], expand=["sha", "tags", "config"], sort="downloads")
    assert [info.id for info in found] == [AWQ]


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("gguf-only", NotASafetensorsRepoError),
        ("pickle-only", NotASafetensorsRepoError),
        ("no-weights", NotASafetensorsRepoError),
        ("header-is-not-json", SafetensorsParsingError),
        ("header-truncated", SafetensorsParsingError),
        ("header-longer-than-the-file", SafetensorsParsingError),
        ("shard-missing", RemoteEntryNotFoundError),
    ],
)
def test_broken_weights_are_refused_by_the_client(hub: FakeHub, name: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        client(hub).get_safetensors_metadata(f"broken/{name}")


def test_repository_without_a_commit(hub: FakeHub) -> None:
    assert client(hub).model_info("broken/no-commit").sha is None
    with pytest.raises(RevisionNotFoundError):
        client(hub).model_info("broken/no-commit", revision="main")


def test_the_same_folder_has_the_same_commit(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    first, second = (Repository.from_folder("a/b", tmp_path).branches["main"] for _ in range(2))
    assert first == second
    (tmp_path / "config.json").write_text("{ }")
    assert Repository.from_folder("a/b", tmp_path).branches["main"] != first


def test_reached_by_another_address_it_redirects_to_that_address(tmp_path: Path) -> None:
    with FakeHub([Repository.from_files(SMALL, small_files())], host="0.0.0.0") as hub:
        api = HfApi(endpoint=hub.url_for("localhost"), token=False)
        assert Path(api.hf_hub_download(SMALL, "weights.bin", cache_dir=tmp_path)).read_bytes() == WEIGHTS
        assert {request.host.partition(":")[0] for request in hub.requests.select()} == {"localhost"}

"""Looking for checkpoints with the real huggingface_hub client: search, relations, what is shown of each, the family."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi, ModelInfo
from huggingface_hub.errors import BadRequestError, HfHubHTTPError

from tests.fakehub import FakeHub, Repository
from tests.fakehub.chat_files import chat_files, saved_again, saved_by_later_tools
from tests.fakehub.content import Content
from tests.fakehub.family import BASE, Sibling, family
from tests.fakehub.repository import quantized_card, readme

QUANTISED = f"base_model:quantized:{BASE}"
PRIVATE_TOKEN = "hf_opens_the_private_one"


@pytest.fixture(scope="module")
def hub() -> Iterator[FakeHub]:
    with FakeHub(family(), tokens={PRIVATE_TOKEN: [Sibling.PRIVATE]}) as hub:
        yield hub


@pytest.fixture
def api(hub: FakeHub) -> HfApi:
    hub.requests.clear()
    return HfApi(endpoint=hub.url, token=False)


def ids(found: Iterable[ModelInfo]) -> list[str]:
    return [info.id for info in found]


def test_relation_finds_what_the_hub_has_derived(api: HfApi) -> None:
    found = set(ids(api.list_models(filter=QUANTISED)))
    unseen = {Sibling.NO_RELATION, Sibling.LATE_RELATION, Sibling.PRIVATE}
    assert found == {*Sibling} - unseen
    assert {Sibling.NO_RELATION, Sibling.LATE_RELATION} <= set(ids(api.list_models(search="aurora 7b instruct")))


def test_relation_that_the_card_does_not_name_is_inferred(api: HfApi) -> None:
    info = api.model_info(Sibling.INFERRED)
    assert info.card_data is not None and info.card_data.get("base_model_relation") is None
    assert QUANTISED in (info.tags or [])


@pytest.mark.parametrize(
    ("files", "relation"),
    [
        ({"config.json": {}}, "finetune"),
        ({"config.json": {"quantization_config": {"quant_method": "awq"}}}, "quantized"),
        ({"model-Q4.gguf": {}}, "quantized"),
        ({"adapter_config.json": {}, "model-Q4.gguf": {}}, "adapter"),
    ],
)
def test_what_is_inferred_from_the_files(hub: FakeHub, api: HfApi, files: dict[str, object], relation: str) -> None:
    contents = {name: json.dumps(document).encode() for name, document in files.items()}
    hub.add(Repository.from_files("a/b", {**contents, "README.md": readme("a/b", {"base_model": "c/d"})}))
    assert f"base_model:{relation}:c/d" in (api.model_info("a/b").tags or [])


def test_late_relation_arrives(hub: FakeHub, api: HfApi) -> None:
    repository = hub.catalogue.repositories[Sibling.LATE_RELATION]
    repository.relation_known = True
    try:
        assert Sibling.LATE_RELATION in ids(api.list_models(filter=QUANTISED))
    finally:
        repository.relation_known = False


def test_filters_author_and_search_must_all_match(api: HfApi) -> None:
    assert ids(api.list_models(filter=[QUANTISED, "gptq"], author="Qwen")) == [Sibling.INFERRED]
    assert ids(api.list_models(author="casperhansen", search="AURORA awq")) == [Sibling.LATE_RELATION]
    assert ids(api.list_models(author="RedHatAI", search="gated", gated=True)) == [Sibling.GATED]
    assert ids(api.list_models(author="RedHatAI", search="gated", gated=False)) == []
    assert ids(api.list_models(author="redhat")) == []


def test_order_and_limit(api: HfApi) -> None:
    by_downloads = ids(api.list_models(filter=QUANTISED, sort="downloads", limit=3))
    assert by_downloads == [Sibling.UNTRUSTED, Sibling.LOOK_ALIKE, Sibling.OWN_AWQ]
    assert ids(api.list_models(filter=QUANTISED, sort="last_modified", limit=1)) == [Sibling.OWN_AWQ]
    with pytest.raises(BadRequestError, match="sort"):
        ids(api.list_models(sort="size"))  # type: ignore[arg-type]


def test_expand_shows_what_it_names_and_nothing_else(api: HfApi) -> None:
    wanted: Any = ["sha", "tags", "gated", "config", "cardData", "downloads", "safetensors", "siblings"]
    [info] = api.list_models(
        author="aurora-ai", search="AWQ", expand=[*wanted, "createdAt", "lastModified", "disabled"]
    )
    assert info.sha == api.model_info(Sibling.OWN_AWQ).sha
    assert info.gated is False and info.disabled is False and info.downloads == 9_000
    assert info.config is not None and info.config["quantization_config"]["quant_method"] == "awq"
    assert info.card_data is not None and info.card_data["license"] == "apache-2.0"
    assert {file.rfilename for file in info.siblings or []} >= {"config.json", "model.safetensors.index.json"}
    assert info.created_at and info.last_modified and info.created_at < info.last_modified
    assert info.author is None and info.pipeline_tag is None
    # The Hub counts packed integers as parameters: a model of 7.6 billion has 2 billion so.
    assert info.safetensors is not None and info.safetensors.total == 1_963_340_288
    assert set(info.safetensors.parameters) == {"F16", "I32"}


def test_expand_of_the_base_models(api: HfApi) -> None:
    described = api.model_info(Sibling.OWN_AWQ, expand=["baseModels"]).base_models
    expected: Any = {"relation": "quantized", "models": [{"_id": "0" * 24, "id": BASE}]}
    assert described == expected


def test_unknown_property_is_refused(api: HfApi) -> None:
    for unknown in ("securityRepoStatus", "everything"):
        with pytest.raises(BadRequestError, match="expand"):
            ids(api.list_models(expand=[unknown]))  # type: ignore[list-item]


def test_without_expand_little_is_shown_and_full_adds_the_files(api: HfApi) -> None:
    [usual] = api.list_models(author="nvidia")
    assert usual.sha is None and usual.siblings is None and usual.config is None
    [full] = api.list_models(author="nvidia", full=True, cardData=True, fetch_config=True)
    assert full.sha and full.siblings and full.config and full.card_data and full.card_data["base_model"] == BASE


def test_pages_follow_each_other() -> None:
    many = [Repository.from_files(f"many/model-{number:04}", {"config.json": b"{}"}) for number in range(1200)]
    with FakeHub(many) as hub:
        found = ids(HfApi(endpoint=hub.url, token=False).list_models(author="many"))
        assert len(set(found)) == 1200 == len(found)
        assert hub.requests.count("/api/models") == 2


def test_private_models_are_found_by_those_who_may_read_them(hub: FakeHub) -> None:
    found = ids(HfApi(endpoint=hub.url, token=PRIVATE_TOKEN).list_models(search="private"))
    assert found == [Sibling.PRIVATE]
    with pytest.raises(HfHubHTTPError, match="Invalid credentials"):
        ids(HfApi(endpoint=hub.url, token="hf_wrong").list_models(search="private"))


def test_scan_of_a_repository(api: HfApi) -> None:
    def status(name: str) -> dict[str, object]:
        return api.model_info(name, securityStatus=True).security_repo_status or {}

    path = "model-00001-of-00002.safetensors"
    assert status(Sibling.OWN_AWQ) == {"scansDone": True, "filesWithIssues": []}
    assert status(Sibling.UNSAFE) == {"scansDone": True, "filesWithIssues": [{"path": path, "level": "unsafe"}]}
    assert status(Sibling.NOT_SCANNED)["scansDone"] is False
    assert api.model_info(Sibling.UNSAFE).security_repo_status is None
    entries: dict[str, Any] = {entry.path: entry for entry in api.list_repo_tree(Sibling.UNSAFE, expand=True)}
    assert entries[path].security.safe is False and entries["config.json"].security.safe is True


def test_tag_leads_to_an_older_commit(api: HfApi) -> None:
    tagged, newest = api.model_info(Sibling.MOVED_TAG, revision="v1").sha, api.model_info(Sibling.MOVED_TAG).sha
    assert tagged != newest


def test_family_has_one_repository_for_each_name() -> None:
    assert sorted(repository.id for repository in family()) == sorted([BASE, *Sibling])


def test_tokenizers_saved_again_have_other_bytes_and_the_same_content() -> None:
    ours, again, later = chat_files(), saved_again(), saved_by_later_tools()

    def document(files: Mapping[str, Content], name: str) -> Any:
        return json.loads(files[name].read(0, files[name].size))

    name = "tokenizer.json"
    assert ours[name].sha256 != again[name].sha256 != later[name].sha256
    assert document(ours, name) == document(again, name) != document(later, name)
    assert document(ours, name) != document(chat_files(swapped=True), name)
    template = document(ours, "tokenizer_config.json")["chat_template"]
    assert later["chat_template.jinja"].read(0, 10_000).decode() == template
    assert "chat_template" not in document(later, "tokenizer_config.json")


def test_folder_is_served_as_quantised_from_a_base(tmp_path: Path, api: HfApi, hub: FakeHub) -> None:
    (tmp_path / "config.json").write_text("{}")
    hub.add(Repository.from_folder("folder/AWQ", tmp_path, quantized_card("folder/base")))
    assert ids(api.list_models(filter="base_model:quantized:folder/base")) == ["folder/AWQ"]

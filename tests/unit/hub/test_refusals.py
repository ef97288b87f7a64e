"""What describe() refuses, with which reason, and that the message names the number and the way out."""

from __future__ import annotations

import pytest

from kubequant.api.conditions import Reason
from kubequant.errors import Refused
from tests.fakehub import FakeHub, Fault
from tests.fakehub.content import BytesContent, SparseContent
from tests.fakehub.quantized_headers import bitsandbytes_nf4
from tests.fakehub.safetensors_files import safetensors_file
from tests.fakehub.standard import GATED_TOKEN, OUTSIDER_TOKEN
from tests.fakehub.tensors import model_config, model_tensors
from tests.unit.hub.asking import TENSORS, changed, describe, document, model

BROKEN = {
    "missing-config": (Reason.CONFIG_MISSING, "no config.json beside its safetensors files (4)"),
    "config-is-not-json": (Reason.CONFIG_INVALID, "config.json cannot be used: it is no JSON"),
    "gguf-only": (Reason.GGUF_ONLY, "GGUF files (1)"),
    "peft-adapter": (Reason.ADAPTER_ONLY, "Merge it first (load 'Qwen/Qwen2.5-7B-Instruct' with the adapter"),
    "bitsandbytes": (Reason.UNSUPPORTED_QUANTIZATION, "bitsandbytes"),
    "unknown-architecture": (Reason.UNSUPPORTED_ARCHITECTURE, "NobodyKnowsForCausalLM"),
    "header-is-not-json": (Reason.CORRUPT_CHECKPOINT, "its header cannot be read: it is no JSON"),
    "header-truncated": (Reason.CORRUPT_CHECKPOINT, "but the whole file has 1,000"),
    "header-longer-than-the-file": (Reason.CORRUPT_CHECKPOINT, "claims 1,099,511,627,776 bytes"),
    "data-shorter-than-the-header-says": (Reason.CORRUPT_CHECKPOINT, "but 15,231,233,023 follow it"),
    "shard-missing": (Reason.CORRUPT_CHECKPOINT, "names 4 files, but not all are there: 1 missing"),
    "pickle-only": (Reason.NO_SAFETENSORS, "pickle files (1 of .bin, .pt)"),
    "no-weights": (Reason.NO_SAFETENSORS, "no weights at the top of the repository"),
    "no-commit": (Reason.REVISION_NOT_FOUND, "no branch or tag 'main'"),
}


def refusal(hub: FakeHub, repository: str, revision: str = "main", **options: object) -> Refused:
    with pytest.raises(Refused) as caught:
        describe(hub.url, repository, revision, **options)
    return caught.value


@pytest.mark.parametrize("name", BROKEN)
def test_broken_repositories(standard: FakeHub, name: str) -> None:
    reason, words = BROKEN[name]
    refused = refusal(standard, f"broken/{name}")
    assert (refused.reason, words in refused.message) == (reason, True), refused.message


def test_broken_table_is_complete(standard: FakeHub) -> None:
    names = standard.catalogue.repositories
    served = {name.removeprefix("broken/") for name in names if name.startswith("broken/")}
    assert served == set(BROKEN)


def test_a_broken_repository_costs_no_weights(standard: FakeHub) -> None:
    refusal(standard, "broken/data-shorter-than-the-header-says")
    assert [request.range for request in standard.requests.select(role="cdn")] == ["bytes=0-99999"]


def test_unknown_repository_without_a_token_says_missing_or_private(standard: FakeHub) -> None:
    refused = refusal(standard, "nobody/nothing")
    assert refused.reason is Reason.REPOSITORY_NOT_FOUND
    assert "does not exist, or it is private and the operator has no token" in refused.message
    assert f"{standard.url}/nobody/nothing" in refused.message


def test_unknown_repository_with_a_token(standard: FakeHub) -> None:
    refused = refusal(standard, "nobody/nothing", token=lambda: OUTSIDER_TOKEN)
    assert refused.reason is Reason.REPOSITORY_NOT_FOUND
    assert "the operator's token does not open it" in refused.message


def test_private_repository_is_opened_by_its_token_alone(empty: FakeHub) -> None:
    secret = model("some/secret")
    secret.private = True
    empty.add(secret)
    assert refusal(empty, "some/secret").reason is Reason.REPOSITORY_NOT_FOUND
    assert describe(empty.url, "some/secret", token=lambda: "hf_operator").repository == "some/secret"


@pytest.mark.parametrize(
    ("token", "words"),
    [
        (None, "with an account and give the operator a token of that account"),
        (OUTSIDER_TOKEN, "with the account of the operator's token"),
    ],
)
def test_gated_repository(standard: FakeHub, token: str | None, words: str) -> None:
    refused = refusal(standard, "meta-llama/Llama-3.1-8B-Instruct", token=lambda: token)
    assert refused.reason is Reason.ACCESS_GATED
    assert words in refused.message
    assert f"{standard.url}/meta-llama/Llama-3.1-8B-Instruct" in refused.message
    assert describe(standard.url, "meta-llama/Llama-3.1-8B-Instruct", token=lambda: GATED_TOKEN).weight_bytes > 0


@pytest.mark.parametrize("status", [401, 403])
def test_gated_repository_of_a_mirror_that_sends_no_error_code(standard: FakeHub, status: int) -> None:
    standard.faults.add(Fault(r"config\.json$", status=status))
    assert refusal(standard, "google/gemma-3-1b-it", token=lambda: GATED_TOKEN).reason is Reason.ACCESS_GATED


def test_renamed_repository_names_the_new_name(standard: FakeHub) -> None:
    refused = refusal(standard, "neuralmagic/Meta-Llama-3.1-8B-Instruct-FP8-dynamic")
    assert refused.reason is Reason.REPOSITORY_RENAMED
    assert "is called 'RedHatAI/Meta-Llama-3.1-8B-Instruct-FP8-dynamic' on the hub now" in refused.message


def test_unknown_revision(standard: FakeHub) -> None:
    refused = refusal(standard, "Qwen/Qwen2.5-7B-Instruct", "v9/../x")
    assert refused.reason is Reason.REVISION_NOT_FOUND
    assert "'v9/../x'" in refused.message


def test_token_that_the_hub_does_not_accept(standard: FakeHub) -> None:
    refused = refusal(standard, "Qwen/Qwen2.5-7B-Instruct", token=lambda: "hf_expired")
    assert refused.reason is Reason.TOKEN_INVALID
    assert "hf_expired" not in refused.message


def test_disabled_repository(standard: FakeHub) -> None:
    standard.faults.add(
        Fault("/api/models/", status=403, headers={"X-Error-Message": "Access to this resource is disabled."})
    )
    assert "has been disabled" in refusal(standard, "Qwen/Qwen2.5-7B-Instruct").message


@pytest.mark.parametrize("name", ["", "a b/c", "a/b/c", "../etc", "a/b--c", "x" * 97])
def test_a_name_that_is_none_asks_nothing(standard: FakeHub, name: str) -> None:
    assert refusal(standard, name).reason is Reason.REPOSITORY_NOT_FOUND
    assert standard.requests.count() == 0


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (b"[]", "holds a JSON list, not an object"),
        (b"\xff\xfe", "it is no JSON"),
        (b'{"a": NaN}', "NaN is no JSON number"),
        (b'{"a": ' + b"9" * 5000 + b"}", "it is no JSON"),
        (b" " * 10_000_001, "larger than 10,000,000 bytes"),
    ],
)
def test_config_that_is_none(empty: FakeHub, config: bytes, words: str) -> None:
    empty.add(model(config__json=config))
    refused = refusal(empty, "some/model")
    assert refused.reason is Reason.CONFIG_INVALID
    assert words in refused.message


def test_gguf_repository_names_its_base(empty: FakeHub) -> None:
    card = b"---\nbase_model: Qwen/Qwen2.5-7B-Instruct\n---\n"
    repository = model(README__md=card, model__gguf=SparseContent(b"GGUF", 4_683_000_000))
    commit = repository.commits[repository.branches["main"]]
    repository.commit({path: file for path, file in commit.files.items() if not path.endswith(".safetensors")})
    empty.add(repository)
    refused = refusal(empty, "some/model")
    assert refused.reason is Reason.GGUF_ONLY
    assert "Name 'Qwen/Qwen2.5-7B-Instruct' instead" in refused.message


CARD = b"---\nbase_model: Qwen/Qwen2.5-7B-Instruct\n---\n"


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "take its 16-bit base with another scheme"),
        ({"quant_method": "exl2", "bits": 4.0}, "EXL2"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": True, "sym": True}, "desc_act: false"),
    ],
)
def test_a_format_that_is_not_served_names_its_base(empty: FakeHub, declared: dict[str, object], words: str) -> None:
    config = document({**model_config("qwen2.5-7b"), "quantization_config": declared})
    empty.add(model(config__json=config, README__md=CARD))
    refused = refusal(empty, "some/model")
    assert refused.reason is Reason.UNSUPPORTED_QUANTIZATION
    assert words in refused.message
    assert "Its base is 'Qwen/Qwen2.5-7B-Instruct'" in refused.message
    assert refused.message.startswith("some/model at ")


def test_a_format_that_is_not_served_costs_no_header(empty: FakeHub) -> None:
    empty.add(
        model(config__json=document({**model_config("qwen2.5-7b"), "quantization_config": {"quant_method": "aqlm"}}))
    )
    refusal(empty, "some/model")
    assert not empty.requests.select(r"\.safetensors$")


def test_bitsandbytes_is_known_by_its_tensors(empty: FakeHub) -> None:
    empty.add(model(tensors=bitsandbytes_nf4(model_tensors("qwen2.5-7b")), shard_bytes=10**12))
    assert "that is bitsandbytes in 4 bit" in refusal(empty, "some/model").message


def test_adapter_beside_a_whole_model_is_the_model(empty: FakeHub) -> None:
    empty.add(model(adapter_config__json=b"{}"))
    assert describe(empty.url, "some/model").repository == "some/model"


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ({}, "has no weight_map"),
        ({"weight_map": {"a": 1}}, "has no weight_map"),
        ({"weight_map": {"a": "../../x.safetensors"}}, "'../../x.safetensors', which is no safetensors file beside it"),
        ({"weight_map": {"a": "model.bin"}}, "'model.bin', which is no safetensors file"),
        ({"weight_map": {"a": "/etc/model.safetensors"}}, "'/etc/model.safetensors', which is no safetensors file"),
        ({"weight_map": {"a": "https://elsewhere/model.safetensors"}}, "which is no safetensors file beside it"),
        ({"weight_map": {"a": "..\\\\model.safetensors"}}, "which is no safetensors file beside it"),
        ({"weight_map": {"a": "%2e%2e%2fmodel.safetensors"}}, "which is no safetensors file beside it"),
        ({"weight_map": {"a": "model\x00.safetensors"}}, "which is no safetensors file beside it"),
        ({"weight_map": {"a": "mod\nel.safetensors"}}, "which is no safetensors file beside it"),
        ({"weight_map": {"a": ".safetensors"}}, "which is no safetensors file beside it"),
        ({"weight_map": {"a": "?x=1#.safetensors"}}, "which is no safetensors file beside it"),
        ({"weight_map": {"a": "x" * 300 + ".safetensors"}}, "which is no safetensors file beside it"),
        ({"weight_map": {"a": "elsewhere.safetensors"}}, "1 missing, first 'elsewhere.safetensors'"),
        ({"weight_map": {f"t{n}": f"m{n}.safetensors" for n in range(2001)}}, "2,001 weight files"),
    ],
)
def test_index_that_is_none(empty: FakeHub, index: object, words: str) -> None:
    empty.add(changed(model(), model__safetensors__index__json=document(index)))
    refused = refusal(empty, "some/model")
    assert refused.reason is Reason.CORRUPT_CHECKPOINT
    assert words in refused.message


def test_tensor_that_the_index_promises_and_the_shard_lacks(empty: FakeHub) -> None:
    weight_map = {tensor.name: "model.safetensors" for tensor in TENSORS} | {"lm_head.weight": "model.safetensors"}
    files = {
        "model__safetensors": safetensors_file(TENSORS),
        "model__safetensors__index__json": document({"weight_map": weight_map}),
    }
    empty.add(changed(model(), **files))
    refused = refusal(empty, "some/model")
    assert "it lacks 1 of the 19 tensors that the index places in it, first 'lm_head.weight'" in refused.message


def test_numbered_shards_without_an_index_must_be_complete(empty: FakeHub) -> None:
    without_index = changed(model(), model__safetensors__index__json=None)
    empty.add(without_index)
    whole = describe(empty.url, "some/model").weight_bytes
    first = "model-00001-of-00005.safetensors"
    empty.add(changed(without_index, **{first.replace(".", "__"): None}))
    refused = refusal(empty, "some/model")
    assert whole > 0
    assert f"1 missing, first '{first}'" in refused.message


def test_empty_weight_file(empty: FakeHub) -> None:
    empty.add(changed(model(shard_bytes=10**9), model__safetensors=BytesContent(b"")))
    refused = refusal(empty, "some/model")
    assert refused.reason is Reason.CORRUPT_CHECKPOINT
    assert "it has 0 bytes" in refused.message


def test_a_message_never_carries_a_strangers_page_of_text(empty: FakeHub) -> None:
    index = {"weight_map": {"a": "x\n" * 5000 + "/y"}}
    empty.add(changed(model(), model__safetensors__index__json=document(index)))
    message = refusal(empty, "some/model").message
    assert len(message) < 500
    assert "\n" not in message

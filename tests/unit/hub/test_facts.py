"""What describe() finds in header-only models, and what it asks for to find it."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from kubequant.errors import Refused
from kubequant.hub.description import SMALL_BYTES
from kubequant.hub.shards import FIRST_BYTES
from kubequant.planning.values import StoredMethod
from tests.fakehub import FakeHub, Repository
from tests.fakehub import quantized_headers as quantized
from tests.fakehub.family import Sibling
from tests.fakehub.safetensors_files import (
    SHARD_LIMIT_BYTES,
    checkpoint_files,
    header,
    safetensors_file,
    split_into_shards,
)
from tests.fakehub.standard import GATED_TOKEN
from tests.fakehub.tensors import Tensor, model_config, model_tensors, total_bytes
from tests.unit.hub.asking import TENSORS, TENSORS_BYTES, changed, describe, document, model

MODELS = {
    "Qwen/Qwen2.5-7B-Instruct": lambda: model_tensors("qwen2.5-7b"),
    "Qwen/Qwen2.5-7B-Instruct-AWQ": lambda: quantized.awq_gemm(model_tensors("qwen2.5-7b")),
    "Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4": lambda: quantized.gptq(model_tensors("qwen2.5-7b")),
    "meta-llama/Llama-3.1-8B-Instruct": lambda: model_tensors("llama-3.1-8b"),
    "RedHatAI/Meta-Llama-3.1-8B-Instruct-FP8-dynamic": lambda: quantized.fp8_per_channel(model_tensors("llama-3.1-8b")),
    "RedHatAI/Meta-Llama-3.1-8B-Instruct-quantized.w4a16": lambda: quantized.pack_quantized(
        model_tensors("llama-3.1-8b")
    ),
    "hugging-quants/Meta-Llama-3.1-70B-Instruct-AWQ-INT4": lambda: quantized.awq_gemm(model_tensors("llama-3.1-70b")),
}


def classes(tensors: list[Tensor]) -> Counter[tuple[str, str, tuple[int, ...]]]:
    return Counter((re.sub(r"\.\d+\.", ".*.", tensor.name), tensor.dtype, tensor.shape) for tensor in tensors)


@pytest.mark.parametrize("repository", MODELS)
def test_bytes_and_classes_are_those_of_the_headers(standard: FakeHub, repository: str) -> None:
    facts = describe(standard.url, repository, token=lambda: GATED_TOKEN)
    expected = MODELS[repository]()
    assert facts.weight_bytes == total_bytes(expected)
    assert {(one.pattern, one.dtype, one.shape): one.count for one in facts.tensors} == classes(expected)
    assert facts.commit == standard.catalogue.repositories[repository].branches["main"]


@pytest.mark.parametrize(
    ("repository", "published_bytes"),
    [("Qwen/Qwen2.5-7B-Instruct", 15_231_233_024), ("meta-llama/Llama-3.1-8B-Instruct", 16_060_522_496)],
)
def test_bytes_are_the_total_size_of_the_published_index(
    standard: FakeHub, repository: str, published_bytes: int
) -> None:
    assert describe(standard.url, repository, token=lambda: GATED_TOKEN).weight_bytes == published_bytes


def test_quantisation_is_read_from_the_config(standard: FakeHub) -> None:
    facts = describe(standard.url, "Qwen/Qwen2.5-7B-Instruct-AWQ")
    assert facts.stored is not None
    assert (facts.stored.method, facts.stored.bits, facts.stored.group_size) == (StoredMethod.AWQ, 4, 128)
    assert describe(standard.url, "Qwen/Qwen2.5-7B-Instruct").stored is None


def test_the_file_of_an_older_quantiser_is_not_enough(empty: FakeHub) -> None:
    written_by_autogptq = document({"bits": 4, "group_size": 128, "desc_act": False, "sym": True})
    tensors = quantized.gptq(model_tensors("qwen2.5-7b"))
    empty.add(model(tensors=tensors, shard_bytes=SHARD_LIMIT_BYTES, quantize_config__json=written_by_autogptq))
    with pytest.raises(Refused, match=r"a quantize_config\.json does not count"):
        describe(empty.url, "some/model")


MODELOPT = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": None}}


def modelopt_fp8(tensors: list[Tensor]) -> list[Tensor]:
    return [
        new
        for tensor in tensors
        for new in (
            [tensor.renamed("weight", "F8_E4M3", tensor.shape), tensor.renamed("weight_scale", "F32", ())]
            if tensor.linear and tensor.module != "lm_head"
            else [tensor]
        )
    ]


def test_quantisation_is_read_from_modelopts_own_file(empty: FakeHub) -> None:
    tensors = modelopt_fp8(model_tensors("qwen2.5-7b"))
    empty.add(model(tensors=tensors, shard_bytes=SHARD_LIMIT_BYTES, hf_quant_config__json=document(MODELOPT)))
    stored = describe(empty.url, "some/model").stored
    assert stored is not None and (stored.method, stored.scheme) == (StoredMethod.MODELOPT, "FP8")


def test_a_name_that_contradicts_the_content_is_noted(empty: FakeHub) -> None:
    empty.add(model("some/model-AWQ"))
    notes = describe(empty.url, "some/model-AWQ").notes
    assert notes == ("it is called 'some/model-AWQ', but holds weights that are not quantised: content counts",)
    empty.add(model())
    assert describe(empty.url, "some/model").notes == ()


def test_answers_are_cut_where_generation_config_says(empty: FakeHub) -> None:
    empty.add(model(generation_config__json=document({"max_new_tokens": 2048, "temperature": 0.7})))
    facts = describe(empty.url, "some/model")
    assert facts.max_new_tokens == 2048
    assert facts.notes == (
        "generation_config.json ends an answer after 2,048 tokens where a request sets no max_tokens",
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "it cannot be read"),
        (b" " * 1_000_001, "it cannot be read"),
        (b'{"max_new_tokens": -5}', "max_new_tokens is '-5'"),
        (b'{"max_new_tokens": "' + b"x" * 5000 + b'"}', "which is no count of tokens"),
    ],
)
def test_a_broken_generation_config_decides_nothing(empty: FakeHub, content: bytes, words: str) -> None:
    empty.add(model(generation_config__json=content))
    facts = describe(empty.url, "some/model")
    assert facts.max_new_tokens is None
    assert len(facts.notes) == 1 and words in facts.notes[0] and len(facts.notes[0]) < 300


def test_documents_of_a_description_are_four_at_most(empty: FakeHub) -> None:
    files = {"tokenizer_config__json": b'{"chat_template": "x"}', "generation_config__json": b"{}"}
    empty.add(model(**files))
    describe(empty.url, "some/model")
    asked = [request.path.rpartition("/")[2] for request in empty.requests.select(role="hub")]
    documents = [name for name in asked if not name.endswith(".safetensors")]
    assert len(documents) == 4  # the hub repeats the template of tokenizer_config.json
    empty.requests.clear()
    empty.add(model("some/other", **files, chat_template__jinja=b"x"))
    describe(empty.url, "some/other")
    assert not empty.requests.select(r"tokenizer_config\.json$")


def test_one_request_a_shard_where_headers_are_short(standard: FakeHub) -> None:
    describe(standard.url, "Qwen/Qwen2.5-7B-Instruct")
    ranges = [request.range for request in standard.requests.select(r"\.safetensors$", role="hub")]
    assert ranges == [f"bytes=0-{FIRST_BYTES - 1}"] * len(
        split_into_shards(model_tensors("qwen2.5-7b"), SHARD_LIMIT_BYTES)
    )


def test_a_long_header_takes_two_requests_and_no_weights(empty: FakeHub) -> None:
    tensors = [Tensor(f"model.layers.{layer}.mlp.{'x' * 60}.weight", "BF16", (8192, 1024)) for layer in range(1500)]
    empty.add(model(tensors=tensors, shard_bytes=total_bytes(tensors)))
    facts = describe(empty.url, "some/model")
    end = len(header(tensors))
    assert facts.weight_bytes == total_bytes(tensors) == 1500 * 8192 * 1024 * 2
    assert [one.range for one in empty.requests.select(role="cdn")] == [
        f"bytes=0-{FIRST_BYTES - 1}",
        f"bytes={FIRST_BYTES}-{end - 1}",
    ]


def test_no_description_reads_further_than_the_headers(standard: FakeHub) -> None:
    describe(standard.url, "hugging-quants/Meta-Llama-3.1-70B-Instruct-AWQ-INT4")
    shards = split_into_shards(quantized.awq_gemm(model_tensors("llama-3.1-70b")), SHARD_LIMIT_BYTES)
    longest = max(len(header(shard)) for shard in shards)
    requests = standard.requests.select(role="cdn")
    assert all(request.range is not None for request in requests)
    assert max(int(str(request.range).rpartition("-")[2]) for request in requests) < max(FIRST_BYTES, longest)
    assert len(requests) <= 2 * len(shards)


def test_download_counts_what_a_pod_fetches_and_nothing_else(empty: FakeHub) -> None:
    empty.add(
        model(
            tokenizer__json=b"t" * 100,
            merges__txt=b"m" * 10,
            tokenizer__model=b"s" * 1000,
            pytorch_model__bin=b"p" * 5000,
            modeling__py=b"y" * 7000,
            README__md=b"r" * 3000,
        )
    )
    repository = empty.catalogue.repositories["some/model"]
    files = repository.commits[repository.branches["main"]].files
    fetched = [content.size for path, content in files.items() if re.search(r"\.(safetensors|json|txt|model)$", path)]
    facts = describe(empty.url, "some/model")
    assert facts.download_bytes == sum(fetched)
    assert facts.download_bytes > TENSORS_BYTES + 1110


def test_a_consolidated_copy_is_neither_loaded_nor_downloaded(empty: FakeHub) -> None:
    copy = checkpoint_files(TENSORS)["model.safetensors"]
    empty.add(model())
    alone = describe(empty.url, "some/model")
    empty.add(model("some/twin", consolidated__safetensors=copy))
    twin = describe(empty.url, "some/twin")
    assert (twin.weight_bytes, twin.download_bytes) == (alone.weight_bytes, alone.download_bytes)
    assert alone.weight_bytes == TENSORS_BYTES


def test_a_file_outside_the_index_is_downloaded_but_not_loaded(empty: FakeHub) -> None:
    stray = checkpoint_files(TENSORS)["model.safetensors"]
    empty.add(model(model_fp32__safetensors=stray))
    facts = describe(empty.url, "some/model")
    assert facts.weight_bytes == TENSORS_BYTES
    assert facts.download_bytes > 2 * TENSORS_BYTES


def test_a_tensor_in_two_shards_counts_where_the_index_places_it(empty: FakeHub) -> None:
    twice = safetensors_file([TENSORS[0], TENSORS[-1]])
    index = {tensor.name: "model-a.safetensors" for tensor in TENSORS} | {TENSORS[-1].name: "model-b.safetensors"}
    empty.add(
        Repository.from_files(
            "some/model",
            {
                "config.json": document(model_config("qwen2.5-7b")),
                "model-a.safetensors": safetensors_file(TENSORS),
                "model-b.safetensors": twice,
                "model.safetensors.index.json": document({"weight_map": index}),
            },
        )
    )
    assert describe(empty.url, "some/model").weight_bytes == TENSORS_BYTES


def test_an_index_of_megabytes_is_read_in_turn(empty: FakeHub) -> None:
    weight_map = {tensor.name: "model.safetensors" for tensor in TENSORS}
    padded = document({"metadata": {"x": "y" * SMALL_BYTES}, "weight_map": weight_map})
    empty.add(model(shard_bytes=TENSORS_BYTES, model__safetensors__index__json=padded))
    assert describe(empty.url, "some/model", deadline_seconds=5).weight_bytes == TENSORS_BYTES


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, False),
        ({"tokenizer_config__json": b"{}"}, False),
        ({"tokenizer_config__json": b'{"chat_template": ""}'}, False),
        ({"tokenizer_config__json": b'{"chat_template": "{{ messages }}"}'}, True),
        ({"tokenizer_config__json": b'{"chat_template": [{"name": "default", "template": "x"}]}'}, True),
        ({"tokenizer_config__json": b"{}", "chat_template__jinja": b"{{ messages }}"}, True),
    ],
)
def test_chat_template(empty: FakeHub, files: dict[str, bytes], expected: bool) -> None:
    empty.add(model(**files))
    assert describe(empty.url, "some/model").has_chat_template is expected


def test_a_tag_and_a_commit_are_pinned_as_they_stand(empty: FakeHub) -> None:
    repository = model()
    first = repository.branches["main"]
    repository.tags["v1"] = first
    second = changed(repository, chat_template__jinja=b"x").branches["main"]
    empty.add(repository)
    assert describe(empty.url, "some/model").commit == second
    assert describe(empty.url, "some/model", "v1").commit == describe(empty.url, "some/model", first).commit == first


def test_what_the_scan_marks_is_noted_of_a_repository_that_was_named(standard: FakeHub) -> None:
    notes = describe(standard.url, Sibling.UNSAFE).notes
    assert any("scan marks" in note and "unsafe" in note for note in notes)

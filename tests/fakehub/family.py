"""One base model and all that has been published of it: what a search for a checkpoint to trust must tell apart.

The base is 7B, has a tokenizer, a chat template and a licence, and its organisation is on nobody's list. What each
sibling has that the others have not is said at its name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any

from tests.fakehub import quantized_headers as quantized
from tests.fakehub.chat_files import CHAT_TEMPLATE, chat_files, saved_again, saved_by_later_tools
from tests.fakehub.content import BytesContent, Content, SparseContent
from tests.fakehub.repository import Repository, quantized_card, readme
from tests.fakehub.safetensors_files import checkpoint_files, safetensors_file
from tests.fakehub.tensors import Tensor, model_config, model_tensors

BASE = "aurora-ai/Aurora-7B-Instruct"


class Sibling(StrEnum):
    """The repositories beside the base, as good as can be unless said otherwise; with relation and licence in the card."""

    OWN_AWQ = "aurora-ai/Aurora-7B-Instruct-AWQ"
    """Of the base's own organisation, AWQ GEMM."""
    FP8_DYNAMIC = "RedHatAI/Aurora-7B-Instruct-FP8-dynamic"
    """Of a trusted publisher, FP8 a channel."""
    W4A16 = "RedHatAI/Aurora-7B-Instruct-quantized.w4a16"
    """Of a trusted publisher, compressed-tensors; its tokenizer saved again: other bytes, the same content."""
    LATER_TOOLS = "nvidia/Aurora-7B-Instruct-FP8"
    """Of a trusted publisher; merges as pairs, the template in chat_template.jinja: other files, the same content."""
    NO_RELATION = "hugging-quants/Aurora-7B-Instruct-GPTQ-INT4"
    """Of a trusted publisher, GPTQ; its card names no base, so only a search by name finds it."""
    LATE_RELATION = "casperhansen/aurora-7b-instruct-awq"
    """Of a trusted publisher; the card names the base, but the Hub has not derived the tags."""
    INFERRED = "Qwen/Aurora-7B-Instruct-GPTQ-Int4"
    """Of a trusted publisher; the card names the base and no relation, which the Hub infers from the config."""
    MOVED_TAG = "neuralmagic/Aurora-7B-Instruct-FP8"
    """Of a trusted publisher; its tag v1 leads to an older commit than main, and may be moved."""
    UNTRUSTED = "somebody/Aurora-7B-Instruct-AWQ"
    """As good as the first, of a publisher whom nobody knows; the most downloaded."""
    LOOK_ALIKE = "RedHatAl/Aurora-7B-Instruct-quantized.w4a16"
    """A publisher who looks like a trusted one: a small L at the end."""
    WRONG_TOKENIZER = "RedHatAI/Aurora-7B-Instruct-AWQ-swapped-token"
    """Two tokens have each other's ids."""
    CHANGED_TEMPLATE = "RedHatAI/Aurora-7B-Instruct-AWQ-other-template"
    """A chat template with a system message of its own."""
    NO_TOKENIZER = "RedHatAI/Aurora-7B-Instruct-AWQ-no-tokenizer"
    """Neither tokenizer nor template."""
    WRONG_VOCABULARY = "RedHatAI/Aurora-7B-Instruct-AWQ-other-vocabulary"
    """Another vocabulary, in config and headers."""
    FINE_TUNE = "RedHatAI/Aurora-Coder-5B-AWQ"
    """Claims the base, but has fewer layers and a narrower MLP: a quantised fine-tune of something else."""
    OTHER_ARCHITECTURE = "RedHatAI/Aurora-8B-Instruct-FP8-dynamic"
    """Claims the base, but is a Llama."""
    WIDER_LICENCE = "RedHatAI/Aurora-7B-Instruct-AWQ-mit"
    """Licensed MIT, wider than the base's."""
    NO_LICENCE = "RedHatAI/Aurora-7B-Instruct-AWQ-no-licence"
    """The card names none."""
    CODE_FILES = "RedHatAI/Aurora-7B-Instruct-AWQ-modeling-code"
    """A modeling_aurora.py, and an auto_map that asks for it."""
    PICKLE_ONLY = "RedHatAI/Aurora-7B-Instruct-GPTQ-pickle"
    """pytorch_model.bin and no safetensors."""
    PICKLE_BESIDE = "RedHatAI/Aurora-7B-Instruct-FP8-with-pickle"
    """pytorch_model.bin beside whole safetensors."""
    GGUF_ONLY = "RedHatAI/Aurora-7B-Instruct-GGUF"
    """llama.cpp's files alone."""
    BITSANDBYTES = "RedHatAI/Aurora-7B-Instruct-bnb-4bit"
    """NF4."""
    GEMV = "RedHatAI/Aurora-7B-Instruct-AWQ-gemv"
    """AWQ in the GEMV layout."""
    GPTQ_3_BIT = "RedHatAI/Aurora-7B-Instruct-GPTQ-Int3"
    """GPTQ with 3 bits."""
    ADAPTER = "RedHatAI/Aurora-7B-Instruct-lora"
    """A PEFT adapter, marked as quantised."""
    GATED = "RedHatAI/Aurora-7B-Instruct-AWQ-gated"
    """Gated, though the base is not."""
    PRIVATE = "RedHatAI/Aurora-7B-Instruct-AWQ-private"
    """Private: for a token that opens it."""
    DISABLED = "RedHatAI/Aurora-7B-Instruct-AWQ-disabled"
    """Found by a search, taken away by the Hub's staff."""
    UNSAFE = "RedHatAI/Aurora-7B-Instruct-AWQ-unsafe"
    """The Hub's scan calls one of its files unsafe."""
    NOT_SCANNED = "RedHatAI/Aurora-7B-Instruct-AWQ-not-scanned"
    """The Hub's scan is not done."""
    NAME_LIES = "RedHatAI/Aurora-7B-Instruct-AWQ-INT4"
    """Called AWQ; what it holds is GPTQ."""


_APACHE = "apache-2.0"
_LICENCE = {"license": _APACHE, "pipeline_tag": "text-generation"}
_OF_BASE = quantized_card(BASE)
_OTHER_TEMPLATE = CHAT_TEMPLATE.replace("{% for", "<|im_start|>system\nAnswer in verse.<|im_end|>\n{% for", 1)
_SOURCES = {
    "awq": "qwen2.5-7b-awq",
    "gptq": "qwen2.5-7b-gptq-int4",
    "fp8": "llama-3.1-8b-fp8-dynamic",
    "w4a16": "llama-3.1-8b-w4a16",
}
"""Whose quantization_config each format takes."""
_QUANTISE: Mapping[str, Callable[[list[Tensor]], list[Tensor]]] = {
    "awq": quantized.awq_gemm,
    "gptq": quantized.gptq,
    "fp8": quantized.fp8_per_channel,
    "w4a16": quantized.pack_quantized,
}


def family() -> list[Repository]:
    """The base and every sibling; new repositories each time: a test may change them."""
    return [_base(), *_good(), *_of_doubtful_origin(), *_unlike_the_base(), *_unsafe(), *_of_other_formats()]


def _base() -> Repository:
    files = {"config.json": _json(model_config("qwen2.5-7b")), **checkpoint_files(model_tensors("qwen2.5-7b"))}
    files |= {"README.md": readme(BASE, _LICENCE), "LICENSE": BytesContent(b"Apache License 2.0\n"), **chat_files()}
    return Repository.from_files(BASE, files, downloads=50_000, created_at=_day(1), last_modified=_day(2))


def _good() -> list[Repository]:
    late = sibling(Sibling.LATE_RELATION, "awq", downloads=4_000)
    late.relation_known = False
    inferred_card = {**_LICENCE, "base_model": BASE}
    return [
        sibling(Sibling.OWN_AWQ, "awq", downloads=9_000, created_at=_day(3), last_modified=_day(9)),
        sibling(Sibling.FP8_DYNAMIC, "fp8", downloads=8_000, created_at=_day(4), last_modified=_day(4)),
        sibling(Sibling.W4A16, "w4a16", saved_again(), downloads=7_000, created_at=_day(5), last_modified=_day(5)),
        sibling(Sibling.LATER_TOOLS, "fp8", saved_by_later_tools(), downloads=6_000),
        sibling(Sibling.NO_RELATION, "gptq", card=_LICENCE, downloads=5_000),
        late,
        sibling(Sibling.INFERRED, "gptq", card=inferred_card, downloads=3_000),
        _with_older_tag(sibling(Sibling.MOVED_TAG, "fp8", downloads=2_000)),
    ]


def _of_doubtful_origin() -> list[Repository]:
    return [
        sibling(Sibling.UNTRUSTED, "awq", downloads=90_000),
        sibling(Sibling.LOOK_ALIKE, "w4a16", downloads=80_000),
        sibling(Sibling.WIDER_LICENCE, "awq", card={**_OF_BASE, "license": "mit"}),
        sibling(Sibling.NO_LICENCE, "awq", card=_OF_BASE),
        sibling(Sibling.GATED, "awq", gated="manual"),
        sibling(Sibling.PRIVATE, "awq", private=True),
        sibling(Sibling.DISABLED, "awq", disabled=True),
    ]


def _unlike_the_base() -> list[Repository]:
    config = model_config("qwen2.5-7b")
    vocabulary = config["vocab_size"] - 128
    resized = [_with_rows(tensor, config["vocab_size"], vocabulary) for tensor in model_tensors("qwen2.5-7b")]
    narrow = {**config, "num_hidden_layers": 20, "intermediate_size": 9472}
    return [
        sibling(Sibling.WRONG_TOKENIZER, "awq", chat_files(swapped=True)),
        sibling(Sibling.CHANGED_TEMPLATE, "awq", chat_files(template=_OTHER_TEMPLATE)),
        sibling(Sibling.NO_TOKENIZER, "awq", {}),
        sibling(Sibling.WRONG_VOCABULARY, "awq", base=({**config, "vocab_size": vocabulary}, resized)),
        sibling(Sibling.FINE_TUNE, "awq", base=(narrow, _cut_down(narrow))),
        sibling(Sibling.OTHER_ARCHITECTURE, "fp8", base=(model_config("llama-3.1-8b"), model_tensors("llama-3.1-8b"))),
    ]


def _unsafe() -> list[Repository]:
    code = {"modeling_aurora.py": BytesContent(b"class AuroraForCausalLM: ...\n")}
    auto_map = {"auto_map": {"AutoModelForCausalLM": "modeling_aurora.AuroraForCausalLM"}}
    pickle = {"pytorch_model.bin": SparseContent(b"PK", 5_600_000_000)}
    config = {**model_config("qwen2.5-7b"), **_quantization("gptq")}
    return [
        sibling(Sibling.CODE_FILES, "awq", {**chat_files(), **code}, declared=auto_map),
        _repository(Sibling.PICKLE_ONLY, {"config.json": _json(config), **chat_files(), **pickle}),
        sibling(Sibling.PICKLE_BESIDE, "fp8", {**chat_files(), **pickle}),
        sibling(Sibling.UNSAFE, "awq", unsafe_files=("model-00001-of-00002.safetensors",)),
        sibling(Sibling.NOT_SCANNED, "awq", scanned=False),
    ]


def _of_other_formats() -> list[Repository]:
    tensors, config = model_tensors("qwen2.5-7b"), model_config("qwen2.5-7b")
    nf4 = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    gemv = _quantization("awq")["quantization_config"] | {"version": "gemv"}
    int3 = _quantization("gptq")["quantization_config"] | {"bits": 3}
    adapter = {"peft_type": "LORA", "base_model_name_or_path": BASE, "r": 16}
    lora = Tensor("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", "BF16", (16, 3584))

    def stored(name: Sibling, rewritten: list[Tensor], declared: Mapping[str, Any]) -> Repository:
        described = {"config.json": _json({**config, "quantization_config": declared}), **chat_files()}
        return _repository(name, {**described, **checkpoint_files(rewritten)})

    return [
        _repository(
            Sibling.GGUF_ONLY, {"Aurora-7B-Instruct-Q4_K_M.gguf": SparseContent(b"GGUF\3\0\0\0", 4_683_000_000)}
        ),
        stored(Sibling.BITSANDBYTES, quantized.bitsandbytes_nf4(tensors), nf4),
        stored(Sibling.GEMV, quantized.awq_gemv(tensors), gemv),
        stored(Sibling.GPTQ_3_BIT, quantized.gptq(tensors, bits=3), int3),
        sibling(Sibling.NAME_LIES, "gptq"),
        _repository(
            Sibling.ADAPTER,
            {"adapter_config.json": _json(adapter), "adapter_model.safetensors": safetensors_file([lora])},
        ),
    ]


def sibling(
    name: str,
    scheme: str,
    chat: Mapping[str, Content] | None = None,
    *,
    card: Mapping[str, Any] | None = None,
    base: tuple[Mapping[str, Any], list[Tensor]] | None = None,
    declared: Mapping[str, Any] | None = None,
    **options: Any,
) -> Repository:
    """A quantised checkpoint: `scheme` is awq, gptq, fp8 or w4a16.

    `chat` are its tokenizer's files (the base's), `card` its card, `base` config and tensors of what was quantised,
    `declared` more keys of config.json, `options` those of the repository.
    """
    config, tensors = base or (model_config("qwen2.5-7b"), model_tensors("qwen2.5-7b"))
    described = _json({**config, **_quantization(scheme), **(declared or {})})
    files = {"config.json": described, **(chat_files() if chat is None else chat)}
    return _repository(name, {**files, **checkpoint_files(_QUANTISE[scheme](tensors))}, card, **options)


def _repository(
    name: str, files: Mapping[str, Content], card: Mapping[str, Any] | None = None, **options: Any
) -> Repository:
    described = readme(name, {**_LICENCE, **_OF_BASE} if card is None else card)
    dated = {"created_at": _day(6), "last_modified": _day(7), **options}
    return Repository.from_files(name, {"README.md": described, **files}, **dated)


def _with_older_tag(repository: Repository) -> Repository:
    first = repository.branches["main"]
    repository.tags["v1"] = first
    repository.commit({**repository.commits[first].files, "recipe.yaml": BytesContent(b"scheme: FP8_DYNAMIC\n")})
    return repository


def _quantization(scheme: str) -> dict[str, Any]:
    return {"quantization_config": model_config(_SOURCES[scheme])["quantization_config"]}


def _with_rows(tensor: Tensor, rows: int, others: int) -> Tensor:
    """An embedding or a head of another vocabulary."""
    shape = tuple(others if size == rows else size for size in tensor.shape)
    return Tensor(tensor.name, tensor.dtype, shape, tensor.linear)


def _cut_down(config: Mapping[str, Any]) -> list[Tensor]:
    """The base's first layers, their MLP narrower, as `config` has it."""
    wide = model_config("qwen2.5-7b")["intermediate_size"]
    gone = {f"model.layers.{layer}." for layer in range(config["num_hidden_layers"], 28)}
    return [
        _with_rows(tensor, wide, config["intermediate_size"])
        for tensor in model_tensors("qwen2.5-7b")
        if not tensor.name.startswith(tuple(gone))
    ]


def _day(number: int) -> str:
    return f"2026-01-{number:02}T12:00:00.000Z"


def _json(value: object) -> Content:
    return BytesContent(json.dumps(value, indent=2).encode())

"""Repositories that cannot be served, each for one reason."""

from __future__ import annotations

import json
import struct

from tests.fakehub import quantized_headers as quantized
from tests.fakehub.content import BytesContent, Content, SparseContent
from tests.fakehub.repository import Repository
from tests.fakehub.safetensors_files import checkpoint_files, header, safetensors_file
from tests.fakehub.tensors import Tensor, model_config, model_tensors

OWNER = "broken"

_BITSANDBYTES = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
_ADAPTER = {"peft_type": "LORA", "base_model_name_or_path": "Qwen/Qwen2.5-7B-Instruct", "r": 16}
_PICKLE_BYTES = 15_231_000_000
_GGUF_BYTES = 4_683_000_000


def broken_repositories() -> list[Repository]:
    """One repository a reason; its name says the reason."""
    tensors = model_tensors("qwen2.5-7b")
    whole = safetensors_file(tensors)
    return [
        _repository("missing-config", checkpoint_files(tensors)),
        _repository("config-is-not-json", {"config.json": BytesContent(b"{"), **checkpoint_files(tensors)}),
        _repository("gguf-only", {"model-Q4_K_M.gguf": SparseContent(b"GGUF\x03\0\0\0", _GGUF_BYTES)}),
        _repository("peft-adapter", {"adapter_config.json": _json(_ADAPTER), "adapter_model.safetensors": _adapter()}),
        _repository("bitsandbytes", _bitsandbytes(tensors)),
        _repository("unknown-architecture", {"config.json": _unknown_architecture(), **checkpoint_files(tensors)}),
        _with_weights("header-is-not-json", BytesContent(_prefixed(16, b"{ not json at al"))),
        _with_weights("header-truncated", BytesContent(header(tensors)[:1000])),
        _with_weights("header-longer-than-the-file", BytesContent(_prefixed(1 << 40, b'{"__metadata__":{}}'))),
        _with_weights("data-shorter-than-the-header-says", SparseContent(whole.head, whole.size - 1)),
        _repository("shard-missing", _without_last_shard(tensors)),
        _repository(
            "pickle-only", {"config.json": _config(), "pytorch_model.bin": SparseContent(b"PK", _PICKLE_BYTES)}
        ),
        _repository("no-weights", {"config.json": _config()}),
        Repository(f"{OWNER}/no-commit"),
    ]


def _repository(name: str, files: dict[str, Content]) -> Repository:
    return Repository.from_files(f"{OWNER}/{name}", files)


def _with_weights(name: str, weights: Content) -> Repository:
    return _repository(name, {"config.json": _config(), "model.safetensors": weights})


def _config() -> Content:
    return _json(model_config("qwen2.5-7b"))


def _unknown_architecture() -> Content:
    return _json(model_config("qwen2.5-7b") | {"architectures": ["NobodyKnowsForCausalLM"], "model_type": "nobody"})


def _bitsandbytes(tensors: list[Tensor]) -> dict[str, Content]:
    config = model_config("qwen2.5-7b") | {"quantization_config": _BITSANDBYTES}
    return {"config.json": _json(config), **checkpoint_files(quantized.bitsandbytes_nf4(tensors))}


def _adapter() -> Content:
    module = "base_model.model.model.layers.0.self_attn.q_proj"
    shapes = {"lora_A": (16, 3584), "lora_B": (3584, 16)}
    return safetensors_file([Tensor(f"{module}.{name}.weight", "BF16", shape) for name, shape in shapes.items()])


def _without_last_shard(tensors: list[Tensor]) -> dict[str, Content]:
    files = checkpoint_files(tensors)
    del files[max(name for name in files if name.endswith(".safetensors"))]
    return {"config.json": _config(), **files}


def _prefixed(length: int, text: bytes) -> bytes:
    return struct.pack("<Q", length) + text


def _json(value: object) -> Content:
    return BytesContent(json.dumps(value, indent=2).encode())

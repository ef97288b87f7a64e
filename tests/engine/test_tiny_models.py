"""The tiny checkpoints that llm-compressor made, and whether our description of its format is true."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.engines.tiny_model import TinyModels, tiny_models
from tests.fakehub.quantized_headers import fp8_kv_scales, pack_quantized
from tests.fakehub.safetensors_files import header
from tests.fakehub.tensors import Tensor

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def models() -> TinyModels:
    return tiny_models()


def test_checkpoints_say_what_they_are(models: TinyModels) -> None:
    assert "quantization_config" not in config(models.base)
    for folder in (models.awq, models.awq_fp8_kv):
        quantization = config(folder)["quantization_config"]
        [group] = quantization["config_groups"].values()
        assert (quantization["quant_method"], quantization["format"]) == ("compressed-tensors", "pack-quantized")
        assert (group["weights"]["num_bits"], group["weights"]["group_size"], quantization["ignore"]) == (
            4,
            128,
            ["lm_head"],
        )
    assert config(models.awq)["quantization_config"]["kv_cache_scheme"] is None
    assert config(models.awq_fp8_kv)["quantization_config"]["kv_cache_scheme"]["num_bits"] == 8


def test_held_out_texts_are_there(models: TinyModels) -> None:
    texts = json.loads((models.base / "held_out.json").read_text())
    assert len(texts) == 40 and all(len(text) > 80 for text in texts)


@pytest.mark.parametrize(
    ("variant", "quantise"),
    [("awq", pack_quantized), ("awq_fp8_kv", lambda tensors: fp8_kv_scales(pack_quantized(tensors)))],
)
def test_derived_header_equals_the_real_one_to_the_byte(
    models: TinyModels, variant: str, quantise: Callable[[list[Tensor]], list[Tensor]]
) -> None:
    assert header(quantise(base_tensors(models.base))) == raw_header(getattr(models, variant))


def config(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return found


def base_tensors(folder: Path) -> list[Tensor]:
    """The base checkpoint's tensors; every matrix but the embedding belongs to a linear module."""
    described = json.loads(raw_header(folder)[8:])
    del described["__metadata__"]
    return [
        Tensor(name, tensor["dtype"], tuple(tensor["shape"]), len(tensor["shape"]) == 2 and "embed_tokens" not in name)
        for name, tensor in described.items()
    ]


def raw_header(folder: Path) -> bytes:
    """Length prefix and JSON of a checkpoint's only file."""
    with (folder / "model.safetensors").open("rb") as file:
        prefix = file.read(8)
        return prefix + file.read(struct.unpack("<Q", prefix)[0])

"""The header-only checkpoints against what is known of the real ones."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable

import pytest

from tests.fakehub import quantized_headers as quantized
from tests.fakehub.safetensors_files import checkpoint_files, header, safetensors_file, split_into_shards
from tests.fakehub.standard import standard_repositories
from tests.fakehub.tensors import Tensor, model_tensors, total_bytes

GIB = 2**30
Q_PROJ = Tensor("model.layers.0.self_attn.q_proj.weight", "BF16", (512, 256), linear=True)
NORM = Tensor("model.norm.weight", "BF16", (256,))
HEAD = Tensor("lm_head.weight", "BF16", (1024, 256), linear=True)


@pytest.mark.parametrize(
    ("tensors", "expected_bytes", "tolerance_bytes"),
    [
        # What the files on the Hub hold, to the byte where that is known, else as precisely as it was read.
        pytest.param(model_tensors("llama-3.1-8b"), 14.96 * GIB, 0.01 * GIB, id="Llama-3.1-8B"),
        pytest.param(model_tensors("qwen2.5-7b"), 14.19 * GIB, 0.01 * GIB, id="Qwen2.5-7B"),
        pytest.param(quantized.awq_gemm(model_tensors("qwen2.5-7b")), 5.19 * GIB, 0.01 * GIB, id="Qwen2.5-7B AWQ"),
        pytest.param(quantized.gptq(model_tensors("qwen2.5-7b")), 5.19 * GIB, 0.01 * GIB, id="Qwen2.5-7B GPTQ"),
        pytest.param(quantized.awq_gemm(model_tensors("llama-3.1-70b")), 37.04 * GIB, 0.01 * GIB, id="70B AWQ"),
        pytest.param(quantized.awq_gemm(model_tensors("qwen2.5-32b")), 19.33e9, 0.01e9, id="Qwen2.5-32B AWQ"),
        pytest.param(quantized.fp8_per_channel(model_tensors("llama-3.1-8b")), 8.46 * GIB, 0.01 * GIB, id="8B FP8"),
        pytest.param(quantized.mxfp4_experts(model_tensors("gpt-oss-20b-bf16")), 12.82 * GIB, 0.01 * GIB, id="gpt-oss"),
        pytest.param(model_tensors("deepseek-v2-lite"), 31.4e9, 0.1e9, id="DeepSeek-V2-Lite"),
    ],
)
def test_totals_are_those_of_the_real_checkpoints(
    tensors: list[Tensor], expected_bytes: float, tolerance_bytes: float
) -> None:
    assert total_bytes(tensors) == pytest.approx(expected_bytes, abs=tolerance_bytes)


@pytest.mark.parametrize(
    ("quantise", "expected"),
    [
        (quantized.awq_gemm, {"qweight": ("I32", 256, 64), "qzeros": ("I32", 2, 64), "scales": ("F16", 2, 512)}),
        (
            quantized.gptq,
            {
                "g_idx": ("I32", 256),
                "qweight": ("I32", 32, 512),
                "qzeros": ("I32", 2, 64),
                "scales": ("F16", 2, 512),
            },
        ),
        (
            quantized.pack_quantized,
            {"weight_packed": ("I32", 512, 32), "weight_scale": ("BF16", 512, 2), "weight_shape": ("I64", 2)},
        ),
        (quantized.fp8_per_channel, {"weight": ("F8_E4M3", 512, 256), "weight_scale": ("BF16", 512, 1)}),
        (quantized.fp8_block, {"weight": ("F8_E4M3", 512, 256), "weight_scale_inv": ("F32", 4, 2)}),
    ],
)
def test_layout_of_a_quantised_linear(
    quantise: Callable[[list[Tensor]], list[Tensor]], expected: dict[str, tuple[object, ...]]
) -> None:
    found = {tensor.name: (tensor.dtype, *tensor.shape) for tensor in quantise([Q_PROJ, NORM, HEAD])}
    of_q_proj = {f"{Q_PROJ.module}.{name}": described for name, described in expected.items()}
    assert {name: described for name, described in found.items() if name.startswith(Q_PROJ.module)} == of_q_proj
    assert found.keys() - of_q_proj.keys() == {NORM.name, HEAD.name}


def test_asymmetric_packing_adds_packed_zero_points() -> None:
    extra = set(quantized.pack_quantized([Q_PROJ], symmetric=False)) - set(quantized.pack_quantized([Q_PROJ]))
    assert extra == {Tensor(f"{Q_PROJ.module}.weight_zero_point", "I32", (64, 2))}


def test_kv_scales_are_added_once_a_layer() -> None:
    base = model_tensors("llama-3.1-8b")
    added = quantized.fp8_kv_scales(base)[len(base) :]
    assert len(added) == 64 and added[0] == Tensor("model.layers.0.self_attn.k_scale", "BF16", (1,))


def test_header_is_a_safetensors_header() -> None:
    content = safetensors_file([NORM, Q_PROJ])
    (length,) = struct.unpack("<Q", content.read(0, 8))
    described = json.loads(content.read(8, length))
    assert length % 8 == 0 and described["__metadata__"] == {"format": "pt"}
    assert described[Q_PROJ.name] == {"dtype": "BF16", "shape": [512, 256], "data_offsets": [0, 262144]}
    assert described[NORM.name]["data_offsets"] == [262144, 262656]
    assert content.size == 8 + length + 262656 == len(header([NORM, Q_PROJ])) + total_bytes([NORM, Q_PROJ])


def test_shards_end_before_the_limit() -> None:
    assert split_into_shards([Q_PROJ, NORM, HEAD], limit_bytes=262656) == [[Q_PROJ, NORM], [HEAD]]
    files = checkpoint_files([Q_PROJ, NORM, HEAD], shard_limit_bytes=262656)
    index = json.loads(files["model.safetensors.index.json"].read(0, 10_000))
    assert index["weight_map"][HEAD.name] == "model-00002-of-00002.safetensors"
    assert index["metadata"]["total_size"] == total_bytes([Q_PROJ, NORM, HEAD])


def test_standard_set_has_no_id_twice() -> None:
    ids = [repository.id for repository in standard_repositories()]
    assert len(ids) == len(set(ids)) > 25

"""What belongs to vLLM: kernels and KV dtypes by capability, and the command line."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubequant.planning.engines import vllm, vllm_arguments
from kubequant.planning.values import ComputeCapability, StoredMethod, StoredQuantization
from tests.unit.planning.models import GIB, model

AWQ = StoredQuantization(StoredMethod.AWQ, "W4A16", 4, 128, symmetric=False)
CHANNEL = StoredQuantization(StoredMethod.COMPRESSED_TENSORS, "FP8", 8, -1)
TENSOR = StoredQuantization(StoredMethod.FP8, "FP8", 8)
BLOCK = StoredQuantization(StoredMethod.FP8, "FP8", 8, block=(128, 128))
INT8 = StoredQuantization(StoredMethod.COMPRESSED_TENSORS, "W8A8", 8, -1)
CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "12.0")

# research: the kernels that vLLM 0.33 chose for 4096 x 4096 on each capability
KERNELS = {
    "AWQ": (AWQ, ["Marlin", "Marlin", "Marlin", "Marlin", "Machete", "Marlin", "Marlin"]),
    "FP8 per tensor": (TENSOR, [*["MarlinFP8"] * 3, "CUTLASS", "CUTLASS", "FlashInfer", "FlashInfer"]),
    "FP8 per channel": (CHANNEL, [*["MarlinFP8"] * 3, *["CUTLASS"] * 4]),
    "FP8 in blocks": (BLOCK, [*["MarlinFP8"] * 4, *["CUTLASS"] * 3]),
    "int8": (INT8, [*["CUTLASS"] * 5, None, None]),
    "16 bit": (None, ["cuBLAS"] * 7),
}


@pytest.mark.parametrize("case", KERNELS)
def test_kernels(case: str) -> None:
    stored, expected = KERNELS[case]
    found = [vllm.kernel_for(stored, ComputeCapability.parse(text), [(4096, 4096)]) for text in CAPABILITIES]
    assert found == expected


def test_what_machete_refuses_goes_to_humming() -> None:
    assert vllm.kernel_for(AWQ, ComputeCapability(9, 0), [(4096, 200)]) == "Humming"
    assert vllm.kernel_for(replace(AWQ, group_size=32), ComputeCapability(9, 0), [(4096, 4096)]) == "Humming"


@pytest.mark.parametrize(("capability", "kernel"), [("8.0", "Marlin"), ("9.0", "Humming"), ("10.0", "Marlin")])
def test_machete_runs_no_experts(capability: str, kernel: str) -> None:
    assert vllm.kernel_for(AWQ, ComputeCapability.parse(capability), [(4096, 4096)], experts=True) == kernel


FLOORS = {
    "AWQ": (AWQ, "7.5"),
    "FP8": (TENSOR, "7.5"),
    "FP8 of compressed-tensors": (CHANNEL, "7.5"),
    "FP8 of ModelOpt": (replace(TENSOR, method=StoredMethod.MODELOPT), "8.0"),
    "NVFP4 of ModelOpt": (StoredQuantization(StoredMethod.MODELOPT, "NVFP4", 4, 16), "7.5"),
    "MXFP4": (StoredQuantization(StoredMethod.MXFP4, "MXFP4", 4, 32), "8.0"),
    "MXFP4 of compressed-tensors": (StoredQuantization(StoredMethod.COMPRESSED_TENSORS, "MXFP4", 4, 32), "8.0"),
    "16 bit": (None, "7.5"),
}


@pytest.mark.parametrize("case", FLOORS)
def test_method_floors(case: str) -> None:
    stored, floor = FLOORS[case]
    assert str(vllm.method_floor(stored)) == floor


def test_machete_grows_awq() -> None:
    assert vllm.repacked_growth_bytes(AWQ, "Machete", 5000) == 100
    assert vllm.repacked_growth_bytes(AWQ, "Marlin", 5000) == vllm.repacked_growth_bytes(INT8, "Machete", 5000) == 0


@pytest.mark.parametrize(
    ("capability", "head_dim", "possible", "automatic"),
    [
        ("7.0", 128, False, False),
        ("7.5", 128, False, False),
        ("8.0", 128, True, False),
        ("8.6", 64, True, False),
        ("8.6", 80, False, False),
        ("8.9", 80, True, True),
        ("9.0", 96, True, True),
        ("10.0", 128, True, True),
    ],
)
def test_fp8_kv_cache_by_capability(capability: str, head_dim: int, possible: bool, automatic: bool) -> None:
    pair = ComputeCapability.parse(capability)
    shape = replace(model("Llama-3.1-8B").shape(), head_dim=head_dim)
    assert (vllm.fp8_kv_cache_obstacle(pair, shape) is None) is possible
    assert vllm.fp8_kv_cache_is_default(pair) is automatic


@given(st.tuples(st.integers(0, 30), st.integers(0, 30)), st.tuples(st.integers(0, 30), st.integers(0, 30)))
def test_capabilities_compare_as_pairs(one: tuple[int, int], other: tuple[int, int]) -> None:
    assert (ComputeCapability(*one) < ComputeCapability(*other)) is (one < other)
    assert ComputeCapability.parse(str(ComputeCapability(*one))) == ComputeCapability(*one)


def test_ten_is_above_eight_point_nine() -> None:
    assert ComputeCapability.parse("10.0") > ComputeCapability.parse("8.9")


def test_flashinfer_workspace_counts_where_flashinfer_is_used() -> None:
    def workspace(dtype: str, capability: str, head_dim: int = 128) -> int:
        return vllm.attention_workspace_bytes(dtype, ComputeCapability.parse(capability), head_dim)

    assert workspace("FP8", "8.9") == workspace("BF16", "10.0") == 394 * 1024**2
    assert workspace("BF16", "8.9") == workspace("FP8", "9.0") == workspace("FP8", "8.9", 80) == 0


def test_capture_sizes_as_the_engine_logs_them() -> None:
    assert vllm.capture_sizes(1024) == vllm.capture_sizes(256) == 51
    assert vllm.capture_sizes(4) == 4  # 1, 2, 4, 8
    assert vllm.capture_sizes(1) == 2
    assert vllm.capture_sizes(1024, largest=1024) == 83
    assert vllm.capture_sizes(128, largest=1024) == vllm.capture_sizes(128)


def test_prefill_batch() -> None:
    assert vllm.batched_token_choices(24 * GIB, 16) == (2048,)
    assert vllm.batched_token_choices(79 * GIB, 16) == (8192, 2048)
    assert vllm.batched_token_choices(24 * GIB, 4000) == (4000,)


def test_activation_dtype() -> None:
    turing, ampere = ComputeCapability(7, 5), ComputeCapability(8, 0)
    bf16 = model("Tiny").shape()
    assert vllm.activation_dtype(bf16, turing) == "F16"
    assert vllm.activation_dtype(bf16, ampere) == "BF16"
    assert vllm.activation_dtype(replace(bf16, dtype="F16"), ampere) == "F16"
    assert vllm.activation_dtype(replace(bf16, dtype="F32"), ampere) == "BF16"


# --- the command line ------------------------------------------------------------------------------------------------

LAUNCH = vllm_arguments.Launch("org/m", 8192, 16, 2048, 0.95, 1, "BF16", "BF16", "BF16", None)


def test_least_command_line() -> None:
    assert " ".join(vllm_arguments.build_arguments(LAUNCH)) == (
        "--served-model-name org/m --max-model-len 8192 --max-num-seqs 16 --max-num-batched-tokens 2048 "
        "--gpu-memory-utilization 0.950"
    )


ADDED = {
    "two GPUs": (replace(LAUNCH, tensor_parallel_size=2), "--tensor-parallel-size 2"),
    "bf16 model on Turing": (replace(LAUNCH, activation_dtype="F16", kv_cache_dtype="F16"), "--dtype half"),
    "float32 model": (replace(LAUNCH, stored_dtype="F32"), "--dtype bfloat16"),
    "FP8 cache": (replace(LAUNCH, kv_cache_dtype="FP8"), "--kv-cache-dtype fp8"),
    "16-bit cache against the checkpoint": (
        replace(LAUNCH, checkpoint_kv_cache_dtype="FP8"),
        "--kv-cache-dtype bfloat16",
    ),
    "float16 cache against the checkpoint": (
        replace(
            LAUNCH, checkpoint_kv_cache_dtype="FP8", kv_cache_dtype="F16", activation_dtype="F16", stored_dtype="F16"
        ),
        "--kv-cache-dtype float16",
    ),
    "a flag": (replace(LAUNCH, engine_arguments=(("enforce-eager", "true"),)), "--enforce-eager"),
    "a flag switched off": (
        replace(LAUNCH, engine_arguments=(("enable-prefix-caching", "false"),)),
        "--no-enable-prefix-caching",
    ),
    "a value": (replace(LAUNCH, engine_arguments=(("tool-call-parser", "hermes"),)), "--tool-call-parser hermes"),
}


@pytest.mark.parametrize("case", ADDED)
def test_what_is_added(case: str) -> None:
    launch, added = ADDED[case]
    assert " ".join(vllm_arguments.build_arguments(launch)[10:]) == added


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("trust-remote-code", "true"),
        ("quantization", "awq"),
        ("max-model-len", "1"),
        ("gpu-memory-utilization", "0.99"),
        ("tool-parser-plugin", "/tmp/evil.py"),
        ("chat-template", "/etc/passwd"),
        ("api-key", "x"),
        ("--seed", "1"),
        ("seed", "1 --trust-remote-code"),
        ("seed", "-1"),
        ("tool-call-parser", "--trust-remote-code"),
        ("tool-call-parser", "../x"),
        ("enforce-eager", "maybe"),
        ("enforce-eager", ""),
        ("generation-config", "/models/other"),
    ],
)
def test_arguments_that_are_not_taken(name: str, value: str) -> None:
    assert vllm_arguments.arguments_obstacle([(name, value)]) is not None


def test_tool_choice_needs_a_parser() -> None:
    choice, parser = ("enable-auto-tool-choice", "true"), ("tool-call-parser", "hermes")
    assert "needs 'tool-call-parser'" in (vllm_arguments.arguments_obstacle([choice]) or "")
    assert vllm_arguments.arguments_obstacle([choice, parser]) is None
    assert vllm_arguments.arguments_obstacle([("enable-auto-tool-choice", "false")]) is None


@given(st.sampled_from(sorted(vllm_arguments.ALLOWED_ENGINE_ARGUMENTS)), st.text(max_size=70))
def test_no_value_can_become_a_flag(name: str, value: str) -> None:
    if vllm_arguments.arguments_obstacle([(name, value)]) is None:
        tail = vllm_arguments.build_arguments(replace(LAUNCH, engine_arguments=((name, value),)))[10:]
        assert tail[0] in (f"--{name}", f"--no-{name}")
        assert not any(text.startswith("-") for text in tail[1:])

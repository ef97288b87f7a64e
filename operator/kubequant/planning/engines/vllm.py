"""What of vLLM differs from version to version and from GPU to GPU: constants, kernels, probes and metric names.

Sources: the source of the release (kernels, floors, KV dtypes), docs/design/overheads.md (memory constants, fitted on start-ups).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kubequant.planning.engines.overheads import SINCE_0_30, Overheads
from kubequant.planning.engines.overheads import capture_sizes as capture_sizes
from kubequant.planning.memory import ExpertKernel
from kubequant.planning.values import (
    CacheKind,
    ComputeCapability,
    ModelShape,
    StoredMethod,
    StoredQuantization,
)

GIB = 1024**3
MIB = 1024**2

HEALTH_PATH = "/health"
METRICS_PATH = "/metrics"
CACHE_INFO_METRIC = "vllm:cache_config_info"
CACHE_TOKENS_LABEL = "kv_cache_size_tokens"
"""The capacity as the engine found it. The label `cache_dtype` lies when the checkpoint brings FP8 KV scales."""

MARLIN_GROUP_SIZES = (-1, 32, 64, 128)
_MACHETE_GROUP_SIZES = (-1, 64, 128)

_TURING = ComputeCapability(7, 5)
_HOPPER = ComputeCapability(9, 0)
_ADA = ComputeCapability(8, 9)
_AMPERE = ComputeCapability(8, 0)
_BLACKWELL = ComputeCapability(10, 0)

_FLASHINFER_HEADS = (64, 128, 256, 512)
_FLASHINFER_WORKSPACE_BYTES = 394 * MIB
_LARGE_CARD_BYTES = 70 * GIB
_NEEDS_REPOSITORY_CODE = frozenset(
    {
        "DeciLMForCausalLM",
        "DeepseekForCausalLM",
        "InternLM2ForCausalLM",
        "InternLM3ForCausalLM",
        "InternVLChatModel",
        "MiniCPMForCausalLM",
    }
)
"""Served by the engine, but of a `model_type` that neither it nor transformers 5.19 can read."""


@dataclass(frozen=True)
class EngineProfile:
    """One release of the engine, in one image."""

    name: str
    version: str
    image: str
    overheads: Overheads
    capability_floor: ComputeCapability = _TURING
    """The image holds no code for older GPUs."""


VLLM_0_33 = EngineProfile("vllm", "0.33.0", "vllm/vllm-openai:v0.33.0", SINCE_0_30)


def batched_token_choices(memory_bytes: int, max_num_seqs: int) -> tuple[int, ...]:
    """`max_num_batched_tokens` to try, best first.

    It bounds a step's prefill and feeds the activation peak: 8192 fills a large card's compute, 2048 leaves more KV cache on a small
    one. These are the engine's own defaults, written out because they jump with the memory and with the letters "A100".
    """
    choices = (8192, 2048) if memory_bytes >= _LARGE_CARD_BYTES else (2048,)
    return tuple(max(tokens, max_num_seqs) for tokens in choices)


def activation_dtype(shape: ModelShape, capability: ComputeCapability) -> str:
    """What the model runs in: BF16 or F16. GPUs below 8.0 have no bfloat16; float32 models run in 16 bit."""
    if capability < _AMPERE:
        return "F16"
    return "F16" if shape.dtype == "F16" else "BF16"


def code_obstacle(shape: ModelShape) -> str | None:
    """Why the engine would not load the model's configuration, None when it does."""
    if shape.architecture not in _NEEDS_REPOSITORY_CODE:
        return None
    return (
        f"the configuration of {shape.architecture} can only be read with code from the repository (trust_remote_code), which "
        "is never run: name a conversion of the model to classes that transformers itself has"
    )


def dtype_obstacle(shape: ModelShape, stored: StoredQuantization | None, capability: ComputeCapability) -> str | None:
    """Why the model cannot run in 16 bit on this GPU, None when it can."""
    if capability >= _AMPERE:
        return None
    if shape.float16_refused:
        return (
            f"needs bfloat16, which GPUs have from compute capability 8.0 on, this one has {capability}; the engine would "
            "run it in 32 bit, with twice the weights"
        )
    if stored and stored.scheme == "MXFP4":
        return f"MXFP4 runs in bfloat16, which GPUs have from compute capability 8.0 on, this one has {capability}"
    return None


def fp8_kv_cache_obstacle(capability: ComputeCapability, shape: ModelShape) -> str | None:
    """Why an FP8 KV cache cannot be had on this GPU, None when it can."""
    if capability < _AMPERE:
        return f"an FP8 KV cache needs compute capability 8.0, this GPU has {capability}"
    if capability >= _ADA:
        return None
    if shape.keeps(CacheKind.LATENT):
        return f"an FP8 KV cache of latent attention (MLA) needs compute capability 8.9, this GPU has {capability}"
    if shape.attention_sinks:
        return f"an FP8 KV cache with attention sinks needs compute capability 8.9, this GPU has {capability}"
    if shape.head_dim not in _FLASHINFER_HEADS:
        return (
            "below compute capability 8.9 an FP8 KV cache needs heads of 64, 128, 256 or 512, "
            f"this model's have {shape.head_dim}"
        )
    return None


def fp8_kv_cache_is_default(capability: ComputeCapability) -> bool:
    """Native FP8 conversion: on older GPUs it is the user's choice."""
    return capability >= _ADA


def attention_workspace_bytes(kv_cache_dtype: str, capability: ComputeCapability, head_dim: int) -> int:
    """What the attention backend keeps: FlashInfer has a fixed workspace, FlashAttention and Triton have none.

    FlashInfer is the first choice at 10.x, and where FlashAttention cannot read FP8: everywhere but at 9.0.
    """
    flashinfer = capability.major == 10 or (kv_cache_dtype == "FP8" and capability != _HOPPER)
    return _FLASHINFER_WORKSPACE_BYTES if flashinfer and head_dim in _FLASHINFER_HEADS else 0


def kernel_for(
    stored: StoredQuantization | None, capability: ComputeCapability, layers: Sequence[tuple[int, int]]
) -> str | None:
    """The linear kernel that the engine will pick, None when there is none.

    `layers` are (inputs, outputs) of the quantised linear layers on one rank.
    """
    if stored is None:
        return "cuBLAS"
    if stored.scheme == "W8A8":
        return "CUTLASS" if capability < _BLACKWELL else None
    if stored.scheme == "FP8":
        return _fp8_kernel(stored, capability)
    if stored.scheme in ("NVFP4", "MXFP4"):
        return _fp4_kernel(stored, capability)
    if capability != _HOPPER:
        return "Marlin"
    machete = stored.group_size in _MACHETE_GROUP_SIZES and all(k % 64 == 0 and n % 128 == 0 for k, n in layers)
    return "Machete" if machete else "Humming"


def expert_kernel(stored: StoredQuantization | None, capability: ComputeCapability) -> ExpertKernel:
    """What runs a mixture's experts: it decides what buffers they need."""
    if stored and stored.scheme == "MXFP4":
        return ExpertKernel.MXFP4
    if stored and stored.block and capability.major in (_HOPPER.major, _BLACKWELL.major):
        return ExpertKernel.DEEP_GEMM
    return ExpertKernel.TRITON


def samples_with_flashinfer(capability: ComputeCapability) -> bool:
    """Its sampler keeps a workspace; Turing has none."""
    return capability >= _AMPERE


def _fp8_kernel(stored: StoredQuantization, capability: ComputeCapability) -> str:
    if capability < _ADA or (stored.block and capability < _HOPPER):
        return "MarlinFP8"  # weight-only: saves memory, computes in 16 bit
    per_tensor = stored.block is None and stored.group_size is None
    return "FlashInfer" if per_tensor and capability >= _BLACKWELL else "CUTLASS"


def _fp4_kernel(stored: StoredQuantization, capability: ComputeCapability) -> str | None:
    """Four-bit floats compute natively on Blackwell only; elsewhere they save memory."""
    if stored.scheme == "MXFP4" and capability < _AMPERE:
        return None
    if capability == _HOPPER:
        return "Humming"
    if stored.scheme == "MXFP4" or capability < _BLACKWELL:
        return "Marlin"
    return "FlashInfer CuTe-DSL" if capability.major == _BLACKWELL.major else "FlashInfer CUTLASS"


def repacked_growth_bytes(stored: StoredQuantization | None, kernel: str, weight_bytes: int) -> int:
    """Bytes that the kernel's own layout adds: Machete turns 4-bit zero points into 16-bit ones."""
    if kernel == "Machete" and stored and stored.method is StoredMethod.AWQ:
        return weight_bytes // 50
    return 0


# --- the command line ------------------------------------------------------------------------------------------------

_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_NUMBER = re.compile(r"[0-9]{1,9}")
_FLAG = re.compile(r"true|false|")

ALLOWED_ENGINE_ARGUMENTS: Mapping[str, re.Pattern[str]] = {
    "async-scheduling": _FLAG,
    "chat-template-content-format": re.compile("auto|string|openai"),
    "enable-auto-tool-choice": _FLAG,
    "enable-log-requests": _FLAG,
    "enable-prefix-caching": _FLAG,
    "enable-prompt-tokens-details": _FLAG,
    "enforce-eager": _FLAG,
    "generation-config": re.compile("auto|vllm"),
    "max-logprobs": re.compile("[0-9]{1,2}"),
    "max-num-queued-reqs": _NUMBER,
    "max-num-queued-tokens": _NUMBER,
    "reasoning-parser": _WORD,
    "scheduling-policy": re.compile("fcfs|priority"),
    "seed": _NUMBER,
    "tool-call-parser": _WORD,
    "uvicorn-log-level": re.compile("critical|error|warning|info|debug|trace"),
}
"""What a user may add, with the values allowed. All else is KubeQuant's own, moves memory that the plan promises, or
loads code or files from a place that nobody has checked."""


def arguments_obstacle(arguments: Sequence[tuple[str, str]]) -> str | None:
    """Why the user's arguments are not taken, None when they are."""
    for name, value in arguments:
        if obstacle := _argument_obstacle(name, value):
            return obstacle
    names = {name for name, value in arguments if value != "false"}
    if "enable-auto-tool-choice" in names and "tool-call-parser" not in names:
        return "engine argument 'enable-auto-tool-choice' needs 'tool-call-parser' beside it"
    return None


def _argument_obstacle(name: str, value: str) -> str | None:
    allowed = ALLOWED_ENGINE_ARGUMENTS.get(name)
    if allowed is None:
        return f"engine argument {name[:64]!r} is not allowed; allowed are: {', '.join(ALLOWED_ENGINE_ARGUMENTS)}"
    if not allowed.fullmatch(value):
        return f"engine argument {name!r} must match {allowed.pattern}, not {value[:64]!r}"
    return None


@dataclass(frozen=True)
class Launch:
    """What the planner decided, as far as the command line says it."""

    served_model_name: str
    context_tokens: int
    max_num_seqs: int
    max_num_batched_tokens: int
    gpu_memory_utilization: float
    tensor_parallel_size: int
    activation_dtype: str  # BF16 | F16
    stored_dtype: str  # of the model: BF16 | F16 | F32
    kv_cache_dtype: str  # BF16 | F16 | FP8
    checkpoint_kv_cache_dtype: str | None
    engine_arguments: tuple[tuple[str, str], ...] = ()
    pipeline_parallel_size: int = 1


_DTYPE_NAMES = {"BF16": "bfloat16", "F16": "half"}
_KV_DTYPE_NAMES = {"BF16": "bfloat16", "F16": "float16", "FP8": "fp8"}


def build_arguments(launch: Launch) -> tuple[str, ...]:
    """What follows the model's path. Never `--quantization`: the engine reads it from the checkpoint and picks the
    kernel; never `--trust-remote-code`. Host and port are the pod's business."""
    arguments = [
        "--served-model-name", launch.served_model_name,
        "--max-model-len", str(launch.context_tokens),
        "--max-num-seqs", str(launch.max_num_seqs),
        "--max-num-batched-tokens", str(launch.max_num_batched_tokens),
        "--gpu-memory-utilization", f"{launch.gpu_memory_utilization:.3f}",
    ]  # fmt: skip
    if launch.tensor_parallel_size > 1:
        arguments += ["--tensor-parallel-size", str(launch.tensor_parallel_size)]
    if launch.pipeline_parallel_size > 1:
        arguments += ["--pipeline-parallel-size", str(launch.pipeline_parallel_size)]
    if launch.activation_dtype != launch.stored_dtype:
        arguments += ["--dtype", _DTYPE_NAMES[launch.activation_dtype]]
    if launch.kv_cache_dtype == "FP8" or launch.checkpoint_kv_cache_dtype:
        arguments += ["--kv-cache-dtype", _KV_DTYPE_NAMES[launch.kv_cache_dtype]]
    for name, value in launch.engine_arguments:
        arguments += _user_argument(name, value)
    return tuple(arguments)


def _user_argument(name: str, value: str) -> list[str]:
    if ALLOWED_ENGINE_ARGUMENTS[name] is _FLAG:
        return [f"--no-{name}" if value == "false" else f"--{name}"]
    return [f"--{name}", value]

"""What of vLLM differs from version to version and from GPU to GPU: constants, kernels, probes and metric names.

Sources: the source of the release (kernels, floors, KV dtypes), docs/design/overheads.md (memory constants, fitted on start-ups).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kubequant.planning.engines.overheads import SINCE_0_30, ExpertKernel, Overheads
from kubequant.planning.engines.overheads import capture_sizes as capture_sizes
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

_MACHETE_GROUP_SIZES = (-1, 64, 128)

_TURING = ComputeCapability(7, 5)
_HOPPER = ComputeCapability(9, 0)
_ADA = ComputeCapability(8, 9)
_AMPERE = ComputeCapability(8, 0)
_BLACKWELL = ComputeCapability(10, 0)
_WORKSTATION_BLACKWELL = 12
_SPARSE_LATENT_MAJORS = (_HOPPER.major, _BLACKWELL.major, _WORKSTATION_BLACKWELL)

_METHOD_FLOORS: Mapping[tuple[StoredMethod, str], ComputeCapability] = {
    (StoredMethod.MODELOPT, "FP8"): _AMPERE,
    (StoredMethod.MXFP4, "MXFP4"): _AMPERE,
    (StoredMethod.COMPRESSED_TENSORS, "MXFP4"): _AMPERE,
}
"""Where a method asks for more than the engine itself."""

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


def method_floor(stored: StoredQuantization | None) -> ComputeCapability:
    """The lowest compute capability that the engine loads a checkpoint of this method and scheme on."""
    return _METHOD_FLOORS.get((stored.method, stored.scheme), _TURING) if stored else _TURING


def dtype_obstacle(shape: ModelShape, capability: ComputeCapability) -> str | None:
    """Why the model cannot run in 16 bit on this GPU, None when it can."""
    if capability >= _AMPERE or not shape.float16_refused:
        return None
    return (
        f"needs bfloat16, which GPUs have from compute capability 8.0 on, this one has {capability}; the engine would "
        "run it in 32 bit, with twice the weights"
    )


def attention_obstacle(shape: ModelShape, capability: ComputeCapability, kv_cache_dtype: str) -> str | None:
    """Why no attention backend runs the model on this GPU with this KV cache (BF16, F16 or FP8), None when one does.

    Only latent attention (MLA) is choosy: its prefill needs FlashAttention 2 at least, and where it reads an index (sparse
    attention), kernels exist for three generations only, of which workstation Blackwell's read the packed FP8 cache alone.
    """
    if not shape.keeps(CacheKind.LATENT):
        return None
    if capability < _AMPERE:
        return f"latent attention (MLA) needs compute capability 8.0, this GPU has {capability}"
    if not any(cache.token_bytes for cache in shape.caches):
        return None
    if capability.major not in _SPARSE_LATENT_MAJORS:
        return f"sparse latent attention (MLA with an index) needs compute capability 9, 10 or 12, this GPU has {capability}"
    if capability.major == _WORKSTATION_BLACKWELL and kv_cache_dtype != "FP8":
        return (
            f"sparse latent attention (MLA with an index) needs an FP8 KV cache at compute capability {capability}, "
            f"not {kv_cache_dtype}: leave serving.kvCacheDtype out"
        )
    return None


def fp8_kv_cache_obstacle(capability: ComputeCapability, shape: ModelShape) -> str | None:
    """Why an FP8 KV cache cannot be had on this GPU, None when it can."""
    if capability < _AMPERE:
        return f"an FP8 KV cache needs compute capability 8.0, this GPU has {capability}"
    if shape.alibi:
        return "an FP8 KV cache is not to be had with ALiBi, the position biases of this model"
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
    stored: StoredQuantization | None,
    capability: ComputeCapability,
    layers: Sequence[tuple[int, int]],
    *,
    experts: bool = False,
) -> str | None:
    """The linear kernel that the engine will pick, None when there is none.

    `layers` are (inputs, outputs) of the quantised linear layers on one rank. With `experts` it is the kernel of those, which
    hold nearly all weights: Machete has none for them.
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
    machete = (
        not experts
        and stored.group_size in _MACHETE_GROUP_SIZES
        and all(k % 64 == 0 and n % 128 == 0 for k, n in layers)
    )
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


def _fp4_kernel(stored: StoredQuantization, capability: ComputeCapability) -> str:
    """Four-bit floats compute natively on Blackwell only; elsewhere they save memory."""
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

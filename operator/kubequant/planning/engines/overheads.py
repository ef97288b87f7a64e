"""Memory constants of vLLM beside weights and KV cache, by release.

Each constant has a cause; docs/design/overheads.md says which and how well it explains start-ups (`python -m bench.vram`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cache

from kubequant.planning.values import Evidence

KIB = 1024
MIB = 1024**2
GIB = 1024**3


class ExpertKernel(StrEnum):
    """What runs the experts of a mixture; the three differ in the buffers that they need."""

    TRITON = "Triton"
    MXFP4 = "MXFP4"  # gives its buffers back
    DEEP_GEMM = "DeepGEMM"  # FP8 in blocks on compute capability 9.0 and 10.0


@dataclass(frozen=True)
class Overheads:
    """What one release takes beside weights and KV cache."""

    sampler_bytes_per_logit: float  # profiled: max_num_seqs x vocabulary logits
    graphs_in_budget: bool
    evidence: Evidence
    expert_workspace_kept: bool = True  # buffers of fused experts outlive the layer: they add to the sampler's peak
    sampler_peak_bytes_per_logit: float = 38.5  # sorting for top-k/top-p in service, which newer profiles do not see
    rejection_bytes_per_logit: int = 4  # speculative decoding: the profile verifies one draft token a request
    weight_growth: float = 0.001
    weight_extra_bytes: int = 24 * MIB  # rotary tables and rounding
    activation_floor_bytes: int = 36 * MIB
    encoder_bytes: int = 150 * MIB  # multimodal: encoder outputs kept while profiling, images of a fixed size
    dynamic_encoder_tokens: int = 16384  # multimodal: images of any size, profiled at the largest
    dynamic_encoder_levels: int = 4  # hidden vectors kept of each token: the last layer's and three on the way
    graph_bytes_floor: int = 150 * MIB
    graph_bytes_per_layer_and_size: int = 410 * KIB
    graph_expert_bytes: int = 300 * MIB  # mixtures of experts: with all batch sizes
    graph_recurrent_share: float = 0.25  # what a recurrent layer takes of that of an attention layer
    non_torch_bytes: int = 72 * MIB  # one GPU
    non_torch_nvlink_bytes: int = 1816 * MIB  # of a tensor-parallel rank, collectives over NVLink
    non_torch_pcie_bytes: int = 280 * MIB
    non_torch_bytes_per_rank: int = 40 * MIB  # on top, for each rank when ranks > 1 over NVLink
    sampler_workspace_bytes: int = 184 * MIB  # FlashInfer's, on ranks that compute logits
    context_bytes: int = 1 * GIB  # CUDA context, cuBLAS, lazily loaded kernels: outside the engine's budget
    context_permille: int = 20  # of the card, where that is more: nothing above 0.98 has been seen to start
    context_parallel_bytes: int = 768 * MIB  # NCCL on top, when ranks > 1
    margin_floor_bytes: int = 128 * MIB
    margin_share: float = 0.1  # of activation, graphs and non-torch
    margin_weight_share: float = 0.002
    margin_nvlink_bytes: int = 900 * MIB  # when ranks > 1: what collectives keep differs from machine to machine
    margin_pcie_bytes: int = 384 * MIB
    margin_cache_share: float = 0.0  # of the KV cache: caution is cheap where there is much
    margin_unusual_bytes: int = 512 * MIB  # for each of experts, encoder, recurrent layers, adapters, a draft


UP_TO_0_14 = Overheads(
    sampler_bytes_per_logit=38.5,
    graphs_in_budget=False,
    evidence=Evidence.FITTED,
    expert_workspace_kept=False,
    non_torch_bytes=72 * MIB,
    non_torch_nvlink_bytes=900 * MIB,
    non_torch_pcie_bytes=480 * MIB,
    non_torch_bytes_per_rank=100 * MIB,
    sampler_workspace_bytes=0,
)
UP_TO_0_16 = replace(UP_TO_0_14, non_torch_bytes=136 * MIB)
UP_TO_0_17 = replace(UP_TO_0_16, sampler_bytes_per_logit=14.65, expert_workspace_kept=True)
UP_TO_0_20 = Overheads(sampler_bytes_per_logit=14.65, graphs_in_budget=False, evidence=Evidence.FITTED)
SINCE_0_21 = replace(UP_TO_0_20, graphs_in_budget=True, non_torch_nvlink_bytes=1016 * MIB, margin_floor_bytes=256 * MIB)
SINCE_0_30 = replace(SINCE_0_21, evidence=Evidence.EXTRAPOLATED, margin_floor_bytes=384 * MIB, margin_cache_share=0.02)

_LAST_MINORS = ((14, UP_TO_0_14), (16, UP_TO_0_16), (17, UP_TO_0_17), (20, UP_TO_0_20), (29, SINCE_0_21))


def overheads_of(minor: int) -> Overheads:
    """Those of vLLM 0.`minor`. No start-up of 0.30 or later is known, so that those are extrapolated."""
    return next((found for last, found in _LAST_MINORS if minor <= last), SINCE_0_30)


@cache
def capture_sizes(max_num_seqs: int, tokens_per_step: int = 1, largest: int = 512) -> int:
    """How many batch sizes get CUDA graphs: 1, 2, 4, every 8 to 256, every 16 to `largest` (1024 on capability 10.x since
    vLLM 0.33), none above twice the tokens of a decoding step (`tokens_per_step` of each request: more than one with
    speculative decoding)."""
    sizes = (1, 2, 4, *range(8, 256, 8), *range(256, largest + 1, 16))
    return sum(size <= 2 * max_num_seqs * tokens_per_step for size in sizes)

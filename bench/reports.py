"""What a report of a start-up leaves out, told from what it says: the release from a date, flags from the engine's defaults."""

from __future__ import annotations

import re

from kubequant.planning.engines.overheads import ExpertKernel
from kubequant.planning.memory import Lora, Speculation

GIB = 1024**3

_ENGINE_V0 = 7  # the last minor version whose default engine was V0, for reports that say V0 and nothing else
UNKNOWN_MINOR = 24  # between older and newer releases in what it takes on a large card, like both on a small one
_HIGHER_UTILIZATION_SINCE = 20
_LARGE_GIB = 70
_VERY_LARGE_GIB = 160
_LORA_RANK = 64  # where the report names none: what the one report with adapters shows

_RELEASES = (
    (2025, 1, 7), (2025, 3, 8), (2025, 5, 9), (2025, 7, 10), (2025, 10, 11), (2025, 12, 12), (2026, 1, 14), (2026, 2, 15),
    (2026, 3, 17), (2026, 4, 19), (2026, 5, 20), (2026, 6, 22), (2026, 7, 24), (2026, 8, 27), (2026, 9, 29),
)  # fmt: skip
"""(year, month, minor version that people ran from then on): for reports that give a date and no version."""

_THREADS = (
    (11500, 7), (14000, 8), (17500, 9), (20500, 10), (26000, 11), (29500, 12), (31500, 14), (33700, 15), (35500, 17), (38500, 19),
    (41000, 20), (44000, 22), (46500, 24), (49500, 27), (52500, 29),
)  # fmt: skip
"""(number of an issue or pull request of vLLM, minor version of the time it was opened): for reports that link one and give no date."""

_FOUR_DECIMALS_UNTIL = 10
"""Engines until 0.11 print weights with four decimals; of those, V0 prints the card's memory beside them."""

_FIRST_MINORS = (("qwen3.5", 16), ("qwen3.6", 19), ("gemma-4", 19), ("qwen3.8", 26))
"""Families that no earlier release can run."""

_NVLINK = re.compile(r"\b(H100|H200|H800|H20|GH200|A100|A800|B200|B300|GB200|V100|80GB|MI300X)", re.IGNORECASE)
_TURING = re.compile(r"\b(T4|V100|sm_7\d)|Turing|Volta|RTX 20\d\d", re.IGNORECASE)
_DEEP_GEMM_CARDS = re.compile(r"\b(H100|H200|H800|H20|GH200|B200|B300|GB200)", re.IGNORECASE)
_UNIFIED = re.compile(r"GB10|DGX Spark|Jetson|Thor|unified", re.IGNORECASE)


def is_engine_v0(minor: int, notes: str) -> bool:
    """The engine before V1: its profile prefills a whole prompt at once."""
    return bool(re.search(r"\bV0\b", notes)) or minor <= _ENGINE_V0


def minor_version(
    version: str, notes: str, model: str = "", url: str = "", printed_weights: str = "", printed_memory: str = ""
) -> tuple[int, bool]:
    """(minor version of vLLM 0.x, whether the report names it). Else it is told by what is there: an approximate version, the engine's
    generation, a date, the number of a linked thread, how the log prints figures; last, that of most reports."""
    minor, known = _told_version(version, notes, url, printed_weights, printed_memory)
    first = next((first for words, first in _FIRST_MINORS if words in model.lower()), 0)
    return (minor, True) if known else (max(minor, first), False)


def _told_version(version: str, notes: str, url: str, printed_weights: str, printed_memory: str) -> tuple[int, bool]:
    if match := re.match(r"v?0\.(\d+)", version):
        return int(match[1]), True
    if match := re.search(r"vLLM ?<= ?0\.(\d+)|\bv0\.(\d+)|~0\.(\d+)(?=/|\)|\.\d)", notes):
        return int(next(group for group in match.groups() if group)), bool(match[1])
    if re.search(r"\bV0\b", notes):
        return _ENGINE_V0, False
    if date := _date(notes):
        reached = [minor for year, month, minor in _RELEASES if (year, month) <= date]
        return (reached[-1] if reached else _ENGINE_V0 - 1), False
    if re.fullmatch(r"\d+\.\d{4}", printed_weights):
        return (_ENGINE_V0 if printed_memory else _FOUR_DECIMALS_UNTIL), False
    if match := re.search(r"vllm-project/vllm/(?:issues|pull)/(\d+)", url):
        reached = [minor for number, minor in _THREADS if number <= int(match[1])]
        return (reached[-1] if reached else _ENGINE_V0 - 1), False
    if re.search(r"graph (memory |estimate )?[0-9.]* ?(GiB )?subtracted", notes):
        return 24, False
    return UNKNOWN_MINOR, False


_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def _date(notes: str) -> tuple[int, int] | None:
    if match := re.search(r"\b(20\d\d)-(\d\d)", notes):
        return int(match[1]), int(match[2])
    if match := re.search(rf"\b({'|'.join(_MONTHS)})[a-z]* (20\d\d)", notes):
        return int(match[2]), _MONTHS.index(match[1]) + 1
    return None


def default_batch(gpu: str, total_bytes: int, minor: int, engine_v0: bool) -> tuple[int, int]:
    """(max_num_seqs, max_num_batched_tokens) that the API server takes when the user says nothing: they jump with the
    card's memory and with the letters "A100" in its name (config of vLLM since 0.8; 256 in engine V0)."""
    if engine_v0:
        return 256, 2048
    if total_bytes >= _VERY_LARGE_GIB * GIB and minor >= 30:
        return 1024, 16384
    large = total_bytes >= _LARGE_GIB * GIB and "A100" not in gpu.upper() and not is_unified(gpu)
    return (1024, 8192) if large else (256, 2048)


def default_utilization(minor: int) -> float:
    """`gpu_memory_utilization` where the user says nothing."""
    return 0.92 if minor >= _HIGHER_UTILIZATION_SINCE else 0.9


def is_unified(gpu: str) -> bool:
    """Whether GPU and host share one memory."""
    return bool(_UNIFIED.search(gpu))


def has_nvlink(gpu: str) -> bool:
    return bool(_NVLINK.search(gpu)) and "PCIe" not in gpu


def has_flashinfer_sampler(gpu: str, notes: str) -> bool:
    return not (_TURING.search(gpu) or "FLASHINFER_SAMPLER=0" in notes)


def expert_kernel(weight_quant: str, gpu: str) -> ExpertKernel:
    """What runs the experts of a checkpoint on a card."""
    if "mxfp4" in weight_quant:
        return ExpertKernel.MXFP4
    deep_gemm = weight_quant.startswith("fp8") and _DEEP_GEMM_CARDS.search(gpu)
    return ExpertKernel.DEEP_GEMM if deep_gemm else ExpertKernel.TRITON


def multimodal_off(notes: str) -> bool:
    return bool(re.search(r"image/video limit 0|limit-mm|language-model-only|text.only", notes))


def lora(notes: str) -> Lora | None:
    match = re.search(r"(\d{1,3}) LoRA adapters", notes)
    return Lora(int(match[1]), _LORA_RANK) if match else None


def speculation(notes: str) -> Speculation | None:
    match = re.search(r"\bMTP\b(?: spec decode)? ?(\d)?|spec decode|speculative|DFlash|EAGLE", notes)
    return Speculation(int(match[1] or 1)) if match else None

"""Real logs, replayed through the launcher: the reason and the numbers that come out."""

from __future__ import annotations

from pathlib import Path

import pytest

from kubequant.api.conditions import Reason
from kubequant.planning.engines.termination import parse_termination
from tests.unit.launcher.programs import LOGS, launch, replay

CAUSES = {
    "cuda-oom-at-load": (
        Reason.GPU_OUT_OF_MEMORY,
        {"tried_to_allocate": "896.00 MiB", "total": "93.09 GiB", "free": "739.81 MiB", "gpu": 0},
    ),
    "cuda-oom-while-weights-load": (
        Reason.GPU_OUT_OF_MEMORY,
        {"tried_to_allocate": "80.00 MiB", "total": "139.72 GiB", "free": "60.69 MiB"},
    ),
    "gpu-in-use": (
        Reason.GPU_OUT_OF_MEMORY,
        {"device": "cuda:1", "free_gib": 19.77, "total_gib": 22.05, "utilization": 0.9, "wanted_gib": 19.84},
    ),
    "gpu-in-use-0.10": (Reason.GPU_OUT_OF_MEMORY, {"free_gib": 3.22, "total_gib": 4.0, "wanted_gib": 3.6}),
    "kv-cache-too-small": (
        Reason.KV_CACHE_TOO_SMALL,
        {"max_model_len": 262144, "needed_gib": 24.0, "available_gib": 3.18, "estimated_max_model_len": 34736},
    ),
    "kv-cache-too-small-0.27": (
        Reason.KV_CACHE_TOO_SMALL,
        {"max_model_len": 100000, "needed_gib": 4.26, "available_gib": 4.25, "estimated_max_model_len": 99600},
    ),
    "kv-cache-too-small-0.32": (
        Reason.KV_CACHE_TOO_SMALL,
        {"max_model_len": 32768, "needed_gib": 0.03, "available_gib": 0.0, "estimated_max_model_len": 3968},
    ),
    "no-cache-blocks": (Reason.KV_CACHE_TOO_SMALL, {"available_kv_cache_gib": -0.35}),
    "unknown-argument": (Reason.ENGINE_ARGUMENT_REFUSED, {"arguments": "--temperature 0.8"}),
    "quantization-mismatch": (
        Reason.ENGINE_ARGUMENT_REFUSED,
        {"stored": "compressed-tensors", "asked": "awq_marlin", "engine_version": "0.15.1"},
    ),
    "context-too-long": (
        Reason.ENGINE_ARGUMENT_REFUSED,
        {"max_model_len": 4096, "derived_max_model_len": 2048},
    ),
    "model-not-found": (Reason.MODEL_NOT_FOUND, {"model": "Qwen/Qwen-Image-Edit-2509"}),
    "kernel-refused": (Reason.CHECKPOINT_REFUSED, {"layer": "WNA16"}),
    "gpu-too-old": (Reason.CHECKPOINT_REFUSED, {"minimum_capability": 75, "current_capability": 70}),
    "fp8-kv-refused": (Reason.ENGINE_ARGUMENT_REFUSED, {"attention_backend": "TRITON_ATTN"}),
    "weights-missing": (Reason.CHECKPOINT_REFUSED, {"tensor": "mlp.shared_expert.down_proj.weight"}),
    "shm-too-small": (Reason.ENGINE_FAILED, {"required_mib": 160, "free_mib": 64}),
    "nccl-shm": (Reason.ENGINE_FAILED, {"required_bytes": 33030528}),
    "nccl-error": (Reason.ENGINE_FAILED, {}),
    "worker-killed": (Reason.WORKER_KILLED, {"process": "VllmWorker-0", "signal": 9}),
    "worker-killed-0.32": (
        Reason.WORKER_KILLED,
        {"process": "VllmWorker-0", "kernel": "CPUWNA16LinearKernel", "kv_cache_tokens": 65536},
    ),
    "disk-full": (Reason.DISK_FULL, {}),
}
SAID = {  # a word that a person needs, where no number carries it
    "shm-too-small": "/dev/shm",
    "nccl-shm": "/dev/shm",
    "nccl-error": "NCCL error: unhandled cuda error",
    "disk-full": "/cache/vllm/torch_compile_cache",
    "kernel-refused": "WNA16 linear layer",
    "fp8-kv-refused": "SM89",
}


@pytest.mark.parametrize("name", CAUSES)
def test_a_failed_start_is_told_with_its_numbers(name: str, tmp_path: Path) -> None:
    reason, details = CAUSES[name]
    ended = launch(tmp_path / "log", *replay(name, 0 if reason is Reason.WORKER_KILLED else 1))
    told = parse_termination(ended.text)
    assert told is not None
    assert (told.stage, told.reason) == ("engine", reason), told
    assert {key: told.details.get(key) for key in details} == details
    assert not any(word in told.message for word in ("Value error,", "[type=", "ValueError:")), (
        "the wrapping is not the message"
    )
    assert SAID.get(name, "") in told.message
    assert "See root cause above" not in told.message
    assert ended.code == (70 if reason is Reason.WORKER_KILLED else 1)


def test_every_extract_is_used_and_says_where_it_is_from() -> None:
    names = {path.stem: path.read_text().splitlines()[0] for path in LOGS.glob("*.log")}
    assert set(names) == {*CAUSES, "healthy-0.19", "healthy-0.33"}
    assert all(line.startswith("# ") for line in names.values())


def test_the_tail_goes_along_where_the_cause_is_not_certain(tmp_path: Path) -> None:
    told = parse_termination(launch(tmp_path / "log", *replay("nccl-error", 1)).text)
    assert told is not None
    tail = told.details["tail"]
    assert isinstance(tail, tuple)
    assert tail[-1].endswith("See stack trace for root cause.")

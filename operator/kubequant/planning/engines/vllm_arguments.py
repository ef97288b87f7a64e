"""vLLM's command line: what a plan says on it, and what a user may add."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_NUMBER = re.compile(r"[0-9]{1,9}")
_FLAG = re.compile(r"true|false")

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

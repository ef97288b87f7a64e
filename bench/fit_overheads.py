"""How well the memory constants of planning/engines/vllm.py explain real start-ups: `python -m bench.fit_overheads [--check]`.

Every start-up in bench/data/startups.csv whose model, flags and engine this release plans is predicted from its architecture alone:
headers are made from the shape (bench/dense_checkpoints.py), so not even the weights are taken from the log. From engine version
0.21 on, the estimate of CUDA graphs is subtracted before the KV cache is sized; the older logs print that estimate without subtracting
it, so they are predicted a second time as a newer engine would have sized them ("as 0.21").

`--check` fails when a checked-in threshold is broken. Units: GiB, tokens.
"""

from __future__ import annotations

import csv
import re
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.dense_checkpoints import dense_checkpoint
from kubequant.planning import kv_cache, memory
from kubequant.planning.engines import vllm
from kubequant.planning.gpus import cuda_total_bytes, known_gpus
from kubequant.planning.tensors import classes_of, weights_per_rank
from kubequant.planning.values import MemoryBudget, ModelFacts, ModelShape

GIB = 1024**3
DATA = Path(__file__).resolve().parent / "data"

MAX_MEDIAN_ERROR_PERCENT = 3.0
MAX_P90_ERROR_PERCENT = 8.0
MAX_OVERPROMISED_PERCENT = 2.0
MIN_MEDIAN_PROMISED_PERCENT = 90.0

MULTIMODAL = ("llava", "vision", "Mistral-Small-3.", "-VL-")
UNPLANNED_ARCHITECTURES = ("phi-2",)
SCHEMES = {"none": "Unquantized", "": "Unquantized", "fp8": "FP8", "int8": "W8A8", "awq": "AWQ"}
EXACT_CARDS = {"RTX 5060 Ti 16GB": "NVIDIA-GeForce-RTX-5060-Ti"}
BIASED = ("qwen2.5", "r1-distill-qwen", "kimi-dev")
"""Architectures whose q, k and v projections have biases."""

Row = dict[str, str]


@dataclass(frozen=True)
class StartUp:
    """One real start-up and what the engine made of it."""

    name: str
    version: str
    load: memory.EngineLoad
    total_bytes: int
    gpu_memory_utilization: float
    kv_cache_bytes: int  # as the engine found it
    graph_estimate_bytes: int | None  # printed, and not subtracted
    overheads: vllm.Overheads


@dataclass(frozen=True)
class Residual:
    """A prediction against the start-up it is of."""

    start_up: StartUp
    budget: MemoryBudget
    real_kv_cache_bytes: int

    @property
    def non_kv_error_percent(self) -> float:
        """Signed: positive when more was expected than was taken."""
        real = self.budget.usable_bytes - self.real_kv_cache_bytes
        return 100 * (self.budget.usable_bytes - self.budget.expected_kv_cache_bytes - real) / real

    @property
    def promised_percent(self) -> float:
        """Promised tokens of the real ones."""
        token_bytes = self.budget.kv_bytes_per_token
        real = kv_cache.tokens_in(self.real_kv_cache_bytes, token_bytes)
        return 100 * kv_cache.tokens_in(self.budget.kv_cache_bytes, token_bytes) / real


def start_ups() -> Iterator[StartUp]:
    """The rows that this release plans; `excluded` says why for the others."""
    models = {row["model"]: row for row in _rows("models.csv")}
    for row in _rows("startups.csv"):
        if excluded(row, models.get(row["model"])) is None:
            yield _start_up(row, models[row["model"]])


def excluded(row: Row, model: Row | None) -> str | None:
    """Why a row is not predicted, None when it is."""
    if model is None or not (model["num_hidden_layers"] and model["vocab_size"] and model["head_dim"]):
        return "the model's architecture is not in the data"
    if any(model[field] for field in ("num_experts", "kv_lora_rank", "hybrid_text", "sliding_window")):
        return "not a dense decoder with a full KV cache"
    if any(word in row["model"] for word in MULTIMODAL):
        return "multimodal"
    if model["arch"] in UNPLANNED_ARCHITECTURES:
        return "an architecture that this release does not plan"
    if row["pp"] not in ("", "1"):
        return "pipeline parallel"
    if "dtype float32" in row["notes"]:
        return "run in 32 bit"
    if _version(row) is None:
        return "no engine version"
    if row["weight_quant"].startswith(("bitsandbytes", "gguf")):
        return "a quantisation that this release does not plan"
    if not (row["gpu_memory_utilization"] and row["available_kv_gib"] and _total_gib(row)):
        return "the log names no utilisation, no card memory or no KV memory"
    if float(row["available_kv_gib"]) <= 0:
        return "no KV memory left"
    return None


def _rows(name: str) -> list[Row]:
    with (DATA / name).open(encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def _version(row: Row) -> tuple[int, int] | None:
    if row["notes"].startswith("V0"):
        return (0, 0)
    if match := re.match(r"0\.(\d+)", row["vllm_version"]):
        minor = int(match[1])
        return (0, minor) if minor >= 8 else None
    return (0, 16) if "vLLM <=0.16" in row["notes"] else None


def _total_gib(row: Row) -> float | None:
    """The CUDA total that the log prints, or, for a card named exactly, what the planner would assume."""
    if row["gpu_mem_gib"]:
        return float(row["gpu_mem_gib"])
    product = EXACT_CARDS.get(row["gpu"])
    memory_bytes = known_gpus()[product].memory_bytes if product else None
    return cuda_total_bytes(memory_bytes) / GIB if memory_bytes else None


def _start_up(row: Row, model: Row) -> StartUp:
    version = _version(row)
    assert version is not None
    estimate = re.search(r"graph estimate ([0-9.]+) not subtracted", row["notes"])
    total_gib = _total_gib(row)
    assert total_gib is not None
    return StartUp(
        name=f"{row['id']} {row['model'].rpartition('/')[2][:34]} {row['gpu']} x{row['tp']}",
        version="V0" if version == (0, 0) else row["vllm_version"] or "<=0.16",
        load=_load(row, model, total_gib),
        total_bytes=int(total_gib * GIB),
        gpu_memory_utilization=float(row["gpu_memory_utilization"]),
        kv_cache_bytes=int(float(row["available_kv_gib"]) * GIB),
        graph_estimate_bytes=int(float(estimate[1]) * GIB) if estimate else None,
        overheads=_overheads(version),
    )


def _overheads(version: tuple[int, int]) -> vllm.Overheads:
    if version <= (0, 16):
        return vllm.UP_TO_0_16
    return vllm.UP_TO_0_20 if version <= (0, 20) else vllm.SINCE_0_21


def _load(row: Row, model: Row, total_gib: float) -> memory.EngineLoad:
    shape, ranks = _shape(model), int(row["tp"])
    large = total_gib >= 70 and "A100" not in row["gpu"]  # the engine's own defaults
    return memory.EngineLoad(
        shape=shape,
        weight_bytes=weights_per_rank(_facts(row, model, shape), ranks),
        tensor_parallel_size=ranks,
        max_num_seqs=int(row["max_num_seqs"] or (1024 if large else 256)),
        max_num_batched_tokens=_batched_tokens(row, large),
        kv_cache_dtype="FP8" if row["kv_cache_dtype"].startswith("fp8") else "BF16",
        enforce_eager=row["enforce_eager"] == "True",
    )


def _batched_tokens(row: Row, large: bool) -> int:
    """Engine V0 prefilled a whole prompt at once."""
    if row["notes"].startswith("V0") and row["max_model_len"]:
        return int(row["max_model_len"])
    return int(row["max_num_batched_tokens"] or (8192 if large else 2048))


def _facts(row: Row, model: Row, shape: ModelShape) -> ModelFacts:
    scheme = SCHEMES[re.match(r"[a-z0-9]*", row["weight_quant"])[0]]  # type: ignore[index]
    biased = model["arch"].startswith(BIASED)
    tensors = classes_of(dense_checkpoint(shape, scheme, qkv_bias=biased))
    # `stored` decides only how float32 weights load, and there are none here
    return ModelFacts(row["model"], "", shape, tensors, None, 0)


def _shape(model: Row) -> ModelShape:
    def count(field: str) -> int:
        return int(model[field])

    return ModelShape(
        architecture=model["arch"],
        model_type=model["arch"],
        num_hidden_layers=count("num_hidden_layers"),
        hidden_size=count("hidden_size"),
        intermediate_size=count("intermediate_size"),
        num_attention_heads=count("num_attention_heads"),
        num_key_value_heads=count("num_key_value_heads"),
        head_dim=count("head_dim"),
        vocab_size=count("vocab_size"),
        max_position_embeddings=count("max_position_embeddings"),
        tie_word_embeddings=model["tie_word_embeddings"] == "true",
        dtype="BF16",
    )


def residual(start_up: StartUp) -> Residual:
    """As its own engine sized the cache."""
    return _residual(start_up, start_up.overheads, start_up.kv_cache_bytes)


def residual_as_0_21(start_up: StartUp) -> Residual | None:
    """As an engine that subtracts the graph estimate would have sized it, None where no estimate is printed."""
    if start_up.graph_estimate_bytes is None:
        return None
    overheads = replace(start_up.overheads, graphs_in_budget=True)
    return _residual(start_up, overheads, start_up.kv_cache_bytes - start_up.graph_estimate_bytes)


def _residual(start_up: StartUp, overheads: vllm.Overheads, real_kv_cache_bytes: int) -> Residual:
    budget = memory.memory_budget(
        start_up.load, start_up.total_bytes, overheads, gpu_memory_utilization=start_up.gpu_memory_utilization
    )
    return Residual(start_up, budget, real_kv_cache_bytes)


@dataclass(frozen=True)
class Summary:
    """Quantiles over one set of start-ups."""

    rows: int
    median_error_percent: float
    p90_error_percent: float
    median_promised_percent: float
    overpromised: int

    def broken(self) -> list[str]:
        """The thresholds that do not hold."""
        checks = {
            f"median error {self.median_error_percent:.1f} %": self.median_error_percent <= MAX_MEDIAN_ERROR_PERCENT,
            f"p90 error {self.p90_error_percent:.1f} %": self.p90_error_percent <= MAX_P90_ERROR_PERCENT,
            f"{self.overpromised} of {self.rows} promised too much": (
                100 * self.overpromised <= MAX_OVERPROMISED_PERCENT * self.rows
            ),
            f"median promised {self.median_promised_percent:.1f} %": (
                self.median_promised_percent >= MIN_MEDIAN_PROMISED_PERCENT
            ),
        }
        return [text for text, holds in checks.items() if not holds]


def summary(residuals: Sequence[Residual]) -> Summary:
    errors = sorted(abs(one.non_kv_error_percent) for one in residuals)
    promised = [one.promised_percent for one in residuals]
    return Summary(
        rows=len(residuals),
        median_error_percent=statistics.median(errors),
        p90_error_percent=errors[int(0.9 * (len(errors) - 1))],
        median_promised_percent=statistics.median(promised),
        overpromised=sum(share > 100 for share in promised),
    )


def measured_sets() -> dict[str, list[Residual]]:
    """The comparisons that the thresholds hold for, over the same start-ups."""
    covered = [one for one in start_ups() if one.version != "V0"]
    newer = [one for one in map(residual_as_0_21, covered) if one is not None]
    return {"as logged": [residual(one) for one in covered], "as 0.21": newer}


def engine_v0_set() -> list[Residual]:
    """Start-ups of the engine before V1, whose prefill takes a whole prompt at once and so dominates the activations:
    independent evidence for that part of the formula, on small cards. No thresholds: the engine is not planned."""
    return [residual(one) for one in start_ups() if one.version == "V0"]


def _print(name: str, residuals: Sequence[Residual]) -> None:
    print(f"\n{name}: non-KV expected against real, promised tokens of the real ones")
    for one in residuals:
        figures = f"{one.non_kv_error_percent:+6.1f} %  {one.promised_percent:6.1f} %"
        print(f"  {figures}  {one.start_up.version:8} {one.start_up.name}")
    print(f"  {summary(residuals)}")


def main(arguments: Sequence[str]) -> int:
    broken: list[str] = []
    for name, residuals in measured_sets().items():
        _print(name, residuals)
        broken += [f"{name}: {text}" for text in summary(residuals).broken()]
    _print("engine V0, no thresholds", engine_v0_set())
    for text in broken:
        print(f"threshold broken: {text}", file=sys.stderr)
    return 1 if broken and "--check" in arguments else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

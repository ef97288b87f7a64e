"""Real start-ups of vLLM, read from CSV files of the shape of bench/data, with what a log leaves out filled in.

A row becomes a `StartUp`: what the planner would be asked (`load`, `total_bytes`, ...) and what the engine then found. The row's own
activation, non-torch, graph and KV columns never reach the question. Raises `BadData` with the file, line and column.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from bench import reports, shapes
from kubequant.planning.engines.overheads import Overheads, overheads_of
from kubequant.planning.memory import EngineLoad
from kubequant.planning.values import CacheKind, ModelShape

GIB = 1024**3

Row = Mapping[str, str]

STARTUP_COLUMNS = (
    "id", "model", "gpu", "gpu_count", "gpu_mem_gib", "tp", "pp", "vllm_version", "weight_quant", "kv_cache_dtype", "max_model_len",
    "gpu_memory_utilization", "max_num_seqs", "max_num_batched_tokens", "enforce_eager", "weights_gib", "available_kv_gib",
    "kv_tokens", "failure", "notes",
)  # fmt: skip
MODEL_COLUMNS = (
    *shapes.COLUMNS,
    "model",
    "quantization_seen",
    "safetensors_gib",
    "kv_bytes_per_token_bf16_tp1",
    "kv_confirmed_by",
)

MEMORY_FAILURES = re.compile(
    r"kv_too_small|no_available_kv|max_seq_len_gt_kv|mamba cache blocks|out of memory|\boom\b|cuda_oom|"
    r"no available memory|larger than the (available|maximum)|free memory|not enough (gpu )?memory",
    re.IGNORECASE,
)
"""Failures that mean memory. Others ("engine error after load") say nothing about it."""

_CONSUMED = re.compile(r"weights_gib is .?consumed", re.IGNORECASE)
"""The weights column then holds non-torch memory too (engines since 0.27 print the two as one)."""

_ALL_TO_ALL_BYTES = 6 * GIB
"""Buffers through which ranks of expert parallelism exchange tokens (6.3 and 7.5 GiB were seen). The product plans none of it."""


class BadData(ValueError):
    """A file that cannot be read as start-ups or models; the text says where and why."""


@dataclass(frozen=True)
class StartUp:
    """One start-up: what is asked of the planner, and what the engine answered (bytes of one GPU; None: not in the report)."""

    id: str
    model: str
    notes: str
    gpu: str
    load: EngineLoad | None  # None: the weights cannot be told
    load_for_layout: EngineLoad  # the same without weights: enough for the KV cache's layout
    overheads: Overheads
    engine_v0: bool
    minor: int
    version_known: bool
    max_num_seqs_known: bool
    unified_memory: bool
    total_bytes: int | None
    total_is_reported: bool
    total_is_class: bool  # only "24 GB card" or the like is said: good enough to foresee a failure, not to compare
    default_utilization: float  # where the report says nothing
    gpu_memory_utilization: float | None
    max_model_len: int | None
    kv_cache_bytes: int | None
    kv_tokens: int | None
    failure: str
    weight_bytes: int | None
    weights_are_reported: bool
    consumed: bool  # the weights column holds non-torch memory too
    value_bytes: int  # of the model's dtype: 2, or 4 where it runs in 32 bit
    confirmed_token_bytes: int | None  # of the model at 16 bit and TP 1, where its layout is confirmed

    @property
    def failed_for_memory(self) -> bool:
        return bool(MEMORY_FAILURES.search(self.failure))

    @property
    def requested_bytes(self) -> int | None:
        """What the engine was allowed to take."""
        if self.total_bytes is None or self.gpu_memory_utilization is None:
            return None
        return int(self.total_bytes * self.gpu_memory_utilization)


def read_startups(startups: Path, models: Path) -> list[StartUp]:
    """All rows of `startups`, in order. Raises BadData."""
    known = {row["model"].lower(): row for _, row in _rows(models, MODEL_COLUMNS)}
    rows = _rows(startups, STARTUP_COLUMNS)
    try:
        return [_start_up(_Cells(startups, line, row), known.get(row["model"].lower())) for line, row in rows]
    except shapes.BadCell as error:
        raise BadData(f"{models}: {error}") from error


def _rows(path: Path, columns: tuple[str, ...]) -> list[tuple[int, Row]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines, restval="")
            missing = [name for name in columns if name not in (reader.fieldnames or ())]
            if missing:
                raise BadData(f"{path}: column {missing[0]!r} is missing")
            return [(reader.line_num, {name: row[name].strip() for name in columns}) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadData(f"{path}: {error}") from error


@dataclass(frozen=True)
class _Cells:
    """Typed access to one row; an empty cell is None."""

    path: Path
    line: int
    row: Row

    def text(self, column: str) -> str:
        return self.row[column]

    def number(self, column: str) -> float | None:
        text = self.row[column]
        if not text:
            return None
        try:
            value = float(text)
        except ValueError:
            raise BadData(f"{self.path}, line {self.line}: {column} must be a number, not {text!r}") from None
        if not abs(value) < 1e12:
            raise BadData(f"{self.path}, line {self.line}: {column} is out of range: {text}")
        return value

    def count(self, column: str, least: int = 1) -> int | None:
        value = self.number(column)
        if value is None:
            return None
        if value < least or value != int(value):
            raise BadData(
                f"{self.path}, line {self.line}: {column} must be a whole number of at least {least}, not {value:g}"
            )
        return int(value)

    def gib(self, column: str) -> int | None:
        value = self.number(column)
        return None if value is None else int(value * GIB)


def _start_up(cells: _Cells, model: Row | None) -> StartUp:
    notes, gpu = cells.text("notes"), cells.text("gpu")
    minor, version_known = reports.minor_version(cells.text("vllm_version"), notes, cells.text("model"))
    engine_v0 = reports.is_engine_v0(minor, notes)
    total, source = _total(cells)
    shape = shapes.shape_of(model, cells.text("model"), reports.multimodal_off(notes))
    weights = _weights(cells, model, shape)
    load = _load(cells, shape, weights or 0, minor, engine_v0, total)
    overheads, consumed = overheads_of(minor), bool(_CONSUMED.search(notes))
    float32 = "dtype float32" in notes
    if float32:
        wider_logits = overheads.sampler_bytes_per_logit + 2
        overheads = replace(overheads, sampler_bytes_per_logit=wider_logits)
    if "DeepEP" in notes:
        overheads = replace(overheads, non_torch_bytes=overheads.non_torch_bytes + _ALL_TO_ALL_BYTES)
    if consumed:
        overheads = replace(
            overheads,
            non_torch_bytes=0,
            non_torch_pcie_bytes=0,
            non_torch_nvlink_bytes=0,
            non_torch_bytes_per_rank=0,
            sampler_workspace_bytes=0,
        )
    return StartUp(
        id=cells.text("id"),
        model=cells.text("model"),
        notes=notes,
        gpu=gpu,
        load=None if weights is None else load,
        load_for_layout=load,
        overheads=overheads,
        engine_v0=engine_v0,
        minor=minor,
        version_known=version_known,
        max_num_seqs_known=cells.count("max_num_seqs") is not None,
        unified_memory=reports.is_unified(gpu),
        total_bytes=total,
        total_is_reported=source == "report",
        total_is_class=source == "class",
        default_utilization=reports.default_utilization(minor),
        gpu_memory_utilization=cells.number("gpu_memory_utilization"),
        max_model_len=cells.count("max_model_len"),
        kv_cache_bytes=cells.gib("available_kv_gib"),
        kv_tokens=cells.count("kv_tokens", least=0),
        failure=cells.text("failure"),
        weight_bytes=weights,
        weights_are_reported=bool(cells.text("weights_gib")),
        consumed=consumed,
        value_bytes=4 if float32 else 2,
        confirmed_token_bytes=_confirmed(model),
    )


def _confirmed(model: Row | None) -> int | None:
    if model is None or not (model["kv_confirmed_by"] and model["kv_bytes_per_token_bf16_tp1"]):
        return None
    return shapes.count(model, "kv_bytes_per_token_bf16_tp1", 0)


def _total(cells: _Cells) -> tuple[int | None, str]:
    """What CUDA reports, and from where: "report", or what the card's name tells."""
    if reported := cells.gib("gpu_mem_gib"):
        return reported, "report"
    return reports.card_total(cells.text("gpu"), cells.text("notes"))


def _weights(cells: _Cells, model: Row | None, shape: ModelShape) -> int | None:
    """Of one rank: as the report says, else the stored bytes, else counted from the architecture. None where nobody says
    whether the checkpoint is quantised: a guess would be off by a factor."""
    if (reported := cells.gib("weights_gib")) is not None:
        return reported
    if model is None:
        return None
    ranks = (cells.count("tp") or 1) * (cells.count("pp") or 1)
    quantization = cells.text("weight_quant") or model["quantization_seen"]
    made_at_start = re.search(r"runtime|load-time|online", cells.text("weight_quant"))
    if (stored := model["safetensors_gib"]) and not made_at_start:
        return int(shapes.number(model, "safetensors_gib", stored) * GIB) // ranks
    if not quantization:
        return None
    expert_ranks = (cells.count("gpu_count") or 1) if re.search(r"\bEP\b", cells.text("notes")) else ranks
    return shapes.weight_bytes(model, shape, quantization, ranks, expert_ranks)


def _load(cells: _Cells, shape: ModelShape, weights: int, minor: int, engine_v0: bool, total: int | None) -> EngineLoad:
    notes, gpu = cells.text("notes"), cells.text("gpu")
    pipeline = cells.count("pp") or 1
    seqs, batch = reports.default_batch(gpu, total or 0, minor, engine_v0)
    return EngineLoad(
        shape=shape,
        weight_bytes=weights,
        tensor_parallel_size=cells.count("tp") or 1,
        max_num_seqs=cells.count("max_num_seqs") or seqs,
        max_num_batched_tokens=_batched_tokens(cells, shape, batch, engine_v0),
        kv_cache_dtype="FP8" if cells.text("kv_cache_dtype").startswith("fp8") else "BF16",
        nvlink=reports.has_nvlink(gpu),
        enforce_eager=cells.text("enforce_eager").lower() in ("true", "1"),
        pipeline_parallel_size=pipeline,
        flashinfer_sampler=reports.has_flashinfer_sampler(gpu, notes),
        expert_kernel=reports.expert_kernel(cells.text("weight_quant"), gpu),
        computes_logits=pipeline == 1 or "one pipeline rank" not in notes,
        lora=reports.lora(notes),
        speculation=reports.speculation(notes),
    )


def _batched_tokens(cells: _Cells, shape: ModelShape, default: int, engine_v0: bool) -> int:
    """Engine V0 prefilled a whole prompt at once, up to 32,768 tokens; above, in chunks."""
    if given := cells.count("max_num_batched_tokens"):
        return given
    if not engine_v0:
        return default
    length = cells.count("max_model_len") or shape.max_position_embeddings
    return length if length <= 32768 and not shape.keeps(CacheKind.LATENT) else default

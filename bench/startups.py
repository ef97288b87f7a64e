"""Real start-ups of vLLM, read from CSV files of the shape of bench/data, with what a log leaves out filled in.

A row becomes a `StartUp`: what the planner would be asked (`load`, `total_bytes`, ...) and what the engine then found. The row's own
activation, non-torch, graph and KV columns never reach the question. A cell that cannot be read costs its own row at most; a file that is
no such table raises `BadData`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from bench import reports, shapes
from bench.cards import CardTotal, card_total
from bench.cells import GIB, BadData, Cells, Row, read_table
from bench.failures import means_memory
from kubequant.planning.engines.overheads import Overheads, overheads_of
from kubequant.planning.memory import EngineLoad, non_torch_bytes
from kubequant.planning.values import CacheKind, ModelShape

__all__ = ["GIB", "BadData", "StartUp", "read_startups"]

STARTUP_COLUMNS = (
    "id", "model", "gpu", "gpu_count", "gpu_mem_gib", "tp", "pp", "vllm_version", "weight_quant", "kv_cache_dtype", "max_model_len",
    "gpu_memory_utilization", "max_num_seqs", "max_num_batched_tokens", "enforce_eager", "weights_gib", "available_kv_gib",
    "kv_tokens", "failure", "url", "notes",
)  # fmt: skip
MODEL_COLUMNS = (
    *shapes.COLUMNS,
    "model",
    "quantization_seen",
    "safetensors_gib",
    "kv_bytes_per_token_bf16_tp1",
    "kv_confirmed_by",
)

MODEL_COUNTS = (
    "num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim", "intermediate_size", "vocab_size",
    "max_position_embeddings", "num_experts", "num_experts_per_tok", "n_shared_experts", "moe_intermediate_size", "kv_lora_rank",
    "qk_rope_head_dim", "q_lora_rank", "kv_bytes_per_token_bf16_tp1",
)  # fmt: skip

_CONSUMED = re.compile(r"weights_gib is .?consumed", re.IGNORECASE)
"""The weights column then holds non-torch memory too (engines since 0.27 print the two as one)."""

_PRINTS_CONSUMED_SINCE = 27

_EIGHT_BITS_OR_LESS = re.compile("fp8|int8|int4|nvfp4|turboquant", re.IGNORECASE)

_LEAST_CARD_GIB, _LEAST_WEIGHTS_GIB, _MOST_GIB = 0.5, 0.001, 10_000
_LEAST_SHARE = 0.01
_MOST_RANKS = 1024
_MOST_COUNT = 10**8

_ALL_TO_ALL_BYTES = 6 * GIB
"""Buffers through which ranks of expert parallelism exchange tokens (6.3 and 7.5 GiB were seen). The product plans none of it."""


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
    total_reason: str  # why the card's name does not tell its memory
    default_utilization: float  # where the report says nothing
    gpu_memory_utilization: float | None
    max_model_len: int | None
    kv_cache_bytes: int | None
    kv_tokens: int | None
    failure: str
    weight_bytes: int | None
    weights_are_reported: bool
    least_weight_bytes: int | None  # a bound out of the model's name: foresees a failure where nothing else is known
    consumed: bool  # the weights column holds non-torch memory too
    value_bytes: int  # of the model's dtype: 2, or 4 where it runs in 32 bit
    kv_cache_dtype: str  # as the report says it
    confirmed_token_bytes: int | None  # of the model at 16 bit and TP 1, where its layout is confirmed
    unread: tuple[tuple[str, str], ...]  # (column, why) of cells that could not be read and count as empty

    @property
    def failed_for_memory(self) -> bool:
        return means_memory(self.failure)

    @property
    def requested_bytes(self) -> int | None:
        """What the engine was allowed to take."""
        if self.total_bytes is None or self.gpu_memory_utilization is None:
            return None
        return int(self.total_bytes * self.gpu_memory_utilization)


def read_startups(startups: Path, models: Path) -> list[StartUp]:
    """All rows of `startups`, in order. Raises BadData."""
    known = {row["model"].lower(): _readable(row) for _, row in read_table(models, MODEL_COLUMNS, "model")}
    rows = read_table(startups, STARTUP_COLUMNS, "id")
    return [
        _start_up(Cells({**row, "id": row["id"] or f"line {line}"}), known.get(row["model"].lower()))
        for line, row in rows
    ]


def _readable(model: Row) -> Row:
    """Numbers of a model without their decoration; what cannot be read is as empty as what nobody wrote."""
    cells = Cells(model)
    counts = {column: cells.count(column, most=_MOST_COUNT) for column in MODEL_COUNTS}
    stored = cells.number("safetensors_gib", least=0)
    return {
        **model,
        **{column: "" if value is None else str(value) for column, value in counts.items()},
        "safetensors_gib": f"{stored}" if stored else "",
    }


def _start_up(cells: Cells, model: Row | None) -> StartUp:
    notes, gpu = cells.text("notes"), cells.text("gpu")
    minor, version_known = reports.minor_version(
        *map(cells.text, ("vllm_version", "notes", "model", "url", "weights_gib", "gpu_mem_gib"))
    )
    engine_v0 = reports.is_engine_v0(minor, notes)
    reported_total = cells.gib("gpu_mem_gib", _LEAST_CARD_GIB, _MOST_GIB)
    card = CardTotal(reported_total) if reported_total else card_total(gpu, notes)
    total = card.total_bytes
    shape = shapes.shape_of(model, cells.text("model"), reports.multimodal_off(notes))
    weights = _weights(cells, model, shape)
    load = _load(cells, shape, weights or 0, minor, engine_v0, total)
    overheads = overheads_of(minor)
    consumed = bool(_CONSUMED.search(notes)) or _holds_non_torch(cells, model, load, overheads, minor)
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
        total_is_reported=reported_total is not None,
        total_is_class=card.is_class,
        total_reason=card.reason,
        default_utilization=reports.default_utilization(minor),
        gpu_memory_utilization=cells.number("gpu_memory_utilization", _LEAST_SHARE, 1),
        max_model_len=cells.count("max_model_len"),
        kv_cache_bytes=cells.gib("available_kv_gib", -_MOST_GIB, _MOST_GIB),
        kv_tokens=cells.count("kv_tokens", least=0),
        failure=cells.text("failure"),
        weight_bytes=weights,
        weights_are_reported=_reported_weights(cells) is not None,
        least_weight_bytes=shapes.least_weight_bytes(cells.text("model"), cells.text("weight_quant"), _ranks(cells)),
        consumed=consumed,
        value_bytes=4 if float32 else 2,
        kv_cache_dtype=cells.text("kv_cache_dtype").lower(),
        confirmed_token_bytes=_confirmed(model),
        unread=tuple(cells.unread.items()),
    )


def _confirmed(model: Row | None) -> int | None:
    if model is None or not (model["kv_confirmed_by"] and model["kv_bytes_per_token_bf16_tp1"]):
        return None
    return shapes.count(model, "kv_bytes_per_token_bf16_tp1", 0)


def _ranks(cells: Cells) -> int:
    return (cells.count("tp", most=_MOST_RANKS) or 1) * (cells.count("pp", most=_MOST_RANKS) or 1)


def _reported_weights(cells: Cells) -> int | None:
    return cells.gib("weights_gib", _LEAST_WEIGHTS_GIB, _MOST_GIB)


def _holds_non_torch(cells: Cells, model: Row | None, load: EngineLoad, overheads: Overheads, minor: int) -> bool:
    """Engines since 0.27 print weights and non-torch memory as one. Which of the two a report gives is told by the checkpoint's size."""
    reported = _reported_weights(cells)
    if minor < _PRINTS_CONSUMED_SINCE or reported is None or model is None or not model["safetensors_gib"]:
        return False
    beyond = reported - float(model["safetensors_gib"]) * GIB / _ranks(cells)
    other = non_torch_bytes(load, overheads)
    return other / 2 < beyond < 2 * other


def _weights(cells: Cells, model: Row | None, shape: ModelShape) -> int | None:
    """Of one rank: as the report says, else the stored bytes, else counted from the architecture. None where nobody says
    whether the checkpoint is quantised: a guess would be off by a factor."""
    if (reported := _reported_weights(cells)) is not None:
        return reported
    if model is None:
        return None
    ranks = _ranks(cells)
    quantization = cells.text("weight_quant") or model["quantization_seen"]
    made_at_start = re.search(r"runtime|load-time|online", cells.text("weight_quant"))
    if (stored := model["safetensors_gib"]) and not made_at_start:
        return int(float(stored) * GIB) // ranks
    if not quantization:
        return None
    expert_ranks = (cells.count("gpu_count") or 1) if re.search(r"\bEP\b", cells.text("notes")) else ranks
    return shapes.weight_bytes(model, shape, quantization, ranks, expert_ranks)


def _load(cells: Cells, shape: ModelShape, weights: int, minor: int, engine_v0: bool, total: int | None) -> EngineLoad:
    notes, gpu = cells.text("notes"), cells.text("gpu")
    pipeline = cells.count("pp", most=_MOST_RANKS) or 1
    seqs, batch = reports.default_batch(gpu, total or 0, minor, engine_v0)
    return EngineLoad(
        shape=shape,
        weight_bytes=weights,
        tensor_parallel_size=cells.count("tp", most=_MOST_RANKS) or 1,
        max_num_seqs=cells.count("max_num_seqs") or seqs,
        max_num_batched_tokens=_batched_tokens(cells, shape, batch, engine_v0),
        kv_cache_dtype="FP8" if _EIGHT_BITS_OR_LESS.match(cells.text("kv_cache_dtype")) else "BF16",
        nvlink=reports.has_nvlink(gpu),
        enforce_eager=cells.text("enforce_eager").lower() in ("true", "1", "yes"),
        pipeline_parallel_size=pipeline,
        flashinfer_sampler=reports.has_flashinfer_sampler(gpu, notes),
        expert_kernel=reports.expert_kernel(cells.text("weight_quant"), gpu),
        computes_logits=pipeline == 1 or "one pipeline rank" not in notes,
        lora=reports.lora(notes),
        speculation=reports.speculation(notes),
    )


def _batched_tokens(cells: Cells, shape: ModelShape, default: int, engine_v0: bool) -> int:
    """Engine V0 prefilled a whole prompt at once, up to 32,768 tokens; above, in chunks."""
    if given := cells.count("max_num_batched_tokens"):
        return given
    if not engine_v0:
        return default
    length = cells.count("max_model_len") or shape.max_position_embeddings
    return length if length <= 32768 and not shape.keeps(CacheKind.LATENT) else default

"""Start-ups as people write them down: units in cells, columns left out, cards by many names, failures in many words."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from bench import reports, vram
from bench.cards import card_total
from bench.cells import parse_number
from bench.failures import means_memory
from bench.groups import Evaluated, evaluate, group_of
from bench.startups import MODEL_COLUMNS, STARTUP_COLUMNS

GIB = 1024**3
STARTUPS, MODELS = vram.DATA / "startups.csv", vram.DATA / "models.csv"


def replayed(tmp_path: Path, name: str, without: str = "", **cells: str) -> Evaluated:
    """One row of the shipped file with other cells, or without a column, beside a row that is as it was."""
    with STARTUPS.open(encoding="utf-8") as lines:
        rows = [row for row in csv.DictReader(lines) if row["id"] in (name, "P228")]
    columns = [column for column in rows[0] if column != without]
    with (tmp_path / "startups.csv").open("w", encoding="utf-8", newline="") as lines:
        writer = csv.DictWriter(lines, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows({**row, **cells} if row["id"] == name else row for row in rows)
    found = {row.start_up.id: row for row in evaluate(tmp_path / "startups.csv", MODELS)}
    if not without:
        assert found["P228"].replayed is not None, "a bad cell costs its own row only"
    return found[name]


@pytest.mark.parametrize(
    ("text", "value"),
    [("79.2 GiB", 79.2), ("80GB", 80), ("31,232", 31232), ("90%", 0.9), ("~23.6", 23.6), ("1e3", 1000), ("16384 MiB", 16),
     ("8k", None), ("two", None), ("nan", None), ("inf", None), ("1,23", None), ("-", None)],
)  # fmt: skip
def test_numbers_are_read_where_their_meaning_is_plain(text: str, value: float | None) -> None:
    assert parse_number(text) == (None if value is None else pytest.approx(value))


@pytest.mark.parametrize(
    "cells",
    [{"gpu_mem_gib": "23.58 GiB"}, {"gpu_memory_utilization": "90%"}, {"kv_tokens": "31,232"}, {"weights_gib": "14.9888 GB"}],
)  # fmt: skip
def test_units_change_nothing(tmp_path: Path, cells: dict[str, str]) -> None:
    plain, decorated = replayed(tmp_path, "P001").replayed, replayed(tmp_path, "P001", **cells).replayed
    assert plain is not None and decorated is not None
    assert decorated.budget == plain.budget
    assert decorated.real_tokens == plain.real_tokens


@pytest.mark.parametrize(
    ("column", "text"),
    [("gpu_mem_gib", "lots"), ("gpu_mem_gib", "-1"), ("tp", "0"), ("tp", "two"), ("gpu_memory_utilization", "0"),
     ("gpu_memory_utilization", "-0.5"), ("gpu_memory_utilization", "1.2"), ("weights_gib", "-3"), ("weights_gib", "nan"),
     ("weights_gib", "900"), ("available_kv_gib", "70")],
)  # fmt: skip
def test_nonsense_costs_its_own_row(tmp_path: Path, column: str, text: str) -> None:
    row = replayed(tmp_path, "P001", **{column: text})
    assert row.replayed is None
    assert row.unusable is not None and column in row.unusable


@pytest.mark.parametrize(("column", "text"), [("max_num_seqs", "0"), ("max_model_len", "8k"), ("kv_tokens", "-1")])
def test_a_cell_that_may_be_empty_is_read_as_empty(tmp_path: Path, column: str, text: str) -> None:
    row, empty = replayed(tmp_path, "P001", **{column: text}), replayed(tmp_path, "P001", **{column: ""})
    assert row.replayed is not None and empty.replayed is not None
    assert row.replayed.budget == empty.replayed.budget
    assert [name for name, _ in row.start_up.unread] == [column]


@pytest.mark.parametrize("column", sorted(set(STARTUP_COLUMNS) - {"id"}))
def test_a_column_may_be_missing(tmp_path: Path, column: str) -> None:
    row = replayed(tmp_path, "P001", without=column)
    if row.replayed is None:
        assert row.unusable is not None and column in row.unusable


@pytest.mark.parametrize("column", sorted(set(MODEL_COLUMNS) - {"model"}))
def test_a_column_of_the_models_may_be_missing(tmp_path: Path, column: str) -> None:
    with MODELS.open(encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    with (tmp_path / "models.csv").open("w", encoding="utf-8", newline="") as lines:
        writer = csv.DictWriter(lines, [name for name in rows[0] if name != column], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    assert group_of(evaluate(STARTUPS, tmp_path / "models.csv"))["usable"] in range(105, 111)


def test_a_model_cell_that_cannot_be_read_is_as_empty(tmp_path: Path) -> None:
    with MODELS.open(encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    with (tmp_path / "models.csv").open("w", encoding="utf-8", newline="") as lines:
        writer = csv.DictWriter(lines, list(rows[0]))
        writer.writeheader()
        writer.writerows({**row, "vocab_size": "many"} for row in rows)
    assert group_of(evaluate(STARTUPS, tmp_path / "models.csv"))["usable"] == 110


@pytest.mark.parametrize(
    ("gpu", "gib"),
    [("A100-SXM4-80GB", 79.14), ("NVIDIA A100 80GB PCIe", 79.14), ("A100 40GB", 39.4), ("GH200 96GB", 94.5), ("rtx 4090", 23.52),
     ("V100 32GB", 31.51), ("H20", 94.14), ("RTX 3080 10GB", 9.51), ("2080 Ti", 10.51), ("A5000", 23.5), ("B300", 264.56), ("A10", 22.0),
     ("A10G", 22.06), ("2x L40S", 44.39), ("H100", 79.1), ("H100 NVL 94GB", 92.18), ("SM120 96GB class (RTX PRO 6000)", 94.97)],
)  # fmt: skip
def test_cards_by_name(gpu: str, gib: float) -> None:
    found = card_total(gpu, "")
    assert found.total_bytes is not None and not found.is_class
    assert found.total_bytes / GIB == pytest.approx(gib, abs=0.01)


@pytest.mark.parametrize(
    "gpu",
    ["A100", "V100", "GH200", "RTX 3080", "RTX 5060 Ti", "RTX 4090 Laptop", "RTX 4070 Ti", "RTX 2080", "MI300X", "Quadro RTX 6000", "GB10",
     "RTX 5070 Ti 16GB + RTX 5090 D 32GB", "RTX 4090 48GB", "A100X 80GB", "80GB card (H100/A100, RunPod)", ""],
)  # fmt: skip
def test_never_a_wrong_card(gpu: str) -> None:
    found = card_total(gpu, "")
    assert found.total_bytes is None or found.is_class
    assert found.reason


@pytest.mark.parametrize(
    "text",
    ["torch.OutOfMemoryError: CUDA out of memory", "torch.cuda.OutOfMemoryError", "CUDA_ERROR_OUT_OF_MEMORY", "out_of_memory", "OOM",
     "oom-killed", "insufficient memory", "no_kv", "no_available_kv", "weights_do_not_fit", "KV cache too small", "not enough KV cache",
     "No available memory for the cache blocks", "the estimated maximum model length is 23648", "max_seq_len_gt_kv", "negative KV cache",
     "Free memory on device (20.1/23.6 GiB) on startup is less than desired GPU memory utilization", "kv_too_small_for_max_len",
     "max_num_seqs(256) > mamba cache blocks (200)", "NCCL error: out of memory"],
)  # fmt: skip
def test_failures_that_mean_memory(text: str) -> None:
    assert means_memory(text)


@pytest.mark.parametrize(
    "text",
    ["", "engine error after load", "unrecognized arguments: --free-memory", "NCCL error: unhandled system error", "timed out", "bloom crashed",
     "not supported: kv cache too small blocks", "no kv_cache_dtype fp8 here", "no KV cache transfer config"],
)  # fmt: skip
def test_failures_that_do_not(text: str) -> None:
    assert not means_memory(text)


def test_kv_dtypes_count_their_bytes(tmp_path: Path) -> None:
    """Llama-3.1-8B: 32 layers, 8 heads of 128 + 128 values."""
    rank = {
        dtype: (found.token_bytes if (found := replayed(tmp_path, "P001", kv_cache_dtype=dtype).replayed) else -1)
        for dtype in ("auto", "fp8_e5m2", "int8_per_token_head", "int4_per_token_head", "nvfp4", "turboquant_4bit")
    }
    heads = 32 * 8
    assert rank == {
        "auto": heads * 512,
        "fp8_e5m2": heads * 256,
        "int8_per_token_head": heads * 264,
        "int4_per_token_head": heads * 136,
        "nvfp4": heads * 144,
        "turboquant_4bit": None,
    }


def test_a_linked_thread_or_the_print_tells_the_version_without_prose() -> None:
    def minor(url: str = "", weights: str = "", memory: str = "") -> int:
        return reports.minor_version("", "", "", url, weights, memory)[0]

    assert minor("https://github.com/vllm-project/vllm/issues/10517") <= 7
    assert minor("https://github.com/vllm-project/vllm/pull/35695") == 17
    assert minor(weights="14.9888", memory="23.58") == 7
    assert minor(weights="65.9651") == 10
    assert minor() == reports.UNKNOWN_MINOR


def test_a_failure_is_foreseen_by_the_size_in_a_name(tmp_path: Path) -> None:
    models = tmp_path / "models.csv"
    models.write_text("model\n", encoding="utf-8")
    found = {row.start_up.id: row for row in evaluate(STARTUPS, models)}
    assert found["P081"].foreseen is not None
    assert found["P169"].foreseen is None  # its name has no size
    assert found["P081"].replayed is None


@pytest.mark.parametrize(("weights", "consumed"), [("15.27", False), ("15.52", True)])
def test_weights_that_hold_non_torch_memory_are_told_by_the_checkpoint(
    tmp_path: Path, weights: str, consumed: bool
) -> None:
    with STARTUPS.open(encoding="utf-8") as lines:
        row = next(row for row in csv.DictReader(lines) if row["id"] == "P228")
    with (tmp_path / "startups.csv").open("w", encoding="utf-8", newline="") as lines:
        writer = csv.DictWriter(lines, list(row))
        writer.writeheader()
        writer.writerow({**row, "notes": "", "vllm_version": "0.28.0", "weights_gib": weights})
    (found,) = evaluate(tmp_path / "startups.csv", MODELS)
    assert found.start_up.consumed is consumed

"""The shipped table of GPUs (data/gpus.csv), what a configuration adds to it, and names that people say to rows of it.

Rates are dense and serve ranking only; `rates_evidence` says which of them nobody has checked.
"""

from __future__ import annotations

import csv
import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cache
from importlib.resources import files
from typing import Any

from kubequant.api.conditions import Reason
from kubequant.errors import Refused
from kubequant.planning.values import ComputeCapability, GpuClass, GpuOrigin

MIB = 1024**2
GIB = 1024**3
GIGA, TERA = 10**9, 10**12
GPU_RESOURCE = "nvidia.com/gpu"
_MIG_MARK = "-MIG-"
_MIG_PROFILE = re.compile(r"(\d)g\.\d+gb[a-z.+-]*")
_MAKERS_WORDS = frozenset({"NVIDIA", "GEFORCE", "TESLA", "RTX", "GTX"})
_SHOWN_NAMES = 6
_NVLINK_OF_DATA_CENTRES_GB_S = 300
"""Workstation cards (3090, A6000) have a bridge of 113 GB/s between two, which few machines have."""


_ANOTHER_CARD = frozenset(("TI", "SUPER", "D", "LAPTOP", "MOBILE"))


@dataclass(frozen=True)
class KnownGpu:
    """A row of the table. None where it says nothing. Rates are a second; `mig_slices` is how many compute slices the card has."""

    product: str
    compute_capability: ComputeCapability
    memory_bytes: int | None = None  # as NVML, and so the label nvidia.com/gpu.memory, has it
    smallest_cuda_total_bytes: int | None = None
    nvlink: bool = True
    bandwidth_bytes_per_second: int | None = None
    flops_16bit: int | None = None
    flops_fp8: int | None = None
    flops_fp4: int | None = None
    ops_int8: int | None = None
    mig_slices: int = 0
    mig_profiles: tuple[str, ...] = ()
    also_called: tuple[str, ...] = ()
    memory_evidence: str = ""
    rates_evidence: str = ""


@dataclass(frozen=True)
class GpuTable:
    """Rows by product label, and the user's prices of one GPU an hour by product label."""

    rows: Mapping[str, KnownGpu]
    prices: Mapping[str, float] = field(default_factory=dict)

    def get(self, product: str) -> KnownGpu | None:
        """The row of a product label; old drivers leave NVIDIA's name out of it."""
        return self.rows.get(product) or self.rows.get(f"NVIDIA-{product}")

    def with_row(self, product: str, changes: Mapping[str, Any]) -> GpuTable:
        """A table with fields of a row replaced, or with a new row. Raises ValueError where that lacks its compute capability."""
        known = self.rows.get(product)
        if known is None and "compute_capability" not in changes:
            raise ValueError(f"{product} is not in the table of GPUs: give its computeCapability, as in 8.9")
        if known and changes.get("memory_bytes", known.memory_bytes) != known.memory_bytes:
            known = replace(known, smallest_cuda_total_bytes=None)  # it was seen with the other memory
        row = replace(known, **changes) if known else KnownGpu(product=product, **changes)
        return replace(self, rows={**self.rows, product: row})


class GpuNotFoundError(Refused):
    """No row, or more than one, goes by this name. `candidates` are product labels to choose from."""

    def __init__(self, message: str, candidates: tuple[str, ...]) -> None:
        super().__init__(Reason.NO_MATCHING_GPU, message)
        self.candidates = candidates


class AmbiguousGpuError(GpuNotFoundError):
    """More than one row goes by this name."""


def cuda_total_bytes(label_memory_bytes: int) -> int:
    """What CUDA will report at least, when NVML reports `label_memory_bytes`."""
    return label_memory_bytes - max(500 * MIB, label_memory_bytes * 15 // 1000)


@cache
def known_gpus() -> Mapping[str, KnownGpu]:
    """The shipped rows by product label."""
    with files("kubequant.planning").joinpath("data/gpus.csv").open(encoding="utf-8") as lines:
        return {row["product"]: _known_gpu(row) for row in csv.DictReader(lines)}


@cache
def shipped_table() -> GpuTable:
    return GpuTable(known_gpus())


def _known_gpu(row: Mapping[str, str]) -> KnownGpu:
    smallest_seen = row["cuda_total_gib_observed"].partition("-")[0]
    return KnownGpu(
        product=row["product"],
        memory_bytes=int(row["memory_mib"]) * MIB if row["memory_mib"] else None,
        compute_capability=ComputeCapability.parse(row["compute_capability"]),
        smallest_cuda_total_bytes=int(float(smallest_seen) * GIB) if smallest_seen else None,
        nvlink=float(row["nvlink_gb_s"] or 0) >= _NVLINK_OF_DATA_CENTRES_GB_S,
        bandwidth_bytes_per_second=_scaled(row["memory_bandwidth_gb_s"], GIGA),
        flops_16bit=_scaled(row["fp16_dense_tflops"], TERA),
        flops_fp8=_scaled(row["fp8_dense_tflops"], TERA),
        flops_fp4=_scaled(row["fp4_dense_tflops"], TERA),
        ops_int8=_scaled(row["int8_dense_tops"], TERA),
        mig_slices=int(row["mig_slices"] or 0),
        mig_profiles=tuple(row["mig_profiles"].split()),
        also_called=tuple(row["also_called"].split()),
        memory_evidence=row["memory_evidence"],
        rates_evidence=row["rates_evidence"],
    )


def _scaled(text: str, unit: int) -> int | None:
    return int(Fraction(text) * unit) if text else None


def mig_profile_of(product: str) -> str:
    """The profile at the end of a slice's product label (3g.40gb), nothing for a whole card."""
    return product.partition(_MIG_MARK)[2]


def make_class(
    table: GpuTable,
    product: str,
    label_memory_bytes: int,
    compute_capability: ComputeCapability,
    *,
    count: int,
    **others: Any,
) -> GpuClass:
    """The class of `count` GPUs on one node, with what the table knows of the product. `others` are further fields.

    Of a MIG slice a replica takes one, so its `per_node` is 1. Its rates are shares of the card's: compute by compute slices, bandwidth
    by memory.
    """
    card, _, profile = product.partition(_MIG_MARK)
    known = table.get(card)
    seen = known.smallest_cuda_total_bytes if known and known.memory_bytes == label_memory_bytes else None
    gpu = GpuClass(
        product=product,
        label_memory_bytes=label_memory_bytes,
        memory_bytes=seen or cuda_total_bytes(label_memory_bytes),
        compute_capability=compute_capability,
        per_node=1 if profile else count,
        nodes=1,
        gpus=count,
        mig_profile=profile,
        nvlink=known is None or known.nvlink,
        price_per_hour=table.prices.get(product),
    )
    fields: dict[str, Any] = {**(_rates(known, profile, label_memory_bytes) if known else {}), **others}
    return replace(gpu, **fields)


_RATES = ("bandwidth_bytes_per_second", "flops_16bit", "flops_fp8", "flops_fp4", "ops_int8")


def _rates(known: KnownGpu, profile: str, memory_bytes: int) -> dict[str, int | None]:
    rates: dict[str, int | None] = {name: getattr(known, name) for name in _RATES}
    if not profile:
        return rates
    slices = _MIG_PROFILE.fullmatch(profile)
    if not (slices and known.mig_slices and known.memory_bytes):
        return {}
    compute = min(Fraction(1), Fraction(int(slices[1]), known.mig_slices))
    shares = dict.fromkeys(_RATES, compute) | {_RATES[0]: min(Fraction(1), Fraction(memory_bytes, known.memory_bytes))}
    return {name: None if rate is None else int(rate * shares[name]) for name, rate in rates.items()}


def gpu_class_of(known: KnownGpu, per_node: int, nodes: int = 1, table: GpuTable | None = None) -> GpuClass:
    """A class from the table alone, for planning without a cluster. Raises Refused where the row has no memory."""
    if known.memory_bytes is None:
        raise Refused(
            Reason.NO_MATCHING_GPU,
            f"the memory of {known.product} is not in the table of GPUs (it shares the machine's): give it as memoryMiB in gpuTable",
        )
    return make_class(
        table or shipped_table(),
        known.product,
        known.memory_bytes,
        known.compute_capability,
        count=per_node,
        nodes=nodes,
        gpus=per_node * nodes,
        origin=GpuOrigin.TABLE,
    )


def find_gpu(name: str, table: GpuTable) -> KnownGpu:
    """The row that people mean: a product label, one of a row's other names, or words of one label (`4090`, `L4`, `H100-PCIe`).

    Upper and lower case and NVIDIA's own words (GeForce, RTX, Tesla) do not matter. Raises GpuNotFoundError, with what to say instead.
    """
    by_name = {other.upper(): known for known in table.rows.values() for other in (*known.also_called, known.product)}
    if exact := by_name.get(name.strip().upper().replace(" ", "-")):
        return exact
    asked = _words(name)
    fitting = [known for known in table.rows.values() if asked and _is_meant(asked, _words(known.product))]
    same = [known for known in fitting if asked == _words(known.product)]
    if len(same or fitting) == 1:
        return (same or fitting)[0]
    if fitting:
        candidates = tuple(sorted(known.product for known in fitting))
        raise AmbiguousGpuError(
            f"{name!r} could be any of {len(candidates)} GPUs: {_listed(candidates)}. Give one of these names",
            candidates,
        )
    near = _nearest(name, by_name)
    hint = f"; nearest are {_listed(near)}" if near else ""
    raise GpuNotFoundError(
        f"no GPU called {name[:64]!r} is in the table{hint}. `kubequant gpus --known` lists all; gpuTable in the configuration adds to them",
        near,
    )


def _is_meant(asked: frozenset[str], words: frozenset[str]) -> bool:
    """A 2080 is no 2080 Ti: what makes another card must be said, what only tells its make may be left out."""
    return asked <= words and not (words - asked) & _ANOTHER_CARD


def _words(name: str) -> frozenset[str]:
    parted = re.sub(r"(RTX|GTX)(?=\d)", "", re.sub(r"(?<=\d)(TI|SUPER|D)\b", r" \1", name.upper()))
    return frozenset(re.findall(r"[A-Z0-9]+", parted)) - _MAKERS_WORDS


def _nearest(name: str, by_name: Mapping[str, KnownGpu]) -> tuple[str, ...]:
    short = {" ".join(sorted(_words(other))): known.product for other, known in by_name.items()}
    found = difflib.get_close_matches(" ".join(sorted(_words(name[:64]))), sorted(short), n=3, cutoff=0.5)
    return tuple(dict.fromkeys(short[other] for other in found))


def _listed(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
    return ", ".join(names[:_SHOWN_NAMES]) + more

"""What reading a header costs beside `json.loads` of the same bytes: two dense checkpoints and two of 256 experts in 60 layers.

`python -m bench.headers`. The two take turns in one process, and the medians of their processor time are compared: other work on
the machine falls on both. Memory is what Python holds at the peak, beyond the header's own bytes.
"""

from __future__ import annotations

import gc
import json
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from bench.checkpoints import mixtral_checkpoint
from bench.dense_checkpoints import Tensor, dense_checkpoint
from bench.figures import Figure
from kubequant.hub.shards import parse_header
from kubequant.planning.values import Experts, ModelShape

SECONDS = 4.0  # of a comparison
FEWEST = 5  # turns
TURN_SECONDS = 0.02  # at least: a small header is parsed as often as that takes
_DENSE = ModelShape("LlamaForCausalLM", "llama", 80, 8192, 28672, 64, 8, 128, 128256, 131072, False, "BF16")
_MIXTURE = ModelShape(
    "MixtralForCausalLM", "mixtral", 60, 7168, 18432, 128, 8, 128, 129280, 131072, False, "BF16",
    experts=Experts(256, 8, 60, 2048),
)  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """Of one header: its bytes, its tensors, both times in seconds, and the bytes held at the peak of reading it."""

    header_bytes: int
    tensors: int
    json_seconds: float
    seconds: float
    peak_bytes: int


def header_of(tensors: Iterable[Tensor]) -> tuple[bytes, int]:
    """The JSON of one file that holds these tensors, and the bytes of their data."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    reached = 0
    for name, dtype, shape, size in tensors:
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": (reached, reached + size)}
        reached += size
    return json.dumps(entries, separators=(",", ":")).encode(), reached


def measure(raw: bytes, data_bytes: int, seconds: float = SECONDS) -> Measured:
    """Parses the header with both, in turns."""
    json_seconds: list[float] = []
    own_seconds: list[float] = []
    started = time.perf_counter()
    times = 1 + int(TURN_SECONDS / _seconds(lambda: json.loads(raw), 1))
    while len(own_seconds) < FEWEST or time.perf_counter() - started < seconds:
        json_seconds.append(_seconds(lambda: json.loads(raw), times))
        own_seconds.append(_seconds(lambda: parse_header(raw, data_bytes), times))
    tracemalloc.start()
    tensors = len(parse_header(raw, data_bytes))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return Measured(len(raw), tensors, median(json_seconds), median(own_seconds), peak)


def _seconds(work: Callable[[], object], times: int) -> float:
    gc.collect()  # or what one left behind is collected in the other's time
    started = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - started) / times


def figures(seconds: float = SECONDS) -> list[Figure]:
    """For `make bench`: both ratios of each header."""
    found = []
    checkpoints = {
        f"{kind}, {scheme}": make(shape, scheme)
        for kind, make, shape in (
            ("80 layers", dense_checkpoint, _DENSE),
            ("60 x 256 experts", mixtral_checkpoint, _MIXTURE),
        )
        for scheme in ("Unquantized", "AWQ")
    }
    for name, tensors in checkpoints.items():
        measured = measure(*header_of(tensors), seconds)
        case = f"{name}: {measured.tensors:,} tensors, {measured.header_bytes / 1e6:.1f} MB"
        found += [
            Figure("header-time-over-json", case, measured.seconds / measured.json_seconds, "times"),
            Figure("header-memory-over-its-bytes", case, measured.peak_bytes / measured.header_bytes, "times"),
            Figure("header-time", case, 1000 * measured.seconds, "ms"),
        ]
    return found


def main(arguments: Sequence[str]) -> int:
    for figure in figures():
        print(f"{figure.name:30} {figure.value:10.4g} {figure.unit:6} {figure.case}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

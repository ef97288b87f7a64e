"""What deciding costs: thousands of plans over a fleet of 20 GPU classes, in one process, without a cluster or a Hub.

`python -m bench.plans [--plans 10000]`. Models are dense (bench/dense_checkpoints.py), three sizes, as they are in 16 bit
(then four schemes are tried on each placement) and as AWQ; no two plans ask the same. The fleet has 8 GPUs a node.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, product

from bench.dense_checkpoints import dense_checkpoint
from bench.figures import Figure
from bench.process import memory_mib
from kubequant.planning.engines.vllm import VLLM_0_33
from kubequant.planning.gpus import NodeFacts, fleet_of, known_gpus
from kubequant.planning.plan import plan
from kubequant.planning.tensors import classes_of
from kubequant.planning.values import (
    Fleet,
    Intent,
    ModelFacts,
    ModelShape,
    Objective,
    Plan,
    StoredMethod,
    StoredQuantization,
)

PLANS = 10_000
CLASSES = 20
MIB = 1024**2
_AWQ = StoredQuantization(StoredMethod.AWQ, "W4A16", 4, 128, symmetric=False)
_SHAPES = (
    ModelShape("LlamaForCausalLM", "llama", 32, 4096, 14336, 32, 8, 128, 128256, 131072, False, "BF16"),
    ModelShape("Qwen2ForCausalLM", "qwen2", 64, 5120, 27648, 40, 8, 128, 152064, 32768, False, "BF16"),
    ModelShape("LlamaForCausalLM", "llama", 80, 8192, 28672, 64, 8, 128, 128256, 131072, False, "BF16"),
)


@dataclass(frozen=True)
class Measured:
    """Of one run: seconds for all plans, how many fitted, MiB at the end and at the peak."""

    plans: int
    fitted: int
    seconds: float
    memory_mib: float
    peak_mib: float


def fleet(nodes_a_class: int) -> Fleet:
    """Twenty products of the shipped table, each on so many nodes of 8."""
    known = [gpu for gpu in known_gpus().values() if gpu.memory_bytes and str(gpu.compute_capability) != "7.0"]
    return fleet_of(
        NodeFacts(
            f"{gpu.product}-{number}",
            {
                "nvidia.com/gpu.product": gpu.product,
                "nvidia.com/gpu.memory": str((gpu.memory_bytes or 0) // MIB),
                "nvidia.com/gpu.compute.major": str(gpu.compute_capability.major),
                "nvidia.com/gpu.compute.minor": str(gpu.compute_capability.minor),
            },
            {"nvidia.com/gpu": "8"},
        )
        for gpu in known[:CLASSES]
        for number in range(nodes_a_class)
    )


def questions(count: int) -> Iterator[tuple[Intent, ModelFacts]]:
    """No two the same."""
    models = [_facts(shape, scheme) for shape in _SHAPES for scheme in ("Unquantized", "AWQ")]
    combinations = product(range(1, 1 + -(-count // (len(models) * len(Objective)))), Objective, models)
    for requests, objective, facts in islice(combinations, count):
        yield (
            Intent(
                "org/base", concurrent_requests=1 + requests % 512, context_tokens=1024 + requests, objective=objective
            ),
            facts,
        )


def _facts(shape: ModelShape, scheme: str) -> ModelFacts:
    tensors = classes_of(dense_checkpoint(shape, scheme))
    return ModelFacts(
        f"org/{shape.num_hidden_layers}-{scheme}", "0" * 40, shape, tensors, _AWQ if scheme == "AWQ" else None, 0
    )


def measure(count: int, over: Fleet) -> Measured:
    """Plans `count` questions one after the other."""
    asked = list(questions(count))
    started, fitted = time.perf_counter(), 0
    for intent, facts in asked:
        fitted += isinstance(plan(intent, facts, over, VLLM_0_33), Plan)
    seconds = time.perf_counter() - started
    now, peak = memory_mib(os.getpid())
    return Measured(count, fitted, seconds, now, peak)


def figures(count: int = PLANS) -> list[Figure]:
    """For `make bench`: the time a plan, memory, and what a thousand times the nodes cost."""
    few, many = fleet(1), fleet(1000)
    warm = measure(count // 100, few)
    small, large = measure(count // 10, few), measure(count // 10, many)
    all_of_them = measure(count, many)
    case = f"{count:,} plans, {CLASSES} GPU classes"
    return [
        Figure("plan-time", case, 1000 * all_of_them.seconds / count, "ms"),
        Figure("plan-time-with-1000-times-the-nodes", case, large.seconds / small.seconds, "times"),
        Figure("plans-that-fit", case, all_of_them.fitted / count),
        Figure("plan-memory-growth", case, all_of_them.memory_mib - warm.memory_mib, "MiB"),
        Figure("plan-memory-peak", case, all_of_them.peak_mib, "MiB"),
    ]


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.plans", description=__doc__)
    parser.add_argument("--plans", type=int, default=PLANS, metavar="N", help="how many (10,000)")
    for figure in figures(parser.parse_args(arguments).plans):
        print(f"{figure.name:40} {figure.value:10.4g} {figure.unit:6} {figure.case}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

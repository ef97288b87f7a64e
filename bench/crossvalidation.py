"""Whether the memory constants were learnt or learnt by heart: fitted anew without an author, or without a version, and tested there.

The formulas stay, the constants start from round numbers and are moved one after the other while the mean error falls. An error counts for
3 GiB at most, so that no single report decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from bench.groups import quantile
from bench.peers import kind_of
from bench.startups import GIB, StartUp
from kubequant.planning.engines.overheads import MIB, Overheads
from kubequant.planning.memory import memory_budget

Constants = Mapping[str, float]

ROUND_NUMBERS: dict[str, float] = {
    "sampler_until_16": 25.0,  # bytes a logit
    "sampler_since_17": 25.0,
    "non_torch": 150.0,  # MiB, as all below but the tokens
    "sampler_workspace_since_18": 100.0,
    "nvlink_until_17": 1000.0,
    "nvlink_since_18": 1000.0,
    "pcie": 500.0,
    "encoder": 300.0,
    "dynamic_encoder_tokens": 10000.0,
    "graph_per_layer_and_size": 0.3,
}
_STEPS = (0.25, 0.5, 0.7, 0.85, 0.95, 1.05, 1.2, 1.4, 2.0)
_ROUNDS = 4
_MOST = 3.0  # GiB


def _with(overheads: Overheads, minor: int, constants: Constants) -> Overheads:
    """The constants of a version replaced; what a report's notes took out (0) or put in (GiB of it) stays so."""

    def mib(name: str, present: int) -> int:
        return int(constants[name] * MIB) if 0 < present < 4 * GIB else present

    old = minor <= 16
    per_logit = constants["sampler_until_16" if old else "sampler_since_17"]
    return replace(
        overheads,
        sampler_bytes_per_logit=per_logit,
        non_torch_bytes=mib("non_torch", overheads.non_torch_bytes),
        sampler_workspace_bytes=mib("sampler_workspace_since_18", overheads.sampler_workspace_bytes),
        non_torch_nvlink_bytes=mib(
            "nvlink_until_17" if minor <= 17 else "nvlink_since_18", overheads.non_torch_nvlink_bytes
        ),
        non_torch_pcie_bytes=mib("pcie", overheads.non_torch_pcie_bytes),
        encoder_bytes=mib("encoder", overheads.encoder_bytes),
        dynamic_encoder_tokens=int(constants["dynamic_encoder_tokens"]),
        graph_bytes_per_layer_and_size=mib("graph_per_layer_and_size", overheads.graph_bytes_per_layer_and_size),
    )


def error_gib(start_up: StartUp, constants: Constants) -> tuple[float, float]:
    """(absolute error of non-KV memory in GiB, the same as a share of it) of a usable start-up."""
    load, total, cache = start_up.load, start_up.total_bytes, start_up.kv_cache_bytes
    assert load is not None and total is not None and cache is not None
    overheads = _with(start_up.overheads, start_up.minor, constants)
    budget = memory_budget(load, total, overheads, gpu_memory_utilization=start_up.gpu_memory_utilization)
    error = abs(budget.expected_kv_cache_bytes - cache)
    return error / GIB, error / (budget.usable_bytes - cache)


def fit(start_ups: Sequence[StartUp]) -> Constants:
    """Coordinate descent on the mean capped error, from round numbers."""
    best = dict(ROUND_NUMBERS)

    def cost(constants: Constants) -> float:
        return sum(min(_MOST, error_gib(one, constants)[0]) for one in start_ups)

    lowest = cost(best)
    for _ in range(_ROUNDS):
        for name in best:
            tried = [best | {name: best[name] * step} for step in _STEPS]
            costs = [cost(one) for one in tried]
            if min(costs) < lowest:
                lowest = min(costs)
                best = tried[costs.index(lowest)]
    return best


def held_out(
    start_ups: Sequence[StartUp], group_of: Callable[[StartUp], str]
) -> Iterator[tuple[StartUp, tuple[float, float]]]:
    """Each start-up with its error by constants that were fitted without its group."""
    for group in sorted({group_of(one) for one in start_ups}):
        constants = fit([one for one in start_ups if group_of(one) != group])
        for one in start_ups:
            if group_of(one) == group:
                yield one, error_gib(one, constants)


def author_of(start_up: StartUp) -> str:
    """The two llm-d sets are of the same people; every other report is taken for its own author."""
    return start_up.id if kind_of(start_up) == "independent" else "llm-d"


def version_of(start_up: StartUp) -> str:
    return "V0" if start_up.engine_v0 else f"0.{start_up.minor}"


def print_cross_validation(start_ups: Sequence[StartUp]) -> None:
    """Medians and p90 of held-out errors, by author and by version."""
    for title, group_of in (("leave one author out", author_of), ("leave one version out", version_of)):
        found = list(held_out(start_ups, group_of))
        for name, members in (
            ("all", found),
            ("llm-d", [one for one in found if author_of(one[0]) == "llm-d"]),
            ("independent", [one for one in found if author_of(one[0]) != "llm-d"]),
        ):
            cells = [
                quantile((errors[at] for _, errors in members), share) or 0.0 for at in (1, 0) for share in (0.5, 0.9)
            ]
            print(
                f"{title:24}{name:12}{len(members):4}  non-KV {cells[0]:.1%} median, {cells[1]:.1%} p90; "
                f"overhead {cells[2]:.2f} GiB median, {cells[3]:.2f} p90"
            )

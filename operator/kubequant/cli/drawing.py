"""The answer for people: a bar of the card's memory, the choice, what else would fit, what was refused.

Colours and broken lines only where a terminal is; what is piped is the same text each time, with its lines whole, so
that they can be searched.
"""

from __future__ import annotations

import io
import shlex
import sys
from collections.abc import Sequence
from typing import Any, Literal

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from kubequant.cli.difference import Change
from kubequant.planning.explain import MemoryPart, cells, headline, memory_parts, particulars
from kubequant.planning.text import gib, money, rate
from kubequant.planning.values import Alternative, Fleet, GpuClass, MemoryBudget, Plan, Refusal, Refused

Column = tuple[str, list[str], Literal["left", "right"]]  # title, cells, side

PIPED_WIDTH = 1000  # wider than any table here: a file takes lines whole
BAR_CELLS = 72
LABEL = 12
INDENT = 2

_STYLES = {
    "W": "black on blue",
    "A": "black on yellow",
    "G": "black on magenta",
    "N": "black on cyan",
    "M": "black on white",
    "K": "black on green",
    ".": "dim",
}


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Rich would end the process with 1 here; `output.answering` knows that the answer was made."""
        raise


def console() -> Console:
    """Writes to standard output as it is now; what its encoding lacks becomes a question mark."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    terminal = sys.stdout.isatty()
    return _Console(
        file=sys.stdout, width=None if terminal else PIPED_WIDTH, highlight=False, markup=False, emoji=False
    )


def draw_plan(out: Console, result: Plan | Refused, cost: str | None = None, found: str | None = None) -> None:
    """The whole answer; `cost` is a line about money that rests on a throughput that the user gave, `found` one about
    what discovery found."""
    draw_line(out, headline(result), style="bold" if isinstance(result, Plan) else "bold red")
    if isinstance(result, Plan):
        for label, text in particulars(result):
            draw_line(out, f"  {label:<{LABEL}} {text}")
        if cost:
            draw_line(out, f"  {'cost':<{LABEL}} {cost}")
        if found:
            draw_line(out, f"  {'discovery':<{LABEL}} {found}")
        draw_line(out, f"  {'arguments':<{LABEL}} {shlex.join(result.arguments)}")
        _draw_memory(out, result.budget)
        _draw_alternatives(out, result.alternatives)
    elif found:
        draw_line(out, f"discovery: {found}")
    _draw_refusals(out, result.refusals)


def _draw_memory(out: Console, budget: MemoryBudget) -> None:
    parts = memory_parts(budget)
    bar = Text("  [")
    for part, width in zip(parts, cells(parts, BAR_CELLS), strict=True):
        bar.append(part.letter * width, style=_STYLES[part.letter])
    bar.append("]")
    draw_line(
        out,
        f"\nmemory of each GPU: {gib(budget.total_bytes)}, of which the engine may use {gib(budget.usable_bytes)} "
        f"(gpu_memory_utilization {budget.gpu_memory_utilization:g})",
        style="bold",
    )
    out.print(bar)
    for part in parts:
        out.print(_legend(part, budget))


def _legend(part: MemoryPart, budget: MemoryBudget) -> Text:
    share = 100 * part.bytes / budget.total_bytes
    text = Text("  ").append(part.letter, style=_STYLES[part.letter])
    return text.append(f" {part.name:<{LABEL}} {gib(part.bytes):>10} {share:5.1f} %{_remark(part, budget)}")


def _remark(part: MemoryPart, budget: MemoryBudget) -> str:
    if part.letter == "K":
        return f"  {budget.kv_bytes_per_token:,} bytes a token, {gib(budget.expected_kv_cache_bytes)} expected"
    if part.letter == "." and budget.reserved_bytes:
        return f"  {gib(budget.context_bytes)} of CUDA context, {gib(budget.reserved_bytes)} reserved"
    return "  CUDA context" if part.letter == "." else ""


def _draw_alternatives(out: Console, alternatives: Sequence[Alternative]) -> None:
    if not alternatives:
        return
    draw_line(out, "\nalso fits", style="bold")
    columns: list[Column] = [
        ("GPUs", [f"{other.gpus} x {other.gpu}" for other in alternatives], "left"),
        ("scheme", [other.scheme + " (to be made)" * other.predicted for other in alternatives], "left"),
        ("checkpoint", [other.checkpoint for other in alternatives], "left"),
        ("context", [f"{other.context_tokens:,}" for other in alternatives], "right"),
        ("KV tokens", [f"{other.kv_cache_tokens:,} {other.kv_cache_dtype}" for other in alternatives], "right"),
        ("memory", [gib(other.memory_bytes) for other in alternatives], "right"),
        ("decode bound", [_rate_bound(other) for other in alternatives], "right"),
        ("price/h", [_price(other.price_per_hour) for other in alternatives], "right"),
    ]
    draw_table(out, columns)


def _rate_bound(other: Alternative) -> str:
    bound = other.decode_tokens_per_second_bound
    return "" if bound is None else f"<= {rate(bound)}"


def _price(price: float | None) -> str:
    return "" if price is None else money(price)


def _draw_refusals(out: Console, refusals: Sequence[Refusal]) -> None:
    if not refusals:
        return
    draw_line(out, "\nnot taken", style="bold")
    for refusal in refusals:
        draw_line(out, f"  {refusal.reason or refusal.rule}: {refusal.message}")


def draw_changes(out: Console, changes: Sequence[Change]) -> None:
    """What a replan would change, one field a line."""
    if not changes:
        draw_line(out, "\na replan would change nothing")
        return
    draw_line(out, f"\na replan would change {len(changes)} fields of status.plan", style="bold")
    for change in changes:
        draw_line(out, f"  {change.field}: {_value(change.before)} -> {_value(change.after)}")


def _value(value: Any) -> str:
    if value is None:
        return "(none)"
    if isinstance(value, list):
        return shlex.join(map(str, value))
    return f"{value:,}" if type(value) is int else str(value)


def draw_fleet(out: Console, fleet: Fleet) -> None:
    """The classes that are planned on, and the nodes that are not, with the reason."""
    if fleet.classes:
        draw_table(out, _gpu_columns(fleet.classes))
    else:
        draw_line(out, f"no GPU to plan on; {fleet.nodes} nodes in all")
    for node in fleet.unreadable:
        draw_line(out, f"not planned on: node {node.name} {node.reason}")


def _gpu_columns(gpus: Sequence[GpuClass]) -> list[Column]:
    return [
        ("product", [gpu.product for gpu in gpus], "left"),
        ("a node", [str(gpu.per_node) for gpu in gpus], "right"),
        ("nodes", [str(gpu.nodes) for gpu in gpus], "right"),
        ("GPUs", [str(gpu.gpus) for gpu in gpus], "right"),
        ("free now", ["" if gpu.free is None else str(gpu.free) for gpu in gpus], "right"),
        ("memory", [gib(gpu.label_memory_bytes) for gpu in gpus], "right"),
        ("capability", [str(gpu.compute_capability) for gpu in gpus], "right"),
        ("origin", [gpu.origin.value for gpu in gpus], "left"),
        ("price/h", [_price(gpu.price_per_hour) for gpu in gpus], "right"),
    ]


def draw_table(out: Console, columns: Sequence[Column]) -> None:
    """A column without any content is left out. A terminal breaks long cells; a file takes them whole."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    shown = [column for column in columns if any(column[1])]
    for title, _, side in shown:
        table.add_column(title, justify=side, header_style="dim", overflow="fold")
    for row in zip(*(contents for _, contents, _ in shown), strict=True):
        table.add_row(*(Text(_printable(cell)) for cell in row))
    out.print(Padding(table, (0, 0, 0, INDENT), expand=False))


def draw_line(out: Console, text: str, style: str | None = None) -> None:
    """One line; a terminal wraps it, a file keeps it whole."""
    out.print(Text(_printable(text)), style=style, soft_wrap=not out.is_terminal)


def _printable(text: str) -> str:
    """Names come from labels and files of others: no escape sequence of theirs reaches a terminal."""
    return "".join(character if character.isprintable() or character == "\n" else "?" for character in text)

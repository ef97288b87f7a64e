"""A card's memory told by its name. A name that fits cards of different memory tells nothing: never a wrong card."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from kubequant.planning.gpu_table import KnownGpu, cuda_total_bytes, known_gpus

GIB = 1024**3

_QUALIFIERS = frozenset(("TI", "SUPER", "D", "NVL", "SFF", "MAX", "Q", "3E"))
"""Words that make another card of a name: with them and without are not the same."""
_SOLD_WITH_SEVERAL = ("RTX-5060-Ti", "RTX-4060-Ti", "RTX-3080", "RTX-3060")
"""Cards that are sold with more than one size, of which the table knows one: the text must give it."""
_SIZE = re.compile(r"\b(\d{1,3}) ?GI?B?\b")
_FORM_FACTOR = re.compile(r"(SXM|HBM)\d\w?")
_SIZE_TOLERANCE = 0.075  # 24 GB of an L4 are 22.5 GiB by its label
_OTHER_MAKE = re.compile(r"laptop|mobile|quadro|modded|modified", re.IGNORECASE)


@dataclass(frozen=True)
class CardTotal:
    """What CUDA reports, None where the name does not tell. `is_class`: only the size is said ("24 GB card"): good enough
    to foresee a failure, not to compare."""

    total_bytes: int | None
    is_class: bool = False
    reason: str = ""


def card_total(gpu: str, notes: str) -> CardTotal:
    """Told by the name of the card, else by its class."""
    if " + " in gpu:
        return CardTotal(None, reason="several different cards")
    size = _said_size(gpu)
    if _OTHER_MAKE.search(gpu):
        return _of_class(size, f"{gpu[:60]!r} is no card of the table of GPUs")
    named = _named(gpu)
    fitting = [known for known in named if size is None or _has_size(known, size)]
    if not fitting:
        said = size or _class_size(f"{gpu}; {notes}")
        known = (
            f"the cards of that name do not have {size} GB"
            if named
            else f"no card of the table is named in {gpu[:60]!r}"
        )
        return _of_class(said, known if gpu else "gpu is empty")
    if any(known.memory_bytes is None for known in fitting):
        return CardTotal(None, reason=f"{fitting[0].product} shares the machine's memory")
    if len({known.memory_bytes for known in fitting}) > 1 or (size is None and _is_sold_with_several(fitting)):
        return CardTotal(None, reason=f"{gpu[:60]!r} is sold with more than one size of memory")
    seen = [known.smallest_cuda_total_bytes for known in fitting if known.smallest_cuda_total_bytes]
    return CardTotal(min(seen) if seen else cuda_total_bytes(fitting[0].memory_bytes or 0))


def _of_class(size: int | None, reason: str) -> CardTotal:
    return CardTotal(cuda_total_bytes(size * GIB) if size else None, is_class=size is not None, reason=reason)


def _said_size(gpu: str) -> int | None:
    """GB that the name gives; None where it gives two (22-24GB)."""
    sizes = {int(size) for size in _SIZE.findall(re.sub(r"\(.*?\)", "", gpu).upper())}
    return sizes.pop() if len(sizes) == 1 and not re.search(r"(?<!\w)\d{1,3}-\d+ ?GB", gpu) else None


def _class_size(text: str) -> int | None:
    match = re.search(r"\b(\d{1,3}) ?GB (class|card|GPU)", text)
    return int(match[1]) if match else None


def _named(gpu: str) -> list[KnownGpu]:
    """Rows whose name the text says: all of its numbers that the table knows, and just the same qualifiers. Other words
    (Ada, PCIe, SXM4) choose among those."""
    table = {known: _words(known.product) for known in known_gpus().values()}
    words = _words(gpu) & frozenset[str]().union(*table.values())
    numbers = {word for word in words if re.search(r"\d", word) and not _FORM_FACTOR.fullmatch(word)} - _QUALIFIERS
    numbers = {word for word in numbers if not _SIZE.fullmatch(word)}
    if not numbers and not words >= {"TITAN", "RTX"}:
        return []
    same = [
        known
        for known, names in table.items()
        if numbers <= names and words & _QUALIFIERS == names & _QUALIFIERS and (numbers or "TITAN" in names)
    ]
    others = words - numbers
    return max((_with_words(same, others), same), key=bool)


def _with_words(rows: Iterable[KnownGpu], words: frozenset[str] | set[str]) -> list[KnownGpu]:
    wanted = {word for word in words if not _SIZE.fullmatch(word)}
    return [known for known in rows if wanted <= _words(known.product)]


def _words(name: str) -> frozenset[str]:
    upper = re.sub(r"(?<=\w)X\d{1,2}\b|\b\d{1,2}X ?(?=[A-Z0-9])", "", name.upper())  # L4x2, 2x L40S
    parted = re.sub(r"(RTX|GTX)(?=\d)", r"\1 ", re.sub(r"(?<=\d)(TI|SUPER|D)\b", r" \1", upper))
    return frozenset(re.findall(r"[A-Z0-9]+", parted)) - {"NVIDIA", "GEFORCE", "TESLA"}


def _has_size(known: KnownGpu, size: int) -> bool:
    if f"{size}GB" in _words(known.product):
        return True
    return known.memory_bytes is None or abs(known.memory_bytes / GIB - size) <= _SIZE_TOLERANCE * size


def _is_sold_with_several(rows: Iterable[KnownGpu]) -> bool:
    return any(known.product.endswith(_SOLD_WITH_SEVERAL) for known in rows)

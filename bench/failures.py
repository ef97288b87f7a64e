"""Which texts of a failure mean that memory was short."""

from __future__ import annotations

import re

_TEXTS = (
    r"out of memory", r"outofmemory(error)?", r"\boom\b", r"\boomed\b", r"cuda oom", r"oom killed",
    r"(insufficient|not enough|too little|lack of|want of|ran out of) ((gpu|cuda|device|video|free|available) )*(memory|vram)",
    r"(insufficient|not enough|too little|no|negative|no available|no free) "
    r"(space for )?(the )?kv( cache)?( blocks?| space| memory| left)*\s*($|[.,;:()])",
    r"kv( cache)? (is )?(too small|negative|insufficient|does not fit|exhausted)", r"too small for (the )?(max|kv)",
    r"(kv|cache)( cache)?( blocks?)? (is |are )?negative", r"no available (kv|memory)", r"no available memory for the cache blocks",
    r"no (free |gpu |cache )*blocks",
    r"max seq len (gt|exceeds?|larger than|above) kv", r"larger than the (available|maximum number of tokens)",
    r"estimated max(imum)? model length", r"mamba cache blocks",
    r"free memory", r"less than desired gpu memory utilization", r"not enough memory",
    r"(weights?|model) (do|does|did|will) ?n[o']?t fit", r"cannot fit", r"exceeds? (the )?(available |free |gpu |device )+memory",
    r"failed to allocate", r"unable to allocate", r"tried to allocate",
)  # fmt: skip
_MEMORY = re.compile("|".join(f"(?:{text})" for text in _TEXTS))
_OTHER_CAUSE = re.compile(
    r"\b(nccl|timed? ?out|timeout|unrecogni[sz]ed arguments?|invalid arguments?|not supported|unsupported)\b"
)
_SURE = re.compile(r"out of memory|outofmemory|\boom\b|tried to allocate")


def means_memory(failure: str) -> bool:
    """Whether a failure is one for want of GPU memory. Case, `_` and `-` do not matter. What names another cause (NCCL, a
    time-out, something unsupported) is one only where it says "out of memory" too."""
    text = re.sub(r"[\s_-]+", " ", failure.lower())
    if _OTHER_CAUSE.search(text) and not _SURE.search(text):
        return False
    return bool(_MEMORY.search(text))

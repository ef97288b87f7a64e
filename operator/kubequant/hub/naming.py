"""A repository's name against what it holds. Content counts; a name that says otherwise is worth a sentence. Pure.

A name is believed to speak of a format or of a number of bits where it has a word for it (-AWQ, -Int4, .w4a16, -FP8). Words that
are right in one of their meanings raise no alarm: llm-compressor's exports call their algorithm (AWQ, GPTQ), not their layout.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from kubequant.hub.documents import quoted
from kubequant.planning.values import StoredMethod, StoredQuantization

Check = Callable[[StoredQuantization], bool]

_ROUNDED = (StoredMethod.COMPRESSED_TENSORS,)
_FORMATS: Mapping[str, Check] = {
    "awq": lambda stored: stored.method in (StoredMethod.AWQ, *_ROUNDED) and stored.scheme == "W4A16",
    "gptq": lambda stored: stored.method in (StoredMethod.GPTQ, *_ROUNDED) and stored.scheme[0] == "W",
    "fp8": lambda stored: stored.scheme == "FP8",
    "nvfp4": lambda stored: stored.scheme == "NVFP4",
    "mxfp4": lambda stored: stored.scheme == "MXFP4",
    "fp4": lambda stored: stored.scheme in ("NVFP4", "MXFP4"),
    # What these call is refused before its name matters: a checkpoint that is served is none of them.
    **dict.fromkeys(("gguf", "bnb", "nf4", "exl2", "exl3", "hqq", "eetq", "aqlm", "mlx"), lambda stored: False),
}
_UNQUANTISED = ("bf16", "fp16")
_BITS = re.compile(r"(?<![a-z0-9])(?:int([2348])|([2348])[-_]?bits?|w([2348])a(?:4|8|16))(?![a-z0-9])")
_OF_THE_CACHE = re.compile(r"fp8[-_.]?kv|kv[-_.]?(?:cache[-_.]?)?fp8")
_WORD = re.compile(r"[a-z0-9]+")


def name_disagreement(repository: str, stored: StoredQuantization | None) -> str | None:
    """One sentence where the name contradicts the content, None where it is right or says nothing of it."""
    name = _OF_THE_CACHE.sub("", repository.rpartition("/")[2].lower())
    words = set(_WORD.findall(name))
    formats = [check for word, check in _FORMATS.items() if word in words]
    bits = {int(next(filter(None, found.groups()))) for found in _BITS.finditer(name)}
    if stored is None:
        wrong = bool(formats or bits) and not words.intersection(_UNQUANTISED)
    elif formats or bits:
        wrong = (bool(formats) and not any(check(stored) for check in formats)) or (
            bool(bits) and stored.bits not in bits
        )
    else:
        wrong = bool(words.intersection(_UNQUANTISED))
    return f"it is called {quoted(repository)}, but holds {_content(stored)}: content counts" if wrong else None


def _content(stored: StoredQuantization | None) -> str:
    if stored is None:
        return "weights that are not quantised"
    method = {StoredMethod.COMPRESSED_TENSORS: "compressed-tensors"}.get(stored.method, stored.method.value)
    scheme = "" if stored.scheme == method or stored.method in (StoredMethod.AWQ, StoredMethod.GPTQ) else stored.scheme
    return f"{' '.join(filter(None, (method, scheme)))} with {stored.bits} bits"

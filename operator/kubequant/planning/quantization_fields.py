"""Reading a quantisation's config and holding it against the headers: what the readers of all formats share."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from kubequant.api.conditions import Reason
from kubequant.errors import Refused
from kubequant.planning.values import TensorClass

Config = Mapping[str, Any]

GROUP_SIZES = (-1, 32, 64, 128)
"""What the Marlin kernels take; -1 is one scale per output channel."""

FP8_DTYPES = ("F8_E4M3", "F8_E4M3FN")
INSTEAD = "use a checkpoint in AWQ, GPTQ or compressed-tensors (W4A16, FP8), or the 16-bit original"
_MAX_IGNORED = 32
_MAX_NAME_CHARACTERS = 128
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)")


def parameter(tensor: TensorClass) -> str:
    return tensor.pattern.rpartition(".")[2]


def require(method: str, tensors: Sequence[TensorClass], *parameters: str) -> None:
    """Raises Refused with CorruptCheckpoint when no tensor is called so."""
    held = {parameter(tensor) for tensor in tensors}
    missing = [name for name in parameters if name not in held]
    if missing:
        raise corrupt(
            f"config.json says {method}, whose layers hold {', '.join(parameters)}, but no tensor is called "
            f"{missing[0]}: config and weights are not of one export"
        )


def require_dtype(method: str, tensors: Sequence[TensorClass], called: str, *dtypes: str) -> None:
    """Raises Refused with CorruptCheckpoint when no tensor of that name (or ending) is stored so."""
    if not any(parameter(tensor).endswith(called) and tensor.dtype in dtypes for tensor in tensors):
        raise corrupt(
            f"config.json says {method}, but no {called.strip('_')} is stored in {dtypes[0]}: config and weights are not "
            "of one export"
        )


def whole(declared: Config, *names: str) -> int:
    """The first of these fields that is there. Raises Refused with CorruptCheckpoint when it is no whole number."""
    value = next((declared[name] for name in names if name in declared), None)
    if type(value) is not int:
        raise corrupt(f"{names[0]} in quantization_config must be a whole number, not {value!r:.50}")
    return value


def flag(declared: Config, name: str) -> bool:
    """A field without which vLLM does not start. Raises Refused with CorruptCheckpoint when it is neither true nor false."""
    value = declared.get(name)
    if type(value) is not bool:
        raise corrupt(f"{name} in quantization_config must be true or false, not {value!r:.50}")
    return value


def group_size(declared: Config, method: str, *names: str) -> int:
    """Raises Refused for a size that no kernel takes."""
    size = whole(declared, *names)
    if size not in GROUP_SIZES:
        sizes = ", ".join(str(size) for size in GROUP_SIZES)
        raise unsupported(f"{method} with groups of {size} is not served, only {sizes}: {INSTEAD}")
    return size


def block(sides: object) -> tuple[int, int]:
    """The two sides of an FP8 weight block. Raises Refused for what is none."""
    if isinstance(sides, list) and len(sides) == 2 and all(type(side) is int and 0 < side <= 4096 for side in sides):
        return sides[0], sides[1]
    raise unsupported(f"FP8 weight blocks of {sides!r:.50} are not served: {INSTEAD}")


def names(value: object) -> tuple[str, ...]:
    """Layers left in 16 bit, as the config names them, their numbers starred: for people to read; bytes come from the headers."""
    if not isinstance(value, list):
        return ()
    starred = dict.fromkeys(_NUMBER.sub("*", str(name)[:_MAX_NAME_CHARACTERS]) for name in value)
    return tuple(starred)[:_MAX_IGNORED]


def unsupported(message: str) -> Refused:
    return Refused(Reason.UNSUPPORTED_QUANTIZATION, message)


def corrupt(message: str) -> Refused:
    return Refused(Reason.CORRUPT_CHECKPOINT, message)

"""What a safetensors file says of its tensors, and which tensors the known models have."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

MODELS = Path(__file__).parent / "models"

# In the order of the safetensors library, which writes the last of these first.
DTYPE_BYTES = {"U8": 1, "I8": 1, "F8_E4M3": 1, "F16": 2, "BF16": 2, "I32": 4, "F32": 4, "I64": 8}


@dataclass(frozen=True)
class Tensor:
    """A tensor as a header describes it: no values."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    linear: bool = False
    """Whether it is the weight of a linear module, [out_features, in_features]: what quantisers replace."""

    @property
    def size_bytes(self) -> int:
        return DTYPE_BYTES[self.dtype] * math.prod(self.shape)

    @property
    def module(self) -> str:
        """The name of the module that it belongs to: without its last part."""
        return self.name.rpartition(".")[0]

    def renamed(self, last_part: str, dtype: str, shape: tuple[int, ...]) -> Tensor:
        """A tensor of the same module under another name."""
        return Tensor(f"{self.module}.{last_part}", dtype, shape)


def total_bytes(tensors: list[Tensor]) -> int:
    """Bytes of all data; the headers not counted."""
    return sum(tensor.size_bytes for tensor in tensors)


def with_dtype(tensors: list[Tensor], dtype: str) -> list[Tensor]:
    """The same tensors, all in another dtype."""
    return [replace(tensor, dtype=dtype) for tensor in tensors]


def model_config(model: str) -> dict[str, Any]:
    """The `config.json` of a folder in `models`."""
    config: dict[str, Any] = json.loads((MODELS / model / "config.json").read_text())
    return config


def model_tensors(model: str) -> list[Tensor]:
    """All tensors of a base model in `models`, layer by layer, as its `tensors.json` lists them.

    The lists are made by `tests/engines/scripts/list_tensors.py` from the transformers classes. They lack what those
    classes do not load: Qwen3-Next's layer for multi-token prediction.
    """
    entries = json.loads((MODELS / model / "tensors.json").read_text())
    return [tensor for entry in entries for tensor in _expanded(entry)]


def _expanded(entry: dict[str, Any]) -> Iterator[Tensor]:
    """An entry stands for one tensor a layer and expert."""
    layers = [str(layer) for start, end in entry.get("layers", [[0, 1]]) for layer in range(start, end)]
    for layer in layers:
        for expert in range(entry.get("experts", 1)):
            name = entry["name"].replace("{layer}", layer).replace("{expert}", str(expert))
            yield Tensor(name, entry["dtype"], tuple(entry["shape"]), entry["linear"])

"""What the Hub derives from a commit: its tags, and how it descends from a base model."""

from __future__ import annotations

import json
import math
import struct
from collections import Counter
from typing import Any

from tests.fakehub.content import Content
from tests.fakehub.repository import Commit, Repository

_MAX_HEADER_BYTES = 25_000_000


def base_models(commit: Commit) -> list[str]:
    """The card's `base_model`, one or several."""
    named = commit.card.get("base_model") or []
    return [named] if isinstance(named, str) else list(named)


def relation(commit: Commit) -> str:
    """The card's `base_model_relation`, or what the Hub makes of the files and the config without one."""
    if "base_model_relation" in commit.card:
        return str(commit.card["base_model_relation"])
    if "adapter_config.json" in commit.files:
        return "adapter"
    if len(base_models(commit)) > 1:
        return "merge"
    gguf = any(path.endswith(".gguf") for path in commit.files)
    return "quantized" if gguf or "quantization_config" in commit.config else "finetune"


def tags(repository: Repository, commit: Commit | None) -> list[str]:
    """As far as a search for checkpoints uses them."""
    if commit is None:
        return []
    card, declared = commit.card, commit.config.get("quantization_config")
    found = [suffix for suffix in ("safetensors", "gguf") if any(path.endswith(f".{suffix}") for path in commit.files)]
    if isinstance(declared, dict) and isinstance(declared.get("quant_method"), str):
        found.append(declared["quant_method"])
    found += [tag for tag in card.get("tags", []) if tag not in found]
    if repository.relation_known:
        for base in base_models(commit):
            found += [f"base_model:{base}", f"base_model:{relation(commit)}:{base}"]
    return found + ([f"license:{card['license']}"] if "license" in card else [])


def parameters(commit: Commit) -> dict[str, Any] | None:
    """The Hub's count of a safetensors repository: the elements of each dtype, packed ones not unpacked."""
    counted: Counter[str] = Counter()
    for path, content in commit.files.items():
        if path.endswith(".safetensors"):
            for name, tensor in _header(content).items():
                if name != "__metadata__":
                    counted[tensor["dtype"]] += math.prod(tensor["shape"])
    return {"parameters": dict(counted), "total": counted.total()} if counted else None


def _header(content: Content) -> dict[str, Any]:
    """Empty where there is none that can be read."""
    try:
        (length,) = struct.unpack("<Q", content.read(0, 8))
        header = json.loads(content.read(8, length)) if length < min(content.size, _MAX_HEADER_BYTES) else {}
    except (struct.error, ValueError, RecursionError):
        return {}
    return header if isinstance(header, dict) else {}

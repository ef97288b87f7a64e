"""GPUs of nodes that only their cloud has labelled (data/cloud_labels.csv, with the source of each row)."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

# What else a cloud says beside the label that names the GPU: <domain>/...
_MEMORY = "instance-gpu-memory"  # MiB of one GPU
_COUNTS = ("instance-gpu-count", "gke-accelerator-count")
FRACTION_LABELS = ("cloud.google.com/gke-gpu-partition-size", "cloud.google.com/gke-gpu-sharing-strategy")
CLOUD_LABELS = (
    "cloud.google.com/gke-",
    "karpenter.k8s.aws/instance-gpu-",
    "eks.amazonaws.com/instance-gpu-",
    "k8s.amazonaws.com/accelerator",
    "node.kubernetes.io/instance-type",
)


@dataclass(frozen=True)
class CloudGpu:
    """What a cloud says of a node's GPUs. `memory_mib`, `count` None and `fraction` empty where it says nothing."""

    product: str
    selector: tuple[tuple[str, str], ...]
    memory_mib: str | None = None
    count: str | None = None
    fraction: str = ""  # the label that tells a slice or a shared GPU


@cache
def _rows() -> tuple[tuple[tuple[tuple[str, str], ...], str], ...]:
    """Labels and the product that they mean. More labels go first: they say more."""
    with files("kubequant.planning").joinpath("data/cloud_labels.csv").open(encoding="utf-8") as lines:
        rows = [(_pairs(row["labels"]), row["product"]) for row in csv.DictReader(lines)]
    return tuple(sorted(rows, key=lambda row: -len(row[0])))


def _pairs(text: str) -> tuple[tuple[str, str], ...]:
    pairs = [pair.partition("=") for pair in text.split()]
    return tuple((key, value) for key, _, value in pairs)


def cloud_gpu(labels: Mapping[str, str]) -> CloudGpu | None:
    """What the cloud's labels say, None where the table does not know them. Pods select by the very values that the node has."""
    for pairs, product in _rows():
        if all(_matches(labels.get(key), value) for key, value in pairs):
            domain = pairs[0][0].partition("/")[0]
            said = {name: labels.get(f"{domain}/{name}") for name in (_MEMORY, *_COUNTS)}
            keys = {key for key, _ in pairs} | ({f"{domain}/{_MEMORY}"} if said[_MEMORY] else set())
            return CloudGpu(
                product=product,
                selector=tuple((key, labels[key]) for key in sorted(keys)),
                memory_mib=said[_MEMORY],
                count=next((said[name] for name in _COUNTS if said[name]), None),
                fraction=next((label for label in FRACTION_LABELS if label in labels), ""),
            )
    return None


def _matches(value: str | None, pattern: str) -> bool:
    """A pattern may end in a star."""
    if value is None:
        return False
    return value.startswith(pattern[:-1]) if pattern.endswith("*") else value == pattern

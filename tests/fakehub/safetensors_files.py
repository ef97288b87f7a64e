"""Safetensors files made from descriptions alone: true headers, zeros for data."""

from __future__ import annotations

import json
import struct

from tests.fakehub.content import BytesContent, Content, SparseContent
from tests.fakehub.tensors import DTYPE_BYTES, Tensor, total_bytes

SHARD_LIMIT_BYTES = 5_000_000_000  # what transformers' and AutoAWQ's savers use
_ALIGNMENT = 8
_DTYPE_RANK = {dtype: rank for rank, dtype in enumerate(DTYPE_BYTES)}


def checkpoint_files(tensors: list[Tensor], shard_limit_bytes: int = SHARD_LIMIT_BYTES) -> dict[str, Content]:
    """`model.safetensors`, or its shards and `model.safetensors.index.json`, named as on the Hub."""
    shards = split_into_shards(tensors, shard_limit_bytes)
    if len(shards) == 1:
        return {"model.safetensors": safetensors_file(shards[0])}
    names = [f"model-{number:05}-of-{len(shards):05}.safetensors" for number in range(1, len(shards) + 1)]
    files: dict[str, Content] = {name: safetensors_file(shard) for name, shard in zip(names, shards, strict=True)}
    files["model.safetensors.index.json"] = _index(dict(zip(names, shards, strict=True)))
    return files


def split_into_shards(tensors: list[Tensor], limit_bytes: int) -> list[list[Tensor]]:
    """Greedy and in order, as huggingface_hub splits: a shard ends before the tensor that would not fit any more."""
    shards: list[list[Tensor]] = [[]]
    size = 0
    for tensor in tensors:
        if shards[-1] and size + tensor.size_bytes > limit_bytes:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.size_bytes
    return shards


def safetensors_file(tensors: list[Tensor]) -> SparseContent:
    """One file: its length prefix, its header, and zeros."""
    return SparseContent(head=header(tensors), size=len(header(tensors)) + total_bytes(tensors))


def header(tensors: list[Tensor]) -> bytes:
    """Length prefix and JSON, in the order and with the padding of the safetensors library."""
    described: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in sorted(tensors, key=lambda tensor: (-_DTYPE_RANK[tensor.dtype], tensor.name)):
        end = offset + tensor.size_bytes
        described[tensor.name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(described, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return struct.pack("<Q", len(text)) + text


def _index(shards: dict[str, list[Tensor]]) -> BytesContent:
    weight_map = {tensor.name: name for name, tensors in shards.items() for tensor in tensors}
    total = sum(total_bytes(tensors) for tensors in shards.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    return BytesContent(json.dumps(index, indent=2).encode())

"""Which files of a repository a pod downloads. The download step in the pod applies the same two lists."""

from __future__ import annotations

from collections.abc import Iterable

from huggingface_hub.utils import filter_repo_objects

ALLOW_PATTERNS = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "tokenizer*")
# `original/` is Meta's own layout and `consolidated*` Mistral's: a second copy of the same weights, which vLLM does not
# load beside the transformers layout. `*.py` is never executed, so it is not fetched.
IGNORE_PATTERNS = ("original/*", "*.py", "consolidated*.safetensors")


def downloaded(names: Iterable[str]) -> list[str]:
    """The names that a pod fetches, in their order. `*` crosses folders, as in `snapshot_download`."""
    return list(filter_repo_objects(names, allow_patterns=list(ALLOW_PATTERNS), ignore_patterns=list(IGNORE_PATTERNS)))

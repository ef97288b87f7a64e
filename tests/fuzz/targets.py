"""The targets by name, and the corpus of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from tests.fuzz import fuzz_documents, fuzz_facts, fuzz_header

CORPUS = Path(__file__).with_name("corpus")
TARGETS: Mapping[str, Callable[[bytes], None]] = {
    "header": fuzz_header.fuzz,
    "documents": fuzz_documents.fuzz,
    "facts": fuzz_facts.fuzz,
}


def corpus(target: str) -> list[Path]:
    return sorted(path for path in (CORPUS / target).iterdir() if path.is_file())

"""The files of a base model and of a candidate, fetched where their digests differ, and what `likeness` and `tokenizers` say of them.

Nothing is fetched for two files that the hub gives one digest, and each file of the base once for all candidates.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from kubequant.errors import Refused
from kubequant.hub import likeness, tokenizers
from kubequant.hub.description import MAX_DOCUMENT_BYTES
from kubequant.hub.documents import parse_object
from kubequant.hub.repository import CHAT_TEMPLATE, CONFIG, TOKENIZER_CONFIG, Listing
from kubequant.hub.requests import Requests

MAX_TOKENIZER_BYTES = 60_000_000  # Gemma's tokenizer.json has 33 MB

TOKENIZER = "tokenizer.json"
GENERATION_CONFIG = "generation_config.json"
LEGACY_TEMPLATE = "chat_template.json"
_OTHER_TOKENIZERS = ("tokenizer.model", "tekken.json", "vocab.json", "merges.txt", "vocab.txt", "spiece.model")
_TEMPLATES = (TOKENIZER_CONFIG, CHAT_TEMPLATE, LEGACY_TEMPLATE)

Read = TypeVar("Read")


class NotComparableError(Exception):
    """The base model lacks a file that a comparison needs, or it cannot be read. The text says so, in a sentence."""


class Files:
    """The files of a listing. Of a base that cannot be read they raise NotComparableError."""

    def __init__(self, requests: Requests, listing: Listing, *, of_base: bool = False) -> None:
        self.listing = listing
        self._requests = requests
        self._of_base = of_base

    def has(self, name: str) -> bool:
        return name in self.listing.files

    async def read(self, name: str, read: Callable[[bytes], Read], limit: int = MAX_DOCUMENT_BYTES) -> Read:
        """What `read` makes of a file's bytes. Raises Refused where there is no such file or `read` cannot use it."""
        try:
            return await self._requests.file(self.listing, name, read, limit)
        except Refused as refused:
            if self._of_base:
                raise NotComparableError(f"the operator cannot read its {name}. {refused.message}") from refused
            raise

    async def document(self, name: str) -> Mapping[str, Any]:
        """A JSON object; empty where there is no such file. Raises Refused."""
        return await self.read(name, parse_object) if self.has(name) else {}

    async def digest(self, name: str) -> str:
        """As the hub says it, or that of the bytes where it says none."""
        return self.listing.digests.get(name) or await self.content_digest(name)

    async def content_digest(self, name: str) -> str:
        return await self.read(name, _sha256, MAX_TOKENIZER_BYTES)


async def are_same(base: Files, candidate: Files, name: str) -> bool:
    """Whether both have the file with the same bytes, or neither has it. Raises Refused."""
    if not (base.has(name) and candidate.has(name)):
        return base.has(name) == candidate.has(name)
    ours, theirs = await base.digest(name), await candidate.digest(name)
    if _kind(ours) == _kind(theirs):
        return ours == theirs
    return await base.content_digest(name) == await candidate.content_digest(name)  # one is in LFS, the other in git


async def config_differences(base: Files, candidate: Files) -> list[str]:
    """What of the settings in config.json differs. Raises Refused."""
    return likeness.config_differences(await base.document(CONFIG), await candidate.document(CONFIG))


async def tokenizer_differences(base: Files, candidate: Files) -> list[str]:
    """What of the tokenizers differs. Raises Refused and NotComparableError."""
    if base.has(TOKENIZER) and candidate.has(TOKENIZER):
        found = [] if await are_same(base, candidate, TOKENIZER) else await _print_differences(base, candidate)
    else:
        found = await _file_differences(base, candidate)
    if not found and not await are_same(base, candidate, TOKENIZER_CONFIG):
        found = tokenizers.setting_differences(
            await base.document(TOKENIZER_CONFIG), await candidate.document(TOKENIZER_CONFIG)
        )
    return found or await _token_differences(base, candidate)


async def chat_template_difference(base: Files, candidate: Files) -> str:
    """How the chat templates differ, "" where they do not. Raises Refused."""
    if all([await are_same(base, candidate, name) for name in _TEMPLATES]):
        return ""
    ours, theirs = await _templates(base), await _templates(candidate)
    if ours == theirs:
        return ""
    if not theirs:
        return f"it has no chat template, of the base it has {_characters(ours):,} characters"
    if not ours:
        return f"it has a chat template of {_characters(theirs):,} characters, the base has none"
    return (
        f"its chat template ({_characters(theirs):,} characters) is not the base's ({_characters(ours):,} characters): "
        f"{tokenizers.template_difference(ours, theirs)}"
    )


async def _print_differences(base: Files, candidate: Files) -> list[str]:
    ours = await base.read(TOKENIZER, _print, MAX_TOKENIZER_BYTES)
    return await candidate.read(TOKENIZER, _Against(base.listing.commit, ours), MAX_TOKENIZER_BYTES)


async def _file_differences(base: Files, candidate: Files) -> list[str]:
    shared = [name for name in _OTHER_TOKENIZERS if base.has(name) and candidate.has(name)]
    if not any(map(base.has, (TOKENIZER, *_OTHER_TOKENIZERS))):
        raise NotComparableError("that has no tokenizer itself.")
    if not shared:
        theirs = [name for name in (TOKENIZER, *_OTHER_TOKENIZERS) if candidate.has(name)]
        return [f"it has {theirs[0]}, which the base has not" if theirs else "it has no tokenizer"]
    return [f"its {name} is another file" for name in shared if not await are_same(base, candidate, name)]


async def _token_differences(base: Files, candidate: Files) -> list[str]:
    ours, theirs = await base.document(CONFIG), await candidate.document(CONFIG)
    our_generation = their_generation = await base.document(GENERATION_CONFIG)
    if not await are_same(base, candidate, GENERATION_CONFIG):
        their_generation = await candidate.document(GENERATION_CONFIG)
    return likeness.token_differences(ours, theirs, our_generation, their_generation)


async def _templates(files: Files) -> Mapping[str, str]:
    jinja = await files.read(CHAT_TEMPLATE, _text) if files.has(CHAT_TEMPLATE) else None
    return tokenizers.chat_template_of(
        await files.document(TOKENIZER_CONFIG), jinja, await files.document(LEGACY_TEMPLATE)
    )


def _text(data: bytes) -> str:
    return data.decode(errors="replace")


def _sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _print(data: bytes) -> tokenizers.TokenizerPrint:
    return tokenizers.print_of(parse_object(data))


@dataclass(frozen=True)
class _Against:
    """What of a tokenizer.json differs from the base's at its commit: one question however often it is put."""

    base_commit: str
    base: tokenizers.TokenizerPrint = field(compare=False)

    def __call__(self, data: bytes) -> list[str]:
        return self.base.differences(parse_object(data))


def _characters(templates: Mapping[str, str]) -> int:
    return sum(map(len, templates.values()))


def _kind(digest: str) -> str:
    return digest.partition(":")[0]

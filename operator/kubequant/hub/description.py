"""The requests of one description, in order: information, config.json, headers, tokenizer. All at one commit.

The functions here are the shell around `repository`, `documents` and `shards`: they fetch, and hand over to the pure.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from kubequant.api.conditions import Reason
from kubequant.errors import Refused
from kubequant.hub.documents import (
    InvalidDocumentError,
    base_of_adapter,
    has_chat_template,
    max_new_tokens,
    parse_object,
    quantization_config,
    quoted,
    with_unique_names,
)
from kubequant.hub.failures import Question, not_a_hub, renamed, translated
from kubequant.hub.naming import name_disagreement
from kubequant.hub.repository import (
    ADAPTER_CONFIG,
    CHAT_TEMPLATE,
    CONFIG,
    GENERATION_CONFIG,
    INDEX,
    MODELOPT_CONFIG,
    TOKENIZER_CONFIG,
    Listing,
    candidate_weights,
    indexed_weights,
    listing_of,
    unindexed_weights,
)
from kubequant.hub.scans import unsafe_note
from kubequant.hub.shards import CorruptShardError, read_header
from kubequant.hub.tensors import ClassSums, ShardIndex
from kubequant.hub.transport import FileTooLargeError, Piece, Transport
from kubequant.planning.architectures import shape_of
from kubequant.planning.quantization import kv_scales_note, refuse_unserved, stored_quantization
from kubequant.planning.tensors import classes_of
from kubequant.planning.values import ModelFacts, TensorClass

REQUESTS_AT_ONCE = 16  # of one description: half of the process's
MAX_DOCUMENT_BYTES = 10_000_000  # config.json is a few kB, tokenizer_config.json up to one MB
MAX_GENERATION_CONFIG_BYTES = 1_000_000
SMALL_BYTES = 1_000_000  # larger documents are parsed one at a time
MAX_INDEX_BYTES = 25_000_000  # 90,000 tensors take 9 MB

_COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
Answer = TypeVar("Answer")


class Source(Protocol):
    """Where the bytes of a listing's files come from."""

    def read_file(self, repository: str, commit: str, name: str, limit: int) -> bytes: ...

    def read_range(self, repository: str, commit: str, name: str, start: int, end: int) -> Piece: ...


class InThread(Protocol):
    """Runs blocking work elsewhere."""

    async def __call__(self, work: Callable[[], Answer]) -> Answer: ...


async def resolve(in_thread: InThread, transport: Transport, question: Question) -> Listing:
    """The commit that the revision names now, and its files. Raises Refused, also for a repository that was renamed."""
    with translated(question):
        info = await in_thread(lambda: transport.model_info(question.repository, question.revision))
    if info.id != question.repository:
        raise renamed(question, info.id)
    listing = listing_of(info, question.page)
    if not _COMMIT.fullmatch(listing.commit):
        raise not_a_hub(question, f"it names no commit of {question.repository} to pin (sha {quoted(info.sha)})")
    return listing


async def describe_at(
    in_thread: InThread,
    source: Source,
    question: Question,
    listing: Listing,
    large: AbstractContextManager[object],
    *,
    data_required: bool = True,
) -> ModelFacts:
    """The facts of a listing's commit. Threads enter `large` to parse what takes much memory.

    Without `data_required`, weight files may end anywhere after their headers. Raises Refused.
    """
    files = _Files(in_thread, source, replace(question, gated=listing.gated), listing, large, data_required)
    weights = candidate_weights(await _with_adapter_base(files))
    config = await _config(files)
    shape = shape_of(config)
    with _naming_the_base(listing):
        refuse_unserved(config)
    reading = asyncio.ensure_future(_tensors(files, weights, shape.num_hidden_layers))
    answering = asyncio.ensure_future(_answer_limit(files))
    templated = asyncio.ensure_future(_has_chat_template(files))
    try:
        results = await asyncio.gather(reading, answering, templated)
    finally:
        for task in (reading, answering, templated):
            task.cancel()
        await asyncio.gather(reading, answering, templated, return_exceptions=True)
    tensors, (answer_tokens, answer_note), has_template = results
    if shape.upper_bound:
        shape = shape_of(config, tensors=tensors)  # what the headers hold bounds it closer than the config alone
    with _naming_the_base(listing):
        stored = stored_quantization(config, tensors)
    notes = (
        unsafe_note(listing.scan),
        name_disagreement(listing.repository, stored),
        kv_scales_note(stored, tensors),
        answer_note,
    )
    return ModelFacts(
        repository=listing.repository,
        commit=listing.commit,
        shape=shape,
        tensors=tensors,
        stored=stored,
        download_bytes=listing.download_bytes,
        has_chat_template=has_template,
        base=listing.base_models[0] if stored and listing.base_models else "",
        checksums=listing.checksums,
        max_new_tokens=answer_tokens,
        notes=tuple(filter(None, notes)),
    )


@contextmanager
def _naming_the_base(listing: Listing) -> Iterator[None]:
    """Refusals of a quantised checkpoint say which repository, and which base to take instead where that is known."""
    try:
        yield
    except Refused as refused:
        served = refused.reason is not Reason.UNSUPPORTED_QUANTIZATION
        base = f". Its base is {listing.base_named('')}" if listing.base_models and not served else ""
        raise listing.refused(Reason(refused.reason), f"{refused.message}{base} ({listing.page}).") from None


class _Files:
    """The files of one listing, as the functions below want them."""

    def __init__(
        self,
        in_thread: InThread,
        source: Source,
        question: Question,
        listing: Listing,
        large: AbstractContextManager[object],
        data_required: bool,
    ) -> None:
        self.listing = listing
        self._large = large
        self._in_thread = in_thread
        self._source = source
        self._question = question
        self._data_required = data_required

    async def document(self, name: str, limit: int = MAX_DOCUMENT_BYTES) -> dict[str, Any]:
        """A JSON object. Raises Refused where it is none, or larger than `limit` bytes."""
        repository, commit = self.listing.repository, self.listing.commit
        size = self.listing.files[name]
        turn = nullcontext() if size is not None and size <= SMALL_BYTES else self._large

        def read() -> dict[str, Any]:
            with turn:
                unique = with_unique_names if name == INDEX else None  # a tensor in two files is in neither
                return parse_object(self._source.read_file(repository, commit, name, limit), unique)

        try:
            with translated(self._question):
                return await self._in_thread(read)
        except (InvalidDocumentError, FileTooLargeError) as error:
            raise self.listing.refused(
                Reason.CONFIG_INVALID,
                f"{name} cannot be used: {error}. Upload a sound one, or name another revision ({self.listing.page}).",
            ) from None

    async def classes_of_shard(self, name: str, index: ShardIndex, layers: int) -> tuple[TensorClass, ...]:
        """The tensor classes of one safetensors file of a model with so many decoder layers. Raises Refused where its header is not sound."""
        repository, commit = self.listing.repository, self.listing.commit

        def read_range(start: int, end: int) -> Piece:
            return self._source.read_range(repository, commit, name, start, end)

        def read() -> tuple[TensorClass, ...]:
            header = read_header(read_range, self._large, data_required=self._data_required)
            loaded = index.loaded_from(name, header).items()
            return classes_of(((name, one.dtype, one.shape, one.bytes) for name, one in loaded), layers)

        try:
            with translated(self._question):
                return await self._in_thread(read)
        except CorruptShardError as error:
            raise self.listing.refused(
                Reason.CORRUPT_CHECKPOINT,
                f"{quoted(name)} is corrupt or its upload is incomplete: {error}. Upload it again, or name another "
                f"revision ({self.listing.page}).",
            ) from None


async def _with_adapter_base(files: _Files) -> Listing:
    """The listing; of an adapter whose card names no base, with the base that its config names."""
    listing = files.listing
    if listing.base_models or CONFIG in listing.files or ADAPTER_CONFIG not in listing.files:
        return listing
    base = base_of_adapter(await files.document(ADAPTER_CONFIG))
    return replace(listing, base_models=(base,)) if base else listing


async def _config(files: _Files) -> Mapping[str, Any]:
    """config.json, with the quantisation that a companion file states where it states none itself."""
    config = await files.document(CONFIG)
    if config.get("quantization_config") or config.get("compression_config"):
        return config
    if MODELOPT_CONFIG in files.listing.files:
        return config | {"quantization_config": quantization_config(await files.document(MODELOPT_CONFIG))}
    return config


async def _tensors(files: _Files, weights: list[str], layers: int) -> tuple[TensorClass, ...]:
    """The classes of all tensors that vLLM would load."""
    if INDEX in files.listing.files:
        index = ShardIndex(indexed_weights(files.listing, await files.document(INDEX, MAX_INDEX_BYTES)))
        weights = index.shards
    else:
        index = ShardIndex({})
        weights = unindexed_weights(files.listing, weights)
    sums, slots = ClassSums(files.listing), asyncio.Semaphore(REQUESTS_AT_ONCE)

    async def add(shard: str) -> None:
        async with slots:
            sums.add(await files.classes_of_shard(shard, index, layers))

    await _all_or_first_failure([asyncio.ensure_future(add(shard)) for shard in weights])
    classes = sums.classes()
    if not any(one.bytes for one in classes):
        raise files.listing.refused(
            Reason.CORRUPT_CHECKPOINT,
            f"its safetensors files ({len(weights)}, first {quoted(weights[0])}) hold not one byte of weights. Save "
            f"the model into them again, or name another revision ({files.listing.page}).",
        )
    return classes


async def _all_or_first_failure(tasks: list[asyncio.Task[None]]) -> None:
    """Like a TaskGroup, but raises the failure itself rather than a group of one."""
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


async def _has_chat_template(files: _Files) -> bool:
    names = files.listing.files
    if CHAT_TEMPLATE in names or files.listing.names_chat_template:
        return True
    return TOKENIZER_CONFIG in names and has_chat_template(await files.document(TOKENIZER_CONFIG))


async def _answer_limit(files: _Files) -> tuple[int | None, str | None]:
    """Tokens after which vLLM ends an answer by default, and a sentence on it. A broken file decides nothing, as in vLLM."""
    if GENERATION_CONFIG not in files.listing.files:
        return None, None
    try:
        limit = max_new_tokens(await files.document(GENERATION_CONFIG, MAX_GENERATION_CONFIG_BYTES))
    except InvalidDocumentError as error:
        return None, f"{GENERATION_CONFIG} is ignored: {error}"
    except Refused as refused:
        if refused.reason is not Reason.CONFIG_INVALID:
            raise
        return None, f"{GENERATION_CONFIG} is ignored: it cannot be read"
    if limit is None:
        return None, None
    return limit, f"{GENERATION_CONFIG} ends an answer after {limit:,} tokens where a request sets no max_tokens"

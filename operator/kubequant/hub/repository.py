"""Which files of a repository are the weights that vLLM would load, or why there are none. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from huggingface_hub import ModelInfo

from kubequant.api.conditions import Reason
from kubequant.errors import Refused
from kubequant.hub.checksums import checksum_of, digest_of
from kubequant.hub.documents import quoted
from kubequant.hub.patterns import downloaded
from kubequant.hub.scans import Scan, scan_of

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
ADAPTER_CONFIG = "adapter_config.json"
MODELOPT_CONFIG = "hf_quant_config.json"  # the one companion in which vLLM looks for what config.json does not say
GENERATION_CONFIG = "generation_config.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
CHAT_TEMPLATE = "chat_template.jinja"
MAX_SHARDS = 2_000  # the largest public checkpoints have a few hundred

_PICKLE = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_SHARD = re.compile(r"\w[^/\\%?#\x00-\x1f\x7f]{0,250}\.safetensors")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,96}(/[A-Za-z0-9._-]{1,96})?")
_NUMBERED = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<total>\d{5})\.safetensors")


@dataclass(frozen=True)
class Listing:
    """One repository at one commit: its files with their sizes in bytes (None where the hub names none).

    `digests` are those of hub.checksums by file name; a folder on a disk has none.
    """

    repository: str
    commit: str
    page: str  # where a person looks at it
    files: Mapping[str, int | None]
    base_models: tuple[str, ...] = ()
    gated: bool = False
    private: bool = False
    digests: Mapping[str, str] = field(default_factory=dict)
    scan: Scan = field(default_factory=Scan)
    names_chat_template: bool = False  # the hub repeats the tokenizer's, which saves a request

    def refused(self, reason: Reason, message: str) -> Refused:
        return Refused(reason, f"{self.repository} at {self.commit[:12]}: {message}")

    @property
    def download_bytes(self) -> int:
        """Every file that a pod fetches. A file whose size the hub does not name counts nothing."""
        return sum(self.files[name] or 0 for name in downloaded(self.files))

    @property
    def checksums(self) -> str:
        """hub.checksums over every file that a pod fetches."""
        return checksum_of({name: self.digests.get(name, "") for name in downloaded(self.files)})

    def base_named(self, otherwise: str) -> str:
        return quoted(self.base_models[0]) if self.base_models else otherwise


def listing_of(info: ModelInfo, page: str) -> Listing:
    """What the hub's answer says that is used later."""
    return Listing(
        repository=info.id,
        commit=info.sha or "",
        page=page,
        files={sibling.rfilename: sibling.size for sibling in info.siblings or ()},
        base_models=tuple(_base_models(info)),
        gated=bool(info.gated),
        private=bool(info.private),
        digests={one.rfilename: digest_of(one.lfs and one.lfs.sha256, one.blob_id) for one in info.siblings or ()},
        scan=scan_of(info),
        names_chat_template=_names_chat_template(info.config),
    )


def _names_chat_template(config: object) -> bool:
    """As the hub has it of the tokenizer_config.json that is in the list of files."""
    tokenizer = config.get("tokenizer_config") if isinstance(config, dict) else None
    return isinstance(tokenizer, dict) and bool(tokenizer.get("chat_template"))


def _base_models(info: ModelInfo) -> Iterable[str]:
    """The card's `base_model`, then the hub's tags `base_model:a/b` and `base_model:quantized:a/b`. Messages and status repeat
    them: what could be no repository's name is left out."""
    card = getattr(info.card_data, "base_model", None)
    tags = info.tags if isinstance(info.tags, list) else []
    named = [*(card if isinstance(card, list) else [card]), *(_base_of_tag(tag) for tag in tags)]
    yield from (name for name in named if isinstance(name, str) and _NAME.fullmatch(name))


def _base_of_tag(tag: object) -> str | None:
    return tag.rpartition(":")[2] if isinstance(tag, str) and tag.startswith("base_model:") else None


def candidate_weights(listing: Listing) -> list[str]:
    """The safetensors files that vLLM would look at, at the top of the repository. Raises Refused where there are none."""
    weights = sorted(
        name
        for name in downloaded(listing.files)
        if name.endswith(".safetensors") and "/" not in name and not name.startswith("adapter_")
    )
    _refuse_odd_names(listing)
    if not weights:
        raise _without_weights(listing)
    if CONFIG not in listing.files:
        raise listing.refused(
            Reason.CONFIG_MISSING,
            f"there is no {CONFIG} beside its safetensors files ({len(weights)}), so its architecture is unknown. "
            f"Name a repository in the transformers layout, or add the file ({listing.page}).",
        )
    return weights


def _refuse_odd_names(listing: Listing) -> None:
    """Pods write files under these names: none leads out of the folder, and none cannot be shown."""
    for name in downloaded(listing.files):
        if not name.isprintable() or "\\" in name or any(part in ("", ".", "..") for part in name.split("/")):
            raise listing.refused(
                Reason.CORRUPT_CHECKPOINT,
                f"it has a file called {quoted(name)}, which cannot be written beside the others. Rename or remove it "
                f"({listing.page}).",
            )


def _without_weights(listing: Listing) -> Refused:
    names = list(listing.files)
    gguf = sum(name.endswith(".gguf") for name in names)
    pickles = sum(name.endswith(_PICKLE) for name in names)
    if ADAPTER_CONFIG in listing.files:
        base = listing.base_named("its base model")
        return listing.refused(
            Reason.ADAPTER_ONLY,
            f"it is a PEFT adapter, not a whole model. Merge it first (load {base} with the adapter, `merge_and_unload()`, "
            f"save, upload), then name the merged repository.",
        )
    if gguf:
        base = listing.base_named("the model it was made from")
        return listing.refused(
            Reason.GGUF_ONLY,
            f"its weights are GGUF files ({gguf}), llama.cpp's format, and it has no safetensors. Name {base} instead, "
            f"or a safetensors checkpoint of it ({listing.page}).",
        )
    if any(name.startswith("consolidated") and name.endswith(".safetensors") for name in names):
        return listing.refused(
            Reason.NO_SAFETENSORS,
            "its weights are in Mistral's own layout only (consolidated*.safetensors). Name a repository in the "
            f"transformers layout ({listing.page}).",
        )
    if pickles:
        return listing.refused(
            Reason.NO_SAFETENSORS,
            f"its weights are pickle files ({pickles} of .bin, .pt), which can run code when they are loaded and are never "
            f"read here. Convert them to safetensors, or name a revision or repository that has them ({listing.page}).",
        )
    return listing.refused(
        Reason.NO_SAFETENSORS,
        f"there are no weights at the top of the repository ({len(names)} files). "
        f"Name a repository that has *.safetensors files ({listing.page}).",
    )


def indexed_weights(listing: Listing, index: Mapping[str, Any]) -> dict[str, str]:
    """The index's map from tensor to file, checked: every file that it names is there. Raises Refused."""
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(v, str) for v in weight_map.values()):
        raise listing.refused(Reason.CORRUPT_CHECKPOINT, f"{INDEX} has no weight_map. Upload the checkpoint again.")
    shards = set(weight_map.values())
    if odd := sorted(name for name in shards if not _SHARD.fullmatch(name)):
        raise listing.refused(
            Reason.CORRUPT_CHECKPOINT,
            f"{INDEX} names {quoted(odd[0])}, which is no safetensors file beside it. Upload the checkpoint again.",
        )
    _refuse_missing(listing, shards, f"{INDEX} names {len(shards)} files")
    return weight_map


def unindexed_weights(listing: Listing, weights: list[str]) -> list[str]:
    """Without an index vLLM loads every file; a numbered set must be whole. Raises Refused."""
    for match in filter(None, map(_NUMBERED.fullmatch, weights)):
        total = int(match["total"])
        if total > MAX_SHARDS:
            raise _too_many(listing, total)
        due = {f"{match['stem']}-{number:05d}-of-{match['total']}.safetensors" for number in range(1, total + 1)}
        _refuse_missing(listing, due, f"its file names promise {total} shards")
    return weights


def _refuse_missing(listing: Listing, due: set[str], promise: str) -> None:
    if len(due) > MAX_SHARDS:
        raise _too_many(listing, len(due))
    if missing := sorted(due.difference(downloaded(listing.files))):
        raise listing.refused(
            Reason.CORRUPT_CHECKPOINT,
            f"{promise}, but not all are there: {len(missing)} missing, first {quoted(missing[0])}. "
            f"Wait until its upload is complete, or name a revision that is ({listing.page}).",
        )


def _too_many(listing: Listing, shards: int) -> Refused:
    return listing.refused(
        Reason.CORRUPT_CHECKPOINT, f"it has {shards:,} weight files; at most {MAX_SHARDS:,} are read. Merge them."
    )

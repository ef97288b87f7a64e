"""Whose checkpoints are believed, and why a candidate is not. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

TRUSTED_PUBLISHERS = ("RedHatAI", "neuralmagic", "nvidia", "Qwen", "hugging-quants", "casperhansen")
"""The most trusted first; the base model's own organisation comes before them. Vendors, and those whose checkpoints the field serves."""


class Rejection(StrEnum):
    """Why discovery did not take a candidate: one CamelCase word each, in docs/checkpoints.md with what to do.

    A candidate that cannot be described carries the word of api.conditions.Reason that describing it would carry.
    """

    # By the hub's list of candidates alone, in this order
    DISABLED = "Disabled"  # the hub serves it no more
    OTHER_FORMAT = "OtherFormat"  # only MLX, ONNX, EXL2, OpenVINO, ... : made for another engine
    NEEDS_CODE = "NeedsCode"  # *.py files or an auto_map: code of the repository would have to run
    OTHER_MODEL = (
        "OtherModel"  # it says that it is a fine-tune or a merge of the base, or neither words nor name say what
    )
    LICENCE_WIDER = "LicenceWider"  # it permits what the base model's licence does not
    NOT_TRUSTED = "NotTrusted"  # its publisher is not on the list
    TOO_MANY = "TooMany"  # trusted, but others came before it, and so many are read at most

    # By its files
    MARKED_UNSAFE = "MarkedUnsafe"  # by the hub's own scan
    NOT_QUANTIZED = "NotQuantized"
    SHAPE_DIFFERS = (
        "ShapeDiffers"  # another architecture, other sizes, or a setting that changes what the model computes
    )
    TOKENIZER_DIFFERS = "TokenizerDiffers"
    CHAT_TEMPLATE_DIFFERS = "ChatTemplateDiffers"
    NOT_COMPARABLE = "NotComparable"  # the base model's own files cannot be read here (gated), or it has no tokenizer
    COULD_NOT_BE_READ = "CouldNotBeRead"  # the hub failed for this one candidate

    # The words of Reason that a candidate may carry as well; GGUF, pickles and gates are seen in the list already
    GGUF_ONLY = "GgufOnly"
    NO_SAFETENSORS = "NoSafetensors"
    ADAPTER_ONLY = "AdapterOnly"
    ACCESS_GATED = "AccessGated"
    UNSUPPORTED_QUANTIZATION = "UnsupportedQuantization"
    UNSUPPORTED_ARCHITECTURE = "UnsupportedArchitecture"
    CONFIG_MISSING = "ConfigMissing"
    CONFIG_INVALID = "ConfigInvalid"
    CORRUPT_CHECKPOINT = "CorruptCheckpoint"
    REPOSITORY_NOT_FOUND = "RepositoryNotFound"  # gone since it was listed
    REPOSITORY_RENAMED = "RepositoryRenamed"
    REPOSITORY_CHANGED = "RepositoryChanged"
    REVISION_NOT_FOUND = "RevisionNotFound"
    TOKEN_INVALID = "TokenInvalid"  # noqa: S105 - a reason, not a token


def owner_of(repository: str) -> str:
    """The organisation or user whose repository it is."""
    return repository.partition("/")[0]


def tier_of(publisher: str, base: str, publishers: Sequence[str]) -> int | None:
    """How trusted a publisher is for a base repository, 0 the most; None: not at all.

    The base's own organisation, then the list in its order. Names are compared as the hub writes them, letter by letter.
    """
    order = (owner_of(base), *publishers)
    return order.index(publisher) if publisher in order else None


def resembled(publisher: str, base: str, publishers: Sequence[str]) -> str | None:
    """The trusted publisher for whom an untrusted one could be taken at a glance: RedHatA1 for RedHatAI."""
    skeleton = _skeleton(publisher)
    return next((name for name in (owner_of(base), *publishers) if _skeleton(name) == skeleton), None)


_LOOK_ALIKE = str.maketrans({"0": "o", "1": "l", "i": "l", "5": "s", "-": None, "_": None, ".": None})


def _skeleton(name: str) -> str:
    return name.lower().translate(_LOOK_ALIKE).replace("rn", "m").replace("vv", "w")

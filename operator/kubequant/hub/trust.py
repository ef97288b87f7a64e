"""Whose checkpoints are believed, and why a candidate is not. Pure."""

from __future__ import annotations

from enum import StrEnum

TRUSTED_PUBLISHERS = ("RedHatAI", "neuralmagic", "nvidia", "Qwen", "hugging-quants", "casperhansen")
"""The most trusted first; the base model's own organisation comes before them. Vendors, and those whose checkpoints the field serves."""


class Rejection(StrEnum):
    """Why discovery did not take a candidate: one CamelCase word each, in docs/checkpoints.md with what to do."""

    NOT_TRUSTED = "NotTrusted"

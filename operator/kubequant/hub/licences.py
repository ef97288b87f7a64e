"""Licences as the hub's cards state them, ranked by how much they permit. Pure, and no legal advice.

    unconditional   public domain and the like
    permissive      the notice of its authors is kept: MIT
    attribution     besides, changes are stated, patents are settled: Apache-2.0, CC-BY
    share-alike     what is made of it keeps its licence
    restricted      rules of use, non-commercial, a community licence: every licence that is in no table here

A copy whose card permits more than its base's licence was made by somebody who did not read it, or hides where it is from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum

from huggingface_hub import ModelInfo

MAX_CHARACTERS = 100


class Width(IntEnum):
    """How much a licence permits, the least first."""

    RESTRICTED = 0
    SHARE_ALIKE = 1
    ATTRIBUTION = 2
    PERMISSIVE = 3
    UNCONDITIONAL = 4


_WIDTHS: Mapping[str, Width] = {
    **dict.fromkeys(("cc0-1.0", "unlicense", "wtfpl", "0bsd", "pddl"), Width.UNCONDITIONAL),
    **dict.fromkeys(
        (
            "mit", "bsd", "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear", "isc", "zlib", "bsl-1.0", "postgresql",
            "ncsa", "cdla-permissive-2.0", "openmdw-1.0",
        ),
        Width.PERMISSIVE,
    ),
    **dict.fromkeys(
        (
            "apache-2.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "artistic-2.0", "afl-3.0", "ms-pl", "ecl-2.0",
            "cdla-permissive-1.0", "odc-by",
        ),
        Width.ATTRIBUTION,
    ),
    **dict.fromkeys(
        (
            "gpl", "gpl-2.0", "gpl-3.0", "lgpl", "lgpl-2.1", "lgpl-3.0", "agpl-3.0", "mpl-2.0", "epl-1.0", "epl-2.0",
            "eupl-1.1", "eupl-1.2", "cc-by-sa-3.0", "cc-by-sa-4.0", "osl-3.0", "odbl", "cdla-sharing-1.0", "gfdl",
        ),
        Width.SHARE_ALIKE,
    ),
}  # fmt: skip
_UNSTATED = frozenset({"", "unknown", "none"})
_OTHER = "other"


@dataclass(frozen=True)
class Licence:
    """What a card states: the hub's identifier, or the name that stands beside `other`. "" where it states none."""

    name: str

    @property
    def stated(self) -> bool:
        return self.name not in _UNSTATED

    @property
    def width(self) -> Width:
        return _WIDTHS.get(self.name, Width.RESTRICTED)

    def is_wider_than(self, base: Licence) -> bool:
        """Whether a work made of `base` would permit under this licence what its base does not.

        Where either states none nothing is known to be wider. Two restricted licences cannot be ranked: neither is
        wider, and the base's rules hold whatever a copy's card says.
        """
        return self.stated and base.stated and self.width > base.width


def licence_of(info: ModelInfo) -> Licence:
    """The licence in the card, else in the hub's tags; the widest where several are stated."""
    card: Mapping[str, object] = getattr(info.card_data, "__dict__", {})
    stated = card.get("license") or _tagged(tags_of(info))
    names = [_word(one) for one in (stated if isinstance(stated, list) else [stated]) if one]
    named = [_word(card.get("license_name") or name) if name == _OTHER else name for name in names]
    return max(map(Licence, named), key=lambda licence: (licence.width, licence.name), default=Licence(""))


def tags_of(info: ModelInfo) -> list[str]:
    """What of a repository's tags is text."""
    return [tag for tag in info.tags if isinstance(tag, str)] if isinstance(info.tags, list) else []


def _tagged(tags: Iterable[str]) -> list[str]:
    return [tag.removeprefix("license:") for tag in tags if tag.startswith("license:")]


def _word(stated: object) -> str:
    return str(stated).strip().lower()[:MAX_CHARACTERS]

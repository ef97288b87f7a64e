"""The heads of a vision tower, which tensor-parallel ranks split as they split the text model's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kubequant.planning.architectures.fields import Fields

KEEPS_VISION_WHOLE = frozenset(
    (
        "H2OVLChatModel",
        "InternS1ForConditionalGeneration",
        "InternVLChatModel",
        "InternVLForConditionalGeneration",
        "KimiK25ForConditionalGeneration",
        "NVLM_D",
        "SkyworkR1VChatModel",
    )
)
"""vLLM 0.33 keeps their tower whole on each rank, always or where its heads do not divide."""

_HEADS = ("num_attention_heads", "num_heads", "heads")


def vision_heads(config: Mapping[str, Any]) -> int:
    """0 where the config has no vision tower or does not say. Raises Refused with ConfigInvalid for an impossible number."""
    thinker = config.get("thinker_config")
    tower = (thinker if isinstance(thinker, Mapping) else config).get("vision_config")
    if not isinstance(tower, Mapping):
        return 0
    fields = Fields(tower, config, {})
    return next((heads for name in _HEADS if (heads := fields.optional(name)) is not None), 0)

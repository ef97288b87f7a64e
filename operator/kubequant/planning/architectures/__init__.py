"""The shape of a model: which layers it has and what each keeps of a sequence, from its config.json.

    config.json -> Fields -> Family.caches -> ModelShape

One row of families.py is one architecture that vLLM 0.33 serves and that is known in detail.
"""

from __future__ import annotations

from kubequant.planning.architectures.shape import SUPPORTED_ARCHITECTURES, shape_of

__all__ = ["SUPPORTED_ARCHITECTURES", "shape_of"]

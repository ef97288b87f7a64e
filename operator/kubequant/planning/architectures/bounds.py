"""An upper bound on the KV cache of an architecture that vLLM serves and whose layout is not known here in detail.

Every layer is taken to keep key and value of every token, as wide as the widest key projection in the headers, else
with as many KV heads as the config says. Windows, latents and shared caches only make it smaller; a recurrent state is
not counted, being below a full cache of any length worth serving.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from kubequant.planning.architectures.caches import head_dim, kv_heads
from kubequant.planning.architectures.fields import Fields, invalid
from kubequant.planning.values import CacheKind, CacheLayers, TensorClass

_KEY_PROJECTION = re.compile(r"(^|\.)(k_proj|key|wk)\.weight$")
_VALUE_PROJECTION = re.compile(r"(^|\.)(v_proj|value|wv)\.weight$")
_TOWERS = re.compile(r"vision|visual|audio|image|encoder|tower")
_MOST_WIDTH = 1_048_576


def caches_of(fields: Fields, tensors: Sequence[TensorClass]) -> tuple[CacheLayers, ...]:
    """Raises Refused with ConfigInvalid where not even that can be read."""
    layers, heads = fields.number("num_hidden_layers"), fields.number("num_attention_heads")
    stated_heads, dim = kv_heads(fields), head_dim(fields)
    keys = _widest(tensors, _KEY_PROJECTION) or stated_heads * dim
    values = _widest(tensors, _VALUE_PROJECTION) or keys
    if max(keys, values) > _MOST_WIDTH:
        raise invalid(f"a key or value projection is {max(keys, values):,} wide")
    # Heads only say how far tensor parallelism divides it.
    split = stated_heads if heads % stated_heads == 0 else 1
    return (CacheLayers(CacheKind.FULL, layers, split, -(-keys // split), -(-values // split)),)


def _widest(tensors: Sequence[TensorClass], projection: re.Pattern[str]) -> int:
    """Rows of the widest such matrix of the text model, which are what it projects to."""
    return max(
        (
            tensor.shape[0]
            for tensor in tensors
            if len(tensor.shape) == 2 and projection.search(tensor.pattern) and not _TOWERS.search(tensor.pattern)
        ),
        default=0,
    )

"""Facts that a pod hands back in its termination message: read and fit for planning, or refused in one sentence."""

from __future__ import annotations

import base64
import zlib

from kubequant.planning import kv_cache
from kubequant.planning.facts_json import facts_from_json, facts_to_json, packed_facts, unpacked_facts
from kubequant.planning.tensors import disagreement, largest_layer_per_rank, weights_per_rank
from kubequant.planning.values import ModelFacts


def fuzz(data: bytes) -> None:
    """The bytes as the message itself, as what it holds in base64, and as the JSON that was packed into it."""
    _refused_or_planned(data.decode("latin-1"))
    _refused_or_planned(base64.b64encode(data).decode())
    _refused_or_planned(base64.b64encode(zlib.compress(data, 1)).decode())


def _refused_or_planned(text: str) -> None:
    try:
        facts = unpacked_facts(text)
    except ValueError as error:
        assert len(str(error)) < 400 and str(error).isprintable(), str(error)
        return
    assert facts_from_json(facts_to_json(facts)) == unpacked_facts(packed_facts(facts)) == facts
    _plan_on(facts)


def _plan_on(facts: ModelFacts) -> None:
    """What planning computes of any model, before it compares it with a GPU."""
    disagreement(facts)
    kv_cache.kv_layout(facts.shape, "BF16")
    kv_cache.bytes_per_token(facts.shape, "FP8", 2)
    weights_per_rank(facts, 2)
    weights_per_rank(facts, 1, 2)
    largest_layer_per_rank(facts, 1)
    assert facts.weight_bytes >= 0 and facts.parameters >= 0

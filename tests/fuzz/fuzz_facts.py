"""Facts that a pod hands back in its termination message: read and fit for planning, or refused in one sentence."""

from __future__ import annotations

import base64
import zlib

from kubequant.planning.engines.vllm import VLLM_0_33
from kubequant.planning.facts_json import facts_from_json, facts_to_json, packed_facts, unpacked_facts
from kubequant.planning.plan import plan
from kubequant.planning.values import Intent, Plan, Refused
from tests.unit.planning.models import fleet, node

_FLEET = fleet(node("NVIDIA-L4", gpus=4), node("NVIDIA-H100-80GB-HBM3", gpus=8))
_INTENT = Intent("org/base", concurrent_requests=4, context_tokens=2048)


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
    assert isinstance(plan(_INTENT, facts, _FLEET, VLLM_0_33), Plan | Refused)

"""What a refusal says would help does help: every line is applied, and planned anew."""

from __future__ import annotations

import re
from dataclasses import replace
from unittest.mock import patch

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from kubequant.planning.advice import Advice, advices, what_would_help
from kubequant.planning.candidates import Candidate
from kubequant.planning.engines.vllm import VLLM_0_33
from kubequant.planning.gpu_table import cuda_total_bytes
from kubequant.planning.plan import plan
from kubequant.planning.prediction import predicted
from kubequant.planning.rules import first_refusal
from kubequant.planning.values import Fleet, GpuClass, Intent, KvCacheDtype, Plan, Refused
from tests.unit.planning.golden import facts
from tests.unit.planning.models import GIB
from tests.unit.planning.test_choice import card

INTENT = Intent(repository="org/base")
MODELS = (
    "Qwen2.5-0.5B", "Qwen2.5-7B", "Qwen2.5-14B AWQ", "Llama-3.1-8B", "Llama-3.1-70B GPTQ", "Phi-4", "Mixtral-8x7B", "DeepSeek-V2-Lite",
    "gemma-3-1b", "gpt-oss-20b MXFP4", "Qwen3-Next-80B-A3B",
)  # fmt: skip


def sold_as(memory_gib: int, capability: str = "8.9", gpus: int = 1) -> GpuClass:
    """With what CUDA reports of a card of that label."""
    gpu = card(memory_gib=memory_gib, capability=capability, gpus=gpus)
    return replace(gpu, memory_bytes=cuda_total_bytes(gpu.label_memory_bytes))


cards = st.builds(sold_as, st.integers(2, 192), st.sampled_from(["7.5", "8.0", "8.9", "9.0", "10.0", "12.0"]),
                  st.sampled_from([1, 2, 4, 6, 8]))  # fmt: skip
intents = st.builds(
    Intent,
    repository=st.just("org/base"),
    scheme=st.sampled_from(["Auto", "Auto", "FP8", "W4A16", "NVFP4"]),
    concurrent_requests=st.integers(1, 600),
    tokens_per_request=st.none() | st.integers(1, 8192),
    context_tokens=st.none() | st.integers(8192, 65536),
    kv_cache_dtype=st.sampled_from(list(KvCacheDtype)),
    products=st.sampled_from([(), ("Card",)]),
    gpus_per_replica=st.sampled_from([None, None, 1, 2, 4]),
    min_memory_bytes=st.sampled_from([0, 20 * GIB]),
    reserved_memory_bytes=st.sampled_from([0, GIB]),
)


def on(intent: Intent, name: str, gpu: GpuClass) -> Plan | Refused:
    return plan(intent, facts(name), Fleet((gpu,), nodes=1), VLLM_0_33)


def advised(intent: Intent, name: str, gpu: GpuClass) -> list[Advice]:
    """What the refusal of this very plan advises; nothing where it is none, or not for want of memory."""
    with patch("kubequant.planning.plan.what_would_help", side_effect=what_would_help) as asked:
        found = on(intent, name, gpu)
    if not asked.called:
        return []
    advice = advices(asked.call_args.args[0])
    assert isinstance(found, Refused)
    assert ("; or ".join(one.text for one in advice) or "a smaller model") in found.message
    return advice


def applied(changes: tuple[str, ...], intent: Intent, gpu: GpuClass) -> list[tuple[Intent, GpuClass]]:
    """What a user does who reads them: of several capabilities, each."""
    fields = {"concurrentRequests": "concurrent_requests", "contextTokens": "context_tokens", "tokensPerRequest": "tokens_per_request"}  # fmt: skip
    cards = [gpu]
    for change in changes:
        if found := re.fullmatch(r"serving\.(\w+) of at most (\d+)", change):
            intent = replace(intent, **{fields[found[1]]: int(found[2])})
        elif found := re.fullmatch(r"gpu\.perReplica: (\d+)", change):
            intent = replace(intent, gpus_per_replica=int(found[1]))
        elif found := re.fullmatch(r"quantization\.scheme: (\w+)", change):
            intent = replace(intent, scheme=found[1])
        elif found := re.fullmatch(r"(\d+) Card in one node \(the largest has (\d+)\)", change):
            assert int(found[2]) == gpu.per_node < int(found[1])
            cards = [replace(gpu, per_node=int(found[1]))]
        elif found := re.fullmatch(r"one GPU of at least (\d+) GiB", change):
            memory_gib = int(found[1])
        elif change.startswith("compute capability "):
            capabilities = change.removeprefix("compute capability ").split(", ")
            assert str(gpu.compute_capability) in capabilities
            cards = [replace(sold_as(memory_gib, capability), product="Other") for capability in capabilities]
        else:
            assert change == "its product among gpu.products", change
            intent = replace(intent, products=(*intent.products, "Other"))
    return [(intent, card) for card in cards]


@given(st.sampled_from(MODELS), cards, intents)
@settings(max_examples=300, deadline=None)
def test_every_advice_helps_when_it_is_taken(name: str, gpu: GpuClass, intent: Intent) -> None:
    for advice in advised(intent, name, gpu):
        event(re.sub(r"\d+", "N", advice.text))
        assert first_refusal(advice.candidate) is None
        for changed, other in applied(advice.changes, intent, gpu):
            assert isinstance(on(changed, name, other), Plan), (advice.text, other)


def texts(intent: Intent, name: str, gpu: GpuClass) -> list[str]:
    return [advice.text for advice in advised(intent, name, gpu)]


def test_number_of_requests_is_the_largest_that_fits() -> None:
    intent, gpu = replace(INTENT, concurrent_requests=200), sold_as(24)
    fewer, *_ = advised(intent, "Llama-3.1-8B", gpu)
    requests = fewer.candidate.intent.concurrent_requests
    assert fewer.text == f"serving.concurrentRequests of at most {requests}"
    assert isinstance(on(replace(intent, concurrent_requests=requests + 1), "Llama-3.1-8B", gpu), Refused)


def test_card_is_the_smallest_that_fits_by_its_label() -> None:
    *_, larger = advised(INTENT, "Llama-3.1-70B GPTQ", sold_as(24))
    size = larger.candidate.gpu.label_memory_bytes // GIB
    assert larger.changes[0] == f"one GPU of at least {size} GiB"
    assert larger.changes[1].startswith("compute capability 8.9, 9.0"), "8.0 keeps a 16-bit KV cache: it needs more"
    assert isinstance(on(INTENT, "Llama-3.1-70B GPTQ", sold_as(size - 1)), Refused)


@pytest.mark.parametrize(
    ("per_node", "said"),
    [(8, "gpu.perReplica: 4"), (2, "4 Card in one node (the largest has 2) with gpu.perReplica: 4")],
)
def test_pinned_number_of_gpus_is_said_to_change(per_node: int, said: str) -> None:
    pinned = replace(INTENT, gpus_per_replica=2)
    advice = texts(pinned, "Llama-3.1-70B GPTQ", sold_as(24, gpus=per_node))
    assert said in advice
    assert advice[-1].endswith(" and gpu.perReplica: 1")


def test_product_that_was_pinned_is_said_to_change() -> None:
    *_, larger = texts(replace(INTENT, products=("Card",)), "Llama-3.1-70B GPTQ", sold_as(24))
    assert larger.endswith("and its product among gpu.products")


def test_context_and_requests_are_advised_together_where_neither_is_enough() -> None:
    intent = replace(INTENT, context_tokens=131072, concurrent_requests=400, scheme="FP8")
    both, *_ = texts(intent, "Llama-3.1-8B", sold_as(14))
    assert re.fullmatch(r"serving.contextTokens of at most \d+ with serving.concurrentRequests of at most \d+", both)


def test_scheme_that_auto_would_not_take_is_said() -> None:
    """Whatever comes closest: what helps it must name the scheme, or the plan would be refused again."""
    nvfp4 = predicted(facts("Qwen2.5-32B"), "NVFP4", "Auto")
    gpu = sold_as(24, "12.0")
    busy = replace(INTENT, concurrent_requests=100)
    candidate = Candidate(busy, nvfp4, VLLM_0_33, gpu, 1, 2048, "FP8")
    assert first_refusal(candidate) is not None
    found = advices(candidate)
    assert len(found) == 3
    for advice in found:
        assert advice.changes[-1] == "quantization.scheme: NVFP4"
        for changed, other in applied(advice.changes, busy, gpu):
            assert isinstance(on(changed, "Qwen2.5-32B", other), Plan), (advice.text, other)


def test_nothing_helps_but_a_smaller_model() -> None:
    found = on(replace(INTENT, scheme="Unquantized"), "Llama-3.1-405B", sold_as(8))
    assert isinstance(found, Refused)
    assert found.message.endswith("What would help: a smaller model")

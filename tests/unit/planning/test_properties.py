"""What must hold for every model, card and demand, whatever the constants are."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from kubequant.planning.candidates import Candidate
from kubequant.planning.engines.vllm import VLLM_0_33
from kubequant.planning.gpu_table import KnownGpu, gpu_class_of, known_gpus
from kubequant.planning.kv_cache import kv_layout
from kubequant.planning.plan import plan
from kubequant.planning.rules import first_refusal
from kubequant.planning.tensors import weights_per_rank
from kubequant.planning.values import Fleet, Intent, Objective, Plan, Refused
from tests.unit.planning.golden import facts
from tests.unit.planning.models import GIB
from tests.unit.planning.test_choice import card

MODELS = (
    "Qwen2.5-0.5B", "Qwen2.5-7B", "Qwen2.5-14B AWQ", "Llama-3.1-8B FP8", "Llama-3.1-70B GPTQ", "Phi-4", "Mixtral-8x7B",
    "DeepSeek-V2-Lite", "gemma-3-1b", "gpt-oss-20b MXFP4", "Mistral-7B-v0.1", "Qwen3-Next-80B-A3B",
)  # fmt: skip
models = st.sampled_from(MODELS)  # no deadlines below: the first question about a model builds its headers
capabilities = st.sampled_from(["7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "12.0"])
memories = st.integers(4, 192)
intents = st.builds(
    Intent,
    repository=st.just("org/base"),
    concurrent_requests=st.integers(1, 512),
    tokens_per_request=st.integers(1, 8192),
    context_tokens=st.none() | st.just(8192),
    reserved_memory_bytes=st.integers(0, 4 * GIB),
    objective=st.sampled_from(list(Objective)),
)


def on(intent: Intent, name: str, *cards: object) -> Plan | Refused:
    return plan(intent, facts(name), Fleet(tuple(cards), nodes=len(cards)), VLLM_0_33)  # type: ignore[arg-type]


@given(models, capabilities, memories, st.integers(1, 64), intents)
@settings(max_examples=150, deadline=None)
def test_more_memory_never_turns_a_fit_into_a_refusal(
    name: str, capability: str, memory: int, more: int, intent: Intent
) -> None:
    small = card(memory_gib=memory, capability=capability)
    large = card(memory_gib=memory + more, capability=capability)
    if isinstance(on(intent, name, small), Plan):
        assert isinstance(on(intent, name, large), Plan)


@given(models, capabilities, memories, intents)
@settings(max_examples=150, deadline=None)
def test_promised_is_at_most_expected_and_the_demand_is_met(
    name: str, capability: str, memory: int, intent: Intent
) -> None:
    found = on(intent, name, card(memory_gib=memory, capability=capability))
    assume(isinstance(found, Plan))
    assert isinstance(found, Plan)
    assert found.kv_cache_tokens <= found.expected_kv_cache_tokens
    assert found.budget.kv_cache_bytes <= found.budget.expected_kv_cache_bytes
    assert found.kv_cache_tokens >= found.context_tokens > 0
    budget = found.budget
    lines = budget.weights_bytes + budget.activation_bytes + budget.cuda_graphs_bytes + budget.non_torch_bytes
    assert lines + budget.margin_bytes + budget.kv_cache_bytes == budget.usable_bytes
    assert budget.usable_bytes + budget.context_bytes + budget.reserved_bytes <= budget.total_bytes


@given(models, st.integers(0, 2**40), st.integers(1, 32768), st.sampled_from([1, 2, 4, 8]), st.integers(16, 8192))
@settings(max_examples=200, deadline=None)
def test_an_fp8_kv_cache_never_holds_fewer_tokens(name: str, cache: int, context: int, ranks: int, batch: int) -> None:
    shape = facts(name).shape
    sixteen, eight = (kv_layout(shape, dtype, ranks, 1, batch) for dtype in ("BF16", "FP8"))
    assert eight.tokens_in(cache, context) >= sixteen.tokens_in(cache, context)
    assert eight.requests_in(cache, context) >= sixteen.requests_in(cache, context)


@given(models, st.sampled_from([1, 2, 4]))
@settings(deadline=None)
def test_more_ranks_never_hold_more_each(name: str, ranks: int) -> None:
    assert weights_per_rank(facts(name), 2 * ranks) <= weights_per_rank(facts(name), ranks)
    wide, narrow = (kv_layout(facts(name).shape, "BF16", size).bytes_per_token for size in (2 * ranks, ranks))
    assert wide <= narrow


@given(models, capabilities, memories, intents, st.integers(1, 10_000_000))
@settings(deadline=None)
def test_layouts_are_inverse_to_themselves(name: str, capability: str, memory: int, intent: Intent, cache: int) -> None:
    layout = kv_layout(facts(name).shape, "BF16")
    each = intent.tokens_per_request or 1
    held = layout.requests_in(cache * 1024, each)
    assert layout.bytes_for(held, each) <= max(cache * 1024, layout.bytes_for(0, each))
    assert layout.bytes_for(held + 1, each) > cache * 1024


@given(models, capabilities, memories, memories, intents)
@settings(max_examples=100, deadline=None)
def test_another_card_never_takes_a_plan_away(
    name: str, capability: str, memory: int, other: int, intent: Intent
) -> None:
    one = card("One", memory_gib=memory, capability=capability)
    two = card("Two", memory_gib=other, capability=capability)
    alone = on(intent, name, one)
    both = on(intent, name, one, two)
    assert isinstance(both, Plan) or isinstance(alone, Refused)
    if isinstance(alone, Plan) and isinstance(both, Plan) and intent.objective is Objective.LOWEST_COST:
        taken = (
            both.gpus_per_replica * both.gpu.label_memory_bytes,
            alone.gpus_per_replica * alone.gpu.label_memory_bytes,
        )
        assert taken[0] <= taken[1]


@given(models, capabilities, memories, intents)
@settings(max_examples=100, deadline=None)
def test_less_asked_never_turns_a_fit_into_a_refusal(name: str, capability: str, memory: int, intent: Intent) -> None:
    gpu = card(memory_gib=memory, capability=capability)
    if isinstance(on(intent, name, gpu), Plan):
        fewer = replace(intent, concurrent_requests=max(1, intent.concurrent_requests // 2))
        assert isinstance(on(fewer, name, gpu), Plan)


@given(models, capabilities, memories, intents)
@settings(max_examples=100, deadline=None)
def test_every_refusal_says_what_the_number_and_the_reason(
    name: str, capability: str, memory: int, intent: Intent
) -> None:
    found = on(intent, name, card(memory_gib=memory, capability=capability, gpus=2))
    for refusal in found.refusals:
        assert refusal.reason and refusal.rule
        if refusal.rule == "checkpoint":
            assert refusal.message.startswith(f"{refusal.scheme} cannot be made: ")
            continue
        assert refusal.message.startswith("Card x")
        assert any(character.isdigit() for character in refusal.message.partition(": ")[2])


real_cards = st.sampled_from([gpu for gpu in known_gpus().values() if gpu.memory_bytes])
bases = st.sampled_from(
    ["Qwen2.5-0.5B", "Qwen2.5-7B", "Qwen2.5-14B", "Qwen2.5-32B", "DeepSeek-V2-Lite", "Mistral-7B-v0.1"]
)


@given(bases, real_cards, st.sampled_from([1, 2, 8]), intents)
@settings(max_examples=150, deadline=None)
def test_auto_fits_wherever_a_scheme_that_it_may_take_fits(name: str, gpu: KnownGpu, gpus: int, intent: Intent) -> None:
    here = gpu_class_of(gpu, gpus)
    auto = on(intent, name, here)
    for scheme in ("Unquantized", "FP8", "W4A16"):
        if isinstance(on(replace(intent, scheme=scheme), name, here), Plan):
            assert isinstance(auto, Plan)


@given(bases, real_cards, st.integers(2, 512), intents)
@settings(max_examples=150, deadline=None)
def test_fewer_requests_fit_on_every_real_card(name: str, gpu: KnownGpu, requests: int, intent: Intent) -> None:
    here = gpu_class_of(gpu, 2)
    if isinstance(on(replace(intent, concurrent_requests=requests), name, here), Plan):
        assert isinstance(on(replace(intent, concurrent_requests=requests // 2), name, here), Plan)


@given(models, memories, intents)
@settings(max_examples=100, deadline=None)
def test_what_was_planned_passes_every_rule_again(name: str, memory: int, intent: Intent) -> None:
    gpu = card(memory_gib=memory)
    found = on(replace(intent, scheme="Auto"), name, gpu)
    assume(isinstance(found, Plan) and not found.predicted)
    assert isinstance(found, Plan)
    batch = int(found.arguments[found.arguments.index("--max-num-batched-tokens") + 1])
    pinned = replace(intent, context_tokens=found.context_tokens)
    again = Candidate(pinned, facts(name), VLLM_0_33, gpu, found.gpus_per_replica, batch, found.kv_cache_dtype)
    assert first_refusal(again) is None

"""The plan that comes out: the candidate taken, written down with everything that a reader may ask about it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from kubequant.planning.candidates import Candidate
from kubequant.planning.engines import vllm, vllm_arguments
from kubequant.planning.gpus import taints_note
from kubequant.planning.policy import SMALL_MODEL_PARAMETERS
from kubequant.planning.prediction import method_of
from kubequant.planning.text import gib, tokens
from kubequant.planning.values import Alternative, Fleet, Plan, Refusal

MAX_ALTERNATIVES = 8


def plan_of(best: Candidate, others: Sequence[Candidate], refusals: Sequence[Refusal], fleet: Fleet) -> Plan:
    """The plan for `best`; `others` in their order become alternatives."""
    facts, intent = best.facts, best.intent
    served_model_name = intent.served_model_name or intent.repository
    assert best.kernel is not None, "a candidate without a kernel was refused"
    return Plan(
        repository=facts.repository,
        commit=facts.commit,
        gpu=best.gpu,
        gpus_per_replica=best.gpus,
        scheme=best.scheme,
        method=_method(best),
        kernel=best.kernel,
        kv_cache_dtype=best.kv_cache_dtype,
        budget=best.budget,
        context_tokens=best.context_tokens,
        concurrent_requests=intent.concurrent_requests,
        kv_cache_tokens=best.kv_cache_tokens,
        expected_kv_cache_tokens=best.expected_kv_cache_tokens,
        served_model_name=served_model_name,
        weight_bytes=facts.weight_bytes,
        download_bytes=facts.download_bytes,
        arguments=vllm_arguments.build_arguments(_launch(best, served_model_name)),
        evidence=best.budget.evidence,
        alternatives=tuple(_alternative(other) for other in others[:MAX_ALTERNATIVES]),
        refusals=tuple(refusals),
        tensor_parallel_size=best.tensor_parallel_size,
        pipeline_parallel_size=best.pipeline_parallel_size,
        predicted=facts.predicted,
        objective=intent.objective,
        kv_cache_tokens_16bit=_sixteen_bit_tokens(best),
        bounds=best.roofline.bounds() if best.roofline else None,
        price_per_hour=best.price_per_hour,
        notes=tuple(_notes(best, others, fleet)),
    )


def _method(best: Candidate) -> str:
    """How the checkpoint was made, or, where nobody has, how it would be."""
    stored = best.facts.stored
    if stored is None:
        return "None"
    if not best.facts.predicted:
        return stored.method.value
    return method_of(best.facts) if best.intent.method == "Auto" else best.intent.method


def _sixteen_bit_tokens(best: Candidate) -> int | None:
    """What FP8 is compared with: the same placement, the same length of a request."""
    if best.kv_cache_dtype != "FP8":
        return None
    sixteen = vllm.activation_dtype(best.facts.shape, best.gpu.compute_capability)
    intent = replace(best.intent, context_tokens=best.context_tokens)
    return replace(best, kv_cache_dtype=sixteen, intent=intent).kv_cache_tokens


def _notes(best: Candidate, others: Sequence[Candidate], fleet: Fleet) -> Iterator[str]:
    facts = best.facts
    yield from facts.notes
    if facts.base and not best.trust and facts.repository != best.intent.repository != facts.base:
        yield (
            f"{facts.repository} was named as a checkpoint of {best.intent.repository}, and says itself that it was made from "
            f"{facts.base}: is it the model that is meant?"
        )
    if facts.predicted:
        yield (
            f"no {best.scheme} checkpoint of {facts.repository} was named: {gib(facts.weight_bytes)} of weights are predicted "
            "from the headers of the base and the bits of the scheme"
        )
        if best.scheme == "W4A16" and facts.parameters < SMALL_MODEL_PARAMETERS:
            yield "four bits cost a model this small 4 to 14 % of its quality, and nothing wider fits"
    if facts.shape.upper_bound:
        yield (
            f"{facts.shape.architecture} is not known in detail: weights are taken as unsharded and every layer as keeping "
            "all keys and values, so the real needs are at most these"
        )
    priced = [one.price_per_hour is not None for one in (best, *others)]
    if any(priced) and not all(priced):
        yield "prices are given for some of the GPUs only, so GPU memory taken was compared instead"
    if taints := taints_note(best.gpu):
        yield taints
    if best.roofline is None:
        yield f"the bandwidth or peak of {best.gpu.product} is not known: speed was not compared"
    for node in fleet.unreadable[:1]:
        yield f"not counted: node {node.name} {node.reason}" + (
            f" (and {len(fleet.unreadable) - 1} more)" if len(fleet.unreadable) > 1 else ""
        )


def _launch(best: Candidate, served_model_name: str) -> vllm_arguments.Launch:
    return vllm_arguments.Launch(
        served_model_name=served_model_name,
        context_tokens=best.context_tokens,
        max_num_seqs=best.intent.concurrent_requests,
        max_num_batched_tokens=best.max_num_batched_tokens,
        gpu_memory_utilization=best.budget.gpu_memory_utilization,
        tensor_parallel_size=best.tensor_parallel_size,
        pipeline_parallel_size=best.pipeline_parallel_size,
        activation_dtype=best.activation_dtype,
        stored_dtype=best.facts.shape.dtype,
        kv_cache_dtype=best.kv_cache_dtype,
        checkpoint_kv_cache_dtype=best.facts.stored.kv_cache_dtype if best.facts.stored else None,
        engine_arguments=best.intent.engine_arguments,
    )


def _alternative(other: Candidate) -> Alternative:
    made = ", to be made" if other.facts.predicted else f" ({other.checkpoint})" if other.checkpoint else ""
    return Alternative(
        gpu=other.gpu.product,
        gpus=other.gpus,
        message=f"{other.name}: {other.scheme}{made}, {tokens(other.kv_cache_tokens)} of {other.kv_cache_dtype} KV cache",
        scheme=other.scheme,
        kv_cache_dtype=other.kv_cache_dtype,
        context_tokens=other.context_tokens,
        kv_cache_tokens=other.kv_cache_tokens,
        memory_bytes=other.memory_taken_bytes,
        predicted=other.facts.predicted,
        checkpoint=other.checkpoint,
        decode_tokens_per_second_bound=other.roofline.bounds().decode_tokens_per_second if other.roofline else None,
        price_per_hour=other.price_per_hour,
    )

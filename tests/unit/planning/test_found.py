"""Checkpoints that discovery found compete with the model itself and with what would have to be made."""

from __future__ import annotations

from dataclasses import replace

from kubequant.planning.engines.vllm import VLLM_0_33
from kubequant.planning.plan import plan
from kubequant.planning.values import Fleet, Intent, ModelFacts, Objective, Plan, Refused, StoredMethod
from tests.unit.planning.models import fleet, model, node

BASE = model("Llama-3.1-8B").facts()
AWQ = replace(model("Llama-3.1-8B").stored_as("AWQ").facts(), repository="base-org/awq")
OTHER_AWQ = replace(AWQ, repository="second/awq", download_bytes=AWQ.download_bytes - 1000)
FP8 = replace(model("Llama-3.1-8B").stored_as("FP8").facts(), repository="second/fp8")

L4 = fleet(node("NVIDIA-L4"))
T4 = fleet(node("Tesla-T4"))
AS_THE_OPERATOR = Intent(repository=BASE.repository, concurrent_requests=8, prefer_existing=True)


def planned(found: tuple[ModelFacts, ...], intent: Intent = AS_THE_OPERATOR, on: Fleet = L4) -> Plan:
    outcome = plan(intent, BASE, on, VLLM_0_33, (), found)
    assert isinstance(outcome, Plan), outcome
    return outcome


def reasons(outcome: Plan | Refused) -> dict[str, str]:
    return {refusal.checkpoint: refusal.reason for refusal in outcome.refusals if refusal.checkpoint}


def test_the_model_itself_is_served_where_it_costs_no_more() -> None:
    chosen = planned((AWQ,))
    assert (chosen.repository, chosen.scheme) == (BASE.repository, "Unquantized")


def test_a_found_checkpoint_is_served_where_the_model_itself_does_not_fit() -> None:
    chosen = planned((AWQ,), on=T4)
    assert (chosen.repository, chosen.scheme, chosen.predicted) == (AWQ.repository, "W4A16", False)
    assert chosen.served_model_name == BASE.repository


def test_what_exists_goes_before_what_would_have_to_be_made() -> None:
    chosen = planned((AWQ,), replace(AS_THE_OPERATOR, objective=Objective.HIGHEST_THROUGHPUT), T4)
    assert (chosen.repository, chosen.predicted) == (AWQ.repository, False)


def test_of_one_scheme_the_most_trusted_is_taken() -> None:
    for found in ((AWQ, OTHER_AWQ), (OTHER_AWQ, AWQ)):
        chosen = planned(found, on=T4)
        assert chosen.repository == found[0].repository
        assert reasons(chosen) == {found[1].repository: "AnotherGoesBefore"}
        made = [refusal for refusal in chosen.refusals if refusal.rule == "sameScheme" and not refusal.checkpoint]
        assert made, "the W4A16 checkpoint that could be made is not wanted either"


def test_a_scheme_that_was_asked_for_is_found() -> None:
    chosen = planned((AWQ, FP8), replace(AS_THE_OPERATOR, scheme="FP8"))
    assert (chosen.repository, chosen.scheme) == (FP8.repository, "FP8")


def test_a_method_that_was_asked_for_counts() -> None:
    assert AWQ.stored is not None
    gptq = replace(AWQ, repository="third/gptq", stored=replace(AWQ.stored, method=StoredMethod.GPTQ, symmetric=True))
    chosen = planned((gptq, AWQ), replace(AS_THE_OPERATOR, scheme="W4A16", method="AWQ"), T4)
    assert chosen.repository == AWQ.repository


def test_what_does_not_run_here_says_why() -> None:
    """FP8 in 16 GiB leaves too little beside the weights for the demand; its refusal names the checkpoint."""
    busy = replace(AS_THE_OPERATOR, concurrent_requests=64, context_tokens=8192)
    outcome = plan(busy, BASE, T4, VLLM_0_33, (), (FP8,))
    assert FP8.repository in reasons(outcome)
    message = next(refusal.message for refusal in outcome.refusals if refusal.checkpoint)
    assert f"with {FP8.repository} (FP8)" in message


def test_a_quantised_model_is_left_as_it_is() -> None:
    outcome = plan(AS_THE_OPERATOR, AWQ, T4, VLLM_0_33, (), (FP8,))
    assert isinstance(outcome, Plan)
    assert outcome.repository == AWQ.repository


def test_unquantised_asked_for_finds_nothing() -> None:
    chosen = planned((AWQ, FP8), replace(AS_THE_OPERATOR, scheme="Unquantized"))
    assert chosen.repository == BASE.repository


def test_a_scheme_that_contradicts_the_checkpoint_names_its_base() -> None:
    outcome = plan(Intent(repository="x", scheme="FP8"), replace(AWQ, base=BASE.repository), L4, VLLM_0_33)
    assert isinstance(outcome, Refused)
    assert f"name its base {BASE.repository}, or a repository that is FP8" in outcome.message


def test_what_is_known_of_a_checkpoint_that_was_named_is_said() -> None:
    named = replace(AWQ, base="other/model", notes=("the hub's scan marks 'a.bin' as unsafe",))
    outcome = plan(AS_THE_OPERATOR, named, T4, VLLM_0_33)
    assert isinstance(outcome, Plan)
    assert outcome.notes[0] == "the hub's scan marks 'a.bin' as unsafe"
    assert f"{named.repository} was named as a checkpoint of {BASE.repository}" in outcome.notes[1]
    assert "made from other/model" in outcome.notes[1]


def test_nothing_is_said_of_a_checkpoint_that_names_the_model_it_was_named_for() -> None:
    outcome = plan(AS_THE_OPERATOR, replace(AWQ, base=BASE.repository), T4, VLLM_0_33)
    assert isinstance(outcome, Plan)
    assert not any("named as a checkpoint" in note for note in outcome.notes)

"""What status.discovery says of every candidate, judged by the planner's own answer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from kubequant.api.conditions import Reason
from kubequant.api.status import MAX_CANDIDATES, MAX_NOTES
from kubequant.errors import Refused as RefusedModel
from kubequant.hub.trust import Rejection
from kubequant.planning.engines.vllm import VLLM_0_33
from kubequant.planning.plan import plan
from kubequant.planning.values import Fleet, Found, Intent, ModelFacts, Objective, Plan, Refused, Rejected
from kubequant.reconcile.discovery_status import (
    MAX_CANDIDATE_MESSAGE,
    Verdict,
    discovery_status,
    found_sentence,
    judged,
)
from kubequant.reconcile.kinds import QUANTIZED_MODEL
from tests.unit.fakes import FakeHub
from tests.unit.planning.models import fleet, model, node
from tests.unit.reconcile.making import World

BASE = model("Qwen2.5-7B").facts()
L4 = fleet(node("NVIDIA-L4"))


def published(scheme: str, repository: str, name: str = "Qwen2.5-7B") -> ModelFacts:
    return replace(model(name).stored_as(scheme).facts(), repository=repository, commit="c" * 40)


def planned(
    found: Found, gpus: Fleet = L4, base: ModelFacts = BASE, **intent: Any
) -> tuple[Plan | Refused, dict[str, Any]]:
    asked = Intent(repository=base.repository, prefer_existing=True, **intent)
    outcome = plan(asked, base, gpus, VLLM_0_33, found=found.checkpoints)
    return outcome, discovery_status(base.repository, found, outcome)


def verdicts(status: dict[str, Any]) -> dict[str, str]:
    return {one["repository"]: one["verdict"] for one in status["candidates"]}


def message_of(status: dict[str, Any], repository: str) -> str:
    return next(str(one["message"]) for one in status["candidates"] if one["repository"] == repository)


AWQ = published("AWQ", "Qwen/Qwen2.5-7B-AWQ")
FP8 = published("FP8", "RedHatAI/Qwen2.5-7B-FP8")
STRANGER = Rejected("stranger/model", Rejection.NOT_TRUSTED, "stranger is on no list")


def test_the_one_in_the_plan_is_chosen_and_says_what_it_is() -> None:
    outcome, status = planned(Found((AWQ,), (STRANGER,)), fleet(node("Tesla-T4")))
    assert isinstance(outcome, Plan) and outcome.repository == AWQ.repository
    assert verdicts(status) == {AWQ.repository: "Chosen", STRANGER.repository: "Rejected"}
    assert message_of(status, AWQ.repository).startswith("W4A16 (AWQ, groups of 128), 5.2 GiB; on 1 x Tesla-T4")
    assert status["base"] == BASE.repository and status["considered"] == 2


def test_one_that_another_goes_before_says_what_that_is() -> None:
    gptq = published("GPTQ", "other/Qwen2.5-7B-GPTQ")
    outcome, status = planned(Found((AWQ, gptq)), fleet(node("Tesla-T4")))
    assert isinstance(outcome, Plan) and outcome.repository == AWQ.repository
    rival = next(one for one in status["candidates"] if one["repository"] == gptq.repository)
    assert rival["verdict"] == "Eligible" and rival["reason"] == "AnotherGoesBefore"
    assert AWQ.repository in rival["message"]


def test_a_dearer_placement_says_what_costs_less() -> None:
    cheap, dear = node("Tesla-T4", name="a"), node("NVIDIA-H100-80GB-HBM3", name="b")
    outcome, status = planned(Found((AWQ, FP8)), fleet(cheap, dear), concurrent_requests=30)
    assert isinstance(outcome, Plan) and outcome.repository == AWQ.repository
    assert verdicts(status)[FP8.repository] == "Eligible"
    assert "takes less GPU memory: 15.0 GiB instead of 79.6 GiB" in message_of(status, FP8.repository)


def test_with_prices_money_decides_and_is_said() -> None:
    cards = fleet(node("Tesla-T4", name="a"), node("NVIDIA-H100-80GB-HBM3", name="b"))
    priced = {"Tesla-T4": 0.35, "NVIDIA-H100-80GB-HBM3": 4.0}
    cards = replace(cards, classes=tuple(replace(gpu, price_per_hour=priced[gpu.product]) for gpu in cards.classes))
    _, status = planned(Found((AWQ, FP8)), cards, concurrent_requests=30)
    assert "costs less: 0.35 an hour instead of 4.00" in message_of(status, FP8.repository)


def test_a_checkpoint_that_no_gpu_here_runs_is_rejected_with_the_planners_reason() -> None:
    w8a8 = published("W8A8", "RedHatAI/Qwen2.5-7B-W8A8")
    outcome, status = planned(Found((w8a8,)), fleet(node("NVIDIA-V100", memory_mib=32768, capability="7.0")))
    assert isinstance(outcome, Refused)
    candidate = status["candidates"][0]
    assert candidate["verdict"] == "Rejected" and candidate["reason"] == "CapabilityTooLow"
    assert "7.0" in candidate["message"]


def test_groups_that_do_not_divide_over_the_gpus_needed_are_the_reason() -> None:
    base = model("Qwen2.5-72B").facts()
    awq = published("AWQ", "Qwen/Qwen2.5-72B-AWQ", "Qwen2.5-72B")
    _, status = planned(Found((awq,)), fleet(node("NVIDIA-A10", gpus=4)), base)
    candidate = status["candidates"][0]
    assert candidate["verdict"] == "Rejected" and candidate["reason"] == "NotDivisible"
    assert "NVIDIA-A10 x2" in candidate["message"] and "128" in candidate["message"]


def test_without_gpus_nothing_is_held_against_what_is_trusted() -> None:
    outcome, status = planned(Found((AWQ,)), Fleet())
    assert isinstance(outcome, Refused)
    assert status["candidates"][0] | {"message": ""} == {
        "repository": AWQ.repository, "verdict": "Eligible", "reason": outcome.reason, "message": "",
    }  # fmt: skip
    assert outcome.message in message_of(status, AWQ.repository)


def test_who_asks_without_gpus_gets_no_judgement_of_the_planner() -> None:
    assert [one.verdict for one in judged(Found((AWQ, FP8)))] == [Verdict.ELIGIBLE, Verdict.ELIGIBLE]


def test_another_objective_is_named() -> None:
    cards = fleet(node("NVIDIA-L4", name="a"), node("NVIDIA-H100-80GB-HBM3", name="b"))
    outcome, status = planned(Found((AWQ, FP8)), cards, objective=Objective.HIGHEST_QUALITY)
    assert isinstance(outcome, Plan)
    losers = [one for one in (AWQ, FP8) if one.repository != outcome.repository]
    assert losers and all(verdicts(status)[one.repository] == "Eligible" for one in losers)


def test_the_most_useful_come_first_and_the_list_is_bounded() -> None:
    strangers = tuple(Rejected(f"s{number}/m", Rejection.NOT_TRUSTED, "x" * 2000) for number in range(40))
    telling = Rejected("RedHatAI/broken", "TokenizerDiffers", "another vocabulary")
    useless = Rejected("aurora/gguf", "GgufOnly", "llama.cpp's format")
    notes = tuple(f"note {number}" for number in range(20))
    _, status = planned(Found((FP8, AWQ), (useless, telling, *strangers), notes), fleet(node("Tesla-T4")))
    listed = [one["repository"] for one in status["candidates"]]
    assert listed[0] == AWQ.repository and listed[2] == telling.repository and listed[3] == "s0/m"
    assert len(listed) == MAX_CANDIDATES and status["considered"] == 44 and useless.repository not in listed
    assert max(len(one["message"]) for one in status["candidates"]) == MAX_CANDIDATE_MESSAGE
    assert len(status["notes"]) == MAX_NOTES


def test_nothing_found_is_said_with_a_number_and_no_list() -> None:
    _, status = planned(Found())
    assert status == {"base": BASE.repository, "considered": 0}


def test_a_scheme_that_was_not_asked_for_is_said() -> None:
    outcome, status = planned(Found((AWQ, FP8)), scheme="FP8")
    assert isinstance(outcome, Plan) and outcome.repository == FP8.repository
    other = next(one for one in status["candidates"] if one["repository"] == AWQ.repository)
    assert (other["verdict"], other["reason"]) == ("Rejected", "NotWanted")
    assert "quantization.scheme FP8" in other["message"]


def test_one_line_counts_them() -> None:
    found = Found((AWQ, FP8), (STRANGER,))
    outcome, _ = planned(found, fleet(node("Tesla-T4")))
    said = found_sentence(BASE.repository, found, outcome)
    assert said == (
        f"{AWQ.repository} was found for {BASE.repository}; 1 more trusted, 1 rejected: "
        f"`kubequant find {BASE.repository}` shows why"
    )
    assert found_sentence(BASE.repository, Found(), outcome).startswith("no published checkpoint")


class OpenedByTheModelsTokenAlone(FakeHub):
    """The facts came from elsewhere; the operator itself is told that there is no such repository."""

    async def find(self, base: ModelFacts, *, fresh: bool = False) -> Found:
        raise RefusedModel(Reason.REPOSITORY_NOT_FOUND, "org/private is not there")


def test_a_base_that_cannot_be_searched_for_is_served_all_the_same() -> None:
    world = World(hub=OpenedByTheModelsTokenAlone(BASE)).model(model={"repository": BASE.repository})
    world.settle()
    assert world.conditions()["ModelResolved"] == ("True", "Resolved")
    status = world.body(QUANTIZED_MODEL)["status"]
    assert status["checkpoint"] == BASE.repository
    assert status["discovery"]["notes"] == ["published checkpoints could not be looked for: org/private is not there"]

"""`Hub.find`: what others have published of a base model, against the fake Hub's family of good and bad siblings."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import pytest

import kubequant
from kubequant.api.conditions import Reason
from kubequant.errors import Throttled, Unavailable
from kubequant.hub import discovery, examining, requests
from kubequant.hub.client import Hub
from kubequant.hub.trust import TRUSTED_PUBLISHERS, Rejection, owner_of, tier_of
from kubequant.planning.values import Found, ModelFacts, Rejected
from tests.fakehub import FakeHub, Fault, rate_limited
from tests.fakehub.chat_files import CHAT_TEMPLATE, chat_files
from tests.fakehub.content import BytesContent, Content
from tests.fakehub.family import BASE, Sibling, family, sibling
from tests.fakehub.repository import Repository
from tests.unit.hub.asking import with_hub

Answer = TypeVar("Answer")

GOOD = {
    Sibling.OWN_AWQ, Sibling.FP8_DYNAMIC, Sibling.W4A16, Sibling.LATER_TOOLS, Sibling.NO_RELATION, Sibling.LATE_RELATION,
    Sibling.INFERRED, Sibling.MOVED_TAG, Sibling.NO_LICENCE, Sibling.PICKLE_BESIDE, Sibling.NOT_SCANNED, Sibling.NAME_LIES,
}  # fmt: skip
BAD = {
    Sibling.UNTRUSTED: Rejection.NOT_TRUSTED,
    Sibling.LOOK_ALIKE: Rejection.NOT_TRUSTED,
    Sibling.WRONG_TOKENIZER: Rejection.TOKENIZER_DIFFERS,
    Sibling.NO_TOKENIZER: Rejection.TOKENIZER_DIFFERS,
    Sibling.CHANGED_TEMPLATE: Rejection.CHAT_TEMPLATE_DIFFERS,
    Sibling.WRONG_VOCABULARY: Rejection.SHAPE_DIFFERS,
    Sibling.FINE_TUNE: Rejection.SHAPE_DIFFERS,
    Sibling.OTHER_ARCHITECTURE: Rejection.SHAPE_DIFFERS,
    Sibling.WIDER_LICENCE: Rejection.LICENCE_WIDER,
    Sibling.CODE_FILES: Rejection.NEEDS_CODE,
    Sibling.PICKLE_ONLY: Rejection.NO_SAFETENSORS,
    Sibling.GGUF_ONLY: Rejection.GGUF_ONLY,
    Sibling.BITSANDBYTES: Rejection.UNSUPPORTED_QUANTIZATION,
    Sibling.GEMV: Rejection.UNSUPPORTED_QUANTIZATION,
    Sibling.GPTQ_3_BIT: Rejection.UNSUPPORTED_QUANTIZATION,
    Sibling.ADAPTER: Rejection.ADAPTER_ONLY,
    Sibling.GATED: Rejection.ACCESS_GATED,
    Sibling.DISABLED: Rejection.DISABLED,
    Sibling.UNSAFE: Rejection.MARKED_UNSAFE,
}


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@cache
def relatives() -> dict[str, Repository]:
    """The family, made once: no test here changes one of them."""
    return {one.id: one for one in family()}


@pytest.fixture(scope="module")
def whole_family() -> Iterator[FakeHub]:
    with FakeHub(relatives().values()) as hub:
        yield hub


@pytest.fixture
def few() -> Iterator[FakeHub]:
    """The base, two good siblings and one of nobody's."""
    kept = (BASE, Sibling.OWN_AWQ, Sibling.FP8_DYNAMIC, Sibling.UNTRUSTED)
    with FakeHub([relatives()[name] for name in kept], tokens={"hf_gate": (Sibling.GATED,)}) as hub:
        yield hub


def find(url: str, **options: Any) -> Found:
    return asking(url, lambda hub, base: hub.find(base), **options)


def asking(url: str, ask: Callable[[Hub, ModelFacts], Awaitable[Answer]], **options: Any) -> Answer:
    async def main(hub: Hub) -> Answer:
        return await ask(hub, await hub.describe(BASE))

    return with_hub(url, main, **options)


def taken(found: Found) -> list[str]:
    return [one.repository for one in found.checkpoints]


def verdict(found: Found, repository: str) -> Rejected:
    (one,) = [one for one in found.rejected if one.repository == repository]
    return one


def other(name: str, files: dict[str, Content], **more: Any) -> Repository:
    """A sibling with tokenizer files of its own."""
    return sibling(name, "awq", {**chat_files(), **files}, **more)


def stranger(number: int) -> Repository:
    """Nobody's, and downloaded the most; what its weights are nobody will ask."""
    card = f"---\nlicense: apache-2.0\nbase_model: {BASE}\nbase_model_relation: quantized\n---\n"
    files: dict[str, Content | bytes] = {"README.md": card.encode(), "config.json": b"{}", "model.safetensors": b""}
    return Repository.from_files(f"stranger{number}/Aurora-7B-Instruct-AWQ", files, downloads=10**6)


# --- The whole family -------------------------------------------------------------------------------------------------


def test_every_sibling_gets_the_verdict_it_deserves(whole_family: FakeHub) -> None:
    found = find(whole_family.url)
    assert set(taken(found)) == GOOD
    assert {one.repository: one.reason for one in found.rejected} == BAD
    assert Sibling.PRIVATE not in {*taken(found), *(one.repository for one in found.rejected)}


def test_the_most_trusted_come_first(whole_family: FakeHub) -> None:
    found = taken(find(whole_family.url))
    tiers = [tier_of(owner_of(one), BASE, TRUSTED_PUBLISHERS) for one in found]
    assert found[0] == Sibling.OWN_AWQ
    assert None not in tiers
    assert tiers == sorted(tiers)  # type: ignore[type-var]


def test_the_same_answer_comes_twice(whole_family: FakeHub) -> None:
    assert find(whole_family.url) == find(whole_family.url)


def test_facts_are_pinned_and_carry_what_a_reader_should_know(whole_family: FakeHub) -> None:
    by_name = {one.repository: one for one in find(whole_family.url).checkpoints}
    assert all(len(one.commit) == 40 and one.stored and one.checksums for one in by_name.values())
    assert any("has not scanned" in note for note in by_name[Sibling.NOT_SCANNED].notes)
    assert not any("scanned" in note for note in by_name[Sibling.OWN_AWQ].notes)


def test_messages_are_short_name_the_difference_and_say_what_to_do(whole_family: FakeHub) -> None:
    found = find(whole_family.url)
    assert not any(one.message.startswith(one.repository) for one in found.rejected)
    unfit = [one for one in found.rejected if len(one.message) > 600 or not one.message.isprintable()]
    assert unfit == []
    said = {
        Sibling.FINE_TUNE: "num_hidden_layers is 20, of the base 28",
        Sibling.WRONG_TOKENIZER: "its vocabulary (266 entries, of the base 266; 'and' is 262, of the base 260)",
        Sibling.NO_TOKENIZER: "it has no tokenizer",
        Sibling.CHANGED_TEMPLATE: "213 characters) is not the base's (167 characters)",
        Sibling.LOOK_ALIKE: "resembles RedHatAI's",
        Sibling.UNSAFE: "model-00001-of-00002.safetensors",
        Sibling.WIDER_LICENCE: "'mit', which permits more than 'apache-2.0'",
    }
    assert {name: text for name, text in said.items() if text not in verdict(found, name).message} == {}
    assert "spec.quantization.checkpoint" in verdict(found, Sibling.CHANGED_TEMPLATE).message


def test_files_of_one_digest_are_not_fetched(few: FakeHub) -> None:
    asking(few.url, _then_clear(few))
    assert few.requests.count(r"/resolve/.*/config\.json") >= 2
    assert few.requests.count(r"/resolve/.*/tokenizer\.json") == 0
    assert few.requests.count(r"/resolve/.*/chat_template") == 0


def _then_clear(served: FakeHub) -> Callable[[Hub, ModelFacts], Awaitable[Found]]:
    async def ask(hub: Hub, base: ModelFacts) -> Found:
        await _forget(served)
        return await hub.find(base)

    return ask


async def _forget(served: FakeHub) -> None:
    """Empties the log; what was answered a moment ago may not have reached it yet."""
    await asyncio.sleep(0.05)
    served.requests.clear()


# --- Whom to trust ----------------------------------------------------------------------------------------------------


def test_the_list_of_publishers_is_the_operators(few: FakeHub) -> None:
    assert taken(find(few.url)) == [Sibling.OWN_AWQ, Sibling.FP8_DYNAMIC]
    assert taken(find(few.url, publishers=())) == [Sibling.OWN_AWQ]
    assert taken(find(few.url, publishers=("somebody", "RedHatAI"))) == [
        Sibling.OWN_AWQ, Sibling.UNTRUSTED, Sibling.FP8_DYNAMIC
    ]  # fmt: skip


def test_who_lists_the_base_s_name_with_another_base_is_no_candidate(few: FakeHub) -> None:
    few.add(sibling("RedHatAI/Aurora-7B-Instruct-W4", "awq", card={"base_model": "aurora-ai/Aurora-7B-Instruct-v2"}))
    found = find(few.url)
    assert "RedHatAI/Aurora-7B-Instruct-W4" not in {*taken(found), *(one.repository for one in found.rejected)}


@pytest.mark.parametrize("token", [None, "hf_gate"])
def test_what_is_gated_is_not_for_pods_without_a_token_whatever_the_operator_s_opens(
    few: FakeHub, token: str | None
) -> None:
    few.add(relatives()[Sibling.GATED])
    found = find(few.url, token=lambda: token)
    assert Sibling.GATED not in taken(found)
    assert verdict(found, Sibling.GATED).reason == Rejection.ACCESS_GATED
    assert "spec.model.tokenSecretRef" in verdict(found, Sibling.GATED).message


def test_what_is_private_is_neither_taken_nor_told(few: FakeHub) -> None:
    few.add(relatives()[Sibling.PRIVATE])
    few.catalogue.tokens["hf_gate"] = {Sibling.PRIVATE}
    found = find(few.url, token=lambda: "hf_gate")
    assert taken(found) == [Sibling.OWN_AWQ, Sibling.FP8_DYNAMIC]
    assert Sibling.PRIVATE not in repr(found)
    assert few.requests.count(f"/{Sibling.PRIVATE}") == 0


@pytest.mark.parametrize("name", [Sibling.PRIVATE, Sibling.GATED])
def test_what_a_mirror_s_list_does_not_say_its_information_does(
    few: FakeHub, name: Sibling, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "LISTED", [one for one in requests.LISTED if one not in ("private", "gated")])
    few.add(relatives()[name])
    few.catalogue.tokens["hf_gate"] = {name}
    found = find(few.url, token=lambda: "hf_gate")
    assert taken(found) == [Sibling.OWN_AWQ, Sibling.FP8_DYNAMIC]
    assert "spec.model.tokenSecretRef" in verdict(found, name).message


MEDICAL = "nvidia/Aurora-7B-Instruct-Medical-FP8"


@pytest.mark.parametrize(
    ("name", "relation"),
    [
        (MEDICAL, None),
        (MEDICAL, "finetune"),
        (MEDICAL, "merge"),
        ("nvidia/Aurora-7B-Instruct-FP8", "finetune"),
        ("nvidia/Aurora-7B-Instruct-FP8", "Merge"),
        ("nvidia/Aurora-Guard-7B-FP8", None),
        ("nvidia/Aurora-7B-Instruct-merge-FP8", "adapter"),
    ],
)
def test_a_quantised_fine_tune_is_no_checkpoint_of_its_base(few: FakeHub, name: str, relation: str | None) -> None:
    """It has the base's shapes, tokenizer and template, and the hub infers "quantized" where its card says nothing."""
    stated = {"base_model_relation": relation} if relation else {}
    few.add(sibling(name, "fp8", card={"license": "apache-2.0", "base_model": BASE, **stated}))
    found = find(few.url)
    assert taken(found) == [Sibling.OWN_AWQ, Sibling.FP8_DYNAMIC]
    assert verdict(found, name).reason == Rejection.OTHER_MODEL
    assert few.requests.count(f"/{name}/resolve/") == 0


def test_a_base_that_cannot_be_read_is_compared_with_nothing(few: FakeHub) -> None:
    async def ask(hub: Hub, base: ModelFacts) -> Found:
        few.faults.add(Fault(f"/{BASE}/resolve/", times=100, status=403, headers={"X-Error-Code": "GatedRepo"}))
        return await hub.find(base)

    found = asking(few.url, ask)
    assert taken(found) == []
    assert verdict(found, Sibling.OWN_AWQ).reason == Rejection.NOT_COMPARABLE
    assert BASE in verdict(found, Sibling.OWN_AWQ).message


# --- Tokenizers and configs of all kinds ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"tokenizer.json": BytesContent(b"{")}, Rejection.CONFIG_INVALID),
        ({"tokenizer.json": BytesContent(b"[" * 100_000)}, Rejection.CONFIG_INVALID),
        ({"tokenizer_config.json": BytesContent(b'{"eos_token": "<|im_end|>"}')}, Rejection.CHAT_TEMPLATE_DIFFERS),
        ({"chat_template.jinja": BytesContent(CHAT_TEMPLATE.encode() + b"\n\n")}, None),
        ({"chat_template.jinja": BytesContent(b"{{ other }}")}, Rejection.CHAT_TEMPLATE_DIFFERS),
        ({"generation_config.json": BytesContent(b'{"eos_token_id": 5}')}, Rejection.TOKENIZER_DIFFERS),
    ],
)
def test_files_that_differ_decide_by_what_they_mean(
    few: FakeHub, files: dict[str, Content], reason: str | None
) -> None:
    few.add(other("RedHatAI/Aurora-7B-Instruct-INT4", files))
    found = find(few.url)
    if reason:
        assert verdict(found, "RedHatAI/Aurora-7B-Instruct-INT4").reason == reason
    else:
        assert "RedHatAI/Aurora-7B-Instruct-INT4" in taken(found)


@pytest.mark.parametrize(
    "declared",
    [{"max_position_embeddings": 131072}, {"rope_scaling": {"type": "yarn", "factor": 4.0}}, {"rms_norm_eps": 1e-2}],
)
def test_settings_that_change_the_model_make_another_of_it(few: FakeHub, declared: dict[str, Any]) -> None:
    few.add(sibling("RedHatAI/Aurora-7B-Instruct-INT4", "awq", declared=declared))
    assert verdict(find(few.url), "RedHatAI/Aurora-7B-Instruct-INT4").reason == Rejection.SHAPE_DIFFERS


def test_what_is_not_quantised_is_none(few: FakeHub) -> None:
    main = relatives()[BASE].find("main")
    assert main
    card = BytesContent(f"---\nbase_model: {BASE}\nbase_model_relation: quantized\n---\n".encode())
    few.add(Repository.from_files("RedHatAI/Aurora-7B-Instruct-bf16", {**main.files, "README.md": card}))
    assert verdict(find(few.url), "RedHatAI/Aurora-7B-Instruct-bf16").reason == Rejection.NOT_QUANTIZED


def test_where_the_base_has_no_tokenizer_nothing_can_be_compared() -> None:
    kept = relatives()[BASE].find("main")
    assert kept
    bare = {name: content for name, content in kept.files.items() if not name.startswith("tokenizer")}
    with FakeHub([Repository.from_files(BASE, bare), relatives()[Sibling.OWN_AWQ]]) as hub:
        found = find(hub.url)
    assert verdict(found, Sibling.OWN_AWQ).reason == Rejection.NOT_COMPARABLE
    assert f"{BASE}: that has no tokenizer itself." in verdict(found, Sibling.OWN_AWQ).message


# --- How much is asked ------------------------------------------------------------------------------------------------


def requests_of_find(served: FakeHub) -> int:
    asking(served.url, _then_clear(served))
    time.sleep(0.05)
    return served.requests.count()


def test_strangers_cost_nothing_until_a_list_is_full(few: FakeHub) -> None:
    alone = requests_of_find(few)
    assert alone <= 3 + 2 * 16
    for number in range(80):
        few.add(stranger(number))
    assert requests_of_find(few) == alone


def test_a_full_list_costs_one_request_a_publisher_and_no_stranger_hides_a_trusted_one(few: FakeHub) -> None:
    alone = requests_of_find(few)
    for number in range(250):
        few.add(stranger(number))
    assert requests_of_find(few) == alone + 1 + len(TRUSTED_PUBLISHERS)
    found = find(few.url)
    assert taken(found) == [Sibling.OWN_AWQ, Sibling.FP8_DYNAMIC]
    assert len(found.rejected) == discovery.MAX_CANDIDATES - 2
    assert "more than the 100" in found.notes[0]


def test_a_long_list_of_publishers_is_asked_for_in_part_and_that_is_said(few: FakeHub) -> None:
    publishers = [f"publisher{number}" for number in range(40)]
    for number in range(100):
        few.add(stranger(number))
    found = find(few.url, publishers=publishers)
    assert any("25 publishers after the first 16" in note for note in found.notes)
    assert few.requests.count("^/api/models$") == 2 + discovery.MAX_PUBLISHERS


def test_no_more_than_enough_are_read(few: FakeHub) -> None:
    for number in range(30):
        few.add(sibling(f"RedHatAI/Aurora-7B-Instruct-AWQ-v{number}", "awq"))
    found = find(few.url)
    assert len(found.checkpoints) == discovery.MAX_TAKEN
    assert {one.reason for one in found.rejected} == {Rejection.TOO_MANY, Rejection.NOT_TRUSTED}


def test_bad_ones_of_a_trusted_publisher_are_not_read_without_end(few: FakeHub) -> None:
    for number in range(40):
        few.add(sibling(f"RedHatAI/Aurora-7B-Instruct-AWQ-v{number}", "awq", {}))
    found = find(few.url)
    read = [one for one in found.rejected if one.reason == Rejection.TOKENIZER_DIFFERS]
    assert len(read) + len(found.checkpoints) == discovery.MAX_READ


def test_found_once_is_found_for_an_hour_by_all(few: FakeHub) -> None:
    clock = Clock()

    async def counted() -> int:
        await asyncio.sleep(0.05)
        return few.requests.count()

    async def over_time(hub: Hub, base: ModelFacts) -> list[int]:
        await _forget(few)
        crowd = await asyncio.gather(*(hub.find(base) for _ in range(50)))
        assert len({id(one) for one in crowd}) == 1
        counts = [await counted()]
        clock.now += 3599
        assert await hub.find(base) is crowd[0]
        counts.append(await counted())
        clock.now += 2
        assert await hub.find(base) == crowd[0]
        counts.append(await counted())
        assert await hub.find(base, fresh=True) == crowd[0]
        counts.append(await counted())
        return counts

    first, within, after, fresh = asking(few.url, over_time, clock=clock)
    assert first == within
    assert after - within == 3  # the base and two lists: verdicts on a commit stand
    assert fresh - after > 3


def test_a_new_commit_of_a_candidate_is_read_anew(few: FakeHub) -> None:
    clock = Clock()
    added = sibling("RedHatAI/Aurora-7B-Instruct-INT4", "awq", {})
    few.add(added)

    async def over_time(hub: Hub, base: ModelFacts) -> list[Found]:
        before = await hub.find(base)
        main = added.find("main")
        assert main
        added.commit({**main.files, **chat_files()})
        clock.now += 3601
        return [before, await hub.find(base)]

    before, after = asking(few.url, over_time, clock=clock)
    assert verdict(before, added.id).reason == Rejection.TOKENIZER_DIFFERS
    assert added.id in taken(after)


# --- Trouble ----------------------------------------------------------------------------------------------------------


def test_one_candidate_that_fails_does_not_fail_the_others_and_is_asked_again_soon(few: FakeHub) -> None:
    clock = Clock()

    async def over_time(hub: Hub, base: ModelFacts) -> list[Found]:
        few.faults.add(Fault(f"/{Sibling.FP8_DYNAMIC}/resolve/", times=100, status=503))
        first = await hub.find(base)
        few.faults.clear()
        clock.now += 59
        assert await hub.find(base) is first
        clock.now += 120
        return [first, await hub.find(base)]

    first, second = asking(few.url, over_time, clock=clock)
    assert (first.partial, second.partial) == (True, False)
    assert taken(first) == [Sibling.OWN_AWQ]
    assert verdict(first, Sibling.FP8_DYNAMIC).reason == Rejection.COULD_NOT_BE_READ
    assert taken(second) == [Sibling.OWN_AWQ, Sibling.FP8_DYNAMIC]


def test_a_slow_candidate_is_given_up_and_the_others_are_found(few: FakeHub) -> None:
    async def ask(hub: Hub, base: ModelFacts) -> Found:
        few.faults.add(Fault(f"/{Sibling.FP8_DYNAMIC}/resolve/.*safetensors", times=100, delay_seconds=5))
        return await hub.find(base)

    found = asking(few.url, ask, deadline_seconds=1.0)
    assert taken(found) == [Sibling.OWN_AWQ]
    assert verdict(found, Sibling.FP8_DYNAMIC).reason == Rejection.COULD_NOT_BE_READ


def test_a_candidate_whose_files_drip_is_given_up(few: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examining, "CANDIDATE_SECONDS", 1.0)
    few.add(other("RedHatAI/Aurora-7B-Instruct-INT4", {"tokenizer.json": BytesContent(b"{" + b" " * 500_000 + b"}")}))

    async def ask(hub: Hub, base: ModelFacts) -> Found:
        few.faults.add(Fault("INT4/resolve/.*/tokenizer.json", times=100, bytes_per_second=20_000))
        return await hub.find(base)

    found = asking(few.url, ask)
    assert taken(found) == [Sibling.OWN_AWQ, Sibling.FP8_DYNAMIC]
    assert verdict(found, "RedHatAI/Aurora-7B-Instruct-INT4").reason == Rejection.COULD_NOT_BE_READ
    assert "longer than 1 s" in verdict(found, "RedHatAI/Aurora-7B-Instruct-INT4").message


def test_a_base_whose_only_candidate_never_answers_is_found_to_have_none(few: FakeHub) -> None:
    """And the hub is not taken to be away for it: others, and other repositories, answer."""

    async def ask(hub: Hub, base: ModelFacts) -> list[Found]:
        for name in (Sibling.FP8_DYNAMIC, Sibling.OWN_AWQ):
            few.faults.add(Fault(f"/{name}/resolve/.*/model-0000", times=10**6, status=500))
        found = []
        for _ in range(3):
            found.append(await hub.find(base, fresh=True))
            assert (await hub.describe(BASE, fresh=True)).commit == base.commit
        return found

    for found in asking(few.url, ask):
        assert (taken(found), found.partial) == ([], True)
        assert verdict(found, Sibling.FP8_DYNAMIC).reason == Rejection.COULD_NOT_BE_READ
        assert "HTTP 500" in verdict(found, Sibling.FP8_DYNAMIC).message
        assert not re.search(r"again soon|again after|again later", verdict(found, Sibling.FP8_DYNAMIC).message)


def test_where_all_fail_it_is_the_hub(few: FakeHub) -> None:
    async def ask(hub: Hub, base: ModelFacts) -> str:
        few.faults.add(Fault("/resolve/", times=1000, status=503))
        with pytest.raises(Unavailable) as caught:
            await hub.find(base)
        return caught.value.message

    assert "503" in asking(few.url, ask)


@pytest.mark.parametrize("path", ["^/api/models$", f"/{Sibling.FP8_DYNAMIC}/"])
def test_a_rate_limit_is_the_operator_s_and_is_passed_on(few: FakeHub, path: str) -> None:
    async def ask(hub: Hub, base: ModelFacts) -> float | None:
        few.faults.add(rate_limited(path, times=100, reset_seconds=33))
        with pytest.raises(Throttled) as caught:
            await hub.find(base)
        return caught.value.retry_after_seconds

    wait = asking(few.url, ask)
    assert wait is not None and wait >= 33


def test_a_search_that_a_rate_limit_ended_goes_on_where_it_was(few: FakeHub) -> None:
    clock = Clock()

    async def ask(hub: Hub, base: ModelFacts) -> Found:
        refused = rate_limited(f"/{Sibling.FP8_DYNAMIC}/resolve/.*safetensors")
        few.faults.add(replace(refused, delay_seconds=1.0))  # the other candidate is read to its end meanwhile
        with pytest.raises(Throttled):
            await hub.find(base)
        clock.now += 400
        await _forget(few)
        return await hub.find(base)

    assert taken(asking(few.url, ask, clock=clock)) == [Sibling.OWN_AWQ, Sibling.FP8_DYNAMIC]
    again = few.requests.select("config.json|^/api/models", role="hub")
    assert [one.path for one in again if Sibling.FP8_DYNAMIC not in one.path] == []


@pytest.mark.parametrize("status", [404, 405, 501])
def test_a_hub_without_lists_is_said_and_nothing_is_found(few: FakeHub, status: int) -> None:
    async def ask(hub: Hub, base: ModelFacts) -> Found:
        few.faults.add(Fault("^/api/models$", times=10, status=status))
        return await hub.find(base)

    found = asking(few.url, ask)
    assert (found.checkpoints, found.rejected) == ((), ())
    assert f"HTTP {status}" in found.notes[0]


def test_a_mirror_serves_models_and_has_no_lists() -> None:
    with FakeHub([relatives()[BASE], relatives()[Sibling.OWN_AWQ]], mirror=True) as mirror:
        found = find(mirror.url)
    assert found.checkpoints == ()
    assert "Name one under spec.quantization.checkpoint" in found.notes[0]


def test_a_base_that_only_the_user_s_token_opens_is_compared_with_nothing(few: FakeHub) -> None:
    async def ask(hub: Hub, base: ModelFacts) -> Found:
        return await hub.find(replace(base, repository="aurora-ai/Private"))

    found = asking(few.url, ask)
    assert (found.checkpoints, found.rejected) == ((), ())
    assert "cannot see aurora-ai/Private" in found.notes[0]


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "config.json", "generation_config.json"])
@pytest.mark.parametrize("depth", [300, 900, 50_000])
def test_deep_documents_of_a_candidate_spoil_nothing(few: FakeHub, name: str, depth: int) -> None:
    files = {"config.json": BytesContent(b"{}"), **chat_files()}
    told = json.loads(files[name].read(0, files[name].size))
    deep = json.dumps(told)[:-1] + (", " if told else "") + f'"decoder": {"[" * depth}{"]" * depth}}}'
    few.add(other("RedHatAI/Aurora-7B-Instruct-INT4", {name: BytesContent(deep.encode())}))
    found = find(few.url)
    assert taken(found)[:1] == [Sibling.OWN_AWQ]
    assert "RedHatAI/Aurora-7B-Instruct-INT4" in {*taken(found), *(one.repository for one in found.rejected)}


def test_odd_entries_of_a_list_are_left_out(few: FakeHub) -> None:
    few.add(sibling("RedHatAI/Aurora-7B-Instruct-INT4", "awq", card={"license": ["x"] * 50, "base_model": {"a": 1}}))
    few.add(sibling("RedHatAI/Aurora-7B-Instruct-INT8", "awq", created_at="yesterday"))
    few.add(sibling("odd--name/Aurora-7B-Instruct-INT4", "awq"))
    found = find(few.url)
    assert Sibling.OWN_AWQ in taken(found)
    assert "odd--name/Aurora-7B-Instruct-INT4" not in {one.repository for one in found.rejected}


# --- What is no base, and whose base it is ----------------------------------------------------------------------------


def test_nothing_is_looked_for_of_what_is_quantised_or_on_no_hub(few: FakeHub) -> None:
    async def ask(hub: Hub, base: ModelFacts) -> list[Found]:
        quantised = await hub.describe(Sibling.OWN_AWQ)
        await _forget(few)
        return [await hub.find(quantised), await hub.find(replace(base, repository="folder", commit="local"))]

    for found in asking(few.url, ask):
        assert (found.checkpoints, found.rejected, len(found.notes)) == ((), (), 1)
    assert few.requests.count() == 0


@pytest.mark.parametrize(
    ("repository", "base"),
    [(Sibling.OWN_AWQ, BASE), (Sibling.LATE_RELATION, BASE), (Sibling.INFERRED, BASE), (Sibling.NO_RELATION, None), (BASE, None)],
)  # fmt: skip
def test_the_base_that_a_repository_names(whole_family: FakeHub, repository: str, base: str | None) -> None:
    assert with_hub(whole_family.url, lambda hub: hub.base_of(repository)) == base


def test_every_reason_that_a_description_can_give_is_a_rejection() -> None:
    package = Path(kubequant.__file__).parent
    read = [path for path in package.glob("hub/*.py") if path.name != "local.py"]  # folders are no candidates
    read += [*package.glob("planning/architectures/*.py")]
    read += [
        package / "planning" / name for name in ("quantization.py", "quantization_fields.py", "compressed_tensors.py")
    ]
    named = {name for path in read for name in re.findall(r"Reason\.([A-Z_]+)", path.read_text())}
    assert {"CORRUPT_CHECKPOINT", "REPOSITORY_NOT_FOUND", "UNSUPPORTED_ARCHITECTURE"} <= named
    passing = {"HUB_THROTTLED", "HUB_UNAVAILABLE", "DISCOVERING"}
    assert {Reason[name].value for name in named - passing} <= {word.value for word in Rejection}

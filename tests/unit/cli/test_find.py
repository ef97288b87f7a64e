"""`kubequant find` against the fake Hub's family of checkpoints."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakehub import FakeHub, rate_limited
from tests.fakehub.family import BASE, Sibling, family, sibling
from tests.fakehub.standard import STANDARD_TOKENS, standard_repositories
from tests.unit.cli.making import answer, run

STRANGER = "Strangers-Models/Aurora-7B-Instruct-AWQ"


@pytest.fixture(scope="module")
def served() -> Iterator[FakeHub]:
    with FakeHub(standard_repositories(), tokens=STANDARD_TOKENS) as hub:
        yield hub


@pytest.fixture
def hub(served: FakeHub, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    monkeypatch.setenv("KUBEQUANT_HUB__ENDPOINT", served.url)
    return served


def found(*arguments: str, code: int = 0) -> dict[str, Any]:
    done = run("find", *arguments, "-o", "json")
    assert done.exit_code == code, done.output
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def main_of(hub: FakeHub, repository: str) -> str:
    return hub.catalogue.repositories[repository].branches["main"]


def reasons(document: dict[str, Any]) -> dict[str, str]:
    return {one["repository"]: one["reason"] for one in document["rejected"]}


def test_every_sibling_that_the_hub_lists_is_accounted_for(hub: FakeHub) -> None:
    document = found(BASE)
    seen = {one["repository"] for one in (*document["checkpoints"], *document["rejected"])}
    assert set(map(str, Sibling)) - seen <= {Sibling.PRIVATE}
    assert document["base"]["repository"] == BASE and len(document["base"]["commit"]) == 40
    own = document["checkpoints"][0]
    assert (own["repository"], own["publisher"], own["scheme"], own["method"], own["groupSize"]) == (
        Sibling.OWN_AWQ, "aurora-ai", "W4A16", "AWQ", 128,
    )  # fmt: skip
    assert own["commit"] == main_of(hub, Sibling.OWN_AWQ)
    rejected = reasons(document)
    assert rejected[Sibling.UNTRUSTED] == "NotTrusted"
    assert rejected[Sibling.WRONG_TOKENIZER] == "TokenizerDiffers"
    assert rejected[Sibling.CHANGED_TEMPLATE] == "ChatTemplateDiffers"
    assert rejected[Sibling.CODE_FILES] == "NeedsCode"
    assert all(one["message"] for one in document["rejected"])


def test_text_has_commits_sizes_and_every_rejection(hub: FakeHub) -> None:
    done = run("find", BASE)
    assert done.exit_code == 0, done.output
    own = main_of(hub, Sibling.OWN_AWQ)
    row = next(line for line in done.stdout.splitlines() if line.split()[:1] == [Sibling.OWN_AWQ])
    assert row.split() == [Sibling.OWN_AWQ, "W4A16", "AWQ", "128", "5.2", "GiB", "aurora-ai", own[:12]]
    assert f"  TokenizerDiffers: {Sibling.WRONG_TOKENIZER}: " in done.stdout
    assert f"  NotTrusted: {Sibling.UNTRUSTED}: " in done.stdout and "additionalPublishers" in done.stdout
    assert f"  NotTrusted: {Sibling.LOOK_ALIKE}: " in done.stdout


def test_of_many_with_one_reason_the_first_are_shown_and_the_rest_counted(hub: FakeHub, tmp_path: Path) -> None:
    file = tmp_path / "operator.yaml"
    file.write_text("discovery: {publishers: []}")
    counted, whole = (run("find", BASE, "--config", file, *flags).stdout for flags in ((), ("--all",)))
    strangers = sum(reason == "NotTrusted" for reason in reasons(found(BASE, "--config", str(file))).values())
    assert counted.count("  NotTrusted: ") == 6 and f"  NotTrusted: {strangers - 5} more, which --all shows" in counted
    assert whole.count("  NotTrusted: ") == strangers > 6 and "more, which" not in whole


def test_a_publisher_that_is_trusted_for_once(hub: FakeHub) -> None:
    document = found(BASE, "--publisher", "somebody")
    assert Sibling.UNTRUSTED not in {name for name, reason in reasons(document).items() if reason == "NotTrusted"}


def test_the_configuration_decides_whom_to_trust(hub: FakeHub, tmp_path: Path) -> None:
    file = tmp_path / "operator.yaml"
    file.write_text("discovery: {publishers: [somebody]}")
    document = found(BASE, "--config", str(file))
    assert [one["publisher"] for one in document["checkpoints"]] == ["aurora-ai", "somebody"]
    assert reasons(document)[Sibling.FP8_DYNAMIC] == "NotTrusted"


def test_on_gpus_the_planner_has_its_say(hub: FakeHub) -> None:
    document = found(BASE, "--gpu", "T4")
    verdicts = {one["repository"]: (one["verdict"], one["reason"]) for one in document["checkpoints"]}
    assert verdicts[Sibling.OWN_AWQ] == ("Chosen", None)
    assert verdicts[Sibling.W4A16] == ("Eligible", "AnotherGoesBefore")
    assert document["fits"] and document["plan"] == answer(BASE, "--gpu", "T4", "--existing")[1]["plan"]
    assert document["plan"]["gpuProduct"] == "Tesla-T4"
    shown = run("find", BASE, "--gpu", "T4").stdout
    assert "on the GPUs given\n" in shown and "Chosen" in shown


def test_gpus_that_run_none_of_them_end_with_three(hub: FakeHub, tmp_path: Path) -> None:
    file = tmp_path / "operator.yaml"
    file.write_text("discovery: {publishers: []}")
    document = found(BASE, "--config", str(file), "--gpu", "Tesla-V100-SXM2-16GB", code=3)
    assert document["found"] is False
    assert [(one["verdict"], bool(one["reason"])) for one in document["checkpoints"]] == [("Rejected", True)]


def test_a_checkpoint_leads_to_its_base(hub: FakeHub) -> None:
    document = found(Sibling.W4A16)
    assert document["base"]["repository"] == BASE
    assert document["asked"]["repository"] == Sibling.W4A16 and "W4A16" in document["asked"]["message"]
    assert f"it names {BASE} as its base" in run("find", Sibling.W4A16).stdout


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (Sibling.GGUF_ONLY, "GgufOnly"),
        (Sibling.BITSANDBYTES, "UnsupportedQuantization"),
        (Sibling.ADAPTER, "AdapterOnly"),
    ],
)
def test_what_cannot_be_served_leads_to_its_base_too(hub: FakeHub, name: Sibling, reason: str) -> None:
    document = found(name)
    assert document["base"]["repository"] == BASE
    assert document["asked"]["message"].startswith(f"cannot be served ({reason})")


def test_a_checkpoint_that_names_no_base_says_what_to_do(hub: FakeHub) -> None:
    hub.add(sibling("loner/Model-AWQ", "awq", card={"license": "mit"}))
    done = run("find", "loner/Model-AWQ")
    assert done.exit_code == 3 and "names no base model" in done.stdout and "W4A16 (AWQ" in done.stdout


def test_a_gated_base_is_said_with_the_checkpoint_that_named_it(hub: FakeHub) -> None:
    done = run("find", "RedHatAI/Meta-Llama-3.1-8B-Instruct-FP8-dynamic")
    assert done.exit_code == 3
    assert (
        "refused (AccessGated)" in done.stdout and "names meta-llama/Llama-3.1-8B-Instruct as its base" in done.stdout
    )


def test_a_model_of_which_nobody_published_anything(hub: FakeHub) -> None:
    document = found("mistralai/Mistral-7B-v0.1", code=3)
    assert (document["found"], document["checkpoints"], document["rejected"]) == (False, [], [])
    said = run("find", "mistralai/Mistral-7B-v0.1").stdout
    assert "no checkpoint of it is published on this hub: serve it unquantised, or quantise it yourself" in said


def test_a_refused_model_is_a_document_too(hub: FakeHub) -> None:
    document = found("nobody/nothing", code=3)
    assert document["found"] is False and document["reason"] == "RepositoryNotFound"


def test_strangers_names_cannot_write_to_a_terminal(hub: FakeHub) -> None:
    hub.add(sibling(STRANGER, "awq", card={"license": "\x1b[2Jmit\x07", "base_model": BASE}))
    shown = run("find", BASE, "--all").stdout
    assert STRANGER in shown and "\x1b" not in shown and "\x07" not in shown


def test_discovery_that_is_switched_off_is_noted(hub: FakeHub) -> None:
    document = found(BASE)
    off = json.loads(run("find", BASE, "-o", "json", KUBEQUANT_DISCOVERY__ENABLED="false").stdout)
    assert [note for note in off["notes"] if note not in document["notes"]] == [
        "discovery.enabled is false in this configuration: the operator looks for no checkpoint by itself"
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("bad",), "is no repository"),
        ((BASE, "--publisher", "a b"), "--publisher a b: the name of an organisation"),
        ((BASE, "--gpu", "RTX-4909"), "no GPU called"),
        ((BASE, "--fleet", "-", "--gpu", "L4"), "give one of them"),
    ],
)
def test_misuse_ends_with_two_before_anybody_is_asked(hub: FakeHub, arguments: tuple[str, ...], said: str) -> None:
    hub.requests.clear()
    done = run("find", *arguments)
    assert done.exit_code == 2 and said in done.stderr, done.output
    assert hub.requests.count() == 0


def test_no_hub_ends_with_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBEQUANT_HUB__ENDPOINT", "http://127.0.0.1:9")
    done = run("find", BASE)
    assert done.exit_code == 1 and "no answer yet (HubUnavailable)" in done.stderr


def test_a_mirror_without_lists_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeHub(standard_repositories(), mirror=True) as mirror:
        monkeypatch.setenv("KUBEQUANT_HUB__ENDPOINT", mirror.url)
        document = found(BASE, code=3)
    assert document["checkpoints"] == document["rejected"] == []
    assert "spec.quantization.checkpoint" in document["notes"][0]


def test_a_hub_that_asks_for_patience_ends_with_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeHub(standard_repositories()) as throttled:
        monkeypatch.setenv("KUBEQUANT_HUB__ENDPOINT", throttled.url)
        throttled.faults.add(rate_limited(times=100, reset_seconds=60))
        done = run("find", BASE)
    assert done.exit_code == 1 and "no answer yet (HubThrottled)" in done.stderr, done.output


def test_a_manifest_decides_whether_its_plan_looks_for_checkpoints(hub: FakeHub, tmp_path: Path) -> None:
    file = tmp_path / "model.yaml"
    spec: dict[str, Any] = {"model": {"repository": BASE}, "quantization": {"scheme": "W4A16"}}
    planned = {}
    for discovery in ("Trusted", "Disabled"):
        spec["quantization"]["discovery"] = discovery
        file.write_text(json.dumps({"kind": "QuantizedModel", "metadata": {"name": "m"}, "spec": spec}))
        planned[discovery] = json.loads(run("plan", "-f", file, "--gpu", "L4", "-o", "json").stdout)
    assert planned["Trusted"]["discovery"]["candidates"][0]["verdict"] == "Chosen"
    assert "discovery" not in planned["Disabled"] and planned["Disabled"]["plan"]["predicted"] is True


def test_plan_takes_what_is_found_and_says_so(hub: FakeHub) -> None:
    done = run("plan", BASE, "--gpu", "T4")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith(f"{Sibling.OWN_AWQ} (W4A16, Marlin) on 1 x Tesla-T4")
    assert (
        f"{Sibling.OWN_AWQ} was found for {BASE}; " in done.stdout
        and f"`kubequant find {BASE}` shows why" in done.stdout
    )
    document = json.loads(run("plan", BASE, "--gpu", "T4", "-o", "json").stdout)
    assert document["discovery"]["candidates"][0]["repository"] == Sibling.OWN_AWQ
    deployment = run("plan", BASE, "--gpu", "T4", "-o", "manifest").stdout
    assert main_of(hub, Sibling.OWN_AWQ) in deployment and "--served-model-name" in deployment


def test_plan_looks_for_nothing_where_told_so(hub: FakeHub, tmp_path: Path) -> None:
    hub.requests.clear()
    document = json.loads(run("plan", BASE, "--gpu", "T4", "--no-discovery", "-o", "json").stdout)
    assert "discovery" not in document and document["plan"]["predicted"] is True
    assert hub.requests.count("AWQ") == 0
    off = json.loads(run("plan", BASE, "--gpu", "T4", "-o", "json", KUBEQUANT_DISCOVERY__ENABLED="false").stdout)
    assert off == document


def test_the_family_is_whole() -> None:
    """What the tests above count on."""
    assert {repository.id for repository in family()} == {BASE, *map(str, Sibling)}

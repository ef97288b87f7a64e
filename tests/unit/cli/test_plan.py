"""`kubequant plan` without a cluster: fits, refused, misused; as text, JSON, YAML and a Deployment."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from kubequant.cli import asking
from kubequant.cli.options import FleetOptions, PlanOptions
from kubequant.planning.values import Plan, Refused
from tests.fakehub.tensors import model_tensors
from tests.unit.cli.making import answer, llama_70b_awq, model_folder, node, qwen_7b_awq, run

GIB = 1024**3


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return qwen_7b_awq(tmp_path_factory.mktemp("models") / "qwen-awq")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llama_70b_awq(tmp_path_factory.mktemp("models") / "llama-70b-awq")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("models") / "llama-8b", "llama-3.1-8b", model_tensors("llama-3.1-8b"))


# --- fits ------------------------------------------------------------------------------------------------------------


def test_json_has_the_fields_of_the_status(qwen: Path) -> None:
    code, document = answer("--model-path", qwen, "--gpu", "L4")
    assert code == 0 and document["fits"] is True
    assert set(document) == {"fits", "plan", "alternatives", "refusals"}
    plan = document["plan"]
    assert (plan["gpuProduct"], plan["gpusPerReplica"], plan["scheme"]) == ("NVIDIA-L4", 1, "W4A16")
    assert (plan["method"], plan["kernel"], plan["kvCacheDtype"]) == ("AWQ", "Marlin", "FP8")
    assert plan["contextTokens"] == 32768 and plan["kvCacheTokens"] > 32768
    assert plan["arguments"][:2] == ["--served-model-name", "qwen-awq"]
    memory = plan["memory"]
    inside = ("weights", "activation", "cudaGraphs", "nonTorch", "margin", "kvCache")
    assert sum(memory[name] for name in inside) == memory["usable"] < memory["total"]


def test_every_scheme_competes_unless_what_exists_goes_first(base: Path, tmp_path: Path) -> None:
    """A manifest is planned as the operator would: it serves checkpoints and makes none."""
    flags = ("--gpu", "H100", "--objective", "HighestThroughput", "--concurrency", 64)
    _, free = answer("--model-path", base, *flags)
    _, existing = answer("--model-path", base, *flags, "--existing")
    assert (free["plan"]["scheme"], free["plan"]["predicted"]) == ("FP8", True)
    assert existing["plan"]["scheme"] == "Unquantized"


def test_flags_become_planning_inputs(qwen: Path) -> None:
    code, document = answer(
        "--model-path", qwen, "--gpu", "L4", "--context", 4096, "--concurrency", 8, "--tokens-per-request", 1000,
        "--scheme", "w4a16", "--objective", "lowestlatency", "--kv-cache-dtype", "bf16",
    )  # fmt: skip
    plan = document["plan"]
    assert code == 0
    assert (plan["contextTokens"], plan["concurrentRequests"], plan["objective"]) == (4096, 8, "LowestLatency")
    assert plan["kvCacheDtype"] == "F16"  # AWQ's own 16 bit
    assert "--max-num-seqs" in plan["arguments"] and "4096" in plan["arguments"]


def test_alternatives_come_with_their_figures(qwen: Path) -> None:
    _, document = answer("--model-path", qwen, "--gpu", "L4:4", "--gpu", "RTX-4090")
    assert {(other["gpuProduct"], other["gpus"]) for other in document["alternatives"]} >= {
        ("NVIDIA-L4", 2),
        ("NVIDIA-GeForce-RTX-4090", 1),
    }
    first = document["alternatives"][0]
    assert first["kvCacheTokens"] > 0 and first["memoryBytes"] > 20 * GIB and first["scheme"] == "W4A16"


def test_the_same_question_has_the_same_answer(qwen: Path) -> None:
    asked = ("plan", "--model-path", qwen, "--gpu", "L4", "--gpu", "H100:8")
    assert run(*asked).stdout == run(*asked).stdout


def test_text_draws_the_memory_and_has_no_colours(qwen: Path) -> None:
    done = run("plan", "--model-path", qwen, "--gpu", "L4:2")
    assert done.exit_code == 0 and "\x1b" not in done.output
    lines = done.stdout.splitlines()
    assert lines[0] == "qwen-awq (W4A16, Marlin) on 1 x NVIDIA-L4"
    bar = next(line for line in lines if line.startswith("  [W"))
    assert len(bar) == 2 + 74 and list(dict.fromkeys(bar[3:-1])) == list("WAGNMK.")
    for said in ("W weights ", "K KV cache ", "tokens promised", "also fits", "2 x NVIDIA-L4", "--max-model-len 32768"):
        assert said in done.stdout


def test_a_roofline_is_called_a_bound(qwen: Path) -> None:
    done = run("plan", "--model-path", qwen, "--gpu", "L4")
    assert "roofline bounds that no engine exceeds, not predictions" in done.stdout


def test_yaml_says_what_json_says(qwen: Path) -> None:
    done = run("plan", "--model-path", qwen, "--gpu", "L4", "-o", "yaml")
    assert done.exit_code == 0 and yaml.safe_load(done.stdout) == answer("--model-path", qwen, "--gpu", "L4")[1]


@pytest.mark.parametrize("kind", ["nothing fits", "the model itself"])
def test_a_refusal_in_yaml_says_what_json_says(llama: Path, tmp_path: Path, kind: str) -> None:
    asked = ("--model-path", llama if kind == "nothing fits" else tmp_path, "--gpu", "RTX-4090")
    done = run("plan", *asked, "-o", "yaml")
    assert done.exit_code == 3, done.output
    assert yaml.safe_load(done.stdout) == answer(*asked)[1]
    assert {"nothing fits": "reason: DoesNotFit", "the model itself": "reason: NoSafetensors"}[kind] in done.stdout


def test_manifest_is_the_deployment(qwen: Path) -> None:
    done = run("plan", "--model-path", qwen, "--gpu", "L4:4", "-o", "manifest")
    assert done.exit_code == 0 and "which is a folder here and on no hub" in done.stderr
    made = yaml.safe_load(done.stdout)
    assert (made["apiVersion"], made["kind"]) == ("apps/v1", "Deployment")
    assert made["metadata"]["name"] == "qwen-awq" and "ownerReferences" not in made["metadata"]
    (engine,) = made["spec"]["template"]["spec"]["containers"]
    plan = answer("--model-path", qwen, "--gpu", "L4:4")[1]["plan"]
    assert engine["args"][7 : 7 + len(plan["arguments"])] == plan["arguments"]
    assert engine["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_a_checkpoint_to_be_made_is_a_plan_but_no_deployment(base: Path) -> None:
    asked = ("--model-path", base, "--gpu", "RTX-4090", "--scheme", "W4A16")
    code, document = answer(*asked)
    assert code == 0 and document["plan"]["predicted"] is True
    done = run("plan", *asked, "-o", "manifest")
    assert done.exit_code == 3 and done.stdout == "" and "NoCheckpoint" in done.stderr


# --- money -----------------------------------------------------------------------------------------------------------


def test_cost_needs_a_price_and_a_throughput(qwen: Path) -> None:
    asked = ("--model-path", qwen, "--gpu", "L4")
    assert "costPerMillionTokens" not in answer(*asked, "--price", "L4=0.72")[1]
    document = answer(*asked, "--price", "nvidia-l4=0.72", "--throughput", 1000)[1]
    assert document["pricePerHour"] == 0.72
    assert document["costPerMillionTokens"] == pytest.approx(0.2)
    text = run("plan", *asked, "--price", "L4=0.72", "--throughput", 1000).stdout
    assert "0.20 per million tokens, if one replica gives 1,000 tokens/s, as --throughput says" in text
    without = run("plan", *asked, "--throughput", 1000)
    assert without.exit_code == 0 and "per million" not in without.stdout
    assert "--throughput needs --price NVIDIA-L4=" in without.stderr


# --- refused ---------------------------------------------------------------------------------------------------------


def test_70b_awq_is_refused_on_one_24_gb_card(llama: Path) -> None:
    code, document = answer("--model-path", llama, "--gpu", "RTX-4090")
    assert code == 3
    assert (document["fits"], document["plan"], document["reason"]) == (False, None, "DoesNotFit")
    assert set(document) == {"fits", "reason", "message", "plan", "alternatives", "refusals"}
    (refusal,) = document["refusals"]
    assert (refusal["gpuProduct"], refusal["gpus"], refusal["scheme"]) == ("NVIDIA-GeForce-RTX-4090", 1, "W4A16")
    assert refusal["reason"] == "WeightsDoNotFit"
    assert 37.0 <= refusal["numbers"]["weights_bytes"] / GIB < 37.2
    for message in (document["message"], refusal["message"]):
        assert "weights need 37." in message and "available" in message


def test_70b_awq_on_four_cards_fits(llama: Path) -> None:
    code, document = answer("--model-path", llama, "--gpu", "RTX-4090:4")
    assert code == 0 and document["plan"]["gpusPerReplica"] == 4
    refused = {refusal["gpus"]: refusal["reason"] for refusal in document["refusals"]}
    assert refused.keys() == {1, 2} and refused[1] == "WeightsDoNotFit"


def test_a_refusal_in_text_says_what_would_help(llama: Path) -> None:
    done = run("plan", "--model-path", llama, "--gpu", "RTX-4090")
    assert done.exit_code == 3
    assert done.stdout.startswith("refused (DoesNotFit): ") and "What would help:" in done.stdout
    assert "  WeightsDoNotFit: NVIDIA-GeForce-RTX-4090 x1: W4A16 weights need 37." in done.stdout


def test_a_refused_model_is_refused_in_json_too(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    code, document = answer("--model-path", tmp_path, "--gpu", "L4")
    assert code == 3 and document["reason"] == "NoSafetensors" and "pickle" in document["message"]
    assert document["plan"] is None and document["refusals"] == []


def test_a_context_beyond_the_models_own_is_refused(qwen: Path) -> None:
    code, document = answer("--model-path", qwen, "--gpu", "L4", "--context", 1_000_000)
    assert code == 3 and document["reason"] == "ContextTooLong" and "32,768" in document["message"]


def test_a_refused_manifest_leaves_the_standard_output_empty(llama: Path) -> None:
    done = run("plan", "--model-path", llama, "--gpu", "RTX-4090", "-o", "manifest")
    assert done.exit_code == 3 and done.stdout == "" and "37." in done.stderr


# --- fleets ----------------------------------------------------------------------------------------------------------

NODES = [node("a", "NVIDIA-L4", 4), node("b", "NVIDIA-L4", 2), node("c", "Tesla-T4", 1)]


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"apiVersion": "v1", "kind": "List", "items": NODES}),
        yaml.safe_dump({"apiVersion": "v1", "kind": "List", "items": NODES}),
        yaml.safe_dump({"apiVersion": "v1", "kind": "NodeList", "items": NODES}),
        yaml.safe_dump_all(NODES),
        yaml.safe_dump(NODES),
        "---\n" + yaml.safe_dump(NODES[0]) + "---\n---\n" + yaml.safe_dump({"kind": "List", "items": NODES[1:]}),
    ],
    ids=["json list", "yaml list", "NodeList", "documents", "sequence", "mixed"],
)
def test_a_fleet_in_every_form_that_kubectl_prints(qwen: Path, tmp_path: Path, text: str) -> None:
    file = tmp_path / "nodes.yaml"
    file.write_text(text)
    code, document = answer("--model-path", qwen, "--fleet", file)
    assert code == 0 and document["plan"]["gpuProduct"] == "Tesla-T4"
    assert (
        any((other["gpuProduct"], other["gpus"]) == ("NVIDIA-L4", 4) for other in document["alternatives"])
        or (document["alternatives"])
    )


def test_a_fleet_of_nothing_is_refused(qwen: Path, tmp_path: Path) -> None:
    file = tmp_path / "nodes.json"
    file.write_text('{"kind": "List", "items": []}')
    code, document = answer("--model-path", qwen, "--fleet", file)
    assert code == 3 and document["reason"] == "NoNodes"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kind: Pod", "holds a Pod"),
        ("42", "holds a number"),
        ("kind: [", "cannot be read"),
        ("kind: List\nitems: 3", "holds a List"),
        ("kind: List\nitems: [{kind: Pod}]", "holds a Pod among its items"),
        ("kind: List\nitems: [3]", "holds a number among its items"),
        ("kind: Node", "without a name"),
        ("kind: Node\nmetadata: 3", "metadata is a int"),
        ("kind: Node\nmetadata: {name: a, labels: {b: [c]}}", "whose b is a list"),
        ("kind: Node\nmetadata: {name: a}\nspec: {taints: [x]}", "no list of taints"),
        ("kind: Node\nmetadata: {name: a, labels: [b]}", "labels is a list"),
        ("kind: Node\nmetadata: {name: a}\nstatus: {allocatable: x}", "allocatable is a str"),
        ("!!python/object/apply:os.system [id]", "cannot be read"),
        ("[" * 5000, "cannot be read"),
    ],
)
def test_what_is_no_fleet_is_misuse(qwen: Path, tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "nodes.yaml"
    file.write_text(text)
    done = run("plan", "--model-path", qwen, "--fleet", file)
    assert done.exit_code == 2 and said in done.stderr and "Traceback" not in done.output, done.output


@pytest.mark.parametrize("count", ["many", "-1", "1e3", "99999999999999999999", "", "²"])
def test_counts_that_are_none_are_no_fault(qwen: Path, tmp_path: Path, count: str) -> None:
    broken = node("a", "NVIDIA-L4", 1)
    broken["status"]["allocatable"]["nvidia.com/gpu"] = count
    file = tmp_path / "nodes.json"
    file.write_text(json.dumps(broken))
    done = run("plan", "--model-path", qwen, "--fleet", file)
    assert done.exit_code == 3 and "fault of KubeQuant" not in done.output, done.output


def test_a_fleet_from_the_standard_input(qwen: Path) -> None:
    done = run("plan", "--model-path", qwen, "--fleet", "-", "-o", "json", stdin=yaml.safe_dump_all(NODES))
    assert done.exit_code == 0 and json.loads(done.stdout)["plan"]["gpuProduct"] == "Tesla-T4"
    both = run("plan", "-f", "-", "--fleet", "-", stdin="kind: List")
    assert both.exit_code == 2 and "the standard input can be read once" in both.stderr


def test_a_node_listed_twice_is_misuse(qwen: Path, tmp_path: Path) -> None:
    file = tmp_path / "nodes.yaml"
    file.write_text(yaml.safe_dump_all([*NODES, NODES[1]]))
    done = run("plan", "--model-path", qwen, "--fleet", file)
    assert done.exit_code == 2 and "lists the node b 2 times" in done.stderr


# --- misuse ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "name one model"),
        (("a/b", "--model-path", "/tmp"), "name one model"),
        (("gpt2", "--gpu", "L4"), "organisation/name"),
        (("none.yaml",), "there is no file none.yaml"),
        (("-f", "none.yaml"), "does not exist"),
        (("--model-path", "/none"), "does not exist"),
        (("a/b", "--fleet", "/none"), "does not exist"),
        (("a/b", "--config", "/none"), "does not exist"),
        (("a/b", "--gpu", "L4", "--diff"), "name it with -f"),
        (("a/b", "--gpu", "RTX-4909"), "nearest are"),
        (("a/b", "--gpu", "A100"), "could be any of 4 GPUs"),
        (("a/b", "--gpu", ""), "no GPU called"),
        (("a/b", "--gpu", "NVIDIA-A100-SXM4-80GB-MIG-3g.40gb"), "or a row of gpuTable with this product"),
        (("a/b", "--gpu", "L4:0"), "a count from 1 to 64"),
        (("a/b", "--gpu", "L4:65"), "a count from 1 to 64"),
        (("a/b", "--gpu", "L4:" + "9" * 5000), "a count from 1 to 64"),
        (("a/b", "--gpu", "L4:²"), "a count from 1 to 64"),
        (("a/b", "--gpu", "L4:"), "a count from 1 to 64"),
        (("a/b", "--gpu", "L4", "--context", "0"), "--context 0: must be at least 128"),
        (("a/b", "--gpu", "L4", "--context", "x"), "not a valid integer"),
        (("a/b", "--gpu", "L4", "--context", "9" * 30), "must be at most 10,485,760"),
        (("a/b", "--gpu", "L4", "--concurrency", "-1"), "--concurrency -1: must be at least 1"),
        (("a/b", "--gpu", "L4", "--scheme", "INT3"), "one of Auto, Unquantized"),
        (("a/b", "--gpu", "L4", "--objective", "Fast"), "one of LowestCost"),
        (("a/b", "--gpu", "L4", "--kv-cache-dtype", "FP4"), "one of Auto"),
        (("a/b", "--gpu", "L4", "--price", "L4"), "PRODUCT=PRICE"),
        (("a/b", "--gpu", "L4", "--price", "L4=-1"), "PRODUCT=PRICE"),
        (("a/b", "--gpu", "L4", "--price", "L4=nan"), "PRODUCT=PRICE"),
        (("a/b", "--gpu", "L4", "--price", "L4=inf"), "PRODUCT=PRICE"),
        (("a/b", "--gpu", "L4", "--price", "H100=3"), "is not among the GPUs to plan on (NVIDIA-L4)"),
        (("a/b", "--gpu", "L4", "--throughput", "0"), "above 0"),
        (("a/b", "--gpu", "L4", "--throughput", "nan"), "above 0"),
        (("a/b", "--utilization", "0.9"), "No such option"),
        (("a/b", "-o", "xml"), "xml"),
    ],
)
def test_misuse_ends_with_two(arguments: tuple[str, ...], said: str) -> None:
    done = run("plan", *arguments)
    assert done.exit_code == 2 and said in done.stderr, done.output
    assert done.stdout == "" and "Traceback" not in done.output


def test_gpu_and_fleet_exclude_each_other(tmp_path: Path) -> None:
    file = tmp_path / "nodes.yaml"
    file.write_text("kind: List\nitems: []")
    assert run("plan", "a/b", "--gpu", "L4", "--fleet", file).exit_code == 2
    said = " ".join(run("plan", "--help").stdout.split())
    assert "Not with --fleet." in said and "Not with --gpu." in said


def test_a_slice_whose_memory_is_configured(qwen: Path, tmp_path: Path) -> None:
    product = "NVIDIA-A100-SXM4-80GB-MIG-3g.40gb"
    file = tmp_path / "config.yaml"
    file.write_text(f"gpuTable: [{{product: {product}, memoryMiB: 40192, computeCapability: '8.0'}}]")
    code, document = answer("--model-path", qwen, "--gpu", f"{product}:2", "--config", file)
    assert code == 0 and (document["plan"]["gpuProduct"], document["plan"]["gpusPerReplica"]) == (product, 1)
    assert 38 * GIB < document["plan"]["memory"]["total"] < 40192 * 1024**2


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "there is no kube-config"),
        ("root:x:0:0:root:/root:/bin/bash", "is no kube-config: that has lists"),
        ("", "is no kube-config: that has lists"),
        ("clusters: 3", "is no kube-config: that has lists"),
        ("users: [3]", "is no kube-config: that has lists"),
        ("a: [", "is no kube-config: it cannot be read as YAML"),
    ],
)
def test_what_is_no_kube_config_is_misuse(qwen: Path, tmp_path: Path, content: str | None, said: str) -> None:
    file = tmp_path / "kubeconfig"
    if content is not None:
        file.write_text(content)
    for done in (run("plan", "--model-path", qwen, "--kubeconfig", file), run("gpus", KUBECONFIG=str(file))):
        assert done.exit_code == 2 and said in done.stderr and str(file) in done.stderr, done.output
        assert len(done.stderr.splitlines()) == 1 or "planned from the headers alone" in done.stderr


def test_no_cluster_ends_with_one_and_says_what_needs_none(qwen: Path) -> None:
    done = run("plan", "--model-path", qwen)
    assert done.exit_code == 1 and "Without a cluster: --gpu PRODUCT or --fleet FILE" in done.stderr
    assert "Traceback" not in done.output


def test_no_hub_ends_with_one() -> None:
    done = run("plan", "a/b", "--gpu", "L4", KUBEQUANT_HUB__ENDPOINT="http://127.0.0.1:9")
    assert done.exit_code == 1 and "HubUnavailable" in done.stderr and done.stdout == ""


def test_a_configuration_that_cannot_be_used_is_misuse(qwen: Path, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("nope: 1")
    done = run("plan", "--model-path", qwen, "--gpu", "L4", "--config", file)
    assert done.exit_code == 2 and "nope: there is no such field" in done.stderr and "pydantic" not in done.stderr


def test_a_fault_of_ours_is_said_in_one_line(qwen: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> Plan | Refused:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr("kubequant.cli.planning.plan", broken)
    done = run("plan", "--model-path", qwen, "--gpu", "L4")
    assert done.exit_code == 1 and "fault of KubeQuant" in done.stderr and "by zero" in done.stderr


# --- manifests -------------------------------------------------------------------------------------------------------


def manifest(folder: Path, **spec: object) -> Path:
    body = {
        "apiVersion": "kubequant.dev/v1alpha1",
        "kind": "QuantizedModel",
        "metadata": {"name": "m", "namespace": "team"},
        "spec": {"model": {"repository": "Qwen/Qwen2.5-7B-Instruct-AWQ"}, **spec},
    }
    file = folder / "qm.yaml"
    file.write_text(yaml.safe_dump(body))
    return file


def hub_offline(*arguments: str | Path, stdin: str | None = None) -> str:
    """The hub is asked only once everything that was written has been understood."""
    done = run("plan", *arguments, stdin=stdin, KUBEQUANT_HUB__ENDPOINT="http://127.0.0.1:9")
    assert done.exit_code == 1, done.output
    return done.stderr


def test_a_manifest_by_flag_by_position_and_by_pipe(tmp_path: Path) -> None:
    file = manifest(tmp_path)
    for arguments, stdin in ((("-f", file), None), ((file,), None), (("-f", "-"), file.read_text())):
        assert "HubUnavailable" in hub_offline(*arguments, "--gpu", "L4", stdin=stdin)


def test_flags_go_before_the_manifest(tmp_path: Path, options: PlanOptions) -> None:
    file = manifest(tmp_path, serving={"contextTokens": 8192, "concurrentRequests": 4})
    asked = asking.asked(replace(options, repository=None, manifest=file, context_tokens=4096))
    assert (asked.intent.context_tokens, asked.intent.concurrent_requests) == (4096, 4)
    assert (asked.name, asked.namespace) == ("m", "team")


@pytest.fixture
def options() -> PlanOptions:
    return PlanOptions(
        repository="a/b", manifest=None, folder=None, fleet=FleetOptions(), context_tokens=None,
        concurrent_requests=None, tokens_per_request=None, scheme=None, objective=None, kv_cache_dtype=None,
        throughput=None, output="text", diff=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kind: Pod", "holds a Pod"),
        ("- a", "holds a list"),
        ("", "it holds nothing"),
        ("kind: [", "cannot be read as YAML"),
        ("kind: QuantizedModel", "spec.model"),
        ("kind: QuantizedModel\nspec: 3", "spec must hold fields"),
        ("kind: QuantizedModel\nmetadata: []", "metadata must hold fields"),
        ("kind: QuantizedModel\nspec: {model: {repository: a/b}, serving: 3}", "spec.serving"),
        ("kind: QuantizedModel\nspec: {model: {repository: a/b}, gpu: {minMemory: lots}}", "spec.gpu"),
        ("kind: QuantizedModel\nspec: {model: {repository: a/b}, gpu: {minComputeCapability: x}}", "spec.gpu"),
        ("kind: A\n---\nkind: B", "cannot be read as YAML"),
        ("\x00", "cannot be read as YAML"),
        ("kind: &a [*a]", "cannot be"),
        ("#" * 3_000_001, "more than 3,000,000 bytes"),
    ],
)
def test_what_is_no_model_is_misuse(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "qm.yaml"
    file.write_text(text)
    done = run("plan", file, "--gpu", "L4", KUBEQUANT_HUB__ENDPOINT="http://127.0.0.1:9")
    assert done.exit_code == 2 and said in done.stderr and "Traceback" not in done.output, done.output

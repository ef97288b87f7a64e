"""What a user can get wrong, and what the Hub and the cluster can lack: said with the number, and nothing rolled out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.cluster.repositories import add_awq
from tests.fakehub import FakeHub, Fault, rate_limited
from tests.fakehub.family import BASE, Sibling
from tests.harness import Installation, OperatorProcess, QuantizedModelBuilder, make_model, wait_for
from tests.harness.installation import OWNED, OWNED_RESOURCES
from tests.localcluster import Cluster

AWQ_7B = "Qwen/Qwen2.5-7B-Instruct-AWQ"
AWQ_70B = "hugging-quants/Meta-Llama-3.1-70B-Instruct-AWQ-INT4"
RTX_4090 = "NVIDIA-GeForce-RTX-4090"
MAX_REFUSALS_IN_STATUS = 16


@dataclass(frozen=True)
class Bad:
    """A model, the condition and reason that tell what is wrong, and the words that the message must have."""

    model: QuantizedModelBuilder
    reason: str
    words: tuple[str, ...]
    condition: str = "ModelResolved"
    absent: tuple[str, ...] = field(default=())


def of(repository: str, revision: str | None = None) -> QuantizedModelBuilder:
    return make_model("m").repository(repository, revision)


GATED = "meta-llama/Llama-3.1-8B-Instruct"
OLD_NAME, NEW_NAME = (f"{who}/Meta-Llama-3.1-8B-Instruct-FP8-dynamic" for who in ("neuralmagic", "RedHatAI"))

BAD_REPOSITORIES = {
    "unknown repository": Bad(
        of("nobody/nothing"), "RepositoryNotFound", ("nobody/nothing", "Check spec.model.repository")
    ),
    "unknown revision": Bad(of(AWQ_7B, "v9"), "RevisionNotFound", ("v9", "correct spec.model.revision")),
    "renamed repository": Bad(of(OLD_NAME), "RepositoryRenamed", (NEW_NAME, "Set spec.model.repository to that name")),
    "gated repository": Bad(of(GATED), "AccessGated", ("gated", "Accept them at"), absent=("cannot be described",)),
    "header is no JSON": Bad(of("broken/header-is-not-json"), "CorruptCheckpoint", ("model.safetensors",)),
    "header truncated": Bad(
        of("broken/header-truncated"), "CorruptCheckpoint", ("model.safetensors", "the whole file has 1,000")
    ),
    "header longer than the file": Bad(
        of("broken/header-longer-than-the-file"), "CorruptCheckpoint", ("model.safetensors",)
    ),
    "data shorter than the header says": Bad(
        of("broken/data-shorter-than-the-header-says"), "CorruptCheckpoint", ("model.safetensors",)
    ),
    "a shard is missing": Bad(of("broken/shard-missing"), "CorruptCheckpoint", (".safetensors",)),
    "missing config.json": Bad(of("broken/missing-config"), "ConfigMissing", ("config.json",)),
    "config.json is no JSON": Bad(of("broken/config-is-not-json"), "ConfigInvalid", ("config.json",)),
    "GGUF only": Bad(of("broken/gguf-only"), "GgufOnly", ("GGUF", "safetensors")),
    "PEFT adapter": Bad(of("broken/peft-adapter"), "AdapterOnly", ("merge", "Qwen/Qwen2.5-7B-Instruct")),
    "bitsandbytes": Bad(of("broken/bitsandbytes"), "UnsupportedQuantization", ("bitsandbytes",)),
    "AWQ in the layout GEMV": Bad(of(Sibling.GEMV), "UnsupportedQuantization", ("'gemv'", "only gemm", BASE)),
    "GPTQ in 3 bit": Bad(of(Sibling.GPTQ_3_BIT), "UnsupportedQuantization", ("3 bits", "4 and 8", BASE)),
    "an adapter of another model": Bad(of(Sibling.ADAPTER), "AdapterOnly", ("Merge it first", BASE)),
    "a repository that the hub has disabled": Bad(of(Sibling.DISABLED), "RepositoryNotFound", ("disabled",)),
    "an architecture that nobody knows": Bad(
        of("broken/unknown-architecture"), "UnsupportedArchitecture", ("NobodyKnowsForCausalLM",)
    ),
    "a checkpoint named that is not there": Bad(
        of(AWQ_7B).quantization(checkpoint={"repository": "nobody/nothing"}),
        "RepositoryNotFound",
        ("nobody/nothing", "Check spec.quantization.checkpoint.repository"),
    ),
    "act-order GPTQ": Bad(
        of("example/Qwen2.5-7B-Instruct-GPTQ-Int4-act-order"), "UnsupportedQuantization", ("desc_act",)
    ),
    "pickle only": Bad(
        of("broken/pickle-only"), "NoSafetensors", ("pickle files (1 of .bin", "Convert them to safetensors")
    ),
    "no weights": Bad(of("broken/no-weights"), "NoSafetensors", ("safetensors",)),
}

BAD_INTENTS = {
    "a model that fits no GPU asked for": Bad(
        of(AWQ_70B).gpu(products=[RTX_4090], perReplica=1),
        "DoesNotFit",
        ("GiB", RTX_4090, "one GPU of at least"),
        "Planned",
    ),
    "a scheme that the checkpoint is not": Bad(
        of(AWQ_7B).quantization(scheme="FP8"),
        "SchemeMismatch",
        ("FP8", "W4A16", AWQ_7B, "leave the scheme out"),
        "Planned",
    ),
    "a context longer than the model's": Bad(
        of(AWQ_7B).context(65536), "ContextTooLong", ("65,536", "32,768", "ask for at most"), "Planned"
    ),
    "more memory than any GPU has": Bad(
        of(AWQ_7B).gpu(minMemory="200Gi"), "NoMatchingGpu", ("200", "minMemory"), "Planned"
    ),
    "a product that nobody has": Bad(
        of(AWQ_7B).gpu(products=["NVIDIA-B200"]), "NoMatchingGpu", ("NVIDIA-B200", RTX_4090), "Planned"
    ),
    "a newer architecture than any GPU's": Bad(
        of(AWQ_7B).gpu(minComputeCapability="12.0"), "NoMatchingGpu", ("12.0", "8.9"), "Planned"
    ),
    "a scheme that cannot be made of the model": Bad(
        of("Qwen/Qwen3-Next-80B-A3B-Instruct").quantization(scheme="W4A16", method="AWQ", discovery="Disabled"),
        "NotQuantizable",
        ("W4A16", "cannot be made so"),
        "Planned",
    ),
    "an argument that is the plan's own": Bad(
        of(AWQ_7B).serving(engineArguments={"quantization": "awq"}), "ArgumentNotAllowed", ("quantization",), "Planned"
    ),
}


@pytest.mark.parametrize(
    "bad", [*BAD_REPOSITORIES.values(), *BAD_INTENTS.values()], ids=[*BAD_REPOSITORIES, *BAD_INTENTS]
)
def test_bad_input_is_refused_with_what_to_do(
    installation: Installation, operator: OperatorProcess, namespace: str, bad: Bad
) -> None:
    manifest = bad.model.manifest()
    manifest["metadata"]["namespace"] = namespace
    installation.apply(manifest)
    told = installation.wait_condition("m", bad.condition, "False", bad.reason, namespace=namespace)
    for word in bad.words:
        assert word in told["message"]
    for word in bad.absent:
        assert word not in told["message"]
    assert_stalled(installation, namespace, bad.reason, told["message"])
    assert_nothing_rolled_out(installation, namespace)


def test_refusals_in_status_are_bounded(installation: Installation, operator: OperatorProcess, namespace: str) -> None:
    installation.apply(make_model("m", namespace).repository(AWQ_70B).gpu(products=[RTX_4090], perReplica=1))
    installation.wait_condition("m", "Planned", "False", "DoesNotFit", namespace=namespace)
    refusals = installation.status("m", namespace)["plan"]["refusals"]
    assert 1 <= len(refusals) <= MAX_REFUSALS_IN_STATUS
    of_4090 = [refusal for refusal in refusals if refusal["gpuProduct"] == RTX_4090 and refusal["gpus"] == 1]
    assert "GiB" in of_4090[0]["message"]
    assert of_4090[0]["rule"] in ("weights", "loadPeak", "context", "demand")


def test_a_running_model_survives_a_bad_change(
    installation: Installation, operator: OperatorProcess, namespace: str
) -> None:
    installation.apply(make_model("m", namespace))
    installation.wait_condition("m", "Ready", "True", namespace=namespace)
    before = installation.existing("deployment", "m", namespace)
    installation.patch("qm", "m", {"spec": {"model": {"repository": "nobody/nothing"}}}, namespace)
    installation.wait_condition("m", "Ready", "False", "RepositoryNotFound", namespace=namespace)
    assert installation.condition("m", "Available", namespace)["status"] == "True"
    assert (
        installation.existing("deployment", "m", namespace)["metadata"]["generation"]
        == before["metadata"]["generation"]
    )
    installation.patch("qm", "m", {"spec": {"model": {"repository": AWQ_7B}}}, namespace)
    installation.wait_condition("m", "Ready", "True", namespace=namespace)
    assert (
        installation.existing("deployment", "m", namespace)["metadata"]["generation"]
        == before["metadata"]["generation"]
    )


def test_a_repository_that_changes_between_two_reads_is_read_again(
    installation: Installation, operator: OperatorProcess, hub: FakeHub, namespace: str
) -> None:
    repository = add_awq(hub, "example/changes")
    hub.faults.add(Fault(f"/{repository}/resolve/", times=2000, headers={"X-Repo-Commit": "f" * 40}))
    try:
        installation.apply(make_model("m", namespace).repository(repository))
        told = installation.wait_condition("m", "ModelResolved", "Unknown", "RepositoryChanged", namespace=namespace)
        assert repository in told["message"]
        assert_nothing_rolled_out(installation, namespace)
    finally:
        hub.faults.clear()
    installation.wait_condition("m", "Ready", "True", namespace=namespace, seconds=90)


def test_a_throttled_hub_is_waited_for(
    installation: Installation, operator: OperatorProcess, hub: FakeHub, namespace: str
) -> None:
    repository = add_awq(hub, "example/throttled")
    hub.faults.add(rate_limited(repository, times=1, reset_seconds=8))
    installation.apply(make_model("m", namespace).repository(repository))
    told = installation.wait_condition("m", "ModelResolved", "Unknown", "HubThrottled", namespace=namespace)
    assert "429" in told["message"]
    assert_reconciling(installation, namespace, "HubThrottled")
    installation.wait_condition("m", "Ready", "True", namespace=namespace)


def test_a_hub_that_dies_leaves_alone_what_runs_and_says_since_when(
    installation: Installation, operator: OperatorProcess, hub: FakeHub, namespace: str
) -> None:
    installation.apply(make_model("runs", namespace).repository(AWQ_7B))
    installation.wait_condition("runs", "Ready", "True", namespace=namespace)
    before = installation.get("deployment", "runs", namespace)
    hub.dead()
    try:
        for name in ("waits", "waits-too"):
            installation.apply(make_model(name, namespace).repository(add_awq(hub, f"example/{name}")))
        installation.wait_condition("waits", "ModelResolved", "Unknown", "HubUnavailable", namespace=namespace)
        told = wait_for("the time since when", lambda: _since(installation, namespace), seconds=60)
        assert hub.url in told
        installation.apply(make_model("runs", namespace).repository(AWQ_7B).replicas(2))
        installation.wait_condition("runs", "Ready", "True", "Ready", namespace=namespace)
        assert installation.condition("runs", "ModelResolved", namespace)["reason"] == "Resolved"
    finally:
        hub.alive()
    for name in ("waits", "waits-too"):
        installation.wait_condition(name, "Ready", "True", namespace=namespace, seconds=120)
    after = installation.get("deployment", "runs", namespace)
    assert before and after
    assert before["spec"]["template"] == after["spec"]["template"]


def _since(installation: Installation, namespace: str) -> str | None:
    message: str = installation.condition("waits", "ModelResolved", namespace)["message"]
    return message if re.search(r"since .*\d\d:\d\d.* UTC", message) else None


def test_a_hub_that_is_away_is_waited_for(
    installation: Installation, operator: OperatorProcess, hub: FakeHub, namespace: str
) -> None:
    repository = add_awq(hub, "example/away")
    hub.faults.add(Fault(repository, times=1000, status=503))
    try:
        installation.apply(make_model("m", namespace).repository(repository))
        told = installation.wait_condition("m", "ModelResolved", "Unknown", "HubUnavailable", namespace=namespace)
        assert hub.url in told["message"]
        assert "503" in told["message"]
        assert_reconciling(installation, namespace, "HubUnavailable")
        assert_nothing_rolled_out(installation, namespace)
    finally:
        hub.faults.clear()
    installation.wait_condition("m", "Ready", "True", namespace=namespace, seconds=60)


@pytest.fixture(scope="module")
def empty_installation() -> Iterator[Installation]:
    """A cluster of its own, without a node."""
    with Cluster.temporary() as cluster:
        yield Installation(cluster)


def test_a_growing_fleet_is_noticed(
    empty_installation: Installation, configuration: dict[str, object], hub: FakeHub, tmp_path: Path
) -> None:
    """No nodes, no GPUs, GPUs without labels, GPUs too small, GPUs that do: each step without touching the models."""
    here, cluster = empty_installation, empty_installation.cluster
    with OperatorProcess(here.operator_kubeconfig, configuration, tmp_path) as operator:
        operator.wait_until_working()
        here.apply(make_model("small"))
        here.apply(make_model("large").repository(AWQ_70B))
        for name in ("small", "large"):
            told = here.wait_condition(name, "Planned", "False", "NoNodes")
            assert "add a node with an NVIDIA GPU" in told["message"]
            assert_stalled(here, "default", "NoNodes", told["message"], name)

        cluster.add_fleet("none")
        told = here.wait_condition("small", "Planned", "False", "NoGpuNodes")
        assert "none of the 2 nodes" in told["message"]
        assert "device plugin" in told["message"]

        cluster.add_fleet("nolabels")
        told = here.wait_condition("small", "Planned", "False", "NoGpuLabels")
        assert "node nolabels-0" in told["message"]
        assert "GPU Feature Discovery" in told["message"]
        assert_nothing_rolled_out(here, "default")

        asked = hub.requests.count()
        cluster.add_fleet("rtx4090")
        here.wait_condition("small", "Ready", "True")
        told = here.wait_condition("large", "Planned", "False", "DoesNotFit")
        assert RTX_4090 in told["message"]

        cluster.add_fleet("a100-80")
        here.wait_condition("large", "Ready", "True")
        assert here.status("large")["plan"]["gpuProduct"].startswith("NVIDIA-A100")
        assert hub.requests.count() == asked, "facts are known: a change of the fleet asks the Hub nothing"


def assert_stalled(installation: Installation, namespace: str, reason: str, message: str, name: str = "m") -> None:
    """As kstatus reads a failure that waiting does not mend."""
    status = installation.status(name, namespace)
    conditions = {condition["type"]: condition for condition in status["conditions"]}
    assert (conditions["Ready"]["status"], conditions["Ready"]["reason"]) == ("False", reason)
    assert conditions["Ready"]["message"] == message
    assert conditions["Stalled"]["status"] == "True"
    assert conditions["Reconciling"]["status"] == "False"
    assert conditions["Available"]["status"] == "False"


def assert_reconciling(installation: Installation, namespace: str, reason: str) -> None:
    """As kstatus reads what is on its way."""
    conditions = {condition["type"]: condition for condition in installation.status("m", namespace)["conditions"]}
    assert (conditions["Ready"]["status"], conditions["Ready"]["reason"]) == ("False", reason)
    assert (conditions["Reconciling"]["status"], conditions["Stalled"]["status"]) == ("True", "False")


def assert_nothing_rolled_out(installation: Installation, namespace: str) -> None:
    assert not installation.list(OWNED_RESOURCES, namespace, OWNED)


def test_what_refused_models_say_in_describe(
    installation: Installation, operator: OperatorProcess, namespace: str
) -> None:
    installation.apply(make_model("m", namespace).repository("broken/gguf-only"))
    installation.wait_condition("m", "Ready", "False", "GgufOnly", namespace=namespace)

    def warned() -> str:
        text = installation.cluster.kubectl("-n", namespace, "describe", "qm", "m").partition("Events:")[2]
        return text if "GgufOnly" in text else ""

    events = wait_for("the event", warned, seconds=5)
    assert "Warning" in events
    assert "GGUF" in events

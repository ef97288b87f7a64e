"""What the command line says of a configuration, an option or a hub that cannot be used: the name, the value, what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fakehub import FakeHub, Fault, rate_limited
from tests.fakehub.family import BASE, Sibling
from tests.fakehub.faults import ALWAYS
from tests.fakehub.standard import STANDARD_TOKENS, standard_repositories
from tests.unit.cli.making import run
from tests.unit.cli.test_find import found, hub, main_of, served

__all__ = ["hub", "served"]  # fixtures

GATED = "meta-llama/Llama-3.1-70B-Instruct"


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("hub: {cacheBytes: 3}", "hub.cacheBytes 3: must be at least 1,048,576"),
        ("modelCache: {kind: x}", "modelCache.kind x: must be 'EmptyDir' or 'PersistentVolumeClaim'"),
        ("gpuTable: [{product: A, memoryMiB: 3}]", "gpuTable.0.memoryMiB 3: must be at least 1,024"),
        (
            "discovery: {additionalPublishers: ['RedHatAI ']}",
            "discovery.additionalPublishers.0 'RedHatAI ': must be the name of an organisation or a user of the Hub",
        ),
        ("discovery: {publishers: ['']}", "discovery.publishers.0 '': must be the name of an organisation"),
        ("hub: {tokenFile: 3}", "hub.tokenFile 3: must be the path of a file or a folder"),
        ("hub: {redirectHosts: ['http://x/y']}", "hub.redirectHosts.0 http://x/y: must be a host without scheme"),
        ("hub: {proxy: 'ftp://x'}", "hub.proxy ftp://x: must be a URL by http or https"),
        ("hub: {cacheFolder: /proc/x}", "Error: hub.cacheFolder /proc/x cannot be written to: No such file"),
        ("hub: {caFile: /nope}", "Error: hub.caFile /nope holds no certificates in PEM that can be read"),
        ("engine: {environment: {my_key: [1]}}", "engine.environment.my_key: must be text"),
        ("text", "must hold fields and their values, not text"),
    ],
)
def test_a_configuration_is_spoken_of_as_it_is_written(tmp_path: Path, written: str, said: str) -> None:
    file = tmp_path / "operator.yaml"
    file.write_text(written)
    done = run("find", BASE, "--config", file)
    assert done.exit_code == 2 and said in done.stderr, done.output
    assert "[A-Za-z" not in done.stderr and "class '" not in done.stderr


@pytest.mark.parametrize(
    ("variable", "said"),
    [
        ("KUBEQUANT_DISCOVERY__PUBLISHERS", """KUBEQUANT_DISCOVERY__PUBLISHERS 'RedHatAI': must be JSON, as in ["a", "b"]"""),
        ("KUBEQUANT_HUB", """KUBEQUANT_HUB 'RedHatAI': must be JSON, as in {"name": "value"}"""),
        ("KUBEQUANT_GPU_PRICES", """KUBEQUANT_GPU_PRICES 'RedHatAI': must be JSON, as in {"name": "value"}"""),
    ],
)  # fmt: skip
def test_a_variable_that_must_hold_json_is_named(variable: str, said: str) -> None:
    done = run("find", BASE, **{variable: "RedHatAI"})
    assert done.exit_code == 2 and f"the variable {said}" in done.stderr
    assert "EnvSettingsSource" not in done.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--endpoint", "nonsense"), "--endpoint 'nonsense': the URL of a hub"),
        (("--endpoint", "ftp://x"), "--endpoint 'ftp://x': the URL of a hub"),
        (("--revision", ""), "--revision '': a branch, a tag or a commit"),
        (("--revision", "a..b"), "--revision 'a..b': a branch, a tag or a commit"),
        (("--redirect-host", "http://x/y"), "--redirect-host 'http://x/y': a host without scheme, port and path"),
        (("--repository", "a b"), "'a b' is no repository: write organisation/name"),
    ],
)
def test_misuse_of_inspect(arguments: tuple[str, ...], said: str) -> None:
    done = run("inspect", "--repository", "a/b", "--termination-log", "/nonexistent/log", *arguments)
    assert done.exit_code == 2 and said in done.stderr, done.output


@pytest.mark.parametrize("name", ["P100", "MI300X"])
def test_gpus_that_serve_no_model(name: str) -> None:
    done = run("find", BASE, "--gpu", name)
    assert done.exit_code == 2 and f"no GPU called '{name}' is in the table" in done.stderr
    assert "Only NVIDIA GPUs of compute capability 7.5 and above serve models" in done.stderr


@pytest.mark.parametrize(
    ("text", "said"), [("text", "holds text"), ("3", "holds a number"), ("[[a]]", "holds a list among its items")]
)
def test_a_file_of_nodes_that_is_none(text: str, said: str) -> None:
    done = run("plan", BASE, "--fleet", "-", stdin=text)
    assert done.exit_code == 2 and f"--fleet - {said}: give it what" in done.stderr


@pytest.mark.parametrize(("text", "said"), [("text", "holds text"), ("a: b", "holds no kind"), ("", "holds nothing")])
def test_a_manifest_that_is_none(text: str, said: str) -> None:
    done = run("plan", "-f", "-", "--gpu", "T4", stdin=text)
    assert done.exit_code == 2 and f"- cannot be planned: it {said}, not a QuantizedModel" in done.stderr


def manifest(tmp_path: Path, model: str) -> Path:
    file = tmp_path / "model.yaml"
    file.write_text(f"{{kind: QuantizedModel, spec: {{model: {model}}}}}")
    return file


def test_a_claims_folder_outside_of_it_is_refused_as_the_cluster_does(tmp_path: Path) -> None:
    file = manifest(tmp_path, "{persistentVolumeClaim: {claimName: c, path: ../y}}")
    done = run("plan", "-f", file, "--gpu", "T4")
    assert done.exit_code == 2
    assert "spec.model.persistentVolumeClaim.path ../y: `path` must be a relative path within the volume" in done.stderr


@pytest.mark.parametrize(("secret", "said"), [(", tokenSecretRef: {name: s, key: k}", True), ("", False)])
def test_a_gated_model_whose_secret_is_not_read_here(hub: FakeHub, tmp_path: Path, secret: str, said: bool) -> None:
    done = run("plan", "-f", manifest(tmp_path, f"{{repository: {GATED}{secret}}}"), "--gpu", "T4")
    assert done.exit_code == 3 and "refused (AccessGated)" in done.stdout
    advice = (
        "The model's Secret is not read from here: put a token that opens it into a file and name it by hub.tokenFile"
    )
    assert (advice in done.stdout) is said


def test_from_here_nothing_is_asked_again() -> None:
    with FakeHub(standard_repositories(), tokens=STANDARD_TOKENS) as own:
        for fault in (
            rate_limited(times=ALWAYS),
            Fault(times=ALWAYS, status=500),
            Fault(times=ALWAYS, cut_after_bytes=0),
        ):
            own.faults.clear()
            own.faults.add(fault)
            done = run("find", BASE, KUBEQUANT_HUB__ENDPOINT=own.url)
            assert done.exit_code == 1 and "Failing since 20" in done.stderr, done.output
            assert "Run it again about 20" in done.stderr and "again soon" not in done.stderr.lower()
            assert "Asked again" not in done.stderr and "Tried again" not in done.stderr


def test_what_is_the_same_of_many_checkpoints_is_said_once(hub: FakeHub, tmp_path: Path) -> None:
    file = tmp_path / "operator.yaml"
    file.write_text("gpuTable: [{product: Small-GPU, memoryMiB: 2048, computeCapability: '7.5'}]")
    shown = run("find", BASE, "--config", file, "--gpu", "Small-GPU").stdout
    trusted = found(BASE, "--config", str(file), "--gpu", "Small-GPU", code=3)["checkpoints"]
    schemes = {one["scheme"] for one in trusted}
    lines = [line for line in shown.splitlines() if line.startswith("  WeightsDoNotFit: ")]
    assert len(lines) == len(schemes) == 2 < len(trusted)
    counted = {scheme: sum(one["scheme"] == scheme for one in trusted) - 1 for scheme in schemes}
    for scheme, others in counted.items():
        assert any(f" and {others} more ({scheme}): {scheme} weights need" in line for line in lines)


def test_the_commit_of_a_checkpoint_that_was_asked_for(hub: FakeHub) -> None:
    shown = run("find", Sibling.W4A16).stdout
    commit = main_of(hub, Sibling.W4A16)
    assert shown.startswith(f"{Sibling.W4A16} at commit {commit} is W4A16")
    assert run("find", Sibling.W4A16, "--revision", commit).stdout.startswith(f"{Sibling.W4A16} at commit {commit} is")


def test_a_repository_in_gguf_is_named_once(hub: FakeHub) -> None:
    line = run("find", Sibling.GGUF_ONLY).stdout.splitlines()[0]
    commit = main_of(hub, Sibling.GGUF_ONLY)[:12]
    assert line.startswith(
        f"{Sibling.GGUF_ONLY} cannot be served (GgufOnly): at {commit} its weights are GGUF files (1)"
    )
    assert line.endswith(f"); it names {BASE} as its base") and line.count(f"{Sibling.GGUF_ONLY} ") == 1


def test_the_first_difference_is_shown(hub: FakeHub) -> None:
    said = {one["reason"]: one["message"] for one in found(BASE)["rejected"]}
    assert "is not the base's (" in said["ChatTemplateDiffers"] and "where the base has" in said["ChatTemplateDiffers"]
    messages = [one["message"] for one in found(BASE)["rejected"] if one["reason"] == "TokenizerDiffers"]
    assert any("266 entries, of the base 266; 'and' is 262, of the base 260)" in one for one in messages)
    assert "Take a checkpoint that has them" in said["NoSafetensors"]


def test_the_bases_organisation_counts_once(hub: FakeHub, tmp_path: Path) -> None:
    file = tmp_path / "operator.yaml"
    file.write_text("discovery: {publishers: [aurora-ai, RedHatAI]}")
    messages = {one["reason"]: one["message"] for one in found(BASE, "--config", str(file))["rejected"]}
    assert "is not among the 2 publishers that are trusted" in messages["NotTrusted"]

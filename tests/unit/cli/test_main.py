"""The command line: help, the CustomResourceDefinitions, and configurations that cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from kubequant.cli.main import main

ROOT = Path(__file__).parents[3]


def run(*arguments: str, **environment: str | None) -> Result:
    return CliRunner(env={"KUBECONFIG": None, **environment}).invoke(main, list(arguments))


def test_help() -> None:
    done = run("--help")
    assert done.exit_code == 0
    assert "operator" in done.output and "crds" in done.output
    assert "--config" in run("operator", "--help").output


def test_crds_are_those_of_the_repository() -> None:
    done = run("crds")
    assert done.exit_code == 0
    assert done.output == (ROOT / "crds" / "kubequant.dev_quantizedmodels.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("nope: 1", "nope"),
        ("engine: {imagee: x}", "imagee"),
        ("workers: many", "workers"),
        ("- a\n- b", "cannot be used"),
        ("text", "cannot be used"),
        ("a: [", "cannot be used"),
    ],
)
def test_a_bad_configuration_is_said_without_a_stack_trace(content: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(content, encoding="utf-8")
    done = run("operator", "--config", str(file))
    assert done.exit_code == 1
    assert isinstance(done.exception, SystemExit)
    assert said in done.output and str(file) in done.output and "Traceback" not in done.output


def test_a_configuration_that_is_not_there(tmp_path: Path) -> None:
    done = run("operator", "--config", str(tmp_path / "none.yaml"))
    assert done.exit_code == 2 and "none.yaml" in done.output


def test_a_kubeconfig_that_is_not_there(tmp_path: Path) -> None:
    done = run("operator", "--kubeconfig", str(tmp_path / "none"), KUBEQUANT_HTTP_PORT="0")
    assert done.exit_code == 1
    assert isinstance(done.exception, SystemExit)
    assert "cannot start: there is no kube-config" in done.output and "Traceback" not in done.output


def test_what_is_no_kubeconfig_does_not_start(tmp_path: Path) -> None:
    file = tmp_path / "passwd"
    file.write_text("root:x:0:0")
    done = run("operator", "--kubeconfig", str(file), KUBEQUANT_HTTP_PORT="0")
    assert done.exit_code == 1 and "is no kube-config" in done.output and "Traceback" not in done.output


def test_a_bad_variable_is_said() -> None:
    done = run("operator", KUBEQUANT_WORKERS="0")
    assert done.exit_code == 1
    assert "from the environment" in done.output and "workers" in done.output

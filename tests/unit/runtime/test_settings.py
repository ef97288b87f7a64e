"""The configuration: a file, variables before it, and names that are refused where they do not exist."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, ValidationError
from pydantic.alias_generators import to_camel

from kubequant.runtime.configured import engine_settings
from kubequant.runtime.settings import Settings, load_settings

PAGE = (Path(__file__).parents[3] / "docs" / "configuration.md").read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("KUBEQUANT_")]:
        monkeypatch.delenv(name)


def load(tmp_path: Path, document: Any) -> Settings:
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(document), encoding="utf-8")
    return load_settings(file)


def test_without_a_file_there_are_defaults(tmp_path: Path) -> None:
    assert load_settings(None) == Settings() == load(tmp_path, None) == load(tmp_path, {})


def test_the_file_is_camel_case(tmp_path: Path) -> None:
    settings = load(tmp_path, {"httpPort": 1, "engine": {"startAllowanceSeconds": 77}, "hub": {"tokenFile": "/t"}})
    assert (settings.http_port, settings.engine.start_allowance_seconds) == (1, 77)
    assert settings.hub.token_file == Path("/t")


@pytest.mark.parametrize(
    ("name", "value", "document", "found"),
    [
        ("KUBEQUANT_WORKERS", "4", {"workers": 9}, lambda s: s.workers == 4),
        ("KUBEQUANT_HTTP_PORT", "99", {"httpPort": 9}, lambda s: s.http_port == 99),
        (
            "KUBEQUANT_ENGINE__START_ALLOWANCE_SECONDS",
            "77",
            {"engine": {"startAllowanceSeconds": 55, "image": "kept"}},
            lambda s: (s.engine.start_allowance_seconds, s.engine.image) == (77, "kept"),
        ),
        (
            "KUBEQUANT_ENGINE__EXTRA_ARGUMENTS",
            '["--a", "b"]',
            {"engine": {"extraArguments": ["--c"]}},
            lambda s: s.engine.extra_arguments == ["--a", "b"],
        ),
        (
            "KUBEQUANT_LEADER_ELECTION__ENABLED",
            "false",
            {"leaderElection": {"leaseSeconds": 30}},
            lambda s: not s.leader_election.enabled and s.leader_election.lease_seconds == 30,
        ),
    ],
)
def test_the_environment_goes_before_the_file(
    name: str, value: str, document: Any, found: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert not found(load(tmp_path, document))
    monkeypatch.setenv(name, value)
    assert found(load(tmp_path, document))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WORKERS", "3"),
        ("HUB", '{"endpoint": "http://elsewhere"}'),
        ("HTTPPORT", "1"),
        ("LOGLEVEL", "DEBUG"),
        ("KUBEQUANT_SERVICE_HOST", "10.0.0.1"),  # what Kubernetes sets for a Service called kubequant
        ("KUBEQUANT_PORT", "tcp://10.0.0.1:80"),
    ],
)
def test_variables_that_are_not_ours_change_nothing(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = load_settings(None)
    monkeypatch.setenv(name, value)
    assert load_settings(None) == before


@pytest.mark.parametrize(
    ("document", "named"),
    [
        ({"nope": 1}, "nope"),
        ({"engine": {"imagee": "x"}}, "engine.imagee"),
        ({"hub": {"endpoint": "no url"}}, "hub.endpoint"),
        ({"workers": 0}, "workers"),
        ({"engine": {"startAllowanceSeconds": 1}}, "engine.startAllowanceSeconds"),
        ({"engine": {"image": ""}}, "engine.image"),
        ({"logLevel": "LOUD"}, "log_level"),
        ({"leaderElection": {"leaseSeconds": "soon"}}, "leaderElection.leaseSeconds"),
    ],
)
def test_what_is_wrong_is_named(document: Any, named: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError) as caught:
        load(tmp_path, document)
    places = {".".join(str(part) for part in error["loc"]) for error in caught.value.errors()}
    assert {_snake(place) for place in places} == {_snake(named)}


def test_a_nested_variable_that_does_not_exist_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBEQUANT_ENGINE__IMAGEE", "x")
    with pytest.raises(ValidationError, match="imagee"):
        load_settings(None)


def test_the_engine_settings_are_those_of_the_section(tmp_path: Path) -> None:
    document = {"engine": {"image": "i", "environment": {"B": "2", "A": "1"}}, "hub": {"endpoint": "http://hub:1/"}}
    engine = engine_settings(load(tmp_path, document))
    assert (engine.image, engine.hub_endpoint) == ("i", "http://hub:1")
    assert engine.environment == (("A", "1"), ("B", "2"))


def test_the_page_lists_every_field_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `([\w.]+)` \| (.+?) \| .{10,}\.? \|$", PAGE, re.MULTILINE))
    assert rows == {name: _shown(value) for name, value in _fields(Settings())}


def test_the_page_s_example_can_be_used(tmp_path: Path) -> None:
    example = re.findall(r"```yaml\n(.+?)```", PAGE, re.DOTALL)[0]
    assert load(tmp_path, yaml.safe_load(example)).engine.start_allowance_seconds == 900


def _fields(section: BaseModel, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name in type(section).model_fields:
        value, path = getattr(section, name), prefix + to_camel(name)
        if isinstance(value, BaseModel):
            yield from _fields(value, f"{path}.")
        else:
            yield path, value


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    return f"`{json.dumps(value) if isinstance(value, bool | list | dict) else value}`"


def _snake(path: str) -> str:
    return re.sub("([A-Z])", r"_\1", path).lower()

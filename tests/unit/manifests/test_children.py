"""The other children: names, owners, disruption budget; and one whole Deployment as it was reviewed."""

from __future__ import annotations

import ast
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from kubequant.api.spec import MAX_NAME_LENGTH, Pod
from kubequant.manifests.children import (
    Replacement,
    build_deployment,
    build_disruption_budget,
    build_files,
    build_revision,
    build_service,
    endpoint_of,
    engine_files,
)
from kubequant.manifests.names import Owner, digest, files_name, revision_name, selector_of, selector_text
from kubequant.manifests.pod import build_pod_template
from tests.unit.manifests.making import OWNER, recipe

SNAPSHOT = Path(__file__).parent / "snapshots" / "deployment.yaml"
LONGEST = replace(OWNER, name="a" * MAX_NAME_LENGTH)


def deployment(owner: Owner = OWNER, how: Replacement = Replacement.SURGE) -> dict[str, Any]:
    pod = Pod.model_validate({"resources": {"memory": "16Gi"}, "labels": {"team": "a"}})
    template = build_pod_template(owner, recipe(gpus=2, token_secret=("hub", "token")), pod, "qwen-0123456789")
    return build_deployment(owner, "qwen-abcdef0123", template, 3, how)


def test_one_whole_deployment() -> None:
    """UPDATE_SNAPSHOTS=1 writes it anew; the difference is then to be reviewed."""
    made = yaml.safe_dump(deployment(), sort_keys=False, width=120)
    if os.environ.get("UPDATE_SNAPSHOTS"):
        SNAPSHOT.write_text(made, encoding="utf-8")
    assert SNAPSHOT.read_text(encoding="utf-8") == made


@pytest.mark.parametrize(("how", "surge", "unavailable"), [(Replacement.SURGE, 1, 0), (Replacement.IN_PLACE, 0, 1)])
def test_how_pods_are_replaced(how: Replacement, surge: int, unavailable: int) -> None:
    strategy = deployment(how=how)["spec"]["strategy"]
    assert strategy["type"] == "RollingUpdate"
    assert strategy["rollingUpdate"] == {"maxSurge": surge, "maxUnavailable": unavailable}


def test_the_deployment_never_gives_up_by_itself() -> None:
    assert deployment()["spec"]["progressDeadlineSeconds"] == 2**31 - 1


def test_selectors_of_all_agree_with_the_pods() -> None:
    selector = selector_of(OWNER)
    made, budget = deployment(), build_disruption_budget(OWNER, 2)
    assert budget is not None
    assert made["spec"]["selector"]["matchLabels"] == selector
    assert build_service(OWNER)["spec"]["selector"] == selector
    assert budget["spec"]["selector"]["matchLabels"] == selector
    assert selector.items() <= made["spec"]["template"]["metadata"]["labels"].items()
    assert dict(part.split("=") for part in selector_text(OWNER).split(",")) == selector


@pytest.mark.parametrize(("replicas", "exists"), [(0, False), (1, False), (2, True), (9, True)])
def test_a_disruption_budget_from_two_replicas_on(replicas: int, exists: bool) -> None:
    budget = build_disruption_budget(OWNER, replicas)
    assert (budget is not None) == exists
    if budget:
        assert budget["spec"]["maxUnavailable"] == 1


def test_names_and_labels_fit_for_the_longest_name() -> None:
    data = {"a": 1}
    names = [revision_name(LONGEST, data), files_name(LONGEST, {"f": "x"}), build_service(LONGEST)["metadata"]["name"]]
    assert max(map(len, names)) <= 63
    for metadata in (deployment(LONGEST)["metadata"], deployment(LONGEST)["spec"]["template"]["metadata"]):
        assert all(len(value) <= 63 for value in metadata["labels"].values())


def test_names_follow_the_content() -> None:
    assert revision_name(OWNER, {"a": 1, "b": 2}) == revision_name(OWNER, {"b": 2, "a": 1})
    assert revision_name(OWNER, {"a": 1}) != revision_name(OWNER, {"a": 2})
    assert digest({"a": 1}) != digest({"a": "1"})


@pytest.mark.parametrize(
    "manifest",
    [
        deployment(),
        build_service(OWNER),
        build_files(OWNER, {"f": "x"}),
        build_revision(OWNER, "r", 1, {"a": 1}),
        build_disruption_budget(OWNER, 2),
    ],
    ids=lambda manifest: manifest["kind"],
)
def test_every_child_is_controlled_by_its_model(manifest: dict[str, Any]) -> None:
    (reference,) = manifest["metadata"]["ownerReferences"]
    assert (reference["uid"], reference["controller"], reference["blockOwnerDeletion"]) == ("uid-1", True, False)
    assert manifest["metadata"]["namespace"] == OWNER.namespace
    assert manifest["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "kubequant"


def test_the_service_reaches_the_engine() -> None:
    (port,) = build_service(OWNER)["spec"]["ports"]
    (container,) = deployment()["spec"]["template"]["spec"]["containers"]
    assert port["targetPort"] in {port["name"] for port in container["ports"]}
    assert endpoint_of(OWNER) == "http://qwen.team-a.svc/v1"


def test_the_files_run_with_the_standard_library_alone() -> None:
    # Of the engine's image, and neighbours; certifi may be missing there.
    allowed = {*sys.stdlib_module_names, "launcher", "model_files", "huggingface_hub", "certifi"}
    for name, text in engine_files().items():
        tree = ast.parse(text, name)
        nodes = list(ast.walk(tree))
        imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        imported |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
        assert {module.split(".")[0] for module in imported} <= allowed, name


def test_the_files_are_immutable_and_fit_into_a_config_map() -> None:
    made = build_files(OWNER, engine_files())
    assert made["immutable"] is True
    assert sum(len(text.encode()) for text in made["data"].values()) < 512 * 1024

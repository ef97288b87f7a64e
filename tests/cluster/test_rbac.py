"""The rights of the chart's ClusterRole: enough for all that the lane did before this file, and no more."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import pytest
import yaml

from tests.harness import Installation, OperatorProcess, make_model, wait_for
from tests.harness.installation import NAMESPACE, OPERATOR_USER, TEMPLATES

FORBIDDEN = [
    ("get", "", "secrets", ""),
    ("list", "", "secrets", ""),
    ("get", "", "pods", "log"),
    ("create", "", "pods", "exec"),
    ("create", "", "pods", "attach"),
    ("create", "", "pods", "portforward"),
    ("get", "", "pods", "proxy"),
    ("get", "", "services", "proxy"),
    ("create", "", "pods", ""),
    ("delete", "", "pods", ""),
    ("patch", "", "nodes", ""),
    ("get", "", "persistentvolumes", ""),
    ("create", "", "persistentvolumeclaims", ""),
    ("patch", "", "persistentvolumeclaims", ""),
    ("delete", "", "persistentvolumeclaims", ""),
    ("update", "", "persistentvolumeclaims", ""),
    ("patch", "batch", "jobs", ""),
    ("patch", "batch", "jobs", "status"),
    ("delete", "apps", "deployments", ""),
    ("patch", "kubequant.dev", "quantizedmodels", ""),
    ("delete", "kubequant.dev", "quantizedmodels", ""),
    ("patch", "rbac.authorization.k8s.io", "clusterroles", ""),
    ("create", "", "serviceaccounts", "token"),
    ("impersonate", "", "users", ""),
    ("*", "*", "*", ""),
]
NEEDED = [
    ("watch", "kubequant.dev", "quantizedmodels", ""),
    ("patch", "kubequant.dev", "quantizedmodels", "status"),
    ("patch", "apps", "deployments", ""),
    ("get", "", "persistentvolumeclaims", ""),
    ("watch", "", "persistentvolumeclaims", ""),
]


EXERCISING = ("test_cache_volumes.py", "test_children.py", "test_inspector.py")  # between them they use every right
OF_A_RACE = {("batch", "jobs", "get")}  # asked for where another reconcile has made the Job a moment ago
OF_THE_MODEL_CACHE = ("create", "patch", "delete")


@pytest.mark.parametrize(("verb", "group", "resource", "subresource"), FORBIDDEN)
def test_the_operator_may_not(
    installation: Installation, verb: str, group: str, resource: str, subresource: str
) -> None:
    for namespace in ("default", NAMESPACE):
        assert not installation.operator_may(verb, group, resource, subresource, namespace)


@pytest.mark.parametrize(("verb", "group", "resource", "subresource"), NEEDED)
def test_the_operator_may(installation: Installation, verb: str, group: str, resource: str, subresource: str) -> None:
    assert installation.operator_may(verb, group, resource, subresource)


def test_claims_of_its_own_are_a_right_of_their_own(installation: Installation) -> None:
    def rights() -> list[bool]:
        return [installation.operator_may(verb, "", "persistentvolumeclaims") for verb in OF_THE_MODEL_CACHE]

    with installation.model_cache_allowed():
        assert rights() == [True] * 3
        assert not installation.operator_may("update", "", "persistentvolumeclaims")
        assert not installation.operator_may("get", "", "persistentvolumes")
    wait_for("the right to go", lambda: rights() == [False] * 3)


def test_nothing_that_the_operator_asked_was_forbidden(
    installation: Installation, operator: OperatorProcess, namespace: str
) -> None:
    """Quotas and terminating namespaces answer 403 too, in other words."""
    installation.apply(make_model("m", namespace))
    installation.wait_condition("m", "Ready", "True", namespace=namespace)
    entries = list(installation.cluster.audit_entries(OPERATOR_USER))
    assert entries
    forbidden = {
        (entry.key, entry.message)
        for entry in entries
        if entry.code == 403 and not any(words in entry.message for words in ("being terminated", "exceeded quota"))
    }
    assert not forbidden


def test_every_right_was_used(
    request: pytest.FixtureRequest, installation: Installation, operator: OperatorProcess
) -> None:
    run = {item.path.name for item in request.session.items}
    if missing := sorted(set(EXERCISING) - run):
        pytest.skip(f"without {', '.join(missing)} some rights are not used")
    used = set()
    for entry in installation.cluster.audit_entries(OPERATOR_USER):
        resource = "/".join(filter(None, (entry.key.resource, entry.key.subresource)))
        used.add((entry.api_group, resource, entry.key.verb))
        if entry.key.verb == "patch" and entry.code == 201:  # server-side apply needs both
            used.add((entry.api_group, resource, "create"))
    assert set(granted()) - used - OF_A_RACE == set()


def granted() -> Iterator[tuple[str, str, str]]:
    """API group, resource and verb."""
    for file in TEMPLATES.glob("*rbac.yaml"):
        for document in yaml.safe_load_all(file.read_text()):
            for rule in document.get("rules", ()):
                yield from product(rule["apiGroups"], rule["resources"], rule["verbs"])

"""Children are written when they differ from what is wanted, and never otherwise."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubequant.cluster import kinds
from kubequant.cluster.api import ApiError
from kubequant.errors import Conflict, Waiting
from kubequant.manifests.children import build_service
from kubequant.reconcile.children import Children, contains
from kubequant.reconcile.kinds import QUANTIZED_MODEL
from kubequant.reconcile.store import Store
from tests.unit.fakes import FakeKubeApi
from tests.unit.manifests.making import OWNER
from tests.unit.reconcile.making import model_body

WANTED = build_service(OWNER)


class Place:
    """Children over a fake API server; `watch` brings what it holds to the store."""

    def __init__(self) -> None:
        self.api, self.store = FakeKubeApi(), Store()
        self.children = Children(self.api, self.store)
        model = model_body(OWNER.name)
        model["metadata"] |= {"uid": OWNER.uid}
        self.store.put(QUANTIZED_MODEL, model)

    def ensure(self, wanted: dict[str, Any] = WANTED) -> bool:
        return asyncio.run(self.children.ensure(kinds.SERVICE, OWNER, wanted))

    def watch(self) -> None:
        for body in self.api.all(kinds.SERVICE):
            self.store.put(kinds.SERVICE, body)


def test_made_once() -> None:
    place = Place()
    assert place.ensure()
    assert not place.ensure(), "the watch has not brought it yet"
    place.watch()
    assert not place.ensure()
    assert len(place.api.requests) == 2  # one look, one write


def test_after_a_restart_it_is_compared_and_not_written() -> None:
    place = Place()
    place.ensure()
    place.watch()
    place.children = Children(place.api, place.store)
    assert not place.ensure()
    assert [verb for verb, _, _ in place.api.requests] == ["get", "apply", "get"]


def test_a_hand_edit_is_mended() -> None:
    place = Place()
    place.ensure()
    edited = place.api.all(kinds.SERVICE)[0]
    edited["spec"]["ports"][0]["port"] = 81
    place.api.put(kinds.SERVICE, edited)
    place.watch()
    assert place.ensure()
    assert place.api.all(kinds.SERVICE)[0]["spec"]["ports"][0]["port"] == 80
    place.watch()
    assert not place.ensure()


def test_an_addition_of_somebody_else_is_left() -> None:
    place = Place()
    place.ensure()
    edited = place.api.all(kinds.SERVICE)[0]
    edited["metadata"]["annotations"] = {"theirs": "1"}
    edited["spec"]["clusterIP"] = "10.0.0.1"
    place.api.put(kinds.SERVICE, edited)
    place.watch()
    assert not place.ensure()


def test_deleted_and_made_again() -> None:
    place = Place()
    place.ensure()
    place.watch()
    gone = place.api.remove(kinds.SERVICE, OWNER.namespace, OWNER.name)
    place.store.remove(kinds.SERVICE, gone)
    assert place.ensure()


def test_deleted_again_and_again() -> None:
    place = Place()
    place.ensure()
    place.watch()
    for _ in range(3):
        assert not place.ensure()
        place.store.remove(kinds.SERVICE, place.api.remove(kinds.SERVICE, OWNER.namespace, OWNER.name))
        assert place.ensure()
        assert not place.ensure(), "the watch has not brought it yet"
        place.watch()


def test_what_a_former_model_of_the_name_owned_is_waited_for() -> None:
    place = Place()
    reference = {"controller": True, "kind": OWNER.kind, "name": OWNER.name, "uid": "before"}
    metadata = {"namespace": OWNER.namespace, "name": OWNER.name, "ownerReferences": [reference]}
    place.api.put(kinds.SERVICE, {"metadata": metadata, "spec": {}})
    with pytest.raises(Waiting, match="of the former model of this name"):
        place.ensure()


def test_a_change_of_what_is_wanted_is_written_at_once() -> None:
    place = Place()
    place.ensure()
    other = {**WANTED, "spec": {**WANTED["spec"], "type": "LoadBalancer"}}
    assert place.ensure(other)
    assert place.api.all(kinds.SERVICE)[0]["spec"]["type"] == "LoadBalancer"


@pytest.mark.parametrize("uid", ["", "somebody-else"])
def test_what_is_not_ours_is_a_conflict_and_left(uid: str) -> None:
    place = Place()
    references = [{"controller": True, "uid": uid}] if uid else []
    metadata = {"namespace": OWNER.namespace, "name": OWNER.name, "ownerReferences": references}
    theirs = place.api.put(kinds.SERVICE, {"metadata": metadata, "spec": {}})
    with pytest.raises(Conflict, match=f"a Service named {OWNER.name} exists already"):
        place.ensure()
    assert place.api.all(kinds.SERVICE) == [theirs]


def test_an_object_replaced_between_look_and_write_is_not_seized() -> None:
    place = Place()
    place.ensure()
    real_get = place.api.get

    async def get_then_replaced(kind: kinds.Kind, namespace: str | None, name: str) -> Any:
        found = await real_get(kind, namespace, name)
        place.api.remove(kind, namespace, name)
        place.api.put(kind, {"metadata": {"namespace": namespace, "name": name}, "spec": {"mine": 1}})
        return found

    place.api.get = get_then_replaced  # type: ignore[method-assign]
    with pytest.raises(ApiError, match="Conflict"):
        place.ensure({**WANTED, "spec": {**WANTED["spec"], "type": "LoadBalancer"}})


def test_removed_only_when_it_is_ours() -> None:
    place = Place()
    place.ensure()
    place.watch()
    remove = place.children.remove
    assert asyncio.run(remove(kinds.SERVICE, OWNER, OWNER.name))
    place.store.remove(kinds.SERVICE, WANTED)
    requests = len(place.api.requests)
    assert not asyncio.run(remove(kinds.SERVICE, OWNER, OWNER.name))
    assert len(place.api.requests) == requests, "what is known to be gone needs no look"
    place.api.put(kinds.SERVICE, {"metadata": {"namespace": OWNER.namespace, "name": OWNER.name}, "spec": {}})
    place.watch()
    assert not asyncio.run(remove(kinds.SERVICE, OWNER, OWNER.name))
    assert place.api.all(kinds.SERVICE)


def test_a_model_that_is_gone_is_forgotten() -> None:
    place = Place()
    place.ensure()
    place.children.forget((OWNER.namespace, OWNER.name))
    assert place.children._written == {}


CONTAINS: dict[str, tuple[Any, Any, bool]] = {
    "fields that the server fills in": ({"a": 1, "b": 2}, {"a": 1}, True),
    "a missing field": ({"b": 2}, {"a": 1}, False),
    "another value": ({"a": 2}, {"a": 1}, False),
    "nested": ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1}}, True),
    "named objects in any order": (
        [{"name": "y"}, {"name": "x", "v": 1, "w": 2}],
        [{"name": "x", "v": 1}, {"name": "y"}],
        True,
    ),
    "a named object is missing": ([{"name": "y"}], [{"name": "x"}], False),
    "plain lists as they stand": (["a", "b"], ["b", "a"], False),
    "a plain list that grew": (["a", "b"], ["a"], False),
    "an empty list": ([], [], True),
    "quantities": ("1", "1000m", True),
    "binary quantities": ("1Gi", "1024Mi", True),
    "other quantities": ("2", "1000m", False),
    "words are no quantities": ("1x", "1y", False),
    "zero and false": ({"a": False}, {"a": False}, True),
    "null is not absence": ({}, {"a": None}, False),
}


@pytest.mark.parametrize("name", CONTAINS)
def test_contains(name: str) -> None:
    live, wanted, expected = CONTAINS[name]
    assert contains(live, wanted) is expected


NAMED = st.lists(
    st.fixed_dictionaries({"name": st.text(max_size=3), "v": st.integers()}), unique_by=lambda x: x["name"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3) | NAMED,
    max_leaves=12,
)


@given(VALUES)
def test_everything_contains_itself(value: Any) -> None:
    assert contains(value, value)


@given(st.dictionaries(st.text(max_size=3), VALUES), st.dictionaries(st.text(max_size=3), VALUES))
def test_more_fields_are_ignored(wanted: dict[str, Any], more: dict[str, Any]) -> None:
    assert contains({**more, **wanted}, wanted)

"""What a user's pod says of a base model reaches nobody else: discovery's memory is shared by all namespaces."""

from __future__ import annotations

from dataclasses import replace

from kubequant.hub.client import Hub
from kubequant.planning.values import Found
from tests.fakehub import FakeHub
from tests.fakehub.family import BASE, Sibling, family
from tests.unit.hub.asking import with_hub


def test_facts_that_an_inspector_forged_poison_no_search_of_others() -> None:
    async def ask(hub: Hub) -> tuple[Found, Found]:
        told = await hub.describe(BASE)
        layers = told.shape.num_hidden_layers - 1
        forged = await hub.find(replace(told, shape=replace(told.shape, num_hidden_layers=layers, caches=())))
        return forged, await hub.find(told)

    with FakeHub(family()) as running:
        forged, found = with_hub(running.url, ask)
    assert Sibling.OWN_AWQ in {one.repository for one in forged.rejected}
    assert Sibling.OWN_AWQ in {one.repository for one in found.checkpoints}

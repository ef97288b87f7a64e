"""The standard repositories, served once for all tests of the hub."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fakehub import FakeHub
from tests.fakehub.standard import STANDARD_RENAMED, STANDARD_TOKENS, standard_repositories


@pytest.fixture(scope="session")
def served() -> Iterator[FakeHub]:
    with FakeHub(standard_repositories(), tokens=STANDARD_TOKENS, renamed=STANDARD_RENAMED) as hub:
        yield hub


@pytest.fixture
def standard(served: FakeHub) -> FakeHub:
    """The hub of the standard repositories, its log empty and without faults."""
    served.requests.clear()
    served.faults.clear()
    return served


@pytest.fixture
def empty() -> Iterator[FakeHub]:
    """A hub to which a test adds its own repositories."""
    with FakeHub(tokens={"hf_operator": ("some/secret",)}) as hub:
        yield hub

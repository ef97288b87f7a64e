"""The corpus of tests/fuzz goes through the same entry points as when it is fuzzed: what was found once stays mended."""

from __future__ import annotations

import pytest

from tests.fuzz.targets import TARGETS, corpus


@pytest.mark.parametrize("target", TARGETS)
def test_there_is_a_corpus_of_small_files(target: str) -> None:
    sizes = [path.stat().st_size for path in corpus(target)]
    assert len(sizes) >= 10
    assert max(sizes) <= 32_768


@pytest.mark.parametrize(("target", "name"), [(target, path.name) for target in TARGETS for path in corpus(target)])
def test_corpus(target: str, name: str) -> None:
    (path,) = (path for path in corpus(target) if path.name == name)
    TARGETS[target](path.read_bytes())

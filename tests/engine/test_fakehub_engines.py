"""The engines' own hub clients against the fake Hub: transformers and vLLM load by repository id."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engines.environments import llm_compressor_environment, run_in, vllm_environment
from tests.engines.hardware import can_serve_w4a16
from tests.engines.tiny_model import tiny_models
from tests.fakehub import FakeHub, Fault, Repository

pytestmark = pytest.mark.engine

SCRIPTS = Path(__file__).parents[1] / "engines" / "scripts"
BASE = "kubequant/tiny-llama"
AWQ = "kubequant/tiny-llama-AWQ"
TIMEOUT_SECONDS = 300


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    models = tiny_models()
    repositories = [Repository.from_folder(BASE, models.base), Repository.from_folder(AWQ, models.awq)]
    with FakeHub(repositories) as hub:
        yield hub


@pytest.mark.parametrize(
    ("environment", "hub_client"),
    [(llm_compressor_environment, "1."), (vllm_environment, "2.")],
    ids=["hub-1", "hub-2"],
)
def test_transformers_loads_by_repository_id(
    hub: FakeHub, tmp_path: Path, environment: Callable[[], Path], hub_client: str
) -> None:
    # One failure on the way: the client must get over it.
    hub.faults.add(Fault("/repos/", method="GET", cut_after_bytes=100_000))
    loaded = run_script(hub, environment(), "load_with_transformers.py", BASE, tmp_path)
    assert loaded["hub"].startswith(hub_client)
    assert loaded["parameters"] == 1_705_216
    assert loaded["tokens"] > 5
    assert hub.requests.count("model.safetensors", method="HEAD") == 1
    assert hub.requests.count(role="cdn", method="GET") == 2
    assert hub.requests.count("xet") == 0


@pytest.mark.skipif(can_serve_w4a16() is not None, reason=str(can_serve_w4a16()))
def test_vllm_serves_the_awq_checkpoint_by_repository_id(hub: FakeHub, tmp_path: Path) -> None:
    tokens = run_script(hub, vllm_environment(), "generate_with_vllm.py", AWQ, tmp_path)
    assert len(tokens) == 8
    assert hub.requests.count(role="cdn", method="GET") == 1


def run_script(hub: FakeHub, environment: Path, script: str, repository: str, cache: Path) -> Any:
    """The JSON in the last line of the script's output; nothing but the fake Hub to download from, nothing cached."""
    variables = {"HF_ENDPOINT": hub.url, "HF_HOME": str(cache), "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    output = run_in(
        environment, [str(SCRIPTS / script), repository], timeout_seconds=TIMEOUT_SECONDS, variables=variables
    )
    return json.loads(output.splitlines()[-1])

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
from tests.fakehub import FakeHub, Fault, Repository, rate_limited
from tests.fakehub.family import BASE as FAMILY
from tests.fakehub.family import Sibling, family
from tests.fakehub.repository import quantized_card

pytestmark = pytest.mark.engine

SCRIPTS = Path(__file__).parents[1] / "engines" / "scripts"
BASE = "kubequant/tiny-llama"
AWQ = "kubequant/tiny-llama-AWQ"
TIMEOUT_SECONDS = 300

in_both_engines = pytest.mark.parametrize(
    ("environment", "hub_client"),
    [(llm_compressor_environment, "1."), (vllm_environment, "2.")],
    ids=["hub-1", "hub-2"],
)


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub(tiny_repositories()) as hub:
        yield hub


def tiny_repositories() -> list[Repository]:
    models = tiny_models()
    awq = Repository.from_folder(AWQ, models.awq, card=quantized_card(BASE))
    return [Repository.from_folder(BASE, models.base), awq]


@in_both_engines
def test_transformers_loads_by_repository_id(
    hub: FakeHub, tmp_path: Path, environment: Callable[[], Path], hub_client: str
) -> None:
    # One failure on the way: the client must get over it.
    hub.faults.add(Fault("/repos/", method="GET", cut_after_bytes=100_000))
    loaded = run_script(hub, environment(), "load_with_transformers.py", [BASE], tmp_path)
    assert loaded["hub"].startswith(hub_client)
    assert loaded["parameters"] == 1_705_216
    assert loaded["tokens"] > 5
    assert hub.requests.count("model.safetensors", method="HEAD") == 1
    assert hub.requests.count(role="cdn", method="GET") == 2
    assert hub.requests.count("xet") == 0


@in_both_engines
def test_transformers_waits_for_a_hub_that_throttles(
    hub: FakeHub, tmp_path: Path, environment: Callable[[], Path], hub_client: str
) -> None:
    hub.faults.add(rate_limited("/resolve/", share=0.3, seed=1, reset_seconds=1))
    loaded = run_script(hub, environment(), "load_with_transformers.py", [BASE], tmp_path)
    assert loaded["hub"].startswith(hub_client) and loaded["parameters"] == 1_705_216
    refused = [request for request in hub.requests.select("/resolve/") if request.status == 429]
    assert refused and len(refused) < hub.requests.count("/resolve/")


@in_both_engines
def test_transformers_loads_from_a_mirror_under_a_path(
    tmp_path: Path, environment: Callable[[], Path], hub_client: str
) -> None:
    with FakeHub(tiny_repositories(), prefix="/hf", mirror=True) as mirror:
        loaded = run_script(mirror, environment(), "load_with_transformers.py", [BASE], tmp_path)
        assert loaded["hub"].startswith(hub_client) and loaded["parameters"] == 1_705_216
        assert all(request.path.startswith("/hf/") for request in mirror.requests.select(role="hub"))


@in_both_engines
def test_tokenizers_of_the_family_are_what_their_names_say(
    tmp_path: Path, environment: Callable[[], Path], hub_client: str
) -> None:
    same = [FAMILY, Sibling.OWN_AWQ, Sibling.W4A16, Sibling.LATER_TOOLS]
    different = [Sibling.WRONG_TOKENIZER, Sibling.CHANGED_TEMPLATE]
    with FakeHub(family()) as hub:
        seen = run_script(hub, environment(), "tokenize_with_transformers.py", [*same, *different], tmp_path)
        assert f"hf_hub/{hub_client}" in hub.requests.select()[0].user_agent
    base = seen[FAMILY]
    assert len(base["ids"]) > 5 and base["chat"].endswith("<|im_start|>assistant\n")
    assert [seen[name] for name in same] == [base] * len(same)
    assert seen[Sibling.WRONG_TOKENIZER]["ids"] != base["ids"]
    assert seen[Sibling.WRONG_TOKENIZER]["chat"] == base["chat"]
    assert seen[Sibling.CHANGED_TEMPLATE]["ids"] == base["ids"]
    assert seen[Sibling.CHANGED_TEMPLATE]["chat"] != base["chat"]


@pytest.mark.skipif(can_serve_w4a16() is not None, reason=str(can_serve_w4a16()))
def test_vllm_serves_the_awq_checkpoint_at_a_pinned_commit(hub: FakeHub, tmp_path: Path) -> None:
    commit = hub.catalogue.repositories[AWQ].branches["main"]
    hub.catalogue.repositories[AWQ].commit({"config.json": b"what a pinned pod must not read"})
    tokens = run_script(hub, vllm_environment(), "generate_with_vllm.py", [AWQ, commit], tmp_path)
    assert len(tokens) == 8
    assert hub.requests.count(role="cdn", method="GET") == 1
    assert {request.path.split("/resolve/")[1].split("/")[0] for request in hub.requests.select("/resolve/")} == {
        commit
    }


def run_script(hub: FakeHub, environment: Path, script: str, arguments: list[str], cache: Path) -> Any:
    """The JSON in the last line of the script's output; nothing but the fake Hub to download from, nothing cached."""
    variables = {"HF_ENDPOINT": hub.url, "HF_HOME": str(cache), "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    output = run_in(
        environment, [str(SCRIPTS / script), *arguments], timeout_seconds=TIMEOUT_SECONDS, variables=variables
    )
    return json.loads(output.splitlines()[-1])

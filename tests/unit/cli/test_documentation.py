"""docs/cli.md shows what the commands really print. KUBEQUANT_WRITE_DOCS=1 writes it anew instead of comparing."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import yaml

from kubequant.reconcile.kinds import QUANTIZED_MODEL
from tests.fakehub import FakeHub
from tests.fakehub.chat_files import chat_files
from tests.fakehub.repository import Repository
from tests.fakehub.standard import standard_repositories
from tests.unit.cli.making import node, qwen_7b_awq, run
from tests.unit.fakes import FakeKubeApi

PAGE = Path(__file__).parents[3] / "docs" / "cli.md"
BLOCK = re.compile(r"```console\n(.*?)```", re.DOTALL)
NODES = [
    node("a", "NVIDIA-L4", 4),
    node("b", "NVIDIA-L4", 2),
    node("c", "Tesla-T4", 1),
    node("d", "NVIDIA-A10-SHARED", 4),
]
MODEL = {
    "kind": "QuantizedModel",
    "metadata": {"name": "qwen"},
    "spec": {"model": {"repository": "Qwen/Qwen2.5-7B-Instruct-AWQ"}, "serving": {"contextTokens": 8192}},
}


ENDPOINT = "https://huggingface.co"


def repositories() -> list[Repository]:
    """The standard set; the models that the page looks up have a tokenizer, so that their checkpoints can be compared."""
    found = standard_repositories()
    for repository in found:
        if "/Qwen2.5-" in repository.id:
            repository.commit({**repository.commits[repository.branches["main"]].files, **chat_files()})
    return found


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub(repositories()) as running:
        yield running


@pytest.fixture
def folder(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files that the page speaks of, and a cluster in which its model is rolled out."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KUBEQUANT_HUB__ENDPOINT", hub.url)
    (tmp_path / "nodes.yaml").write_text(yaml.safe_dump({"kind": "List", "items": NODES}))
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(MODEL))
    qwen_7b_awq(tmp_path / "Qwen2.5-7B-Instruct-AWQ")
    rolled_out = run("plan", "-f", "model.yaml", "--fleet", "nodes.yaml", "-o", "json")
    api = FakeKubeApi()
    status = {"plan": json.loads(rolled_out.stdout)["plan"]}
    api.put(QUANTIZED_MODEL, {"metadata": {"name": "qwen", "namespace": "default"}, "status": status})

    @asynccontextmanager
    async def faked(kubeconfig: str | None) -> AsyncIterator[FakeKubeApi]:
        yield api

    monkeypatch.setattr("kubequant.cli.cluster._api", faked)
    return tmp_path


def printed(block: str, hub: FakeHub) -> str:
    """The block as its commands print it now, with the Hub's own address in place of the fake one's."""
    lines = []
    for command in (line for line in block.splitlines() if line.startswith("$ ")):
        done = run(*shlex.split(command)[2:])
        assert "fault of KubeQuant" not in done.output, done.output
        lines += [command, *(line.rstrip() for line in (done.stdout + done.stderr).splitlines()), ""]
    return "\n".join(lines).replace(hub.url, ENDPOINT).rstrip("\n") + "\n"


def test_the_page_shows_what_is_printed(folder: Path, hub: FakeHub) -> None:
    page = PAGE.read_text(encoding="utf-8")
    now = BLOCK.sub(lambda found: f"```console\n{printed(found[1], hub)}```", page)
    if os.environ.get("KUBEQUANT_WRITE_DOCS"):
        PAGE.write_text(now, encoding="utf-8")
        return
    assert now == page, "KUBEQUANT_WRITE_DOCS=1 pytest tests/unit/cli/test_documentation.py writes docs/cli.md anew"

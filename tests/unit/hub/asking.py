"""One question to a hub, as tests put it: a Hub of its own, an event loop of its own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from kubequant.hub.client import Hub
from kubequant.hub.session import Clocks
from kubequant.planning.values import ModelFacts
from tests.fakehub import Repository
from tests.fakehub.content import Content
from tests.fakehub.safetensors_files import checkpoint_files
from tests.fakehub.tensors import Tensor, model_config

Answer = TypeVar("Answer")

TENSORS = [
    Tensor(f"model.layers.{layer}.self_attn.{name}.weight", "BF16", (64, 32)) for layer in range(6) for name in "qkv"
]
TENSORS_BYTES = len(TENSORS) * 64 * 32 * 2


def with_hub(url: str, ask: Callable[[Hub], Awaitable[Answer]], **options: Any) -> Answer:
    """What `ask` finds with a new Hub, which is closed afterwards."""

    clock = options.get("clock")
    if clock is not None:
        options.setdefault("clocks", Clocks(monotonic=clock, sleep=getattr(clock, "sleep", None)))

    async def main() -> Answer:
        hub = Hub(endpoint=url, **options)
        try:
            return await ask(hub)
        finally:
            await hub.close()

    return asyncio.run(main())


def describe(url: str, repository: str, revision: str = "main", **options: Any) -> ModelFacts:
    return with_hub(url, lambda hub: hub.describe(repository, revision), **options)


def model(
    name: str = "some/model", tensors: Sequence[Tensor] = TENSORS, shard_bytes: int = 20_000, **more: Content | bytes
) -> Repository:
    """A repository of these tensors in shards; `more` are its other files by path, with `.` written `__`."""
    named = {path.replace("__", "."): content for path, content in more.items()}
    config = document(model_config("qwen2.5-7b"))
    return Repository.from_files(name, {"config.json": config, **checkpoint_files(list(tensors), shard_bytes), **named})


def changed(repository: Repository, **files: Content | bytes | None) -> Repository:
    """The same repository with some files of main replaced, or removed where None."""
    commit = repository.find("main")
    assert commit is not None
    named = {path.replace("__", "."): content for path, content in files.items()}
    kept = {path: content for path, content in {**commit.files, **named}.items() if content is not None}
    repository.commit(kept)
    return repository


def document(value: object) -> bytes:
    return json.dumps(value).encode()

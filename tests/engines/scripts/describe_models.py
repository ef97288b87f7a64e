"""Asks vLLM what a model's layers hold: KV-cache specs and parameters of rank 0, built on the meta device.

Runs in the vLLM environment. Reads a JSON list of questions from stdin: name, config, tp, and if wanted max_model_len,
kv_cache_dtype and max_num_batched_tokens; the last line of stdout is a JSON list with an answer for each. No weights
exist and no other rank does: the collectives' world is torch's fake process group.
"""

import contextlib
import gc
import importlib.abc
import importlib.machinery
import json
import os
import sys
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import torch
import torch.distributed
from torch.testing._internal.distributed.fake_pg import FakeStore
from vllm.config import set_current_vllm_config
from vllm.distributed import parallel_state
from vllm.distributed.device_communicators.cpu_communicator import CpuCommunicator
from vllm.distributed.device_communicators.shm_broadcast import MessageQueue
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.model_executor.layers.attention_layer_base import AttentionLayerBase
from vllm.model_executor.model_loader.utils import initialize_model
from vllm.model_executor.models import registry
from vllm.platforms import current_platform
from vllm.platforms.interface import Platform
from vllm.usage.usage_lib import UsageContext
from vllm.utils.torch_utils import set_default_torch_dtype
from vllm.v1.attention.backend import MultipleOf
from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend
from vllm.v1.core import kv_cache_utils


class NotInstalled(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Stands in for torchvision, which vision models import and building them on the meta device does not call."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        return (
            importlib.machinery.ModuleSpec(name, self, is_package=True) if name.split(".")[0] == "torchvision" else None
        )

    def create_module(self, spec: Any) -> Any:
        return None

    def exec_module(self, module: Any) -> None:
        def anything(name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            return MagicMock()

        module.__getattr__ = anything


def behave_the_same_on_every_machine() -> None:
    """As nearly as a GPU platform would: vLLM's dtype of states and its blocks depend on what the CPU can do."""
    sys.meta_path.append(NotInstalled())
    torch.cpu._is_avx512_bf16_supported = lambda: False
    torch.cpu._is_amx_tile_supported = lambda: True  # without it, MLA has no prefix caching
    CPUAttentionBackend.get_supported_kernel_block_sizes = staticmethod(lambda *args: [MultipleOf(16)])
    # Gemma 3n reads back numbers that it has just written; on the meta device there are none.
    read = torch.Tensor.item
    torch.Tensor.item = lambda tensor: 1.0 if tensor.is_meta else read(tensor)
    # Ranks that are not there share no memory.
    CpuCommunicator._all_group_ranks_share_shm_group_name = lambda self: False
    os.environ["VLLM_DIST_IDENT"] = "oracle"
    parallel_state.in_the_same_node_as = lambda group, source_rank=0: [True] * group.size()
    MessageQueue.create_from_process_group = staticmethod(lambda *args, **kwargs: None)


def inspect_architectures_here() -> None:
    """vLLM inspects each class in a process of its own, some 15 s each, which only spares the parent an import."""

    def inspect(lazy: Any) -> Any:
        return registry._ModelInfo.from_model_cls(lazy.load_model_cls())

    registry._LazyRegisteredModel.inspect_model_cls = inspect


def make_every_group_fake() -> None:
    real = torch.distributed.new_group

    def new_group(*args: Any, **kwargs: Any) -> Any:
        return real(*args, **kwargs | {"backend": "fake"})

    torch.distributed.new_group = new_group


@contextlib.contextmanager
def world_of(ranks: int, config: Any) -> Any:
    """This process as rank 0 of `ranks` that are not there."""
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
    try:
        with set_current_vllm_config(config):
            parallel_state.init_distributed_environment(ranks, 0, "env://", 0, "fake")
            parallel_state.initialize_model_parallel(ranks, backend="fake")
            yield
    finally:
        parallel_state.destroy_model_parallel()
        parallel_state.destroy_distributed_environment()
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def plain(value: Any) -> Any:
    """What JSON can hold of a field of a spec."""
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value if isinstance(value, bool | int | float | str | None) else str(value).removeprefix("torch.")


def spec_of(name: str, spec: Any) -> dict[str, Any]:
    values = {item.name: plain(getattr(spec, item.name)) for item in fields(spec)}
    return values | {"layer": name, "kind": type(spec).__name__, "page_size_bytes": spec.page_size_bytes}


def kv_cache_specs(config: Any) -> dict[str, Any]:
    """As the engine's runner collects them: a layer that shares another one's cache has none."""
    specs = {}
    for name, layer in config.compilation_config.static_forward_context.items():
        if not isinstance(layer, AttentionLayerBase) or getattr(layer, "kv_sharing_target_layer_name", None):
            continue
        if (spec := layer.get_kv_cache_spec(config)) is not None:
            specs[name] = spec
    return specs


def plan_pool(config: Any) -> dict[str, Any]:
    """What vLLM's planner makes of the layers on a GPU platform: the pool's block, and a full-length request's blocks."""
    config.scheduler_config.async_scheduling = True
    chunked = getattr(config.model_config.hf_text_config, "attention_chunk_size", None)
    config.scheduler_config.disable_hybrid_kv_cache_manager = chunked is not None
    config.cache_config.kv_cache_layout = "LBNHC"
    Platform.update_block_size_for_backend.__func__(type(current_platform), config)
    specs = kv_cache_specs(config)
    groups = kv_cache_utils.get_kv_cache_groups(config, specs)
    blocks = [
        -(-group.kv_cache_spec.max_memory_usage_bytes(config) // group.kv_cache_spec.page_size_bytes)
        for group in groups
    ]
    return {
        "max_num_batched_tokens": config.scheduler_config.max_num_batched_tokens,
        "prefix_caching": config.cache_config.enable_prefix_caching,
        "block_bytes": kv_cache_utils._pool_bytes_per_block(config, groups),
        "blocks_per_request": sum(blocks),
        "groups": [
            [len(group.layer_names), group.kv_cache_spec.block_size, held]
            for group, held in zip(groups, blocks, strict=True)
        ],
    }


def parameters_of(model: torch.nn.Module) -> list[dict[str, Any]]:
    """Parameters and persistent or other buffers; what is shared is there once."""
    found = [("parameter", *item) for item in model.named_parameters()]
    found += [("buffer", *item) for item in model.named_buffers()]
    return [
        {
            "name": name,
            "role": role,
            "dtype": plain(tensor.dtype),
            "shape": list(tensor.shape),
            "bytes": tensor.numel() * tensor.element_size(),
        }
        for role, name, tensor in found
    ]


def describe(question: dict[str, Any], folder: Path) -> dict[str, Any]:
    (folder / "config.json").write_text(json.dumps(question["config"]))
    ranks = question.get("tp", 1)
    config = AsyncEngineArgs(
        model=str(folder),
        skip_tokenizer_init=True,
        tensor_parallel_size=ranks,
        max_model_len=question.get("max_model_len"),
        kv_cache_dtype=question.get("kv_cache_dtype", "auto"),
        block_size=16,  # of the GPU platforms; the CPU's own is 128
        enable_prefix_caching=True,
        max_num_batched_tokens=question.get("max_num_batched_tokens"),
        enforce_eager=True,
    ).create_engine_config(UsageContext.OPENAI_API_SERVER)
    model_config = config.model_config
    with world_of(ranks, config), set_default_torch_dtype(model_config.dtype), torch.device("meta"):
        model = initialize_model(vllm_config=config, model_config=model_config)
        specs = kv_cache_specs(config)
        return {
            "max_model_len": model_config.max_model_len,
            "dtype": plain(model_config.dtype),
            "kv_cache": [spec_of(name, spec) for name, spec in specs.items()],
            "pool": plan_pool(config),
            "tensors": parameters_of(model),
        }


def answer(question: dict[str, Any]) -> dict[str, Any]:
    print(question["name"], file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        try:
            described = describe(question, Path(folder)) | {"error": ""}
        except (Exception, SystemExit) as error:
            described = {"error": f"{type(error).__name__}: {error}"[-2000:]}
    gc.collect()
    return {"name": question["name"], "tp": question.get("tp", 1)} | described


def main() -> None:
    questions = json.load(sys.stdin)
    behave_the_same_on_every_machine()
    inspect_architectures_here()
    make_every_group_fake()
    answers = [answer(question) for question in questions]
    print()
    print(json.dumps(answers))


if __name__ == "__main__":
    main()

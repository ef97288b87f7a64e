"""What other planners would have said of the same start-ups: KAITO, GPUStack, the llm-d planner, and a rule of thumb.

Each is its published formula for one GPU, with the weights that the start-up reports (so that none suffers from another's reading of a
checkpoint): non-KV memory, and bytes of a token of KV cache where it has such a rule.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from bench.replay import Replay
from bench.startups import GIB, StartUp
from kubequant.planning.memory import EngineLoad
from kubequant.planning.values import CacheKind


@dataclass(frozen=True)
class Peer:
    """`non_kv_bytes` of one GPU; `token_bytes` of one GPU, None where the planner has no term for the KV cache."""

    name: str
    non_kv_bytes: Callable[[StartUp, EngineLoad], int]
    token_bytes: Callable[[StartUp, EngineLoad], int] | None


def _kaito(start_up: StartUp, load: EngineLoad) -> int:
    """Stored bytes and 2 %, 5 % of that as overhead that grows with the model, 2.3 GiB that does not."""
    return int(load.weight_bytes * 1.02 * 1.05 + 2.3 * GIB)


def _gpustack(start_up: StartUp, load: EngineLoad) -> int:
    """Weights x 1.2 + 2 GiB."""
    return int(load.weight_bytes * 1.2 + 2 * GIB)


def _llm_d(start_up: StartUp, load: EngineLoad) -> int:
    """Weights, a measured activation by kind of model, 0.15 GiB (0.6 with tensor parallelism) of non-torch memory."""
    name = f"{start_up.model} {load.shape.architecture}".lower()
    if load.shape.multimodal:
        activation = 2.5
    elif load.shape.experts:
        activation = 8.0
    elif "llama" in name:
        activation = 4.8
    else:
        activation = 5.6 if "qwen" in name else 5.5
    non_torch = 0.6 if load.tensor_parallel_size > 1 else 0.15
    return load.weight_bytes + int((activation + non_torch) * GIB)


def _rule_of_thumb(start_up: StartUp, load: EngineLoad) -> int:
    return load.weight_bytes + 3 * GIB // 2


def _always_16_bit_divided(start_up: StartUp, load: EngineLoad) -> int:
    """Two bytes a value whatever the flag says, every layer, divided by the number of GPUs, MLA too."""
    values = sum(
        cache.layers * cache.kv_heads * (cache.key_dim + cache.value_dim)
        for cache in load.shape.caches
        if cache.kind is not CacheKind.STATE
    )
    return max(1, 2 * values // (load.tensor_parallel_size * load.pipeline_parallel_size))


PEERS = (
    Peer("KAITO", _kaito, _always_16_bit_divided),
    Peer("GPUStack", _gpustack, None),
    Peer("llm-d planner", _llm_d, _always_16_bit_divided),
    Peer("weights + 1.5 GiB", _rule_of_thumb, None),
)


@dataclass(frozen=True)
class PeerReplay:
    """A peer's figures on one usable start-up."""

    replay: Replay
    non_kv_bytes: int
    promised_tokens: int

    @property
    def error_bytes(self) -> int:
        return self.non_kv_bytes - self.replay.real_non_kv_bytes


def peer_replay(peer: Peer, replay: Replay) -> PeerReplay:
    """Tokens are counted with the peer's own rule, else with ours."""
    load = replay.start_up.load_for_layout
    non_kv = peer.non_kv_bytes(replay.start_up, _weighed(replay.start_up))
    left = max(0, replay.budget.usable_bytes - non_kv)
    token_bytes = peer.token_bytes(replay.start_up, load) if peer.token_bytes else replay.token_bytes
    return PeerReplay(replay, non_kv, left // (token_bytes or _printed_token_bytes(replay)))


def _printed_token_bytes(replay: Replay) -> int:
    return max(1, replay.real_kv_cache_bytes // max(1, replay.real_tokens))


def _weighed(start_up: StartUp) -> EngineLoad:
    if start_up.load is None:
        raise ValueError(f"{start_up.id}: weights are not known")
    return start_up.load


def peer_foresees(peer: Peer, start_up: StartUp) -> bool:
    """Whether the peer's formula leaves less than one request of full length needs. Nothing is foreseen of a card or a model that
    the report does not name."""
    load, total = start_up.load, start_up.total_bytes
    if load is None or total is None:
        return False
    utilization = start_up.gpu_memory_utilization or start_up.default_utilization
    left = int(total * utilization) - peer.non_kv_bytes(start_up, load)
    if peer.token_bytes is None:
        return left <= 0
    length = start_up.max_model_len or load.shape.max_position_embeddings
    return left < length * peer.token_bytes(start_up, load)


_LLM_D = ("llm-d-sweep", "llm-d-empirical", "llm-d-version-sweep")


def kind_of(start_up: StartUp) -> str:
    """The author, for weighing: one machine repeated many times is one source."""
    match = re.search(r"\[(llm-d-[a-z-]+)\]", start_up.notes)
    return match[1] if match and match[1] in _LLM_D else "independent"

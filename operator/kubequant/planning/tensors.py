"""Stored tensors in classes, and what of them one rank keeps. How each is split stands in `sharding`."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator

from kubequant.api.conditions import Reason
from kubequant.errors import Refused
from kubequant.planning.names import is_embedding, is_head, is_of_tower
from kubequant.planning.projections import projection_disagreement
from kubequant.planning.sharding import Split, bytes_per_rank, padded_vocabulary
from kubequant.planning.values import ModelFacts, TensorClass

__all__ = [
    "classes_of",
    "disagreement",
    "largest_layer_per_rank",
    "loaded",
    "padded_vocabulary",
    "weights_per_rank",
]

_MAX_CLASSES = 256
"""Dense decoders have 10 to 20, multimodal and hybrid ones up to 60. A bound keeps hostile headers out of memory."""

_OF_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.\*\.(?P<component>[^.]+)")
_LONGEST_NUMBER = 10
"""Digits: what is longer numbers no layer, and headers are a stranger's."""
_EXTRA_LAYER = re.compile(r"(?:^|\.)layers\.\+\.|(?:^|\.)mtp(?:_\w+)?\.")
"""Layers that predict further tokens: DeepSeek and GLM number them after the decoder's, Qwen3-Next calls them mtp."""
_PREDICTS_AHEAD = re.compile(r"\.layers\.\+\.(?:eh_proj|enorm|hnorm|shared_head)\b")
_NO_WEIGHTS = re.compile(
    r"(?:rotary_emb\.inv_freq|\.attn\.(?:bias|masked_bias)|attention\.(?:bias|masked_bias)|position_ids|g_idx)$"
)
"""Tables that old exports hold and every engine computes itself, and the order of GPTQ's groups, which vLLM drops."""


def classes_of(
    tensors: Iterable[tuple[str, str, tuple[int, ...], int]], num_hidden_layers: int | None = None
) -> tuple[TensorClass, ...]:
    """Groups (name, dtype, shape, bytes) by name with its numbers starred, dtype and shape; sorted.

    Decoder layers beyond `num_hidden_layers` get a plus: they predict further tokens, and are not loaded.
    Raises Refused when there are more classes than any supported model has.
    """
    groups: defaultdict[tuple[str, str, tuple[int, ...]], list[int]] = defaultdict(list)
    for name, dtype, shape, size in tensors:
        groups[(_starred(name, num_hidden_layers), dtype, tuple(shape))].append(size)
        if len(groups) > _MAX_CLASSES:
            raise Refused(
                Reason.UNSUPPORTED_ARCHITECTURE,
                f"the checkpoint has more than {_MAX_CLASSES} kinds of tensors; no served model has as many",
            )
    return tuple(
        TensorClass(pattern, dtype, shape, len(sizes), sum(sizes))
        for (pattern, dtype, shape), sizes in sorted(groups.items())
    )


def _starred(name: str, num_hidden_layers: int | None) -> str:
    parts = name.split(".")
    layers = None if is_of_tower(name) else num_hidden_layers
    return ".".join(_star(before, part, layers) for before, part in zip(["", *parts], parts, strict=False))


def _star(before: str, part: str, layers: int | None) -> str:
    if not part.isdigit():
        return part
    if layers is None or before != "layers" or not part.isdecimal() or len(part) > _LONGEST_NUMBER:
        return "*"
    return "+" if int(part) >= layers else "*"


def weights_per_rank(
    facts: ModelFacts,
    tensor_parallel_size: int,
    pipeline_parallel_size: int = 1,
    expert_parallel: bool = False,
    *,
    padded_experts: bool = False,
) -> int:
    """Bytes of weights on the rank that holds most after loading, before a kernel's repacking.

    `padded_experts`: MXFP4 experts go through Marlin, which pads them. Where layers differ, a pipeline stage is taken
    to have as many of the heavy ones as fit into it: an upper bound.
    """
    split = Split(tensor_parallel_size, expert_parallel, padded_experts)
    sizes = [(tensor, bytes_per_rank(tensor, facts, split)) for tensor in loaded(facts)]
    if pipeline_parallel_size == 1:
        return sum(size for _, size in sizes)
    stages = _layers_by_stage(facts.shape.num_hidden_layers, pipeline_parallel_size)
    return max(_stage_bytes(sizes, facts, stages, stage) for stage in range(pipeline_parallel_size))


def largest_layer_per_rank(facts: ModelFacts, tensor_parallel_size: int, expert_parallel: bool = False) -> int:
    """Bytes of the largest decoder layer on a rank: what repacking at load needs a second time.

    The largest attention and the largest MLP that some layer has, taken together.
    """
    split = Split(tensor_parallel_size, expert_parallel)
    parts: defaultdict[str, defaultdict[int, int]] = defaultdict(lambda: defaultdict(int))
    for tensor in loaded(facts):
        component = _component(tensor)
        if component is not None:
            layers = _layers_with(tensor, facts)
            parts[component][layers] += -(-bytes_per_rank(tensor, facts, split) // layers)
    return sum(max(sizes.values()) for sizes in parts.values())


def disagreement(facts: ModelFacts) -> str | None:
    """How the headers contradict config.json, None when they do not: arithmetic would be right about neither."""
    shape = facts.shape
    if empty := next((tensor for tensor in facts.tensors if 0 in tensor.shape), None):
        return f"the tensor {empty.pattern[:200]} holds no numbers (shape {' x '.join(map(str, empty.shape))})"
    layers = _stored_layers(facts) + _unexplained_layers(facts)
    if layers not in (0, shape.num_hidden_layers):
        return f"config.json says {shape.num_hidden_layers} layers, the headers hold {layers}"
    projected = any(".project_in." in tensor.pattern for tensor in facts.tensors)  # OPT: embeds into fewer numbers
    for tensor in loaded(facts):
        if not tensor.pattern.endswith("embed_tokens.weight") or is_of_tower(tensor.pattern) or projected:
            continue
        if tensor.shape != (shape.vocab_size, shape.hidden_size):
            said = f"{shape.vocab_size} tokens x {shape.hidden_size}"
            return f"config.json says an embedding of {said}, the headers hold {' x '.join(map(str, tensor.shape))}"
    return projection_disagreement(shape, facts.stored, tuple(loaded(facts)))


def loaded(facts: ModelFacts) -> Iterator[TensorClass]:
    """What vLLM keeps: no layers for speculation, no tables, and a tied head only once."""
    for tensor in facts.tensors:
        if _EXTRA_LAYER.search(tensor.pattern) or _NO_WEIGHTS.search(tensor.pattern):
            continue
        if not (facts.shape.tie_word_embeddings and is_head(tensor)):
            yield tensor


def _component(tensor: TensorClass) -> str | None:
    """`self_attn` of model.layers.*.self_attn.q_proj.weight; None for what belongs to no decoder layer."""
    found = None if is_of_tower(tensor.pattern) else _OF_LAYER.search(tensor.pattern)
    return found["component"] if found else None


def _layers_with(tensor: TensorClass, facts: ModelFacts) -> int:
    """How many decoder layers have such a tensor, for experts as many of them in each."""
    experts = facts.shape.experts.experts if facts.shape.experts else 1
    starred = ".experts.*." in tensor.pattern
    return max(1, min(tensor.count // experts if starred else tensor.count, facts.shape.num_hidden_layers))


def _stored_layers(facts: ModelFacts) -> int:
    """The layers that the headers hold, by a tensor that each has (a norm). 0 where none is numbered."""
    counts: defaultdict[str, int] = defaultdict(int)
    for tensor in loaded(facts):
        if _component(tensor) is not None and ".experts." not in tensor.pattern:
            counts[tensor.pattern] += tensor.count
    return max((count for pattern, count in counts.items() if pattern.count("*") == 1), default=0)


def _unexplained_layers(facts: ModelFacts) -> int:
    """Layers beyond those of config.json that do not look as if they predicted further tokens."""
    beyond = [tensor for tensor in facts.tensors if ".layers.+." in f".{tensor.pattern}"]
    if any(_PREDICTS_AHEAD.search(f".{tensor.pattern}") for tensor in beyond):
        return 0
    return max((tensor.count for tensor in beyond if "*" not in tensor.pattern), default=0)


def _layers_by_stage(layers: int, stages: int) -> list[int]:
    """Evenly; what is left goes to the stages before the last (vLLM's get_pp_indices)."""
    even, left = divmod(layers, stages)
    return [even + (1 <= stages - 1 - stage <= left) for stage in range(stages)]


def _stage_bytes(sizes: list[tuple[TensorClass, int]], facts: ModelFacts, stages: list[int], stage: int) -> int:
    first, last = stage == 0, stage == len(stages) - 1
    total = 0
    for tensor, size in sizes:
        if _component(tensor) is not None:
            layers = _layers_with(tensor, facts)
            total += -(-size * min(layers, stages[stage]) // layers)
        elif is_head(tensor):
            total += size * last
        elif is_embedding(tensor) and not is_of_tower(tensor.pattern):
            total += size * (first or (last and facts.shape.tie_word_embeddings))
        else:
            total += size  # a tower, a norm: on every stage, at most
    return total

"""The checkpoint that quantising a 16-bit one would give, tensor by tensor, before anybody has made it.

llm-compressor replaces the weight of every linear layer of the decoder, [outputs, inputs], and leaves the rest as it is:

    scheme   in its place                                                                         bits a weight
    FP8      weight F8_E4M3, weight_scale [outputs, 1]                                            8 + 16 / inputs
    W8A8     weight I8, weight_scale [outputs, 1]                                                 8 + 16 / inputs
    W8A16    weight_packed I32 (4 values each), weight_scale a group of 128, weight_shape         8.125
    W4A16    weight_packed I32 (8 values each), weight_scale a group of 128, weight_shape         4.125
             and weight_zero_point I32 (8 outputs each) where AWQ makes it: asymmetric            4.156
    NVFP4    weight_packed U8 (2 values), weight_scale F8_E4M3 a group of 16, two global scales   4.5
    MXFP4    weight_packed U8 (2 values), weight_scale U8 a group of 32                           4.25

Embeddings, head, norms, routers, convolutions, biases, recurrent mixers, vision and audio towers with their projectors
stay as they are; layers for multi-token prediction are not written. `tests/engine` holds all of this against the real tool.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod

from kubequant.api.conditions import Reason
from kubequant.errors import Refused
from kubequant.planning.values import ModelFacts, StoredMethod, StoredQuantization, TensorClass

IGNORED_MODULES = (
    "lm_head",
    r"re:(.*\.)?embed_tokens$",
    r"re:.*\.(gate|router|shared_expert_gate)(\..*)?$",
    r"re:.*\.(linear_attn|mamba|conv|short_conv|indexer)\..*",
    r"re:.*\.mixer\.(in_proj|out_proj|x_proj|dt_proj)$",
    r"re:(.*\.)?(vision|visual|audio|image|multi_modal|mm)\w*(\..*)?$",
    r"re:(.*\.)?(connector|aligner|patch_merger|embed_vision|embed_audio)(\..*)?$",
    r"re:mtp\..*",
)
"""What stays in 16 bit, as llm-compressor's recipe names it: what a Job tells it and what is predicted are one.

The embedding is named for `model_free_ptq`, which sees matrices and not what they are for."""

_IGNORED = re.compile(
    "|".join(name.removeprefix("re:") if name.startswith("re:") else f"{name}$" for name in IGNORED_MODULES)
)

_AWQ_ARCHITECTURES = frozenset(
    f"{name}ForCausalLM"
    for name in (
        "Cohere", "Cohere2", "Exaone4", "Gemma2", "Gemma3", "Granite", "Llama", "Mistral", "Olmo", "Olmo3",
        "Phi3", "Qwen2", "Qwen3", "Qwen3Moe", "SeedOss",
    )
)  # fmt: skip
"""Whose mapping llm-compressor 0.14 has registered and which keeps the logits (docs/design/prediction.md).

Of the mixtures of experts only Qwen3's does: the others leave out the router, shared experts or dense layers behind the same norm."""

_BYTES = {"U8": 1, "I8": 1, "F8_E4M3": 1, "F16": 2, "BF16": 2, "I32": 4, "F32": 4, "I64": 8}
_EXPERT_NAMES = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}
_NEXT_TOKEN = re.compile(r"(?:.*\.)?mtp(?:_layers)?\.")
_BEYOND_THE_LAST = re.compile(r"(?:.*\.)?layers\.\+\.")
"""Layers for multi-token prediction: under a name of their own, or numbered on after the last (`classes_of` writes a plus for their numbers)."""

_Parts = Iterator[tuple[str, str, tuple[int, ...]]]  # parameter, dtype, shape


@dataclass(frozen=True)
class Layout:
    """How a scheme is stored. `preset` is what llm-compressor calls it."""

    preset: str
    bits: int
    group_size: int  # inputs that share a scale; -1: one scale per output
    symmetric: bool = True

    def parts(self, outputs: int, inputs: int, dtype: str) -> _Parts:
        """What stands in place of one weight of [outputs, inputs] that was stored as `dtype`."""
        if self.group_size == -1:
            yield "weight", "I8" if self.preset == "W8A8" else "F8_E4M3", (outputs, inputs)
            yield "weight_scale", dtype, (outputs, 1)
            return
        groups = inputs // self.group_size
        if self.preset in ("NVFP4", "MXFP4"):
            yield "weight_packed", "U8", (outputs, inputs // 2)
            yield "weight_scale", "F8_E4M3" if self.preset == "NVFP4" else "U8", (outputs, groups)
            if self.preset == "NVFP4":
                yield "weight_global_scale", "F32", (1,)
                yield "input_global_scale", "F32", (1,)
            return
        values = 32 // self.bits
        yield "weight_packed", "I32", (outputs, inputs // values)
        yield "weight_scale", dtype, (outputs, groups)
        yield "weight_shape", "I64", (2,)
        if not self.symmetric:
            yield "weight_zero_point", "I32", (-(-outputs // values), groups)


_W8A16 = Layout("W8A16", 8, 128)
_W8A8 = Layout("W8A8", 8, -1)
_W4A16 = Layout("W4A16", 4, 128)

_LAYOUTS: Mapping[tuple[str, str], Layout] = {
    ("FP8", "RoundToNearest"): Layout("FP8_DYNAMIC", 8, -1),
    ("W8A16", "RoundToNearest"): _W8A16,
    ("W8A16", "GPTQ"): _W8A16,
    ("W8A8", "GPTQ"): _W8A8,
    ("W8A8", "RoundToNearest"): _W8A8,
    ("W4A16", "AWQ"): Layout("W4A16_ASYM", 4, 128, symmetric=False),
    ("W4A16", "GPTQ"): _W4A16,
    ("W4A16", "RoundToNearest"): _W4A16,
    ("NVFP4", "RoundToNearest"): Layout("NVFP4", 4, 16),
    ("MXFP4", "RoundToNearest"): Layout("MXFP4", 4, 32),
}

PREDICTABLE_SCHEMES = tuple(_LAYOUTS)
"""(scheme, method) by loss, the least first; within a scheme the method that Auto prefers first."""


def predicted(facts: ModelFacts, scheme: str, method: str = "Auto") -> ModelFacts:
    """The facts of the compressed-tensors checkpoint that llm-compressor would make. Raises Refused where it cannot."""
    if obstacle := prediction_obstacle(facts, scheme, method):
        raise Refused(Reason.NOT_QUANTIZABLE, f"{facts.repository} cannot be made {scheme}: {obstacle}")
    layout = _LAYOUTS[scheme, resolved_method(facts, scheme, method)]
    base = tuple(_loaded(facts))
    tensors = _summed(made for tensor in base for made in _made(tensor, layout))
    return replace(
        facts,
        tensors=tensors,
        stored=_stored(scheme, layout, base),
        download_bytes=max(0, facts.download_bytes - facts.weight_bytes) + sum(tensor.bytes for tensor in tensors),
        predicted=True,
    )


def prediction_obstacle(facts: ModelFacts, scheme: str, method: str = "Auto") -> str | None:
    """Why llm-compressor cannot make this of it, with the number and what to do; None where it can."""
    methods = _methods(scheme)
    if not methods:
        known = ", ".join(dict.fromkeys(name for name, _ in PREDICTABLE_SCHEMES))
        return f"llm-compressor is not asked for {scheme[:50]!r} here, only for {known}"
    if method not in ("Auto", *methods):
        return f"{scheme} is made with {' or '.join(methods)}, not with {method[:50]}: leave the method out"
    if obstacle := _obstacle_of_model(facts):
        return obstacle
    candidates = methods if method == "Auto" else (method,)
    obstacles = [_obstacle_of_layout(facts, scheme, candidate) for candidate in candidates]
    return None if None in obstacles else obstacles[-1]


def resolved_method(facts: ModelFacts, scheme: str, method: str = "Auto") -> str:
    """AWQ, GPTQ or RoundToNearest: Auto is the first that has no obstacle, else the scheme's last."""
    if method != "Auto":
        return method
    methods = _methods(scheme)
    return next((one for one in methods if _obstacle_of_layout(facts, scheme, one) is None), methods[-1])


def method_of(facts: ModelFacts) -> str:
    """The method that Auto makes a predicted checkpoint with: the first of its scheme that stores it so."""
    stored = facts.stored
    assert stored is not None, "what is predicted is quantised"
    return next(
        method
        for (scheme, method), layout in _LAYOUTS.items()
        if scheme == stored.scheme and layout.symmetric == stored.symmetric
    )


def layout_of(scheme: str, method: str) -> Layout:
    """How a pair of PREDICTABLE_SCHEMES is stored. Raises KeyError for another pair."""
    return _LAYOUTS[scheme, method]


def _methods(scheme: str) -> tuple[str, ...]:
    return tuple(method for name, method in PREDICTABLE_SCHEMES if name == scheme)


# --- obstacles -------------------------------------------------------------------------------------------------------


def _obstacle_of_model(facts: ModelFacts) -> str | None:
    if facts.stored:
        return (
            f"it is quantised already ({facts.stored.method.value}, {facts.stored.scheme}): name the 16-bit original it "
            "was made of"
        )
    if facts.shape.upper_bound:
        return (
            f"the architecture {facts.shape.architecture} is not known here, so neither is which of its layers can be "
            "quantised: name a checkpoint that is quantised already"
        )
    if fused := next((tensor for tensor in facts.tensors if _is_fused_experts(tensor)), None):
        return (
            f"{fused.pattern} holds {fused.shape[0]} experts in one tensor, which must be split into one matrix an expert "
            "first: name a checkpoint that is quantised already, or an export with a tensor for each expert"
        )
    if not any(_is_quantised(tensor) for tensor in facts.tensors):
        return "its headers hold no linear layer of a decoder"
    return None


def _obstacle_of_layout(facts: ModelFacts, scheme: str, method: str) -> str | None:
    if method == "AWQ" and facts.shape.architecture not in _AWQ_ARCHITECTURES:
        return (
            f"llm-compressor has no AWQ mapping for {facts.shape.architecture} that keeps what the model computes: "
            "take the method GPTQ"
        )
    group_size = _LAYOUTS[scheme, method].group_size
    if group_size == -1:
        return None
    for tensor in _loaded(facts):
        if _is_quantised(tensor) and tensor.shape[1] % group_size:
            return (
                f"{tensor.pattern} has {tensor.shape[1]:,} inputs, which {scheme} cannot divide into groups of "
                f"{group_size}: take FP8 or W8A8, whose scales are per output"
            )
    return None


# --- tensors ---------------------------------------------------------------------------------------------------------


def _module(tensor: TensorClass) -> str:
    return tensor.pattern.rpartition(".")[0]


def _is_ignored(module: str) -> bool:
    return _IGNORED.match(module) is not None


def _is_quantised(tensor: TensorClass) -> bool:
    """The matrix of a linear layer in a numbered layer; embeddings and the head stand outside of those."""
    in_a_layer = ".*." in tensor.pattern and tensor.pattern.endswith(".weight")
    is_matrix = len(tensor.shape) == 2 and min(tensor.shape) > 0 and tensor.dtype in ("BF16", "F16", "F32")
    return in_a_layer and is_matrix and not _is_ignored(_module(tensor))


def _is_fused_experts(tensor: TensorClass) -> bool:
    return len(tensor.shape) == 3 and ".*." in tensor.pattern and re.search("expert|moe", tensor.pattern) is not None


def _loaded(facts: ModelFacts) -> Iterator[TensorClass]:
    """The tensors that llm-compressor writes again: float32 comes out in 16 bit, layers for multi-token prediction not at all.

    Those of Qwen 3.5, whose config says that they are there, are copied from the base.
    """
    copied = "qwen3_5" in facts.shape.model_type
    for tensor in facts.tensors:
        if _BEYOND_THE_LAST.match(tensor.pattern) or (_NEXT_TOKEN.match(tensor.pattern) and not copied):
            continue
        if tensor.dtype == "F32" and (len(tensor.shape) > 1 or facts.shape.dtype == "F32"):
            dtype = "F16" if facts.shape.dtype == "F16" else "BF16"
            yield replace(tensor, dtype=dtype, bytes=tensor.bytes // 2)
        else:
            yield tensor


def _made(tensor: TensorClass, layout: Layout) -> Iterator[TensorClass]:
    if not _is_quantised(tensor):
        yield tensor
        return
    outputs, inputs = tensor.shape
    module = _renamed(_module(tensor))
    for parameter, dtype, shape in layout.parts(outputs, inputs, tensor.dtype):
        size = prod(shape) * _BYTES[dtype] * tensor.count
        yield TensorClass(f"{module}.{parameter}", dtype, shape, tensor.count, size)


def _renamed(module: str) -> str:
    """Mixtral's experts come out under the names that all others have."""
    experts, found, name = module.rpartition(".experts.*.")
    return f"{experts}{found}{_EXPERT_NAMES.get(name, name)}"


def _summed(tensors: Iterable[TensorClass]) -> tuple[TensorClass, ...]:
    """Sorted, and one class where renaming or another dtype has made two the same."""
    classes: dict[tuple[str, str, tuple[int, ...]], TensorClass] = {}
    for tensor in tensors:
        key = (tensor.pattern, tensor.dtype, tensor.shape)
        same = classes.get(key)
        classes[key] = (
            replace(same, count=same.count + tensor.count, bytes=same.bytes + tensor.bytes) if same else tensor
        )
    return tuple(classes[key] for key in sorted(classes))


def _stored(scheme: str, layout: Layout, base: Iterable[TensorClass]) -> StoredQuantization:
    in_layers = (_module(tensor) for tensor in base if len(tensor.shape) == 2 and ".*." in tensor.pattern)
    kept = (module for module in in_layers if _is_ignored(module))
    return StoredQuantization(
        StoredMethod.COMPRESSED_TENSORS,
        scheme,
        layout.bits,
        layout.group_size,
        symmetric=layout.symmetric,
        ignored=tuple(dict.fromkeys(("lm_head", *kept))),
    )

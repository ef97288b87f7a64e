"""Quantised formats that are not served, and what to take instead: by their config's word, and by the names of their tensors.

A format gives itself away by parameters that no other has; that counts more than what a config or a name says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kubequant.errors import Refused
from kubequant.planning.quantization_fields import INSTEAD, parameter, unsupported
from kubequant.planning.values import TensorClass

_NEEDS_PLUGIN = "needs a plugin that vLLM's image does not bring"
_NO_KERNEL = "has no kernel in vLLM 0.33"
_OTHER_HARDWARE = "is made for other hardware"
_UNTOLD = "has a layout that safetensors headers do not tell, so that no size could be promised"
_OF_BASE = "take its 16-bit base with another scheme, or a checkpoint of it in AWQ, GPTQ or compressed-tensors"
_EXPORT_AGAIN = "export it again in AutoRound's format auto_gptq, auto_awq or llm_compressor, or take its 16-bit base"


@dataclass(frozen=True)
class Foreign:
    """A format that is not served. `methods` are its quant_methods; a checkpoint that holds all of `parameters` is one."""

    title: str
    why: str
    methods: tuple[str, ...]
    parameters: tuple[str, ...] = ()
    instead: str = INSTEAD


FOREIGN = (
    Foreign("bitsandbytes", _NEEDS_PLUGIN, ("bitsandbytes",), instead=_OF_BASE),
    Foreign("bitsandbytes in 4 bit", _NEEDS_PLUGIN, (), ("absmax", "quant_map"), _OF_BASE),
    Foreign("bitsandbytes in 8 bit", _NEEDS_PLUGIN, (), ("SCB",), _OF_BASE),
    Foreign("GGUF", _NEEDS_PLUGIN, ("gguf",), instead="take its safetensors sibling, or the 16-bit base"),
    Foreign("torchao", _UNTOLD, ("torchao",), ("_weight_qdata",)),
    Foreign("AutoRound in its own format", _UNTOLD, ("auto-round", "intel/auto-round"), instead=_EXPORT_AGAIN),
    Foreign("Intel Neural Compressor", _OTHER_HARDWARE, ("inc", "autoround", "neural_compressor")),
    Foreign("Quark", _OTHER_HARDWARE, ("quark",)),
    Foreign("MLX", _OTHER_HARDWARE, ("mlx",), ("scales", "biases"), _OF_BASE),
    Foreign("AQLM", _NO_KERNEL, ("aqlm",), ("codes", "codebooks")),
    Foreign("EXL2", _NO_KERNEL, ("exl2",), ("q_weight", "q_invperm")),
    Foreign("EXL3", _NO_KERNEL, ("exl3",), ("trellis",)),
    Foreign("EETQ", _NO_KERNEL, ("eetq",), ("weight_scales",)),
    Foreign("HQQ", _NO_KERNEL, ("hqq",), ("W_q",)),
    Foreign("VPTQ", _NO_KERNEL, ("vptq",), ("indices", "centroids")),
    Foreign("SpQR", _NO_KERNEL, ("spqr",), ("dense_weights",)),
    Foreign("QuIP", _NO_KERNEL, ("quip", "quip-sharp", "quip#"), ("Qidxs",)),
    Foreign("HIGGS", _NO_KERNEL, ("higgs",)),
    Foreign("BitNet", _NO_KERNEL, ("bitnet",)),
    Foreign("Quanto", _NO_KERNEL, ("quanto",), ("_data", "_scale")),
    Foreign("Marlin's own layout", _NO_KERNEL, ("marlin",), ("B", "s")),
    Foreign("FBGEMM FP8", "is deprecated, and vLLM 0.33 refuses to load it", ("fbgemm_fp8",)),
    Foreign("FP-Quant", "is deprecated, and vLLM 0.33 refuses to load it", ("fp_quant",)),
)

_BY_METHOD = {method: foreign for foreign in FOREIGN for method in foreign.methods}


def refused_method(method: str) -> Refused:
    """For a quant_method that no reader takes, known or not; empty for a config that names none."""
    unknown = Foreign(repr(method[:50]) if method else "without quant_method", _NO_KERNEL, ())
    foreign = _BY_METHOD.get(method, unknown)
    return unsupported(f"quantisation {foreign.title} {foreign.why}, and is not served: {foreign.instead}")


def refuse_foreign_tensors(tensors: Sequence[TensorClass], said: str) -> None:
    """Raises Refused with UnsupportedQuantization where the headers are of a format that is not served.

    `said` is the quant_method of config.json, for the message; empty where it names none.
    """
    held = {parameter(tensor) for tensor in tensors}
    for foreign in FOREIGN:
        if foreign.parameters and held.issuperset(foreign.parameters):
            config = f"config.json says {said[:50]!r}" if said else "config.json names no quantisation"
            raise unsupported(
                f"{config}, but the headers hold {' and '.join(foreign.parameters)}: that is {foreign.title}, which "
                f"{foreign.why} and is not served: {foreign.instead}"
            )

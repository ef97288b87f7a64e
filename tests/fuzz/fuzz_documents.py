"""JSON documents of a repository: whatever config.json says, planning reads it or refuses it with a reason."""

from __future__ import annotations

from collections.abc import Callable

from kubequant.errors import Refused
from kubequant.hub.documents import (
    InvalidDocumentError,
    base_of_adapter,
    has_chat_template,
    max_new_tokens,
    parse_object,
    quantization_config,
)
from kubequant.hub.naming import name_disagreement
from kubequant.hub.repository import Listing, indexed_weights
from kubequant.planning.architectures import shape_of
from kubequant.planning.kv_cache import kv_layout
from kubequant.planning.quantization import kv_scales_note, refuse_unserved, stored_quantization
from kubequant.planning.values import TensorClass

_TENSORS = tuple(
    TensorClass(f"model.layers.*.mlp.up_proj.{name}", dtype, shape, 32, 32 * 4096)
    for name, dtype, shape in (
        ("qweight", "I32", (4096, 1792)), ("qzeros", "I32", (32, 1792)), ("scales", "F16", (32, 14336)),
        ("weight_packed", "I32", (14336, 512)), ("weight_scale", "BF16", (14336, 32)), ("weight", "F8_E4M3", (1, 1)),
        ("weight_scale_inv", "F32", (112, 32)), ("input_scale", "F32", ()), ("weight_scale_2", "F32", ()),
        ("down_proj_blocks", "U8", (1, 1)), ("down_proj_scales", "U8", (1,)), ("weight", "I8", (1, 1)),
        ("weight_packed", "U8", (1, 1)), ("weight_global_scale", "F32", ()), ("weight", "U8", (1, 1)),
    )
)  # fmt: skip
_LISTING = Listing("some/model", "c" * 40, "https://hub/some/model", dict.fromkeys(("model.safetensors",), 1))


def fuzz(data: bytes) -> None:
    """The bytes as each of the documents that a description reads."""
    try:
        document = parse_object(data)
    except InvalidDocumentError as error:
        assert len(str(error)) <= 300
        return
    has_chat_template(document)
    base_of_adapter(document)
    try:
        max_new_tokens(document)
    except InvalidDocumentError as error:
        assert len(str(error)) <= 300 and str(error).isprintable()
    _refused_or(lambda: indexed_weights(_LISTING, document))
    for config in (document, {**document, "quantization_config": quantization_config(document)}):
        _refused_or(lambda config=config: kv_layout(shape_of(config), "BF16"))  # type: ignore[misc]
        _refused_or(lambda config=config: shape_of(config, tensors=_TENSORS))  # type: ignore[misc]
        _refused_or(lambda config=config: refuse_unserved(config))  # type: ignore[misc]
        for held in (_TENSORS, _TENSORS[:3], ()):
            _refused_or(lambda config=config, held=held: _stored(config, held))  # type: ignore[misc]


def _stored(config: dict[str, object], tensors: tuple[TensorClass, ...]) -> None:
    stored = stored_quantization(config, tensors)
    kv_scales_note(stored, tensors)
    name_disagreement("some/model-AWQ", stored)


def _refused_or(read: Callable[[], object]) -> None:
    try:
        read()
    except Refused as refused:
        assert refused.reason
        assert len(refused.message) < 1_000, refused.message

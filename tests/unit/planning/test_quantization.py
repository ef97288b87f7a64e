"""Recognised by content, config held against headers."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import pytest

from bench.checkpoints import gpt_oss_checkpoint, mixtral_checkpoint
from kubequant.errors import Refused
from kubequant.planning.quantization import stored_quantization
from kubequant.planning.tensors import classes_of
from kubequant.planning.values import Experts, StoredMethod, StoredQuantization
from tests.unit.planning.models import QUANTIZATION_CONFIGS, model


def compressed(kind: str, bits: int, strategy: str, group_size: int, activations: int | None) -> dict[str, Any]:
    inputs = {"num_bits": activations, "type": kind, "dynamic": True} if activations else None
    weights = {"num_bits": bits, "type": kind, "strategy": strategy, "group_size": group_size, "symmetric": True}
    groups = {"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": inputs}}
    return {"quant_method": "compressed-tensors", "config_groups": groups}


MODELOPT: dict[str, dict[str, Any]] = {
    "MODELOPT_FP8": {"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_quant_algo": "FP8"},
    "MODELOPT_NVFP4": {"quant_method": "modelopt", "quantization": {"quant_algo": "NVFP4", "group_size": 16}},
}
FP4: dict[str, tuple[dict[str, Any], str]] = {
    "NVFP4": (compressed("float", 4, "tensor_group", 16, 4), "NVFP4"),
    "NVFP4, activations in 16 bit": (compressed("float", 4, "tensor_group", 16, None), "NVFP4"),
    "MXFP4": (compressed("float", 4, "group", 32, None), "MXFP4"),
}
TINY = model("Tiny").with_config(hidden_size=512, intermediate_size=1024)

RECOGNISED = {
    "Unquantized": None,
    "AWQ": (StoredMethod.AWQ, "W4A16", 4, 128, None),
    "GPTQ": (StoredMethod.GPTQ, "W4A16", 4, 128, None),
    "W4A16": (StoredMethod.COMPRESSED_TENSORS, "W4A16", 4, 128, None),
    "FP8": (StoredMethod.COMPRESSED_TENSORS, "FP8", 8, -1, None),
    "FP8_BLOCK": (StoredMethod.FP8, "FP8", 8, None, (128, 128)),
    "W8A8": (StoredMethod.COMPRESSED_TENSORS, "W8A8", 8, -1, None),
}


@pytest.mark.parametrize("scheme", RECOGNISED)
def test_recognised(scheme: str) -> None:
    stored = TINY.stored_as(scheme).facts().stored
    found = stored and (stored.method, stored.scheme, stored.bits, stored.group_size, stored.block)
    assert found == RECOGNISED[scheme]


def read(declared: dict[str, Any] | None, headers_of: str) -> StoredQuantization | None:
    config = {"quantization_config": declared} if declared is not None else {}
    return stored_quantization(config, classes_of(TINY.stored_as(headers_of).tensors()))


def test_fp8_kv_scales_are_noticed() -> None:
    stored = TINY.stored_as("FP8").with_fp8_kv_scales().facts().stored
    assert stored is not None
    assert stored.kv_cache_dtype == "FP8"


@pytest.mark.parametrize("case", FP4)
def test_four_bit_floats_of_llm_compressor(case: str) -> None:
    declared, scheme = FP4[case]
    stored = read(declared, scheme)
    assert stored is not None
    group = {"NVFP4": 16, "MXFP4": 32}[scheme]
    assert (stored.method, stored.scheme, stored.bits, stored.group_size) == (
        StoredMethod.COMPRESSED_TENSORS, scheme, 4, group,
    )  # fmt: skip


def test_modelopt() -> None:
    fp8, nvfp4 = (read(MODELOPT[name], name) for name in ("MODELOPT_FP8", "MODELOPT_NVFP4"))
    assert fp8 == StoredQuantization(StoredMethod.MODELOPT, "FP8", 8, kv_cache_dtype="FP8")
    assert nvfp4 == StoredQuantization(StoredMethod.MODELOPT, "NVFP4", 4, 16)


@pytest.mark.parametrize(("first", "second", "called"), [("MODELOPT_FP8", "MODELOPT_NVFP4", "NVFP4")])
def test_a_mixture_of_modelopt_is_called_by_what_most_of_it_is(first: str, second: str, called: str) -> None:
    few = TINY.with_config(num_hidden_layers=1).stored_as(first).tensors()
    many = [(f"b.{name}", *rest) for name, *rest in TINY.with_config(num_hidden_layers=4).stored_as(second).tensors()]
    stored = stored_quantization(
        {"quantization_config": {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION"}},
        classes_of([*few, *many]),  # type: ignore[list-item]
    )
    assert stored is not None
    assert stored.scheme == called


def test_a_mixture_of_llm_compressor_is_called_by_what_most_of_it_is() -> None:
    few = TINY.with_config(num_hidden_layers=1).stored_as("FP8").tensors()
    many = [(f"b.{name}", *rest) for name, *rest in TINY.with_config(num_hidden_layers=8).stored_as("W4A16").tensors()]
    declared = copy.deepcopy(QUANTIZATION_CONFIGS["FP8"])
    declared["config_groups"]["group_1"] = QUANTIZATION_CONFIGS["W4A16"]["config_groups"]["group_0"]
    stored = stored_quantization({"quantization_config": declared}, classes_of([*few, *many]))  # type: ignore[list-item]
    assert stored is not None
    assert (stored.scheme, stored.group_size) == ("W4A16", 128)


def test_gpt_oss() -> None:
    shape = replace(TINY.shape(), experts=Experts(4, 2, 2, 1024))
    declared = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}
    stored = stored_quantization({"quantization_config": declared}, classes_of(gpt_oss_checkpoint(shape)))
    assert stored == StoredQuantization(StoredMethod.MXFP4, "MXFP4", 4, 32, ignored=("lm_head",))


@pytest.mark.parametrize("scheme", ["AWQ", "GPTQ"])
def test_experts_in_awq_and_gptq(scheme: str) -> None:
    shape = replace(TINY.shape(), experts=Experts(4, 2, 2, 1024))
    stored = stored_quantization(
        {"quantization_config": QUANTIZATION_CONFIGS[scheme]}, classes_of(mixtral_checkpoint(shape, scheme))
    )
    assert stored is not None
    assert (stored.method, stored.scheme) == (StoredMethod(scheme), "W4A16")


def test_the_text_model_of_a_multimodal_one_may_say_it() -> None:
    config = {"text_config": {"quantization_config": QUANTIZATION_CONFIGS["AWQ"]}}
    stored = stored_quantization(config, classes_of(TINY.stored_as("AWQ").tensors()))
    assert stored is not None
    assert stored.method is StoredMethod.AWQ


def test_gptq_with_other_bits_in_some_layers_is_called_by_its_default() -> None:
    declared = {**QUANTIZATION_CONFIGS["GPTQ"], "bits": 8, "dynamic": {"+:.*": {"bits": 4}}}
    stored = read(declared, "GPTQ")
    assert stored is not None
    assert stored.scheme == "W8A16"
    with pytest.raises(Refused, match="groups"):
        read({**declared, "dynamic": {"-:.*gate": {}}}, "GPTQ")


def test_act_order_without_groups_is_fine() -> None:
    with_one_group = {**QUANTIZATION_CONFIGS["GPTQ"], "desc_act": True, "group_size": -1}
    headers = TINY.with_config(hidden_size=128, intermediate_size=128, num_attention_heads=4, num_key_value_heads=2)
    tensors = classes_of(headers.stored_as("GPTQ").tensors())  # 128 inputs: one group of 128
    stored = stored_quantization({"quantization_config": with_one_group}, tensors)
    assert stored is not None
    assert stored.act_order


UNSUPPORTED: dict[str, tuple[dict[str, Any], str]] = {
    "bitsandbytes": ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "Unquantized"),
    "GGUF": ({"quant_method": "gguf"}, "Unquantized"),
    "ModelOpt, microscaled": ({"quant_method": "modelopt", "quant_algo": "MXFP8"}, "MODELOPT_FP8"),
    "ModelOpt, no algorithm": ({"quant_method": "modelopt"}, "MODELOPT_FP8"),
    "ModelOpt, odd groups": ({"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 32}, "MODELOPT_NVFP4"),
    "NVFP4 KV cache": ({**MODELOPT["MODELOPT_FP8"], "kv_cache_quant_algo": "NVFP4"}, "MODELOPT_FP8"),
    "EXL2": ({"quant_method": "exl2", "bits": 4.5}, "Unquantized"),
    "FBGEMM": ({"quant_method": "fbgemm_fp8"}, "FP8"),
    "AutoRound": ({"quant_method": "auto-round"}, "GPTQ"),
    "torchao": ({"quant_method": "torchao"}, "Unquantized"),
    "AQLM": ({"quant_method": "aqlm"}, "Unquantized"),
    "quark": ({"quant_method": "quark"}, "Unquantized"),
    "no method": ({"bits": 4}, "AWQ"),
    "AWQ in GEMV": ({**QUANTIZATION_CONFIGS["AWQ"], "version": "gemv"}, "AWQ"),
    "AWQ in 8 bit": ({**QUANTIZATION_CONFIGS["AWQ"], "bits": 8}, "AWQ"),
    "AWQ without zero points": ({**QUANTIZATION_CONFIGS["AWQ"], "zero_point": False}, "AWQ"),
    "odd group size": ({**QUANTIZATION_CONFIGS["AWQ"], "group_size": 96}, "AWQ"),
    "GPTQ with act-order in groups": ({**QUANTIZATION_CONFIGS["GPTQ"], "desc_act": True}, "GPTQ"),
    "asymmetric GPTQ": ({**QUANTIZATION_CONFIGS["GPTQ"], "sym": False}, "GPTQ"),
    "GPTQ in 3 bit": ({**QUANTIZATION_CONFIGS["GPTQ"], "bits": 3}, "GPTQ"),
    "sparse": ({**QUANTIZATION_CONFIGS["FP8"], "sparsity_config": {"format": "sparse-24"}}, "FP8"),
    "rotated": ({**QUANTIZATION_CONFIGS["FP8"], "transform_config": {"config_groups": {}}}, "FP8"),
    "int8 KV cache": ({**QUANTIZATION_CONFIGS["FP8"], "kv_cache_scheme": {"num_bits": 8, "type": "int"}}, "FP8"),
    "FP8 in blocks, static": ({**QUANTIZATION_CONFIGS["FP8_BLOCK"], "activation_scheme": "static"}, "FP8_BLOCK"),
    "FP8 in odd blocks": ({**QUANTIZATION_CONFIGS["FP8_BLOCK"], "weight_block_size": [128]}, "FP8_BLOCK"),
}


@pytest.mark.parametrize("case", UNSUPPORTED)
def test_not_served_says_what_to_take_instead(case: str) -> None:
    with pytest.raises(Refused) as refused:
        read(*UNSUPPORTED[case])
    assert refused.value.reason == "UnsupportedQuantization"
    assert "use a checkpoint in" in refused.value.message or "take" in refused.value.message


def test_groups_that_are_not_served() -> None:
    nvfp4 = copy.deepcopy(QUANTIZATION_CONFIGS["W4A16"])
    nvfp4["config_groups"]["group_0"]["weights"]["type"] = "float"
    zero_points = copy.deepcopy(QUANTIZATION_CONFIGS["W4A16"])
    zero_points["config_groups"]["group_0"]["weights"] |= {"num_bits": 8, "symmetric": False}
    for declared in (nvfp4, zero_points):
        with pytest.raises(Refused) as refused:
            read(declared, "W4A16")
        assert refused.value.reason == "UnsupportedQuantization"


MIXED = {**QUANTIZATION_CONFIGS["W4A16"], "config_groups": {
    "group_0": QUANTIZATION_CONFIGS["W4A16"]["config_groups"]["group_0"],
    "group_1": QUANTIZATION_CONFIGS["FP8"]["config_groups"]["group_0"],
}}  # fmt: skip

CORRUPT: dict[str, tuple[dict[str, Any] | None, str, str]] = {
    "a mixture said, W4A16 stored": (MIXED, "W4A16", "F8_E4M3"),
    "MXFP4 said, 16 bit stored": ({"quant_method": "mxfp4"}, "Unquantized", "U8"),
    "ModelOpt NVFP4 said, 16 bit stored": (MODELOPT["MODELOPT_NVFP4"], "Unquantized", "U8"),
    "ModelOpt NVFP4 said, FP8 stored": (MODELOPT["MODELOPT_NVFP4"], "MODELOPT_FP8", "U8"),
    "NVFP4 said, MXFP4 stored": (FP4["NVFP4"][0], "MXFP4", "weight_global_scale"),
    "nothing said, NVFP4 stored": (None, "NVFP4", "U8"),
    "nothing said, ModelOpt stored": (None, "MODELOPT_NVFP4", "U8"),
    "blocks said, none stored": (QUANTIZATION_CONFIGS["FP8_BLOCK"], "FP8", "weight_scale_inv"),
    "AWQ said, 16 bit stored": (QUANTIZATION_CONFIGS["AWQ"], "Unquantized", "qweight"),
    "GPTQ said, FP8 stored": (QUANTIZATION_CONFIGS["GPTQ"], "FP8", "qweight"),
    "FP8 said, 16 bit stored": (QUANTIZATION_CONFIGS["FP8"], "Unquantized", "F8_E4M3"),
    "W4A16 said, AWQ stored": (QUANTIZATION_CONFIGS["W4A16"], "AWQ", "weight_packed"),
    "nothing said, AWQ stored": (None, "AWQ", "qweight"),
    "nothing said, FP8 stored": (None, "FP8", "F8_E4M3"),
    "another group size": ({**QUANTIZATION_CONFIGS["AWQ"], "group_size": 64}, "AWQ", "groups"),
    "another bit width": ({**QUANTIZATION_CONFIGS["GPTQ"], "bits": 8}, "GPTQ", "groups"),
    "bits as text": ({**QUANTIZATION_CONFIGS["AWQ"], "bits": "4"}, "AWQ", "bits"),
    "no groups": ({"quant_method": "compressed-tensors"}, "W4A16", "config_groups"),
    "a group without weights": ({"quant_method": "compressed-tensors", "config_groups": {"a": {}}}, "W4A16", "weights"),
}


@pytest.mark.parametrize("case", CORRUPT)
def test_config_and_headers_that_disagree(case: str) -> None:
    declared, headers, said = CORRUPT[case]
    with pytest.raises(Refused) as refused:
        read(declared, headers)
    assert refused.value.reason == "CorruptCheckpoint"
    assert said in refused.value.message


def test_config_that_is_no_object() -> None:
    with pytest.raises(Refused):
        stored_quantization(json.loads('{"quantization_config": [1]}'), classes_of(TINY.tensors()))

"""Recognised by content, config held against headers."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from kubequant.errors import Refused
from kubequant.planning.quantization import stored_quantization
from kubequant.planning.tensors import classes_of
from kubequant.planning.values import StoredMethod, StoredQuantization
from tests.unit.planning.models import QUANTIZATION_CONFIGS, model

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
    "MXFP4": ({"quant_method": "mxfp4"}, "Unquantized"),
    "ModelOpt": ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "Unquantized"),
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
    mixed = copy.deepcopy(QUANTIZATION_CONFIGS["W4A16"])
    mixed["config_groups"]["group_1"] = QUANTIZATION_CONFIGS["FP8"]["config_groups"]["group_0"]
    nvfp4 = copy.deepcopy(QUANTIZATION_CONFIGS["W4A16"])
    nvfp4["config_groups"]["group_0"]["weights"]["type"] = "float"
    zero_points = copy.deepcopy(QUANTIZATION_CONFIGS["W4A16"])
    zero_points["config_groups"]["group_0"]["weights"] |= {"num_bits": 8, "symmetric": False}
    for declared in (mixed, nvfp4, zero_points):
        with pytest.raises(Refused) as refused:
            read(declared, "W4A16")
        assert refused.value.reason == "UnsupportedQuantization"


CORRUPT: dict[str, tuple[dict[str, Any] | None, str, str]] = {
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

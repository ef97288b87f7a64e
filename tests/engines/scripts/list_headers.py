"""Prints the tensors that transformers would store of a model: names, dtypes and shapes, built on the meta device.

Runs in the vLLM environment. Reads a JSON list of config.json contents from stdin; the last line of stdout is a JSON list
with [[name, safetensors dtype, shape, bytes], ...] for each, or a text where transformers cannot build the model.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.core_model_loading import revert_weight_conversion

DTYPES = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32", torch.int64: "I64", torch.bool: "BOOL"}


def stored_tensors(config: dict[str, Any]) -> list[tuple[str, str, list[int], int]]:
    plain = {key: value for key, value in config.items() if key != "quantization_config"}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(plain))
        parsed = transformers.AutoConfig.from_pretrained(folder)
    architecture = getattr(transformers, config["architectures"][0])
    with torch.device("meta"):
        model = architecture._from_config(parsed, dtype=torch.bfloat16)
    tied = set(model.all_tied_weights_keys)
    state = {name: tensor for name, tensor in model.state_dict().items() if name not in tied}
    # In memory experts are fused and modules renamed; files have the names of the first release.
    return [
        (name, DTYPES[tensor.dtype], list(tensor.shape), tensor.numel() * tensor.element_size())
        for name, tensor in revert_weight_conversion(model, state).items()
    ]


def answer(config: dict[str, Any]) -> list[tuple[str, str, list[int], int]] | str:
    try:
        return stored_tensors(config)
    except Exception as error:  # one model that cannot be built is no reason to lose the others
        return f"{type(error).__name__}: {error}"[:500]


print(json.dumps([answer(config) for config in json.load(sys.stdin)]))

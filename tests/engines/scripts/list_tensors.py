"""Writes down which tensors a model's checkpoint holds, as the transformers classes have them, without any weights.

Runs in the llm-compressor environment: `list_tensors.py MODEL_FOLDER...`; beside each `config.json` it writes
`tensors.json`, where tensors that differ only in the number of their layer share an entry.
"""

import json
import re
import sys
from collections import defaultdict
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

DTYPE_NAMES = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32"}
LAYER = re.compile(r"(?<=\.layers\.)\d+(?=\.)")
# transformers holds the experts of these models in one tensor; their checkpoints on the Hub have one per expert.
MODELS_WITH_FUSED_EXPERTS = {"deepseek_v2", "qwen3_next"}


def checkpoint_tensors(folder: Path) -> list[dict[str, object]]:
    """Name, dtype, shape, and whether it is the weight of a linear module, of every tensor in the checkpoint."""
    config = AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    linear = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    tensors = []
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        entry = {
            "name": name,
            "dtype": DTYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "linear": name in linear,
        }
        fused = config.model_type in MODELS_WITH_FUSED_EXPERTS and ".experts." in name
        tensors += split_experts(entry) if fused else [entry]
    return tensors


def split_experts(fused: dict[str, object]) -> list[dict[str, object]]:
    """`experts.gate_up_proj` [experts, 2 x out, in] as `experts.{expert}.gate_proj.weight` [out, in] and `up_proj`."""
    prefix, _, projection = str(fused["name"]).rpartition(".")
    experts, rows, columns = fused["shape"]
    names = ["gate_proj", "up_proj"] if projection == "gate_up_proj" else [projection]
    shape = [rows // len(names), columns]
    return [
        {"name": f"{prefix}.{{expert}}.{name}.weight", "dtype": fused["dtype"], "shape": shape, "linear": True}
        | {"experts": experts}
        for name in names
    ]


def grouped_by_layer(tensors: list[dict[str, object]]) -> list[dict[str, object]]:
    """Entries that are equal but for their layer as one, with the list of layers where there are any."""
    layers: dict[str, list[int]] = defaultdict(list)
    for tensor in tensors:
        number = LAYER.search(str(tensor["name"]))
        pattern = json.dumps(tensor | {"name": LAYER.sub("{layer}", str(tensor["name"]))})
        layers[pattern] += [int(number.group())] if number else []
    return [json.loads(pattern) | ({"layers": ranges(found)} if found else {}) for pattern, found in layers.items()]


def ranges(numbers: list[int]) -> list[list[int]]:
    """[0, 1, 2, 4] as half-open ranges [[0, 3], [4, 5]]."""
    found: list[list[int]] = []
    for number in numbers:
        if found and found[-1][1] == number:
            found[-1][1] += 1
        else:
            found.append([number, number + 1])
    return found


def main(folders: list[Path]) -> None:
    for folder in folders:
        entries = grouped_by_layer(checkpoint_tensors(folder))
        lines = ",\n".join(f"  {json.dumps(entry)}" for entry in entries)
        (folder / "tensors.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])

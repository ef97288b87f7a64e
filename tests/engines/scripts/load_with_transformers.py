"""Loads a model by its repository id with transformers: `load_with_transformers.py REPOSITORY`.

Runs in either engine environment. The last line of stdout is JSON: the hub client's version, the parameters, and how
many tokens the tokenizer makes of a sentence.
"""

import json
import sys

import huggingface_hub
from transformers import AutoModelForCausalLM, AutoTokenizer


def main(repository: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(repository)
    tokens = AutoTokenizer.from_pretrained(repository)("Return the length of the list.")["input_ids"]
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(json.dumps({"hub": huggingface_hub.__version__, "parameters": parameters, "tokens": len(tokens)}))


if __name__ == "__main__":
    main(sys.argv[1])

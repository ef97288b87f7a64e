"""Loads a model by its repository id or folder with vLLM and completes a prompt: `generate_with_vllm.py MODEL [COMMIT]`.

Runs in the vLLM environment, in one process. The last line of stdout is JSON: the completion's token ids.
"""

import json
import sys

from vllm import LLM, SamplingParams


def main(model: str, commit: str | None = None) -> None:
    engine = LLM(
        model,
        revision=commit,
        tokenizer_revision=commit,
        max_model_len=256,
        enforce_eager=True,
        kv_cache_memory_bytes=32 << 20,
    )
    [output] = engine.generate(["Return the"], SamplingParams(temperature=0, max_tokens=8), use_tqdm=False)
    print(json.dumps(list(output.outputs[0].token_ids)))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Loads tokenizers by their repositories' ids with transformers: `tokenize_with_transformers.py REPOSITORY...`.

Runs in either engine environment. The last line of stdout is JSON: for each repository the ids of a sentence, and a
conversation as its chat template writes it.
"""

import json
import sys

from transformers import AutoTokenizer

_SENTENCE = "The king and the thing in their hands"
_CONVERSATION = [{"role": "user", "content": "Return the length of the list."}]


def main(repositories: list[str]) -> None:
    seen = {}
    for repository in repositories:
        tokenizer = AutoTokenizer.from_pretrained(repository)
        chat = tokenizer.apply_chat_template(_CONVERSATION, tokenize=False, add_generation_prompt=True)
        seen[repository] = {"ids": tokenizer(_SENTENCE)["input_ids"], "chat": chat}
    print(json.dumps(seen))


if __name__ == "__main__":
    main(sys.argv[1:])

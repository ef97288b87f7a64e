"""A small true tokenizer with its chat template, and the same as later tools save it again.

Byte-level BPE in the layout of the `tokenizers` library: all 256 bytes, a few merges, three special tokens.
"""

from __future__ import annotations

import json
from typing import Any

from tests.fakehub.content import BytesContent, Content

_MERGES = ("t h", "th e", "i n", "a n", "an d", "r e", "in g", "Ġ the", "o n", "e r")
_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def chat_files(*, template: str = CHAT_TEMPLATE, swapped: bool = False) -> dict[str, Content]:
    """tokenizer.json, tokenizer_config.json with the template, generation_config.json, special_tokens_map.json.

    `swapped` exchanges the ids of two tokens: a model that was not trained so answers nonsense.
    """
    return _as_files(_tokenizer(swapped), {**_tokenizer_config(), "chat_template": template}, indent=2)


def saved_again() -> dict[str, Content]:
    """The same as other hands save it: another order of keys, no indentation."""
    return _as_files(_tokenizer(), {**_tokenizer_config(), "chat_template": CHAT_TEMPLATE}, indent=None, sort_keys=True)


def saved_by_later_tools() -> dict[str, Content]:
    """The same as `tokenizers` from 0.20 and transformers from 4.52 on save it: merges as pairs, the template a file."""
    tokenizer = _tokenizer()
    tokenizer["model"]["merges"] = [merge.split(" ") for merge in _MERGES]
    files = _as_files(tokenizer, _tokenizer_config(), indent=2)
    return {**files, "chat_template.jinja": BytesContent(CHAT_TEMPLATE.encode())}


def _as_files(tokenizer: dict[str, Any], tokenizer_config: dict[str, Any], **form: Any) -> dict[str, Content]:
    generation = {"eos_token_id": [_id("<|im_end|>"), _id("<|endoftext|>")], "temperature": 0.7, "top_p": 0.8}
    special = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    documents = {
        "tokenizer.json": tokenizer,
        "tokenizer_config.json": tokenizer_config,
        "generation_config.json": {"do_sample": True, "max_new_tokens": 2048, **generation},
        "special_tokens_map.json": special,
    }
    return {name: BytesContent(json.dumps(document, **form).encode()) for name, document in documents.items()}


def _tokenizer(swapped: bool = False) -> dict[str, Any]:
    vocabulary = _vocabulary()
    if swapped:
        vocabulary["and"], vocabulary["ing"] = vocabulary["ing"], vocabulary["and"]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": _id(token), **_added(token)} for token in _SPECIAL],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": vocabulary,
            "merges": list(_MERGES),
        },
    }


def _tokenizer_config() -> dict[str, Any]:
    return {
        "added_tokens_decoder": {str(_id(token)): _added(token) for token in _SPECIAL},
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "model_max_length": 32768,
        "pad_token": "<|endoftext|>",
        "tokenizer_class": "PreTrainedTokenizerFast",
    }


def _added(token: str) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"content": token, **flags, "special": True}


def _id(special_token: str) -> int:
    return len(_vocabulary()) + _SPECIAL.index(special_token)


def _vocabulary() -> dict[str, int]:
    tokens = [*_byte_letters(), *(merge.replace(" ", "") for merge in _MERGES)]
    return {token: number for number, token in enumerate(tokens)}


def _byte_letters() -> list[str]:
    """A visible letter for each byte, as GPT-2 has them: those without one follow after U+0100."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return [chr(byte) for byte in visible] + [chr(256 + number) for number in range(len(hidden))]

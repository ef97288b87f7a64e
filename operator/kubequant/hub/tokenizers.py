"""Whether two tokenizers make the same tokens, and two chat templates the same prompt. Pure.

tokenizer.json is compared by what it computes: a file that was saved again by another release has another digest and the
same meaning. Truncation and padding are left out, for serving sets its own.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kubequant.hub.documents import quoted

Document = Mapping[str, Any]

PARTS = ("vocabulary", "merges", "added tokens", "model", "normalizer", "pre_tokenizer", "post_processor", "decoder")

# What the tokenizers library assumes where a file of an older release says nothing; of all other switches: false.
_ASSUMED: Mapping[str, object] = {"use_regex": True, "trim_offsets": True, "add_prefix_space": True, "split": True}
_IDS = 2**63
_BEFORE, _SHOWN = 10, 40  # characters of two templates: those before the difference, and all
_SPECIAL = ("bos_token", "eos_token", "unk_token")
_SWITCHES = ("add_bos_token", "add_eos_token", "add_prefix_space")


@dataclass(frozen=True)
class TokenizerPrint:
    """What is kept of a tokenizer.json, which takes 300 MB parsed: of each part how many entries it has, and a digest."""

    parts: Mapping[str, tuple[int, str]]
    tokens: TokenIds

    def differences(self, tokenizer: Document) -> list[str]:
        """What of a parsed tokenizer.json differs from this base's, with numbers and a token:
        "its merges (151,387 entries, of the base 151,386)"."""
        theirs = _parts(tokenizer)
        differing = [part for part in PARTS if theirs[part] != self.parts[part]]
        example = self.tokens.difference(_vocabulary(tokenizer)) if "vocabulary" in differing else ""
        return [
            f"its {part} ({theirs[part][0]:,} entries, of the base {self.parts[part][0]:,}"
            f"{example if part == 'vocabulary' else ''})"
            for part in differing
        ]


@dataclass(frozen=True)
class TokenIds:
    """The ids of a vocabulary's tokens, 16 bytes each: `hashes` of the tokens, sorted, and `ids` in their order."""

    hashes: array[int]
    ids: array[int]

    def difference(self, vocabulary: object) -> str:
        """A token that has another id in a vocabulary or is not in both: "; 'a' is 1, of the base 2"."""
        numbered = _numbered(vocabulary)
        for token, number in numbered.items():
            ours = self._id_of(hash(token))
            if ours != number:
                return f"; {quoted(token)} is {number}, {'which the base has not' if ours is None else f'of the base {ours}'}"
        theirs = set(map(hash, numbered))
        missing = next((ours for one, ours in zip(self.hashes, self.ids, strict=True) if one not in theirs), None)
        return "" if missing is None else f"; the base's token {missing} is not there"

    def _id_of(self, hashed: int) -> int | None:
        place = bisect_left(self.hashes, hashed)
        return self.ids[place] if place < len(self.hashes) and self.hashes[place] == hashed else None


def print_of(tokenizer: Document) -> TokenizerPrint:
    """The print of a base's parsed tokenizer.json."""
    pairs = sorted((hash(token), number) for token, number in _numbered(_vocabulary(tokenizer)).items())
    tokens = TokenIds(array("q", (one for one, _ in pairs)), array("q", (number for _, number in pairs)))
    return TokenizerPrint(_parts(tokenizer), tokens)


def _parts(tokenizer: Document) -> Mapping[str, tuple[int, str]]:
    model = _model(tokenizer)
    parts: Mapping[str, object] = {
        "vocabulary": model.get("vocab"),
        "merges": _merges(model.get("merges")),
        "added tokens": _added(tokenizer.get("added_tokens")),
        "model": _plain({key: value for key, value in model.items() if key not in ("vocab", "merges")}),
        **{part: _plain(tokenizer.get(part)) for part in PARTS[4:]},
    }
    return {part: (_entries(value), _digest(value)) for part, value in parts.items()}


def _model(tokenizer: Document) -> Document:
    stated = tokenizer.get("model")
    return stated if isinstance(stated, Mapping) else {}


def _vocabulary(tokenizer: Document) -> object:
    return _model(tokenizer).get("vocab")


def _numbered(vocabulary: object) -> dict[str, int]:
    """Tokens with their ids, which in a list of [token, score] are their places."""
    if isinstance(vocabulary, Mapping):
        return {token: number for token, number in vocabulary.items() if type(number) is int and 0 <= number < _IDS}
    pieces = vocabulary if isinstance(vocabulary, list) else []
    return {
        one[0]: place for place, one in enumerate(pieces) if isinstance(one, list) and one and isinstance(one[0], str)
    }


def chat_template_of(
    tokenizer_config: Document, jinja: str | None, legacy: Document | None = None
) -> Mapping[str, str]:
    """Templates by name, without the white space behind them; empty where there is none.

    chat_template.jinja stands before tokenizer_config.json's own, as in transformers; `legacy` is chat_template.json.
    """
    if jinja is not None:
        return _without_empty({"default": jinja})
    stated = tokenizer_config.get("chat_template") or (legacy or {}).get("chat_template")
    if isinstance(stated, str):
        return _without_empty({"default": stated})
    named = [one for one in stated if isinstance(one, Mapping)] if isinstance(stated, list) else []
    return _without_empty({str(one.get("name")): str(one.get("template", "")) for one in named})


def template_difference(base: Mapping[str, str], candidate: Mapping[str, str]) -> str:
    """Where two sets of templates first differ, with a few characters of both."""
    for name in sorted(base.keys() | candidate.keys()):
        ours, theirs = base.get(name), candidate.get(name)
        if ours is None or theirs is None:
            return f"the one called {quoted(name)} is only {'of the base' if theirs is None else 'its own'}"
        if ours != theirs:
            place = next(
                (n for n, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs))
            )
            start = max(0, place - _BEFORE)
            shown = [repr(text[start : start + _SHOWN]) if text[place:] else "its end" for text in (theirs, ours)]
            return f"from character {place + 1:,} on, {shown[0]} where the base has {shown[1]}"
    return ""


def setting_differences(base: Document, candidate: Document) -> list[str]:
    """What two tokenizer_config.json say differently of the special tokens and of those put before and behind a text."""
    code = ["it needs code of its own (auto_map)"] if candidate.get("auto_map") and not base.get("auto_map") else []
    pairs = [(name, _content(candidate.get(name)), _content(base.get(name))) for name in (*_SPECIAL, *_SWITCHES)]
    return code + [
        f"its {name} ({theirs!r:.40}, of the base {ours!r:.40})"
        for name, theirs, ours in pairs
        if theirs != ours and None not in (theirs, ours)
    ]


def _without_empty(templates: Mapping[str, str]) -> Mapping[str, str]:
    return {name: text.rstrip() for name, text in templates.items() if text.strip()}


def _merges(stated: object) -> object:
    """ "a b" of older files as ["a", "b"] of newer ones."""
    if not isinstance(stated, list):
        return stated
    return [one.split(" ") if isinstance(one, str) else one for one in stated]


def _added(stated: object) -> object:
    if not isinstance(stated, list) or not all(isinstance(one, Mapping) for one in stated):
        return stated
    return sorted((_plain(one) for one in stated), key=lambda one: json.dumps(one, sort_keys=True))


def _content(token: object) -> object:
    return token.get("content") if isinstance(token, Mapping) else token


def _entries(value: object) -> int:
    return len(value) if isinstance(value, (list, Mapping)) else 0 if value is None else 1


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _plain(value: object) -> object:
    """Settings in one spelling: without what says nothing (null, false, "") and what the library assumes anyway."""
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if not isinstance(value, Mapping):
        return value
    stated = _with_prepend_scheme(value) if value.get("type") == "Metaspace" else value
    said = {key: _plain(one) for key, one in stated.items()}
    return {
        key: one for key, one in said.items() if one is not _ASSUMED.get(key, False) and one is not None and one != ""
    }


def _with_prepend_scheme(metaspace: Document) -> Document:
    """Older releases said add_prefix_space where newer ones say prepend_scheme."""
    always = metaspace.get("add_prefix_space", True) is True
    scheme = metaspace.get("prepend_scheme") or ("always" if always else "never")
    return {**metaspace, "prepend_scheme": scheme, "add_prefix_space": True, "split": metaspace.get("split", True)}

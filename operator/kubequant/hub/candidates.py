"""Which repositories of the hub's lists may be quantised checkpoints of a base model, and which of them are worth reading. Pure.

    listed repository --is it one of this base?--> Candidate --checks that cost no request--> worth reading | Rejected

A list is what strangers say of themselves. Nothing here makes a candidate trusted; it only spares requests.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import dropwhile
from typing import Any

from huggingface_hub import ModelInfo

from kubequant.hub.documents import quoted
from kubequant.hub.licences import Licence, licence_of, tags_of
from kubequant.hub.repository import ADAPTER_CONFIG, CONFIG
from kubequant.hub.trust import Rejection, owner_of, resembled, tier_of
from kubequant.planning.values import Rejected

SERVE_ANYWAY = "Name it under spec.quantization.checkpoint to serve it all the same."
GATED = (
    "It is gated: the hub gives its files only to accounts that accepted its terms, and pods have no token but the model's own. "
    "Accept them on its page, name it under spec.quantization.checkpoint, and the account's token in spec.model.tokenSecretRef."
)

QUANTIZED = "quantized"  # the word of a card's base_model_relation

_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9._-]{1,96}")
_COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
_SEPARATORS = re.compile(r"[-_.]+")
# Words that quantisers put behind a model's name.
_QUANTISED = re.compile(
    r"awq|gptq(model)?|int[2348]|[2348]bits?|[qw][2348](a(4|8|16))?(fp8)?|(nv|mx)?fp[48]|f8|nf4|e4m3(fn)?|i1"
    r"|quanti[sz]ed|quants?|bnb|bitsandbytes|gguf|mlx|exl[23]|onnx|openvino|ov|autoround|autoawq|aqlm|hqq|torchao|quark"
    r"|compressed|tensors|ct|llmcompressor|modelopt|smoothquant|awq_?marlin|marlin"
)
# No sizes and no versions: X-v2-AWQ is not made of X.
_DETAIL = re.compile(
    r"dynamic|static|block|channel|token|tensor|kv|ar|asym|sym|gemm|gemv|g(32|64|128)|(32|64|128)g|gs(32|64|128)|group|hf|sq|dq"
)
_OTHER_ENGINES: Mapping[str, str] = {
    "mlx": "MLX", "exl2": "EXL2", "exl3": "EXL3", "exllamav2": "EXL2", "exllamav3": "EXL3", "onnx": "ONNX",
    "openvino": "OpenVINO", "coreml": "Core ML", "tensorrt": "TensorRT", "tensorrt-llm": "TensorRT-LLM",
    "ctranslate2": "CTranslate2", "mlc-llm": "MLC", "litert-lm": "LiteRT",
}  # fmt: skip
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True)
class Candidate:
    """A repository as the hub lists it; `related` where it, or the hub of it, says that it quantises the base.

    `relation` is what its card says itself that it is of its base: "quantized", "finetune", ...; empty where it says nothing.
    """

    repository: str
    commit: str
    related: bool
    relation: str
    licence: Licence
    files: tuple[str, ...] | None  # None: the list names none
    engines: tuple[str, ...]  # by its tags: those that are not ours
    created: datetime
    downloads: int
    gated: bool
    disabled: bool
    has_code: bool

    @property
    def publisher(self) -> str:
        return owner_of(self.repository)


@dataclass(frozen=True)
class Terms:
    """What candidates are measured against: the base model, and whom the operator trusts."""

    base: str
    licence: Licence
    publishers: Sequence[str]


def is_repository(name: object) -> bool:
    """Whether a stranger's text is a name that may stand in a URL and in a message."""
    return isinstance(name, str) and bool(_REPOSITORY.fullmatch(name)) and ".." not in name and "--" not in name


def candidates_of(base: str, listed: Iterable[ModelInfo]) -> list[Candidate]:
    """The candidates among listed repositories, each once.

    One that says that it quantises the base is a candidate, and so is a quantised one that names it however they are
    related: `rejected` says so of a fine-tune. One whose name is the base's with words of quantisation behind is a
    candidate unless it names another base, because the relation is often missing: the base and instruct models of a family
    have the same shapes. What is private is none, and nobody is told of it: who reads status need not be who may see it.
    """
    found: dict[str, Candidate] = {}
    for info in listed:
        if not is_repository(info.id) or info.id == base or info.id in found or info.private:
            continue
        bases, quantised = bases_of(info)
        related, named = (any(is_same_model(one, base) for one in said) for said in (quantised, bases))
        alike = (named or not bases) and is_named_after(info.id, base)
        if related or alike or (named and _states_quantization(info)):
            found[info.id] = _candidate(info, related)
    return list(found.values())


def bases_of(info: ModelInfo) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The bases that a repository names, in its card first, and those among them that it quantises."""
    card = _card(info)
    named = card.get("base_model")
    said = [name for name in (named if isinstance(named, list) else [named]) if isinstance(name, str)]
    tags = [tag.removeprefix("base_model:") for tag in tags_of(info) if tag.startswith("base_model:")]
    quantised = [tag.removeprefix("quantized:") for tag in tags if tag.startswith("quantized:")]
    if _relation(info) == QUANTIZED:
        quantised += said
    bases = dict.fromkeys((*said, *quantised, *(tag.rpartition(":")[2] for tag in tags)))
    return tuple(filter(is_repository, bases)), tuple(filter(is_repository, dict.fromkeys(quantised)))


def is_named_after(repository: str, base: str) -> bool:
    """Whether a name is the base's with nothing but words of quantisation behind; the vendor's name may stand before it.

    meta-llama/Llama-3.1-8B-Instruct: RedHatAI/Meta-Llama-3.1-8B-Instruct-quantized.w4a16 is, Llama-3.1-8B-FP8 is not.
    """
    words, base_words = _own_words(repository, owner_of(base)), _own_words(base, owner_of(base))
    behind = words[len(base_words) :]
    return (
        words[: len(base_words)] == base_words
        and any(map(_QUANTISED.fullmatch, behind))
        and all(_QUANTISED.fullmatch(word) or _DETAIL.fullmatch(word) for word in behind)
    )


def is_same_model(named: str, base: str) -> bool:
    """Whether a card's words mean the base: cards keep old names (meta-llama/Meta-Llama-3.1-8B) and any letter case."""
    owner = owner_of(base)
    return owner_of(named).lower() == owner.lower() and _own_words(named, owner) == _own_words(base, owner)


def rejected(candidate: Candidate, terms: Terms) -> Rejected | None:
    """Why a candidate is not worth reading, by its listing alone; None where nothing speaks against it.

    What nobody could change comes first, so that NotTrusted says: nothing but its publisher is known to stand against it.
    """
    for check in _CHECKS:
        if found := check(candidate, terms):
            reason, message = found
            return Rejected(candidate.repository, reason, message)
    return None


def by_trust(candidates: Iterable[Candidate], terms: Terms) -> list[Candidate]:
    """The most trusted first: publisher, then who says that it quantises the base, the newer, the more often downloaded."""

    def key(candidate: Candidate) -> tuple[Any, ...]:
        tier = tier_of(candidate.publisher, terms.base, terms.publishers)
        last = len(terms.publishers) + 1
        age = -candidate.created.timestamp()
        return (last if tier is None else tier, not candidate.related, age, -candidate.downloads, candidate.repository)

    return sorted(candidates, key=key)


def _card(info: ModelInfo) -> Mapping[str, Any]:
    return getattr(info.card_data, "__dict__", {})


def _relation(info: ModelInfo) -> str:
    """As the card has it: the hub's tags say as well what the hub guesses where a card has none."""
    said = _card(info).get("base_model_relation")
    return said.strip().lower() if isinstance(said, str) else ""


def _states_quantization(info: ModelInfo) -> bool:
    return isinstance(info.config, dict) and bool(info.config.get("quantization_config"))


def _own_words(repository: str, vendor: str) -> list[str]:
    """The words of a model's name, without those of its vendor before it: Meta-Llama-3.1-8B of meta-llama is 3, 1, 8b."""
    words, vendors = _words(repository.partition("/")[2]), _words(vendor)
    return list(dropwhile(lambda word: word in vendors, words))


def _words(name: str) -> list[str]:
    return [word for word in _SEPARATORS.split(name.lower()) if word]


def _candidate(info: ModelInfo, related: bool) -> Candidate:
    files = None if info.siblings is None else tuple(str(one.rfilename) for one in info.siblings)
    tags = {str(tag).lower() for tag in (*tags_of(info), info.library_name)}
    config = info.config if isinstance(info.config, dict) else {}
    return Candidate(
        repository=info.id,
        commit=info.sha if isinstance(info.sha, str) and _COMMIT.fullmatch(info.sha) else "",
        related=related,
        relation=_relation(info),
        licence=licence_of(info),
        files=files,
        engines=tuple(sorted({name for tag, name in _OTHER_ENGINES.items() if tag in tags})),
        created=info.created_at or datetime.fromtimestamp(0, UTC),
        downloads=info.downloads if type(info.downloads) is int else 0,
        gated=bool(info.gated),
        disabled=info.disabled is True,
        has_code="auto_map" in config or any(name.endswith(".py") for name in files or ()),
    )


# --- Checks: (reason, message) or nothing, in the order of Rejection ---------------------------------------------------

_Verdict = tuple[str, str] | None


def _disabled(candidate: Candidate, terms: Terms) -> _Verdict:
    if not candidate.disabled:
        return None
    return (
        Rejection.DISABLED,
        "The hub has disabled it and serves its files no more. Nothing can be done but take another.",
    )


def _format(candidate: Candidate, terms: Terms) -> _Verdict:
    if candidate.files is None:
        return None
    count = {end: sum(name.endswith(end) for name in candidate.files) for end in (".safetensors", ".gguf")}
    top = [name for name in candidate.files if "/" not in name and name.endswith(".safetensors")]
    if ADAPTER_CONFIG in candidate.files and CONFIG not in candidate.files:
        return Rejection.ADAPTER_ONLY, "It is a PEFT adapter, not a whole model. Merge it into its base to serve it."
    if candidate.engines and "vllm" not in candidate.engines:
        engines = " and ".join(candidate.engines)
        return (
            Rejection.OTHER_FORMAT,
            f"It is made for {engines}, which vLLM does not load. Take a safetensors checkpoint.",
        )
    if count[".gguf"] and not top:
        return (
            Rejection.GGUF_ONLY,
            f"Its weights are GGUF files ({count['.gguf']}), llama.cpp's format. Take a safetensors checkpoint.",
        )
    if not top:
        pickles = sum(name.endswith(_PICKLES) for name in candidate.files)
        what = f"pickle files only ({pickles}), which can run code" if pickles else "not at its top"
        return (
            Rejection.NO_SAFETENSORS,
            f"Its weights are {what}: {len(candidate.files)} files, no *.safetensors there. Take a checkpoint that has them, "
            "or ask its publisher to upload it as safetensors.",
        )
    return None


def _code(candidate: Candidate, terms: Terms) -> _Verdict:
    if not candidate.has_code:
        return None
    scripts = [name for name in candidate.files or () if name.endswith(".py")]
    what = (
        f"brings Python files ({len(scripts)}, first {quoted(scripts[0])})"
        if scripts
        else "has an auto_map in config.json"
    )
    return (
        Rejection.NEEDS_CODE,
        f"It {what}: code of a stranger, which is never run here. Take a checkpoint in vLLM's own architecture.",
    )


def _relationship(candidate: Candidate, terms: Terms) -> _Verdict:
    """A quantised fine-tune has the base's shapes, tokenizer and template: nothing but its words and its name tells."""
    if candidate.relation not in ("", QUANTIZED):
        said = f"its card says that it is {quoted(candidate.relation)} of {terms.base}"
    elif (candidate.relation and candidate.related) or is_named_after(candidate.repository, terms.base):
        return None
    else:
        said = (
            f"its card names {terms.base} without the word that it quantises it (base_model_relation: {QUANTIZED}), and its "
            "name has more than the base's and words of quantisation"
        )
    return Rejection.OTHER_MODEL, f"It may be another model, quantised: {said}. {SERVE_ANYWAY}"


def _licence(candidate: Candidate, terms: Terms) -> _Verdict:
    if not candidate.licence.is_wider_than(terms.licence):
        return None
    return (
        Rejection.LICENCE_WIDER,
        f"It states the licence {quoted(candidate.licence.name)}, which permits more than {quoted(terms.licence.name)} of "
        f"{terms.base}. A copy cannot give more than its base: ask its publisher to correct the card. {SERVE_ANYWAY}",
    )


def _publisher(candidate: Candidate, terms: Terms) -> _Verdict:
    if tier_of(candidate.publisher, terms.base, terms.publishers) is not None:
        return None
    alike = resembled(candidate.publisher, terms.base, terms.publishers)
    warning = f" Its name only resembles {alike}'s: look twice." if alike else ""
    many = len({owner_of(terms.base), *terms.publishers})
    advice = "add it to discovery.additionalPublishers of the operator, or name the repository under spec.quantization.checkpoint"
    return (
        Rejection.NOT_TRUSTED,
        f"{candidate.publisher} is not among the {many} publishers that are trusted.{warning} To trust it, {advice}.",
    )


def _gate(candidate: Candidate, terms: Terms) -> _Verdict:
    """Whatever the operator's token opens: pods do not have it."""
    return (Rejection.ACCESS_GATED, GATED) if candidate.gated else None


_CHECKS: tuple[Callable[[Candidate, Terms], _Verdict], ...] = (
    _disabled,
    _format,
    _code,
    _relationship,
    _licence,
    _publisher,
    _gate,
)

"""Whatever strangers write into lists and files: a verdict, never an error of ours."""

from __future__ import annotations

from typing import Any

from huggingface_hub import ModelInfo
from hypothesis import example, given
from hypothesis import strategies as st

from kubequant.hub.candidates import Terms, by_trust, candidates_of, rejected
from kubequant.hub.licences import Licence
from kubequant.hub.likeness import config_differences, needs_code, rope_of, token_differences
from kubequant.hub.scans import scan_of
from kubequant.hub.tokenizers import chat_template_of, print_of, setting_differences
from kubequant.hub.transport import _information_or_none
from kubequant.hub.trust import TRUSTED_PUBLISHERS, Rejection

BASE = "aurora-ai/Aurora-7B"
TERMS = Terms(BASE, Licence("apache-2.0"), TRUSTED_PUBLISHERS)

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=6) | st.just(BASE),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


def documents(*keys: str) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(st.sampled_from(keys), values)


names = st.sampled_from([BASE, "aurora-ai/Aurora-7B-AWQ", "RedHatAI/Aurora-7B-FP8", "somebody/x", "a/b/c"]) | st.text(
    max_size=8
)
relations = st.lists(
    st.sampled_from([f"base_model:quantized:{BASE}", "base_model:", "base_model:quantized:", "gguf"]) | values
)
listed = st.builds(
    lambda name, tags, more: {"id": name, "tags": tags, **more},
    names,
    relations | values,
    documents("sha", "gated", "disabled", "config", "downloads", "library_name", "siblings", "createdAt"),
)
cards = documents("license", "license_name", "base_model", "base_model_relation", "tags", "library_name")
configs = documents(
    "rope_scaling", "rope_parameters", "rope_theta", "rope_local_base_freq", "partial_rotary_factor", "eos_token_id",
    "bos_token_id", "hidden_size", "text_config", "vision_config", "auto_map", "dtype", "x",
)  # fmt: skip
tokenizer_configs = documents("chat_template", "eos_token", "bos_token", "unk_token", "add_bos_token", "auto_map")


@given(st.lists(st.tuples(listed, cards), max_size=4))
def test_any_list_gives_candidates_with_a_verdict_each(entries: list[tuple[dict[str, Any], dict[str, Any]]]) -> None:
    infos = [_information_or_none({**entry, "cardData": card}) for entry, card in entries]
    candidates = by_trust(candidates_of(BASE, filter(None, infos)), TERMS)
    assert len({one.repository for one in candidates}) == len(candidates)
    for verdict in filter(None, (rejected(one, TERMS) for one in candidates)):
        assert verdict.reason in set(Rejection)
        assert verdict.message.isprintable() and len(verdict.message) < 600


@given(configs, configs, configs, configs)
@example({"rope_parameters": {"full_attention": {"rope_type": ["x"]}}}, {"rope_scaling": {"type": {"a": 1}}}, {}, {})
def test_any_two_configs_are_compared(base: Any, candidate: Any, base_generation: Any, generation: Any) -> None:
    found = config_differences(base, candidate) + token_differences(base, candidate, base_generation, generation)
    assert all(one.isprintable() and len(one) < 500 for one in found)
    assert config_differences(base, base) == []
    assert token_differences(base, base, base_generation, base_generation) == []
    assert rope_of(candidate) == rope_of(candidate)
    assert needs_code(candidate) in (True, False)


@given(
    tokenizer_configs, tokenizer_configs, st.none() | st.text(max_size=9), st.dictionaries(st.text(max_size=3), values)
)
def test_any_tokenizer_files_are_compared(base: Any, candidate: Any, jinja: str | None, tokenizer: Any) -> None:
    assert setting_differences(base, base) == []
    assert all(one.isprintable() and len(one) < 200 for one in setting_differences(base, candidate))
    assert all(isinstance(text, str) for text in chat_template_of(candidate, jinja, base).values())
    assert print_of(tokenizer).differences(tokenizer) == []


@given(values)
def test_any_scan_is_read(status: Any) -> None:
    scan = scan_of(ModelInfo(id=BASE, securityRepoStatus=status))  # type: ignore[no-untyped-call]
    assert isinstance(scan.done, bool)


def test_a_scan_s_words() -> None:
    status = {
        "scansDone": True,
        "filesWithIssues": [{"path": "a.bin", "level": "unsafe"}, {"path": "b", "level": "caution"}, 3],
    }
    scan = scan_of(ModelInfo(id=BASE, securityRepoStatus=status))  # type: ignore[no-untyped-call]
    assert (scan.done, scan.unsafe) == (True, ("a.bin",))

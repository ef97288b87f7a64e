"""The contract between what the container's programs write and what the operator reads."""

from __future__ import annotations

import ast
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubequant.api.conditions import Reason
from kubequant.planning.engines.termination import MESSAGE_BYTES, parse_termination
from tests.unit.launcher.programs import FILES


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FILES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and NamedTuples look their module up
    spec.loader.exec_module(module)
    return module


launcher = load("launcher")


def document(message: str = "m", **details: Any) -> dict[str, Any]:
    found = launcher.termination("engine", "EngineFailed", message, details)
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("name", ["launcher.py", "download.py"])
def test_every_reason_that_a_program_can_emit_is_a_documented_one(name: str) -> None:
    """Both files are free of kubequant, so their reasons are plain strings: CamelCase words of the source."""
    words = {node.value for node in ast.walk(ast.parse((FILES / name).read_text())) if isinstance(node, ast.Constant)}
    camel = {
        word for word in words if isinstance(word, str) and word.isidentifier() and sum(map(str.isupper, word)) > 1
    }
    emitted = {word for word in camel if not word.isupper() and word[0].isupper()}
    http_headers_and_classes = {word for word in emitted if word.endswith(("Error", "Exception"))}
    assert emitted - http_headers_and_classes <= {reason.value for reason in Reason}
    assert "DiskFull" in emitted


@given(st.text(max_size=9000), st.lists(st.text(max_size=400), max_size=20), st.text(max_size=5000))
def test_a_message_is_whole_json_in_4096_bytes_whatever_is_in_it(text: str, tail: list[str], detail: str) -> None:
    data = launcher.encode(document(text, tail=tail, line=detail, needed_gib=24.0))
    assert len(data) <= MESSAGE_BYTES
    told = parse_termination(data.decode("utf-8"))
    assert told is not None
    assert told.number("needed_gib") == 24.0, "numbers are never shortened away"


def test_multi_byte_text_is_cut_between_characters() -> None:
    data = launcher.encode(document("漢字" * 3000))
    assert 1024 < len(data) <= MESSAGE_BYTES
    assert json.loads(data)["message"].startswith("漢字")
    assert json.loads(data)["message"].endswith("…")


def test_older_lines_of_the_tail_go_first() -> None:
    tail = [f"{number} " + "x" * 500 for number in range(12)]
    kept = json.loads(launcher.encode(document("short", tail=tail)))
    assert kept["message"] == "short"
    assert kept["details"]["tail"][-1] == tail[-1]
    assert 0 < len(kept["details"]["tail"]) < 12


def test_a_crowd_of_details_ends_too() -> None:
    data = launcher.encode(document("short", **{f"key_{number}": number for number in range(2000)}))
    assert json.loads(data)["message"] == "short"


REFUSED = {
    "nothing": None,
    "empty": "",
    "plain text": "Killed",
    "not an object": "[1]",
    "no version": '{"stage":"engine","reason":"EngineFailed","message":"m"}',
    "a newer version": '{"kubequantTermination":2,"stage":"engine","reason":"EngineFailed","message":"m"}',
    "a version that is true": '{"kubequantTermination":true,"stage":"engine","reason":"EngineFailed","message":"m"}',
    "another stage": '{"kubequantTermination":1,"stage":"x","reason":"EngineFailed","message":"m"}',
    "an unknown reason": '{"kubequantTermination":1,"stage":"engine","reason":"<b>","message":"m"}',
    "a reason that is a list": '{"kubequantTermination":1,"stage":"engine","reason":[],"message":"m"}',
    "a stage that is an object": '{"kubequantTermination":1,"stage":{},"reason":"EngineFailed","message":"m"}',
    "no message": '{"kubequantTermination":1,"stage":"engine","reason":"EngineFailed"}',
    "cut off": '{"kubequantTermination":1,"stage":"engine","reason":"Engi',
    "not a number": '{"kubequantTermination":1,"stage":"engine","reason":"EngineFailed","message":"m","details":{"x":NaN}}',
    "too deep": "[" * 4000,
    "a huge integer": '{"kubequantTermination":' + "9" * 4000 + "}",
    "too long": '{"kubequantTermination":1,"stage":"engine","reason":"EngineFailed","message":"' + "x" * 4096 + '"}',
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_message_of_ours_is_none(name: str) -> None:
    assert parse_termination(REFUSED[name]) is None


@given(st.text(max_size=300))
def test_any_text_is_read_without_an_error(text: str) -> None:
    parse_termination(text)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=5),
        lambda x: st.lists(x) | st.dictionaries(st.text(), x),
    )
)
def test_any_details_are_read_without_an_error(details: Any) -> None:
    base = {"kubequantTermination": 1, "stage": "engine", "reason": "EngineFailed", "message": "m", "details": details}
    told = parse_termination(json.dumps(base))
    assert told is None or all(isinstance(value, str | int | float | tuple) for value in told.details.values())


def test_details_of_another_type_are_left_out_and_text_is_made_printable() -> None:
    told = parse_termination(
        '{"kubequantTermination":1,"stage":"download","reason":"DiskFull","message":"a\\u001b[31m\\nb\\ud800",'
        '"details":{"n":5,"f":1e999,"deep":{"a":1},"none":null,"lines":["a\\tb"],"mixed":["a",1],"yes":true}}'
    )
    assert told is not None
    assert told.message == "a [31m b"
    assert told.details == {"n": 5, "lines": ("a b",), "yes": True}
    assert (told.number("n"), told.number("yes"), told.number("lines")) == (5, None, None)


class TestDigest:
    """What a running engine logs is a cause only when it dies of it."""

    def ready(self) -> Any:
        digest = launcher.Digest()
        digest.feed("INFO:     Application startup complete.", 0.0)
        return digest

    def test_errors_before_ready_that_did_not_hinder_the_start_are_forgotten(self) -> None:
        digest = launcher.Digest()
        digest.feed("ImportError: optional thing", 0.0)
        digest.feed("INFO:     Application startup complete.", 1.0)
        assert digest.cause(1.0) is None

    def test_an_error_of_long_ago_is_no_cause(self) -> None:
        digest = self.ready()
        digest.feed("(EngineCore pid=1) ERROR 01-01 00:00:00 [x.py:1] RuntimeError: CUDA error: out of memory", 10.0)
        assert digest.cause(20.0).reason == "GpuOutOfMemory"
        assert digest.cause(3600.0) is None
        digest.phase = "Stopping"
        assert digest.cause(3600.0) is None, "nor is it when the pod is stopped at last"

    def test_a_newer_cause_replaces_a_stale_one(self) -> None:
        digest = self.ready()
        digest.feed("(EngineCore pid=1) ERROR 01-01 00:00:00 [x.py:1] RuntimeError: CUDA error: out of memory", 10.0)
        digest.feed("(Worker pid=1) ERROR 01-01 01:00:00 [x.py:1] RuntimeError: NCCL error: timeout", 3600.0)
        assert "NCCL" in digest.cause(3600.0).message

    def test_the_worker_speaks_before_those_who_only_heard_of_it(self) -> None:
        digest = launcher.Digest()
        for line in (
            "ImportError: noise without a level",
            "(Worker pid=9) ERROR 01-01 00:00:00 [m.py:1] AssertionError: the root",
            "(EngineCore pid=1) ERROR 01-01 00:00:00 [c.py:1] RuntimeError: heard of it",
        ):
            digest.feed(line, 0.0)
        assert "the root" in digest.cause(0.0).message

    def test_a_worker_that_died_of_its_own_exception_was_not_killed(self) -> None:
        digest = self.ready()
        digest.feed("(Worker pid=9) ERROR 01-01 00:00:00 [m.py:1] RuntimeError: CUDA error: illegal memory access", 1.0)
        for code in ("None", "1"):
            digest.feed(
                f"ERROR 01-01 00:00:00 [m.py:3] Worker proc VllmWorker-0 died unexpectedly (exit code: {code})", 1.0
            )
            assert "illegal memory access" in digest.cause(1.0).message

    def test_a_request_that_a_user_made_is_no_cause(self) -> None:
        digest = self.ready()
        digest.feed(
            "INFO 01-01 00:00:00 [logger.py:1] prompt: 'ValueError: No available memory for the cache blocks'", 1.0
        )
        assert digest.cause(1.0) is None


def test_a_line_that_is_longer_than_the_bound_is_cut_and_the_next_is_whole() -> None:
    lines = launcher.Lines()
    found = []
    for _ in range(10):
        found += lines.feed(b"x" * 10_000)
    found += lines.feed(b"\nnext\n")
    assert [len(found[0]) <= launcher.LINE_BYTES + 10_000, found[1]] == [True, "next"]


def test_the_files_stand_alone() -> None:
    """ConfigMap files run in the engine's image: nothing of ours is there."""
    for path in Path(FILES).glob("*.py"):
        assert "kubequant." not in {
            node.module
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ImportFrom) and node.module
        }

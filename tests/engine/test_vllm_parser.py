"""vLLM's own parser and configuration, on lines whose answers are known: the yardstick for the lines that we generate."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.engines.argv_check import ParseResult, parse_with_vllm
from tests.fakehub.tensors import model_config

pytestmark = pytest.mark.engine

GOOD = {
    "everything an operator sets": [
        "--served-model-name=m",
        "--max-model-len=8192",
        "--max-num-seqs=16",
        "--max-num-batched-tokens=2048",
        "--gpu-memory-utilization=0.92",
        "--kv-cache-dtype=fp8",
        "--tensor-parallel-size=2",
        "--enable-chunked-prefill",
        "--enable-prefix-caching",
        "--shutdown-timeout=30",
        "--port=8000",
    ],
    "nothing but the model": [],
    "the quantisation that the checkpoint has": ["--quantization=compressed-tensors"],
}
BAD_FLAGS = {
    "removed flag": (["--swap-space=4"], "unrecognized arguments: --swap-space=4"),
    "invented flag": (["--kubequant"], "unrecognized arguments: --kubequant"),
    "no such KV cache dtype": (["--kv-cache-dtype=fp7"], "invalid choice"),
    "text for a number": (["--max-num-seqs=many"], "max-num-seqs"),
}
BAD_CONFIGURATIONS = {
    "quantisation that the checkpoint does not have": (["--quantization=gptq"], "does not match the quantization"),
    "longer than the model": (["--max-model-len=1000000"], "greater than the derived max_model_len"),
    "heads not divisible": (["--tensor-parallel-size=3"], "must be divisible by tensor parallel size"),
    "more than all memory": (["--gpu-memory-utilization=1.5"], "gpu_memory_utilization"),
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ParseResult]:
    """Every line's result by its name, from one process."""
    model = _model_folder(tmp_path_factory.mktemp("model"))
    lines = GOOD | {name: line for name, (line, _) in (BAD_FLAGS | BAD_CONFIGURATIONS).items()}
    complete = [[str(model), "--skip-tokenizer-init", *line] for line in lines.values()]
    return dict(zip(lines, parse_with_vllm(complete), strict=True))


def _model_folder(folder: Path) -> Path:
    """Llama-3.1-8B in W4A16: only its config, which is all that vLLM reads here."""
    (folder / "config.json").write_text(json.dumps(model_config("llama-3.1-8b-w4a16")))
    return folder


@pytest.mark.parametrize("name", GOOD)
def test_good_line_is_accepted(results: dict[str, ParseResult], name: str) -> None:
    assert results[name] == ParseResult(parses=True, configures=True, error="")


@pytest.mark.parametrize("name", BAD_FLAGS)
def test_bad_flag_is_refused_by_the_parser(results: dict[str, ParseResult], name: str) -> None:
    result, message = results[name], BAD_FLAGS[name][1]
    assert not result.parses and message in result.error


@pytest.mark.parametrize("name", BAD_CONFIGURATIONS)
def test_contradiction_is_refused_by_the_configuration(results: dict[str, ParseResult], name: str) -> None:
    result, message = results[name], BAD_CONFIGURATIONS[name][1]
    assert result.parses and not result.configures and message in result.error

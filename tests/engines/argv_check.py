"""Whether vLLM's own parser and configuration accept a command line; asked of the real thing, without a GPU."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.engines.environments import run_in, vllm_environment

_SCRIPT = Path(__file__).parent / "scripts" / "check_argv.py"
_TIMEOUT_SECONDS = 600


@dataclass(frozen=True)
class ParseResult:
    """What vLLM said of one line."""

    parses: bool
    """`vllm serve` knows every flag and every value has the right form."""
    configures: bool
    """The engine's configuration was made as well: the model's config, quantisation and limits agree."""
    error: str
    """The refusal's last words; empty when everything was accepted."""


def parse_with_vllm(lines: Sequence[Sequence[str]], *, configure: bool = True) -> list[ParseResult]:
    """One result a line, in their order. All lines are checked in one process: about 20 s, however many they are.

    An architecture that vLLM has not seen on this machine takes it some 15 s more, once.
    A line is what follows `vllm serve`: the model first. With `configure`, the model must be a folder with at least
    `config.json`; add `--skip-tokenizer-init` when it has no tokenizer. No weights are read. This is the CPU platform:
    checks of GPU capability, memory and count do not happen.
    """
    question = json.dumps({"lines": [list(line) for line in lines], "configure": configure})
    output = run_in(
        vllm_environment(),
        [str(_SCRIPT)],
        stdin=question,
        timeout_seconds=_TIMEOUT_SECONDS,
        variables={"HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "ERROR"},
    )
    return [ParseResult(**answer) for answer in json.loads(output.splitlines()[-1])]

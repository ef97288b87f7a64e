"""What vLLM itself says a model's layers hold on a rank: KV-cache specs and parameters, without a GPU or weights."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from tests.engines.cache import cache_folder, content_key, report
from tests.engines.environments import VLLM_REQUIREMENTS, run_in, vllm_environment

_SCRIPT = Path(__file__).parent / "scripts" / "describe_models.py"
_MODELS_A_PROCESS = 40  # vLLM keeps something of every model, and a process that dies takes fewer with it
_TIMEOUT_SECONDS = 1800  # cold, beside another lane, on two cores; quiet, a tenth of it


@dataclass(frozen=True)
class OracleModel:
    """A question: `config` is what stands in config.json. None leaves vLLM its own choice."""

    name: str
    config: Mapping[str, Any]
    tensor_parallel_size: int = 1
    max_model_len: int | None = None
    kv_cache_dtype: str = "auto"
    max_num_batched_tokens: int | None = None

    def question(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "config": dict(self.config),
            "tp": self.tensor_parallel_size,
            "max_model_len": self.max_model_len,
            "kv_cache_dtype": self.kv_cache_dtype,
            "max_num_batched_tokens": self.max_num_batched_tokens,
        }


@dataclass(frozen=True)
class OracleAnswer:
    """Of rank 0. `error` is vLLM's refusal, on this platform, to build the model; then the rest is empty.

    `kv_cache` has the fields of each layer's spec, with `layer`, `kind` (its class) and `page_size_bytes`; `tensors` has
    name, role (parameter or buffer), dtype, shape and bytes. `pool` is what vLLM's planner makes of the specs:
    block_bytes, blocks_per_request at full length, and groups as [layers, tokens of a block, blocks].
    """

    name: str
    tp: int
    error: str
    max_model_len: int = 0
    dtype: str = ""
    kv_cache: list[dict[str, Any]] = field(default_factory=list)
    tensors: list[dict[str, Any]] = field(default_factory=list)
    pool: dict[str, Any] = field(default_factory=dict)

    @property
    def parameter_bytes(self) -> int:
        return sum(tensor["bytes"] for tensor in self.tensors if tensor["role"] == "parameter")


def describe_with_vllm(models: Sequence[OracleModel]) -> list[OracleAnswer]:
    """One answer a model, in their order: about 10 s for the first, then a second each; once known, instantly."""
    files = [cache_folder() / "oracle" / f"{_key(model)}.json" for model in models]
    unknown = [(model, file) for model, file in zip(models, files, strict=True) if not file.exists()]
    for start in range(0, len(unknown), _MODELS_A_PROCESS):
        batch = unknown[start : start + _MODELS_A_PROCESS]
        report(f"asking vLLM about {len(batch)} models")
        answers = _ask([model for model, _ in batch])
        for (_, file), answer in zip(batch, answers, strict=True):
            _write(file, answer)
    return [OracleAnswer(**json.loads(file.read_text())) for file in files]


def _key(model: OracleModel) -> str:
    return content_key([_SCRIPT, VLLM_REQUIREMENTS], json.dumps(model.question(), sort_keys=True))


def _ask(models: Sequence[OracleModel]) -> list[dict[str, Any]]:
    output = run_in(
        vllm_environment(),
        [str(_SCRIPT)],
        stdin=json.dumps([model.question() for model in models]),
        timeout_seconds=_TIMEOUT_SECONDS,
        variables={"HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "ERROR"},
    )
    answers: list[dict[str, Any]] = json.loads(output.splitlines()[-1])
    return answers


def _write(file: Path, answer: Mapping[str, Any]) -> None:
    """Renamed into place, so that a process that is killed leaves no half of an answer."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile("w", dir=file.parent, suffix=".unfinished", delete=False) as unfinished:
        json.dump(answer, unfinished)
    Path(unfinished.name).rename(file)

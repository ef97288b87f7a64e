"""Sixty decisions as a table for people: `python -m tests.unit.planning.golden` prints it, `--write` renews golden_plans.md.

A change of the planner that changes a decision changes a line of that file, for a reviewer to read. Models have their
real configurations and headers; GPUs are those of the shipped table, written as they are commonly called.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from kubequant.planning.architectures import shape_of
from kubequant.planning.engines.vllm import VLLM_0_33
from kubequant.planning.plan import plan
from kubequant.planning.quantization import stored_quantization
from kubequant.planning.tensors import classes_of
from kubequant.planning.values import Fleet, Intent, KvCacheDtype, ModelFacts, Objective, Plan
from tests.fakehub import quantized_headers as headers
from tests.fakehub.tensors import Tensor, model_config, model_tensors
from tests.unit.planning.models import GIB, MIB, QUANTIZATION_CONFIGS, config, fleet, node

TABLE = Path(__file__).parent / "golden_plans.md"

CARDS = {
    "T4": "Tesla-T4",
    "A10": "NVIDIA-A10",
    "L4": "NVIDIA-L4",
    "3090": "NVIDIA-GeForce-RTX-3090",
    "4090": "NVIDIA-GeForce-RTX-4090",
    "5090": "NVIDIA-GeForce-RTX-5090",
    "A6000": "NVIDIA-RTX-A6000",
    "L40S": "NVIDIA-L40S",
    "A100": "NVIDIA-A100-SXM4-80GB",
    "H100": "NVIDIA-H100-80GB-HBM3",
    "H200": "NVIDIA-H200",
    "B200": "NVIDIA-B200",
}

_MIXTRAL = config(
    "MixtralForCausalLM",
    32,
    4096,
    14336,
    32,
    8,
    32000,
    32768,
    num_local_experts=8,
    num_experts_per_tok=2,
    sliding_window=None,
)

DENSE: dict[str, dict[str, Any]] = {
    "Qwen2.5-0.5B": config("Qwen2ForCausalLM", 24, 896, 4864, 14, 2, 151936, 32768, tie_word_embeddings=True),
    "Qwen2.5-14B": config("Qwen2ForCausalLM", 48, 5120, 13824, 40, 8, 152064, 32768),
    "Qwen2.5-72B": config("Qwen2ForCausalLM", 80, 8192, 29568, 64, 8, 152064, 32768),
    "Mistral-Small-24B": config(
        "MistralForCausalLM", 40, 5120, 32768, 32, 8, 131072, 32768, head_dim=128, sliding_window=None
    ),
    "Codestral-22B": config(
        "MistralForCausalLM", 56, 6144, 16384, 48, 8, 32768, 32768, head_dim=128, sliding_window=None
    ),
    "Llama-3.1-405B": config("LlamaForCausalLM", 126, 16384, 53248, 128, 8, 128256, 131072, head_dim=128),
    "Phi-4": config("Phi3ForCausalLM", 40, 5120, 17920, 40, 10, 100352, 16384),
}
"""Beside those of the fake Hub's folder `models`."""

HUB = {
    "Llama-3.1-8B": "llama-3.1-8b",
    "Llama-3.1-70B": "llama-3.1-70b",
    "Qwen2.5-7B": "qwen2.5-7b",
    "Qwen2.5-32B": "qwen2.5-32b",
    "Mistral-7B-v0.1": "mistral-7b-v0.1",
    "DeepSeek-V2-Lite": "deepseek-v2-lite",
    "gemma-3-1b": "gemma-3-1b",
    "gpt-oss-20b": "gpt-oss-20b-bf16",
    "Qwen3-Next-80B-A3B": "qwen3-next-80b",
}

_MXFP4 = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router"]}

STORED: dict[str, tuple[Callable[[list[Tensor]], list[Tensor]], dict[str, Any]]] = {
    "AWQ": (headers.awq_gemm, QUANTIZATION_CONFIGS["AWQ"]),
    "GPTQ": (headers.gptq, QUANTIZATION_CONFIGS["GPTQ"]),
    "FP8": (headers.fp8_per_channel, QUANTIZATION_CONFIGS["FP8"]),
    "MXFP4": (headers.mxfp4_experts, _MXFP4),
}


@dataclass(frozen=True)
class Case:
    """`model` is a name, then how it is stored (nothing: 16 bit); `cards` as in "4 x 4090, H100"; demand as requests x tokens."""

    model: str
    cards: str
    demand: str = "16 x 4096"
    context: int | None = None
    scheme: str = "Auto"
    objective: Objective = Objective.LOWEST_COST
    kv_cache_dtype: KvCacheDtype = KvCacheDtype.AUTO
    gpus: int | None = None

    @property
    def intent(self) -> Intent:
        requests, _, each = self.demand.partition(" x ")
        return Intent(
            repository="org/base",
            scheme=self.scheme,
            context_tokens=self.context,
            concurrent_requests=int(requests),
            tokens_per_request=int(each),
            kv_cache_dtype=self.kv_cache_dtype,
            gpus_per_replica=self.gpus,
            objective=self.objective,
        )

    @property
    def fleet(self) -> Fleet:
        nodes = []
        for text in self.cards.split(", "):
            count, _, name = text.rpartition(" x ")
            nodes.append(node(CARDS[name], gpus=int(count or 1)))
        return fleet(*nodes)

    @property
    def asked(self) -> str:
        """What differs from the defaults."""
        extras = [self.demand]
        if self.context:
            extras.append(f"context {self.context}")
        if self.gpus:
            extras.append(f"on {self.gpus} GPUs")
        for value, default in (
            (self.scheme, "Auto"), (self.objective.value, "LowestCost"), (self.kv_cache_dtype.value, "Auto"),
        ):  # fmt: skip
            if value != default:
                extras.append(value if value != "FP8" or value == self.scheme else "FP8 KV")
        return ", ".join(extras)


C = Case
BUSY, QUALITY = Objective.HIGHEST_THROUGHPUT, Objective.HIGHEST_QUALITY
CASES = (
    # the seeds' list on their 24 GB card; Llama 70B and Mixtral are the seeds' errors
    C("Qwen2.5-14B AWQ", "4090"), C("Qwen2.5-14B AWQ", "4090", "16 x 32768"), C("Qwen2.5-32B AWQ", "4090", "4 x 2048", 4096),
    C("Qwen2.5-32B AWQ", "4090", "8 x 16384"), C("Llama-3.1-70B AWQ", "4090"), C("Llama-3.1-70B AWQ", "4 x 4090"),
    C("Llama-3.1-70B AWQ", "L40S", "4 x 4096"), C("Llama-3.1-70B AWQ", "A6000", "8 x 4096"), C("Mixtral-8x7B AWQ", "4090"),
    C("Mixtral-8x7B AWQ", "5090"), C("Codestral-22B AWQ", "4090", "4 x 4096"), C("Mistral-Small-24B AWQ", "4090", "4 x 4096"),
    C("Mistral-Small-24B", "A6000"), C("Llama-3.1-70B", "H100"), C("Llama-3.1-70B", "2 x H100"), C("Llama-3.1-70B AWQ", "A100"),
    C("Llama-3.1-405B AWQ", "8 x A100"), C("Llama-3.1-8B", "A10", "4 x 4096"), C("Llama-3.1-8B AWQ", "A10"),
    # the same model from small to large
    C("Llama-3.1-8B", "T4"), C("Llama-3.1-8B", "2 x T4"), C("Llama-3.1-8B", "L4"), C("Llama-3.1-8B", "3090"),
    C("Llama-3.1-8B", "4090"), C("Llama-3.1-8B", "L40S"), C("Llama-3.1-8B", "H100"), C("Llama-3.1-8B", "B200"),
    C("Llama-3.1-8B", "T4, L4, 4090, A100, H100"), C("Llama-3.1-8B", "4 x L4, 8 x H100", "256 x 4096"),
    # schemes asked for
    C("Llama-3.1-8B", "4090", scheme="W4A16"), C("Llama-3.1-8B", "4090", scheme="FP8"), C("Llama-3.1-8B", "B200", scheme="NVFP4"),
    C("Llama-3.1-8B", "A100", scheme="W8A8"), C("Llama-3.1-8B", "B200", scheme="W8A8"), C("Llama-3.1-8B", "4090", scheme="Unquantized"),
    C("Llama-3.1-8B AWQ", "4090", scheme="FP8"), C("Llama-3.1-70B", "8 x 4090", scheme="FP8"),
    # objectives
    C("Llama-3.1-8B", "4090, 8 x H100", objective=Objective.LOWEST_LATENCY),
    C("Llama-3.1-8B", "8 x 4090", objective=Objective.LOWEST_LATENCY),
    C("Llama-3.1-8B", "4090, 2 x H100", "64 x 1024", objective=BUSY),
    C("Llama-3.1-8B", "L4, A100, H100", objective=QUALITY), C("Llama-3.1-70B", "8 x L40S, 8 x H100", objective=QUALITY),
    C("Llama-3.1-8B", "L4", "64 x 1024"), C("Llama-3.1-8B FP8", "L4", "64 x 1024"),
    # what does not divide
    C("Qwen2.5-72B AWQ", "2 x A100", gpus=2), C("Qwen2.5-72B AWQ", "A100"), C("Qwen2.5-7B", "8 x 4090", gpus=8), C("Phi-4", "8 x L4", gpus=8),
    # KV cache
    C("Llama-3.1-70B FP8", "H200", kv_cache_dtype=KvCacheDtype.BF16), C("Llama-3.1-70B FP8", "H200"),
    C("Llama-3.1-8B", "A100", kv_cache_dtype=KvCacheDtype.FP8), C("Llama-3.1-8B AWQ", "T4", kv_cache_dtype=KvCacheDtype.FP8),
    C("Qwen2.5-14B", "L40S", "4 x 4096", 32768), C("Qwen2.5-14B", "L40S", "4 x 4096", 65536),
    # latent attention, windows, recurrent layers, experts
    C("DeepSeek-V2-Lite", "L40S"), C("DeepSeek-V2-Lite", "4 x L4"), C("gemma-3-1b", "L4"), C("gemma-3-1b", "T4"),
    C("Mistral-7B-v0.1", "L4"), C("gpt-oss-20b MXFP4", "L4"), C("gpt-oss-20b MXFP4", "H100", "64 x 8192"), C("gpt-oss-20b", "A100"),
    C("Qwen3-Next-80B-A3B", "4 x H100"), C("Qwen3-Next-80B-A3B", "2 x L40S"),
    # small
    C("Qwen2.5-0.5B", "T4"), C("Qwen2.5-0.5B", "4090", objective=Objective.LOWEST_LATENCY),
)  # fmt: skip


def outcome(case: Case) -> Plan | str:
    """The plan, or the refusal in one line."""
    found = plan(case.intent, facts(case.model), case.fleet, VLLM_0_33)
    return found if isinstance(found, Plan) else f"{found.reason}: {found.message}"


@cache
def facts(text: str) -> ModelFacts:
    """Of a model as a case names it."""
    name, _, stored = text.partition(" ")
    base, base_config = _base(name)
    tensors, quantization = base, {}
    if stored:
        requantise, declared = STORED[stored]
        tensors, quantization = requantise(base), {"quantization_config": declared}
    full = {**base_config, **quantization}
    classes = classes_of((one.name, one.dtype, one.shape, one.size_bytes) for one in tensors)
    return ModelFacts(
        repository=f"org/{name}",
        commit="0" * 40,
        shape=shape_of(full),
        tensors=classes,
        stored=stored_quantization(full, classes),
        download_bytes=sum(tensor.bytes for tensor in classes) + 10 * MIB,
    )


def _base(name: str) -> tuple[list[Tensor], dict[str, Any]]:
    if name in HUB:
        return model_tensors(HUB[name]), model_config(HUB[name])
    if name == "Mixtral-8x7B":
        return list(_mixtral_tensors()), _MIXTRAL
    return list(_dense_tensors(DENSE[name], fused=name == "Phi-4", bias=name.startswith("Qwen"))), DENSE[name]


def _dense_tensors(of: dict[str, Any], *, fused: bool, bias: bool) -> Iterator[Tensor]:
    hidden, inner, vocabulary = of["hidden_size"], of["intermediate_size"], of["vocab_size"]
    yield from _outside(of, hidden, vocabulary)
    for layer in range(of["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        yield from _attention(prefix, of, fused=fused, bias=bias)
        linears = (
            {"gate_up_proj": (2 * inner, hidden)}
            if fused
            else {"gate_proj": (inner, hidden), "up_proj": (inner, hidden)}
        )
        for name, shape in {**linears, "down_proj": (hidden, inner)}.items():
            yield Tensor(f"{prefix}mlp.{name}.weight", "BF16", shape, linear=True)


def _mixtral_tensors() -> Iterator[Tensor]:
    hidden, inner = _MIXTRAL["hidden_size"], _MIXTRAL["intermediate_size"]
    yield from _outside(_MIXTRAL, hidden, _MIXTRAL["vocab_size"])
    for layer in range(_MIXTRAL["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        yield from _attention(prefix, _MIXTRAL, fused=False, bias=False)
        yield Tensor(f"{prefix}block_sparse_moe.gate.weight", "BF16", (8, hidden))
        for expert in range(8):
            for name, shape in {"w1": (inner, hidden), "w2": (hidden, inner), "w3": (inner, hidden)}.items():
                yield Tensor(f"{prefix}block_sparse_moe.experts.{expert}.{name}.weight", "BF16", shape, linear=True)


def _outside(of: dict[str, Any], hidden: int, vocabulary: int) -> Iterator[Tensor]:
    yield Tensor("model.embed_tokens.weight", "BF16", (vocabulary, hidden))
    yield Tensor("model.norm.weight", "BF16", (hidden,))
    if not of["tie_word_embeddings"]:
        yield Tensor("lm_head.weight", "BF16", (vocabulary, hidden), linear=True)


def _attention(prefix: str, of: dict[str, Any], *, fused: bool, bias: bool) -> Iterator[Tensor]:
    hidden, heads = of["hidden_size"], of["num_attention_heads"]
    head_dim = of.get("head_dim", hidden // heads)
    query, key = heads * head_dim, of["num_key_value_heads"] * head_dim
    projections = {"qkv_proj": query + 2 * key} if fused else {"q_proj": query, "k_proj": key, "v_proj": key}
    for name, outputs in projections.items():
        yield Tensor(f"{prefix}self_attn.{name}.weight", "BF16", (outputs, hidden), linear=True)
        if bias:
            yield Tensor(f"{prefix}self_attn.{name}.bias", "BF16", (outputs,))
    yield Tensor(f"{prefix}self_attn.o_proj.weight", "BF16", (hidden, query), linear=True)
    for norm in ("input_layernorm", "post_attention_layernorm"):
        yield Tensor(f"{prefix}{norm}.weight", "BF16", (hidden,))


def rendered() -> str:
    """The table."""
    lines = [
        "# Golden plans",
        "",
        "Made by `python -m tests.unit.planning.golden --write`; a test compares. Weights, budget and promised KV cache are of one GPU, in GiB.",
        "",
        "| model | GPUs there are | asked | taken | kernel | weights | KV cache | context | KV tokens | also fits |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *(_line(case) for case in CASES),
    ]
    return "\n".join(lines) + "\n"


def _line(case: Case) -> str:
    found = outcome(case)
    asked = f"| {case.model} | {case.cards} | {case.asked} | "
    if isinstance(found, str):
        return f"{asked}**refused**: {found} | | | | | | |"
    budget = found.budget
    made = " (to be made)" if found.predicted else ""
    others = ", ".join(f"{_short(other.gpu)} x{other.gpus} {other.scheme}" for other in found.alternatives[:3])
    cells = (
        f"{found.gpus_per_replica} x {_short(found.gpu.product)}, {found.scheme}{made}", found.kernel, f"{budget.weights_bytes / GIB:.2f}",
        f"{budget.kv_cache_bytes / GIB:.2f} {found.kv_cache_dtype}", f"{found.context_tokens:,}", f"{found.kv_cache_tokens:,}", others,
    )  # fmt: skip
    return asked + " | ".join(cells) + " |"


def _short(product: str) -> str:
    return next(short for short, long in CARDS.items() if long == product)


if __name__ == "__main__":
    if "--write" in sys.argv:
        TABLE.write_text(rendered(), encoding="utf-8")
    else:
        sys.stdout.write(rendered())

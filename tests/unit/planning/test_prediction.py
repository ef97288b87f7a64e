"""Predicted checkpoints: sizes of published ones, layouts that the tools write, and what cannot be made.

`tests/engine/test_prediction_real.py` compares with llm-compressor itself, tensor by tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.dense_checkpoints import Tensor as HeaderTensor
from bench.dense_checkpoints import dense_checkpoint, tensor
from kubequant.api.conditions import Reason
from kubequant.errors import Refused
from kubequant.planning.prediction import (
    PREDICTABLE_SCHEMES,
    layout_of,
    predicted,
    prediction_obstacle,
    resolved_method,
)
from kubequant.planning.tensors import classes_of
from kubequant.planning.values import (
    Experts,
    ModelFacts,
    ModelShape,
    StoredMethod,
    StoredQuantization,
    TensorClass,
)
from tests.fakehub.quantized_headers import awq_gemm, fp8_per_channel, gptq, pack_quantized
from tests.fakehub.tensors import DTYPE_BYTES, Tensor, model_config, model_tensors, total_bytes

GB, GIB = 10**9, 2**30
TOKENIZER_BYTES = 9_000_000


def shape(
    layers: int, hidden: int, inner: int, heads: int, kv_heads: int, vocab: int, *, head_dim: int = 128,
    architecture: str = "LlamaForCausalLM", tied: bool = False, dtype: str = "BF16", experts: Experts | None = None,
) -> ModelShape:  # fmt: skip
    return ModelShape(
        architecture,
        "test",
        layers,
        hidden,
        inner,
        heads,
        kv_heads,
        head_dim,
        vocab,
        32768,
        tied,
        dtype,
        experts=experts,
    )


SHAPES = {
    "Llama-3.1-8B": shape(32, 4096, 14336, 32, 8, 128256),
    "Llama-3.1-70B": shape(80, 8192, 28672, 64, 8, 128256),
    "Llama-3.1-405B": shape(126, 16384, 53248, 128, 8, 128256),
    "Qwen2.5-14B": shape(48, 5120, 13824, 40, 8, 152064, architecture="Qwen2ForCausalLM"),
    "Qwen2.5-32B": shape(64, 5120, 27648, 40, 8, 152064, architecture="Qwen2ForCausalLM"),
    "Codestral-22B": shape(56, 6144, 16384, 48, 8, 32768, architecture="MistralForCausalLM"),
    "Mistral-Small-24B": shape(40, 5120, 32768, 32, 8, 131072, architecture="MistralForCausalLM"),
    "Mixtral-8x7B": shape(
        32, 4096, 0, 32, 8, 32000, architecture="MixtralForCausalLM", experts=Experts(8, 2, 32, 14336)
    ),
}


def facts(model: ModelShape, tensors: tuple[TensorClass, ...]) -> ModelFacts:
    size = sum(one.bytes for one in tensors) + TOKENIZER_BYTES
    return ModelFacts("org/model", "a" * 40, model, tensors, stored=None, download_bytes=size)


def base(name: str) -> ModelFacts:
    model = SHAPES[name]
    tensors = mixtral(model) if model.experts else dense_checkpoint(model, qkv_bias=name.startswith("Qwen2"))
    return facts(model, classes_of(tensors))


def mixtral(model: ModelShape) -> Iterator[HeaderTensor]:
    """The dense checkpoint without its MLP, and with experts and a router in its place."""
    assert model.experts
    inner, hidden = model.experts.intermediate_size, model.hidden_size
    for one in dense_checkpoint(replace(model, intermediate_size=128)):
        if ".mlp." not in one[0]:
            yield one
    for layer in range(model.num_hidden_layers):
        moe = f"model.layers.{layer}.block_sparse_moe."
        yield tensor(f"{moe}gate.weight", model.dtype, model.experts.experts, hidden)
        for expert in range(model.experts.experts):
            yield tensor(f"{moe}experts.{expert}.w1.weight", model.dtype, inner, hidden)
            yield tensor(f"{moe}experts.{expert}.w2.weight", model.dtype, hidden, inner)
            yield tensor(f"{moe}experts.{expert}.w3.weight", model.dtype, inner, hidden)


def tiny(*more: HeaderTensor, without: str = " ", **fields: object) -> ModelFacts:
    """Two layers of Llama, with further tensors, and without those whose name has `without` in it."""
    model = replace(shape(2, 256, 512, 2, 1, 1024), **fields)  # type: ignore[arg-type]
    dense = [one for one in dense_checkpoint(model) if without not in one[0]]
    return facts(model, classes_of([*dense, *more], model.num_hidden_layers))


def named(made: ModelFacts, module: str) -> dict[str, TensorClass]:
    found = (one for one in made.tensors if one.pattern.rpartition(".")[0].endswith(module))
    return {one.pattern.rpartition(".")[2]: one for one in found}


# --- sizes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "scheme", "method", "published"),
    [
        # AutoAWQ keeps zero points in 4 bit and groups of 128, as asymmetric compressed-tensors do.
        ("Llama-3.1-70B", "W4A16", "AWQ", 39.77 * GB),
        ("Qwen2.5-32B", "W4A16", "AWQ", 19.33 * GB),
        ("Qwen2.5-14B", "W4A16", "AWQ", 9.98 * GB),
        ("Codestral-22B", "W4A16", "AWQ", 12.16 * GB),
        ("Mistral-Small-24B", "W4A16", "AWQ", 14.23 * GB),
        ("Mistral-Small-24B", "W4A16", "GPTQ", 14.15 * GB),
        ("Llama-3.1-405B", "W4A16", "AWQ", 217.1 * GB),
        # Published as AWQ, which llm-compressor cannot make of it; symmetric groups are 0.7 % smaller.
        ("Mixtral-8x7B", "W4A16", "GPTQ", 24.65 * GB),
        # As vLLM reports the loaded model.
        ("Llama-3.1-70B", "FP8", "RoundToNearest", 67.7 * GIB),
        ("Llama-3.1-8B", "FP8", "RoundToNearest", 8.46 * GIB),
        ("Llama-3.1-70B", "NVFP4", "RoundToNearest", 42.7 * GB),
    ],
)
def test_published_sizes(name: str, scheme: str, method: str, published: float) -> None:
    assert predicted(base(name), scheme, method).weight_bytes == pytest.approx(published, rel=0.01)


@pytest.mark.parametrize(
    ("scheme", "method", "bits"),
    [
        ("FP8", "RoundToNearest", 8 + 16 / 4096),
        ("W8A8", "GPTQ", 8 + 16 / 4096),
        ("W8A16", "GPTQ", 8.125),
        ("W4A16", "AWQ", 4.15625),
        ("W4A16", "GPTQ", 4.125),
        ("NVFP4", "RoundToNearest", 4.5),
        ("MXFP4", "RoundToNearest", 4.25),
    ],
)
def test_bits_a_weight(scheme: str, method: str, bits: float) -> None:
    projection = named(predicted(base("Llama-3.1-8B"), scheme, method), "mlp.up_proj")
    stored = sum(one.bytes for one in projection.values())
    assert 8 * stored / (32 * 4096 * 14336) == pytest.approx(bits, rel=1e-5)


def test_every_pair_is_smaller_than_its_base_and_says_what_it_is() -> None:
    model = base("Llama-3.1-8B")
    for scheme, method in PREDICTABLE_SCHEMES:
        made = predicted(model, scheme, method)
        assert made.weight_bytes < 0.6 * model.weight_bytes
        assert made.download_bytes == made.weight_bytes + TOKENIZER_BYTES
        assert (made.repository, made.commit, made.shape, made.predicted) == ("org/model", "a" * 40, model.shape, True)
        assert made.stored == StoredQuantization(
            StoredMethod.COMPRESSED_TENSORS,
            scheme,
            bits=4 if "4" in scheme else 8,
            group_size=layout_of(scheme, method).group_size,
            symmetric=method != "AWQ",
            ignored=("lm_head",),
        )


# --- layouts ---------------------------------------------------------------------------------------------------------

FAKEHUB_BASES = ("llama-3.1-8b", "llama-3.1-70b", "qwen2.5-7b", "qwen2.5-32b", "mistral-7b-v0.1", "gemma-3-1b")


def of_fakehub(name: str, tensors: list[Tensor]) -> ModelFacts:
    config = model_config(name)
    model = replace(SHAPES["Llama-3.1-8B"], num_hidden_layers=config["num_hidden_layers"])
    return facts(model, classes_of((one.name, one.dtype, one.shape, one.size_bytes) for one in tensors))


@pytest.mark.parametrize("name", FAKEHUB_BASES)
@pytest.mark.parametrize(
    ("scheme", "method", "rewrite"),
    [
        ("W4A16", "GPTQ", pack_quantized),
        ("W4A16", "AWQ", lambda tensors: pack_quantized(tensors, symmetric=False)),
        ("FP8", "RoundToNearest", fp8_per_channel),
    ],
)
def test_the_same_tensors_as_the_fake_hub_derives(
    name: str, scheme: str, method: str, rewrite: Callable[[list[Tensor]], list[Tensor]]
) -> None:
    tensors = model_tensors(name)
    assert predicted(of_fakehub(name, tensors), scheme, method).tensors == of_fakehub(name, rewrite(tensors)).tensors


@pytest.mark.parametrize("name", ["llama-3.1-8b", "llama-3.1-70b", "qwen2.5-7b", "qwen2.5-32b"])
@pytest.mark.parametrize(("method", "older"), [("AWQ", awq_gemm), ("GPTQ", gptq)])
def test_within_a_hundredth_of_the_older_layouts(
    name: str, method: str, older: Callable[[list[Tensor]], list[Tensor]]
) -> None:
    tensors = model_tensors(name)
    made = predicted(of_fakehub(name, tensors), "W4A16", method)
    assert made.weight_bytes == pytest.approx(total_bytes(older(tensors)), rel=0.01)


def test_experts_are_quantised_and_routers_are_not() -> None:
    made = predicted(base("Mixtral-8x7B"), "FP8")
    for projection in ("gate_proj", "up_proj", "down_proj"):
        assert named(made, f"block_sparse_moe.experts.*.{projection}")["weight"].count == 32 * 8
    assert not named(made, "experts.*.w1")
    assert named(made, "block_sparse_moe.gate")["weight"].dtype == "BF16"
    assert made.stored and made.stored.ignored == ("lm_head", "model.layers.*.block_sparse_moe.gate")


@pytest.mark.parametrize(
    "kept",
    [
        "model.visual.blocks.0.attn.qkv.weight",
        "vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.weight",
        "model.vision_tower.encoder.layers.0.mlp.fc1.weight",
        "audio_tower.layers.0.fc1.weight",
        "multi_modal_projector.linear_1.weight",
        "model.mm_projector.0.weight",
        "model.layers.0.mlp.shared_expert_gate.weight",
        "model.layers.0.block_sparse_moe.router.layer.weight",
        "model.layers.0.linear_attn.in_proj_qkvz.weight",
        "model.layers.0.mamba.in_proj.weight",
        "backbone.layers.0.mixer.in_proj.weight",
        "model.layers.0.self_attn.indexer.wk.weight",
    ],
)
def test_what_is_no_linear_layer_of_the_decoder_stays(kept: str) -> None:
    matrix = tensor(kept, "BF16", 256, 128)
    assert set(classes_of([matrix])) <= set(predicted(tiny(matrix), "W4A16").tensors)


@pytest.mark.parametrize(
    "name",
    [
        "backbone.layers.0.mixer.up_proj.weight",
        "model.language_model.layers.0.self_attn.q_proj.weight",
        "transformer.h.0.attn.c_attn.weight",
        "model.layers.0.self_attn.kv_a_proj_with_mqa.weight",
        "model.layers.0.mlp.shared_experts.gate_proj.weight",
    ],
)
def test_linear_layers_of_the_decoder_are_quantised_under_any_name(name: str) -> None:
    made = predicted(tiny(tensor(name, "BF16", 256, 128)), "W4A16")
    module = classes_of([tensor(name, "BF16", 1, 1)])[0].pattern.removesuffix(".weight")
    assert "weight_packed" in named(made, module)


def test_a_tied_head_is_not_invented() -> None:
    model = replace(SHAPES["Llama-3.1-8B"], tie_word_embeddings=True)
    made = predicted(facts(model, classes_of(dense_checkpoint(model))), "W4A16")
    assert not named(made, "lm_head")
    assert named(made, "embed_tokens")["weight"].dtype == "BF16"


def test_a_float32_base_comes_out_in_16_bit() -> None:
    model = replace(SHAPES["Llama-3.1-8B"], dtype="F32")
    made = predicted(facts(model, classes_of(dense_checkpoint(model))), "W4A16")
    assert made.tensors == predicted(base("Llama-3.1-8B"), "W4A16").tensors


def test_layers_for_multi_token_prediction_are_not_written() -> None:
    numbered_on = [
        *((name.replace("layers.1.", "layers.2."), *rest) for name, *rest in dense_checkpoint(tiny().shape) if "layers.1." in name),
        tensor("model.layers.2.eh_proj.weight", "BF16", 256, 512),
        tensor("model.layers.2.shared_head.head.weight", "BF16", 1024, 256),
    ]  # fmt: skip
    beside = tensor("mtp.layers.0.mlp.up_proj.weight", "BF16", 512, 256)
    assert predicted(tiny(*numbered_on, beside), "FP8").tensors == predicted(tiny(), "FP8").tensors
    copied = predicted(tiny(beside, model_type="qwen3_5_text"), "FP8")
    assert named(copied, "mtp.layers.*.mlp.up_proj")["weight"].dtype == "BF16"


# --- methods and obstacles -------------------------------------------------------------------------------------------


def test_auto_is_awq_where_its_mapping_is_sound_else_gptq() -> None:
    assert resolved_method(base("Llama-3.1-8B"), "W4A16") == "AWQ"
    assert resolved_method(base("Mixtral-8x7B"), "W4A16") == "GPTQ"
    assert resolved_method(base("Mixtral-8x7B"), "W4A16", "RoundToNearest") == "RoundToNearest"
    stored = predicted(base("Mixtral-8x7B"), "W4A16").stored
    assert stored and stored.symmetric


ODD = tiny(tensor("model.layers.0.mlp.odd_proj.weight", "BF16", 64, 208))
QUANTISED = replace(tiny(), stored=StoredQuantization(StoredMethod.AWQ, "W4A16", 4, 128, symmetric=False))


@pytest.mark.parametrize(
    ("model", "scheme", "method", "said"),
    [
        (tiny(), "W3A16", "Auto", "only for FP8, W8A16, W8A8, W4A16, NVFP4, MXFP4"),
        (tiny(), "Unquantized", "Auto", "not asked for 'Unquantized'"),
        (tiny(), "FP8", "GPTQ", "made with RoundToNearest, not with GPTQ"),
        (QUANTISED, "FP8", "Auto", "quantised already (AWQ, W4A16)"),
        (predicted(tiny(), "FP8"), "W4A16", "Auto", "quantised already (CompressedTensors, FP8)"),
        (ODD, "W4A16", "Auto", "odd_proj.weight has 208 inputs, which W4A16 cannot divide into groups of 128"),
        (ODD, "W8A16", "GPTQ", "groups of 128"),
        (ODD, "MXFP4", "Auto", "groups of 32"),
        (tiny(upper_bound=True, architecture="NovelForCausalLM"), "FP8", "Auto", "NovelForCausalLM is not known"),
        (base("Mixtral-8x7B"), "W4A16", "AWQ", "no AWQ mapping for MixtralForCausalLM"),
        (tiny(without="layers."), "FP8", "Auto", "no linear layer"),
        (
            tiny(tensor("model.layers.0.mlp.experts.gate_up_proj", "BF16", 32, 256, 512)),
            "FP8",
            "Auto",
            "holds 32 experts in one tensor",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_obstacles(model: ModelFacts, scheme: str, method: str, said: str) -> None:
    assert said in (prediction_obstacle(model, scheme, method) or "")
    with pytest.raises(Refused, match="org/model cannot be made") as refused:
        predicted(model, scheme, method)
    assert refused.value.reason == Reason.NOT_QUANTIZABLE


@pytest.mark.parametrize("scheme", ["FP8", "W8A8", "NVFP4"])
def test_odd_inputs_are_no_obstacle_to_finer_scales(scheme: str) -> None:
    assert prediction_obstacle(ODD, scheme) is None


def test_gpt_oss_in_bf16_must_be_split_first() -> None:
    model = of_fakehub("gpt-oss-20b-bf16", model_tensors("gpt-oss-20b-bf16"))
    assert "32 experts in one tensor" in (prediction_obstacle(model, "W4A16") or "")


@given(
    outputs=st.integers(0, 5000),
    inputs=st.integers(0, 5000),
    dtype=st.sampled_from(["BF16", "F16", "F32"]),
    pair=st.sampled_from(PREDICTABLE_SCHEMES),
)
def test_any_matrix_is_predicted_or_refused_and_its_bytes_are_its_shapes(
    outputs: int, inputs: int, dtype: str, pair: tuple[str, str]
) -> None:
    model = tiny(tensor("model.layers.0.mlp.extra_proj.weight", dtype, outputs, inputs))
    if prediction_obstacle(model, *pair):
        assert inputs % layout_of(*pair).group_size
        return
    for one in predicted(model, *pair).tensors:
        assert one.bytes == prod(one.shape) * DTYPE_BYTES[one.dtype] * one.count

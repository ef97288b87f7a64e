"""The families whose layout is known in detail: one row each, by vLLM's names of architectures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kubequant.planning.architectures import caches, states
from kubequant.planning.architectures.caches import ReadCaches, every, hybrid, latent, windowed
from kubequant.planning.architectures.fields import Fields

_PLAIN = windowed()


@dataclass(frozen=True)
class Family:
    """`model_type` names the defaults of a config that does not name its own."""

    model_type: str
    caches: ReadCaches = _PLAIN
    attention_sinks: bool = False


ALIBI = frozenset(("BloomForCausalLM", "Step1ForCausalLM"))
"""Always; Falcon's config says whether."""


def _inner(fields: Fields, expand: str) -> int:
    return fields.number(expand) * fields.number("hidden_size")


def _falcon_h1_inner(fields: Fields) -> int:
    return fields.optional("mamba_d_ssm") or _inner(fields, "mamba_expand")


_granite_state = states.mamba2_state(
    lambda fields: _inner(fields, "mamba_expand"),
    groups="mamba_n_groups",
    heads="mamba_n_heads",
    dim="mamba_d_head",
    size="mamba_d_state",
    kernel="mamba_d_conv",
)
_falcon_h1_state = states.mamba2_state(
    _falcon_h1_inner,
    groups="mamba_n_groups",
    heads="mamba_n_heads",
    dim="mamba_d_head",
    size="mamba_d_state",
    kernel="mamba_d_conv",
)
_nemotron_state = states.mamba2_state(
    lambda fields: fields.number("mamba_num_heads") * fields.number("mamba_head_dim"),
    groups="n_groups",
    heads="mamba_num_heads",
    dim="mamba_head_dim",
    size="ssm_state_size",
    kernel="conv_kernel",
    dtype=lambda fields: states.state_dtype(fields, "F32"),
)
_mamba2_state = states.mamba2_state(
    lambda fields: _inner(fields, "expand"),
    groups="n_groups",
    heads="num_heads",
    dim="head_dim",
    size="state_size",
    kernel="conv_kernel",
)
_mamba1_state = states.mamba1_state(lambda fields: fields.number("intermediate_size"), "state_size", "conv_kernel")
_jamba_state = states.mamba1_state(lambda fields: _inner(fields, "mamba_expand"), "mamba_d_state", "mamba_d_conv")

_delta = hybrid(states.delta_state, every(4, others="linear_attention"))
_lfm2 = hybrid(states.conv_state, caches.lfm2_words, states=states.NOT_EXPORTING)
_gemma3 = windowed(every(6))
_gemma3n = caches.without_shared(every(5))
_llama4 = windowed(every(4, others="chunked_attention"))
_every_second = windowed(every(2))
_every_fourth = windowed(every(4))
_cohere2 = windowed(every(4), beyond=1)
_qwen = windowed(caches.qwen_words)

_TEXT: Mapping[str, Family] = {
    "ApertusForCausalLM": Family("apertus"),
    "ArceeForCausalLM": Family("arcee"),
    "BloomForCausalLM": Family("bloom"),
    "CohereForCausalLM": Family("cohere"),
    "Cohere2ForCausalLM": Family("cohere2", _cohere2),
    "CwmForCausalLM": Family("cwm"),
    "DeciLMForCausalLM": Family("nemotron-nas", caches.by_block),
    "DeepseekForCausalLM": Family("deepseek"),
    "DeepseekV2ForCausalLM": Family("deepseek_v2", caches.latent_or_windowed),
    "DeepseekV3ForCausalLM": Family("deepseek_v3", latent()),
    "DeepseekV32ForCausalLM": Family("deepseek_v32", latent()),
    "Ernie4_5ForCausalLM": Family("ernie4_5"),
    "Ernie4_5_MoeForCausalLM": Family("ernie4_5_moe"),
    "Exaone4ForCausalLM": Family("exaone4", _every_fourth),
    "FalconForCausalLM": Family("falcon", caches.falcon),
    "FalconH1ForCausalLM": Family("falcon_h1", hybrid(_falcon_h1_state)),
    "FalconMambaForCausalLM": Family("falcon_mamba", caches.only_state(_mamba1_state, states=states.NOT_EXPORTING)),
    "GPT2LMHeadModel": Family("gpt2"),
    "GPTBigCodeForCausalLM": Family("gpt_bigcode", caches.bigcode),
    "GPTJForCausalLM": Family("gptj"),
    "GPTNeoXForCausalLM": Family("gpt_neox"),
    "GemmaForCausalLM": Family("gemma"),
    "Gemma2ForCausalLM": Family("gemma2", _every_second),
    "Gemma3ForCausalLM": Family("gemma3_text", _gemma3),
    "Gemma3nForCausalLM": Family("gemma3n_text", _gemma3n),
    "GlmForCausalLM": Family("glm"),
    "Glm4ForCausalLM": Family("glm4"),
    "Glm4MoeForCausalLM": Family("glm4_moe"),
    "Glm4MoeLiteForCausalLM": Family("glm4_moe_lite", latent()),
    "GlmMoeDsaForCausalLM": Family("glm_moe_dsa", latent()),
    "GptOssForCausalLM": Family("gpt_oss", _every_second, attention_sinks=True),
    "GraniteForCausalLM": Family("granite"),
    "GraniteMoeForCausalLM": Family("granitemoe"),
    "GraniteMoeHybridForCausalLM": Family("granitemoehybrid", hybrid(_granite_state)),
    "GraniteMoeSharedForCausalLM": Family("granitemoeshared"),
    "HunYuanDenseV1ForCausalLM": Family("hunyuan_v1_dense"),
    "HunYuanMoEV1ForCausalLM": Family("hunyuan_v1_moe"),
    "InternLM2ForCausalLM": Family("internlm2"),
    "InternLM3ForCausalLM": Family("internlm3"),
    "JambaForCausalLM": Family("jamba", hybrid(_jamba_state, caches.jamba_words, states=states.NOT_EXPORTING)),
    "KimiLinearForCausalLM": Family("kimi_linear", caches.kimi_linear),
    "LLaMAForCausalLM": Family("llama"),
    "Lfm2ForCausalLM": Family("lfm2", _lfm2),
    "Lfm2MoeForCausalLM": Family("lfm2_moe", _lfm2),
    "LlamaForCausalLM": Family("llama"),
    "Llama4ForCausalLM": Family("llama4_text", _llama4),
    "LongcatFlashForCausalLM": Family("longcat_flash", latent(per_layer=2)),
    "MambaForCausalLM": Family("mamba", caches.only_state(_mamba1_state, states=states.NOT_EXPORTING)),
    "Mamba2ForCausalLM": Family("mamba2", caches.only_state(_mamba2_state)),
    "MiMoForCausalLM": Family("qwen2"),
    "MiMoV2FlashForCausalLM": Family("mimo_v2_flash", caches.mimo_v2),
    "MiniCPMForCausalLM": Family("minicpm"),
    "MiniCPM3ForCausalLM": Family("minicpm3", caches.expanded_latent),
    "MiniMaxM2ForCausalLM": Family("minimax_m2"),
    "Ministral3ForCausalLM": Family("ministral3"),
    "MistralForCausalLM": Family("mistral"),
    "MixtralForCausalLM": Family("mixtral"),
    "NemotronForCausalLM": Family("nemotron"),
    "NemotronHForCausalLM": Family("nemotron_h", hybrid(_nemotron_state, caches.nemotron_words)),
    "OPTForCausalLM": Family("opt"),
    "OlmoForCausalLM": Family("olmo"),
    "Olmo2ForCausalLM": Family("olmo2"),
    "Olmo3ForCausalLM": Family("olmo3", _every_fourth),
    "OlmoHybridForCausalLM": Family("olmo_hybrid", _delta),
    "OlmoeForCausalLM": Family("olmoe"),
    "PhiForCausalLM": Family("phi"),
    "Phi3ForCausalLM": Family("phi3"),
    "PhiMoEForCausalLM": Family("phimoe"),
    "Qwen2ForCausalLM": Family("qwen2", _qwen),
    "Qwen2MoeForCausalLM": Family("qwen2_moe"),
    "Qwen3ForCausalLM": Family("qwen3", _qwen),
    "Qwen3MoeForCausalLM": Family("qwen3_moe"),
    "Qwen3NextForCausalLM": Family("qwen3_next", _delta),
    "Qwen3_5ForCausalLM": Family("qwen3_5_text", _delta),
    "Qwen3_5MoeForCausalLM": Family("qwen3_5_moe_text", _delta),
    "SeedOssForCausalLM": Family("seed_oss"),
    "SmolLM3ForCausalLM": Family("smollm3"),
    "SolarForCausalLM": Family("llama"),
    "StableLmForCausalLM": Family("stablelm"),
    "Starcoder2ForCausalLM": Family("starcoder2"),
    "TeleChat3ForCausalLM": Family("llama"),
}

_MULTIMODAL: Mapping[str, Family] = {
    "AriaForConditionalGeneration": Family("llama"),
    "Cohere2VisionForConditionalGeneration": Family("cohere2", _cohere2),
    "Gemma3ForConditionalGeneration": Family("gemma3_text", _gemma3),
    "Gemma3nForConditionalGeneration": Family("gemma3n_text", _gemma3n),
    "Glm4vForConditionalGeneration": Family("glm4v_text"),
    "Glm4vMoeForConditionalGeneration": Family("glm4v_moe_text"),
    "KimiVLForConditionalGeneration": Family("deepseek_v3", latent()),
    "KimiK25ForConditionalGeneration": Family("deepseek_v3", latent()),
    "Llama4ForConditionalGeneration": Family("llama4_text", _llama4),
    "Mistral3ForConditionalGeneration": Family("mistral"),
    "PixtralForConditionalGeneration": Family("mistral"),
    "Qwen2VLForConditionalGeneration": Family("qwen2_vl_text", _qwen),
    "Qwen2_5_VLForConditionalGeneration": Family("qwen2_5_vl_text", _qwen),
    "Qwen2_5OmniModel": Family("qwen2_5_omni_text", _qwen),
    "Qwen2_5OmniForConditionalGeneration": Family("qwen2_5_omni_text", _qwen),
    "Qwen3OmniMoeForConditionalGeneration": Family("qwen3_omni_moe_text"),
    "Qwen3VLForConditionalGeneration": Family("qwen3_vl_text"),
    "Qwen3VLMoeForConditionalGeneration": Family("qwen3_vl_moe_text"),
    "Qwen3_5ForConditionalGeneration": Family("qwen3_5_text", _delta),
    "Qwen3_5MoeForConditionalGeneration": Family("qwen3_5_moe_text", _delta),
}

WRAPPERS = frozenset(
    (
        "Eagle2_5_VLForConditionalGeneration",
        "H2OVLChatModel",
        "Idefics3ForConditionalGeneration",
        "InternS1ForConditionalGeneration",
        "InternVLChatModel",
        "InternVLForConditionalGeneration",
        "LlavaForConditionalGeneration",
        "LlavaNextForConditionalGeneration",
        "LlavaNextVideoForConditionalGeneration",
        "LlavaOnevisionForConditionalGeneration",
        "NVLM_D",
        "PaliGemmaForConditionalGeneration",
        "SkyworkR1VChatModel",
        "SmolVLMForConditionalGeneration",
    )
)
"""They hold whatever text model their nested config names, as an architecture or as a model_type."""

FAMILIES: Mapping[str, Family] = {**_TEXT, **_MULTIMODAL}
BY_MODEL_TYPE: Mapping[str, Family] = {family.model_type: family for family in reversed(list(FAMILIES.values()))}
"""The first row of each."""

FLOAT16_REFUSED = frozenset(("gemma2", "gemma3", "gemma3_text", "glm4"))
"""By model_type; vLLM 0.33 says "numerical instability"."""

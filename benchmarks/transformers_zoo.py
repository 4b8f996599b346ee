"""Small random-weight transformers models, one or more for each common architecture: built without any download."""

from __future__ import annotations

__all__ = ["ARCHITECTURES", "Architecture", "build", "classes", "names"]

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

_TEXT = {
    "vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_DECODER = {**_TEXT, "num_key_value_heads": 2}
_SEQ2SEQ = {
    "vocab_size": 99, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 64,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2,
}  # fmt: skip
_T5 = {
    "vocab_size": 99, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 4,
    "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0,
}  # fmt: skip
_GPT = {
    "vocab_size": 99, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_IMAGE = {
    "image_size": 32, "patch_size": 8, "num_channels": 3, "hidden_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 4, "intermediate_size": 48,
}  # fmt: skip
_AUDIO = {
    "vocab_size": 32, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "conv_dim": (16, 16, 16), "conv_stride": (5, 2, 2), "conv_kernel": (10, 3, 3), "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4,
}  # fmt: skip
_TINY_TEXT = {key: _TEXT[key] for key in _TEXT if not key.endswith("token_id")}
_STAGES = {"depths": [1, 1, 2, 1], "hidden_sizes": [8, 16, 24, 32]}
_SWIN = {
    "image_size": 32, "patch_size": 2, "embed_dim": 8, "depths": [1, 2, 1], "num_heads": [1, 2, 4], "window_size": 4,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Architecture:
    """One configuration: names of the config's and the model's class, options of the config, kind of input."""

    config: str
    model: str
    options: Mapping[str, Any] = field(default_factory=dict)
    inputs: str = "text"


#: Architectures by name.
ARCHITECTURES: Mapping[str, Architecture] = {
    # Encoders of text.
    "bert": Architecture("BertConfig", "BertForMaskedLM", _TEXT),
    "bert_classifier": Architecture("BertConfig", "BertForSequenceClassification", _TEXT),
    "roberta": Architecture("RobertaConfig", "RobertaForMaskedLM", _TEXT),
    "xlm_roberta": Architecture("XLMRobertaConfig", "XLMRobertaForTokenClassification", _TEXT),
    "camembert": Architecture("CamembertConfig", "CamembertForMaskedLM", _TEXT),
    "distilbert": Architecture(
        "DistilBertConfig", "DistilBertForMaskedLM",
        {"vocab_size": 99, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "max_position_embeddings": 64},
    ),
    "albert": Architecture("AlbertConfig", "AlbertForMaskedLM", {**_TEXT, "embedding_size": 16}),
    "electra": Architecture("ElectraConfig", "ElectraForPreTraining", {**_TEXT, "embedding_size": 16}),
    "deberta": Architecture("DebertaConfig", "DebertaForMaskedLM", {**_TEXT, "relative_attention": True}),
    "deberta_v2": Architecture(
        "DebertaV2Config", "DebertaV2ForMaskedLM",
        {**_TEXT, "relative_attention": True, "position_buckets": 8, "pos_att_type": ["p2c", "c2p"],
         "share_att_key": True},
    ),
    "mpnet": Architecture("MPNetConfig", "MPNetForMaskedLM", _TEXT),
    "mobilebert": Architecture(
        "MobileBertConfig", "MobileBertForMaskedLM",
        {**_TEXT, "embedding_size": 32, "intra_bottleneck_size": 16, "num_feedforward_networks": 2},
    ),
    "modernbert": Architecture(
        "ModernBertConfig", "ModernBertForMaskedLM", {**_TEXT, "cls_token_id": 1, "sep_token_id": 2}
    ),
    "longformer": Architecture("LongformerConfig", "LongformerForMaskedLM", {**_TEXT, "attention_window": [8, 8]}),
    "fnet": Architecture("FNetConfig", "FNetForMaskedLM", _TEXT),
    "esm": Architecture("EsmConfig", "EsmForMaskedLM", {**_TEXT, "position_embedding_type": "rotary"}),
    # Decoders of text.
    "gpt2": Architecture("GPT2Config", "GPT2LMHeadModel", _GPT),
    "openai_gpt": Architecture("OpenAIGPTConfig", "OpenAIGPTLMHeadModel", _GPT),
    "gpt_neo": Architecture(
        "GPTNeoConfig", "GPTNeoForCausalLM",
        {"vocab_size": 99, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "window_size": 8, "bos_token_id": 1,
         "attention_types": [[["global", "local"], 1]], "max_position_embeddings": 64, "eos_token_id": 2},
    ),
    "gpt_neox": Architecture("GPTNeoXConfig", "GPTNeoXForCausalLM", _TEXT),
    "gpt_j": Architecture("GPTJConfig", "GPTJForCausalLM", {**_GPT, "rotary_dim": 4}),
    "gpt_bigcode": Architecture("GPTBigCodeConfig", "GPTBigCodeForCausalLM", _GPT),
    "codegen": Architecture("CodeGenConfig", "CodeGenForCausalLM", {**_GPT, "n_ctx": 64, "rotary_dim": 4}),
    "bloom": Architecture(
        "BloomConfig", "BloomForCausalLM", {"vocab_size": 99, "hidden_size": 32, "n_layer": 2, "n_head": 4}
    ),
    "mpt": Architecture(
        "MptConfig", "MptForCausalLM", {"vocab_size": 99, "d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 64}
    ),
    "opt": Architecture("OPTConfig", "OPTForCausalLM", {**_TEXT, "ffn_dim": 48, "word_embed_proj_dim": 32}),
    "falcon": Architecture("FalconConfig", "FalconForCausalLM", _TEXT),
    "falcon_40b": Architecture(
        "FalconConfig", "FalconForCausalLM", {**_TEXT, "new_decoder_architecture": True, "num_kv_heads": 2}
    ),
    "llama": Architecture("LlamaConfig", "LlamaForCausalLM", _DECODER),
    "mistral": Architecture("MistralConfig", "MistralForCausalLM", {**_DECODER, "sliding_window": 8}),
    "mixtral": Architecture("MixtralConfig", "MixtralForCausalLM", {**_DECODER, "num_local_experts": 4}),
    "qwen2": Architecture("Qwen2Config", "Qwen2ForCausalLM", _DECODER),
    "qwen2_moe": Architecture(
        "Qwen2MoeConfig", "Qwen2MoeForCausalLM",
        {**_DECODER, "num_experts": 4, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 24},
    ),
    "qwen3": Architecture("Qwen3Config", "Qwen3ForCausalLM", {**_DECODER, "head_dim": 8, "tie_word_embeddings": True}),
    "gemma": Architecture("GemmaConfig", "GemmaForCausalLM", {**_DECODER, "head_dim": 8}),
    "gemma2": Architecture("Gemma2Config", "Gemma2ForCausalLM", {**_DECODER, "head_dim": 16}),
    "gemma3": Architecture("Gemma3TextConfig", "Gemma3ForCausalLM", {**_DECODER, "head_dim": 8}),
    "phi": Architecture("PhiConfig", "PhiForCausalLM", _TEXT),
    "phi3": Architecture("Phi3Config", "Phi3ForCausalLM", _DECODER),
    "stablelm": Architecture("StableLmConfig", "StableLmForCausalLM", _DECODER),
    "olmo": Architecture("OlmoConfig", "OlmoForCausalLM", _DECODER),
    "olmo2": Architecture("Olmo2Config", "Olmo2ForCausalLM", _DECODER),
    "starcoder2": Architecture("Starcoder2Config", "Starcoder2ForCausalLM", _DECODER),
    "cohere": Architecture("CohereConfig", "CohereForCausalLM", _DECODER),
    "persimmon": Architecture("PersimmonConfig", "PersimmonForCausalLM", _TEXT),
    "deepseek_v2": Architecture(
        "DeepseekV2Config", "DeepseekV2ForCausalLM",
        {**_TEXT, "num_key_value_heads": 4, "kv_lora_rank": 16, "q_lora_rank": 16, "qk_nope_head_dim": 8,
         "qk_rope_head_dim": 8, "v_head_dim": 8, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1,
         "topk_group": 1, "moe_intermediate_size": 16, "first_k_dense_replace": 1},
    ),
    # State spaces and other recurrences.
    "mamba": Architecture(
        "MambaConfig", "MambaForCausalLM",
        {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8},
    ),
    "mamba2": Architecture(
        "Mamba2Config", "Mamba2ForCausalLM",
        {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "num_heads": 8, "head_dim": 8,
         "n_groups": 2, "chunk_size": 8},
    ),
    "rwkv": Architecture(
        "RwkvConfig", "RwkvForCausalLM",
        {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "context_length": 32},
    ),
    "recurrent_gemma": Architecture(
        "RecurrentGemmaConfig", "RecurrentGemmaForCausalLM",
        {**_TEXT, "num_hidden_layers": 3, "lru_width": 32, "attention_window_size": 8, "num_key_value_heads": 1},
    ),
    # From text to text.
    "t5": Architecture("T5Config", "T5ForConditionalGeneration", _T5, "text2text"),
    "mt5": Architecture("MT5Config", "MT5ForConditionalGeneration", {**_T5, "tie_word_embeddings": False}, "text2text"),
    "umt5": Architecture("UMT5Config", "UMT5ForConditionalGeneration", _T5, "text2text"),
    "bart": Architecture("BartConfig", "BartForConditionalGeneration", _SEQ2SEQ, "text2text"),
    "mbart": Architecture("MBartConfig", "MBartForConditionalGeneration", _SEQ2SEQ, "text2text"),
    "marian": Architecture("MarianConfig", "MarianMTModel", _SEQ2SEQ, "text2text"),
    "pegasus": Architecture("PegasusConfig", "PegasusForConditionalGeneration", _SEQ2SEQ, "text2text"),
    "blenderbot": Architecture("BlenderbotConfig", "BlenderbotForConditionalGeneration", _SEQ2SEQ, "text2text"),
    # Sound.
    "whisper": Architecture(
        "WhisperConfig", "WhisperForConditionalGeneration",
        {**_SEQ2SEQ, "num_mel_bins": 16, "max_source_positions": 30, "max_target_positions": 32,
         "suppress_tokens": None, "begin_suppress_tokens": None},
        "speech2text",
    ),
    "wav2vec2": Architecture("Wav2Vec2Config", "Wav2Vec2ForCTC", _AUDIO, "wave"),
    "hubert": Architecture("HubertConfig", "HubertForCTC", _AUDIO, "wave"),
    "wavlm": Architecture("WavLMConfig", "WavLMForCTC", _AUDIO, "wave"),
    "audio_spectrogram": Architecture(
        "ASTConfig", "ASTForAudioClassification",
        {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "patch_size": 8,
         "frequency_stride": 8, "time_stride": 8, "max_length": 32, "num_mel_bins": 16},
        "spectrogram",
    ),
    # Images.
    "vit": Architecture("ViTConfig", "ViTForImageClassification", _IMAGE, "image"),
    "deit": Architecture("DeiTConfig", "DeiTForImageClassificationWithTeacher", _IMAGE, "image"),
    "beit": Architecture(
        "BeitConfig", "BeitForImageClassification",
        {**_IMAGE, "use_relative_position_bias": True, "vocab_size": 32}, "image",
    ),
    "dinov2": Architecture("Dinov2Config", "Dinov2ForImageClassification", _IMAGE, "image"),
    "vit_mae": Architecture(
        "ViTMAEConfig", "ViTMAEForPreTraining",
        {**_IMAGE, "decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2,
         "decoder_intermediate_size": 24},
        "image",
    ),
    "swin": Architecture(
        "SwinConfig", "SwinForImageClassification",
        _SWIN, "image",
    ),
    "swinv2": Architecture(
        "Swinv2Config", "Swinv2ForImageClassification",
        _SWIN, "image",
    ),
    "convnext": Architecture(
        "ConvNextConfig", "ConvNextForImageClassification", {**_STAGES, "image_size": 32}, "image"
    ),
    "convnext_v2": Architecture(
        "ConvNextV2Config", "ConvNextV2ForImageClassification", {**_STAGES, "image_size": 32}, "image"
    ),
    "resnet": Architecture(
        "ResNetConfig", "ResNetForImageClassification", {**_STAGES, "embedding_size": 8}, "image"
    ),
    "regnet": Architecture(
        "RegNetConfig", "RegNetForImageClassification", {**_STAGES, "embedding_size": 8, "groups_width": 8}, "image"
    ),
    "segformer": Architecture(
        "SegformerConfig", "SegformerForSemanticSegmentation",
        {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 24, 32], "num_attention_heads": [1, 2, 2, 4],
         "decoder_hidden_size": 16},
        "image",
    ),
    "poolformer": Architecture(
        "PoolFormerConfig", "PoolFormerForImageClassification", _STAGES, "image"
    ),
    "mobilevit": Architecture(
        "MobileViTConfig", "MobileViTForImageClassification",
        {"image_size": 32, "hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 8, 16, 16, 24, 32, 64]},
        "image",
    ),
    "mask_former_swin": Architecture(
        "MaskFormerSwinConfig", "MaskFormerSwinModel",
        _SWIN, "image",
    ),
    "detr": Architecture("DetrConfig", "DetrForObjectDetection", {}, "scene"),
    "deformable_detr": Architecture("DeformableDetrConfig", "DeformableDetrForObjectDetection", {}, "scene"),
    "rt_detr": Architecture("RTDetrConfig", "RTDetrForObjectDetection", {}, "scene"),
    # Images and text.
    "clip": Architecture("CLIPConfig", "CLIPModel", {}, "clip"),
    "siglip": Architecture("SiglipConfig", "SiglipModel", {}, "clip"),
    "blip": Architecture("BlipConfig", "BlipModel", {}, "clip"),
    "owlvit": Architecture("OwlViTConfig", "OwlViTModel", {}, "clip"),
    "vilt": Architecture("ViltConfig", "ViltModel", {**_TEXT, "image_size": 32, "patch_size": 8}, "clip"),
}  # fmt: skip


def names() -> list[str]:
    """Return the names of all architectures."""
    return list(ARCHITECTURES)


def classes(name: str) -> tuple[Any, Any]:
    """Import the classes of the configuration and of the model.

    Raises:
        KeyError: there is no such architecture.
    """
    transformers = importlib.import_module("transformers")
    chosen = ARCHITECTURES[name]
    return getattr(transformers, chosen.config), getattr(transformers, chosen.model)


def build(name: str) -> nn.Module:
    """Build one architecture with fresh random weights.

    Args:
        name: one of :func:`names`.

    Raises:
        KeyError: there is no such architecture.
    """
    config, kind = classes(name)
    chosen = ARCHITECTURES[name]
    model: nn.Module = kind(config(**chosen.options, **_nested(chosen)))
    return model


def _nested(chosen: Architecture) -> dict[str, Any]:
    """Options that are configurations themselves: towers of a pair, the backbone of a detector."""
    if chosen.inputs == "clip" and chosen.config != "ViltConfig":
        text = {**_TINY_TEXT, "eos_token_id": 98, "projection_dim": 16}
        return {"text_config": text, "vision_config": {**_IMAGE, "projection_dim": 16}, "projection_dim": 16}
    if chosen.config in _DETECTORS:
        kind = "RTDetrResNetConfig" if chosen.config == "RTDetrConfig" else "ResNetConfig"
        stages = ["stage4"] if chosen.config == "DetrConfig" else ["stage2", "stage3", "stage4"]
        backbone = getattr(importlib.import_module("transformers"), kind)
        options = _DETECTORS[chosen.config]
        return {"backbone_config": backbone(**_STAGES, embedding_size=8, out_features=stages), **options}
    return {}


_DETECTORS: Mapping[str, Mapping[str, Any]] = {
    "DetrConfig": {**_SEQ2SEQ, "num_queries": 5, "use_timm_backbone": False, "use_pretrained_backbone": False},
    "DeformableDetrConfig": {
        **_SEQ2SEQ, "num_queries": 5, "num_feature_levels": 3, "use_timm_backbone": False,
        "use_pretrained_backbone": False,
    },
    "RTDetrConfig": {
        "d_model": 32, "encoder_hidden_dim": 32, "encoder_in_channels": [16, 24, 32], "encoder_ffn_dim": 48,
        "decoder_ffn_dim": 48, "decoder_layers": 2, "decoder_attention_heads": 4, "encoder_attention_heads": 4,
        "num_queries": 10, "num_denoising": 0, "decoder_in_channels": [32, 32, 32], "hidden_expansion": 0.5,
    },
}  # fmt: skip

"""Edits on models of timm and transformers: small ones, weights shaken so that a zero cannot hide a fault."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from torchgraft import MorphError, morph

SMALL = (2, 3, 32, 32)


def shaken(model: nn.Module) -> Any:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.add_(0.05 * torch.randn(tensor.shape, generator=generator))
    return model.eval()


def timm_model(name: str, **options: Any) -> Any:
    import timm

    torch.manual_seed(0)
    return shaken(timm.create_model(name, num_classes=5, **options))


def language_model(kind: str) -> Any:
    import transformers

    torch.manual_seed(0)
    if kind == "gpt2":
        config = transformers.GPT2Config(
            n_embd=12, n_layer=2, n_head=3, vocab_size=40, n_positions=16, bos_token_id=0, eos_token_id=0
        )
        return shaken(transformers.GPT2LMHeadModel(config))
    config = transformers.LlamaConfig(
        hidden_size=12, intermediate_size=20, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=40, head_dim=6, max_position_embeddings=32,
    )  # fmt: skip
    return shaken(transformers.LlamaForCausalLM(config))


VIT: dict[str, Any] = {"img_size": 32, "embed_dim": 24, "depth": 2, "num_heads": 3}
SWIN: dict[str, Any] = {"img_size": 32, "window_size": 4, "embed_dim": 12, "depths": (1, 2), "num_heads": (2, 4)}

MODELS: dict[str, Callable[[], Any]] = {
    "resnet18": lambda: timm_model("resnet18"),
    "efficientnet": lambda: timm_model("test_efficientnet"),
    "vit": lambda: timm_model("vit_tiny_patch16_224", **VIT),
    "swin": lambda: timm_model("swin_tiny_patch4_window7_224", **SWIN),
    "gpt2": lambda: language_model("gpt2"),
    "llama": lambda: language_model("llama"),
}

EDITS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "resnet18, the stream": ("widen", "conv1", {"width": 72}),
    "resnet18, inside": ("widen", "layer1.0.conv1", {"width": 96}),
    "resnet18, deeper": ("deepen", "layer1.0.conv1", {}),
    "resnet18, without an activation": ("deepen", "layer2.0.downsample.0", {}),
    "resnet18, more blocks": ("stack", "layer2", {"depth": 4}),
    "resnet18, branches": ("add_branch", "layer1.0.conv1", {"graph": "s>t:1x1"}),
    "resnet18, outputs": ("branch", "layer1.0.conv1", {"parts": 3, "merge": "concat"}),
    "resnet18, a block": ("branch", "layer1.0", {}),
    "efficientnet, depthwise": ("branch", "blocks.3.0.conv_dw", {"allocate": "split", "merge": "concat"}),
    "vit, inputs": ("branch", "blocks.0.mlp.fc2", {"allocate": "split"}),
    "efficientnet, expansion": ("widen", "blocks.3.0.conv_dw", {"width": 288}),
    "efficientnet, gate": ("widen", "blocks.3.0.se.conv_reduce", {"width": 20}),
    "efficientnet, a norm with its activation": ("deepen", "blocks.3.0.conv_pw", {}),
    "efficientnet, a kernel": ("expand_kernel", "blocks.3.0.conv_dw", {"size": 5}),
    "vit, the stream": ("widen", "patch_embed.proj", {"width": 40}),
    "vit, feed-forward": ("widen", "blocks.0.mlp.fc1", {"width": 128}),
    "vit, heads": ("widen_heads", "blocks.0.attn", {"heads": 5, "head_size": 12}),
    "vit, depth": ("stack", "blocks", {"depth": 4}),
    "swin, heads with the stream": ("widen", "patch_embed.proj", {"width": 24}),
    "swin, heads": ("widen_heads", "layers.1.blocks.0.attn", {"heads": 6}),
    "gpt2, the stream": ("widen", "transformer.wte", {"width": 18}),
    "gpt2, heads": ("widen_heads", "transformer.h.0.attn", {"heads": 4}),
    "gpt2, head size": ("widen_heads", "transformer.h.1.attn", {"head_size": 6}),
    "gpt2, depth": ("stack", "transformer.h", {"depth": 3}),
    "llama, the stream": ("widen", "model.embed_tokens", {"width": 18}),
    "llama, feed-forward": ("widen", "model.layers.0.mlp.gate_proj", {"width": 32}),
    "llama, grouped queries": ("widen_heads", "model.layers.0.self_attn", {"heads": 8}),
    "llama, depth": ("stack", "model.layers", {"depth": 3}),
}


@pytest.mark.parametrize("told", EDITS)
def test_real_models_are_edited_exactly(told: str, zoo: object) -> None:
    kind, (name, path, arguments) = told.partition(",")[0], EDITS[told]
    model = MODELS[kind]()
    inputs = torch.arange(12).reshape(2, 6) if kind in ("gpt2", "llama") else torch.randn(SMALL)
    edited = morph.apply_edits(model, [morph.Edit(name, path, arguments)], inputs=inputs)
    assert edited.exact and str(edited.model) != str(model)
    assert sum(one.numel() for one in edited.model.parameters()) >= sum(one.numel() for one in model.parameters())
    with torch.no_grad():
        expected, found = (getattr(out, "logits", out) for out in (model(inputs), edited.model(inputs)))
    assert torch.allclose(expected, found, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


def test_stacked_layers_have_caches_of_their_own(zoo: object) -> None:
    model, tokens = language_model("llama"), torch.arange(6)[None]
    edited = morph.stack(model, "model.layers", 3, inputs=tokens).model
    assert [layer.self_attn.layer_idx for layer in edited.model.layers] == [0, 1, 2]
    assert edited.config.num_hidden_layers == 3 and model.config.num_hidden_layers == 2
    with torch.no_grad():
        assert torch.equal(*(one(tokens, use_cache=True).logits for one in (model, edited)))


def test_rotary_heads_keep_their_size(zoo: object) -> None:
    with pytest.raises(MorphError, match=r"the size of the heads of .* cannot change"):
        morph.widen_heads(language_model("llama"), "model.layers.0.self_attn", head_size=12)

"""Which real networks are reached from others by edits, and why the rest are not: ``python -m benchmarks.between``.

Names of pairs as arguments leave the others out. Weights are drawn and then shaken, so that no zero hides a fault.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from torchgraft import morph
from torchgraft.io import import_torchvision

Make = Callable[[], nn.Module]

SMALL = (2, 3, 64, 64)


def timm_model(name: str, **options: Any) -> nn.Module:
    """A network of timm."""
    import timm

    model: nn.Module = timm.create_model(name, num_classes=10, **options)
    return model


def vision_model(name: str) -> nn.Module:
    """A network of torchvision."""
    from torchvision import models

    model: nn.Module = getattr(models, name)(num_classes=10)
    return model


def language_model(kind: str, width: int, depth: int, heads: int) -> nn.Module:
    """A small GPT-2 or Llama."""
    import transformers

    if kind == "gpt2":
        config = transformers.GPT2Config(
            n_embd=width, n_layer=depth, n_head=heads, vocab_size=200, n_positions=64, bos_token_id=0, eos_token_id=0
        )
        return transformers.GPT2LMHeadModel(config)
    config = transformers.LlamaConfig(
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        num_key_value_heads=2,
        head_dim=16,
        vocab_size=200,
        max_position_embeddings=64,
    )
    return transformers.LlamaForCausalLM(config)


def plain(*widths: int, kernel: int = 3, act: type[nn.Module] = nn.ReLU) -> nn.Module:
    """Convolutions with batch norms in one row."""
    parts: list[nn.Module] = []
    for before, width in zip((3, *widths), widths, strict=False):
        parts += [nn.Conv2d(before, width, kernel, padding=kernel // 2), nn.BatchNorm2d(width), act()]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 10))


def images(source: str, target: str, **options: Any) -> tuple[Make, Make, Any]:
    """Two networks of timm on small pictures."""
    return partial(timm_model, source), partial(timm_model, target, **options), torch.randn(SMALL)


TOKENS = torch.arange(12).reshape(2, 6)

#: Pairs by name: source, target, and what both run on (``None``: what is guessed).
PAIRS: Mapping[str, tuple[Make, Make, Any]] = {
    "plain CNN → wider": (partial(plain, 16, 32), partial(plain, 24, 48), torch.randn(SMALL)),
    "plain CNN → deeper": (partial(plain, 16, 32), partial(plain, 16, 16, 32, 32), torch.randn(SMALL)),
    "plain CNN → 5×5, deeper, wider": (
        partial(plain, 16, 32),
        partial(plain, 24, 24, 40, kernel=5),
        torch.randn(SMALL),
    ),
    "vgg11 → vgg13": (partial(vision_model, "vgg11"), partial(vision_model, "vgg13"), torch.randn(SMALL)),
    "vgg11_bn → vgg16_bn": (partial(vision_model, "vgg11_bn"), partial(vision_model, "vgg16_bn"), torch.randn(SMALL)),
    "resnet18 → resnet34": images("resnet18", "resnet34"),
    "resnet18 → wider stages 2 to 4": images("resnet18", "resnet18", channels=(64, 160, 320, 640)),
    "resnet50 → resnet101": images("resnet50", "resnet101"),
    "resnet50 → wide_resnet50_2": images("resnet50", "wide_resnet50_2"),
    "mobilenetv2_050 → mobilenetv2_100": images("mobilenetv2_050", "mobilenetv2_100"),
    "mobilenetv2_100 → mobilenetv2_120d": images("mobilenetv2_100", "mobilenetv2_120d"),
    "mobilenetv3_small_050 → mobilenetv3_small_100": images("mobilenetv3_small_050", "mobilenetv3_small_100"),
    "efficientnet_b0 → efficientnet_b1": images("efficientnet_b0", "efficientnet_b1"),
    "efficientnet_b0 → efficientnet_b2": images("efficientnet_b0", "efficientnet_b2"),
    "convnext_tiny → convnext_small": images("convnext_tiny", "convnext_small"),
    "convnext_atto → convnext_nano": images("convnext_atto", "convnext_nano"),
    "convnext_femto → convnext_pico": images("convnext_femto", "convnext_pico"),
    "vit_tiny → vit_small": (
        partial(timm_model, "vit_tiny_patch16_224", img_size=64),
        partial(timm_model, "vit_small_patch16_224", img_size=64),
        torch.randn(SMALL),
    ),
    "swin_tiny → swin_small": (
        partial(timm_model, "swin_tiny_patch4_window7_224", img_size=128, window_size=4),
        partial(timm_model, "swin_small_patch4_window7_224", img_size=128, window_size=4),
        torch.randn(2, 3, 128, 128),
    ),
    "GPT-2, 2 layers of 32 → 4 of 48": (
        partial(language_model, "gpt2", 32, 2, 2),
        partial(language_model, "gpt2", 48, 4, 3),
        TOKENS,
    ),
    "Llama, 2 layers of 32 → 3 of 48": (
        partial(language_model, "llama", 32, 2, 4),
        partial(language_model, "llama", 48, 3, 6),
        TOKENS,
    ),
    "resnet50 → resnet18": images("resnet50", "resnet18"),
    "resnet18 → resnet50": images("resnet18", "resnet50"),
    "resnet18 → SiLU": images("resnet18", "resnet18", act_layer="silu"),
    "resnet50 → resnext50_32x4d": images("resnet50", "resnext50_32x4d"),
    "densenet121 → densenet169": images("densenet121", "densenet169"),
    "resnet18 → another stem (resnet18d)": images("resnet18", "resnet18d"),
}


def shaken(make: Make, seed: int) -> nn.Module:
    """Return a network with weights no two of which are alike."""
    torch.manual_seed(seed)
    model, generator = make(), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.add_(0.02 * torch.randn(tensor.shape, generator=generator))
    return model.eval()


def row(name: str) -> str:
    """Search, fill and measure one pair; return a line of the table."""
    make, make_target, inputs = PAIRS[name]
    source, target = shaken(make, 0), shaken(make_target, 1)
    start = time.process_time()
    script = morph.between(source, target, inputs=inputs, certify=False)
    took = time.process_time() - start
    if not script.reachable:
        verdict = "not found" if script.reachable is None else "out of reach"
        return f"| {name} | {verdict} | {script.obstacles[0]} | {took:.1f} s | |"
    counts = Counter(edit.name for edit in script.edits)
    told = ", ".join(f"{count} × `{edit}`" for edit, count in counts.items())
    filled = script.into(source, target, inputs=inputs)
    measured = None if filled.certificate is None else filled.certificate.deviation()
    apart = f"{measured.relative:.1e}" if measured else "not measured"
    number = f"{len(script.edits)} edit{'s' if len(script.edits) > 1 else ''}"
    return f"| {name} | {number} | {told} | {took:.1f} s | {apart} |"


def main() -> None:
    """Print the table, a pair at a time."""
    import_torchvision()
    print("| source → target | verdict | edits, or the first reason | search | deviation |\n|---|---|---|---|---|")
    for name in sys.argv[1:] or PAIRS:
        print(row(name), flush=True)


if __name__ == "__main__":
    main()

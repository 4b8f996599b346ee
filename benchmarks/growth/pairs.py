"""The pairs: a network, a larger one of its family, and what both are run on."""

from __future__ import annotations

__all__ = ["Case", "cases"]

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.growth.language import language_cases
from benchmarks.growth.recurrent import recurrent_cases
from torchgraft.io import import_torchvision

#: Pairs of timm that the goal of this measurement names: source, target, side of the pictures.
NAMED = (
    ("resnet18", "resnet34", 64),
    ("resnet50", "resnet101", 64),
    ("resnet50", "wide_resnet50_2", 64),
    ("efficientnet_b0", "efficientnet_b1", 64),
    ("efficientnet_b1", "efficientnet_b2", 64),
    ("efficientnet_b2", "efficientnet_b3", 64),
    ("mobilenetv2_050", "mobilenetv2_100", 64),
    ("mobilenetv2_100", "mobilenetv2_140", 64),
    ("mobilenetv3_small_050", "mobilenetv3_small_100", 64),
    ("regnety_004", "regnety_008", 64),
    ("densenet121", "densenet169", 64),
    ("convnext_tiny", "convnext_small", 64),
    ("convnext_small", "convnext_base", 64),
    ("vit_tiny_patch16_224", "vit_small_patch16_224", 224),
    ("vit_small_patch16_224", "vit_base_patch16_224", 224),
    ("deit_tiny_patch16_224", "deit_small_patch16_224", 224),
    ("swin_tiny_patch4_window7_224", "swin_small_patch4_window7_224", 224),
    ("mixer_s16_224", "mixer_b16_224", 224),
    ("repvgg_a0", "repvgg_a1", 64),
)

#: Further pairs that somebody may try. Some of them cannot be exact: the reason is what is asked for.
FURTHER = (
    ("resnet34", "resnet50", 64),
    ("resnet26d", "resnet50d", 64),
    ("resnext50_32x4d", "resnext101_32x8d", 64),
    ("seresnet50", "seresnet101", 64),
    ("regnetx_002", "regnetx_004", 64),
    ("densenet121", "densenet161", 64),
    ("vgg11_bn", "vgg16_bn", 64),
    ("mobilenetv3_large_075", "mobilenetv3_large_100", 64),
    ("tf_efficientnet_b0", "tf_efficientnet_b1", 64),
    ("convnext_femto", "convnext_tiny", 64),
    ("convnext_atto", "convnext_pico", 64),
    ("hrnet_w18_small", "hrnet_w18", 64),
    ("deit3_small_patch16_224", "deit3_medium_patch16_224", 224),
    ("cait_xxs24_224", "cait_xxs36_224", 224),
    ("xcit_nano_12_p16_224", "xcit_tiny_12_p16_224", 96),
    ("mobilevit_xs", "mobilevit_s", 128),
    ("ghostnet_050", "ghostnet_100", 64),
    ("edgenext_xx_small", "edgenext_x_small", 64),
    ("poolformer_s12", "poolformer_s24", 64),
    ("pit_ti_224", "pit_s_224", 224),
    ("resnet14t", "resnet26t", 64),
    ("mobilenetv3_small_050", "mobilenetv3_small_075", 64),
    ("efficientnetv2_s", "efficientnetv2_m", 128),
    ("densenet169", "densenet201", 64),
    ("vovnet39a", "vovnet57a", 64),
    ("convnextv2_atto", "convnextv2_nano", 64),
    ("caformer_s18", "caformer_s36", 64),
    ("pvt_v2_b0", "pvt_v2_b1", 64),
    ("mobilevitv2_050", "mobilevitv2_100", 128),
    ("visformer_tiny", "visformer_small", 224),
    ("poolformerv2_s12", "poolformerv2_s24", 64),
    ("eva02_tiny_patch14_224", "eva02_small_patch14_224", 224),
)

#: The same of torchvision.
TORCHVISION = (
    ("resnet18", "resnet34", 64),
    ("shufflenet_v2_x0_5", "shufflenet_v2_x1_0", 64),
    ("mnasnet0_5", "mnasnet1_0", 64),
    ("squeezenet1_0", "squeezenet1_1", 64),
)


@dataclass(frozen=True, slots=True)
class Case:
    """A pair: the section it belongs to, its name, what builds source and target, and what makes the inputs."""

    section: str
    name: str
    source: Callable[[], nn.Module]
    target: Callable[[], nn.Module]
    inputs: Callable[[], Any]


def cases() -> Iterator[Case]:
    """Yield every pair."""
    import_torchvision()
    yield from _vision("timm, named", _timm, NAMED)
    yield from (Case("transformers", *one) for one in language_cases())
    yield from (Case("recurrent", *one) for one in recurrent_cases())
    yield from _vision("timm, further", _timm, FURTHER)
    yield from _vision("torchvision", _torchvision, TORCHVISION)


def _vision(section: str, build: Callable[[str], nn.Module], pairs: tuple[tuple[str, str, int], ...]) -> Iterator[Case]:
    for source, target, side in pairs:
        name = f"{source} → {target}"
        yield Case(section, name, partial(build, source), partial(build, target), partial(_pictures, side))


def _pictures(side: int) -> Tensor:
    return torch.randn(2, 3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(7))


def _timm(name: str) -> nn.Module:
    model: nn.Module = importlib.import_module("timm").create_model(name)
    return model


def _torchvision(name: str) -> nn.Module:
    model: nn.Module = importlib.import_module("torchvision.models").get_model(name)
    return model

"""The same architecture in another library's code: after a transfer the target computes what the source did."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import torchgraft as tg


def trained_like(model: nn.Module) -> nn.Module:
    """Give every tensor values of its own at a scale at which signals neither vanish nor explode."""
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                if key.endswith("running_var") or (tensor.ndim == 1 and key.endswith("weight")):
                    tensor.uniform_(0.8, 1.2)
                elif tensor.ndim > 1:
                    tensor.normal_(0, max(1, tensor[0].numel()) ** -0.5)
                else:
                    tensor.normal_(0, 0.1)
    return model.eval()


def outputs(model: nn.Module, images: Tensor) -> Tensor:
    with torch.inference_mode():
        found = model.eval()(images)
    return getattr(found, "logits", found)


def deviation(source: nn.Module, given: Any, target: nn.Module, size: int) -> float:
    """Greatest deviation of the target's outputs after a transfer from ``given``, relative to the greatest output."""
    images = torch.randn(2, 3, size, size)
    report = tg.transfer(given, target)
    assert report.counts() == {"copied": len(target.state_dict())}
    expected = outputs(source, images)
    return float((outputs(target, images) - expected).abs().max() / expected.abs().max())


def transformers_vit() -> nn.Module:
    import transformers

    config = transformers.ViTConfig(
        hidden_size=192, num_hidden_layers=3, num_attention_heads=3, intermediate_size=768, num_labels=10,
        layer_norm_eps=1e-6, hidden_act="gelu",
    )  # fmt: skip
    return transformers.ViTForImageClassification(config)


def transformers_resnet() -> nn.Module:
    import transformers

    return transformers.ResNetForImageClassification(transformers.ResNetConfig(num_labels=10, depths=[2, 2, 2, 2]))


PAIRS: dict[str, tuple[Callable[[Any], nn.Module], str, dict[str, Any], int]] = {
    "mobilenet_v2": (lambda tv: tv.models.mobilenet_v2(), "mobilenetv2_100", {}, 64),
    "efficientnet_b0": (lambda tv: tv.models.efficientnet_b0(), "efficientnet_b0", {}, 64),
    "mnasnet1_0": (lambda tv: tv.models.mnasnet1_0(), "mnasnet_100", {}, 64),
    "swin_t": (lambda tv: tv.models.swin_t(), "swin_tiny_patch4_window7_224", {}, 224),
    "transformers ViT": (lambda tv: transformers_vit(), "vit_tiny_patch16_224", {"depth": 3, "num_classes": 10}, 224),
    "transformers ResNet": (
        lambda tv: transformers_resnet(), "resnet50", {"layers": (2, 2, 2, 2), "num_classes": 10}, 64
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", ["module", "state dict", "sorted file"])
@pytest.mark.parametrize("name", PAIRS)
def test_the_function_crosses_libraries(name: str, form: str, zoo: Any, tmp_path: Path) -> None:
    timm, torchvision = zoo
    build, architecture, options, size = PAIRS[name]
    source = trained_like(build(torchvision))
    given: Any = source
    if form != "module":
        given = {key: value.clone() for key, value in source.state_dict().items()}
    if form == "sorted file":
        save_file(given, tmp_path / "source.safetensors")
        given = tmp_path / "source.safetensors"
    assert deviation(source, given, timm.create_model(architecture, **options), size) < 1e-4


@pytest.mark.parametrize("name", sorted(PAIRS.keys() - {"swin_t"}))  # whose mask torchvision computes at every run
def test_the_plan_foretells_it(name: str, zoo: Any) -> None:
    timm, torchvision = zoo
    build, architecture, options, size = PAIRS[name]
    images = torch.randn(2, 3, size, size)
    for back in (False, True):
        models = [trained_like(build(torchvision)), trained_like(timm.create_model(architecture, **options))]
        source, target = models[::-1] if back else models
        report = tg.transfer(source, target)
        assert report.plan.exact, report.plan.obstacles
        assert tg.verify(source, target, report, images).exact


@pytest.mark.parametrize("form", ["module", "state dict"])
@pytest.mark.parametrize("name", ["transformers ViT", "transformers ResNet", "efficientnet_b0"])
def test_and_back(name: str, form: str, zoo: Any) -> None:
    timm, torchvision = zoo
    build, architecture, options, size = PAIRS[name]
    source = trained_like(timm.create_model(architecture, **options))
    given: Any = source if form == "module" else dict(source.state_dict())
    assert deviation(source, given, build(torchvision), size) < 1e-4


def test_a_stride_tells_a_shortcut_from_its_neighbour(zoo: Any) -> None:
    """RegNet lists its shortcut first in torchvision and last in timm; both convolutions have one shape."""
    timm, torchvision = zoo
    source = trained_like(torchvision.models.regnet_y_400mf())
    assert deviation(source, source, timm.create_model("regnety_004"), 64) < 1e-4


def test_a_head_may_be_linear_or_a_convolution(zoo: Any) -> None:
    """MobileNetV3's first classifier layer is linear in torchvision and a 1×1 convolution in timm."""
    timm, torchvision = zoo
    source = trained_like(torchvision.models.mobilenet_v3_small())
    target = timm.create_model("tf_mobilenetv3_small_100", pad_type="", bn_eps=1e-3)
    assert deviation(source, source, target, 64) < 1e-4
    plan = tg.plan(source, target)
    assert plan.exact, plan.obstacles
    other = tg.plan(source, timm.create_model("tf_mobilenetv3_small_100", pad_type="", bn_eps=1e-5))
    assert other.obstacles[0].startswith("epsilon 0.001 → 1e-05 in BatchNorm")


def test_a_model_is_read_again_when_it_changed() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    assert tg.plan(model, model).total == 58
    model.append(nn.Linear(2, 2))
    assert tg.plan(model, model).total == 64
    model[2] = nn.Linear(2, 3)
    assert tg.plan(model, model).total == 67


class Attention(nn.Module):
    """Attention whose four maps are defined, and called, as one likes."""

    def __init__(self, order: str, names: dict[str, str]) -> None:
        super().__init__()
        self.norm, self.names = nn.LayerNorm(16), names
        for part in order:
            setattr(self, names[part], nn.Linear(16, 16))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            getattr(self, self.names[part])(self.norm(x)).unflatten(-1, (4, 4)).transpose(1, 2) for part in "qkv"
        )
        y = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        out: Tensor = x + getattr(self, self.names["o"])(y)
        return out


LETTERS, OTHERS = (
    dict(zip("qkvo", "qkvo", strict=True)),
    dict(zip("qkvo", ("one", "two", "three", "four"), strict=True)),
)


@pytest.mark.parametrize("order", ["qkvo", "kvqo", "vkqo", "oqkv"])
def test_queries_meet_queries_whichever_are_defined_first(order: str) -> None:
    """CLIP and BART define keys, values, queries: four maps of one shape, which only a run can tell apart."""
    source = nn.Sequential(*(Attention(order, OTHERS) for _ in range(2))).eval()
    target = nn.Sequential(*(Attention("qkvo", LETTERS) for _ in range(2))).eval()
    plan = tg.plan(source, target)
    tg.apply(plan, source, target)
    x = torch.randn(2, 5, 16)
    assert torch.equal(target(x), source(x))
    assert plan.exact


@pytest.mark.parametrize("back", [False, True], ids=["to timm", "to transformers"])
@pytest.mark.parametrize("wider", [False, True], ids=["deeper", "wider and deeper"])
def test_a_resnet_grows_into_the_code_of_another_library(wider: bool, back: bool, zoo: Any) -> None:
    """transformers defines the shortcut of a block first, timm last; doubled, its stages look like each other's."""
    timm, transformers = zoo[0], pytest.importorskip("transformers")

    def hub(depths: tuple[int, ...], width: int) -> nn.Module:
        sizes = [width * factor for factor in (4, 8, 16, 32)]
        config = transformers.ResNetConfig(num_labels=10, embedding_size=64, hidden_sizes=sizes, depths=depths)
        return trained_like(transformers.ResNetForImageClassification(config)).double()

    def other(depths: tuple[int, ...], width: int) -> nn.Module:
        channels = [width * factor for factor in (1, 2, 4, 8)]
        options = {"channels": channels, "num_classes": 10}
        return trained_like(timm.models.resnet.ResNet(timm.models.resnet.Bottleneck, depths, **options)).double()

    first, second = (other, hub) if back else (hub, other)
    source, target = first((1, 2, 1, 1), 8), second((2, 3, 1, 2), 20 if wider else 8)
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    report = tg.transfer(source, target)
    assert report.plan.exact, report.plan.obstacles
    assert tg.verify(source, target, report, images).exact

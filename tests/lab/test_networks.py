"""Networks built from specs with the data's classes, and what is said of those that do not fit."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from torchgraft.errors import LabError, SpecError
from torchgraft.lab import networks
from torchgraft.lab.networks import build, check_answers, logits

SCALED = ("mixnet", "efficientnet_lite", "mnasnet", "semnasnet", "mobilenetv2", "rexnet")
HERE = "python:tests.lab.test_networks"


def takes_classes(num_classes: int = 3) -> nn.Module:
    """A user's factory."""
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))


def always_ten() -> nn.Module:
    """A user's factory for one number of classes."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 10))


def fails_inside(num_classes: int = 3) -> nn.Module:
    """A user's factory with a fault of its own."""
    raise RuntimeError("the sky fell down")


@pytest.mark.parametrize("name", SCALED)
def test_scaled_networks_have_the_width_and_the_classes(name: str) -> None:
    half, whole = (build(f"python:torchgraft.lab.networks:{name},width={width}", 7, size=32) for width in (0.5, 1.0))
    assert sum(p.numel() for p in half.parameters()) < 0.6 * sum(p.numel() for p in whole.parameters())
    assert half(torch.zeros(2, 3, 32, 32)).shape == (2, 7)


@pytest.mark.parametrize(
    ("ours", "published"),
    [
        ("mobilenetv2,width=0.5", "mobilenetv2_050"),
        ("mnasnet,width=0.5", "mnasnet_050"),
        ("semnasnet,width=0.75", "semnasnet_075"),
        ("mixnet", "mixnet_s"),
        ("efficientnet_lite", "efficientnet_lite0"),
        ("rexnet", "rexnet_100"),
    ],
)
def test_scaled_networks_are_the_published_ones_where_there_is_one(ours: str, published: str) -> None:
    mine = build(f"python:torchgraft.lab.networks:{ours}", 5).state_dict()
    theirs = build(f"timm:{published}", 5).state_dict()
    assert list(mine) == list(theirs)
    assert all(torch.equal(mine[key], theirs[key]) for key in theirs)


def test_a_timm_that_has_moved_its_generators_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(networks._GENERATORS, "mixnet", ("mixnet_s", "_gen_gone"))
    with pytest.raises(LabError, match=r"timm .* has no _gen_gone, which mixnet needs"):
        networks.mixnet()


@pytest.mark.parametrize(
    "spec",
    [
        "timm:mobilenetv2_035",
        "timm:vit_tiny_patch16_224,img_size=32",
        "torchvision:shufflenet_v2_x0_5",
        f"{HERE}:takes_classes",
    ],
)
def test_every_kind_gets_the_classes(spec: str) -> None:
    assert logits(build(spec, 4, size=32).eval(), torch.zeros(2, 3, 32, 32)).shape == (2, 4)


def test_a_transformers_model_gets_its_labels_and_answers_in_a_record(tmp_path: Path) -> None:
    config = {
        "model_type": "vit", "architectures": ["ViTForImageClassification"], "image_size": 32, "patch_size": 8,
        "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    network = build(f"hf:{tmp_path}", 6, size=32)
    assert logits(network, torch.zeros(2, 3, 32, 32)).shape == (2, 6)


def test_equal_seeds_give_equal_weights_lazy_ones_too_and_the_generator_stays() -> None:
    before = torch.get_rng_state()
    for spec in ("timm:mobilenetv2_035", f"{HERE}:takes_classes"):
        first, second, third = (build(spec, 5, seed, size=32).state_dict() for seed in (1, 1, 2))
        weight = next(key for key, tensor in first.items() if tensor.ndim > 1)
        assert all(torch.equal(first[key], second[key]) for key in first)
        assert not torch.equal(first[weight], third[weight])
    assert torch.equal(before, torch.get_rng_state())


def test_a_factory_for_another_number_of_classes_is_refused_by_its_answers() -> None:
    assert build(f"{HERE}:always_ten", 10, size=8).training
    with pytest.raises(LabError, match=r"always_ten answers \(2, 3, 8, 8\) with \(2, 10\), not \(2, 7\)"):
        build(f"{HERE}:always_ten", 7, size=8)


def test_a_fault_inside_a_factory_is_not_taken_for_a_missing_option() -> None:
    with pytest.raises(SpecError, match="the sky fell down"):
        build(f"{HERE}:fails_inside", 7)


def test_stated_classes_must_agree() -> None:
    assert build("timm:mobilenetv2_035,num_classes=5", 5).num_classes == 5
    assert build("timm:mobilenetv2_035,num_classes=5", None).num_classes == 5
    with pytest.raises(LabError, match="says num_classes=5, the data has 6 classes: leave it out"):
        build("timm:mobilenetv2_035,num_classes=5", 6)


def test_no_classes_leaves_the_networks_own() -> None:
    assert build("timm:mobilenetv2_035", None).num_classes == 1000


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("mobilenetv2_035", LabError, "is no network: write one of timm:NAME"),
        ("weights.safetensors", LabError, "is no network"),
        ("timm:mobilenetv2_35", SpecError, "mobilenetv2_035"),
        ("python:tests.lab.test_networks:nothing", SpecError, "has no 'nothing'"),
    ],
)
def test_specs_that_are_none_are_refused(spec: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build(spec, 5)


def test_pretrained_weights_of_a_factory_are_refused() -> None:
    with pytest.raises(LabError, match="a factory has no pretrained weights"):
        build(f"{HERE}:takes_classes", None, pretrained=True)


def test_images_that_are_too_small_are_named() -> None:
    with pytest.raises(LabError, match=r"timm:vit_tiny_patch16_224 fails on images of 32×32 pixels"):
        build("timm:vit_tiny_patch16_224", 5, size=32)


def test_a_network_without_logits_is_named() -> None:
    class Pair(nn.Module):
        def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
            return images, images

    with pytest.raises(LabError, match="pair: Pair returns a tuple without logits: name a classifier"):
        check_answers("pair", Pair(), 5, 8)
    record = lambda images: SimpleNamespace(logits=images)  # noqa: E731
    assert logits(record, torch.zeros(1)).shape == (1,)  # type: ignore[arg-type]


def test_the_check_changes_nothing() -> None:
    network = build("timm:mobilenetv2_035", 5)
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    check_answers("net", network.train(), 5, 32)
    assert network.training
    assert all(torch.equal(before[key], tensor) for key, tensor in network.state_dict().items())

"""The laws of ``graft``: identity, names do not matter, and an edited network is found again."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import torchgraft as tg

Edit = Callable[[list[nn.Module]], list[nn.Module]]


def randomized(model: nn.Module) -> nn.Module:
    """Give every tensor values of its own, buffers too, as training would."""
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape) + 0.5)
            elif tensor.ndim == 0:
                tensor.fill_(7)
    return model


def renamed(model: nn.Module) -> None:
    """Rename every submodule of ``model`` in place, order kept; its code finds them under their old names."""
    for module in list(model.modules()):
        children = list(module._modules.items())
        module._modules.clear()
        for number, (name, child) in enumerate(children):
            module._modules[f"x{97 * (number + 1) % 101}_{number}"] = child
            object.__setattr__(module, name, child)


IDENTITY = [
    "resnet18", "efficientnet_b0", "mixnet_s", "densenet121", "convnext_atto", "vit_tiny_patch16_224",
    "swin_tiny_patch4_window7_224", "mobilevit_xs", "gmlp_s16_224", "regnety_002", "repvgg_a0", "beit_base_patch16_224",
]  # fmt: skip


@pytest.mark.parametrize("name", IDENTITY)
def test_identity_copies_every_bit(name: str, zoo: Any) -> None:
    timm, _ = zoo
    source, target = randomized(timm.create_model(name)), timm.create_model(name)
    report = tg.transfer(source, target)
    assert report.counts() == {"copied": len(source.state_dict())}
    assert report.coverage == 1.0
    expected = source.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in target.state_dict().items())


@pytest.mark.parametrize(
    ("a", "b"), [("resnet18", "resnet34"), ("efficientnet_b0", "mixnet_s"), ("vit_tiny_patch16_224", "convnext_atto")]
)
def test_names_never_decide(a: str, b: str, zoo: Any) -> None:
    timm, _ = zoo
    with torch.device("meta"):
        source, target = timm.create_model(a), timm.create_model(b)
    places = [list(model.state_dict()) for model in (source, target)]
    plan = tg.plan(source, target)
    expected = [
        (places[1].index(t.key), [places[0].index(s) for s in t.source], t.status, t.elements) for t in plan.tensors
    ]
    for model in (source, target):
        renamed(model)
    places = [list(model.state_dict()) for model in (source, target)]
    again = tg.plan(source, target)
    assert not set(places[0]) & {s for t in plan.tensors for s in t.source}
    assert [
        (places[1].index(t.key), [places[0].index(s) for s in t.source], t.status, t.elements) for t in again.tensors
    ] == expected
    assert again.score == plan.score


class Detector(nn.Module):
    """A one-list network as YOLO configurations build them: inserting a row shifts every later name."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(
            stem(3, 16), stem(16, 32), Bottle(32, 1), stem(32, 64), Bottle(64, 2), stem(64, 128), Bottle(128, 2),
            stem(128, 256), Bottle(256, 1), nn.Upsample(), stem(384, 128), Bottle(128, 1), nn.Upsample(),
            stem(192, 64), Bottle(64, 1), nn.Conv2d(64, 85, 1),
        )  # fmt: skip


def stem(inputs: int, outputs: int, kernel: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, bias=False), nn.BatchNorm2d(outputs), nn.SiLU())


class Bottle(nn.Module):
    def __init__(self, width: int, repeats: int) -> None:
        super().__init__()
        self.enter = stem(width, width, 1)
        half = width // 2
        self.inner = nn.ModuleList(nn.Sequential(stem(half, half), stem(half, half)) for _ in range(repeats))
        self.leave = stem((2 + repeats) * half, width, 1)


def remember(model: nn.Module) -> None:
    for path, module in model.named_modules():
        module.__dict__["_came_from"] = path


def found_again(source: nn.Module, target: nn.Module) -> tuple[float, float, tg.Plan]:
    """Share of the surviving tensors that the plan copies from their own origin, and the share name and shape keep."""
    plan = tg.plan(source, target)
    origin = {}
    for path, module in target.named_modules():
        if "_came_from" in module.__dict__:
            for key in module.state_dict():
                if "." not in key:
                    origin[f"{path}.{key}" if path else key] = f"{module.__dict__['_came_from']}.{key}".lstrip(".")
    planned = {tensor.key: tensor for tensor in plan.tensors}
    right = [key for key, old in origin.items() if planned[key].source == (old,) and planned[key].status == "copied"]
    by_name = [key for key, old in origin.items() if key == old]
    return len(right) / len(origin), len(by_name) / len(origin), plan


def edited(model: nn.Module, path: str, edit: Edit) -> nn.Module:
    target = copy.deepcopy(model)
    parent, _, name = path.rpartition(".")
    sequence = target.get_submodule(path)
    setattr(target.get_submodule(parent), name, nn.Sequential(*edit(list(sequence.children()))))
    return target


def insert(place: int, new: Callable[[], nn.Module]) -> Edit:
    return lambda modules: [*modules[:place], new(), *modules[place:]]


def delete(place: int) -> Edit:
    return lambda modules: modules[:place] + modules[place + 1 :]


def swap(a: int, b: int) -> Edit:
    def edit(modules: list[nn.Module]) -> list[nn.Module]:
        modules[a], modules[b] = modules[b], modules[a]
        return modules

    return edit


DETECTOR_EDITS = {
    **{f"insert block at {place}": insert(place, lambda: Bottle(96, 1)) for place in (0, 1, 5, 15, 16)},
    **{f"insert convolution at {place}": insert(place, lambda: stem(48, 48)) for place in (0, 4, 9, 16)},
    **{f"delete {place}": delete(place) for place in (0, 3, 8, 14, 15)},
    **{f"swap {a} and {b}": swap(a, b) for a, b in ((1, 8), (3, 4), (0, 15))},
}


@pytest.mark.parametrize("edit", DETECTOR_EDITS.values(), ids=DETECTOR_EDITS)
def test_an_edited_detector_is_found_again(edit: Edit) -> None:
    source = Detector()
    remember(source)
    share, _, _ = found_again(source, edited(source, "model", edit))
    assert share >= 0.95


def test_the_case_users_quote_loses_most_by_name() -> None:
    source = Detector()
    remember(source)
    share, by_name, _ = found_again(source, edited(source, "model", insert(3, lambda: Bottle(96, 1))))
    assert by_name < 0.39 < share == 1.0


ZOO_EDITS = [
    ("resnet34", "layer2", insert(2, lambda: stem(96, 96))),
    ("resnet34", "layer3", delete(0)),
    ("efficientnet_b0", "blocks", insert(3, lambda: nn.Sequential(stem(50, 50), stem(50, 50)))),
    ("efficientnet_b0", "blocks", swap(3, 4)),
    ("efficientnet_b0", "blocks", lambda modules: modules[::-1]),
    ("efficientnet_b0", "blocks.4", delete(0)),
    ("densenet121", "features", swap(4, 6)),
    ("densenet121", "features", delete(5)),
    ("vit_tiny_patch16_224", "blocks", insert(6, lambda: stem(77, 77))),
    ("convnext_atto", "stages", delete(2)),
    ("convnext_atto", "stages", swap(0, 3)),
]


@pytest.mark.parametrize(("name", "path", "edit"), ZOO_EDITS)
def test_an_edited_zoo_network_is_found_again(name: str, path: str, edit: Edit, zoo: Any) -> None:
    timm, _ = zoo
    source = timm.create_model(name)
    if name == "densenet121":
        source.features = nn.Sequential(*source.features.children())
    remember(source)
    share, _, _ = found_again(source, edited(source, path, edit))
    assert share >= 0.95


def blocks_of(count: int) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.Sequential(*(block() for _ in range(count))), nn.Linear(8, 2))


def block() -> nn.Module:
    return nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))


def test_13_equal_blocks_from_12_are_said_to_be_open_and_a_pin_settles_it() -> None:
    source, target = blocks_of(12), blocks_of(13)
    plan = tg.plan(source, target)
    assert len(plan.notes) == 1
    assert "pin" in plan.notes[0] and "1.12" in plan.notes[0] and "1.12" in str(plan).splitlines()[-1]
    assert [t.status for t in plan.tensors if t.key.startswith("1.12.")] == ["reused"] * 6
    pins = {f"1.{i}": f"1.{i if i < 5 else i - 1}" for i in (4, 6)}
    settled = tg.plan(source, target, pins=pins)
    origins = {t.key: t.source for t in settled.tensors}
    assert not settled.notes
    assert all(origins[f"1.{i}.1.weight"] == (f"1.{i}.1.weight",) for i in range(5))
    assert all(origins[f"1.{i + 1}.1.weight"] == (f"1.{i}.1.weight",) for i in range(5, 12))
    assert origins["1.5.1.weight"] == ()


def test_11_equal_blocks_from_12_are_said_to_be_open() -> None:
    plan = tg.plan(blocks_of(12), blocks_of(11))
    assert len(plan.notes) == 1 and plan.notes[0].startswith("source 1.11 ")
    assert plan.counts() == {"copied": len(blocks_of(11).state_dict())}


def test_no_note_where_nothing_is_open(zoo: Any) -> None:
    timm, _ = zoo
    with torch.device("meta"):
        models = [timm.create_model(name) for name in ("resnet18", "vit_tiny_patch16_224")]
    assert [tg.plan(model, model).notes for model in models] == [(), ()]


def test_transfers_repeat(zoo: Any) -> None:
    timm, _ = zoo
    source = timm.create_model("resnet18")
    targets = []
    for _ in range(2):
        torch.manual_seed(3)
        targets.append(timm.create_model("mobilenetv3_small_050"))
        tg.transfer(source, targets[-1])
    a, b = (target.state_dict() for target in targets)
    assert all(torch.equal(a[key], b[key]) for key in a)

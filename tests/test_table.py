"""Bare tables of arrays: kinds, blocks and order inferred; real networks of foreign code keep their accuracy."""

from __future__ import annotations

import io
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import torchgraft as tg


def photographs(shared: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """ImageNet sample as ``(1000, 3, 224, 224)`` floats 0..255 and labels."""
    data = np.load(shared / "data" / "images" / "imagenet1k_sample_224.npz")
    stream, offsets = data["jpeg"].tobytes(), data["off"]
    arrays = [np.asarray(Image.open(io.BytesIO(stream[a:b]))) for a, b in pairwise(offsets)]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float(), torch.from_numpy(data["y"]).long()


def top1(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    model.eval()
    with torch.inference_mode():
        right = sum(
            int((model(batch).argmax(1) == wanted).sum())
            for batch, wanted in zip(images.split(100), labels.split(100), strict=True)
        )
    return right / len(labels) * 100


FOREIGN = {
    "in1k_mobilenetv1_100_224": ("mobilenetv1_100", 87.7),
    "in1k_mobilenetv2_100_224": ("mobilenetv2_100", 87.9),
}


@pytest.mark.shared
@pytest.mark.parametrize(("file", "stated"), FOREIGN.items())
def test_a_foreign_table_gives_timm_its_stated_accuracy(
    file: str, stated: tuple[str, float], shared: Path, tmp_path: Path, zoo: Any
) -> None:
    timm, _ = zoo
    path = shared / "data" / "weights" / f"{file}.npz"
    model, other = (timm.create_model(stated[0], pad_type="same") for _ in range(2))
    report = tg.transfer(path, model)
    left = [tensor.key for tensor in report.tensors if tensor.status != "copied"]
    assert all(key.endswith("num_batches_tracked") for key in left)
    save_file({key: torch.from_numpy(value) for key, value in np.load(path).items()}, tmp_path / "sorted.safetensors")
    tg.transfer(tmp_path / "sorted.safetensors", other)
    expected = model.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in other.state_dict().items())
    images, labels = photographs(shared)
    assert round(top1(model, images / 127.5 - 1, labels), 1) == stated[1]


@pytest.mark.parametrize(
    "name",
    ["resnet18", "resnet50", "mobilenetv2_100", "efficientnet_b0", "vit_tiny_patch16_224", "convnext_atto",
     "densenet121", "regnety_002", "swin_tiny_patch4_window7_224", "mixer_s32_224", "levit_128s", "mvitv2_tiny",
     "xcit_nano_12_p16_224", "poolformer_s12"],
)  # fmt: skip
def test_a_sorted_file_of_a_network_s_own_weights_gives_all_back(name: str, tmp_path: Path, zoo: Any) -> None:
    timm, _ = zoo
    torch.manual_seed(1)
    source, target = timm.create_model(name), timm.create_model(name)
    save_file(
        {key: torch.rand_like(v) if v.is_floating_point() else v for key, v in source.state_dict().items()},
        tmp_path / "a.safetensors",
    )
    report = tg.transfer(tmp_path / "a.safetensors", target)
    assert report.counts() == {"copied": len(target.state_dict())}
    assert [tensor.source for tensor in report.tensors] == [(tensor.key,) for tensor in report.tensors]


def test_kinds_are_inferred_from_ranks_and_roles() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token = nn.Parameter(torch.zeros(1, 1, 8))
            self.embed, self.conv, self.up = nn.Embedding(5, 8), nn.Conv1d(8, 8, 3), nn.Linear(8, 24)
            self.norm, self.batch, self.rnn = (
                nn.LayerNorm(24),
                nn.BatchNorm1d(24),
                nn.LSTM(24, 6, 2, bidirectional=True),
            )
            self.attention = nn.MultiheadAttention(24, 3)

    source, target = Odd(), Odd()
    report = tg.transfer({key: value.clone() for key, value in source.state_dict().items()}, target)
    assert report.counts() == {"copied": len(source.state_dict())}
    expected = source.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in target.state_dict().items())


def test_a_state_dict_with_its_factory_is_read_by_its_code(zoo: Any) -> None:
    timm, _ = zoo
    source = timm.create_model("resnet18")
    state = dict(sorted(source.state_dict().items()))
    target = timm.create_model("resnet18")
    report = tg.transfer(state, target, factory="timm:resnet18")
    assert report.counts() == {"copied": len(state)}
    assert tg.transfer(state, target, factory=lambda: timm.create_model("resnet18")).coverage == 1.0
    with pytest.raises(tg.SpecError, match="gives no module"):
        tg.transfer(state, target, factory=lambda: 3)  # type: ignore[arg-type,return-value]


def turned(key: str, value: torch.Tensor) -> torch.Tensor:
    """Lay out an array as TensorFlow and Flax do: ``(kh, kw, in, out)``, depthwise ``(kh, kw, channels, 1)``."""
    if value.ndim == 4:
        depthwise = key.endswith("depthwise_kernel")
        return value.permute(2, 3, 0, 1) if depthwise else value.permute(2, 3, 1, 0)
    return value.t() if value.ndim == 2 else value


NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}


def keras_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """A state dict with Keras' names for tensors, slashes, and its layout."""
    state = {}
    for path, module in model.named_modules():
        for role, value in module.state_dict().items():
            if "." in role or role == "num_batches_tracked":
                continue
            depthwise = isinstance(module, nn.Conv2d) and module.groups > 1
            name = NORM[role] if isinstance(module, nn.BatchNorm2d) else {"weight": "kernel"}.get(role, role)
            key = f"{path.replace('.', '/')}/{'depthwise_kernel' if depthwise and role == 'weight' else name}"
            state[key] = turned(key, value).contiguous().clone()
    return state


@pytest.mark.parametrize("form", ["written", "sorted"])
def test_other_names_and_layouts_are_read(form: str, zoo: Any) -> None:
    timm, _ = zoo
    torch.manual_seed(2)
    source, target = (
        timm.create_model("efficientnet_b0", num_classes=7),
        timm.create_model("efficientnet_b0", num_classes=7),
    )
    for value in source.state_dict().values():
        if value.is_floating_point():
            value.uniform_()
    state = keras_state(source)
    report = tg.transfer(state if form == "written" else dict(sorted(state.items())), target)
    assert "with other axes than torch's" in report.plan.notes[0]
    found = target.state_dict()
    assert all(
        torch.equal(value, found[key])
        for key, value in source.state_dict().items()
        if not key.endswith("num_batches_tracked")
    )


def test_parameters_and_statistics_of_two_collections_are_one_tree() -> None:
    target = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4))
    state: dict[str, torch.Tensor] = {}
    for number, (conv, norm) in enumerate([(target[0], target[1]), (target[3], target[4])]):
        state |= {
            f"batch_stats/BatchNorm_{number}/mean": torch.rand_like(norm.running_mean),
            f"batch_stats/BatchNorm_{number}/var": torch.rand_like(norm.running_var),
            f"params/BatchNorm_{number}/bias": torch.rand_like(norm.bias),
            f"params/BatchNorm_{number}/scale": torch.rand_like(norm.weight),
            f"params/Conv_{number}/bias": torch.rand_like(conv.bias),
            f"params/Conv_{number}/kernel": torch.rand_like(conv.weight).permute(2, 3, 1, 0).contiguous(),
        }
    report = tg.transfer(dict(sorted(state.items())), target)
    assert report.counts() == {"copied": 12, "kept": 2}
    assert torch.equal(target[3].weight, state["params/Conv_1/kernel"].permute(3, 2, 0, 1))
    assert torch.equal(target[4].running_var, state["batch_stats/BatchNorm_1/var"])


def test_projections_to_heads_are_matrices(zoo: Any) -> None:
    """Flax stores ``(in, heads, size)`` and ``(heads, size, out)``, keys first in the alphabet."""
    target = nn.MultiheadAttention(12, 3)
    state = {
        f"{part}/{role}": torch.rand(shapes[role])
        for part, shapes in {
            "key": {"bias": (3, 4), "kernel": (12, 3, 4)},
            "out": {"bias": (12,), "kernel": (3, 4, 12)},
            "query": {"bias": (3, 4), "kernel": (12, 3, 4)},
            "value": {"bias": (3, 4), "kernel": (12, 3, 4)},
        }.items()
        for role in shapes
    }
    tg.transfer(state, target)
    expected = [state[f"{part}/kernel"].reshape(12, 12).t() for part in ("query", "key", "value")]
    assert torch.equal(target.in_proj_weight, torch.cat(expected))
    assert torch.equal(target.out_proj.weight, state["out/kernel"].reshape(12, 12).t())


def test_a_bias_tells_that_matrices_are_stored_transposed() -> None:
    """GPT-2's state dict, and Paddle's: the usual names, ``(in, out)``."""
    target = nn.Sequential(nn.Linear(8, 24), nn.GELU(), nn.Linear(24, 8), nn.Linear(8, 8))
    state = {
        key: torch.rand_like(value.t() if value.ndim == 2 else value) for key, value in target.state_dict().items()
    }
    tg.transfer(state, target)
    assert all(torch.equal(value, state[key].t()) for key, value in target.state_dict().items() if value.ndim == 2)


def test_queries_of_a_table_come_before_its_keys(zoo: Any) -> None:
    """CLIP and BART define keys first; a fused projection stacks queries first."""
    names = ("k_proj", "v_proj", "q_proj", "out_proj")
    source = nn.ModuleDict({name: nn.Linear(12, 12) for name in names})
    target = nn.MultiheadAttention(12, 3)
    tg.transfer(source.state_dict(), target)
    assert torch.equal(target.in_proj_weight, torch.cat([source[f"{letter}_proj"].weight for letter in "qkv"]))


@pytest.mark.parametrize(("sort", "told"), [(sorted, True), (list, False)])
def test_a_sorted_table_of_flat_names_says_that_its_order_is_guessed(sort: Any, told: bool) -> None:
    names = ("conv_stem", *(f"block_{n}_{part}" for n in (1, 2, 10) for part in ("expand", "depthwise", "project")))
    shapes = {"weight": (4, 4, 3, 3), "bias": (4,)}
    table = {f"{name}.{role}": torch.zeros(shapes[role]) for name in names for role in shapes}
    plan = tg.plan({key: table[key] for key in sort(table)}, nn.Conv2d(4, 4, 3))
    assert any("order is guessed" in note for note in plan.notes) == told


def test_arrays_of_numpy_are_a_table_too() -> None:
    target = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    arrays = {f"conv_{key}": np.random.rand(*value.shape) for key, value in target[0].state_dict().items()}
    arrays |= {
        f"bn_{name}": np.random.rand(4).astype(">f4") for name in ("gamma", "beta", "moving_mean", "moving_var")
    }  # as MXNet names them: no tree at all
    assert tg.transfer(arrays, target).counts() == {"copied": 6, "kept": 1}
    assert np.array_equal(target[1].running_var.numpy(), arrays["bn_moving_var"])
    with pytest.raises(tg.CheckpointError, match="'conv_weight' is of type ndarray"):
        tg.transfer({"conv_weight": np.array(["a"])}, target)


def test_a_wide_middle_is_no_fused_projection() -> None:
    target = nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 8), nn.Linear(8, 8))
    plan = tg.plan(target.state_dict(), target)
    assert plan.pairs() == (("0", "0"), ("2", "2"), ("3", "3"))

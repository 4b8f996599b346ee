"""The trained checkpoints of the evaluation data: their networks, their pictures, and how well they do."""

from __future__ import annotations

__all__ = ["MCUNET", "MOBILENET", "CheckpointFile", "Pictures", "further", "grown", "load", "pictures"]

import importlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.cifar_npz import CLASSES, read_images, read_labels
from benchmarks.growth.networks import Block, CifarResNet, InvertedNet, MBConvNet, NetworkInNetwork
from torchgraft.io import import_torchvision

#: Blocks of the searched networks: hidden units, outputs, kernel, stride.
MOBILENET: tuple[Block, ...] = (
    (16, 8, 3, 1), (48, 8, 3, 2), (48, 8, 3, 1), (48, 16, 3, 2), (96, 16, 3, 1), (96, 16, 3, 1), (96, 24, 3, 2),
    *((144, 24, 3, 1),) * 3, (144, 32, 3, 1), *((192, 32, 3, 1),) * 2, (192, 56, 3, 2), *((336, 56, 3, 1),) * 2,
    (336, 112, 3, 1),
)  # fmt: skip
MCUNET: tuple[Block, ...] = (
    (16, 8, 3, 1), (32, 16, 3, 2), (48, 16, 3, 1), (48, 24, 7, 2), (120, 24, 3, 1), (120, 40, 3, 2), (160, 40, 7, 1),
    (160, 48, 5, 1), (144, 48, 3, 1), (192, 48, 3, 1), (240, 96, 7, 2), *((384, 96, 5, 1),) * 2, (576, 160, 3, 1),
)  # fmt: skip


def grown(
    blocks: Sequence[Block], factor: float = 1.0, kernel: int = 0, twice: bool = False, hidden: float = 1.0
) -> tuple[Block, ...]:
    """Return blocks with widths multiplied, kernels of at least ``kernel``, and those with a skip standing twice."""
    found: list[Block] = []
    inputs = 0
    for inside, outputs, size, stride in blocks:
        more = factor * hidden if inputs else factor  # the first block has no expansion
        one = int(inside * more), int(outputs * factor), max(size, kernel), stride
        found += [one] * (2 if twice and stride == 1 and outputs == inputs else 1)
        inputs = outputs
    return tuple(found)


@dataclass(frozen=True, slots=True)
class CheckpointFile:
    """A checkpoint: what builds its network, and which pictures it reads, ``scale`` x + ``shift``, at which side."""

    build: Callable[..., nn.Module]
    images: str
    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]
    side: int = 0


@dataclass(frozen=True, slots=True)
class Pictures:
    """Pictures ``(n, 3, side, side)`` as a network reads them, and their classes."""

    images: Tensor
    labels: Tensor


def _timm(name: str) -> Callable[..., nn.Module]:
    def build(name: str = name, classes: int = 1000) -> nn.Module:
        import_torchvision()
        made: nn.Module = importlib.import_module("timm").create_model(name, pad_type="same", num_classes=classes)
        return made

    return build


def _inverted(base: tuple[Block, ...]) -> Callable[..., nn.Module]:
    def build(blocks: Sequence[Block] = base, stem: int = 16, classes: int = 1000) -> nn.Module:
        return InvertedNet(blocks, stem, classes)

    return build


_HALF, _BYTE = (0.5, 0.5, 0.5), (127.5 / 255,) * 3
_CIFAR = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

#: Checkpoints by file name.
CHECKPOINTS = {
    "cifar10_resnet20": CheckpointFile(CifarResNet, "cifar10", *_CIFAR),
    "cifar10_resnet32": CheckpointFile(lambda depth=5, **sizes: CifarResNet(depth=depth, **sizes), "cifar10", *_CIFAR),
    "cifar10_resnet56": CheckpointFile(lambda depth=9, **sizes: CifarResNet(depth=depth, **sizes), "cifar10", *_CIFAR),
    "cifar10_resnet20b": CheckpointFile(lambda **sizes: CifarResNet(option="B", **sizes), "cifar10", _HALF, _HALF),
    "cifar10_resnet20b_thin": CheckpointFile(
        lambda inner=(11, 8, 9, 22, 20, 32, 52, 56, 64): CifarResNet(option="B", inner=inner),
        "cifar10", _HALF, _HALF,
    ),
    "cifar10_nin": CheckpointFile(NetworkInNetwork, "cifar10", (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100_mbconvnet_a": CheckpointFile(
        MBConvNet, "cifar100", (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
    ),
    "in1k_mobilenetv1_100_224": CheckpointFile(_timm("mobilenetv1_100"), "imagenet", _BYTE, _BYTE, 224),
    "in1k_mobilenetv2_100_224": CheckpointFile(_timm("mobilenetv2_100"), "imagenet", _BYTE, _BYTE, 224),
    "in1k_mobilenetv2_035_128": CheckpointFile(_inverted(MOBILENET), "imagenet", _BYTE, _BYTE, 128),
    "in1k_mcunet_5fps_128": CheckpointFile(_inverted(MCUNET), "imagenet", _BYTE, _BYTE, 128),
}  # fmt: skip


def load(name: str, folder: Path) -> nn.Module:
    """Return the trained network of a checkpoint, in eval mode; ``folder`` is that of the evaluation data."""
    model = CHECKPOINTS[name].build().eval()
    with np.load(folder / "weights" / f"{name}.npz") as file:
        stored = {key: torch.from_numpy(file[key]).float() for key in file.files}
    own = model.state_dict()
    if stored.keys() <= own.keys():
        missing = model.load_state_dict(stored, strict=False).missing_keys
        assert all(key.endswith("num_batches_tracked") for key in missing), missing
    else:  # the same tensors in the same order under other names
        keys = [key for key in own if not key.endswith("num_batches_tracked")]
        assert [tuple(own[key].shape) for key in keys] == [tuple(value.shape) for value in stored.values()]
        model.load_state_dict({**own, **dict(zip(keys, stored.values(), strict=True))})
    return model


def pictures(name: str, folder: Path, count: int, side: int = 0) -> Pictures:
    """Return ``count`` test pictures as the checkpoint reads them, at another side where one is given."""
    file = CHECKPOINTS[name]
    if file.images == "imagenet":
        images, labels = _imagenet(folder, tuple(np.linspace(0, 999, count).round().astype(int).tolist()))
    else:
        images, labels = _cifar(file.images, folder, "test")
    return Pictures(_read(images[:count], file, side), labels[:count])


def further(name: str, folder: Path, count: int) -> Tensor:
    """Return other pictures than the first ``count`` of :func:`pictures`, to measure statistics on: 512, or 256."""
    file = CHECKPOINTS[name]
    if file.images == "imagenet":
        shown = np.linspace(0, 999, count).round().astype(int)
        others = np.setdiff1d(np.arange(1000), shown)[:256] if count < 1000 else shown[:256]
        return _read(_imagenet(folder, tuple(others.tolist()))[0], file)
    return _read(_cifar(file.images, folder, "train0")[0][:512], file)


def _read(images: Tensor, file: CheckpointFile, side: int = 0) -> Tensor:
    mean, deviation = (torch.tensor(one).view(1, 3, 1, 1) for one in (file.mean, file.deviation))
    x, side = images.float(), side or file.side or images.shape[-1]
    if x.shape[-1] != side:
        x = nn.functional.interpolate(x, (side, side), mode="bilinear", antialias=True, align_corners=False)
    return (x / 255 - mean) / deviation


@cache
def _cifar(name: str, folder: Path, part: str) -> tuple[Tensor, Tensor]:
    images = read_images(folder / "cifar" / f"{name}_{part}.npy.xz")
    labels = read_labels(folder / "cifar" / f"{name}_{part}_y.npy", len(images), CLASSES[name])
    return torch.from_numpy(images), torch.from_numpy(labels)


@cache
def _imagenet(folder: Path, numbers: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    from PIL import Image

    with np.load(folder / "images" / "imagenet1k_sample_224.npz") as file:
        stream, offsets, labels = file["jpeg"].tobytes(), file["off"], file["y"]
    rows = [np.asarray(Image.open(io.BytesIO(stream[offsets[n] : offsets[n + 1]]))) for n in numbers]
    return torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2), torch.from_numpy(labels[list(numbers)]).long()

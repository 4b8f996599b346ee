"""The two networks of the demo: a small residual one, and a larger one of another design."""

from __future__ import annotations

__all__ = ["SOURCE_STORY", "TARGET_STORY", "source_network", "target_network"]

import torch
from torch import Tensor, nn

#: What each network is, in the words of the report.
SOURCE_STORY = "a small ResNet (2 stages of 2 residual blocks, 12 and 24 channels, 3×3 kernels)"
TARGET_STORY = "one more block per stage, 1.5× the channels, 5×5 kernels, squeeze-and-excitation in every block"


def source_network() -> nn.Module:
    """Build the small network: ``(batch, 1, 8, 8)`` in, ``(batch, 10)`` out.

    >>> source_network()(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """
    return _Residual(widths=(12, 24), depth=2, kernel=3, excite=False)


def target_network() -> nn.Module:
    """Build the other network: deeper, wider, larger kernels, squeeze-and-excitation blocks (arXiv:1709.01507).

    >>> target_network()(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """
    return _Residual(widths=(18, 36), depth=3, kernel=5, excite=True)


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)


class _Excitation(nn.Module):
    """Weigh the channels by a gate that is computed from their means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, channels // 4, 1)
        self.expand = nn.Conv2d(channels // 4, channels, 1)

    def forward(self, images: Tensor) -> Tensor:
        squeezed = torch.relu(self.reduce(images.mean((2, 3), keepdim=True)))
        return images * torch.sigmoid(self.expand(squeezed))


class _Block(nn.Module):
    """Two convolutions around which the input is passed on, with squeeze-and-excitation where asked for."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, excite: bool) -> None:
        super().__init__()
        self.conv1 = _convolution(inputs, outputs, kernel, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = _convolution(outputs, outputs, kernel)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.gate = _Excitation(outputs) if excite else nn.Identity()
        same = inputs == outputs and stride == 1
        self.shortcut = (
            nn.Identity() if same else nn.Sequential(_convolution(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))
        )

    def forward(self, images: Tensor) -> Tensor:
        inner = torch.relu(self.bn1(self.conv1(images)))
        inner = self.gate(self.bn2(self.conv2(inner)))
        return torch.relu(inner + self.shortcut(images))


class _Residual(nn.Module):
    """Stem, stages of residual blocks (each stage after the first halves the image), mean, classifier."""

    def __init__(self, widths: tuple[int, ...], depth: int, kernel: int, excite: bool) -> None:
        super().__init__()
        self.stem = nn.Sequential(_convolution(1, widths[0], kernel), nn.BatchNorm2d(widths[0]), nn.ReLU())
        stages: list[nn.Module] = []
        inputs = widths[0]
        for number, width in enumerate(widths):
            blocks = []
            for place in range(depth):
                blocks.append(_Block(inputs, width, kernel, 2 if number and not place else 1, excite))
                inputs = width
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(inputs, 10)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.stages(self.stem(images)).mean((2, 3)))
        return logits

"""The networks of the trained checkpoints in the evaluation data, with widths, depths and kernels left open."""

from __future__ import annotations

__all__ = ["CifarResNet", "InvertedNet", "MBConvNet", "NetworkInNetwork"]

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Block = tuple[int, int, int, int]


class _Basic(nn.Module):
    """Two convolutions beside a shortcut: padded channels (option A), or a 1 x 1 convolution (option B)."""

    def __init__(self, inputs: int, inner: int, outputs: int, stride: int, kernel: int, option: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, inner, kernel, stride, kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, outputs, kernel, 1, kernel // 2, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.pad = stride, (outputs - inputs) // 2
        self.downsample: nn.Module | None = None
        if option == "B" and (stride > 1 or inputs != outputs):
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.downsample is not None:
            x = self.downsample(x)
        elif self.pad or self.stride > 1:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.pad, self.pad))
        return F.relu(y + x)


class CifarResNet(nn.Module):
    """ResNet for small pictures (He et al., 2015): three stages of ``depth`` blocks each.

    ``widths`` are those of the stages, ``inner`` that of every block's first convolution where it is another.
    """

    def __init__(
        self,
        widths: Sequence[int] = (16, 32, 64),
        depth: int = 3,
        kernel: int = 3,
        classes: int = 10,
        option: str = "A",
        inner: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], kernel, 1, kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        inputs = widths[0]
        for stage, width in enumerate(widths):
            blocks = []
            for block in range(depth):
                inside = inner[stage * depth + block] if inner else width
                stride = 2 if stage and not block else 1
                blocks.append(_Basic(inputs, inside, width, stride, kernel, option))
                inputs = width
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.option = option
        setattr(self, "linear" if option == "A" else "fc", nn.Linear(inputs, classes))

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(batch, classes)`` for ``(batch, 3, height, width)``."""
        x = F.relu(self.bn1(self.conv1(x)))
        for name in ("layer1", "layer2", "layer3"):
            x = getattr(self, name)(x)
        found: Tensor = getattr(self, "linear" if self.option == "A" else "fc")(x.mean((2, 3)))
        return found


class _Norm(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(inputs, outputs, kernel, 1, kernel // 2), nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class NetworkInNetwork(nn.Module):
    """Network in Network with batch norm; ``factor`` multiplies every width."""

    def __init__(self, factor: float = 1.0, classes: int = 10) -> None:
        super().__init__()
        a, b, c = (int(width * factor) for width in (192, 160, 96))
        self.features = nn.Sequential(
            nn.Conv2d(3, a, 5, 1, 2), nn.BatchNorm2d(a),
            _Norm(a, b, 1), _Norm(b, c, 1), nn.MaxPool2d(3, 2, 1),
            _Norm(c, a, 5), _Norm(a, a, 1), _Norm(a, a, 1), nn.AvgPool2d(3, 2, 1),
            _Norm(a, a, 3), _Norm(a, a, 1),
            nn.Conv2d(a, classes, 1), nn.BatchNorm2d(classes),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(batch, classes)`` for ``(batch, 3, 32, 32)``."""
        x = self.features[2:11](F.relu(self.features[:2](x)))
        found: Tensor = F.relu(self.features[11:](x)).mean((2, 3))
        return found


class _MBConv(nn.Module):
    """Expansion, depthwise convolution, squeeze-and-excitation, projection."""

    def __init__(
        self, inputs: int, outputs: int, hidden: int, squeezed: int, stride: int, kernel: int, expand: bool
    ) -> None:
        super().__init__()
        self.expand_conv, self.bn0 = None, None
        if expand:
            self.expand_conv = nn.Conv2d(inputs, hidden, 1, bias=False)
            self.bn0 = nn.BatchNorm2d(hidden)
        pad = 0 if stride == 2 else kernel // 2
        self.conv = nn.Conv2d(hidden, hidden, kernel, stride, pad, groups=hidden, bias=False)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.se_reduce, self.se_expand = nn.Conv2d(hidden, squeezed, 1), nn.Conv2d(squeezed, hidden, 1)
        self.project_conv, self.bn2 = nn.Conv2d(hidden, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.skip = stride == 1 and inputs == outputs
        before = kernel // 2 - 1
        self.pads = (before, kernel // 2, before, kernel // 2) if stride == 2 else ()

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand_conv is None or self.bn0 is None else F.silu(self.bn0(self.expand_conv(x)))
        y = F.silu(self.bn1(self.conv(F.pad(y, self.pads) if self.pads else y)))
        y = y * torch.sigmoid(self.se_expand(F.silu(self.se_reduce(y.mean((2, 3), keepdim=True)))))
        y = self.bn2(self.project_conv(y))
        found: Tensor = x + y if self.skip else y
        return found


class MBConvNet(nn.Module):
    """EfficientNet-like network for CIFAR-100.

    ``factor`` multiplies every width, ``repeats`` how often a block with a skip stands there, ``kernel`` is that of the
    depthwise convolutions.
    """

    widths = (16, 24, 40, 40, 48, 64, 64, 80, 80, 96)
    hidden = (24, 96, 144, 240, 240, 288, 384, 384, 480, 480)
    squeezed = (4, 3, 4, 8, 8, 9, 12, 12, 16, 16)

    def __init__(self, factor: float = 1.0, repeats: int = 1, kernel: int = 3, classes: int = 100) -> None:
        super().__init__()
        stem, head = int(24 * factor), int(136 * factor)
        self.conv_stem, self.bn0 = nn.Conv2d(3, stem, 3, 2, bias=False), nn.BatchNorm2d(stem)
        blocks, inputs = [], 24
        for number, outputs in enumerate(self.widths):
            a, b = int(inputs * factor), int(outputs * factor)
            hidden, squeezed = int(self.hidden[number] * factor), int(self.squeezed[number] * factor)
            for _ in range(repeats if number in (3, 6, 8) else 1):
                blocks.append(_MBConv(a, b, hidden, squeezed, 2 if number in (2, 7) else 1, kernel, number > 0))
            inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.conv_head = nn.Conv2d(int(inputs * factor), head, 1, bias=False)
        self.bn1, self.fc = nn.BatchNorm2d(head), nn.Linear(head, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(batch, classes)`` for ``(batch, 3, 32, 32)``."""
        x = F.silu(self.bn0(self.conv_stem(F.pad(F.interpolate(x, (63, 63)), (0, 1, 0, 1)))))
        found: Tensor = self.fc(F.silu(self.bn1(self.conv_head(self.blocks(x)))).mean((2, 3)))
        return found


class _Inverted(nn.Module):
    """Inverted residual block (Sandler et al., 2018), with torchvision's names."""

    def __init__(self, inputs: int, hidden: int, outputs: int, kernel: int, stride: int, expand: bool) -> None:
        super().__init__()
        parts: list[nn.Module] = [_clipped(inputs, hidden, 1)] if expand else []
        parts += [_clipped(hidden, hidden, kernel, stride, hidden)]
        self.conv = nn.Sequential(*parts, nn.Conv2d(hidden, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
        self.skip = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return x + y if self.skip else y


def _clipped(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU6())


class InvertedNet(nn.Module):
    """MobileNetV2 or MCUNet without a last convolution; ``blocks`` are (hidden, out, kernel, stride)."""

    def __init__(self, blocks: Sequence[Block], stem: int = 16, classes: int = 1000) -> None:
        super().__init__()
        parts: list[nn.Module] = [_clipped(3, stem, 3, 2)]
        inputs = stem
        for number, (hidden, outputs, kernel, stride) in enumerate(blocks):
            parts.append(_Inverted(inputs, hidden, outputs, kernel, stride, number > 0))
            inputs = outputs
        self.features = nn.Sequential(*parts)
        self.classifier = nn.Sequential(nn.Dropout(0.0), nn.Linear(inputs, classes))

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(batch, classes)`` for ``(batch, 3, height, width)``."""
        found: Tensor = self.classifier(self.features(x).mean((2, 3)))
        return found

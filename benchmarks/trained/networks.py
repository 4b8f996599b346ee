"""The networks of ``benchmarks/trained/*.toml``, as the lab calls them: with the number of classes."""

from __future__ import annotations

__all__ = ["nin", "resnet", "resnet_b", "resnet_b_thin"]

from torch import nn

from benchmarks.growth.networks import CifarResNet, NetworkInNetwork

_THIN = (11, 8, 9, 22, 20, 32, 52, 56, 64)


def resnet(depth: int = 3, width: int = 16, num_classes: int = 10) -> nn.Module:
    """Return a ResNet of 6 × ``depth`` + 2 layers whose shortcuts pad channels (option A)."""
    return CifarResNet((width, 2 * width, 4 * width), depth, classes=num_classes)


def resnet_b(num_classes: int = 10) -> nn.Module:
    """Return a ResNet-20 whose shortcuts convolve where the width changes (option B)."""
    return CifarResNet(option="B", classes=num_classes)


def resnet_b_thin(num_classes: int = 10) -> nn.Module:
    """Return the same, pruned inside its blocks."""
    return CifarResNet(option="B", inner=_THIN, classes=num_classes)


def nin(num_classes: int = 10) -> nn.Module:
    """Return a Network in Network with batch norm."""
    return NetworkInNetwork(classes=num_classes)

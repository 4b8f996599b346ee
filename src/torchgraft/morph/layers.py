"""Reading one layer of torch as a filter: its geometry, its weight and bias in float64."""

from __future__ import annotations

__all__ = ["Layer", "make_layer", "pads_of", "read_layer"]

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin

from torchgraft.errors import MorphError
from torchgraft.morph.layout import Filter, Pads

_KINDS: Mapping[int, type[nn.Module]] = {0: nn.Linear, 1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """A convolution or linear layer, ``weight`` (out, in / groups, *kernel); ``mode`` is how it pads."""

    filter: Filter
    weight: Tensor
    bias: Tensor | None
    groups: int = 1
    mode: str = "zeros"

    @property
    def dims(self) -> int:
        """The number of spatial axes: 0 for a linear layer."""
        return len(self.filter.kernel)


def read_layer(layer: nn.Module) -> Layer:
    """Return a layer's geometry and values. Raises :class:`MorphError` for what is no convolution and not linear."""
    if isinstance(layer, LazyModuleMixin) or not isinstance(layer, nn.Linear | Convolution):
        raise MorphError(f"cannot read {type(layer).__name__} as a filter: give a Conv1d, Conv2d, Conv3d or Linear")
    weight = layer.weight.detach()
    if weight.is_meta or not weight.is_floating_point():
        raise MorphError(
            f"the weight of {type(layer).__name__} has no real numbers to work with ({weight.dtype}, {weight.device})"
        )
    if layer._forward_pre_hooks or layer._forward_hooks:
        raise MorphError(f"{type(layer).__name__} has hooks that may change its function: remove them first")
    bias = None if layer.bias is None else layer.bias.detach().to("cpu", torch.float64)
    values = weight.to("cpu", torch.float64)
    if isinstance(layer, nn.Linear):
        return Layer(Filter(layer.in_features, layer.out_features, (), (), (), ()), values, bias)
    geometry = Filter(
        layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.dilation, pads_of(layer)
    )
    return Layer(geometry, values, bias, layer.groups, layer.padding_mode)


@torch.no_grad()
def make_layer(weight: Tensor, bias: Tensor | None, groups: int = 1, **options: Any) -> nn.Module:
    """Return the layer of torch that has a weight (out, in / groups, *kernel) and ``options``, in the weight's type."""
    outputs, inputs, *kernel = weight.shape
    kind: Callable[..., nn.Module] = _KINDS[len(kernel)]
    # Made on the meta device, so that no random numbers are drawn for it.
    options = {"bias": bias is not None, "dtype": weight.dtype, "device": "meta", **options}
    if kernel:
        layer = kind(inputs * groups, outputs, tuple(kernel), groups=groups, **options)
    else:
        layer = kind(inputs, outputs, **options)
    layer.to_empty(device=weight.device)
    for parameter, value in zip(layer.parameters(), (weight, bias), strict=False):
        if value is not None:
            parameter.copy_(value)
    return layer


def pads_of(layer: Convolution) -> Pads:
    """Return what a convolution pads before and after each axis, whatever way it was written."""
    if layer.padding == "valid":
        return ((0, 0),) * len(layer.kernel_size)
    if layer.padding == "same":
        whole = [by * (length - 1) for length, by in zip(layer.kernel_size, layer.dilation, strict=True)]
        return tuple((number // 2, number - number // 2) for number in whole)
    return tuple((int(number), int(number)) for number in layer.padding)

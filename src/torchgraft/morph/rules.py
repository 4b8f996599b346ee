"""What each linear layer and function does to a flow."""

from __future__ import annotations

__all__ = ["FUNCTIONS", "METHODS", "MODULES", "FunctionRule"]

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from torchgraft.errors import MorphError
from torchgraft.morph.activation import Blend
from torchgraft.morph.flow import Flow, filtered, joined, padded, parted, scaled, shifted, summed
from torchgraft.morph.kernels import Kernel, from_weight
from torchgraft.morph.layers import Layer, read_layer
from torchgraft.morph.layout import Pads
from torchgraft.morph.normalization import BatchNorm


def _convolution(flow: Flow, layer: Any, path: str) -> Flow:
    read = read_layer(layer)
    _check_dims(flow, read.dims, path)
    kernel = from_weight(read.weight, (0,) * read.dims, (1,) * read.dims)
    pads = _beside(kernel, read)
    if read.mode != "zeros" and any(map(any, read.filter.pads)):
        kernel, pads = Kernel(read.weight, (0,) * read.dims), read.filter.pads
    if any(map(any, pads)):
        flow = padded(flow, pads, read.mode, path)
    return filtered(flow, kernel.taps, read.bias, read.filter.stride, read.filter.dilation, read.groups)


def _beside(kernel: Kernel, read: Layer) -> Pads:
    """Return what is left to pad where outer taps that are zero are taken off; negative numbers crop."""
    found = []
    for axis, (before, after) in enumerate(read.filter.pads):
        step, length = read.filter.dilation[axis], read.filter.kernel[axis]
        found.append((before - kernel.first[axis] * step, after - (length - 1 - kernel.last[axis]) * step))
    return tuple(found)


def _check_dims(flow: Flow, dims: int, path: str) -> None:
    if len(flow.rate) != dims:
        raise MorphError(f"{path} has {dims} spatial axes where the layers before have {len(flow.rate)}")


def _batch_norm(flow: Flow, layer: Any, path: str) -> Flow:
    if layer.training or layer.running_mean is None or layer.running_var is None:
        raise MorphError(
            f"{path} takes the statistics of the batch, which is not linear: call eval() where it keeps its own"
        )
    mean, variance = (one.detach().to("cpu", torch.float64) for one in (layer.running_mean, layer.running_var))
    slope = (variance + layer.eps).rsqrt()
    slope = slope if layer.weight is None else slope * layer.weight.detach().to("cpu", torch.float64)
    offset = -mean * slope
    offset = offset if layer.bias is None else offset + layer.bias.detach().to("cpu", torch.float64)
    return shifted(scaled(flow, slope), offset)


def _nothing(flow: Flow, layer: Any, path: str) -> Flow:
    return flow


def _dropout(flow: Flow, layer: Any, path: str) -> Flow:
    if layer.training and float(getattr(layer, "p", 0.0)) > 0:
        raise MorphError(f"{path} draws random numbers in train mode: call eval() first")
    return flow


def _average(flow: Flow, layer: Any, path: str) -> Flow:
    dims = len(flow.rate)
    kernel, stride, pads = (_each(getattr(layer, name), dims) for name in ("kernel_size", "stride", "padding"))
    if layer.ceil_mode or getattr(layer, "divisor_override", None) or (any(pads) and not layer.count_include_pad):
        raise MorphError(f"{path} divides by another number at the border: only plain averages are one convolution")
    if any(pads):
        flow = padded(flow, tuple((number, number) for number in pads), "zeros", path)
    channels = len(flow.bias)
    weight = torch.full((channels, 1, *kernel), 1 / torch.Size(kernel).numel(), dtype=torch.float64)
    return filtered(flow, weight, None, stride, (1,) * dims, channels)


def _each(value: Any, dims: int) -> tuple[int, ...]:
    return (int(value),) * dims if isinstance(value, int) else tuple(map(int, value))


def _pad(mode: str) -> Callable[[Flow, Any, str], Flow]:
    def rule(flow: Flow, layer: Any, path: str) -> Flow:
        numbers = [int(number) for number in layer.padding]
        if getattr(layer, "value", 0):
            raise MorphError(f"{path} pads with a constant that is not zero, which no convolution does")
        _check_dims(flow, len(numbers) // 2, path)
        pairs = tuple(zip(numbers[::2], numbers[1::2], strict=True))[::-1]
        return padded(flow, pairs, mode, path)

    return rule


def _activation(flow: Flow, layer: Any, path: str) -> Flow:
    amount = layer.amount if isinstance(layer, Blend) else layer.weight
    if not bool((amount == 1).all()):
        raise MorphError(f"{path} ({type(layer).__name__}) is not linear: its parameter is no longer one")
    return flow


def _functional_norm(
    path: str, flow: Flow, mean: Any, variance: Any, weight: Any = None, bias: Any = None,
    training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
) -> Flow:  # fmt: skip
    norm = nn.BatchNorm1d(len(flow.bias), eps, affine=weight is not None, track_running_stats=mean is not None)
    norm.train(training or mean is None)
    norm.running_mean, norm.running_var = mean, variance
    norm.weight, norm.bias = weight, bias
    return _batch_norm(flow, norm, path)


def _axes(path: str, flow: Any, name: str) -> int:
    if name != "ndim":
        raise MorphError(f"{path} reads the {name} of a blob: only layers, sums and concatenations are followed")
    return len(flow.rate) + 2


def _equal(path: str, one: Any, other: Any) -> bool:
    return bool(one == other)


def _asserted(path: str, holds: bool, message: str = "") -> None:
    if not holds:
        raise MorphError(f"{path} does not hold: {message}")


ModuleRule = Callable[[Flow, Any, str], Flow]

#: Linear layers, by type; subclasses are looked up by their bases.
MODULES: Mapping[type[nn.Module], ModuleRule] = {
    nn.Conv1d: _convolution, nn.Conv2d: _convolution, nn.Conv3d: _convolution, nn.Linear: _convolution,
    BatchNorm: _batch_norm, nn.Identity: _nothing,
    nn.Dropout: _dropout, nn.Dropout1d: _dropout, nn.Dropout2d: _dropout, nn.Dropout3d: _dropout,
    nn.AvgPool1d: _average, nn.AvgPool2d: _average, nn.AvgPool3d: _average,
    nn.ZeroPad1d: _pad("zeros"), nn.ZeroPad2d: _pad("zeros"), nn.ZeroPad3d: _pad("zeros"),
    nn.ConstantPad1d: _pad("zeros"), nn.ConstantPad2d: _pad("zeros"), nn.ConstantPad3d: _pad("zeros"),
    nn.ReflectionPad1d: _pad("reflect"), nn.ReflectionPad2d: _pad("reflect"), nn.ReflectionPad3d: _pad("reflect"),
    nn.ReplicationPad1d: _pad("replicate"), nn.ReplicationPad2d: _pad("replicate"),
    nn.ReplicationPad3d: _pad("replicate"),
    nn.CircularPad1d: _pad("circular"), nn.CircularPad2d: _pad("circular"), nn.CircularPad3d: _pad("circular"),
    nn.PReLU: _activation, Blend: _activation,
}  # fmt: skip


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _add(path: str, one: Any, other: Any, *, alpha: float = 1) -> Flow:
    if isinstance(one, Flow) and isinstance(other, Flow):
        return summed([one, other if alpha == 1 else scaled(other, alpha)], path)
    flow, number = (one, _number(other)) if isinstance(one, Flow) else (other, _number(one))
    if number is None or alpha != 1:
        raise MorphError(f"{path} adds what is neither a blob nor a number")
    return shifted(flow, number)


def _subtract(path: str, one: Any, other: Any) -> Flow:
    return _add(path, one, scaled(other, -1.0) if isinstance(other, Flow) else -other)


def _multiply(path: str, one: Any, other: Any) -> Flow:
    flow, number = (one, _number(other)) if isinstance(one, Flow) else (other, _number(one))
    if number is None or not isinstance(flow, Flow):
        raise MorphError(f"{path} multiplies blobs with each other, which is not linear")
    return scaled(flow, number)


def _divide(path: str, one: Any, other: Any) -> Flow:
    number = _number(other)
    if number is None or not isinstance(one, Flow):
        raise MorphError(f"{path} divides by a blob, which is not linear")
    return scaled(one, 1.0 / number)


def _negative(path: str, one: Flow) -> Flow:
    return scaled(one, -1.0)


def _same(path: str, one: Flow, *rest: Any, **options: Any) -> Flow:
    return one


def _concatenated(path: str, tensors: Any, dim: int = 0) -> Flow:
    flows = list(tensors)
    if not all(isinstance(flow, Flow) and _is_of_channels(flow, dim) for flow in flows):
        raise MorphError(
            f"{path} concatenates along axis {dim}: only blobs along their channels (1) are one convolution"
        )
    return joined(flows, path)


def _split(path: str, flow: Flow, sizes: Any, dim: int = 0) -> list[Flow]:
    if not _is_of_channels(flow, dim):
        raise MorphError(f"{path} splits along axis {dim}: only the channels (1) of a blob are followed apart")
    whole, left = divmod(len(flow.bias), sizes) if isinstance(sizes, int) else (0, 0)
    given = [sizes] * whole + [left] * bool(left) if isinstance(sizes, int) else list(sizes)
    return parted(flow, given, path)


def _is_of_channels(flow: Flow, dim: int) -> bool:
    return dim in (1, -1 - len(flow.rate))


def _item(path: str, held: Any, place: Any) -> Any:
    if not isinstance(held, list) or not isinstance(place, int):
        raise MorphError(
            f"{path} takes a part of a blob by its place: only whole channels, by torch.split, are followed"
        )
    return held[place]


def _sum_of(path: str, tensors: Any, begin: Any = 0) -> Flow:
    flows = [flow for flow in (begin, *tensors) if isinstance(flow, Flow)]
    return summed(flows, path)


FunctionRule = Callable[..., Any]

#: Linear functions, by what is called; they take the place of the call, then its arguments.
FUNCTIONS: Mapping[Any, FunctionRule] = {
    operator.add: _add, operator.iadd: _add, torch.add: _add, Tensor.add: _add,
    operator.sub: _subtract, torch.sub: _subtract,
    operator.mul: _multiply, operator.imul: _multiply, torch.mul: _multiply,
    operator.truediv: _divide, torch.div: _divide,
    operator.neg: _negative, torch.neg: _negative,
    torch.cat: _concatenated, torch.concat: _concatenated, sum: _sum_of,
    torch.split: _split, operator.getitem: _item,
    functional.batch_norm: _functional_norm, getattr: _axes, operator.eq: _equal, torch._assert: _asserted,
}  # fmt: skip

#: Linear methods of tensors, by name.
METHODS: Mapping[str, FunctionRule] = {
    "add": _add, "add_": _add, "sub": _subtract, "mul": _multiply, "mul_": _multiply, "div": _divide, "neg": _negative,
    "split": _split,
    "contiguous": _same, "clone": _same,
}  # fmt: skip

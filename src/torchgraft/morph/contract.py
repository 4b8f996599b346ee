"""The reverse of a module morph: a linear part of a network becomes one layer."""

from __future__ import annotations

__all__ = ["contract"]

import math
import operator
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from torchgraft.errors import MorphError
from torchgraft.morph.activation import Blend
from torchgraft.morph.certificate import TOLERANCE, deviation
from torchgraft.morph.flow import Flow, start
from torchgraft.morph.kernels import Kernel, every, on_box, sizes, trimmed
from torchgraft.morph.layers import make_layer
from torchgraft.morph.normalization import BatchNorm
from torchgraft.morph.rules import FUNCTIONS, METHODS, MODULES, FunctionRule

_ROUNDING = 1e-13  # taps this much smaller than the largest are zero but for rounding


class _Tracer(fx.Tracer):
    """torch's own layers and parametric activations are looked up, everything else is looked into."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, Blend) or bool(super().is_leaf_module(m, module_qualified_name))


def contract(module: nn.Module, *, approximate: bool = False) -> nn.Module:
    """Return the one convolution, or linear layer, that computes what a linear module does, in eval mode.

    Branches and their sums and concatenations, chains, batch norms, average pools, paddings, strides, dilations and
    groups are followed through torch.fx, in float64. The layer has its measured deviation, ``max|layer(x) -
    module(x)| / max|module(x)|`` in float64 with borders, as the attribute ``deviation``. ``module`` is not changed.

    >>> block = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1)).eval()
    >>> contract(block)
    Conv2d(3, 4, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))

    Raises :class:`MorphError`, with the path, for what is not linear; and for a layer that pads a blob in the middle,
    which no convolution does at the borders. With ``approximate`` that one is returned which is right away from them.
    """
    flow = _read(module)
    if flow.interior and not approximate:
        raise MorphError(
            f"{flow.interior}, so no convolution is right at the borders: approximate=True is, away from them"
        )
    layer, shape = _layer(flow)
    apart = deviation(module, layer, shape)
    if not apart <= TOLERANCE and not flow.interior:
        raise MorphError(f"the layer found deviates by {apart:.1e}: the module is not linear in eval mode")
    like = next((tensor for tensor in module.parameters()), None)
    if like is not None:
        layer.to(like.device, like.dtype)
    layer.train(module.training)
    setattr(layer, "deviation", apart)  # noqa: B010 - an attribute of this one layer, unknown to its class
    return layer


def _read(module: nn.Module) -> Flow:
    """Follow the module's input through everything it calls."""
    root = nn.Sequential(module)  # a layer of torch itself is looked up then, too
    try:
        graph = _Tracer().trace(root)
    except Exception as error:  # whatever the module's own forward raises when it meets a proxy
        raise MorphError(
            f"{type(module).__name__} cannot be traced by torch.fx ({error}): contract its parts"
        ) from error
    channels, dims = _input(graph, root)
    values: dict[fx.Node, Any] = {}
    for node in graph.nodes:
        if node.op == "placeholder":
            values[node] = start(channels, dims)
        elif node.op == "output":
            outcome = fx.node.map_arg(node.args[0], values.__getitem__)
            if not isinstance(outcome, Flow):
                raise MorphError(f"{type(module).__name__} returns no single blob: contract the parts that do")
            return outcome
        else:
            values[node] = _step(node, root, values)
    raise AssertionError("a graph of torch.fx ends with its output")


def _step(node: fx.Node, root: nn.Module, values: Mapping[fx.Node, Any]) -> Any:
    arguments: Any = fx.node.map_arg(node.args, values.__getitem__)
    options: Any = fx.node.map_arg(node.kwargs, values.__getitem__)
    if node.op == "call_module":
        path = str(node.target)
        layer = root.get_submodule(path)
        rule = next((MODULES[base] for base in type(layer).__mro__ if base in MODULES), None)
        where = path.partition(".")[2] or "the module"
        if rule is None:
            raise MorphError(
                f"{where} ({type(layer).__name__}) is no linear layer of a fixed window: contract the parts around it"
            )
        return rule(arguments[0], layer, where)
    if node.op == "get_attr":
        return operator.attrgetter(str(node.target))(root)
    name = getattr(node.target, "__name__", str(node.target))
    table: Mapping[Any, FunctionRule] = FUNCTIONS if node.op == "call_function" else METHODS
    if node.target not in table:
        raise MorphError(
            f"{node.name} ({name}) is no linear operation that is known: use layers, sums and concatenations"
        )
    return table[node.target](node.name, *arguments, **options)


def _input(graph: fx.Graph, root: nn.Module) -> tuple[int, int]:
    """Return the channels and spatial axes of the input, from the layers."""
    dims = None
    for layer in _called(graph, root):
        if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
            dims = 0 if isinstance(layer, nn.Linear) else len(layer.kernel_size)
            break
    first = next(node for node in graph.nodes if node.op == "placeholder")
    reading, seen = [first], {first}
    while reading:
        node = reading.pop(0)
        if node.op == "call_module":
            layer = root.get_submodule(str(node.target))
            channels = _channels(layer)
            if channels is not None:
                return channels, _dims(layer) if dims is None else dims
        elif node.target in (torch.split, "split") and len(node.args) > 1 and not isinstance(node.args[1], int):
            return sum(node.args[1]), dims or 0
        for user in node.users:
            if user not in seen:
                seen.add(user)
                reading.append(user)
    raise MorphError(
        "no layer says how many channels come in: contract needs a convolution, a linear layer or a batch norm"
    )


def _called(graph: fx.Graph, root: nn.Module) -> Iterator[nn.Module]:
    return (root.get_submodule(str(node.target)) for node in graph.nodes if node.op == "call_module")


def _channels(layer: nn.Module) -> int | None:
    for kind, name in ((nn.Linear, "in_features"), (BatchNorm, "num_features")):
        if isinstance(layer, kind):
            return int(getattr(layer, name))
    return layer.in_channels if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d) else None


def _dims(layer: nn.Module) -> int:
    return 2 if isinstance(layer, nn.BatchNorm2d) else 3 if isinstance(layer, nn.BatchNorm3d) else 0


def _layer(flow: Flow) -> tuple[nn.Module, tuple[int, ...]]:
    """Return the layer of a flow, in float64, and the shape of an input on which its borders and middle are seen."""
    outputs, inputs = flow.kernel.taps.shape[:2]
    bias = flow.bias if bool(flow.bias.any()) else None
    if not flow.rate:
        return make_layer(flow.kernel.taps, bias), (4, inputs)
    kernel = trimmed(_cleaned(flow.kernel))
    first, last = list(kernel.first), list(kernel.last)
    pads, steps = [], []
    for axis, (high, own) in enumerate(zip(flow.high, flow.entry, strict=True)):
        before, after = -first[axis], high + last[axis] + 1
        if flow.mode != "zeros" and max(before, after) > 0:
            raise MorphError(f"the module pads in mode {flow.mode}, then with zeros, which no convolution does")
        before, after = before + own[0], after + own[1]
        step = _distance(kernel, axis)
        step = 1 if (before - after) % step else step
        number = max(before, after) if max(before, after) >= 0 else before % step
        first[axis] -= number - before  # taps of zero, so that both sides are padded as much
        last[axis] += number - after
        pads.append(number)
        steps.append(step)
    extent = [high - low + 1 for low, high in zip(first, last, strict=True)]
    taps = on_box(kernel, first, extent)[every(steps)]
    groups = _groups(taps)
    rows, columns = outputs // groups, inputs // groups
    blocks = [taps[g * rows : (g + 1) * rows, g * columns : (g + 1) * columns] for g in range(groups)]
    layer = make_layer(
        torch.cat(blocks),
        bias,
        groups,
        stride=flow.rate,
        padding=tuple(pads),
        dilation=tuple(steps),
        padding_mode=flow.mode,
    )
    sizes = [max(length, 1 + pad) + 2 * by + 2 for length, pad, by in zip(extent, pads, flow.rate, strict=True)]
    return layer, (2, inputs, *sizes)


def _cleaned(kernel: Kernel) -> Kernel:
    """Return the kernel with taps that are rounding set to zero."""
    size = sizes(kernel)
    return Kernel(torch.where(size > _ROUNDING * size.max(), kernel.taps, torch.zeros_like(kernel.taps)), kernel.first)


def _distance(kernel: Kernel, axis: int) -> int:
    """Return the distance of the taps along an axis: the dilation of a layer that has them."""
    size = kernel.taps.abs().amax(tuple(other for other in range(kernel.taps.dim()) if other != axis + 2))
    return math.gcd(*(int(place) for place in size.nonzero().flatten())) or 1


def _groups(taps: Tensor) -> int:
    """Return into how many groups the channels fall apart."""
    outputs, inputs = taps.shape[:2]
    size = taps.abs().flatten(2).amax(2)
    size = torch.where(size > _ROUNDING * size.max(), size, torch.zeros_like(size))
    most = math.gcd(outputs, inputs)
    for groups in (number for number in range(most, 1, -1) if most % number == 0):
        found = size.reshape(groups, outputs // groups, groups, inputs // groups).amax((1, 3))
        if bool((found == torch.diag(found.diagonal())).all()):
            return groups
    return 1

"""What a linear part of a network does to its input so far: a kernel, a bias, and how many positions it has.

A layer that pads a blob in the middle is still part of one convolution only where the blob's signal, continued beyond
its border, is what the layer pads with.
"""

from __future__ import annotations

__all__ = ["Flow", "filtered", "joined", "padded", "parted", "scaled", "shifted", "start", "summed"]

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from torchgraft.errors import MorphError
from torchgraft.morph.kernels import Kernel, added, by_tap, composed, identity, on_box, spread
from torchgraft.morph.layout import Pads


@dataclass(frozen=True, slots=True, eq=False)
class Flow:
    """A blob as a function of the input: at index j it is ``bias`` plus ``kernel`` at position ``rate * j`` of it.

    Along each axis it has ``floor((length + high) / rate) + 1`` positions. Where ``mode`` is not zeros, positions and
    length are those of the input after padding by ``entry`` in that mode. ``zeros`` says that zeros beyond that are
    read. ``interior`` says which layer padded what it should not have: the kernel then holds away from the borders
    only.
    """

    kernel: Kernel
    bias: Tensor
    high: tuple[int, ...]
    rate: tuple[int, ...]
    entry: Pads
    mode: str = "zeros"
    zeros: bool = False
    interior: str = ""


def start(channels: int, dims: int) -> Flow:
    """Return the input itself."""
    bias = torch.zeros(channels, dtype=torch.float64)
    return Flow(identity(channels, dims), bias, (-1,) * dims, (1,) * dims, ((0, 0),) * dims)


def filtered(
    flow: Flow, weight: Tensor, bias: Tensor | None, stride: Sequence[int], dilation: Sequence[int], groups: int = 1
) -> Flow:
    """Return the flow after a layer without padding, ``weight`` (out, in / groups, *kernel)."""
    step = [a * b for a, b in zip(dilation, flow.rate, strict=True)]
    own = spread(weight, (0,) * len(step), step, groups)
    if own.taps.shape[1] != len(flow.bias):
        raise MorphError(f"a blob of {len(flow.bias)} channels meets a layer that reads {own.taps.shape[1]}")
    change = by_tap(own).sum(2) @ flow.bias
    return replace(
        flow,
        kernel=composed(own, flow.kernel),
        bias=change if bias is None else change + bias,
        high=tuple(high - last for high, last in zip(flow.high, own.last, strict=True)),
        rate=tuple(a * by for a, by in zip(stride, flow.rate, strict=True)),
    )


def padded(flow: Flow, pads: Pads, mode: str, path: str) -> Flow:
    """Return the flow after padding, or where numbers are negative cropping, before and after each axis."""
    if mode != "zeros":
        return _entered(flow, pads, mode, path)
    reads = any(number > 0 for pair in pads for number in pair)
    wrong = _wrong(flow, pads) if reads else ""
    first = tuple(low - pair[0] * by for low, pair, by in zip(flow.kernel.first, pads, flow.rate, strict=True))
    return replace(
        flow,
        kernel=Kernel(flow.kernel.taps, first),
        high=tuple(high + sum(pair) * by for high, pair, by in zip(flow.high, pads, flow.rate, strict=True)),
        zeros=flow.zeros or reads,
        interior=flow.interior or (f"{path} {wrong}" if wrong else ""),
    )


def _wrong(flow: Flow, pads: Pads) -> str:
    """Say why padding a blob with zeros is not what its signal continues with; nothing where it is."""
    if bool(flow.bias.any()):
        return "pads with zeros a blob that has a bias"
    silent = True
    for axis, (before, after) in enumerate(pads):
        silent &= before <= 0 or flow.kernel.last[axis] < flow.rate[axis]
        silent &= after <= 0 or flow.high[axis] + 1 + flow.kernel.first[axis] >= 0
    return "" if silent else "pads with zeros a blob that does not continue so beyond its border"


def _entered(flow: Flow, pads: Pads, mode: str, path: str) -> Flow:
    """Return the flow after padding in a mode that repeats values.

    That is the same as padding the input where no tap looks aside, and in circles for every blob as large as the input.
    """
    whole = all(high == -1 - sum(pair) for high, pair in zip(flow.high, flow.entry, strict=True)) and set(
        flow.rate
    ) <= {1}
    pointwise = not any(flow.kernel.first) and not any(flow.kernel.last) and flow.mode == "zeros"
    circular = mode == "circular" and (flow.mode == mode or not any(map(any, flow.entry)))
    if flow.zeros or not whole or not (pointwise or circular):
        raise MorphError(
            f"{path} pads in mode {mode} a blob that does not continue so beyond its border: no convolution does"
        )
    entry = tuple((a + c, b + d) for (a, b), (c, d) in zip(flow.entry, pads, strict=True))
    return replace(flow, entry=entry, mode=mode)


def _based(flow: Flow, entry: Pads, mode: str, path: str) -> Flow:
    """Return the same flow in positions of the input after padding by ``entry``, which is at least its own."""
    if (flow.entry, flow.mode) == (entry, mode):
        return flow
    if flow.zeros or flow.mode not in ("zeros", mode):
        raise MorphError(f"{path} joins blobs that were padded in different modes: one convolution has one")
    more = [(a - c, b - d) for (a, b), (c, d) in zip(entry, flow.entry, strict=True)]
    first = tuple(low + before for low, (before, _) in zip(flow.kernel.first, more, strict=True))
    high = tuple(high - before - after for high, (before, after) in zip(flow.high, more, strict=True))
    return replace(flow, kernel=Kernel(flow.kernel.taps, first), high=high, entry=entry, mode=mode)


def scaled(flow: Flow, factor: Tensor | float) -> Flow:
    """Return the flow times a number, or a number for each channel."""
    by = factor.reshape(-1, *[1] * (flow.kernel.taps.dim() - 1)) if isinstance(factor, Tensor) else factor
    return replace(flow, kernel=Kernel(by * flow.kernel.taps, flow.kernel.first), bias=factor * flow.bias)


def shifted(flow: Flow, bias: Tensor | float) -> Flow:
    """Return the flow plus a number, or a number for each channel."""
    return replace(flow, bias=flow.bias + bias)


def summed(flows: Sequence[Flow], path: str) -> Flow:
    """Return the sum of blobs; they must be of one size."""
    flows = _alike(flows, path)
    channels = {len(flow.bias) for flow in flows}
    if len(channels) > 1:
        raise MorphError(f"{path} adds blobs of {' and '.join(map(str, sorted(channels)))} channels: give both as many")
    bias = torch.stack([flow.bias for flow in flows]).sum(0)
    return _merged(flows, added([flow.kernel for flow in flows]), bias)


def joined(flows: Sequence[Flow], path: str) -> Flow:
    """Return blobs concatenated along their channels."""
    flows = _alike(flows, path)
    first = tuple(map(min, zip(*(flow.kernel.first for flow in flows), strict=True)))
    last = tuple(map(max, zip(*(flow.kernel.last for flow in flows), strict=True)))
    extent = tuple(high - low + 1 for low, high in zip(first, last, strict=True))
    taps = torch.cat([on_box(flow.kernel, first, extent) for flow in flows])
    return _merged(flows, Kernel(taps, first), torch.cat([flow.bias for flow in flows]))


def parted(flow: Flow, sizes: Sequence[int], path: str) -> list[Flow]:
    """Return a blob cut into so many channels each."""
    if sum(sizes) != len(flow.bias):
        raise MorphError(f"{path} cuts {len(flow.bias)} channels into {' + '.join(map(str, sizes))}")
    taps, biases = torch.split(flow.kernel.taps, list(sizes)), torch.split(flow.bias, list(sizes))
    return [
        replace(flow, kernel=Kernel(own, flow.kernel.first), bias=bias) for own, bias in zip(taps, biases, strict=True)
    ]


def _alike(flows: Sequence[Flow], path: str) -> list[Flow]:
    """Return the flows in positions of the same input, or say why there is none."""
    mode = next((flow.mode for flow in flows if flow.mode != "zeros"), "zeros")
    entry = tuple(
        (max(pair[0] for pair in axis), max(pair[1] for pair in axis))
        for axis in zip(*(flow.entry for flow in flows), strict=True)
    )
    found = [_based(flow, entry, mode, path) for flow in flows]
    if len({(flow.high, flow.rate) for flow in found}) > 1:
        raise MorphError(f"{path} joins blobs of different sizes: their paddings or strides differ")
    return found


def _merged(flows: Sequence[Flow], kernel: Kernel, bias: Tensor) -> Flow:
    interior = next((flow.interior for flow in flows if flow.interior), "")
    zeros = any(flow.zeros for flow in flows)
    return replace(flows[0], kernel=kernel, bias=bias, zeros=zeros, interior=interior)

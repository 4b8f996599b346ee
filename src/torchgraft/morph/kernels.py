"""Filters as finite tables of taps at integer offsets: composition, sums, and the sums over all paths of a module.

A kernel maps a blob x to y(z) = sum over q of taps[..., q - first] x(z + q): correlation, as torch has it. Offsets
are in positions of the module's input, so that strides before a layer space its taps out (arXiv:1701.03281 thinks of
filters as infinite and forgets both).
"""

from __future__ import annotations

__all__ = [
    "Kernel",
    "added",
    "by_tap",
    "composed",
    "constant",
    "difference",
    "every",
    "from_weight",
    "identity",
    "norm",
    "offsets",
    "on_box",
    "single",
    "sizes",
    "spread",
    "transposed",
    "trimmed",
]

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import EllipsisType

import torch
from torch import Tensor
from torch.nn import functional

_CORRELATE = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}


@dataclass(frozen=True, slots=True, eq=False)
class Kernel:
    """``taps`` (out, in, *extent) in float64; ``first`` is the offset of the first tap, one number for each axis."""

    taps: Tensor
    first: tuple[int, ...]

    @property
    def extent(self) -> tuple[int, ...]:
        """The number of taps along each axis."""
        return tuple(self.taps.shape[2:])

    @property
    def last(self) -> tuple[int, ...]:
        """The offset of the last tap."""
        return tuple(low + length - 1 for low, length in zip(self.first, self.extent, strict=True))


def identity(channels: int, dims: int, scale: float = 1.0) -> Kernel:
    """Return the kernel that multiplies by ``scale``."""
    eye = scale * torch.eye(channels, dtype=torch.float64)
    return Kernel(eye.reshape(channels, channels, *[1] * dims), (0,) * dims)


def constant(outputs: int, inputs: int, dims: int) -> Kernel:
    """Return the kernel that is zero."""
    return Kernel(torch.zeros(outputs, inputs, *[1] * dims, dtype=torch.float64), (0,) * dims)


def from_weight(weight: Tensor, first: Sequence[int], step: Sequence[int], groups: int = 1) -> Kernel:
    """Return the kernel of a weight (out, in / groups, *kernel), its taps ``step`` positions apart, outer zeros off."""
    return trimmed(spread(weight.detach().to(torch.float64), first, step, groups))


def spread(weight: Tensor, first: Sequence[int], step: Sequence[int], groups: int = 1) -> Kernel:
    """Return the kernel of a weight with all of its taps; differentiable."""
    dense = _dense(weight, groups)
    extent = [1 + (length - 1) * by for length, by in zip(dense.shape[2:], step, strict=True)]
    if list(dense.shape[2:]) != extent:
        apart = dense.new_zeros(*dense.shape[:2], *extent)
        apart[every(step)] = dense
        dense = apart
    return Kernel(dense, tuple(first))


def _dense(weight: Tensor, groups: int) -> Tensor:
    if groups == 1:
        return weight
    rows, columns = weight.shape[0] // groups, weight.shape[1]
    dense = weight.new_zeros(weight.shape[0], columns * groups, *weight.shape[2:])
    for group in range(groups):
        block = slice(group * rows, (group + 1) * rows)
        dense[block, group * columns : (group + 1) * columns] = weight[block]
    return dense


def every(step: Sequence[int]) -> tuple[EllipsisType | slice, ...]:
    """Return the index of every ``step``-th tap along each axis."""
    return (..., *(slice(None, None, by) for by in step))


def composed(second: Kernel, first: Kernel) -> Kernel:
    """Return ``second`` after ``first``: taps are summed over the channels between, offsets add."""
    start = tuple(a + b for a, b in zip(first.first, second.first, strict=True))
    dims = len(start)
    if second.taps.shape[2:].numel() == 1 or first.taps.shape[2:].numel() == 1:
        return Kernel(_pointwise(second.taps, first.taps), start)
    flipped = second.taps.flip(tuple(range(2, 2 + dims)))
    border = [length - 1 for length in second.extent]
    taps = _CORRELATE[dims](first.taps.transpose(0, 1), flipped, padding=border)
    return Kernel(taps.transpose(0, 1), start)


def _pointwise(second: Tensor, first: Tensor) -> Tensor:
    if second.shape[2:].numel() == 1:
        matrix = second.reshape(second.shape[:2])
        return (matrix @ first.reshape(first.shape[0], -1)).reshape(matrix.shape[0], *first.shape[1:])
    matrix = first.reshape(first.shape[:2])
    extent = second.shape[2:]
    taps = second.flatten(2).transpose(1, 2).reshape(-1, matrix.shape[0]) @ matrix
    return taps.reshape(second.shape[0], -1, matrix.shape[1]).transpose(1, 2).reshape(-1, matrix.shape[1], *extent)


def added(kernels: Sequence[Kernel]) -> Kernel:
    """Return the sum of kernels between the same two blobs."""
    if len(kernels) == 1:
        return kernels[0]
    first = tuple(map(min, zip(*(one.first for one in kernels), strict=True)))
    last = tuple(map(max, zip(*(one.last for one in kernels), strict=True)))
    extent = tuple(high - low + 1 for low, high in zip(first, last, strict=True))
    total = kernels[0].taps.new_zeros(*kernels[0].taps.shape[:2], *extent)
    for one in kernels:
        total[_window(one, first)] += one.taps
    return Kernel(total, first)


def _window(kernel: Kernel, first: Sequence[int]) -> tuple[slice, ...]:
    places = [low - start for low, start in zip(kernel.first, first, strict=True)]
    spans = (slice(place, place + length) for place, length in zip(places, kernel.extent, strict=True))
    return (slice(None), slice(None), *spans)


def difference(one: Kernel, other: Kernel) -> Kernel:
    """Return ``one`` less ``other``."""
    return added([one, Kernel(-other.taps, other.first)])


def on_box(kernel: Kernel, first: Sequence[int], extent: Sequence[int]) -> Tensor:
    """Return the taps (out, in, *extent) from offset ``first`` on; what lies outside is dropped."""
    box = kernel.taps.new_zeros(*kernel.taps.shape[:2], *extent)
    here, there = [], []
    for low, length, start, span in zip(kernel.first, kernel.extent, first, extent, strict=True):
        begin, end = max(low, start), min(low + length, start + span)
        if begin >= end:
            return box
        here.append(slice(begin - start, end - start))
        there.append(slice(begin - low, end - low))
    place: tuple[EllipsisType | slice, ...] = (..., *here)
    origin: tuple[EllipsisType | slice, ...] = (..., *there)
    box[place] = kernel.taps[origin]
    return box


def trimmed(kernel: Kernel) -> Kernel:
    """Return the kernel without outer taps that are zero; at least one tap stays."""
    dims = len(kernel.first)
    if not dims:
        return kernel
    kept = sizes(kernel) > 0
    if not bool(kept.any()):
        outputs, inputs = kernel.taps.shape[:2]
        return constant(outputs, inputs, dims)
    spans = []
    for axis in range(dims):
        line = kept.any(tuple(other for other in range(dims) if other != axis)) if dims > 1 else kept
        places = line.nonzero().flatten()
        spans.append(slice(int(places[0]), int(places[-1]) + 1))
    first = tuple(low + span.start for low, span in zip(kernel.first, spans, strict=True))
    inside: tuple[EllipsisType | slice, ...] = (..., *spans)
    return Kernel(kernel.taps[inside], first)


def by_tap(kernel: Kernel) -> Tensor:
    """Return the taps as (out, in, number)."""
    return kernel.taps.reshape(*kernel.taps.shape[:2], -1)


def sizes(kernel: Kernel) -> Tensor:
    """Return the largest absolute value of each tap over the channels, (*extent)."""
    return by_tap(kernel).abs().amax(0).amax(0).reshape(kernel.extent)


def transposed(kernel: Kernel) -> Kernel:
    """Return the kernel with its two channel axes exchanged, as a problem read from sink to source needs it."""
    return Kernel(kernel.taps.transpose(0, 1), kernel.first)


def offsets(kernel: Kernel) -> Iterator[tuple[int, ...]]:
    """Yield the offsets at which a kernel has taps that are not zero."""
    kept = sizes(kernel) > 0
    for place in itertools.product(*map(range, kernel.extent)):
        if bool(kept[place]):
            yield tuple(low + at for low, at in zip(kernel.first, place, strict=True))


def single(kernel: Kernel) -> Tensor | None:
    """Return the matrix (out, in) of a kernel with one tap, else ``None``."""
    if kernel.taps.shape[2:].numel() == 1:
        return kernel.taps.reshape(kernel.taps.shape[:2])
    return None


def norm(kernel: Kernel) -> float:
    """Return the Frobenius norm."""
    return float(kernel.taps.norm())

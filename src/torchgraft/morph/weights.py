"""The weights of a module as tables of taps: by layer, by path, in sum."""

from __future__ import annotations

__all__ = [
    "Weights",
    "fresh",
    "from_source",
    "kernel_of",
    "kernels_of",
    "part_sizes",
    "positions",
    "taken",
    "target_kernel",
    "to_sink",
    "total",
    "weight_scale",
]

import itertools
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from torchgraft.morph.kernels import Kernel, added, composed, constant, every, from_weight, identity, norm, on_box
from torchgraft.morph.layout import Filter, Layout, Link

#: The weight (out, in / groups, *kernel) of each layer that has one, by its place in the module, in float64.
Weights = Mapping[int, Tensor]

_PROBES = 16


def target_kernel(weight: Tensor, filter_: Filter, groups: int = 1) -> Kernel:
    """Return the kernel of the convolution that the module replaces."""
    return from_weight(weight, filter_.first, filter_.dilation, groups)


def positions(link: Link) -> list[tuple[int, ...]]:
    """Return the offsets of a layer's taps in the order of its weight."""
    lines = [
        [low + at * by for at in range(n)] for low, n, by in zip(link.first, link.edge.kernel, link.step, strict=True)
    ]
    return list(itertools.product(*lines))


def kernels_of(layout: Layout, weights: Weights) -> list[Kernel]:
    """Return the kernel of every layer; identities and average poolings have one, too."""
    return [kernel_of(link, weights.get(place)) for place, link in enumerate(layout.links)]


def kernel_of(link: Link, weight: Tensor | None) -> Kernel:
    """Return the kernel of a layer; one without its weight computes zero."""
    dims = len(link.step)
    if link.edge.op == "id":
        return identity(link.inputs, dims, link.edge.scale)
    if link.edge.op == "avg":
        count = max(1, torch.Size(link.edge.kernel).numel())
        eye = torch.eye(link.inputs, dtype=torch.float64) / count
        spread = eye.reshape(link.inputs, link.inputs, *[1] * dims).expand(-1, -1, *link.edge.kernel)
        return from_weight(spread, link.first, link.step)
    if weight is None:
        return constant(link.outputs, link.inputs, dims)
    return from_weight(weight, link.first, link.step, link.groups)


def from_source(layout: Layout, kernels: Sequence[Kernel], begin: Kernel | None = None) -> dict[str, Kernel]:
    """Return for each blob the sum, over all paths from the source, of the composed kernels: one pass in order.

    They are composed with ``begin``, the identity by default.
    """
    found = {layout.source: begin or identity(layout.channels[layout.source], layout.dims)}
    for name in layout.order[1:]:
        arriving = [place for place, link in enumerate(layout.links) if link.edge.head == name]
        found[name] = added([composed(kernels[place], found[layout.links[place].edge.tail]) for place in arriving])
    return found


def to_sink(layout: Layout, kernels: Sequence[Kernel], end: Kernel | None = None) -> dict[str, Kernel]:
    """Return for each blob the sum, over all paths to the sink, of the composed kernels, then ``end``."""
    found = {layout.sink: end or identity(layout.channels[layout.sink], layout.dims)}
    for name in layout.order[-2::-1]:
        leaving = [place for place, link in enumerate(layout.links) if link.edge.tail == name]
        found[name] = added([composed(found[layout.links[place].edge.head], kernels[place]) for place in leaving])
    return found


def total(layout: Layout, weights: Weights) -> Kernel:
    """Return the one kernel that the module computes."""
    return from_source(layout, kernels_of(layout, weights))[layout.sink]


def taken(link: Link, kernel: Kernel) -> Tensor:
    """Return the weight of a layer whose taps are those of ``kernel`` at the layer's offsets, inside its groups."""
    extent = [1 + (n - 1) * by for n, by in zip(link.edge.kernel, link.step, strict=True)]
    dense = on_box(kernel, link.first, extent)[every(link.step)]
    rows, columns = link.outputs // link.groups, link.inputs // link.groups
    blocks = [dense[g * rows : (g + 1) * rows, g * columns : (g + 1) * columns] for g in range(link.groups)]
    return torch.cat(blocks) if link.groups > 1 else dense.clone()


def fresh(link: Link, generator: torch.Generator) -> Tensor:
    """Return a random weight for a layer that keeps the size of white input."""
    fan_in = torch.Size(link.shape[1:]).numel()
    return torch.randn(link.shape, generator=generator, dtype=torch.float64) / math.sqrt(fan_in)


def weight_scale(kernel: Kernel) -> float:
    """Return the root mean square of a kernel's taps, 1 for one that is zero."""
    return float(kernel.taps.square().mean().sqrt()) or 1.0


def part_sizes(layout: Layout, kernels: Sequence[Kernel]) -> dict[int, float]:
    """Estimate for each layer with weights the norm of the part of the module's kernel that goes through it.

    Both ends are projected to a few random directions, so this costs little beside the kernel itself.
    """
    generator = torch.Generator().manual_seed(0)
    inputs, outputs = layout.channels[layout.source], layout.channels[layout.sink]
    before = from_source(layout, kernels, _probe(inputs, _PROBES, layout.dims, generator))
    after = to_sink(layout, kernels, _probe(_PROBES, outputs, layout.dims, generator))
    sizes = {}
    for place, link in enumerate(layout.links):
        edge = link.edge
        if not link.solved:
            continue
        sizes[place] = norm(composed(after[edge.head], composed(kernels[place], before[edge.tail])))
    return sizes


def _probe(outputs: int, inputs: int, dims: int, generator: torch.Generator) -> Kernel:
    drawn = torch.randn(outputs, inputs, generator=generator, dtype=torch.float64) / _PROBES**0.5
    return Kernel(drawn.reshape(outputs, inputs, *[1] * dims), (0,) * dims)

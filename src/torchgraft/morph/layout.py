"""A module laid out for one convolution: channels and rate of every blob, taps and padding of every layer.

A blob v holds the values of its signal at positions a_v + r_v j of the module's input, up to b_v beyond the input's
length, r_v being its rate (the product of strides that lead to it). Padding that a later layer adds to a blob is
wrong wherever the blob's signal is not zero there. So windows are made as wide as all that follows needs, and only
layers that read the input pad: a_u = min over edges u>v of a_v + r_u x first offset, b_u likewise. Later layers crop
where another path needed more. This is exact at every border, with strides anywhere; 'same' clips all windows to
those of the input and the output instead.
"""

from __future__ import annotations

__all__ = ["PADDINGS", "Filter", "Layout", "Link", "lay_out"]

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torchgraft.errors import MorphError
from torchgraft.morph.graph import DEPTHWISE, Edge, Graph, vertices
from torchgraft.morph.widths import channels_of

#: Where padding is added: to the layers that read the input only, or to every layer so that blobs keep the input's
#: size.
PADDINGS = ("input", "same")

Pads = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Filter:
    """The geometry of the convolution that a module replaces; tuples have one number for each spatial axis."""

    inputs: int
    outputs: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    pads: Pads

    @property
    def first(self) -> tuple[int, ...]:
        """The offset of the first tap from the centre."""
        return _first(self.kernel, self.dilation)


@dataclass(frozen=True, slots=True)
class Link:
    """An edge laid out: its options for every axis, its channels, and where its taps are.

    ``step`` is the distance of neighbouring taps and ``first`` the offset of the first one, in positions of the input.
    ``pads`` are the padding before and after each axis, negative where positions are cropped.
    """

    name: str
    edge: Edge
    inputs: int
    outputs: int
    groups: int
    step: tuple[int, ...]
    first: tuple[int, ...]
    pads: Pads

    @property
    def solved(self) -> bool:
        """Whether the layer has weights."""
        return self.edge.op == "conv"

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape (out, in / groups, *kernel) of its weight."""
        return (self.outputs, self.inputs // self.groups, *self.edge.kernel)


@dataclass(frozen=True, slots=True)
class Layout:
    """A module whose every number is known; ``order`` are its vertices from source to sink."""

    graph: Graph
    order: tuple[str, ...]
    channels: Mapping[str, int]
    links: tuple[Link, ...]

    @property
    def source(self) -> str:
        """The blob that comes in."""
        return self.order[0]

    @property
    def sink(self) -> str:
        """The blob that goes out."""
        return self.order[-1]

    @property
    def dims(self) -> int:
        """The number of spatial axes."""
        return len(self.links[0].step)


def lay_out(graph: Graph, filter_: Filter, padding: str = "input") -> Layout:
    """Lay a module out for a convolution. Raises :class:`MorphError` where the two do not fit, and says why."""
    if padding not in PADDINGS:
        raise MorphError(f"unknown padding {padding!r}: (valid: {', '.join(PADDINGS)})")
    dims = len(filter_.kernel)
    edges = tuple(_spread(edge, dims) for edge in graph.edges)
    order = vertices(graph)
    channels = channels_of(graph, order, filter_.inputs, filter_.outputs)
    rates = _rates(edges, order, filter_)
    lows, highs = _windows(edges, order, rates, filter_, clip=padding == "same")
    links, taken = [], set[str]()
    for edge in edges:
        name = f"{edge.tail}_{edge.head}"
        while name in taken:
            name += "_again"
        taken.add(name)
        rate = rates[edge.tail]
        step = tuple(one * by for one, by in zip(edge.dilation, rate, strict=True))
        first = _first(edge.kernel, step)
        pads = []
        for axis, by in enumerate(rate):
            low = lows[edge.tail][axis] - lows[edge.head][axis] - first[axis]
            reach = first[axis] + (edge.kernel[axis] - 1) * step[axis]
            high = highs[edge.head][axis] - highs[edge.tail][axis] + reach
            pads.append((low // by, high // by))
        inputs, outputs = channels[edge.tail], channels[edge.head]
        groups = _groups(edge, inputs, outputs)
        links.append(Link(name, edge, inputs, outputs, groups, step, first, tuple(pads)))
    _check_padding(links, order)
    return Layout(graph, order, channels, tuple(links))


def _first(kernel: tuple[int, ...], step: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(-((length - 1) // 2) * by for length, by in zip(kernel, step, strict=True))


def _spread(edge: Edge, dims: int) -> Edge:
    """Return the edge with one number for each axis; a 1x1 layer is a linear one where there is no axis."""
    if edge.op == "max":
        raise MorphError(f"{edge}: a maximum pooling is not linear, so no path through it can carry a convolution")
    fields: dict[str, Any] = {}
    for name in ("kernel", "stride", "dilation", "padding"):
        value = getattr(edge, name)
        if value is None:
            continue
        if len(value) not in (1, dims) and not (dims == 0 and set(value) == {1}):
            raise MorphError(
                f"{edge}: {name}={'x'.join(map(str, value))} has {len(value)} numbers for {dims} axes"
                " (a width is written apart, as a=64)"
            )
        if dims == 0 and set(value) - {1, 0}:
            raise MorphError(f"{edge}: {name}={value[0]} needs a spatial axis, and a linear layer has none")
        fields[name] = value * dims if len(value) == 1 else value if dims else ()
    return replace(edge, **fields)


def _groups(edge: Edge, inputs: int, outputs: int) -> int:
    groups = inputs if edge.groups == DEPTHWISE else edge.groups
    if edge.op == "conv" and (inputs % groups or outputs % groups):
        raise MorphError(f"{edge}: {groups} groups do not divide {inputs} channels in and {outputs} out")
    return groups


def _rates(edges: tuple[Edge, ...], order: tuple[str, ...], filter_: Filter) -> dict[str, tuple[int, ...]]:
    rates = {order[0]: (1,) * len(filter_.kernel)}
    for name in order:
        for edge in edges:
            if edge.tail == name:
                rate = tuple(a * b for a, b in zip(rates[name], edge.stride, strict=True))
                if rates.setdefault(edge.head, rate) != rate:
                    raise MorphError(
                        f"{edge}: the strides of the paths to {edge.head} differ, {rate} and {rates[edge.head]}"
                    )
    if rates[order[-1]] != filter_.stride:
        raise MorphError(
            f"the strides of the module make {rates[order[-1]]}, those of the convolution {filter_.stride}"
        )
    return rates


Windows = tuple[dict[str, list[int]], dict[str, list[int]]]


def _windows(
    edges: tuple[Edge, ...], order: tuple[str, ...], rates: Mapping[str, tuple[int, ...]], filter_: Filter, clip: bool
) -> Windows:
    """Return for each blob where it starts, and by how much it ends beyond the input's length (-1: with it)."""
    dims = len(filter_.kernel)
    last = [low + (n - 1) * by for low, n, by in zip(filter_.first, filter_.kernel, filter_.dilation, strict=True)]
    lows = {order[-1]: [-filter_.first[axis] - filter_.pads[axis][0] for axis in range(dims)]}
    highs = {order[-1]: [filter_.pads[axis][1] - last[axis] - 1 for axis in range(dims)]}
    for name in order[-2::-1]:
        leaving = [edge for edge in edges if edge.tail == name]
        lows[name], highs[name] = [], []
        for axis, rate in enumerate(rates[name]):
            starts, ends = [], []
            for edge in leaving:
                start, end = _needed(edge, axis, rate, lows[edge.head][axis], highs[edge.head][axis])
                starts.append(start)
                ends.append(end)
            low, high = min(starts), max(ends)
            if clip:
                low, high = _clipped(low, high, rate, min(0, lows[order[-1]][axis]), max(-1, highs[order[-1]][axis]))
            given = [(s, e) for s, e, edge in zip(starts, ends, leaving, strict=True) if edge.padding is not None]
            if given and len(set(given)) > 1:
                raise MorphError(f"the paddings written after {name} need different windows of it: leave them out")
            low, high = given[0] if given else (low, high)
            lows[name].append(low)
            highs[name].append(high)
        if name == order[0]:
            lows[name], highs[name] = [0] * dims, [-1] * dims
    return lows, highs


def _needed(edge: Edge, axis: int, rate: int, low: int, high: int) -> tuple[int, int]:
    """Return the window of a blob that a layer reads, less what its written padding adds."""
    step = edge.dilation[axis] * rate
    first = -((edge.kernel[axis] - 1) // 2) * step
    added = 0 if edge.padding is None else edge.padding[axis] * rate
    return low + first + added, high + first + (edge.kernel[axis] - 1) * step - added


def _clipped(low: int, high: int, rate: int, least: int, most: int) -> tuple[int, int]:
    """Clip a window to ``least`` and ``most``, on the grid of its rate."""
    return max(low, least + (low - least) % rate), min(high, most - (most - high) % rate)


def _check_padding(links: list[Link], order: tuple[str, ...]) -> None:
    for link in links:
        written = link.edge.padding
        if written is not None and link.pads != tuple((number, number) for number in written):
            needed = "x".join(str(low) if low == high else f"{low}..{high}" for low, high in link.pads)
            raise MorphError(
                f"{link.edge}: padding {needed} keeps the convolution's window; write that, or leave it out"
            )

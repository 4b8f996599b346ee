"""Layers of torch for a module that has been laid out, and the module that runs them."""

from __future__ import annotations

__all__ = ["Assembly", "MorphModule", "assemble", "pad_layer"]

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from torchgraft.morph.layers import make_layer
from torchgraft.morph.layout import Layout, Link, Pads

_AVERAGES: Mapping[int, Callable[..., nn.Module]] = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}
_PADS: Mapping[str, Mapping[int, Callable[..., nn.Module]]] = {
    "zeros": {1: nn.ZeroPad1d, 2: nn.ZeroPad2d, 3: nn.ZeroPad3d},
    "reflect": {1: nn.ReflectionPad1d, 2: nn.ReflectionPad2d, 3: nn.ReflectionPad3d},
    "replicate": {1: nn.ReplicationPad1d, 2: nn.ReplicationPad2d, 3: nn.ReplicationPad3d},
    "circular": {1: nn.CircularPad1d, 2: nn.CircularPad2d, 3: nn.CircularPad3d},
}


class MorphModule(nn.Module):
    """A module that runs a graph: layers by edge (``s_a``), what pads or crops before them, what comes after each blob.

    ``wiring`` lists for each blob after the source its name and the edges into it (edge, tail, factor).
    ``certificate`` says what it deviates from the convolution that it was made from, and is ``None`` where it was
    made from none.
    """

    def __init__(
        self, text: str, source: str, wiring: Sequence[tuple[str, tuple[tuple[str, str, float], ...]]]
    ) -> None:
        super().__init__()
        self.text = text
        self.source = source
        self.wiring = tuple(wiring)
        self.certificate: object = None
        self.entry: nn.Module = nn.Identity()
        self.pads, self.edges = nn.ModuleDict(), nn.ModuleDict()
        self.norms, self.activations = nn.ModuleDict(), nn.ModuleDict()

    def forward(self, blob: Tensor) -> Tensor:
        """Return the sink's blob for the source's: (batch, channels, *spatial), of linear layers (..., channels)."""
        blobs = {self.source: self.entry(blob)}
        for name, arriving in self.wiring:
            total = None
            for edge, tail, factor in arriving:
                read = self.pads[edge](blobs[tail]) if edge in self.pads else blobs[tail]
                value = self.edges[edge](read)
                value = value if factor == 1.0 else factor * value
                total = value if total is None else total + value
            if name in self.norms:
                total = self.norms[name](total)
            if name in self.activations:
                total = self.activations[name](total)
            blobs[name] = total
        sink: Tensor = blobs[self.wiring[-1][0]]
        return sink

    def extra_repr(self) -> str:
        """Return the graph as text."""
        return repr(self.text)


@dataclass(frozen=True, slots=True)
class Assembly:
    """What a module is made of: weights and biases of its layers by place, and the padding that it starts with."""

    layout: Layout
    weights: Mapping[int, Tensor]
    biases: Mapping[int, Tensor]
    mode: str = "zeros"
    entry: Pads = ()


def assemble(made: Assembly) -> MorphModule:
    """Return the module, in float64, without norms and activations."""
    layout = made.layout
    wiring = []
    for name in layout.order[1:]:
        arriving = [link for link in layout.links if link.edge.head == name]
        wiring.append((name, tuple((link.name, link.edge.tail, link.edge.scale) for link in arriving)))
    module = MorphModule(str(layout.graph), layout.source, wiring)
    if any(map(any, made.entry)):
        module.entry = pad_layer(made.entry, made.mode)
    for place, link in enumerate(layout.links):
        module.edges[link.name] = _layer(link, layout.dims, made.weights.get(place), made.biases.get(place))
        if any(map(any, link.pads)) and not _padded_inside(link):
            module.pads[link.name] = pad_layer(link.pads)
    return module


def pad_layer(pads: Pads, mode: str = "zeros") -> nn.Module:
    """Return the layer that pads, or where numbers are negative crops, before and after each axis."""
    return _PADS[mode][len(pads)](tuple(number for pair in reversed(pads) for number in pair))


def _padded_inside(link: Link) -> bool:
    """Tell whether the layer itself can pad: a convolution, as much before as after each axis."""
    return link.solved and all(low == high >= 0 for low, high in link.pads)


def _layer(link: Link, dims: int, weight: Tensor | None, bias: Tensor | None) -> nn.Module:
    if link.edge.op == "id":
        return nn.Identity()
    if link.edge.op == "avg":
        return _AVERAGES[dims](link.edge.kernel, link.edge.stride) if dims else nn.Identity()
    assert weight is not None
    pads = tuple(low for low, _ in link.pads) if _padded_inside(link) else (0,) * dims
    options: dict[str, Any] = {
        "stride": link.edge.stride,
        "dilation": link.edge.dilation,
        "padding": pads,
        "groups": link.groups,
    }
    return make_layer(weight, bias, **(options if dims else {}))

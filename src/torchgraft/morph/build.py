"""One convolution becomes a module that computes the same function."""

from __future__ import annotations

__all__ = ["module"]

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from torchgraft.errors import MorphError
from torchgraft.morph.activation import parametric
from torchgraft.morph.assembly import Assembly, MorphModule, assemble
from torchgraft.morph.certificate import TOLERANCE, ModuleCertificate, deviation
from torchgraft.morph.exchange import from_networkx
from torchgraft.morph.fill import Filling, fill
from torchgraft.morph.graph import Graph, check
from torchgraft.morph.kernels import Kernel, by_tap
from torchgraft.morph.layers import Layer, read_layer
from torchgraft.morph.layout import Layout, lay_out
from torchgraft.morph.limits import obstacle
from torchgraft.morph.names import named
from torchgraft.morph.normalization import identity_norm
from torchgraft.morph.text import parse
from torchgraft.morph.weights import kernels_of, target_kernel, to_sink

if TYPE_CHECKING:
    import networkx


def module(
    layer: nn.Module,
    graph: str | Graph | networkx.DiGraph,
    *,
    padding: str = "input",
    method: str | None = None,
    normalization: str | None = None,
    activation: str | None = None,
    seed: int = 0,
    approximate: bool = False,
) -> MorphModule:
    """Return a module with the layers of ``graph`` that computes what ``layer`` does (arXiv:1701.03281).

    Args:
        layer: ``nn.Conv1d``, ``Conv2d``, ``Conv3d`` or ``Linear`` (whose layers are all ``1x1``), with weight
            (out, in / groups, *kernel). It is not changed.
        graph: the text of a module (:func:`parse`), the name of one of the paper's (:data:`NAMES`), a :class:`Graph`,
            or a directed graph of networkx (:func:`from_networkx`).
        padding: ``"input"``: layers that read the module's input pad, no other; exact at every border. ``"same"``:
            every layer pads, and all blobs are as large as the input; exact where each path has at most one layer
            with more than a centre tap, as the methods but ``"alternate"`` make it.
        method: ``"split"``, ``"carrier"``, ``"alternate"``, or ``None`` for the first of them that is exact.
        normalization: ``"batchnorm"``: one after each inner blob, the identity in eval mode, its statistics those of
            white input; :func:`calibrate` gives it those of data.
        activation: a name of :data:`ACTIVATIONS`: a parametric one after each inner blob that starts as the identity.
        seed: of the random factors that keep equal branches apart.
        approximate: return the best module found where none is exact.

    Raises :class:`MorphError` where layer and graph do not fit, or the module deviates and ``approximate`` is not set.

    >>> conv = nn.Conv2d(8, 16, 3, padding=1)
    >>> block = module(conv, "s>a:3x3 a>t:1x1 s>t:1x1", activation="relu")
    >>> blob = torch.randn(2, 8, 9, 9)
    >>> torch.allclose(block(blob), conv(blob), atol=1e-5), block.certificate.exact
    (True, True)
    """
    source = read_layer(layer)
    outer = source.filter if source.mode == "zeros" else replace(source.filter, pads=((0, 0),) * source.dims)
    layout = lay_out(_graph(graph, source.dims), outer, padding)
    target = target_kernel(source.weight, outer, source.groups)
    filling = fill(layout, target, method, seed, approximate)
    if filling is None:
        raise MorphError(_refusal(layout, target, "cannot be filled" + (f" by {method!r}" if method else "")))
    biases = _biases(layout, filling, source.bias)
    entry = () if source.mode == "zeros" else source.filter.pads
    made = assemble(Assembly(layout, filling.weights, biases, source.mode, entry))
    _insert(made, layout, filling, normalization, activation)
    size = _size(source, filling)
    apart = deviation(layer, made, (2, source.filter.inputs, *size), seed)
    if not apart <= TOLERANCE and not approximate:
        raise MorphError(_refusal(layout, target, f"deviates by {apart:.1e}", filling.error <= TOLERANCE))
    made.certificate = ModuleCertificate(
        str(layout.graph), padding, filling.method, apart, filling.error, filling.gain, filling.condition,
        filling.carrier, filling.zero,
    )  # fmt: skip
    like = next(layer.parameters())
    made.to(like.device, like.dtype).train(layer.training)
    return made.requires_grad_(like.requires_grad)


def _graph(graph: str | Graph | networkx.DiGraph, dims: int) -> Graph:
    if isinstance(graph, str):
        return parse(graph) if ":" in graph else named(graph, dims)
    return check(graph) if isinstance(graph, Graph) else from_networkx(graph)


def _biases(layout: Layout, filling: Filling, bias: Tensor | None) -> dict[int, Tensor]:
    """Give the bias to one layer: into the sink where there is one, else where its effect there can be solved for."""
    if bias is None:
        return {}
    solved = [place for place, link in enumerate(layout.links) if link.solved]
    for place in solved:
        if layout.links[place].edge.head == layout.sink:
            return {place: bias}
    after = to_sink(layout, kernels_of(layout, filling.weights))
    for place in reversed(solved):
        matrix = by_tap(after[layout.links[place].edge.head]).sum(2)
        found = torch.linalg.pinv(matrix) @ bias
        if torch.allclose(matrix @ found, bias, rtol=1e-11, atol=1e-13):
            return {place: found}
    raise MorphError(f"no layer of {layout.graph} can hold the bias: let a convolution lead to {layout.sink}")


def _insert(
    made: MorphModule, layout: Layout, filling: Filling, normalization: str | None, activation: str | None
) -> None:
    """Put norms and activations after the inner blobs."""
    for name in layout.order[1:-1]:
        if normalization is not None:
            variance = filling.blobs[name].taps.square().flatten(1).sum(1)
            made.norms[name] = identity_norm(normalization, layout.dims, torch.zeros_like(variance), variance)
        if activation is not None:
            made.activations[name] = parametric(activation).to(torch.float64)


def _size(source: Layer, filling: Filling) -> list[int]:
    """Return a size of input whose borders and middle are both seen."""
    sizes = []
    for axis in range(source.dims):
        reach = max(one.extent[axis] for one in filling.blobs.values())
        window = (source.filter.kernel[axis] - 1) * source.filter.dilation[axis] + 1
        sizes.append(max(reach, window, 1 + max(source.filter.pads[axis])) + 2 * source.filter.stride[axis] + 2)
    return sizes


def _refusal(layout: Layout, target: Kernel, what: str, inside: bool = False) -> str:
    """Say why a module does not compute the target, and what to do."""
    if inside:
        why = "its blobs are padded inside: use padding='input', leave paddings out, or method=None"
    else:
        reason = obstacle(layout, target) or "no path of it can carry the convolution alone"
        why = f"{reason}: widen its blobs or enlarge a kernel"
    return f"{layout.graph} {what}, for {why}, or take the nearest with approximate=True"

"""What a module cannot compute, whatever its weights."""

from __future__ import annotations

__all__ = ["obstacle"]

import torch

from torchgraft.morph.kernels import Kernel, offsets
from torchgraft.morph.layout import Layout, Link
from torchgraft.morph.weights import positions


def obstacle(layout: Layout, target: Kernel) -> str:
    """Say why no weights can make the module compute ``target``; nothing where no reason is known.

    Its taps must be reachable. And its channels must get through: with every filter's transfer function taken at one
    point, the module is a product of matrices, whose rank is at most the width of any cut through its blobs.
    """
    reached = _reached(layout)
    needed = set(offsets(target))
    if not needed <= reached:
        return f"its paths reach {len(needed & reached)} of the {len(needed)} taps"
    width, cut = _narrowest(layout)
    rank = _rank(target)
    if width < rank:
        return (
            f"all its paths go through {' and '.join(cut)}, {width} channels wide, and the convolution has rank {rank}"
        )
    return ""


def _reached(layout: Layout) -> set[tuple[int, ...]]:
    found = {layout.source: {(0,) * layout.dims}}
    for name in layout.order[1:]:
        found[name] = {
            tuple(a + b for a, b in zip(one, other, strict=True))
            for link in layout.links
            if link.edge.head == name
            for one in found[link.edge.tail]
            for other in _taps(link, layout.dims)
        }
    return found[layout.sink]


def _taps(link: Link, dims: int) -> list[tuple[int, ...]]:
    return [(0,) * dims] if link.edge.op == "id" else positions(link)


def _narrowest(layout: Layout) -> tuple[int, list[str]]:
    """Return the least number of channels that cuts source from sink, and the blobs that have them."""
    import networkx as nx

    whole = nx.DiGraph()
    for name in layout.order:
        whole.add_edge((name, "in"), (name, "out"), capacity=layout.channels[name])
    for link in layout.links:
        whole.add_edge((link.edge.tail, "out"), (link.edge.head, "in"))
    width, (near, far) = nx.minimum_cut(whole, (layout.source, "in"), (layout.sink, "out"))
    return int(width), [name for name in layout.order if (name, "in") in near and (name, "out") in far]


def _rank(target: Kernel) -> int:
    """Return the rank of the transfer function at a point like any other."""
    taps = target.taps
    for at in (0.83, 1.19, 0.71)[: len(target.first)]:
        powers = torch.tensor([at**place for place in range(taps.shape[2])], dtype=taps.dtype)
        taps = torch.tensordot(taps, powers, dims=([2], [0]))
    return int(torch.linalg.matrix_rank(taps))

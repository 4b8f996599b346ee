"""One path that can carry the whole convolution, and all others around it: exact whenever there is such a path.

A carrier is a path from source to sink with one layer on it, the free one, whose taps cover the convolution's; blobs
before that layer must hold what the convolution reads (its rank over channels in), blobs after it what it writes. The
other layers of the path become isometries on their centre tap, and the free one is solved for. Every other layer is
drawn at random, with taps that the free one can take back; where that fails, one layer of every other path is zero,
the last that leads back to the carrier, so that gradients still reach it.
"""

from __future__ import annotations

__all__ = ["Carrier", "carriers", "fill_carrier"]

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from math import lcm
from types import EllipsisType

import torch
from torch import Tensor

from torchgraft.morph.atoms import isometry
from torchgraft.morph.graph import reachable
from torchgraft.morph.kernels import Kernel, difference, norm, offsets
from torchgraft.morph.layout import Layout, Link
from torchgraft.morph.solve import smallest_change
from torchgraft.morph.weights import Weights, fresh, from_source, kernels_of, positions, to_sink, total, weight_scale

_PATHS = 64  # at most so many paths are looked at
_SHARE = 0.5  # the largest part of the target that random layers may compute


@dataclass(frozen=True, slots=True)
class Carrier:
    """A ``path`` of edges, by place, and the ``free`` one among them that is solved for."""

    path: tuple[int, ...]
    free: int


def carriers(layout: Layout, target: Kernel) -> list[Carrier]:
    """Return the paths that can carry ``target``, best first: no groups, few edges, the order of the module."""
    needed = frozenset(offsets(target))
    outputs, inputs = target.taps.shape[:2]
    narrow = min(layout.channels.values()) < max(outputs, inputs)
    ranks = _ranks(target) if narrow else (inputs, outputs)
    found = [one for path in islice(_paths(layout), _PATHS) for one in _on_path(layout, path, needed, ranks)]
    return sorted(found, key=lambda one: (_grouped(layout, one), len(one.path), one.path, one.path.index(one.free)))


def _grouped(layout: Layout, carrier: Carrier) -> tuple[bool, int]:
    groups = [layout.links[place].groups > 1 for place in carrier.path]
    return layout.links[carrier.free].groups > 1, sum(groups)


def _paths(layout: Layout) -> Iterator[tuple[int, ...]]:
    import networkx as nx

    whole = nx.MultiDiGraph()
    whole.add_edges_from((link.edge.tail, link.edge.head, place) for place, link in enumerate(layout.links))
    for path in nx.all_simple_edge_paths(whole, layout.source, layout.sink):
        yield tuple(place for _, _, place in path)


def _ranks(target: Kernel) -> tuple[int, int]:
    """Return over how many directions the target reads its input, and writes its output."""
    rows = target.taps.flatten(1)
    columns = target.taps.transpose(0, 1).flatten(1)
    return int(torch.linalg.matrix_rank(columns)), int(torch.linalg.matrix_rank(rows))


def _on_path(
    layout: Layout, path: tuple[int, ...], needed: frozenset[tuple[int, ...]], ranks: tuple[int, int]
) -> Iterator[Carrier]:
    links = [layout.links[place] for place in path]
    if any(link.edge.op == "avg" and torch.Size(link.edge.kernel).numel() > 1 for link in links):
        return
    for at, link in enumerate(links):
        before = all(one.outputs >= ranks[0] for one in links[:at])
        after = all(one.inputs >= ranks[1] for one in links[at + 1 :])
        if link.solved and before and after and needed <= frozenset(positions(link)):
            yield Carrier(path, path[at])


def fill_carrier(
    layout: Layout, target: Kernel, carrier: Carrier, generator: torch.Generator, cut: bool
) -> tuple[Weights, float]:
    """Return weights with the target on the carrier, and the condition of the system solved. Check them.

    ``cut`` zeroes one layer of every other path; otherwise all layers are random at first.
    """
    weights = _on_carrier(layout, target, carrier, generator)
    zero = _cuts(layout, carrier) if cut else frozenset[int]()
    fixed = total(layout, weights)
    masks = _masks(layout, carrier)
    drawn: dict[int, Tensor] = {}
    for place, link in enumerate(layout.links):
        if link.solved and place not in weights:
            drawn[place] = torch.zeros(link.shape, dtype=torch.float64)
            if place not in zero:
                drawn[place] = fresh(link, generator) * (1.0 if cut else masks[place])
    if not cut:
        factor = _damping(layout, target, fixed, weights, drawn)
        drawn = {place: factor * weight for place, weight in drawn.items()}
    return _solved(layout, target, carrier.free, weights | drawn)


def _on_carrier(layout: Layout, target: Kernel, carrier: Carrier, generator: torch.Generator) -> dict[int, Tensor]:
    at = carrier.path.index(carrier.free)
    before, after = carrier.path[:at], carrier.path[at + 1 :]
    reading = _basis(target.taps.transpose(0, 1), before, [layout.links[place].outputs for place in before])
    writing = _basis(target.taps, after, [layout.links[place].inputs for place in after])
    free = layout.links[carrier.free]
    weights = {carrier.free: weight_scale(target) * torch.randn(free.shape, generator=generator, dtype=torch.float64)}
    for place, matrix in _chain(layout, before, reading, free.groups, generator).items():
        weights[place] = _centred(layout.links[place], matrix)
    for place, matrix in _chain(layout, after[::-1], writing, free.groups, generator, turned=True).items():
        weights[place] = _centred(layout.links[place], matrix.T)
    return weights


def _basis(taps: Tensor, path: Sequence[int], widths: Sequence[int]) -> Tensor:
    """Return what the blobs of a part of the carrier must tell apart: all channels, or those that the target uses."""
    channels = taps.shape[0]
    if not path or min(widths) >= channels:
        return torch.eye(channels, dtype=torch.float64)
    left: Tensor
    left, values, _ = torch.linalg.svd(taps.flatten(1), full_matrices=False)
    return left[:, values > 1e-12 * values[0]]


def _chain(
    layout: Layout, path: Sequence[int], basis: Tensor, groups: int, generator: torch.Generator, turned: bool = False
) -> dict[int, Tensor]:
    """Return matrices along a path, each an isometry on what the basis has become so far.

    They keep the ``groups`` of the free layer apart, which otherwise could not tell them from each other.
    """
    found, current = {}, basis
    for place in path:
        link = layout.links[place]
        inputs, outputs = (link.outputs, link.inputs) if turned else (link.inputs, link.outputs)
        if not link.solved:
            continue
        count = lcm(link.groups, groups)
        count = link.groups if inputs % count or outputs % count else count
        if count > 1:
            blocks = [isometry(outputs // count, inputs // count, generator) for _ in range(count)]
            matrix: Tensor = torch.block_diag(*blocks)  # type: ignore[no-untyped-call]
            current = matrix @ current
        else:
            following = isometry(outputs, current.shape[1], generator)
            matrix = following @ _left_inverse(current)
            current = following
        found[place] = matrix
    return found


def _left_inverse(matrix: Tensor) -> Tensor:
    eye = torch.eye(matrix.shape[1], dtype=matrix.dtype)
    if torch.allclose(matrix.T @ matrix, eye, atol=1e-12):
        return matrix.T
    inverse: Tensor = torch.linalg.pinv(matrix)
    return inverse


def _centred(link: Link, matrix: Tensor) -> Tensor:
    """Return a weight whose centre tap is the matrix, inside the layer's groups."""
    rows, columns = link.outputs // link.groups, link.inputs // link.groups
    blocks = [matrix[g * rows : (g + 1) * rows, g * columns : (g + 1) * columns] for g in range(link.groups)]
    weight = torch.zeros(link.shape, dtype=torch.float64)
    index: tuple[EllipsisType | int, ...] = (..., *_centre(link))
    weight[index] = torch.cat(blocks)
    return weight


def _centre(link: Link) -> tuple[int, ...]:
    return tuple((length - 1) // 2 for length in link.edge.kernel)


def _masks(layout: Layout, carrier: Carrier) -> dict[int, Tensor]:
    """Return which taps each layer off the carrier may have, so that the free layer can take back what they compute.

    Layers on a path with the free one, and all but one on any other path, have a centre tap alone; that one has taps
    where the free layer has some.
    """
    reach = reachable(layout.graph)
    free = layout.links[carrier.free]
    allowed = frozenset(positions(free))
    spatial = [carrier.free, *(place for place, link in enumerate(layout.links) if link.edge.op == "avg")]
    masks = {}
    for place, link in enumerate(layout.links):
        if link.solved and place != carrier.free:
            mask = torch.zeros(link.edge.kernel, dtype=torch.float64)
            mask[_centre(link)] = 1.0
            held = torch.tensor([at in allowed for at in positions(link)], dtype=torch.float64)
            if place not in carrier.path and not any(_in_line(link, layout.links[one], reach) for one in spatial):
                mask = held.reshape(mask.shape)
                spatial.append(place)
            masks[place] = mask
    return masks


def _in_line(one: Link, other: Link, reach: Mapping[str, frozenset[str]]) -> bool:
    """Tell whether a path leads through both layers."""
    return other.edge.tail in reach[one.edge.head] or one.edge.tail in reach[other.edge.head]


def _damping(layout: Layout, target: Kernel, fixed: Kernel, weights: Weights, drawn: dict[int, Tensor]) -> float:
    """Return a factor for the random layers with which they compute no more than a share of the target."""
    factor, limit = 1.0, _SHARE * (norm(target) or 1.0)
    while factor > 1e-3:
        tried = {place: factor * weight for place, weight in drawn.items()}
        if norm(difference(total(layout, {**weights, **tried}), fixed)) <= limit:
            break
        factor /= 2
    return factor


def _cuts(layout: Layout, carrier: Carrier) -> frozenset[int]:
    """Return layers to zero so that no path but the carrier, and paths without weights, leads back to it."""
    on_path = {layout.source, *(layout.links[place].edge.head for place in carrier.path)}
    zero: set[int] = set()
    waiting = [p for p, one in enumerate(layout.links) if one.edge.head in on_path and p not in carrier.path]
    while waiting:
        place = waiting.pop()
        link = layout.links[place]
        if link.solved:
            zero.add(place)
        elif link.edge.tail not in on_path:
            waiting += [p for p, one in enumerate(layout.links) if one.edge.head == link.edge.tail]
    return frozenset(zero)


def _solved(layout: Layout, target: Kernel, free: int, weights: dict[int, Tensor]) -> tuple[Weights, float]:
    kernels = kernels_of(layout, weights)
    link = layout.links[free]
    sources = from_source(layout, kernels)
    error = difference(target, sources[layout.sink])
    after = to_sink(layout, kernels)[link.edge.head]
    change = smallest_change([link], [sources[link.edge.tail]], after, error)
    return weights | {free: weights[free] + change.weights[0]}, change.condition

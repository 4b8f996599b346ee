"""Simple modules, filled in closed form: the contraction read backwards (arXiv:1701.03281 Algorithm 1).

Along every path at most one layer has more than a centre tap. So nothing depends on how blobs are padded in between,
and no system is solved.
"""

from __future__ import annotations

__all__ = ["fill_split"]

from dataclasses import dataclass
from types import EllipsisType

import torch
from torch import Tensor

from torchgraft.errors import MorphError
from torchgraft.morph.atoms import isometry, split_parallel, split_series
from torchgraft.morph.kernels import Kernel, added, composed, difference, from_weight, norm, offsets, single, trimmed
from torchgraft.morph.layout import Layout
from torchgraft.morph.reduction import Leaf, Parallel, Series, Tree, reduction
from torchgraft.morph.weights import Weights, fresh, kernel_of, positions, taken

_ROUNDING = 1e-13  # what is left of a kernel, relative to it, that counts as rounding
_NOISE = 0.1  # of branches against each other, relative to what they share

Offsets = frozenset[tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class _Task:
    layout: Layout
    generator: torch.Generator
    size: float  # the norm of the whole target


def fill_split(layout: Layout, target: Kernel, generator: torch.Generator) -> Weights | None:
    """Return weights with which a simple module computes ``target``, or ``None`` where splits do not get there.

    Parallel parts share the filter equally, each with its own noise; the first that can hold all of it makes up the
    rest.
    """
    found = reduction(layout.graph)
    if not found.simple:
        return None
    return _filled(found.core[0].tree, target, _Task(layout, generator, norm(target)))


def _filled(tree: Tree, target: Kernel, task: _Task) -> dict[int, Tensor] | None:
    if isinstance(tree, Leaf):
        return _leaf(tree, target, task)
    if isinstance(tree, Series):
        return _series(tree, target, task)
    return _parallel(tree, target, task)


def _leaf(leaf: Leaf, target: Kernel, task: _Task) -> dict[int, Tensor] | None:
    link = task.layout.links[leaf.edge]
    if not link.solved:
        fixed = kernel_of(link, None)
        return {} if norm(difference(target, fixed)) <= _ROUNDING * task.size else None
    weight = taken(link, target)
    left = difference(target, from_weight(weight, link.first, link.step, link.groups))
    return {leaf.edge: weight} if norm(left) <= _ROUNDING * task.size else None


def _series(tree: Series, target: Kernel, task: _Task) -> dict[int, Tensor] | None:
    for fixed, other in ((tree.first, tree.second), (tree.second, tree.first)):
        kernel = _fixed(fixed, task)
        if kernel is not None:
            scale = _scale(kernel)
            return _filled(other, Kernel(target.taps / scale, target.first), task) if scale else None
    needed = frozenset(offsets(trimmed(target)))
    width = task.layout.channels[tree.middle]
    for side, part in (("first", tree.first), ("second", tree.second)):
        if needed <= _reach(part, task):
            try:
                taps = split_series(target.taps, width, task.generator, side)
            except MorphError:
                continue
            centre = (0,) * task.layout.dims
            first = Kernel(taps[0], target.first if side == "first" else centre)
            second = Kernel(taps[1], target.first if side == "second" else centre)
            before = _filled(tree.first, first, task)
            after = _filled(tree.second, second, task) if before is not None else None
            if before is not None and after is not None:
                return before | after
    return None


def _parallel(tree: Parallel, target: Kernel, task: _Task) -> dict[int, Tensor] | None:
    fixed = [(part, _fixed(part, task)) for part in tree.parts]
    rest = target
    for _, kernel in fixed:
        rest = rest if kernel is None else difference(rest, kernel)
    rest = trimmed(rest)
    needed = frozenset(offsets(rest))
    open_ = [part for part, kernel in fixed if kernel is None]
    for carrier in (part for part in open_ if needed <= _reach(part, task)):
        left, weights = rest, dict[int, Tensor]()
        for part in open_:
            if part is not carrier:
                share, some = _shared(part, rest, len(open_), _reach(carrier, task), task)
                left, weights = difference(left, share), weights | some
        last = _filled(carrier, left, task)
        if last is not None:
            return weights | last
    if not open_ and norm(rest) <= _ROUNDING * task.size:
        return {}
    return None


def _shared(part: Tree, rest: Kernel, count: int, allowed: Offsets, task: _Task) -> tuple[Kernel, dict[int, Tensor]]:
    """Return the share of a parallel part, and its weights: all that it can hold, at its narrowest blob's rank.

    Where it cannot be given any (groups in the way, say) it is drawn at random inside the offsets ``allowed``.
    """
    held = _reach(part, task) & frozenset(offsets(rest))
    share = split_parallel(rest.taps, count, task.generator, _NOISE)[0] if count > 1 else rest.taps
    whole = trimmed(_only(Kernel(share, rest.first), held))
    for rank in (rest.taps.shape[0], _narrowest(part, task)):
        kernel = _lowered(whole, rank, task)
        found = _filled(part, kernel, task)
        if found is not None:
            return kernel, found
    return _drawn(part, norm(whole), allowed, task)


def _lowered(kernel: Kernel, rank: int, task: _Task) -> Kernel:
    """Return the kernel on a random subspace of its outputs."""
    outputs = kernel.taps.shape[0]
    if rank >= outputs:
        return kernel
    rows = isometry(outputs, rank, task.generator)
    return Kernel((rows @ (rows.T @ kernel.taps.flatten(1))).reshape(kernel.taps.shape), kernel.first)


def _drawn(part: Tree, size: float, allowed: Offsets, task: _Task) -> tuple[Kernel, dict[int, Tensor]]:
    """Draw weights for a part, no larger than ``size``; zero ones where it would leave the offsets ``allowed``."""
    weights = _random(part, True, allowed, task)
    for factor in (*(0.5**power for power in range(10)), 0.0):
        scaled = {leaf: factor * weight for leaf, weight in weights.items()}
        kernel = _computed(part, task, scaled)
        if factor == 0.0 or (norm(kernel) <= size and frozenset(offsets(kernel)) <= allowed):
            break
    return kernel, scaled


def _random(tree: Tree, spatial: bool, allowed: Offsets, task: _Task) -> dict[int, Tensor]:
    """Draw weights with more than a centre tap in one layer of each path."""
    if isinstance(tree, Series):
        parts = (tree.first, tree.second)
        widest = max(parts, key=lambda part: len(_reach(part, task)))
        return {
            leaf: weight
            for part in parts
            for leaf, weight in _random(part, spatial and part is widest, allowed, task).items()
        }
    if isinstance(tree, Parallel):
        drawn = [_random(part, spatial, allowed, task) for part in tree.parts]
        return {leaf: weight for one in drawn for leaf, weight in one.items()}
    link = task.layout.links[tree.edge]
    if not link.solved:
        return {}
    centre = (0,) * task.layout.dims
    kept = [at == centre or (spatial and at in allowed) for at in positions(link)]
    mask = torch.tensor(kept, dtype=torch.float64).reshape(link.edge.kernel)
    return {tree.edge: mask * fresh(link, task.generator)}


def _computed(tree: Tree, task: _Task, weights: Weights) -> Kernel:
    """Return the kernel of a part."""
    if isinstance(tree, Leaf):
        return kernel_of(task.layout.links[tree.edge], weights.get(tree.edge))
    if isinstance(tree, Series):
        return composed(_computed(tree.second, task, weights), _computed(tree.first, task, weights))
    return added([_computed(part, task, weights) for part in tree.parts])


def _leaves(tree: Tree) -> list[int]:
    if isinstance(tree, Leaf):
        return [tree.edge]
    parts = (tree.first, tree.second) if isinstance(tree, Series) else tree.parts
    return [leaf for part in parts for leaf in _leaves(part)]


def _fixed(tree: Tree, task: _Task) -> Kernel | None:
    """Return the kernel of a part without weights, ``None`` for one with some."""
    if any(task.layout.links[leaf].solved for leaf in _leaves(tree)):
        return None
    return _computed(tree, task, {})


def _scale(kernel: Kernel) -> float:
    """Return the factor of a kernel that is a multiple of the identity, else 0."""
    matrix = single(kernel)
    if matrix is None or any(kernel.first):
        return 0.0
    factor = float(matrix[0, 0])
    return factor if torch.equal(matrix, factor * torch.eye(len(matrix), dtype=matrix.dtype)) else 0.0


def _reach(tree: Tree, task: _Task) -> Offsets:
    """Return the offsets at which a part can hold taps."""
    if isinstance(tree, Leaf):
        link = task.layout.links[tree.edge]
        return frozenset(positions(link)) if link.solved else frozenset()
    if isinstance(tree, Series):
        both = [_reach(part, task) for part in (tree.first, tree.second)]
        return max(both, key=len)
    return max((_reach(part, task) for part in tree.parts), key=len)


def _narrowest(tree: Tree, task: _Task) -> int:
    if isinstance(tree, Series):
        inside = min(_narrowest(part, task) for part in (tree.first, tree.second))
        return min(inside, task.layout.channels[tree.middle])
    if isinstance(tree, Parallel):
        return max(_narrowest(part, task) for part in tree.parts)
    link = task.layout.links[tree.edge]
    return min(link.inputs, link.outputs)


def _only(kernel: Kernel, kept: Offsets) -> Kernel:
    """Return the kernel with the taps at the offsets ``kept`` alone."""
    taps = torch.zeros_like(kernel.taps)
    for offset in kept:
        place: tuple[EllipsisType | int, ...] = (..., *(at - low for at, low in zip(offset, kernel.first, strict=True)))
        taps[place] = kernel.taps[place]
    return Kernel(taps, kernel.first)

"""Any module by alternating exact linear solves, blob by blob (arXiv:1701.03281 Algorithm 2)."""

from __future__ import annotations

__all__ = ["fill_alternating"]

import torch
from torch import Tensor

from torchgraft.morph.kernels import Kernel, difference, norm
from torchgraft.morph.layout import Layout
from torchgraft.morph.solve import smallest_change
from torchgraft.morph.weights import Weights, fresh, from_source, kernels_of, to_sink, total

_SWEEPS, _MANY = 60, 120  # the latter where the nearest module is wanted
_RIDGE = 1e-4  # relative: directions below it are left to later sweeps, so that no weight runs away
_DONE = 1e-13
_SLOW = 0.99999  # the same where the nearest module is wanted, exact or not
_STALLED = 0.98  # where a sweep leaves more of the error than this, the ridge goes, then the sweeps end


def fill_alternating(
    layout: Layout, target: Kernel, generator: torch.Generator, nearest: bool = False
) -> tuple[Weights, float]:
    """Return weights after sweeps of solves from a random start, dense in every tap, and the worst condition met.

    Unlike in the paper all layers into a blob are solved for together, which is as linear and converges sooner. The
    result need not be exact: check. ``nearest`` goes on while anything is gained.
    """
    weights = _start(layout, target, generator)
    size, error, condition = norm(target) or 1.0, float("inf"), 1.0
    ridge = 0.0 if nearest else _RIDGE
    for _ in range(_MANY if nearest else _SWEEPS):
        for name in layout.order[:0:-1]:
            weights, found = _improved(layout, target, weights, name, ridge)
            condition = max(condition, found)
        left = norm(difference(target, total(layout, weights))) / size
        stalled = left > (_SLOW if nearest else _STALLED) * error
        if left <= _DONE or (stalled and ridge == 0.0):
            break
        error, ridge = left, 0.0 if stalled else ridge
    return weights, condition


def _start(layout: Layout, target: Kernel, generator: torch.Generator) -> dict[int, Tensor]:
    """Return random weights; the layers into the sink are scaled so that the module is about as large as the target."""
    weights = {place: fresh(link, generator) for place, link in enumerate(layout.links) if link.solved}
    scale = norm(target) / (norm(total(layout, weights)) or 1.0)
    for place, link in enumerate(layout.links):
        if link.solved and link.edge.head == layout.sink:
            weights[place] = scale * weights[place]
    return weights


def _improved(
    layout: Layout, target: Kernel, weights: dict[int, Tensor], name: str, ridge: float
) -> tuple[dict[int, Tensor], float]:
    """Solve for all layers into the blob ``name``."""
    chosen = [place for place, link in enumerate(layout.links) if link.solved and link.edge.head == name]
    if not chosen:
        return weights, 1.0
    kernels = kernels_of(layout, weights)
    sources = from_source(layout, kernels)
    error = difference(target, sources[layout.sink])
    links = [layout.links[place] for place in chosen]
    before = [sources[link.edge.tail] for link in links]
    change = smallest_change(links, before, to_sink(layout, kernels)[name], error, ridge)
    moved = {place: weights[place] + step for place, step in zip(chosen, change.weights, strict=True)}
    return weights | moved, change.condition

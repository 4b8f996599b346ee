"""How alike two networks are as wholes (arXiv:2212.13970 eq. 4)."""

from __future__ import annotations

__all__ = ["MEASURES", "both_directions", "directed", "symmetric"]

from collections.abc import Callable, Mapping
from functools import lru_cache

import numpy as np

from torchgraft.match.blocks import inner_scores
from torchgraft.match.dp import values
from torchgraft.match.fitting import scored_layers
from torchgraft.records import Network
from torchgraft.transfer.methods import Method


def symmetric(source: Network, target: Network, method: Method) -> float:
    """Return ``sim = sqrt(F(source, target) * F(target, source))``."""
    forward, back = both_directions(source, target, method)
    return float((forward * back) ** 0.5)


def directed(source: Network, target: Network, method: Method) -> float:
    """Return ``F = score(target, source) / score(target, target)``: how well ``source`` serves ``target``."""
    return both_directions(source, target, method)[0]


@lru_cache(maxsize=32)
def both_directions(source: Network, target: Network, method: Method) -> tuple[float, float]:
    """Return ``F(target, source)`` and ``F(source, target)``. Layer scores are symmetric and computed once."""
    elements = method.standardize(target), method.standardize(source)
    counts = [scored_layers(layer for element in one for layer in element.layers) for one in elements]
    if not all(counts):
        return 0.0, 0.0
    inner = inner_scores(*elements, method.score, mixed=method.mixed)
    there, back = np.zeros_like(inner.weights), np.zeros_like(inner.weights)
    for group in inner.groups():
        place, shape = np.ix_(group.rows, group.columns), (len(group.rows), len(group.columns))
        turned = group.scores.transpose(0, 2, 1)
        there[place] = values(group.scores, method.exponent, positions=group.places).reshape(shape)
        back[place] = values(turned, method.exponent, positions=group.others).reshape(shape)
    forward = values(inner.spread(there)[None], method.exponent)[0]
    backward = values(inner.spread(back).T[None], method.exponent)[0]
    return float(forward) / counts[0], float(backward) / counts[1]


#: Measures by name, each a function of source and target.
MEASURES: Mapping[str, Callable[[Network, Network, Method], float]] = {"sim": symmetric, "F": directed}

"""Matchers: the dynamic program and the ablation's alternatives (arXiv:2212.13970 section 3.3, appendix B.8)."""

from __future__ import annotations

__all__ = ["Matcher", "match_bipartite", "match_dp", "match_in_order", "match_nbipartite", "match_random"]

from collections import defaultdict
from itertools import product
from typing import Protocol

import numpy as np

from torchgraft.match.blocks import Elements, Floats, inner_scores, layer_scores, offsets, pairs_inside, score_blocks
from torchgraft.match.dp import solve, trace
from torchgraft.records import Match, Pair
from torchgraft.score import Scorer


class Matcher(Protocol):
    """Pairs target layers with source layers.

    ``exponent`` is ``x`` of ``f(d) = d**-x``; ``mixed`` lets blocks meet single layers; ``seed`` feeds random draws.
    """

    def __call__(
        self, target: Elements, source: Elements, scorer: Scorer, *, exponent: float, mixed: bool, seed: int
    ) -> Match: ...


def match_dp(
    target: Elements, source: Elements, scorer: Scorer, *, exponent: float = 0.5, mixed: bool = False, seed: int = 0
) -> Match:
    """Keep the order of both networks; a source may serve a run of consecutive targets (eqs. 2 and 3)."""
    return match_in_order(target, source, scorer, exponent, mixed=mixed, leading=False)


def match_in_order(
    target: Elements, source: Elements, scorer: Scorer, exponent: float, *, mixed: bool, leading: bool
) -> Match:
    """Run both phases of the dynamic program; ``leading`` decides its ties (see :func:`~torchgraft.match.dp.solve`)."""
    if not target or not source:
        return Match((), 0.0)
    blocks = score_blocks(target, source, scorer, exponent, mixed=mixed, leading=leading)
    outer = solve(blocks.values[None], exponent, leading=leading)
    runs = trace(outer, 0, len(target), len(source))
    places = [(i, j) for first, past, j in runs for i in range(first, past) if blocks.values[i, j] > 0]
    return Match(pairs_inside(blocks, places, target, source), float(outer.value[0, -1, -1]))


def match_bipartite(
    target: Elements, source: Elements, scorer: Scorer, *, exponent: float = 0.5, mixed: bool = False, seed: int = 0
) -> Match:
    """One-to-one assignment of blocks of greatest total weight, the dynamic program inside them."""
    if not target or not source:
        return Match((), 0.0)
    blocks = score_blocks(target, source, scorer, exponent, mixed=mixed)
    rows, columns, total = _assign(blocks.values)
    return Match(pairs_inside(blocks, zip(rows, columns, strict=True), target, source), total)


def match_nbipartite(
    target: Elements, source: Elements, scorer: Scorer, *, exponent: float = 0.5, mixed: bool = False, seed: int = 0
) -> Match:
    """One-to-one assignment at both levels; a block's value is divided by its number of layers to lie in [0, 1]."""
    if not target or not source:
        return Match((), 0.0)
    scores = inner_scores(target, source, scorer, mixed=mixed)
    inner: dict[tuple[int, int], tuple[list[int], list[int], float]] = {}
    values = np.zeros((len(target), len(source)))
    for i, j in product(range(len(target)), range(len(source))):
        key = scores.target_class[i], scores.source_class[j]
        if scores.weights[key]:
            if key not in inner:
                inner[key] = _assign(layer_scores(scores, i, j))
            values[i, j] = inner[key][2] / max(len(target[i].layers), len(source[j].layers))
    rows, columns, total = _assign(values)
    starts, others = offsets(target), offsets(source)
    pairs = []
    for i, j in zip(rows, columns, strict=True):
        table = layer_scores(scores, i, j)
        for a, b in zip(*inner[scores.target_class[i], scores.source_class[j]][:2], strict=True):
            pairs.append(Pair(starts[i] + a, others[j] + b, float(table[a, b])))
    return Match(tuple(pairs), total)


def _assign(values: Floats) -> tuple[list[int], list[int], float]:
    """Assign rows to columns; the weight ``value * (1 - (i/n - j/m)**2)`` favours equal relative positions."""
    from scipy.optimize import (
        linear_sum_assignment,  # a sixth of a second to import, and only these two matchers need it
    )

    n, m = values.shape
    distance = np.arange(n)[:, None] / n - np.arange(m)[None, :] / m
    weights = values * (1 - distance**2)
    rows, columns = linear_sum_assignment(weights, maximize=True)
    kept = [(int(i), int(j)) for i, j in zip(rows, columns, strict=True) if values[i, j] > 0]
    return [i for i, _ in kept], [j for _, j in kept], float(sum(weights[i, j] for i, j in kept))


def match_random(
    target: Elements, source: Elements, scorer: Scorer, *, exponent: float = 0.5, mixed: bool = False, seed: int = 0
) -> Match:
    """Shuffle the layers of each kind and pair them off: the control that a match must beat."""
    generator = np.random.default_rng(seed)
    layers = [[layer for element in elements for layer in element.layers] for elements in (target, source)]
    by_kind: tuple[defaultdict[str, list[int]], ...] = (defaultdict(list), defaultdict(list))
    for groups, sequence in zip(by_kind, layers, strict=True):
        for position, layer in enumerate(sequence):
            groups[layer.kind].append(position)
    scores = scorer(layers[0], layers[1])
    pairs = []
    for kind, targets in by_kind[0].items():
        sources = by_kind[1].get(kind, [])
        for a, b in zip(generator.permutation(targets), generator.permutation(sources), strict=False):
            if scores[int(a), int(b)] > 0:
                pairs.append(Pair(int(a), int(b), float(scores[int(a), int(b)])))
    pairs.sort(key=lambda pair: pair.target)
    return Match(tuple(pairs), float(sum(pair.score for pair in pairs)))

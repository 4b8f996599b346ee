"""Phase 1: the layers inside every pair of blocks, scored and matched at once."""

from __future__ import annotations

__all__ = [
    "BlockScores",
    "InnerScores",
    "block_pairs",
    "inner_scores",
    "layer_scores",
    "offsets",
    "score_blocks",
    "score_table",
]

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, product

import numpy as np
from numpy.typing import NDArray

from torchgraft.match.dp import Solution, solve, trace
from torchgraft.records import Element, Layer, Pair
from torchgraft.score import Scorer

Floats = NDArray[np.float64]
Elements = Sequence[Element]

# What a block that meets a single layer counts, beside 1 for block and block.
_MIXED = 0.9


@dataclass(frozen=True, slots=True)
class InnerScores:
    """Scores of the layers inside the different blocks of two networks.

    Equal blocks are scored and solved once: ``target_class`` and ``source_class`` number the different elements, each
    of which ``target_blocks`` and ``source_blocks`` hold as numbers of the rows and columns of ``table``, the scores of
    the different layers (last row and column zero, for padding). ``weights`` is what a pair of blocks counts.
    """

    table: Floats
    weights: Floats
    target_blocks: list[tuple[int, ...]]
    source_blocks: list[tuple[int, ...]]
    target_class: list[int]
    source_class: list[int]

    def groups(self) -> Iterator[tuple[list[int], list[int], Floats]]:
        """Pairs of blocks of like sizes: their numbers, and their scores ``(targets * sources, layers, layers)``."""
        for rows in _by_size(self.target_blocks):
            for columns in _by_size(self.source_blocks):
                if self.weights[np.ix_(rows, columns)].any():
                    t = _padded([self.target_blocks[a] for a in rows], self.table.shape[0] - 1)
                    s = _padded([self.source_blocks[b] for b in columns], self.table.shape[1] - 1)
                    scores = self.table[t[:, None, :, None], s[None, :, None, :]]
                    yield rows, columns, scores.reshape(-1, t.shape[1], s.shape[1])

    def spread(self, values: Floats) -> Floats:
        """Spread values of the different pairs of blocks over all pairs of elements."""
        return (values * self.weights)[np.ix_(self.target_class, self.source_class)]


@dataclass(frozen=True, slots=True)
class BlockScores:
    """Values of every pair of elements ``(n, m)``, and the solutions from which pairs of layers are read back."""

    values: Floats
    inner: InnerScores
    solutions: dict[tuple[int, int], tuple[Solution, int]]


def inner_scores(target: Elements, source: Elements, scorer: Scorer, *, mixed: bool) -> InnerScores:
    """Score the layers of every target element with those of every source element.

    ``mixed`` lets a block meet a single layer, at a discount: a network's last norm is not the first one of a block.
    The paper scores such a pair 0.
    """
    target_rows, target_blocks, flags, target_class = _classes(target)
    source_rows, source_blocks, others, source_class = _classes(source)
    weights = np.where(np.equal.outer(flags, others), 1.0, _MIXED if mixed else 0.0)
    table = score_table(target_rows, source_rows, scorer)
    return InnerScores(table, weights, target_blocks, source_blocks, target_class, source_class)


def score_blocks(
    target: Elements, source: Elements, scorer: Scorer, exponent: float, *, mixed: bool, leading: bool = False
) -> BlockScores:
    """Match the layers of every pair of elements; ``leading``: see :func:`~torchgraft.match.dp.solve`."""
    inner = inner_scores(target, source, scorer, mixed=mixed)
    found = np.zeros_like(inner.weights)
    solutions: dict[tuple[int, int], tuple[Solution, int]] = {}
    for rows, columns, scores in inner.groups():
        solution = solve(scores, exponent, leading=leading)
        found[np.ix_(rows, columns)] = solution.value[:, -1, -1].reshape(len(rows), len(columns))
        solutions |= {pair: (solution, number) for number, pair in enumerate(product(rows, columns))}
    return BlockScores(inner.spread(found), inner, solutions)


def _by_size(blocks: Sequence[tuple[int, ...]]) -> Iterator[list[int]]:
    """Numbers of the single layers, and of the blocks: padded together, single layers would cost as much as blocks."""
    for single in (True, False):
        numbers = [number for number, block in enumerate(blocks) if (len(block) == 1) == single]
        if numbers:
            yield numbers


def _classes(elements: Elements) -> tuple[list[Layer], list[tuple[int, ...]], list[bool], list[int]]:
    """Number the different layers and the different elements.

    Returns one layer of each kind, shape, stride and bias, the different elements as numbers of layers, whether each
    is a block, and the number of every element.
    """
    layers: list[Layer] = []
    numbers: dict[object, int] = {}
    classes: dict[tuple[bool, tuple[int, ...]], int] = {}
    of_elements = []
    for element in elements:
        key = []
        for layer in element.layers:
            number = numbers.setdefault((layer.kind, layer.shape, layer.stride, layer.biased), len(layers))
            if number == len(layers):
                layers.append(layer)
            key.append(number)
        of_elements.append(classes.setdefault((element.block, tuple(key)), len(classes)))
    return layers, [block for _, block in classes], [flag for flag, _ in classes], of_elements


def score_table(target: Sequence[Layer], source: Sequence[Layer], scorer: Scorer) -> Floats:
    """Score every target layer with every source layer: ``(n + 1, m + 1)``, the last row and column zero (padding)."""
    table = np.zeros((len(target) + 1, len(source) + 1))
    table[:-1, :-1] = scorer(target, source)
    return table


def _padded(blocks: Sequence[tuple[int, ...]], padding: int) -> NDArray[np.intp]:
    padded = np.full((len(blocks), max(map(len, blocks))), padding, np.intp)
    for row, block in zip(padded, blocks, strict=True):
        row[: len(block)] = block
    return padded


def offsets(elements: Elements) -> list[int]:
    """Flat position of the first layer of every element."""
    return list(accumulate((len(element.layers) for element in elements), initial=0))[:-1]


def layer_scores(inner: InnerScores, i: int, j: int) -> Floats:
    """Scores ``(layers, layers)`` of target element ``i`` with source element ``j``."""
    t, s = inner.target_blocks[inner.target_class[i]], inner.source_blocks[inner.source_class[j]]
    return inner.table[np.ix_(t, s)]


def block_pairs(blocks: BlockScores, i: int, j: int, starts: tuple[int, int]) -> Iterator[Pair]:
    """Read back the pairs of layers of target element ``i`` and source element ``j``, whose layers start there."""
    scores = layer_scores(blocks.inner, i, j)
    solution, number = blocks.solutions[blocks.inner.target_class[i], blocks.inner.source_class[j]]
    for first, past, s in trace(solution, number, *scores.shape):
        for t in range(first, past):
            if scores[t, s] > 0:
                yield Pair(starts[0] + t, starts[1] + s, float(scores[t, s]))

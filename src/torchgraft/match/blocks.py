"""Phase 1: the layers inside every pair of blocks, scored and matched at once."""

from __future__ import annotations

__all__ = [
    "BlockScores",
    "Group",
    "InnerScores",
    "block_pairs",
    "inner_scores",
    "layer_scores",
    "offsets",
    "pairs_inside",
    "score_blocks",
]

from collections.abc import Iterable, Iterator, Sequence
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
class Group:
    """Pairs of blocks that are solved together: the numbers of both sides, and all their pairs, row by row.

    ``scores`` are ``(pairs, targets, sources)`` of the layers that something can serve; ``places`` and ``others``
    ``(pairs, targets)`` and ``(pairs, sources)`` say where these stand in their blocks.
    """

    rows: list[int]
    columns: list[int]
    scores: Floats
    places: NDArray[np.intp]
    others: NDArray[np.intp]


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

    def groups(self) -> Iterator[Group]:
        """Put pairs of blocks of like sizes together."""
        served = np.any(self.table, 1), np.any(self.table, 0)
        sides = [list(_by_size(self.target_blocks, served[0])), list(_by_size(self.source_blocks, served[1]))]
        for (rows, t, places), (columns, s, others) in product(*sides):
            if self.weights[np.ix_(rows, columns)].any():
                scores = self.table[t[:, None, :, None], s[None, :, None, :]].reshape(-1, t.shape[1], s.shape[1])
                yield Group(rows, columns, scores, places.repeat(len(columns), 0), np.tile(others, (len(rows), 1)))

    def spread(self, values: Floats) -> Floats:
        """Spread values of the different pairs of blocks over all pairs of elements."""
        return (values * self.weights)[np.ix_(self.target_class, self.source_class)]


@dataclass(frozen=True, slots=True)
class BlockScores:
    """Values of every pair of elements ``(n, m)``, and the solutions from which pairs of layers are read back."""

    values: Floats
    inner: InnerScores
    solutions: dict[tuple[int, int], tuple[Solution, Group, int]]


def inner_scores(target: Elements, source: Elements, scorer: Scorer, *, mixed: bool) -> InnerScores:
    """Score the layers of every target element with those of every source element.

    ``mixed`` lets a block meet a single layer, at a discount: a network's last norm is not the first one of a block.
    The paper scores such a pair 0.
    """
    target_rows, target_blocks, flags, target_class = _classes(target)
    source_rows, source_blocks, others, source_class = _classes(source)
    weights = np.where(np.equal.outer(flags, others), 1.0, _MIXED if mixed else 0.0)
    table = _score_table(target_rows, source_rows, scorer)
    return InnerScores(table, weights, target_blocks, source_blocks, target_class, source_class)


def score_blocks(
    target: Elements, source: Elements, scorer: Scorer, exponent: float, *, mixed: bool, leading: bool = False
) -> BlockScores:
    """Match the layers of every pair of elements; ``leading``: see :func:`~torchgraft.match.dp.solve`."""
    inner = inner_scores(target, source, scorer, mixed=mixed)
    found = np.zeros_like(inner.weights)
    solutions: dict[tuple[int, int], tuple[Solution, Group, int]] = {}
    for group in inner.groups():
        solution = solve(group.scores, exponent, leading=leading, positions=group.places)
        place = np.ix_(group.rows, group.columns)
        found[place] = solution.value[:, -1, -1].reshape(found[place].shape)
        for number, pair in enumerate(product(group.rows, group.columns)):
            solutions[pair] = solution, group, number
    return BlockScores(inner.spread(found), inner, solutions)


def _by_size(
    blocks: Sequence[tuple[int, ...]], served: NDArray[np.bool_]
) -> Iterator[tuple[list[int], NDArray[np.intp], NDArray[np.intp]]]:
    """Single layers, and blocks: padded together, single layers would cost as much as blocks.

    Gives the numbers of the blocks, and their layers and places as :func:`_padded` does.
    """
    for single in (True, False):
        numbers = [number for number, block in enumerate(blocks) if (len(block) == 1) == single]
        if numbers:
            yield numbers, *_padded([blocks[number] for number in numbers], served)


def _classes(elements: Elements) -> tuple[list[Layer], list[tuple[int, ...]], list[bool], list[int]]:
    """Number the different layers and the different elements.

    Returns one layer of each look, the different elements as numbers of layers, whether each is a block, and the number
    of every element.
    """
    layers: list[Layer] = []
    numbers: dict[object, int] = {}
    classes: dict[tuple[bool, tuple[int, ...]], int] = {}
    of_elements = []
    for element in elements:
        key = []
        for layer in element.layers:
            number = numbers.setdefault(layer.look, len(layers))
            if number == len(layers):
                layers.append(layer)
            key.append(number)
        of_elements.append(classes.setdefault((element.block, tuple(key)), len(classes)))
    return layers, [block for _, block in classes], [flag for flag, _ in classes], of_elements


def _score_table(target: Sequence[Layer], source: Sequence[Layer], scorer: Scorer) -> Floats:
    """Score every target layer with every source layer: ``(n + 1, m + 1)``, the last row and column zero (padding)."""
    table = np.zeros((len(target) + 1, len(source) + 1))
    table[:-1, :-1] = scorer(target, source)
    return table


def _padded(blocks: Sequence[tuple[int, ...]], served: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Put the layers of blocks that ``served`` marks into rows of one length, padded with the last number.

    Returns the numbers of the layers and their places in their blocks; the padding stands behind all of them.
    """
    longest = max(map(len, blocks))
    every = bool(served[:-1].all())
    kept = [range(len(block)) if every else [i for i, layer in enumerate(block) if served[layer]] for block in blocks]
    width = longest if every else max(1, *map(len, kept))
    numbers = np.full((len(blocks), width), len(served) - 1, np.intp)
    places = np.tile(np.arange(width) + (0 if every else longest), (len(blocks), 1))
    for row, block in enumerate(blocks):
        numbers[row, : len(kept[row])] = block if every else [block[i] for i in kept[row]]
        places[row, : len(kept[row])] = kept[row]
    return numbers, places


def offsets(elements: Elements) -> list[int]:
    """Flat position of the first layer of every element."""
    return list(accumulate((len(element.layers) for element in elements), initial=0))[:-1]


def layer_scores(inner: InnerScores, i: int, j: int) -> Floats:
    """Scores ``(layers, layers)`` of target element ``i`` with source element ``j``."""
    t, s = inner.target_blocks[inner.target_class[i]], inner.source_blocks[inner.source_class[j]]
    return inner.table[np.ix_(t, s)]


def block_pairs(blocks: BlockScores, i: int, j: int, starts: tuple[int, int]) -> Iterator[Pair]:
    """Read back the pairs of layers of target element ``i`` and source element ``j``, whose layers start there."""
    a, b = blocks.inner.target_class[i], blocks.inner.source_class[j]
    solution, group, number = blocks.solutions[a, b]
    scores, places, others = group.scores[number], group.places[number], group.others[number]
    for first, past, s in trace(solution, number, *scores.shape):
        for t in range(first, past):
            if scores[t, s] > 0:
                yield Pair(starts[0] + int(places[t]), starts[1] + int(others[s]), float(scores[t, s]))


def pairs_inside(
    blocks: BlockScores, places: Iterable[tuple[int, int]], target: Elements, source: Elements
) -> tuple[Pair, ...]:
    """Return the pairs of layers of the elements of target and source that are matched, in their order."""
    starts, others = offsets(target), offsets(source)
    return tuple(pair for i, j in places for pair in block_pairs(blocks, i, j, (starts[i], others[j])))

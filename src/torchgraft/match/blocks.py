"""Phase 1: the layers inside every pair of blocks, scored and matched at once."""

from __future__ import annotations

__all__ = ["BlockScores", "block_pairs", "offsets", "score_blocks", "score_table"]

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

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
class BlockScores:
    """Values of every pair of elements, and what is needed to read the pairs of layers back.

    Equal blocks share one solution. ``values`` is ``(n elements, m elements)``; ``inner`` holds the layer scores as
    ``(different blocks of the target, of the source, layers, layers)``; ``target_class`` and ``source_class`` number
    the different blocks, ``weights`` what a pair of them counts.
    """

    values: Floats
    inner: Floats
    weights: Floats
    solution: Solution
    target_class: list[int]
    source_class: list[int]


def score_blocks(
    target: Elements, source: Elements, scorer: Scorer, exponent: float, *, mixed: bool, leading: bool = False
) -> BlockScores:
    """Match the layers of every target element with those of every source element.

    ``mixed`` lets a block meet a single layer, at a discount: a network's last norm is not the first one of a block.
    The paper scores such a pair 0. ``leading``: see :func:`solve`.
    """
    target_rows, target_blocks, target_class = _classes(target)
    source_rows, source_blocks, source_class = _classes(source)
    table = score_table(target_rows, source_rows, scorer)
    rows, columns = _padded(target_blocks, len(target_rows)), _padded(source_blocks, len(source_rows))
    inner = table[rows[:, None, :, None], columns[None, :, None, :]]
    p, q, n, m = inner.shape
    solution = solve(inner.reshape(p * q, n, m), exponent, leading=leading)
    values = solution.value[:, -1, -1].reshape(p, q)
    alike = np.equal.outer([block[0] for block in target_blocks], [block[0] for block in source_blocks])
    weights = np.where(alike, 1.0, _MIXED if mixed else 0.0)
    values = (values * weights)[np.ix_(target_class, source_class)]
    return BlockScores(values, inner, weights, solution, target_class, source_class)


def _classes(elements: Elements) -> tuple[list[Layer], list[tuple[int, ...]], list[int]]:
    """Number the different layers and the different elements.

    Returns one layer of each kind and shape, the different elements as ``(is block, layer numbers...)``, and the
    number of every element.
    """
    layers: list[Layer] = []
    numbers: dict[object, int] = {}
    classes: dict[tuple[int, ...], int] = {}
    of_elements = []
    for element in elements:
        key = [int(element.block)]
        for layer in element.layers:
            number = numbers.setdefault((layer.kind, layer.shape, layer.stride), len(layers))
            if number == len(layers):
                layers.append(layer)
            key.append(number)
        of_elements.append(classes.setdefault(tuple(key), len(classes)))
    return layers, list(classes), of_elements


def score_table(target: Sequence[Layer], source: Sequence[Layer], scorer: Scorer) -> Floats:
    """Score every target layer with every source layer: ``(n + 1, m + 1)``, the last row and column zero (padding)."""
    table = np.zeros((len(target) + 1, len(source) + 1))
    table[:-1, :-1] = scorer(target, source)
    return table


def _padded(blocks: Sequence[tuple[int, ...]], padding: int) -> NDArray[np.intp]:
    width = max((len(block) - 1 for block in blocks), default=0)
    padded = np.full((len(blocks), width), padding, np.intp)
    for row, block in zip(padded, blocks, strict=True):
        row[: len(block) - 1] = block[1:]
    return padded


def offsets(elements: Elements) -> list[int]:
    """Flat position of the first layer of every element."""
    return list(accumulate((len(element.layers) for element in elements), initial=0))[:-1]


def block_pairs(
    blocks: BlockScores, target: Element, source: Element, place: tuple[int, int, int, int]
) -> Iterator[Pair]:
    """Read back the pairs of layers of one pair of elements.

    ``place`` holds the two element numbers and the flat positions of their first layers.
    """
    i, j, target_start, source_start = place
    a, b = blocks.target_class[i], blocks.source_class[j]
    number = a * blocks.inner.shape[1] + b
    scores = blocks.inner[a, b]
    for first, past, s in trace(blocks.solution, number, len(target.layers), len(source.layers)):
        for t in range(first, past):
            if scores[t, s] > 0:
                yield Pair(target_start + t, source_start + s, float(scores[t, s]))

"""Rows of blocks matched block by block from their start: what a row has more of takes what a rule says."""

from __future__ import annotations

__all__ = ["match_rows", "match_stages"]

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby

from torchgraft.kinds import DIMENSIONAL, output_axis
from torchgraft.match.blocks import Elements, pairs_inside, score_blocks
from torchgraft.match.dp import solve, trace
from torchgraft.records import Element, Match
from torchgraft.score import Scorer

#: Numbers of elements that stand beside each other.
Rows = Sequence[tuple[int, ...]]


def match_stages(
    target: Elements, source: Elements, scorer: Scorer, *, exponent: float = 0.5, mixed: bool = False, seed: int = 0
) -> Match:
    """Keep the order of both networks; in a stage, blocks that the source has not take its last (arXiv:2006.12986).

    Where the dynamic program gives blocks 1 1 2 2 of the source to the four blocks of a stage, this gives 1 2 2 2.
    Where both networks have as many stages, of the same kinds of layers, these meet in order, whatever their widths.
    """
    mine, others = ([row for row in _stages(one) if one[row[0]].block] for one in (target, source))
    alike = [_kinds(target[row[0]]) for row in mine] == [_kinds(source[row[0]]) for row in others]
    paired = dict(zip(mine, others, strict=True)) if alike else {}
    return match_rows(target, source, scorer, exponent, mixed=mixed, rows=_stages, place=_clamped, paired=paired)


def _clamped(number: int, count: int) -> int:
    return min(number, count - 1)


def match_rows(
    target: Elements,
    source: Elements,
    scorer: Scorer,
    exponent: float,
    *,
    mixed: bool,
    rows: Callable[[Elements], Rows],
    place: Callable[[int, int], int],
    paired: Mapping[tuple[int, ...], tuple[int, ...]] | None = None,
) -> Match:
    """Match by the dynamic program, then each row of blocks with the row that most of its blocks were matched with.

    Args:
        target: blocks and layers of the target.
        source: blocks and layers of the source.
        scorer: scores layers.
        exponent: ``x`` of ``f(d) = d**-x``.
        mixed: blocks may meet single layers.
        rows: which elements of a network are a row; single layers are left alone.
        place: the place in a row of the source, for a place in one of the target and the length of the source's.
        paired: the source's row of rows of the target for which it is known.
    """
    if not target or not source:
        return Match((), 0.0)
    blocks = score_blocks(target, source, scorer, exponent, mixed=mixed)
    outer = solve(blocks.values[None], exponent)
    runs = trace(outer, 0, len(target), len(source))
    chosen = {i: j for first, past, j in runs for i in range(first, past) if blocks.values[i, j] > 0}
    home = {j: row for row in rows(source) for j in row}
    for row in rows(target):
        met = Counter(home[chosen[i]] for i in row if i in chosen and source[chosen[i]].block)
        other = (paired or {}).get(row) or next((most for most, _ in met.most_common(1)), None)
        if other and target[row[0]].block:
            chosen |= {i: other[place(number, len(other))] for number, i in enumerate(row)}
    places = [(i, j) for i, j in sorted(chosen.items()) if blocks.values[i, j] > 0]
    return Match(pairs_inside(blocks, places, target, source), float(outer.value[0, -1, -1]))


def _stages(elements: Elements) -> Rows:
    """Return the rows of blocks that are made of the same kinds of layers and give as many units."""
    looks = [(element.block, _width(element), _kinds(element)) for element in elements]
    return [tuple(row) for _, row in groupby(range(len(elements)), key=lambda number: looks[number])]


def _kinds(element: Element) -> tuple[str, ...]:
    return tuple(layer.kind for layer in element.layers)


def _width(element: Element) -> int:
    """Return how many units the last layer gives that mixes them."""
    for layer in reversed(element.layers):
        if layer.kind in DIMENSIONAL and layer.shape is not None:
            return layer.shape[output_axis(layer.kind, "weight") or 0]
    return 0

"""The default matcher: the paper's dynamic program, and what makes it safe on networks that people edit and scale."""

from __future__ import annotations

__all__ = ["keep_places", "match_graft"]

from collections.abc import Sequence

from torchgraft.kinds import DIMENSIONAL, family
from torchgraft.match.blocks import Elements
from torchgraft.match.matchers import match_in_order
from torchgraft.match.recover import (
    Chosen,
    drop_orphans,
    exact_targets,
    fill_blocks,
    fill_gaps,
    find_moved,
    rearrange,
)
from torchgraft.records import Layer, Match, Pair
from torchgraft.score import Scorer

Layers = Sequence[Layer]


def match_graft(
    target: Elements, source: Elements, scorer: Scorer, *, exponent: float = 0.5, mixed: bool = True, seed: int = 0
) -> Match:
    """Match in order, then recover what order and grouping leave behind. The score is the dynamic program's."""
    match = match_in_order(target, source, scorer, exponent, mixed=mixed, leading=True)
    layers = [[layer for element in elements for layer in element.layers] for elements in (target, source)]
    chosen = {pair.target: pair for pair in match.pairs}
    chosen = fill_blocks(chosen, target, source)
    chosen = fill_gaps(chosen, layers[0], layers[1], scorer, exponent)
    chosen = rearrange(chosen, layers[0], layers[1])
    chosen = find_moved(chosen, layers[0], layers[1])
    chosen = keep_places(chosen, layers[0], layers[1], scorer)
    chosen = drop_orphans(chosen, layers[0])
    return Match(tuple(chosen[t] for t in sorted(chosen)), match.score)


def keep_places(chosen: Chosen, target: Layers, source: Layers, scorer: Scorer) -> Chosen:
    """Match by position where both networks are the same sequence of kinds: one is the other in another width.

    Scores compare sizes as they are, so that a stage of a network of twice the width looks more like the next stage of
    the source than like its own. Nothing changes where ``chosen`` finds most layers exactly as they are: that is a
    network whose blocks changed places.
    """
    if len(target) != len(source) or [_skeleton(t) for t in target] != [_skeleton(s) for s in source]:
        return chosen
    if all(t in chosen and chosen[t].source == t for t in range(len(target))):
        return chosen
    scores = _pair_scores(target, source, scorer)
    pairs = {i: Pair(i, i, score) for i, score in enumerate(scores) if score > 0}
    served = {i for i, layer in enumerate(target) if not layer.kind.startswith("buffer")}
    mixing = {i for i in served if target[i].kind in DIMENSIONAL}
    exact = [len(mixing & exact_targets(one)) for one in (chosen, pairs)]
    edited = exact[0] > exact[1] and 2 * exact[0] > len(mixing)
    return pairs if served <= pairs.keys() and not edited else chosen


def _skeleton(layer: Layer) -> tuple[str, int]:
    return family(layer.kind), len(layer.shape or ())


def _pair_scores(target: Layers, source: Layers, scorer: Scorer) -> list[float]:
    """Score the layers at equal positions; layers that look alike to a scorer are scored once."""
    keys = [[layer.look for layer in layers] for layers in (target, source)]
    sides = [dict(zip(key, layers, strict=True)) for key, layers in zip(keys, (target, source), strict=True)]
    table = scorer(list(sides[0].values()), list(sides[1].values()))
    rows, columns = ({key: number for number, key in enumerate(side)} for side in sides)
    return [float(table[rows[t], columns[s]]) for t, s in zip(*keys, strict=True)]

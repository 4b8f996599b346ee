"""The default matcher: the paper's dynamic program, and what makes it safe on networks that people edit and scale."""

from __future__ import annotations

__all__ = ["match_graft"]

from collections.abc import Sequence

from torchgraft.match.blocks import Elements
from torchgraft.match.matchers import match_in_order
from torchgraft.match.places import keep_block_places, keep_places
from torchgraft.match.recover import (
    drop_orphans,
    fill_blocks,
    fill_gaps,
    find_moved,
    rearrange,
)
from torchgraft.records import Layer, Match
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
    chosen = keep_block_places(chosen, target, source, scorer)
    chosen = keep_places(chosen, layers[0], layers[1], scorer)
    chosen = drop_orphans(chosen, layers[0])
    return Match(tuple(chosen[t] for t in sorted(chosen)), match.score)

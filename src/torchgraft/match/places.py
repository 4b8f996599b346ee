"""Layers keep their places where two networks, or two blocks, are the same sequence in another width."""

from __future__ import annotations

__all__ = ["keep_block_places", "keep_places"]

from collections import Counter
from collections.abc import Sequence

from torchgraft.kinds import DIMENSIONAL, family
from torchgraft.match.blocks import Elements, offsets
from torchgraft.match.recover import Chosen, exact_targets
from torchgraft.records import Layer, Pair
from torchgraft.score import Scorer

Layers = Sequence[Layer]


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
    return _in_place(chosen, target, source, 0, 0, scorer) or chosen


def keep_block_places(chosen: Chosen, target: Elements, source: Elements, scorer: Scorer) -> Chosen:
    """Match the layers of two blocks by position: of blocks that are the same sequence, mostly found in one another.

    A wider query looks like the source's keys, and a projection that became square like any other of its block.
    """
    homes = [position for position, element in enumerate(source) for _ in element.layers]
    firsts, starts = offsets(target), offsets(source)
    kept = dict(chosen)
    for first, element in zip(firsts, target, strict=True):
        block = range(first, first + len(element.layers))
        votes = Counter(homes[chosen[t].source] for t in block if t in chosen)
        if len(block) < 2 or not votes:
            continue
        partner, found = votes.most_common(1)[0]
        layers, others = element.layers, source[partner].layers
        if 2 * found <= len(block) or [_skeleton(t) for t in layers] != [_skeleton(s) for s in others]:
            continue
        if any(t not in chosen or chosen[t].source != starts[partner] + i for i, t in enumerate(block)):
            own = {t: chosen[t] for t in block if t in chosen}
            kept |= _in_place(own, layers, others, first, starts[partner], scorer) or {}
    return kept


def _in_place(chosen: Chosen, target: Layers, source: Layers, first: int, start: int, scorer: Scorer) -> Chosen | None:
    """Return the pairs of equal positions, unless a layer would go without or ``chosen`` finds most layers as they are.

    ``first`` and ``start`` are the flat positions of the first layers.
    """
    scores = _pair_scores(target, source, scorer)
    pairs = {first + i: Pair(first + i, start + i, score) for i, score in enumerate(scores) if score > 0}
    served = {first + i for i, layer in enumerate(target) if not layer.kind.startswith("buffer")}
    mixing = {t for t in served if target[t - first].kind in DIMENSIONAL}
    exact = [len(mixing & exact_targets(one)) for one in (chosen, pairs)]
    edited = exact[0] > exact[1] and 2 * exact[0] > len(mixing)
    return pairs if served <= pairs.keys() and not edited else None


def _skeleton(layer: Layer) -> tuple[str, int]:
    return family(layer.kind), len(layer.shape or ())


def _pair_scores(target: Layers, source: Layers, scorer: Scorer) -> list[float]:
    """Score the layers at equal positions; layers that look alike to a scorer are scored once."""
    keys = [[layer.look for layer in layers] for layers in (target, source)]
    sides = [dict(zip(key, layers, strict=True)) for key, layers in zip(keys, (target, source), strict=True)]
    table = scorer(list(sides[0].values()), list(sides[1].values()))
    rows, columns = ({key: number for number, key in enumerate(side)} for side in sides)
    return [float(table[rows[t], columns[s]]) for t, s in zip(*keys, strict=True)]

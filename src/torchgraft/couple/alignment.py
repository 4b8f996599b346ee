"""Residual branches keep together: where the target can hold every branch of the source, each is matched as a whole."""

from __future__ import annotations

__all__ = ["align"]

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from operator import ge

import numpy as np

from torchgraft.axes import AxisGroups
from torchgraft.axes.branches import Branch, outermost
from torchgraft.couple.closing import scale_keys
from torchgraft.couple.heads import without_head
from torchgraft.couple.holding import Side, complete, hold_all, layer_look, pair_scores, side_of
from torchgraft.match.recover import owners
from torchgraft.records import Element, Layer, Pair
from torchgraft.score import Scorer

Pairs = Mapping[int, Pair]
Layers = Sequence[Layer]
#: A branch as the numbers of its layers, and what they are.
Body = tuple[tuple[int, ...], tuple[object, ...]]

_PLACED = 1000.0  # a branch that finds a place counts more than any score


def align(
    pairs: Pairs,
    target: Sequence[Element],
    source: Sequence[Element],
    groups: tuple[AxisGroups, AxisGroups],
    scorer: Scorer,
) -> tuple[Pairs, dict[int, int], bool]:
    """Match residual branches as a whole, in order, unless the match has done so, or one of the source finds no place.

    Layer by layer, a query of a wider target looks like the source's key, and a branch gets a little of several. A
    branch without a place of its own is matched with one that has found its own.

    Where layers of the source are left over after that, although all of them could be placed, they are; all but those
    of its head, where the target has none.

    Returns the pairs, the target's layer that each layer of a placed branch serves first, and whether every layer of
    the source has a place.

    Args:
        pairs: the match, by number of the target's layer.
        target: the target's blocks and layers.
        source: the source's blocks and layers.
        groups: of target and source.
        scorer: scores layers.
    """
    apart = scale_keys(*groups), scale_keys(*reversed(groups))
    known = [side_of(*one) for one in zip((target, source), groups, apart, strict=True)]
    sides = [_bodies(one.branches, own) for one, own in zip(groups, known, strict=True)]
    made, first = _aligned(pairs, sides, known[0].layers, known[1].layers, scorer)
    sources = [*without_head(*groups, known[1], sides[1]), known[1]]
    if complete(owners(made) | first, known[0], sources[0]):
        return made, first, True
    held = hold_all(sides, (target, source), known[0], sources, scorer)
    if held is None:
        return made, first, False
    buffers = {t: pair for t, pair in pairs.items() if known[0].layers[t].kind.startswith("buffer")}
    return buffers | held[0], held[1], True


def _aligned(
    pairs: Pairs, sides: Sequence[Sequence[Body]], target: Layers, source: Layers, scorer: Scorer
) -> tuple[Pairs, dict[int, int]]:
    """Match the branches as a whole; return the pairs, and which layers the placed ones serve first."""
    if not sides[1]:
        return pairs, {}
    kept = _kept(pairs, *sides)
    places = kept if kept is not None and _hold(kept, sides, target, source) else None
    if places is None:
        places = _placed(sides[0], sides[1], target, source, scorer, holding=True)
    if places is None:
        places = kept if kept is not None else _placed(sides[0], sides[1], target, source, scorer, holding=False)
    if places is None:
        return pairs, {}
    looks = {sides[0][number][1] for number in places}
    freed = {t for layers, look in sides[0] if places is not kept or look in looks for t in layers}
    served = list(_served(places, sides))
    gaps = _gaps(places, sides, target, source)
    scores = {(pair.target, pair.source): pair.score for pair in pairs.values() if pair.score > 0}
    asked = {(t, s) for t, s, _ in served}.union(*(gap.fits for gap in gaps)).difference(scores)
    scores |= pair_scores(asked, target, source, scorer)
    found = [(Pair(t, s, scores[t, s]), owned) for t, s, owned in served if scores[t, s] > 0]
    first = [pair for pair, owned in found if owned]
    first += [pair for gap in gaps for pair in _held(gap, scores)]
    made = {t: pair for t, pair in pairs.items() if t not in freed}
    made.update((pair.target, pair) for pair in (*(pair for pair, _ in found), *first))
    return made, {pair.source: pair.target for pair in first}


def _served(places: Mapping[int, int], sides: Sequence[Sequence[Body]]) -> Iterator[tuple[int, int, bool]]:
    """Yield the layers of branches that look alike, and whether the target's branch is the place of the source's."""
    alike: dict[object, list[int]] = {}
    for number in places:
        alike.setdefault(sides[0][number][1], []).append(number)
    for number, (layers, look) in enumerate(sides[0]):
        if look in alike:
            nearest = min(alike[look], key=lambda one: (abs(one - number), one))
            for t, s in zip(layers, sides[1][places[nearest]][0], strict=True):
                yield t, s, number in places


def _kept(pairs: Pairs, target: Sequence[Body], source: Sequence[Body]) -> dict[int, int] | None:
    """Return the places of the source's branches where the match has found one for each of them, in order."""
    left = {layers: number for number, (layers, _) in enumerate(source)}
    found = {}
    for number, (layers, _) in enumerate(target):
        place = left.pop(tuple(pairs[t].source if t in pairs else -1 for t in layers), None)
        if place is not None:
            found[number] = place
    return found if not left and list(found.values()) == sorted(found.values()) else None


def _hold(places: Mapping[int, int], sides: Sequence[Sequence[Body]], target: Layers, source: Layers) -> bool:
    """Tell whether every branch stands in one that is nowhere smaller."""
    bodies = ((sides[0][i][0], sides[1][j][0]) for i, j in places.items())
    return all(_holds(target[t], source[s]) for ts, ss in bodies for t, s in zip(ts, ss, strict=True))


def _holds(target: Layer, source: Layer) -> bool:
    return all(map(ge, target.shape or (), source.shape or ()))


@dataclass(frozen=True, slots=True)
class _Gap:
    """Layers between two branches on both sides, and the pairs of them of which the target's holds the source's."""

    target: Sequence[int]
    source: Sequence[int]
    fits: frozenset[tuple[int, int]]


def _gaps(places: Mapping[int, int], sides: Sequence[Sequence[Body]], target: Layers, source: Layers) -> Sequence[_Gap]:
    """Return the layers between branches that may stand in those between the two branches they stand in.

    A block that changes the width is no residual branch, and looks like the blocks beside it: where the target is twice
    as wide, like those of the source's next stage.
    """
    inside = [{number for layers, _ in side for number in layers} for side in sides]
    placed = [(sides[0][t][0], sides[1][places[t]][0]) for t in sorted(places)]
    starts = [(0, 0), *((max(t) + 1, max(s) + 1) for t, s in placed)]
    stops = [*((min(t), min(s)) for t, s in placed), (len(target), len(source))]
    found: list[_Gap] = []
    for start, stop in zip(starts, stops, strict=True):
        ts, ss = ([n for n in range(start[i], stop[i]) if n not in inside[i]] for i in (0, 1))
        if 0 < len(ss) <= len(ts):
            sorts = [
                [(n, layers[n], layer_look(layers[n])) for n in numbers]
                for numbers, layers in ((ts, target), (ss, source))
            ]
            fits = (
                (t, s)
                for t, one, sort in sorts[0]
                for s, other, like in sorts[1]
                if sort == like and _holds(one, other)
            )
            found.append(_Gap(ts, ss, frozenset(fits)))
    return found


def _held(gap: _Gap, scores: Mapping[tuple[int, int], float]) -> list[Pair]:
    """Place layers of the source in order, each in one of the target that holds it; none where one is left."""
    rows = {t: [-inf] * len(gap.source) for t in gap.target}
    columns = {s: column for column, s in enumerate(gap.source)}
    for t, s in gap.fits:
        if scores[t, s] > 0:
            rows[t][columns[s]] = _PLACED + scores[t, s]
    places = _in_order(list(rows.values()))
    chosen = [] if places is None else [(gap.target[i], gap.source[j]) for i, j in places.items()]
    return [Pair(t, s, scores[t, s]) for t, s in chosen]


def _bodies(branches: Sequence[Branch], side: Side) -> list[Body]:
    """Return the outermost branches as layers in the order of the run, without those that need no place."""
    layers = side.layers
    homes: dict[str, list[int]] = {}  # of a tensor that is held in parts, several
    for number, layer in enumerate(layers):
        for spec in layer.tensors if number not in side.spare else ():
            homes.setdefault(spec.key, []).append(number)
    found = []
    chains: dict[int, int] = {}  # counted anew: those inside other branches do not count
    for branch in outermost(branches):
        unique = dict.fromkeys((n, key in branch.aside) for key in branch.keys for n in homes.get(key, ()))
        look = tuple((*layer_look(layers[n]), aside) for n, aside in unique)
        chain = chains.setdefault(branch.chain, len(chains))
        found.append((tuple(n for n, _ in unique), (chain, *look)))
    return found


def _placed(
    target: Sequence[Body],
    source: Sequence[Body],
    t_layers: Layers,
    s_layers: Layers,
    scorer: Scorer,
    *,
    holding: bool,
) -> dict[int, int] | None:
    """Place the branches of the source in order: the source's number by the target's, ``None`` if one is left.

    ``holding``: only where the target's branch is nowhere smaller.
    """
    n, m = len(target), len(source)
    gain = [[-inf] * m for _ in range(n)]
    shapes = [
        [tuple(layers[one].shape for one in body) for body, _ in side]
        for side, layers in ((target, t_layers), (source, s_layers))
    ]
    known: dict[object, float] = {}  # what a branch is worth in another one, by what both are
    for i, (ts, look) in enumerate(target):
        for j, (ss, other) in enumerate(source):
            if not ts or look != other:
                continue
            key = look, shapes[0][i], shapes[1][j]
            if key not in known:
                known[key] = _worth([t_layers[t] for t in ts], [s_layers[s] for s in ss], scorer, holding)
            gain[i][j] = known[key] - abs(i / n - j / m) / 1000
    return _in_order(gain)


def _worth(target: Layers, source: Layers, scorer: Scorer, holding: bool) -> float:
    """Return what it is worth to place a branch of the source in one of the target."""
    if holding and not all(_holds(t, s) for t, s in zip(target, source, strict=True)):
        return -inf
    return _PLACED + float(np.diagonal(scorer(target, source)).mean())


def _in_order(gain: Sequence[Sequence[float]]) -> dict[int, int] | None:
    """Choose pairs in order that gain most: column by row, ``None`` where a column is left."""
    if not gain:
        return None
    n, m = len(gain), len(gain[0])
    best = [[0.0] * (m + 1)]
    for row in gain:
        above, last = best[-1], [0.0]
        for j, one in enumerate(row):
            last.append(max(above[j + 1], last[j], above[j] + one))
        best.append(last)
    if best[n][m] < _PLACED * m - 1:
        return None
    places, i, j = {}, n, m
    while i and j:
        if best[i][j] == best[i - 1][j - 1] + gain[i - 1][j - 1]:
            places[i - 1] = j - 1
            i, j = i - 1, j - 1
        elif best[i][j] == best[i - 1][j]:
            i -= 1
        else:
            j -= 1
    return places

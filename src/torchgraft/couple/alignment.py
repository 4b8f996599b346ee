"""Residual branches keep together: where the target can hold every branch of the source, each is matched as a whole."""

from __future__ import annotations

__all__ = ["align"]

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from torchgraft.axes import AxisGroups
from torchgraft.axes.branches import Branch, outermost
from torchgraft.kinds import family
from torchgraft.records import Layer, Pair
from torchgraft.score import Scorer

Pairs = Mapping[int, Pair]
Layers = Sequence[Layer]
#: A branch as the numbers of its layers, and what they are.
Body = tuple[tuple[int, ...], tuple[object, ...]]

_PLACED = 1000.0  # a branch that finds a place counts more than any score


def align(
    pairs: Pairs, target: Layers, source: Layers, groups: tuple[AxisGroups, AxisGroups], scorer: Scorer
) -> tuple[Pairs, dict[int, int]]:
    """Match residual branches as a whole, in order, unless the match has done so, or one of the source finds no place.

    Layer by layer, a query of a wider target looks like the source's key, and a branch gets a little of several. A
    branch without a place of its own is matched with one that has found its own.

    Returns the pairs, and the target's layer that each layer of a placed branch serves first.

    Args:
        pairs: the match, by number of the target's layer.
        target: the target's layers.
        source: the source's layers.
        groups: of target and source.
        scorer: scores layers.
    """
    sides = [_bodies(one.branches, layers) for one, layers in zip(groups, (target, source), strict=True)]
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
    made = dict(pairs)
    first: list[Pair] = []
    for number, (layers, look) in enumerate(sides[0]):
        alike = [one for one in places if sides[0][one][1] == look]
        if places is not kept or alike:
            for t in layers:
                made.pop(t, None)
        if not alike:
            continue
        nearest = min(alike, key=lambda one: (abs(one - number), one))
        for t, s in zip(layers, sides[1][places[nearest]][0], strict=True):
            pair = Pair(t, s, float(scorer([target[t]], [source[s]])[0, 0]))
            if pair.score > 0:
                made[t] = pair
                first += [pair] if number in places else []
    first += _between(places, sides, target, source, scorer)
    made.update((pair.target, pair) for pair in first)
    return made, {pair.source: pair.target for pair in first}


def _kept(pairs: Pairs, target: Sequence[Body], source: Sequence[Body]) -> dict[int, int] | None:
    """Return the places of the source's branches where the match has found one for each of them, layer by layer."""
    left = {layers: number for number, (layers, _) in enumerate(source)}
    found = {}
    for number, (layers, _) in enumerate(target):
        place = left.pop(tuple(pairs[t].source if t in pairs else -1 for t in layers), None)
        if place is not None:
            found[number] = place
    return None if left else found


def _hold(places: Mapping[int, int], sides: Sequence[Sequence[Body]], target: Layers, source: Layers) -> bool:
    """Tell whether every branch stands in one that is nowhere smaller."""
    bodies = ((sides[0][i][0], sides[1][j][0]) for i, j in places.items())
    return all(_holds(target[t], source[s]) for ts, ss in bodies for t, s in zip(ts, ss, strict=True))


def _holds(target: Layer, source: Layer) -> bool:
    return all(t >= s for t, s in zip(target.shape or (), source.shape or (), strict=False))


def _between(
    places: Mapping[int, int], sides: Sequence[Sequence[Body]], target: Layers, source: Layers, scorer: Scorer
) -> list[Pair]:
    """Match the layers between two branches with those between the two branches they stand in, where all are held.

    A block that changes the width is no residual branch, and looks like the blocks beside it: where the target is twice
    as wide, like those of the source's next stage.
    """
    inside = [{number for layers, _ in side for number in layers} for side in sides]
    placed = [(sides[0][t][0], sides[1][places[t]][0]) for t in sorted(places)]
    starts = [(0, 0), *((max(t) + 1, max(s) + 1) for t, s in placed)]
    stops = [*((min(t), min(s)) for t, s in placed), (len(target), len(source))]
    found: list[Pair] = []
    for start, stop in zip(starts, stops, strict=True):
        ts, ss = ([n for n in range(start[i], stop[i]) if n not in inside[i]] for i in (0, 1))
        found += _held(ts, ss, target, source, scorer)
    return found


def _held(ts: Sequence[int], ss: Sequence[int], target: Layers, source: Layers, scorer: Scorer) -> list[Pair]:
    """Place layers of the source in order, each in one of the target that holds it; none where one is left."""
    if not 0 < len(ss) <= len(ts):
        return []
    scores = scorer([target[t] for t in ts], [source[s] for s in ss])
    fits = np.array([[_alike(target[t], source[s]) and _holds(target[t], source[s]) for s in ss] for t in ts])
    gain = np.where(fits & (scores > 0), _PLACED + scores, -np.inf)
    places = _in_order(gain)
    return [] if places is None else [Pair(ts[i], ss[j], float(scores[i, j])) for i, j in places.items()]


def _alike(target: Layer, source: Layer) -> bool:
    return family(target.kind) == family(source.kind) and len(target.shape or ()) == len(source.shape or ())


def _bodies(branches: Sequence[Branch], layers: Layers) -> list[Body]:
    """Return the outermost branches as layers in the order of the run."""
    homes: dict[str, list[int]] = {}  # of a tensor that is held in parts, several
    for number, layer in enumerate(layers):
        for spec in layer.tensors:
            homes.setdefault(spec.key, []).append(number)
    found = []
    for branch in outermost(branches):
        unique = dict.fromkeys((n, key in branch.aside) for key in branch.keys for n in homes.get(key, ()))
        look = tuple((family(layers[n].kind), len(layers[n].shape or ()), aside) for n, aside in unique)
        found.append((tuple(n for n, _ in unique), (branch.chain, *look)))
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
    gain = np.full((n, m), -np.inf)
    scores: dict[tuple[object, ...], float] = {}
    for i, (ts, look) in enumerate(target):
        for j, (ss, other) in enumerate(source):
            pairs = [(t_layers[t], s_layers[s]) for t, s in zip(ts, ss, strict=True)] if look == other else []
            if not pairs or (holding and not all(_holds(t, s) for t, s in pairs)):
                continue
            key = tuple((t.shape, s.shape) for t, s in pairs)
            if key not in scores:
                table = scorer([t for t, _ in pairs], [s for _, s in pairs])
                scores[key] = float(np.diagonal(table).mean())
            gain[i, j] = _PLACED + scores[key] - abs(i / n - j / m) / 1000
    return _in_order(gain)


def _in_order(gain: NDArray[np.float64]) -> dict[int, int] | None:
    """Choose pairs in order that gain most: column by row, ``None`` where a column is left."""
    n, m = gain.shape
    best = np.zeros((n + 1, m + 1))
    for i in range(n):
        for j in range(m):
            best[i + 1, j + 1] = max(best[i, j + 1], best[i + 1, j], best[i, j] + gain[i, j])
    if best[n, m] < _PLACED * m - 1:
        return None
    places, i, j = {}, n, m
    while i and j:
        if best[i, j] == best[i - 1, j - 1] + gain[i - 1, j - 1]:
            places[i - 1] = j - 1
            i, j = i - 1, j - 1
        elif best[i, j] == best[i - 1, j]:
            i -= 1
        else:
            j -= 1
    return places

"""Residual branches keep together: where the target can hold every branch of the source, each is matched as a whole."""

from __future__ import annotations

__all__ = ["align"]

from collections.abc import Mapping, Sequence

import numpy as np

from torchgraft.axes import AxisGroups
from torchgraft.axes.branches import Branch
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
    if not sides[1] or _whole(pairs, *sides):
        return pairs, {}
    places = _placed(sides[0], sides[1], target, source, scorer)
    if places is None:
        return pairs, {}
    made = dict(pairs)
    owner: dict[int, int] = {}
    for number, (layers, look) in enumerate(sides[0]):
        for t in layers:
            made.pop(t, None)
        alike = [one for one in places if sides[0][one][1] == look]
        if not alike:
            continue
        nearest = min(alike, key=lambda one: (abs(one - number), one))
        for t, s in zip(layers, sides[1][places[nearest]][0], strict=True):
            score = float(scorer([target[t]], [source[s]])[0, 0])
            if score > 0:
                made[t] = Pair(t, s, score)
            if score > 0 and number in places:
                owner[s] = t
    return made, owner


def _bodies(branches: Sequence[Branch], layers: Layers) -> list[Body]:
    """Return the outermost branches as layers in the order of the run."""
    home = {spec.key: number for number, layer in enumerate(layers) for spec in layer.tensors if spec.part is None}
    parts: dict[str, list[int]] = {}
    for number, layer in enumerate(layers):
        for spec in layer.tensors:
            if spec.part is not None and number not in parts.setdefault(spec.key, []):
                parts[spec.key].append(number)
    found = []
    for branch in branches:
        if any(set(branch.keys) < set(other.keys) for other in branches):
            continue
        numbers = [
            (number, key in branch.aside)
            for key in branch.keys
            for number in ([home[key]] if key in home else parts.get(key, []))
        ]
        unique = dict.fromkeys(numbers)
        look = tuple((family(layers[n].kind), len(layers[n].shape or ()), aside) for n, aside in unique)
        found.append((tuple(n for n, _ in unique), (branch.chain, *look)))
    return found


def _whole(pairs: Pairs, target: Sequence[Body], source: Sequence[Body]) -> bool:
    """Tell whether every branch of the source is matched with one of the target, layer by layer."""
    wanted = {layers for layers, _ in source}
    for layers, _ in target:
        wanted.discard(tuple(pairs[t].source if t in pairs else -1 for t in layers))
    return not wanted


def _placed(
    target: Sequence[Body], source: Sequence[Body], t_layers: Layers, s_layers: Layers, scorer: Scorer
) -> dict[int, int] | None:
    """Place the branches of the source in order: the source's number by the target's, ``None`` if one is left."""
    n, m = len(target), len(source)
    gain = np.full((n, m), -np.inf)
    scores: dict[tuple[object, ...], float] = {}
    for i, (ts, look) in enumerate(target):
        for j, (ss, other) in enumerate(source):
            if look == other:
                key = tuple((t_layers[t].shape, s_layers[s].shape) for t, s in zip(ts, ss, strict=True))
                if key not in scores:
                    scores[key] = float(
                        np.diagonal(scorer([t_layers[t] for t in ts], [s_layers[s] for s in ss])).mean()
                    )
                gain[i, j] = _PLACED + scores[key] - abs(i / n - j / m) / 1000
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

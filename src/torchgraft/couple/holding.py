"""Where every layer of the source finds a place in a target that is nowhere smaller: all of them, in order.

A score compares sizes as they are, so that a stage of a wider network looks like a later stage of the source, and what
is left over at the end has no place. If all layers can be placed, that is what the target is.
"""

from __future__ import annotations

__all__ = ["Side", "complete", "hold_all", "layer_look", "pair_scores", "side_of"]

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

import numpy as np
from numpy.typing import NDArray

from torchgraft.axes import AxisGroups
from torchgraft.axes.flow import Flow
from torchgraft.kinds import DIMENSIONAL, family
from torchgraft.records import Element, Layer, Pair
from torchgraft.score import Scorer

Layers = Sequence[Layer]
Floats = NDArray[np.float64]
Numbers = tuple[int, ...]
#: Layers that are placed together, and what they are.
Unit = tuple[Numbers, tuple[object, ...]]

_BESIDE = 0.05  # what it is worth that neighbours stay neighbours, beside a score of at most one


@dataclass(frozen=True, slots=True)
class Side:
    """The layers of a network, and what more is known of them than their shapes.

    ``free`` is the axis of inputs and of classes of the layers that have them, of which any number may meet any other;
    ``halved`` how often the places of a convolution's output were halved before, by number of the layer; ``norms`` are
    the batch norms behind layers, and the layer norms behind the sums that they are added to. ``spare`` are layers that
    need no place; ``flow`` is the run.
    """

    layers: Layers
    free: Mapping[int, int]
    halved: Mapping[int, int]
    norms: Mapping[int, int]
    spare: Collection[int] = ()
    flow: Flow | None = None

    def turns(self) -> list[int]:
        """Return when each layer runs first; one that does not stands where it is defined."""
        first: dict[int, int] = {}
        if self.flow is not None:
            homes = {spec.key: number for number, layer in enumerate(self.layers) for spec in layer.tensors}
            keys = (self.flow.parameter(value) for step in self.flow.steps for value in step.inputs)
            for number in (homes[key] for key in keys if key in homes):
                first.setdefault(number, len(first))
        return [first.get(number, number) for number in range(len(self.layers))]

    def singles(self) -> list[Element]:
        """Return every layer for itself, with its norm where that stands behind it."""
        starts = [number for number in range(len(self.layers)) if self.norms.get(number - 1) != number]
        return [
            Element(tuple(self.layers[start:stop]), False)
            for start, stop in zip(starts, [*starts[1:], len(self.layers)], strict=True)
        ]


def side_of(elements: Sequence[Element], groups: AxisGroups, apart: Collection[str] = ()) -> Side:
    """Return the layers of a standardized network, and what its run tells of them.

    Args:
        elements: the standardized network.
        groups: of its run.
        apart: tensors that need no place.
    """
    layers = [layer for element in elements for layer in element.layers]
    mixing = [number for number, layer in enumerate(layers) if layer.kind in DIMENSIONAL]
    home = {spec.key: number for number, layer in enumerate(layers) for spec in layer.tensors}
    halved = {home[link.weight]: link.halved for link in groups.links if link.weight in home}
    behind = {link.weight: link.norm.keys[0] for link in groups.links if link.norm is not None}
    behind |= {norm.closing[-1]: gain for gain, norm in groups.post_norms.items()}
    norms = {home[key]: home[gain] for key, gain in behind.items() if key in home and gain in home}
    free = {mixing[0]: 1, mixing[-1]: 0} if len(mixing) > 1 else {}
    return Side(layers, free, halved, norms, frozenset(home[key] for key in apart if key in home), groups.flow)


def complete(owner: Mapping[int, int], target: Side, source: Side) -> bool:
    """Tell whether every layer of the source has a place of its own that holds it.

    Args:
        owner: the target's layer that each layer of the source serves first.
        target: the target's layers.
        source: the source's layers.
    """
    needed = [
        n for n, layer in enumerate(source.layers) if n not in source.spare and not layer.kind.startswith("buffer")
    ]
    held = all(number in owner and _holds(owner[number], number, target, source) for number in needed)
    norms = ((number, norm) for number, norm in source.norms.items() if norm not in source.spare)
    return held and all(owner[norm] == target.norms.get(owner[number]) for number, norm in norms)


def hold_all(
    branches: Sequence[Sequence[Unit]],
    elements: Sequence[Sequence[Element]],
    target: Side,
    sources: Sequence[Side],
    scorer: Scorer,
) -> tuple[dict[int, Pair], dict[int, int]] | None:
    """Place all residual branches, blocks and single layers of the source in order, or return ``None``.

    The order is that in which they are defined, or else that in which they run. Layers that are left over take what the
    nearest placed ones of their sort take. Returns the pairs by number of the target's layer, and the target's layer
    that each layer of the source serves first.

    Args:
        branches: the outermost branches of target and source.
        elements: the standardized networks.
        target: its layers.
        sources: the source's layers, as alternatives: the first one that can be placed is.
        scorer: scores layers.
    """
    single = target.singles(), sources[0].singles()
    ways = (branches, elements), (branches, single), (((), ()), elements), (((), ()), single)
    for runs in (False, True):
        turns = [one.turns() if runs else range(len(one.layers)) for one in (target, sources[0])]
        for (kept, parts), source in product(ways, sources):
            sides = target, source
            units = [_units(*one) for one in zip(kept, parts, sides, turns, strict=True)]
            looks = [Counter(look for _, look in side) for side in units]
            places = None if looks[1] - looks[0] else _in_order(_gains(units, sides, scorer), _BESIDE)
            if places is not None:
                return _served(places, units, sides, scorer)
    return None


def _served(
    places: Mapping[int, int], units: Sequence[Sequence[Unit]], sides: Sequence[Side], scorer: Scorer
) -> tuple[dict[int, Pair], dict[int, int]]:
    """Pair the layers of placed units, and those of the others with what the nearest placed one of their sort takes."""
    met: list[tuple[int, int, bool]] = []
    for number, (numbers, look) in enumerate(units[0]):
        alike = [one for one in places if units[0][one][1] == look]
        if alike:
            nearest = min(alike, key=lambda one: (abs(one - number), one))
            met += ((t, s, number in places) for t, s in zip(numbers, units[1][places[nearest]][0], strict=True))
    scores = pair_scores({(t, s) for t, s, _ in met}, sides[0].layers, sides[1].layers, scorer)
    found = [(Pair(t, s, scores[t, s]), owned) for t, s, owned in met if scores[t, s] > 0]
    return {pair.target: pair for pair, _ in found}, {pair.source: pair.target for pair, owned in found if owned}


def pair_scores(
    pairs: Collection[tuple[int, int]], target: Layers, source: Layers, scorer: Scorer
) -> dict[tuple[int, int], float]:
    """Score pairs of layers in one table, in which layers that look alike stand once."""
    if not pairs:
        return {}
    places, rows = _once({t for t, _ in pairs}, target)
    others, columns = _once({s for _, s in pairs}, source)
    table = scorer(rows, columns).tolist()
    return {(t, s): float(table[places[t]][others[s]]) for t, s in pairs}


def _once(numbers: Collection[int], layers: Layers) -> tuple[dict[int, int], list[Layer]]:
    """Return layers that look different, and the place of each layer's look among them."""
    looks: dict[object, int] = {}
    distinct: list[Layer] = []
    places: dict[int, int] = {}
    for number in sorted(numbers):
        layer = layers[number]
        places[number] = looks.setdefault(layer.look, len(distinct))
        if len(looks) > len(distinct):
            distinct.append(layer)
    return places, distinct


def layer_look(layer: Layer) -> tuple[str, int]:
    """Return what a layer is: its family and the rank of its weight; a convolution of size one is a linear layer."""
    shape = layer.shape or ()
    if layer.kind in DIMENSIONAL and len(shape) > 2 and prod(shape[2:]) == 1 and not layer.kind.startswith("convt"):
        return "linear", 2
    return family(layer.kind), len(shape)


def _units(branches: Sequence[Unit], elements: Sequence[Element], side: Side, turns: Sequence[int]) -> list[Unit]:
    """Return branches, and the other layers block by block, in the order of their first layers by their ``turns``.

    A norm of the sum that a branch is added to belongs to the branch.
    """
    inside = {number for numbers, _ in branches for number in numbers}.union(side.spare)
    units: list[Unit] = []
    for numbers, look in branches:  # whose chain does not count: the layers between tell them apart
        behind = {side.norms[number] for number in numbers if number in side.norms} - inside
        units.append(((*numbers, *sorted(behind)), (*look[1:], len(behind))))
        inside |= behind
    first = 0
    for element in elements:
        block = range(first, first + len(element.layers))
        first = block.stop
        left = [n for n in block if n not in inside and not element.layers[n - block.start].kind.startswith("buffer")]
        if left:
            units.append((tuple(left), tuple(layer_look(element.layers[n - block.start]) for n in left)))
    return sorted(units, key=lambda unit: min(turns[number] for number in unit[0]))


def _gains(units: Sequence[Sequence[Unit]], sides: Sequence[Side], scorer: Scorer) -> Floats:
    """Return what it is worth to place each unit of the source in each of the target."""
    n, m = len(units[0]), len(units[1])
    gain = np.full((n, m), -np.inf)
    alike: dict[object, list[int]] = defaultdict(list)
    for i, (_, look) in enumerate(units[0]):
        alike[look].append(i)
    marks: dict[object, int] = {}  # units that are marked alike have one number
    marked = [
        [marks.setdefault(tuple(_mark(number, side) for number in numbers), len(marks)) for numbers, _ in own]
        for own, side in zip(units, sides, strict=True)
    ]
    known: dict[tuple[int, int], float] = {}
    for j, (ss, look) in enumerate(units[1]):
        for i in alike[look]:
            key = marked[0][i], marked[1][j]
            if key not in known:
                known[key] = _worth(units[0][i][0], ss, sides, scorer)
            gain[i, j] = known[key] - abs(i / n - j / m) / 1000
    return gain


def _mark(number: int, side: Side) -> tuple[object, ...]:
    """Return all that decides whether a layer holds another one, and how well."""
    return side.layers[number].look, side.free.get(number), side.halved.get(number)


def _worth(ts: Numbers, ss: Numbers, sides: Sequence[Side], scorer: Scorer) -> float:
    if not all(_holds(t, s, *sides) for t, s in zip(ts, ss, strict=True)):
        return -np.inf
    table = scorer([sides[0].layers[t] for t in ts], [sides[1].layers[s] for s in ss])
    return float(np.diagonal(table).mean())


def _holds(t: int, s: int, target: Side, source: Side) -> bool:
    """Tell whether a layer is nowhere smaller than another one, and moves over its input alike."""
    large, small = target.layers[t], source.layers[s]
    if large.stride and small.stride and large.stride != small.stride:
        return False
    if target.halved.get(t, 0) != source.halved.get(s, 0):
        return False
    axis = target.free.get(t, -1) if target.free.get(t, -1) == source.free.get(s, -2) else -1
    sizes = zip(large.shape or (), small.shape or (), strict=False)
    return all(a >= b for place, (a, b) in enumerate(sizes) if place != axis)


def _in_order(gain: Floats, beside: float) -> dict[int, int] | None:
    """Choose pairs in order that gain most, every column with some row, ``None`` where there are no such pairs.

    ``beside`` is what it is worth that two neighbours are neighbours again.
    """
    n, m = gain.shape
    best = np.full((n + 1, m + 1), -np.inf)  # of the first rows and columns
    last = best.copy()  # the same, where the last column stands in the last row
    best[:, 0] = 0
    for i in range(n):
        last[i + 1, 1:] = gain[i] + np.maximum(best[i, :-1], last[i, :-1] + beside)
        best[i + 1, 1:] = np.maximum(best[i, 1:], last[i + 1, 1:])
    if not np.isfinite(best[n, m]):
        return None
    places, i, joined = {}, n, False
    for j in range(m, 0, -1):
        while not joined and best[i, j] == best[i - 1, j]:
            i -= 1
        places[i - 1] = j - 1
        joined = bool(last[i - 1, j - 1] + beside > best[i - 1, j - 1])
        i -= 1
    return places

"""Convolutions of fewer, larger groups: several groups of the source stand side by side in one of the target.

A convolution of ``G`` groups is one of ``G / p`` groups whose weights are zero between the ``p`` parts of a group. So
where the target's groups are ``p`` times as wide (or wider), group ``g`` of the source is part ``g % p`` of group
``g // p``, in every tensor; a dense convolution is a single group.
"""

from __future__ import annotations

__all__ = ["Packing", "packed_moves", "packings", "stretches_of"]

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod

from torchgraft.axes import AxisGroups
from torchgraft.axes.spans import Leaf, size_of_leaf
from torchgraft.couple.election import Ballot
from torchgraft.records import Move, Stretch, UnitMap
from torchgraft.units import move_indices

#: Adds a map to a plan and returns its number.
Add = Callable[[UnitMap], int]


@dataclass(frozen=True, slots=True)
class Packing:
    """``per`` groups of the source in each group of the target; ``groups`` counts them, ``sizes`` their units.

    Both are pairs of target and source.
    """

    groups: tuple[int, int]
    sizes: tuple[int, int]
    per: int


@dataclass(frozen=True, slots=True)
class _Sides:
    """A grouped convolution: its groups, and the units it reads and gives, as products of groups of units."""

    groups: int
    reads: Leaf
    gives: Leaf


def packings(
    ballots: Sequence[Ballot], target: AxisGroups, source: AxisGroups
) -> tuple[dict[tuple[Leaf, Leaf], Packing], dict[str, tuple[Packing, Packing]]]:
    """Return how the units of grouped convolutions are packed, by the pair of their groups of units.

    The second result is by the key of the target's weight, for its outputs and its inputs.

    Args:
        ballots: the moves, with the spans of their axes.
        target: the target's groups.
        source: the source's groups.
    """
    units: dict[tuple[Leaf, Leaf], Packing] = {}
    weights: dict[str, tuple[Packing, Packing]] = {}
    for ballot in ballots:
        move = ballot.move
        if move.source.key not in source.grouped or move.prepare or move.operator not in ("embed", "copy"):
            continue
        t, s = _sides(move.target.key, target), _sides(move.source.key, source)
        if t is None or s is None or t.groups >= s.groups:
            continue
        inner = [(size_of_leaf(a) // t.groups, size_of_leaf(b) // s.groups) for a, b in _leaves(t, s)]
        per = min(large // small for large, small in inner)
        if per * t.groups < s.groups:
            continue  # not all find a place: they are cut like any other units
        found = [Packing((t.groups, s.groups), sizes, per) for sizes in inner]
        met = [units.setdefault(pair, packing) for pair, packing in zip(_leaves(t, s), found, strict=True)]
        if met == found:
            weights[move.target.key] = found[0], found[1]
    return units, weights


def _leaves(target: _Sides, source: _Sides) -> tuple[tuple[Leaf, Leaf], tuple[Leaf, Leaf]]:
    return (target.gives, source.gives), (target.reads, source.reads)


def _sides(key: str, groups: AxisGroups) -> _Sides | None:
    """Return what a convolution reads and gives, ``None`` where its groups cannot be told from the rest."""
    spans, count = groups.spans.get(key, ()), groups.grouped.get(key, 1)
    if len(spans) < 3 or any(len(row) != 1 for row in spans[:2]):
        return None
    gives, reads = spans[0][0].leaf, spans[1][0].leaf
    heads = next((place for place in range(len(gives) + 1) if size_of_leaf(gives[:place]) == count), None)
    return None if heads is None else _Sides(count, (*gives[:heads], *reads), gives)


def stretches_of(into: int, out_of: int, packing: Packing, add: Add) -> list[Stretch]:
    """Return the places of all groups along an axis: full groups of the target, and the last one.

    Args:
        into: where the units start in the target.
        out_of: where they start in the source.
        packing: of the units.
        add: keeps a map.
    """
    (groups, others), (large, small) = packing.groups, packing.sizes
    full, left = divmod(others, packing.per)
    found = []
    if full:
        maps = UnitMap(groups, full, "start"), UnitMap(large, packing.per * small, "start")
        found.append(Stretch(into, out_of, tuple(map(add, maps))))
    if left:
        rest = add(UnitMap(large, left * small, "start"))
        found.append(Stretch(into + full * large, out_of + full * packing.per * small, (rest,)))
    return found


def packed_moves(move: Move, packing: tuple[Packing, Packing], add: Add, maps: Sequence[UnitMap]) -> list[Move]:
    """Return the moves of a grouped weight: one for each of the parts that share a group of the target.

    Args:
        move: of the whole weight ``(out, in / groups, ...)``.
        packing: of its outputs and its inputs.
        add: keeps a map.
        maps: those that are kept.
    """
    gives, reads = packing
    (groups, others), (large, small) = gives.groups, gives.sizes
    found = []
    for part in range(gives.per):
        count = -(-(others - part) // gives.per)
        places = UnitMap(groups, count, "start"), UnitMap(large, gives.per * small, "chosen", tuple(range(small)))
        rows = Stretch(part * small, part * small, tuple(map(add, places)))
        width = reads.sizes[1]
        columns = Stretch(part * width, 0, (add(UnitMap(width, width, "start")),))
        rest = move.layout[2:] if move.layout else ((),) * (len(move.target.shape) - 2)
        made = replace(move, operator="embed", layout=((rows,), (columns,), *rest), windows=None)
        sizes = [len(move_indices(made, axis, maps)[0]) for axis in range(len(made.layout))]
        found.append(replace(made, elements=prod(sizes)))
    return found

"""Which units of an axis go where, as index arrays: the rules behind a plan's maps of units."""

from __future__ import annotations

__all__ = [
    "RULES",
    "Index",
    "Pairs",
    "axis_indices",
    "copied",
    "copy_shares",
    "count",
    "covered",
    "is_settled",
    "move_indices",
    "pairs_of",
    "product_indices",
    "provisional",
    "shares_of",
]

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from math import prod

import numpy as np
from numpy.typing import NDArray

from torchgraft.errors import PlanError
from torchgraft.records import Move, Stretch, UnitMap

#: Numbers of units.
Index = NDArray[np.int64]
#: Units of the target, and the source unit that each stands for.
Pairs = tuple[Index, Index]


def _centre(units: UnitMap) -> Pairs:
    size = min(units.target, units.source)
    return np.arange(size) + (units.target - size) // 2, np.arange(size) + (units.source - size) // 2


def _start(units: UnitMap) -> Pairs:
    size = np.arange(min(units.target, units.source))
    return size, size


def _tile(units: UnitMap) -> Pairs:
    every = np.arange(units.target)
    return every, every % units.source


def _even(units: UnitMap) -> Pairs:
    """A stride where it divides, else rounded steps from the first to the last (Xu et al., ICLR 2024)."""
    size = np.arange(min(units.target, units.source))
    if units.source % len(size) == 0:
        return size, size * (units.source // len(size))
    return size, np.linspace(0, units.source - 1, len(size)).round().astype(np.int64)


def _chosen(units: UnitMap) -> Pairs:
    return np.arange(len(units.chosen)), np.array(units.chosen, dtype=np.int64)


#: How the units of two groups are paired by their numbers; ``tile``: every source unit as often as it fits, ``chosen``:
#: as the map lists them.
RULES: Mapping[str, Callable[[UnitMap], Pairs]] = {
    "centre": _centre,
    "start": _start,
    "tile": _tile,
    "even": _even,
    "chosen": _chosen,
}


def pairs_of(units: UnitMap) -> Pairs:
    """Return the units of the target that come from the source, and the source units they stand for.

    >>> [side.tolist() for side in pairs_of(UnitMap(6, 4, "centre"))]
    [[1, 2, 3, 4], [0, 1, 2, 3]]

    Raises:
        PlanError: the rule looks at weights, and has not chosen yet.
    """
    if units.chosen:
        return _chosen(units)
    if not is_settled(units):
        raise PlanError(
            f"which {units.target} of {units.source} units are kept is decided by the weights ({units.how}): apply the "
            "plan, and give the report, whose plan has them"
        )
    return RULES[units.how](units)


def is_settled(units: UnitMap) -> bool:
    """Tell whether it is known which units a map pairs: a rule that looks at weights must have chosen."""
    return bool(units.chosen) or units.how in RULES


def provisional(maps: Iterable[UnitMap]) -> tuple[UnitMap, ...]:
    """Return maps that pair as many units as these, where the weights have not chosen yet: the first ones."""
    return tuple([units if is_settled(units) else replace(units, how="start") for units in maps])


@lru_cache(maxsize=1 << 14)
def count(units: UnitMap) -> int:
    """Return the number of units of the target that come from the source."""
    return len(pairs_of(units)[0]) if is_settled(units) else units.target


def copied(stretches: Sequence[Stretch], maps: Sequence[UnitMap]) -> bool:
    """Tell whether units stand several times along an axis."""
    return any(maps[number].how == "tile" for one in stretches for number in one.maps)


def covered(stretches: Sequence[Stretch], maps: Sequence[UnitMap]) -> int:
    """Return the number of places along an axis that the source determines."""
    return sum(prod([count(maps[number]) for number in stretch.maps]) for stretch in stretches)


def axis_indices(stretches: Sequence[Stretch], maps: Sequence[UnitMap]) -> Pairs:
    """Return the places along an axis that the source determines, and the places of the source they come from."""
    found = [_stretch(stretch, maps) for stretch in stretches]
    if len(found) == 1:
        return found[0]
    return np.concatenate([into for into, _ in found]), np.concatenate([out_of for _, out_of in found])


def _stretch(stretch: Stretch, maps: Sequence[UnitMap]) -> Pairs:
    into, out_of = product_indices([maps[number] for number in stretch.maps])
    return into + stretch.into, out_of + stretch.out_of


def product_indices(maps: Sequence[UnitMap]) -> Pairs:
    """Return the places that several maps pair along an axis that is their product, the slowest first.

    >>> [side.tolist() for side in product_indices([UnitMap(2, 1, "start"), UnitMap(3, 2, "start")])]
    [[0, 1], [0, 1]]
    """
    if len(maps) == 1:
        return pairs_of(maps[0])
    into, out_of = np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64)
    for units in maps:
        t, s = pairs_of(units)
        into = (into[:, None] * units.target + t[None, :]).reshape(-1)
        out_of = (out_of[:, None] * units.source + s[None, :]).reshape(-1)
    return into, out_of


def move_indices(move: Move, axis: int, maps: Sequence[UnitMap], sizes: tuple[int, int] | None = None) -> Pairs:
    """Return the places along an axis of a move that the source determines, and where they come from.

    Args:
        move: of a plan.
        axis: as the layer sees it.
        maps: of the plan.
        sizes: of the axis in target and source, where a preparation has changed them.
    """
    if move.layout and move.layout[axis]:
        return axis_indices(move.layout[axis], maps)
    t, s = sizes or (move.target.shape[axis], move.source.shape[axis])
    return pairs_of(UnitMap(t, s, "start" if axis in move.lead else "centre"))


def shares_of(units: UnitMap) -> NDArray[np.float64]:
    """Return what every unit of the target counts where it is read: copies of a unit share it.

    Copy number ``c`` of ``n`` counts ``2 c / (n (n + 1))``: in all one, and no two alike, so that they part.

    >>> shares_of(UnitMap(4, 2, "tile")).round(2).tolist()
    [0.33, 0.33, 0.67, 0.67]
    """
    count = len(pairs_of(units)[0])
    if units.how != "tile":
        return np.ones(count)
    copies = units.target // units.source
    numbers = np.arange(count, dtype=np.int64) // units.source + 1
    return np.asarray(numbers * (2 / (copies * (copies + 1))), dtype=np.float64)


def copy_shares(stretches: Sequence[Stretch], maps: Sequence[UnitMap]) -> NDArray[np.float64]:
    """Return the same for the places along an axis that the source determines."""
    found = []
    for stretch in stretches:
        shares = np.ones(1)
        for number in stretch.maps:
            shares = (shares[:, None] * shares_of(maps[number])[None, :]).reshape(-1)
        found.append(shares)
    return np.concatenate(found)

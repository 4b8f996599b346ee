"""The layout of every move: along each axis, which units of the target are which units of the source."""

from __future__ import annotations

__all__ = ["MapBook", "lay_out"]

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

from torchgraft.axes import AxisGroups
from torchgraft.axes.spans import Leaf, Span, locked, size_of_leaf
from torchgraft.axes.terms import Atom
from torchgraft.couple.election import Ballot, Elected
from torchgraft.couple.norms import Growth
from torchgraft.couple.packing import Packing, stretches_of
from torchgraft.couple.spans import Spans
from torchgraft.kinds import DIMENSIONAL, input_axis
from torchgraft.records import Move, Stretch, UnitMap
from torchgraft.units import axis_indices, copied, covered, is_settled, move_indices

# Share of the places of a concatenation that must be known on both sides.
_ENOUGH = 0.9

# Axes that a preparation makes alike on both sides.
_PREPARED = {
    "tile_inputs": (1,),
    "resample_patch": (2, 3),
    "resample_position": (-2,),
    "resample_plane": (0, 1, 2, 3),
    "resample_relative": (0,),
    "share_slope": (0,),
}


@dataclass(frozen=True, slots=True)
class Scales:
    """The source's layer scales by the keys of what they multiply: ``all``, and ``folded``, those without a place."""

    all: Mapping[str, str] = field(default_factory=dict)
    folded: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class MapBook:
    """The maps of a plan, one for each pair of groups, by number.

    ``growth`` has rules for some of them; ``known`` are pairs of single groups that stand for each other, ``packed``
    the groups of convolutions that stand side by side in larger ones; ``scales`` are the source's layer scales;
    ``narrowing`` is the rule of groups that get smaller, ``words`` are the target's embeddings, under the names that
    moves have for them: that of the last layer, where this is tied and comes first.
    """

    growth: Growth
    known: Collection[tuple[Leaf, Leaf]]
    packed: Mapping[tuple[Leaf, Leaf], Packing] = field(default_factory=dict)
    scales: Scales = field(default_factory=Scales)
    narrowing: str = "centre"
    words: Collection[str] = ()
    maps: list[UnitMap] = field(default_factory=list)
    numbers: dict[tuple[Leaf, Leaf], int] = field(default_factory=dict)
    paired: dict[tuple[Leaf, Leaf], list[tuple[Leaf, Leaf]]] = field(default_factory=dict)  # what was asked before
    single: dict[tuple[Leaf, Leaf], tuple[int, ...]] = field(default_factory=dict)
    added: dict[UnitMap, int] = field(default_factory=dict)

    def add(self, units: UnitMap) -> int:
        """Keep a map that belongs to no pair of groups; return its number."""
        if units not in self.added:
            self.added[units] = len(self.maps)
            self.maps.append(units)
        return self.added[units]

    def stretches(self, into: int, out_of: int, target: Leaf, source: Leaf) -> list[Stretch]:
        """Return the places of units along an axis, given where they start in target and source."""
        packing = self.packed.get((target, source))
        if packing is not None:
            return stretches_of(into, out_of, packing, self.add)
        return [Stretch(into, out_of, self.of(target, source))]

    def pairs(self, target: Leaf, source: Leaf) -> list[tuple[Leaf, Leaf]]:
        """Return the pairs of groups that two products are laid out by, the two themselves where they are no such."""
        found = self.paired.get((target, source))
        if found is None:
            found = _paired(target, source, self.known) or [(target, source)]
            self.paired[target, source] = found
        return found

    def of(self, target: Leaf, source: Leaf) -> tuple[int, ...]:
        """Return the numbers of the maps whose product pairs the units of two products of groups."""
        return tuple([self._one(*pair) for pair in self.pairs(target, source)])

    def alone(self, target: Leaf, source: Leaf) -> tuple[int, ...]:
        """Return the same of two products that are each all of an axis, ``()`` where a window at the centre does it."""
        found = self.single.get((target, source))
        if found is None:
            stays = not target or (_stays(self.pairs(target, source)) and self.growth.rule(target, source) is None)
            found = () if stays else self.of(target, source)
            at_centre = len(found) == 1 and self.maps[found[0]].how == "centre"
            self.single[target, source] = found = () if at_centre or _whole(found, self.maps) else found
        return found

    def _one(self, target: Leaf, source: Leaf) -> int:
        if (target, source) not in self.numbers:
            self.numbers[target, source] = len(self.maps)
            how = self.growth.rule(target, source) or self._rule(target, source)
            self.maps.append(UnitMap(size_of_leaf(target), size_of_leaf(source), how))
        return self.numbers[target, source]

    def _rule(self, target: Leaf, source: Leaf) -> str:
        """Return the rule of a pair of groups, or of products that are laid out as one."""
        single = len(source) == 1 and len(target) <= 1
        free = all(isinstance(group, Atom) and not group.locked for group in (*target, *source))
        if single and free and size_of_leaf(target) < size_of_leaf(source):
            return self.narrowing
        return "centre" if len(target) == len(source) == 1 else "start"


def _paired(target: Leaf, source: Leaf, known: Collection[tuple[Leaf, Leaf]]) -> list[tuple[Leaf, Leaf]]:
    """Pair the groups of two products; none where one grows while another shrinks: both must be laid out as one.

    A group that only one side has (queries that share a key, met by one query for each) stands for a single unit.
    """
    if len(target) == len(source) == 1:
        return [(target, source)]
    sides: list[list[Leaf]] = [[(group,) for group in leaf] for leaf in (target, source)]
    short, long = sorted(sides, key=len)
    if len(long) - len(short) == 1 and short:

        def fit(way: list[Leaf]) -> tuple[int, int]:
            met = list(zip(way, long, strict=True) if long is sides[1] else zip(long, way, strict=True))
            return sum(pair in known for pair in met), sum(_equal(*pair) for pair in met)

        ways: list[list[Leaf]] = [[*short[:place], (), *short[place:]] for place in range(len(long))]
        short[:] = sorted(ways, key=fit)[-1]
    pairs = list(zip(*sides, strict=True)) if len(sides[0]) == len(sides[1]) else []
    sizes = [(size_of_leaf(t), size_of_leaf(s)) for t, s in pairs]
    return pairs if all(t >= s for t, s in sizes) or all(t <= s for t, s in sizes) else []


def _equal(a: Leaf, b: Leaf) -> bool:
    return size_of_leaf(a) == size_of_leaf(b)


def lay_out(ballot: Ballot, elected: Elected, book: MapBook, target: AxisGroups) -> Move:
    """Return a move with the layout that its groups ask for; as it is where they ask for nothing else."""
    move = ballot.move
    if move.operator != "embed" and not (move.operator == "copy" and move.target.dtype.startswith(("float", "bfloat"))):
        return move
    layout = tuple(
        [() if row is None else _axis(row, axis, ballot, elected, book) for axis, row in enumerate(ballot.rows)]
    )
    pads = _pads(ballot, layout, book, target)
    factor = _factor(ballot, book)
    scaled = move.target.key in target.layer_scales
    fold = "" if scaled else book.scales.folded.get(move.source.key, "")
    plain = not pads and factor == 1 and not fold
    if not any(layout) and plain:
        return move
    counts = [_determined(move, row, axis, book.maps) for axis, row in enumerate(layout)]
    if move.operator == "copy" and plain and _is_identity(move, layout, counts, book.maps):
        return move
    scale = book.scales.all.get(move.source.key, "") if "mean" in pads and scaled else ""
    norm = target.norms.get(move.target.key)
    offset = 0.0 if norm is None else (factor - 1) * norm.offset
    elements = prod(counts)
    return Move(
        move.target, move.source, "embed", elements, move.prepare, move.lead, layout, pads, factor, scale, offset, fold
    )


def _determined(move: Move, row: Sequence[Stretch], axis: int, maps: Sequence[UnitMap]) -> int:
    """Return the number of places along an axis that the source determines."""
    if row:
        return covered(row, maps)
    return _prepared(move, axis) if move.prepare else min(move.target.shape[axis], move.source.shape[axis])


def _prepared(move: Move, axis: int) -> int:
    """Return the length of an axis once a preparation has made both sides alike, or taken the mapped classes."""
    if "select_labels" not in move.prepare or axis != (move.lead or (0,))[0]:
        return move.target.shape[axis]
    others = (min(pair) for a, pair in enumerate(zip(move.target.shape, move.source.shape, strict=True)) if a != axis)
    return move.elements // prod(others)


def _is_identity(
    move: Move, layout: Sequence[Sequence[Stretch]], counts: Sequence[int], maps: Sequence[UnitMap]
) -> bool:
    """Tell whether every unit stays where it is."""
    stands = (_stands(move, row, axis, maps) for axis, row in enumerate(layout))
    return tuple(counts) == move.target.shape and all(stands)


def _stands(move: Move, row: Sequence[Stretch], axis: int, maps: Sequence[UnitMap]) -> bool:
    """Tell whether the places of an axis that the source determines are the same there."""
    if not row and (move.prepare or move.target.shape[axis] == move.source.shape[axis]):
        return True
    if row and all(one.into == one.out_of and _whole(one.maps, maps) for one in row):
        return True
    if any(not is_settled(maps[number]) for one in row for number in one.maps):
        return False
    into, out_of = axis_indices(row, maps) if row else move_indices(move, axis, maps)
    return bool((into == out_of).all())


def _whole(numbers: Sequence[int], maps: Sequence[UnitMap]) -> bool:
    """Tell whether maps pair every unit with the one of its number."""
    used = [maps[number] for number in numbers]
    return all(units.target == units.source for units in used)


def _pads(ballot: Ballot, layout: Sequence[Sequence[Stretch]], book: MapBook, target: AxisGroups) -> tuple[str, ...]:
    """Name what becomes of the units of every axis that the source does not determine, ``()`` where nothing does."""
    if not book.growth.rules and ballot.move.target.key not in book.growth.keys:
        return ()
    looked_up = ballot.transfer.kind == "embedding" or ballot.move.target.key in book.words
    reads = -1 if looked_up else input_axis(ballot.transfer.kind, ballot.move.target.role)
    pads = tuple(
        "shared" if axis == reads and copied(layout[axis], book.maps) else _pad(row, axis, ballot, book, target, reads)
        for axis, row in enumerate(ballot.rows)
    )
    return pads if any(pads) else ()


def _pad(
    row: tuple[Spans, Spans] | None, axis: int, ballot: Ballot, book: MapBook, target: AxisGroups, reads: int | None
) -> str:
    """Name what becomes of the units of an axis that the source does not determine, where a norm reads them."""
    key = ballot.move.target.key
    if key in book.growth.keys and axis == 0 and _makes_keys(ballot):
        return "zero"
    rule = None if row is None or len(row[0]) != 1 else book.growth.rule(row[0][0].leaf, row[1][0].leaf)
    if row is None or rule is None or rule == "tile":
        return ""
    if axis == reads:
        return "fresh" if key in target.normed else ""
    if key in target.norms:
        return ""
    if key in target.shifts:
        return "zero"
    return "one" if key in target.layer_scales.values() else book.growth.pads.get(row[0][0].leaf, "")


def _makes_keys(ballot: Ballot) -> bool:
    """Tell whether a tensor makes keys alone; of a fused one, the part does that is not the first and not the last."""
    part = ballot.move.target.part
    return part is None or 0 < part.start == part.stop - part.start


def _factor(ballot: Ballot, book: MapBook) -> float:
    key = ballot.move.target.key
    return book.growth.factors.get(key, 1.0) if key not in book.growth.keys or _makes_keys(ballot) else 1.0


def _axis(row: tuple[Spans, Spans], axis: int, ballot: Ballot, elected: Elected, book: MapBook) -> tuple[Stretch, ...]:
    targets, sources = row
    move = ballot.move
    if (
        (axis > 1 and ballot.transfer.kind in DIMENSIONAL)
        or axis in move.lead
        or (move.prepare and _is_prepared(ballot, axis))
    ):
        return ()
    pair = targets[0].leaf, sources[0].leaf
    if len(targets) == len(sources) == 1 and pair in book.packed:
        return tuple(book.stretches(targets[0].start, sources[0].start, *pair))
    if len(targets) == len(sources) == 1:
        numbers = book.alone(targets[0].leaf, sources[0].leaf)
        return (Stretch(targets[0].start, sources[0].start, numbers),) if numbers else ()
    left: dict[Leaf, list[Span]] = {}
    for span in reversed(sources):
        left.setdefault(span.leaf if span.size > 1 else (), []).append(span)
    found: list[Stretch] = []
    for span in targets:
        leaf = span.leaf if span.size > 1 else ()  # a single place (of a class token) is known by its order
        want = elected.get(leaf) if leaf else ()
        if want is not None and left.get(want):
            found += book.stretches(span.start, left[want].pop().start, leaf, want)
    if covered(found, book.maps) < _ENOUGH * min(move.target.shape[axis], move.source.shape[axis]):
        return ()  # the two are put together in other ways: place is all they have in common
    return tuple(found)


def _is_prepared(ballot: Ballot, axis: int) -> bool:
    """Tell whether a preparation makes an axis alike on both sides."""
    rank = len(ballot.rows)
    return any(place % rank == axis for name in ballot.move.prepare for place in _PREPARED.get(name, ()))


def _stays(pairs: Sequence[tuple[Leaf, Leaf]]) -> bool:
    """Tell whether units that have to stay where they are meet another number of them: inputs, classes, angles."""
    return any(not _equal(t, s) and any(map(locked, (*t, *s))) for t, s in pairs)

"""Whether every unit of the source has one place in all tensors that the target reads."""

from __future__ import annotations

__all__ = ["unit_obstacles"]

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from torchgraft.axes.spans import Leaf, Span, locked, size_of_leaf
from torchgraft.axes.terms import Atom, atoms_of
from torchgraft.couple.election import Ballot
from torchgraft.kinds import DIMENSIONAL
from torchgraft.predict.sides import Sides
from torchgraft.records import Move
from torchgraft.units import Index, Pairs, move_indices, pairs_of

RESAMPLED = {
    "resample_patch": "the kernel of the patches is resampled",
    "resample_position": "the embedding of positions is resampled",
    "resample_plane": "the embedding of positions is resampled",
    "resample_relative": "the table of relative positions is resampled",
    "tile_inputs": "the number of input channels differs",
}

# Reasons for which units stay where they are that are harmless where the target has more of them.
_OPEN_ENDED = ("an output", "looked up by number")

#: Units of the target and of the source, as something to compare.
Signature = tuple[bytes, bytes] | tuple[str, Leaf]


@dataclass(slots=True)
class _Places:
    """Where each group of the target gets its units from, by the first tensor that says so.

    Parts of one tensor (queries, keys, values) may share groups in the target that are apart in the source. ``told``
    are groups that were found in two places, ``sound`` axes that need no second look.
    """

    groups: dict[Atom, Signature] = field(default_factory=dict)
    leaves: dict[Leaf, set[Leaf]] = field(default_factory=dict)
    told: set[Atom] = field(default_factory=set)
    sound: set[tuple[object, ...]] = field(default_factory=set)


def unit_obstacles(sides: Sides, keys: Sequence[str], new: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield what happens to units that the target's function does not survive, and the key of the tensor.

    Args:
        sides: both networks and the plan.
        keys: tensors that the target reads, in the order of its run.
        new: tensors of layers whose outputs nothing may read.
    """
    places = _Places()
    for key in keys:
        for ballot in () if sides.is_packed(key) else sides.ballots.get(key, ()):
            for what in _of_move(sides, ballot, places):
                yield what, key
    for key in new:
        made = {atom for axis in sides.target.axes[key][:1] for atom in atoms_of(axis)}
        if made & set(places.groups):
            yield "units of a new layer are read", key


def _of_move(sides: Sides, ballot: Ballot, places: _Places) -> Iterator[str]:
    move = ballot.move
    shapes = tuple("×".join(map(str, one.shape)) for one in (move.source, move.target))
    for name in move.prepare:
        if name in RESAMPLED:
            yield f"{RESAMPLED[name]} ({' → '.join(shapes)})"
    if move.operator not in ("copy", "embed") and move.target.shape != move.source.shape:
        if len(move.target.shape) > 1:  # a bias has no inputs
            yield f"operator {move.operator!r} leaves the weights of new inputs as they were"
        return
    if not move.prepare:
        for axis in range(len(move.target.shape)):
            told = _of_axis(sides, ballot, axis, places)
            if told:
                yield told
                return


def _of_axis(sides: Sides, ballot: Ballot, axis: int, places: _Places) -> str:
    """Say what an axis of a move loses, ``""`` where it loses nothing."""
    move = ballot.move
    t, s = move.target.shape[axis], move.source.shape[axis]
    if axis > 1 and ballot.transfer.kind in DIMENSIONAL:
        direct = any(step.name == "convolution" for step in sides.uses(move.target.key))
        return "" if direct or t == s else f"kernel {s} → {t}"  # what is read directly, the settings tell
    look = ballot.rows[axis], move.layout[axis] if move.layout else (), t, s, axis in move.lead
    if look in places.sound:
        return ""
    pairs = move_indices(move, axis, sides.coupled.maps)
    kept, row = s if t == s == len(pairs[1]) and look[1] == () else len(np.unique(pairs[1])), ballot.rows[axis]
    if row is None:
        same = t == s and bool((pairs[0] == pairs[1]).all())
        return "" if same or axis in move.lead else f"{s} → {t} units that cannot be told apart"
    reasons = {atom.locked for span in row[0] for group in span.leaf for atom in atoms_of(group) if atom.locked}
    if reasons and reasons <= set(_OPEN_ENDED) and (kept == s or "an output" in reasons):
        return ""
    if kept < s:
        return f"{kept} of the source's {s} units are kept"
    if t != s and any(_grown(*pair) for pair in zip(*row, strict=False)):
        return f"{s} → {t} units have to stay where they are ({', '.join(sorted(reasons))})"
    told = _of_spans(move, axis, row, pairs, places, sides)
    places.sound.update(() if told else (look,))
    return told


def _grown(target: Span, source: Span) -> bool:
    """Tell whether a group whose units stay where they are has other ones in the source."""
    alike = len(target.leaf) == len(source.leaf)
    rows = zip(target.leaf, source.leaf, strict=True) if alike else ()
    return any(locked(t) and size_of_leaf((t,)) != size_of_leaf((s,)) for t, s in rows)


def _of_spans(
    move: Move, axis: int, row: tuple[Sequence[Span], Sequence[Span]], pairs: Pairs, places: _Places, sides: Sides
) -> str:
    """Compare the places of each group with those that it has in other tensors."""
    into, out_of = pairs
    for span in row[0]:
        inside = (into >= span.start) & (into < span.start + size_of_leaf(span.leaf))
        if not inside.any():
            continue  # all new
        first = int(out_of[inside].min())
        home = next(one for one in row[1] if one.start <= first < one.start + size_of_leaf(one.leaf))
        if int(out_of[inside].max()) >= home.start + size_of_leaf(home.leaf):
            return "units of several groups are put together in another way"
        homes = places.leaves.setdefault(span.leaf, {home.leaf})
        if home.leaf not in homes and move.target.part is None:
            return "units come from another group here than elsewhere"
        homes.add(home.leaf)
        local = into[inside] - span.start, out_of[inside] - home.start
        for group, signature in _signatures(move, axis, span, home, local, sides):
            if places.groups.setdefault(group, signature) != signature and group not in places.told:
                places.told.add(group)
                return "units are put in other places here than elsewhere"
        if _cut_otherwise(span.leaf, home.leaf, local):
            sizes = ("×".join(str(size_of_leaf((one,))) for one in leaf) for leaf in (home.leaf, span.leaf))
            return f"attention heads or groups of another size: {' → '.join(sizes)}"
    return ""


def _cut_otherwise(target: Leaf, source: Leaf, pairs: Pairs) -> bool:
    """Tell whether a product stays as it is although its factors are others: heads of another size."""
    sizes = [tuple(size_of_leaf((one,)) for one in leaf) for leaf in (target, source)]
    same = len(pairs[0]) == size_of_leaf(target) == size_of_leaf(source) and bool((pairs[0] == pairs[1]).all())
    return same and len(target) == len(source) and sizes[0] != sizes[1]


def _signatures(
    move: Move, axis: int, span: Span, home: Span, local: Pairs, sides: Sides
) -> Iterator[tuple[Atom, Signature]]:
    """Yield every group of a span with the units that it gets."""
    leaf = span.leaf
    if len(leaf) == 1:
        rows: list[Pairs] = [local]
    else:
        stretch = next((one for one in (move.layout[axis] if move.layout else ()) if one.into == span.start), None)
        whole = size_of_leaf(leaf) == size_of_leaf(home.leaf) and bool((local[0] == local[1]).all())
        if stretch is not None and len(stretch.maps) == len(leaf):
            rows = [pairs_of(sides.coupled.maps[number]) for number in stretch.maps]
        elif whole:
            rows = [(np.arange(size_of_leaf((one,))),) * 2 for one in leaf]
        else:
            yield from ((one, ("joint", leaf)) for one in leaf if isinstance(one, Atom) and not one.locked)
            return
    for group, row in zip(leaf, rows, strict=True):
        if isinstance(group, Atom) and not group.locked:
            yield group, (_bytes(row[0]), _bytes(row[1]))


def _bytes(index: Index) -> bytes:
    return np.ascontiguousarray(index, dtype=np.int64).tobytes()

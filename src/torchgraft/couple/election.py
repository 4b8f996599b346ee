"""Which group of the source stands for which group of the target: every matched layer votes."""

from __future__ import annotations

__all__ = ["Ballot", "Elected", "elect", "spans_of_moves"]

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torchgraft.axes import AxisGroups
from torchgraft.axes.spans import Leaf, size_of_leaf
from torchgraft.couple.spans import Spans, axis_spans
from torchgraft.records import Move, Transfer

#: The source's groups that stand for groups of the target.
Elected = Mapping[Leaf, Leaf]

# What a vote for the parts of two concatenations counts, which only share a place: it decides where no layer knows.
_BY_PLACE = 1e-3


@dataclass(frozen=True, slots=True)
class Ballot:
    """A move, and the spans of its axes on both sides, ``None`` for an axis that is not known."""

    transfer: Transfer
    move: Move
    rows: tuple[tuple[Spans, Spans] | None, ...]


def spans_of_moves(transfers: Sequence[Transfer], target: AxisGroups, source: AxisGroups) -> Iterator[Ballot]:
    """Yield every move with the spans of its axes."""
    for transfer in transfers:
        for move in transfer.moves:
            t, s = axis_spans(move.target, target), axis_spans(move.source, source)
            rows: tuple[tuple[Spans, Spans] | None, ...] = (None,) * len(move.target.shape)
            if t is not None and s is not None and len(t) == len(s):
                rows = tuple([None if a is None or b is None else (a, b) for a, b in zip(t, s, strict=True)])
            yield Ballot(transfer, move, rows)


def elect(ballots: Sequence[Ballot]) -> tuple[Elected, set[tuple[Leaf, Leaf]]]:
    """Return, for every group of the target that a matched layer knows, the group that most of its elements stand for.

    Layers that serve a second time do not vote: their units are there already.

    Returns the pairs of single groups too that meet, factor by factor, in matched layers.
    """
    votes: dict[tuple[Leaf, Leaf], float] = {}
    for ballot in ballots:
        if ballot.transfer.reused:
            continue
        elements = ballot.move.elements
        for row in ballot.rows:
            if row is None or len(row[0]) != len(row[1]):
                continue
            weight = elements * (1.0 if len(row[0]) == 1 else _BY_PLACE)
            for t, s in zip(*row, strict=True):
                pair = t.leaf, s.leaf
                votes[pair] = votes.get(pair, 0.0) + weight
    most: dict[Leaf, tuple[float, Leaf]] = {}
    for (leaf, other), weight in votes.items():
        if size_of_leaf(leaf) > 1 and size_of_leaf(other) > 1 and (leaf not in most or most[leaf][0] < weight):
            most[leaf] = weight, other  # the first of equal ones
    singles: set[tuple[Leaf, Leaf]] = {
        ((a,), (b,)) for t, s in votes if len(t) == len(s) for a, b in zip(t, s, strict=True)
    }
    return {leaf: other for leaf, (_, other) in most.items()}, singles

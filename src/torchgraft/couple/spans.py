"""The spans of a tensor as a layer sees it: a part of it, or transposed."""

from __future__ import annotations

__all__ = ["Spans", "axis_spans"]

from torchgraft.axes import AxisGroups
from torchgraft.axes.spans import Span, locked, size_of_leaf
from torchgraft.records import TensorSpec

#: The spans of one axis, in order.
Spans = tuple[Span, ...]


def axis_spans(spec: TensorSpec, groups: AxisGroups) -> tuple[Spans | None, ...] | None:
    """Return the spans of every axis as a layer sees it, ``None`` for one that is cut inside a group.

    A tensor that the run does not know that way has none at all.

    Args:
        spec: of a move; its part and transposition are taken into account.
        groups: of its network.
    """
    known = groups.spans.get(spec.key)
    if known is not None and len(known) > len(spec.shape) and not any(row[0].leaf for row in known[len(spec.shape) :]):
        known = known[: len(spec.shape)]  # a convolution of size one, seen as the matrix that it is
    if known is None or len(known) != len(spec.shape):
        return None
    if spec.part is None and not spec.transpose:
        return known
    rows: tuple[Spans | None, ...] = known
    if spec.part is not None:
        axis = spec.part.axis
        rows = (*known[:axis], _within(known[axis], spec.part.start, spec.part.stop), *known[axis + 1 :])
    return rows[::-1] if spec.transpose else rows


def _within(row: Spans, start: int, stop: int) -> Spans | None:
    """Return the spans between two places, counted from the first, or ``None`` where one cannot be cut there."""
    found: list[Span] = []
    for span in row:
        end = span.start + span.size
        if span.start >= stop or end <= start:
            continue
        if start <= span.start and end <= stop:
            found.append(Span(span.start - start, span.leaf, span.size))
            continue
        turn = size_of_leaf(span.leaf[1:])  # a product is cut between turns of its slowest group, which must not move
        first, last = max(start, span.start) - span.start, min(stop, end) - span.start
        if first % turn or last % turn or len(span.leaf) < 2 or not locked(span.leaf[0]):
            return None
        found += [Span(span.start + place - start, span.leaf[1:], turn) for place in range(first, last, turn)]
    return tuple(found)

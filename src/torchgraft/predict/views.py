"""Values that lie alike, by whatever operators: what is viewed, permuted and cut is followed as strides.

A fused projection is viewed, permuted and unbound into queries, keys and values; three layers are each viewed and
transposed: what attention reads is the same.
"""

from __future__ import annotations

__all__ = ["seen_alike"]

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from torchgraft.axes.flow import Flow
from torchgraft.axes.steps import Step
from torchgraft.predict.sides import Sides
from torchgraft.records import TensorSpec

# Operators that give a view of what they read, or the same values in another memory layout.
_VIEWS = frozenset((
    "view", "_unsafe_view", "permute", "transpose", "t", "unbind", "select", "slice", "split", "split_with_sizes",
    "squeeze", "unsqueeze", "alias", "detach",
))  # fmt: skip
_COPIES = frozenset(("clone", "contiguous"))

#: Stride and length of an axis.
_Axis = tuple[int, int]


@dataclass(frozen=True, slots=True)
class _Seen:
    """A view of what the step ``made`` gives: its first place, and its axes, of which none could be joined."""

    made: Step
    first: int
    axes: tuple[_Axis, ...]

    @property
    def value(self) -> int:
        """What the step gives."""
        return self.made.outputs[0]


def seen_alike(sides: Sides, target: int, source: int) -> tuple[int, int] | None:
    """Return what two values are views of, if both are the same part of it and lie alike, unless they are that already.

    Args:
        sides: both networks and the plan.
        target: a value of the target's run.
        source: a value of the source's run.
    """
    mine, other = _seen(sides.target.flow, target), _seen(sides.source.flow, source)
    if mine is None or other is None or (mine.value, other.value) == (target, source):
        return None
    alike = _same_outputs(sides, mine, other) or _same_axes(mine, other)
    return (mine.value, other.value) if alike else None


def _seen(flow: Flow, value: int) -> _Seen | None:
    """Follow views back; ``None`` where what they begin with is not known, or no view."""
    chain: list[tuple[Step, int]] = []
    while (step := flow.step(value)) is not None and step.name in _VIEWS | _COPIES and len(step.inputs) == 1:
        chain.append((step, step.outputs.index(value)))
        value = step.inputs[0]
    if step is None or step.outputs[0] != value:
        return None
    laid = torch.empty(step.shape, device="meta")
    try:
        for one, place in reversed(chain):
            if one.name in _VIEWS:
                made = getattr(torch.ops.aten, one.name)(laid, *one.settings)
                laid = made if isinstance(made, Tensor) else made[place]
    except (RuntimeError, TypeError, IndexError):  # no view: a copy lay between, and its memory was seen otherwise
        return None
    row = step.shape[-1] if flow.factors(step) is not None and len(step.shape) == 2 else 0
    return _Seen(step, int(laid.storage_offset()), _joined(laid, row))


def _joined(laid: Tensor, row: int) -> tuple[_Axis, ...]:
    """Return the axes of more than one place; those that could be one axis are, but for rows and what is in them."""
    found: list[_Axis] = []
    for stride, count in zip(laid.stride(), laid.shape, strict=True):
        if found and found[-1][0] == stride * count != row:
            found[-1] = stride, found[-1][1] * count
        elif count > 1:
            found.append((stride, count))
    return tuple(found)


def _same_axes(mine: _Seen, other: _Seen) -> bool:
    """Tell whether two views show all of a value with its axes in the same order; one may count another number."""
    whole = all(one.first == 0 and _size(one.axes) == prod(one.made.shape) for one in (mine, other))
    ranks = [[sorted(one.axes).index(axis) for axis in one.axes] for one in (mine, other)]
    if not whole or ranks[0] != ranks[1]:
        return False
    return sum(t != s for (_, t), (_, s) in zip(mine.axes, other.axes, strict=True)) <= 1


def _same_outputs(sides: Sides, mine: _Seen, other: _Seen) -> bool:
    """Tell whether two views show outputs of linear layers of which one stands for the other, in the same order."""
    factors = [flow.factors(one.made) for flow, one in ((sides.target.flow, mine), (sides.source.flow, other))]
    found, found_s = _outputs(mine), _outputs(other)
    if factors[0] is None or factors[1] is None or found is None or found_s is None or found[1:] != found_s[1:]:
        return False
    moves = [one.move for one in sides.ballots.get(factors[0][0], ()) if one.move.source.key == factors[1][0]]
    return any((_part(one.target), _part(one.source)) == (found[0], found_s[0]) for one in moves)


def _part(spec: TensorSpec) -> tuple[int, int]:
    """Return where the outputs of a weight start in the stored tensor, and how many they are."""
    return (0 if spec.part is None else spec.part.start), spec.shape[0]


def _outputs(seen: _Seen) -> tuple[tuple[int, int], int, tuple[object, ...]] | None:
    """Return which outputs of a linear layer a view shows, from which row on, and what each axis counts.

    Rows are told by their distance and number, units by how many axes of units are faster. ``None`` where the units
    do not lie side by side.
    """
    if len(seen.made.shape) != 2:
        return None
    width = seen.made.shape[1]
    units = sorted(axis for axis in seen.axes if axis[0] < width)
    strides = [_size(units[:place]) for place in range(len(units))]
    size = _size(units)
    rows = [stride for stride, _ in seen.axes if stride >= width]
    if [stride for stride, _ in units] != strides or size > width or any(one % width for one in rows):
        return None
    row, start = divmod(seen.first, width)
    order = tuple(
        units.index((stride, count)) if stride < width else ("row", stride // width, count)
        for stride, count in seen.axes
    )
    return (start, size), row, order


def _size(axes: Sequence[_Axis]) -> int:
    return prod(count for _, count in axes)

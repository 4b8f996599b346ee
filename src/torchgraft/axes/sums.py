"""Sums of values that were computed apart (two paths from one layer, two resolutions), and what makes either zero."""

from __future__ import annotations

__all__ = ["sums"]

from torchgraft.axes.branches import Branch
from torchgraft.axes.closing import Closing
from torchgraft.axes.flow import Flow

#: The tensors that make either summand zero when they are zero; none where it cannot be told.
Sum = tuple[tuple[str, ...], tuple[str, ...]]


def sums(flow: Flow, found: tuple[Branch, ...], closing: Closing) -> tuple[Sum, ...]:
    """Return the sums of a run that are no residual branches, in its order.

    Args:
        flow: of a run.
        found: its residual branches.
        closing: what makes its values zero.
    """
    closed = {branch.closing for branch in found}
    made: dict[Sum, None] = {}
    for step in flow.steps:
        if step.operator != "add" or len(step.inputs) != 2:
            continue
        if any(value in flow.stored for value in step.inputs):
            continue
        early, late = sorted(step.inputs, key=lambda value: flow.maker.get(value, -1))
        keys = closing.get(late, ())
        if not keys or keys not in closed:
            others = closing.get(early, ())
            if (keys or others) and others not in closed:
                made[others, keys] = None
    return tuple(made)

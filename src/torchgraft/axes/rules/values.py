"""Operators on values: place by place, or over the places of an axis."""

from __future__ import annotations

__all__ = [
    "constant",
    "gated",
    "in_order",
    "keep",
    "mark",
    "numbered",
    "pointwise",
    "reduce",
    "softmax",
    "triangle",
    "write",
]

from collections.abc import Sequence

from torchgraft.axes.rules.shapes import pieces_of
from torchgraft.axes.terms import ONE, Term, atoms_of, lock, size_of, unify
from torchgraft.axes.trace import Call, fresh, same, wide


def pointwise(call: Call) -> None:
    """Broadcast all arguments against each other; the output has the widest of every axis."""
    rows = [call.axes(tensor) for tensor in call.tensors() if tensor.ndim]
    for place, output in enumerate(call.outputs):
        axes: list[Term] = []
        for axis in range(output.ndim):
            found = [row[axis - output.ndim] for row in rows if len(row) >= output.ndim - axis]
            held = [term for term in found if wide(term)]
            for other in held[1:]:
                unify(held[0], other)
            axes.append(held[0] if held else fresh(output.shape[axis]))
        call.give(axes, place)


def keep(call: Call) -> None:
    """The outputs have the axes of the first argument where they have its size; what changes is nobody's unit."""
    first = call.axes(call.tensors()[0])
    for place, output in enumerate(call.outputs):
        if output.ndim == len(first):
            axes = [
                term if size_of(term) == size else fresh(size, "positions")
                for term, size in zip(first, output.shape, strict=True)
            ]
        else:
            axes = [fresh(size, "positions") for size in output.shape]
        call.give(axes, place)


def constant(call: Call) -> None:
    """One value everywhere: its axes are whatever they meet."""
    call.give_new()


def numbered(call: Call) -> None:
    """Values that count places: their axes stay as they are."""
    call.give_new("counted places")


def mark(axes: Sequence[Term]) -> None:
    """Say that the units of axes share a statistic."""
    for axis in axes:
        for atom in atoms_of(axis):
            atom.marks.add("statistics")


def reduce(call: Call) -> None:
    """Sums and means over axes: they go, or are left with one place; their units share a statistic."""
    x = call.args[0]
    axes, dims = call.axes(x), call.arg(2 if "norm" in call.name else 1, "dim")
    if isinstance(dims, int) and not isinstance(dims, bool):
        dims = [dims]
    everywhere = not isinstance(dims, list | tuple) or not dims  # what stands there is none of the axes
    gone = set(range(x.ndim)) if everywhere else {dim % x.ndim for dim in dims}
    mark([axes[dim] for dim in gone])
    for place, output in enumerate(call.outputs):
        kept = output.ndim == x.ndim
        call.give([ONE if i in gone else term for i, term in enumerate(axes) if kept or i not in gone], place)


def softmax(call: Call) -> None:
    """All places of an axis share a sum."""
    axes = call.axes(call.args[0])
    mark([axes[call.args[1]]] if axes else [])
    call.give(axes)


def in_order(call: Call) -> None:
    """Running sums, sorting, flips: the places of an axis have an order."""
    axes = call.axes(call.args[0])
    shifted = call.name.rstrip("_") in ("roll", "topk")  # a number comes before the axes
    dims = call.arg(2, "dims", -1) if shifted else call.arg(1, "dim", -1)
    for dim in [dims] if isinstance(dims, int) else dims or range(len(axes)):
        if axes and isinstance(dim, int):
            lock(axes[dim], f"operator {call.name}")
    keep(call)


def triangle(call: Call) -> None:
    """What depends on the places of the last two axes."""
    axes = call.axes(call.args[0])
    for term in axes[-2:]:
        lock(term, f"operator {call.name}")
    call.give(axes)


def write(call: Call) -> None:
    """``copy_``: both sides are one."""
    same(call.axes(call.args[0]), call.axes(call.args[1]))
    call.give(call.axes(call.args[0]))


def gated(call: Call) -> None:
    """``glu``: one half of an axis times the other."""
    axes = list(call.axes(call.args[0]))
    axis = call.arg(1, "dim", -1) % len(axes)
    half = size_of(axes[axis]) // 2
    first, second = pieces_of(axes[axis], [half, half])
    unify(first, second)
    axes[axis] = first
    call.give(axes)

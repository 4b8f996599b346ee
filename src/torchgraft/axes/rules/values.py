"""Operators on values: place by place, or over the places of an axis."""

from __future__ import annotations

__all__ = [
    "constant",
    "fourier",
    "gated",
    "in_order",
    "keep",
    "numbered",
    "parts_of_complex",
    "pointwise",
    "reduce",
    "softmax",
    "triangle",
    "write",
]

import re

from torchgraft.axes.rules.shapes import pieces_of
from torchgraft.axes.terms import ONE, lock, size_of, unify
from torchgraft.axes.trace import Call, broadcast, fresh, positions, same


def pointwise(call: Call) -> None:
    """Broadcast all arguments against each other; the output has the widest of every axis."""
    rows = [call.axes(tensor) for tensor in call.tensors() if tensor.ndim]
    for place, output in enumerate(call.outputs):
        call.give(broadcast(rows, output.shape), place)


def keep(call: Call) -> None:
    """Pooling, resampling and padding over the last axes: their places stay, all other axes follow."""
    x = call.axes(call.tensors()[0])
    over = int(re.findall(r"(\d)d", call.name)[0])
    for place, output in enumerate(call.outputs):
        call.give([*x[:-over], *positions(x[-over:], output.shape[-over:])], place)


def constant(call: Call) -> None:
    """One value everywhere: its axes are whatever they meet."""
    call.give_new()


def numbered(call: Call) -> None:
    """Values that count places: their axes stay as they are."""
    call.give_new("counted places")


def reduce(call: Call) -> None:
    """Sums and means over axes: they go, or are left with one place; their units share a statistic."""
    x = call.args[0]
    axes, dims = call.axes(x), call.arg(2 if "norm" in call.name else 1, "dim")
    if isinstance(dims, int) and not isinstance(dims, bool):
        dims = [dims]
    everywhere = not isinstance(dims, list | tuple) or not dims  # what stands there is none of the axes
    gone = set(range(x.ndim)) if everywhere else {dim % x.ndim for dim in dims}
    call.couple([axes[dim] for dim in gone], "statistics")
    for place, output in enumerate(call.outputs):
        kept = output.ndim == x.ndim
        call.give([ONE if i in gone else term for i, term in enumerate(axes) if kept or i not in gone], place)


def softmax(call: Call) -> None:
    """All places of an axis share a sum."""
    axes = call.axes(call.args[0])
    call.couple([axes[call.args[1]]] if axes else [], "statistics")
    call.give(axes)


def in_order(call: Call) -> None:
    """Running sums, sorting, flips: the places of an axis have an order."""
    axes = call.axes(call.args[0])
    shifted = call.name.rstrip("_") in ("roll", "topk")  # a number comes before the axes
    dims = call.arg(2, "dims", -1) if shifted else call.arg(1, "dim", -1)
    for dim in [dims] if isinstance(dims, int) else dims or range(len(axes)):
        if axes and isinstance(dim, int):
            lock(axes[dim], f"operator {call.name}")
    for place, output in enumerate(call.outputs):
        sizes = zip(axes, output.shape, strict=True)
        call.give([term if size_of(term) == size else fresh(size, "positions") for term, size in sizes], place)


def fourier(call: Call) -> None:
    """Transforms over axes: their places stay, and so do those of the frequencies."""
    axes, dims = list(call.axes(call.args[0])), call.args[1]
    for dim in dims:
        lock(axes[dim], "a Fourier transform")
        axes[dim] = fresh(call.outputs[0].shape[dim], "a Fourier transform")
    call.give(axes)


def parts_of_complex(call: Call) -> None:
    """``view_as_real``: a last axis for the real and the imaginary part; ``view_as_complex`` takes it away."""
    axes = list(call.axes(call.args[0]))
    if call.name == "view_as_real":
        call.give([*axes, fresh(2, "parts of a complex number")])
    else:
        lock(axes[-1], "parts of a complex number")
        call.give(axes[:-1])


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

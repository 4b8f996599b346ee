"""Operators with weights, and the norms."""

from __future__ import annotations

__all__ = [
    "attention",
    "batch_norm",
    "convolution",
    "embedding",
    "grid_sample",
    "group_norm",
    "grouped_product",
    "layer_norm",
    "normalized_weight",
    "product",
]

from torchgraft.axes.terms import ONE, fuse, lock, size_of, split
from torchgraft.axes.trace import Call, fresh, mark, positions, same, unify_or_lock, wide


def convolution(call: Call) -> None:
    """``x (n, in, ...)``, ``weight (out, in / groups, ...)``; transposed ``weight (in, out / groups, ...)``."""
    x, w = call.axes(call.args[0]), call.axes(call.args[1])
    bias, transposed, groups = call.arg(2, "bias"), call.arg(6, "transposed"), call.arg(8, "groups")
    for spatial in w[2:]:
        lock(spatial, "a kernel")
    reads, writes = (w[0], w[1]) if transposed else (w[1], w[0])
    if groups == 1:
        unify_or_lock(x[1], reads)
    else:
        shared = fresh(groups)
        outer, inner = (reads, writes) if transposed else (writes, reads)
        per_group = fresh(size_of(outer) // groups)
        unify_or_lock(outer, fuse((shared, per_group)))
        reads, writes = (outer, fuse((shared, inner))) if transposed else (fuse((shared, inner)), outer)
        unify_or_lock(x[1], reads)
    if bias is not None:
        unify_or_lock(call.axes(bias)[0], writes)
    moves = any(size_of(one) > 1 for one in w[2:]) or set(call.args[3]) != {1} or any(call.args[4])
    call.give([x[0], writes, *(positions(x[2:], call.outputs[0].shape[2:]) if moves else x[2:])])


def batch_norm(call: Call) -> None:
    """Gain, shift and statistics follow the channels ``x (n, c, ...)``."""
    x = call.axes(call.args[0])
    for tensor in call.tensors()[1:]:
        for axis in call.axes(tensor):
            unify_or_lock(axis, x[1])
    call.give(x)
    for place, output in enumerate(call.outputs[1:], 1):
        call.give([x[1] for _ in output.shape], place)


def layer_norm(call: Call) -> None:
    """Gain and shift follow the last axes, which share their statistics."""
    x, over = call.axes(call.args[0]), len(call.args[1])
    call.couple(x[-over:], "statistics")
    for tensor in call.tensors()[1:]:
        same(x, call.axes(tensor))
    call.give(x)
    for place, output in enumerate(call.outputs[1:], 1):
        call.give([*x[: len(x) - over], *(ONE for _ in range(over))][: output.ndim], place)


def group_norm(call: Call) -> None:
    """Channels ``x (n, c, ...)`` fall into groups that share statistics."""
    x, groups = call.axes(call.args[0]), call.args[6]
    if groups > 1:
        split(x[1], (groups, size_of(x[1]) // groups))
    call.couple(x[1:2], "statistics")
    for tensor in call.tensors()[1:]:
        unify_or_lock(call.axes(tensor)[0], x[1])
    call.give(x)
    call.give_new("groups", 1)


def product(call: Call) -> None:
    """Matrix products: the contracted axes are one, batch axes are one, the others come out."""
    tensors = call.tensors()
    added, (x, y) = tensors[:-2], map(call.axes, tensors[-2:])
    if len(x) == 1 or len(y) == 1:
        contracted = x[-1], y[-2] if len(y) > 1 else y[0]
        out = [*x[:-1], *(y[:-2] + y[-1:] if len(y) > 1 else ())]
    else:
        contracted = x[-1], y[-2]
        same(x[:-2], y[:-2])
        mark(x[:-2] + y[:-2], "heads")
        batch = [a if wide(a) else b for a, b in zip(x[:-2], y[:-2], strict=False)]
        out = [*batch, x[-2], y[-1]]
    unify_or_lock(*contracted)
    call.couple(contracted[:1])
    for tensor in added:
        same(out, call.axes(tensor))
    call.give(out)


def embedding(call: Call) -> None:
    """``weight (words, width)``, and words looked up by number."""
    weight, indices = call.axes(call.args[0]), call.axes(call.args[1])
    lock(weight[0], "looked up by number")
    call.give([*indices, *weight[1:]])


def attention(call: Call) -> None:
    """Scaled dot product: ``q (..., n, d)``, ``k (..., m, d)``, ``v (..., m, e)`` to ``(..., n, e)``."""
    q, k, v = (call.axes(tensor) for tensor in call.args[:3])
    unify_or_lock(q[-1], k[-1])
    unify_or_lock(k[-2], v[-2])
    call.couple([q[-1], k[-2]])
    for other in (k, v):
        same(q[:-2], other[:-2])
    mark(q[:-2], "heads")
    call.give([*q[:-1], v[-1]])
    call.give_new("positions", 1)


def grouped_product(call: Call) -> None:
    """Rows ``x (n, in)`` in turn through the matrices ``w (experts, in, out)``, of which each takes a stretch."""
    x, w = call.axes(call.args[0]), call.axes(call.args[1])
    if len(x) == 2 and len(w) == 3:
        lock(x[0], "rows in the order of their experts")
        lock(w[0], "looked up by number")
        unify_or_lock(x[1], w[1])
        call.give([x[0], w[2]])
    else:
        for term in (*x, *w):
            lock(term, f"operator {call.name}")
        call.give_new(f"operator {call.name}")


def grid_sample(call: Call) -> None:
    """``x (n, c, ...)`` read at the places of ``grid (n, ..., 2 or 3)``."""
    x, grid = call.axes(call.args[0]), call.axes(call.args[1])
    unify_or_lock(x[0], grid[0])
    for term in (*x[2:], grid[-1]):
        lock(term, "places that are computed")
    call.give([x[0], x[1], *grid[1:-1]])


def normalized_weight(call: Call) -> None:
    """Weight norm: directions ``v``, and lengths ``g`` along one axis."""
    v, g = call.axes(call.args[0]), call.axes(call.args[1])
    same(v, g)
    call.give(v)
    call.give(g, 1)

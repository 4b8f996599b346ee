"""A target that ends where the source's head begins: what the source computes after its features needs no place."""

from __future__ import annotations

__all__ = ["without_head"]

from collections.abc import Iterator, Sequence
from dataclasses import replace

from torchgraft.axes import AxisGroups
from torchgraft.couple.holding import Side, Unit

_MOST = 6  # layers of a head: two norms, two layers before the last one, a shift


def without_head(target: AxisGroups, source: AxisGroups, side: Side, branches: Sequence[Unit]) -> Iterator[Side]:
    """Yield the source's layers without its last one, its last two, and so on, up to its last residual branch.

    Only where the source's outputs are what a layer gives (classes, words), and none of the target's is: it gives what
    a norm, an activation, a pooling or a sum makes of its last layer's values, as a backbone does.

    Args:
        target: the target's groups.
        source: the source's groups.
        side: the source's layers.
        branches: its outermost branches.
    """
    if _ends_in_layer(source) and not _ends_in_layer(target):
        last = max((number for numbers, _ in branches for number in numbers), default=-1)
        count = len(side.layers)
        for start in range(count - 1, max(last, count - 1 - _MOST), -1):
            free = {number: axis for number, axis in side.free.items() if number < start}
            yield replace(side, free=free, spare=range(start, count))


def _ends_in_layer(groups: AxisGroups) -> bool:
    """Tell whether an output is the product with a stored weight."""
    flow = groups.flow
    return any(flow.factors(flow.step(flow.plain(value))) is not None for value in flow.outputs)

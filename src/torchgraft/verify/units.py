"""Which units of a target layer's output stand for which units of the source layer's."""

from __future__ import annotations

__all__ = ["Units", "sizes_of", "units_of"]

from collections.abc import Sequence
from math import prod

from torchgraft.kinds import GATES, output_axis
from torchgraft.plan import Plan
from torchgraft.records import Move, Transfer, UnitMap
from torchgraft.transfer.rules import CENTRED
from torchgraft.units import axis_indices, product_indices

#: Indices into the target's units, and for each the index of the source's unit.
Units = tuple[Sequence[int], Sequence[int]]


def units_of(plan: Plan, transfer: Transfer) -> Units | None:
    """Return which outputs of the target layer stand for which outputs of the source layer.

    The indices count the outputs of the whole module where the layer is a part of it (a query in a fused qkv), and the
    hidden units, not the gates, of a recurrent layer. ``None`` where the plan does not say.

    Args:
        plan: the plan that holds the transfer, for its label map.
        transfer: a matched pair of layers.
    """
    move, axis = _leading(transfer)
    if move is None:
        return None
    if "select_labels" in move.prepare:
        return tuple(t for t, _ in plan.labels), tuple(s for _, s in plan.labels)
    sizes = move.target.shape[axis], move.source.shape[axis]
    starts = [one.part.start if one.part is not None else 0 for one in (move.target, move.source)]
    if move.layout and move.layout[axis]:
        index = axis_indices(move.layout[axis], plan.maps)
    elif move.operator in CENTRED or sizes[0] == sizes[1]:
        factors = _factors(move.target.units, axis, sizes[0]), _factors(move.source.units, axis, sizes[1])
        alike = len(factors[0]) == len(factors[1])
        pairs = zip(*factors, strict=True) if alike else [sizes]
        how = "start" if axis in move.lead else "centre"
        index = product_indices([UnitMap(t, s, how) for t, s in pairs])
    else:
        return None
    if transfer.kind in GATES:  # the first gate's rows stand for the hidden units
        hidden = sizes[0] // GATES[transfer.kind], sizes[1] // GATES[transfer.kind]
        inside = (index[0] < hidden[0]) & (index[1] < hidden[1])
        index, starts = (index[0][inside], index[1][inside]), [0, 0]
    return (index[0] + starts[0]).tolist(), (index[1] + starts[1]).tolist()


def sizes_of(transfer: Transfer) -> tuple[int, int] | None:
    """Return how many outputs both layers have, ``None`` where they are parts of modules that have more."""
    move, axis = _leading(transfer)
    if move is None or move.target.part is not None or move.source.part is not None:
        return None
    gates = GATES.get(transfer.kind, 1)
    return move.target.shape[axis] // gates, move.source.shape[axis] // gates


def _leading(transfer: Transfer) -> tuple[Move | None, int]:
    """Return the move of the weight, or the first one, and the axis of its tensor that counts outputs."""
    moves = [move for move in transfer.moves if move.target.shape and move.source.shape]
    moves.sort(key=lambda move: not move.target.role.startswith("weight"))
    if not moves:
        return None, 0
    if transfer.kind == "parameter":
        return moves[0], len(moves[0].target.shape) - 1
    return moves[0], output_axis(transfer.kind, "weight") or 0 if len(moves[0].target.shape) > 1 else 0


def _factors(units: tuple[tuple[int, ...], ...], axis: int, size: int) -> tuple[int, ...]:
    return units[axis] if units and prod(units[axis]) == size else (size,)

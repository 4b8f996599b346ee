"""One moment of one tensor, written by one move: where the weight goes, scaled as its gradient is.

Where the target computes what the source computes, ``W' = f W`` asks for ``dL/dW' = dL/dW / f``, and a unit that stands
there several times gets the share of the gradient that its readers take from it. What reads the copies sees the same
input in each, so its gradient is that of the source, however small its weight (Shen et al. 2022, section 4.2, halve the
gradients of doubled layers for the same reason). A mean of squares takes the square of each scaling.
"""

from __future__ import annotations

__all__ = ["ORDERS", "UNMOVABLE", "Copies", "copies_of", "place_moment"]

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from torchgraft.plan import Plan
from torchgraft.records import Move, Stretch, Transfer, UnitMap
from torchgraft.transfer.operators import along_outputs, clip, part_of, put_units, take_units, unit_places
from torchgraft.transfer.prepare import PREPARATIONS, Labels, Preparation, mapped_rows
from torchgraft.units import pairs_of, shares_of

#: What a state tensor is a mean of, by its name in torch and timm: 1 gradients, 2 their squares.
ORDERS: Mapping[str, int] = {
    "exp_avg": 1,
    "momentum_buffer": 1,
    "grad_avg": 1,
    "exp_inf": 1,
    "exp_avg_sq": 2,
    "max_exp_avg_sq": 2,
    "square_avg": 2,
    "sum": 2,
    "variance": 2,
}

#: State tensors that hold no gradients but weights, steps or their squares: zero would be wrong for new units.
UNMOVABLE = frozenset({"ax", "z", "slow_buffer", "step_size", "acc_delta"})


@dataclass(frozen=True, slots=True)
class Copies:
    """Units that stand there several times and are read without a share of their own, by a tied embedding.

    ``keys`` are the tied tensors, ``maps`` the numbers of the maps along them: each copy has an even share.
    """

    keys: Collection[str]
    maps: Collection[int]


def copies_of(plan: Plan) -> Copies:
    """Find the tied tensors of a plan, and the maps of their units."""
    keys = frozenset(one.tied for one in plan.tensors if one.tied is not None)
    moves = [move for transfer in plan.transfers for move in transfer.moves if move.target.key in keys]
    stretches = [stretch for move in moves for axis in move.layout for stretch in axis]
    return Copies(keys, frozenset(number for stretch in stretches for number in stretch.maps))


def place_moment(
    whole: Tensor,
    value: Tensor,
    order: int,
    transfer: Transfer,
    move: Move,
    plan: Plan,
    copies: Copies,
    fold: Tensor | None = None,
) -> None:
    """Write what a move brings of a moment; all other places keep what they hold.

    Args:
        whole: the target's moment, in the shape of its stored tensor.
        value: the source's moment, in the shape of its stored tensor.
        order: 1 for a mean of gradients, 2 for one of squares.
        transfer: the layers of the move.
        move: of the plan.
        plan: with the maps and labels that the move refers to.
        copies: of the plan.
        fold: the layer scale that the move multiplies its tensor by; a unit that it silences has no gradient to tell.
    """
    view, value = part_of(whole, move.target), part_of(value.contiguous(), move.source)
    if fold is not None:
        scale = along_outputs(fold.detach().to(value), value, transfer.kind, move) ** order
        value = torch.where(scale == 0, 0, value / scale)
    if move.operator == "copy":
        view.copy_(value)
        return
    axis, rows = mapped_rows(view, move, plan.labels) if "select_labels" in move.prepare else (0, None)
    seen = view if rows is None else view.index_select(axis, rows)
    for name in move.prepare:
        value = _prepared(value, seen, order, name, move, plan.labels)
    if move.layout:
        _place_units(seen, value, order, move, plan.maps, copies)
    else:
        if move.operator == "full":  # which does not tell heads from other units
            bare = replace(move.target, units=()), replace(move.source, units=())
            move = replace(move, target=bare[0], source=bare[1])
        role = move.target.role
        clip({role: seen}, {role: value}, replace(transfer, moves=(move,)), torch.Generator())
    if rows is not None:
        view.index_copy_(axis, rows, seen)


def _place_units(
    target: Tensor, source: Tensor, order: int, move: Move, maps: tuple[UnitMap, ...], copies: Copies
) -> None:
    into, out_of = unit_places(target, source, move, maps)
    values = take_units(source, out_of)
    for axis, stretches in enumerate(move.layout):
        if stretches and move.pads[axis : axis + 1] != ("shared",):
            shares = torch.cat([_shares(stretch, move, maps, copies) for stretch in stretches])
            shape = [-1 if one == axis else 1 for one in range(values.ndim)]
            values = values * (shares**order).to(values).view(shape)
    put_units(target, into, values / move.factor**order)


def _shares(stretch: Stretch, move: Move, maps: tuple[UnitMap, ...], copies: Copies) -> Tensor:
    """Return the share of the gradient that every place of a stretch gets: 1 but for units that stand there often.

    A gain that is divided because a tied embedding reads it (its factor says so) has an even share of it.
    """
    found = torch.ones(1, dtype=torch.float64)
    for number in stretch.maps:
        units = maps[number]
        one = torch.ones(len(pairs_of(units)[0]), dtype=torch.float64)
        if units.how == "tile":
            even = move.target.key in copies.keys or (move.factor != 1 and number in copies.maps)
            if even:
                one /= units.target // units.source
            else:
                one = torch.from_numpy(shares_of(units))
        found = (found[:, None] * one[None, :]).reshape(-1)
    return found


def _prepared(value: Tensor, target: Tensor, order: int, name: str, move: Move, labels: Labels) -> Tensor:
    """Prepare a moment; one of squares by its roots, which have the unit of a gradient, so that none turns negative."""
    prepare = _PREPARATIONS.get(name) or PREPARATIONS[name]
    return prepare(value.sqrt(), target, move, labels).square() if order == 2 else prepare(value, target, move, labels)


def _repeat_inputs(source: Tensor, target: Tensor, move: Move, labels: Labels) -> Tensor:
    """Every channel of a picture that repeats channels has the gradient of its original; grey has that of any."""
    want = target.shape[1]
    if want == 1:
        return source.mean(1, keepdim=True)
    return source.repeat(1, -(-want // source.shape[1]), *(1 for _ in source.shape[2:]))[:, :want]


def _split_slope(source: Tensor, target: Tensor, move: Move, labels: Labels) -> Tensor:
    """One slope has the gradients of all channels together."""
    return source.sum(0, keepdim=True) if target.shape[0] == 1 else source.expand(target.shape) / target.shape[0]


# Preparations that scale weights; what resamples a picture resamples a moment of it, too.
_PREPARATIONS: Mapping[str, Preparation] = {"tile_inputs": _repeat_inputs, "share_slope": _split_slope}

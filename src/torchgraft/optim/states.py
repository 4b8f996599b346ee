"""The new state of one parameter, or the reason why it gets none."""

from __future__ import annotations

__all__ = ["FRESH", "Fill", "Moves", "State", "Work", "state_of"]

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from torchgraft.optim.holding import Held
from torchgraft.optim.moments import ORDERS, UNMOVABLE, Copies, place_moment
from torchgraft.plan import Plan
from torchgraft.records import Move, TensorPlan, Transfer

State = dict[str, Any]
Moves = Sequence[tuple[Transfer, Move]]
#: Fills the empty places of a mean of squares.
Fill = Callable[[Tensor], None]

# Options of a group that ask for a state tensor of their own, in torch and timm.
_OPTIONS = ("amsgrad", "centered", "momentum")
_EMPTY = -1.0  # in a place of a mean of squares that nothing was moved into


def _zero(moment: Tensor) -> None:
    moment.clamp_(min=0)


def _mean(moment: Tensor) -> None:
    empty = moment < 0
    if bool(empty.any()):  # gathering what moved takes longer than all the rest
        moved = moment[~empty]
        moment[empty] = moved.mean() if moved.numel() else 0.0


#: What means of squares hold where no unit of the source stands, by name; such places come with a negative number.
FRESH: Mapping[str, Fill] = {"zero": _zero, "mean": _mean}


@dataclass(frozen=True, slots=True)
class Work:
    """What stays the same from parameter to parameter; ``notes`` are gathered on the way, each once."""

    plan: Plan
    sources: Mapping[str, Held]
    targets: Mapping[str, Held]
    moves: Mapping[str, Moves]
    planned: Mapping[str, TensorPlan]
    copies: Copies
    states: Mapping[Tensor, Mapping[str, Any]]
    fill: Fill
    notes: dict[str, None] = field(default_factory=dict)


def state_of(key: str, held: Held, work: Work) -> State | str:
    """Return the new state of a parameter, or the reason why it gets none."""
    moves = work.moves.get(key, ())
    if not moves:
        return _absence(work.planned.get(key))
    found: list[tuple[Transfer, Move, Held]] = []
    missing = ""
    for transfer, move in moves:
        other = work.sources.get(move.source.key)
        if other is None:
            missing = "the source's optimizer does not hold its source"
        elif move.fold and move.fold not in work.sources:
            missing = f"the source's optimizer does not hold {move.fold}, by which its source is multiplied"
        elif not work.states.get(other.parameter):
            missing = "the source's optimizer has no state for its source"
        else:
            found.append((transfer, move, other))
    if not found:
        return missing
    for _, _, other in found:
        reason = _obstacle(work.states[other.parameter], other, held)
        if reason:
            return reason
    if missing:
        work.notes[f"a part of {key} starts with zeros: {missing}"] = None
    return _merged(key, held, found, work)


def _absence(planned: TensorPlan | None) -> str:
    if planned is None:
        return "no parameter of the plan's target"
    if planned.status == "reused":
        return "its source layer's state moves with the layer that it serves first"
    if planned.status in ("silenced", "kept"):
        return f"{planned.status}, {planned.reason}"
    return "computed by a parametrization, which state does not go through"


def _obstacle(state: Mapping[str, Any], source: Held, target: Held) -> str:
    """Say why a state cannot be moved: one without all that the optimizer expects would break its next step."""
    for option in _OPTIONS:
        if target.group.get(option) and not source.group.get(option):
            return f"{option} is on here and off in the source's optimizer"
    for name, value in state.items():
        if name in UNMOVABLE:
            return f"its {name} is no mean of gradients"
        if isinstance(value, Tensor) and value.ndim and value.shape != source.parameter.shape:
            return f"its {name} has not the shape of the parameter"
        if not isinstance(value, Tensor | int | float | None):
            return f"its {name} is a {type(value).__name__}, neither a tensor nor a number"
    return ""


def _merged(key: str, held: Held, found: Sequence[tuple[Transfer, Move, Held]], work: Work) -> State | str:
    """Put the state of a parameter together from that of each of its sources."""
    moments: dict[str, Tensor] = {}
    numbers: State = {}
    into = held.parameter
    for transfer, move, other in found:
        for name, value in work.states[other.parameter].items():
            if not isinstance(value, Tensor) or value.shape != other.parameter.shape or name == "step":
                _put_number(numbers, name, _number(value, held, other), key, work)
                continue
            if name not in ORDERS:
                work.notes[f"{name} is not known: it is moved as a mean of gradients"] = None
            order = ORDERS.get(name, 1)
            if name not in moments:
                base = _EMPTY if order == 2 and not into.is_complex() else 0.0
                moments[name] = torch.full(into.shape, base, dtype=into.dtype, device=into.device)
            value = value.detach().to(into.device)
            fold = work.sources[move.fold].parameter if move.fold else None
            place_moment(moments[name], value, order, transfer, move, work.plan, work.copies, fold)
    if not moments:
        return "the source's optimizer has no moments for its source"
    for name, value in moments.items():
        if ORDERS.get(name, 1) == 2 and not into.is_complex():
            work.fill(value)
    if not into.is_contiguous():
        moments = {name: torch.empty_like(into).copy_(value) for name, value in moments.items()}
    return {**numbers, **moments}


def _put_number(numbers: State, name: str, value: Any, key: str, work: Work) -> None:
    """Take a number; of the parts of a tensor that differ in it, the largest."""
    before = numbers.get(name)
    if before is not None and value is not None and bool(before != value):
        work.notes[f"the parts of {key} differ in {name}: it has the largest"] = None
        value = max(before, value)
    if value is not None or name not in numbers:
        numbers[name] = value


def _number(value: Any, held: Held, other: Held) -> Any:
    """Copy a number. A step stands in the main memory unless a group says that it is captured or fused."""
    if not isinstance(value, Tensor):
        return value
    captured, was = (bool(one.group.get("capturable") or one.group.get("fused")) for one in (held, other))
    near = captured or (value.device.type != "cpu" and not was)
    return value.detach().clone().to(held.parameter.device if near else "cpu")

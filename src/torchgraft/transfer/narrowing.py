"""Which units are kept where a group of the target is smaller than that of the source: chosen by the weights.

A plan holds the rule of every map; the weights are met when it is applied. One choice serves all tensors of a group.
"""

from __future__ import annotations

__all__ = [
    "NARROWING",
    "RULE_NAMES",
    "Member",
    "Narrowing",
    "check_narrowing",
    "magnitude",
    "narrowing_name",
    "norm_scale",
    "readers",
    "settle",
]

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import Protocol

import torch
from torch import Tensor

from torchgraft.errors import ApplyError, choose
from torchgraft.kinds import input_axis, output_axis
from torchgraft.plan import Plan
from torchgraft.records import Move, Stretch, UnitMap
from torchgraft.transfer.operators import CUSTOM, part_of
from torchgraft.units import is_settled

#: Rules by number that a user may ask for.
_BY_NUMBER = ("centre", "even")
_AT_ONCE = 1 << 18  # elements whose squares are held at one time
_LEAST = 1e-300  # of a divisor
_EPSILON = 1e-5  # of a batch norm: a variance far below it is none


@dataclass(frozen=True, slots=True, eq=False)
class Member:
    """A tensor of the source in which the units of a group stand.

    ``key`` is its name, ``kind`` that of its layer, ``role`` its own (``"weight"``, ``"bias"``, ``"running_var"``).
    ``use`` says what it has to do with the units: it ``"reads"`` them, ``"makes"`` them, or is ``"alone"`` with each (a
    bias, a gain, a statistic).
    """

    key: str
    kind: str
    role: str
    use: str
    _load: Callable[[], Tensor]

    @property
    def values(self) -> Tensor:
        """The tensor with the units on its first axis, ``(units, ...)``; loaded anew each time it is asked for."""
        return self._load()


class Narrowing(Protocol):
    """Returns one score for each unit of a group; the units of the highest scores are kept, in their order."""

    def __call__(self, members: Sequence[Member]) -> Tensor | Sequence[float]: ...


def readers(members: Sequence[Member]) -> Tensor:
    """Score a unit by the weights that read it: its share of their squares, summed over the layers.

    A unit that nothing makes counts nothing: all weights into it are zero, or gain and shift of its norm; nor does one
    that is the same for all inputs, by the running variance of its batch norm. Where no weight reads the units (queries
    and keys), those that make them count.
    """
    found = _shares(members, "reads")
    if found is None:
        return magnitude(members)
    for alive in (_summed(members, _is_made), _summed(members, _is_normed)):
        if alive is not None:
            found = found * (alive > 0)
    for one in members:
        if one.use == "alone" and one.role == "running_var":
            variance = one.values.detach().to("cpu", torch.float64).reshape(len(found), -1).mean(1)
            found = found * variance / (variance + _EPSILON)
    return found


def magnitude(members: Sequence[Member]) -> Tensor:
    """Score a unit by all weights that make or read it: its share of their squares, summed over the tensors."""
    found = [one for one in (_shares(members, "reads"), _shares(members, "makes")) if one is not None]
    if not found:
        found = [one for one in (_shares(members, "alone"),) if one is not None]
    return torch.stack(found).sum(0)


def norm_scale(members: Sequence[Member]) -> Tensor:
    """Score a unit by the gains of its norms (Liu et al. 2017). Where no norm is over it, all its weights count."""
    gains = [_squares(one).sqrt() for one in members if _is_normed(one) and one.role == "weight"]
    if not gains:
        return magnitude(members)
    return torch.stack([one / one.sum().clamp_min(_LEAST) for one in gains]).sum(0)


#: What decides which units are kept, by name. Beside these there are ``centre`` and ``even``, which need no weights.
NARROWING: Mapping[str, Narrowing] = {"readers": readers, "magnitude": magnitude, "norm_scale": norm_scale}
#: All names that a user may choose from.
RULE_NAMES = (*NARROWING, *_BY_NUMBER)


def _is_normed(member: Member) -> bool:
    return member.use == "alone" and "norm" in member.kind and member.role in ("weight", "bias")


def _is_made(member: Member) -> bool:
    return member.use == "makes" or (member.use == "alone" and member.role == "bias" and "norm" not in member.kind)


def _squares(member: Member) -> Tensor:
    """Return the sum of squares of every unit, ``(units,)``."""
    values: Tensor = member.values.detach()
    values = torch.view_as_real(values) if values.is_complex() else values
    values = values if values.dtype in (torch.float32, torch.float64) else values.float()
    if values.ndim == 1:
        return values.to("cpu", torch.float64).square()
    lead = max(range(1, values.ndim), key=values.stride)
    if values.stride(0) >= values.stride(lead):
        norms: Tensor = torch.linalg.vector_norm(values, dim=tuple(range(1, values.ndim)))
        return norms.to("cpu", torch.float64).square()
    found = torch.zeros(len(values), dtype=torch.float64)
    step = max(1, _AT_ONCE * values.shape[lead] // max(1, values.numel()))
    for part in torch.split(values, step, lead):  # across the grain: as much as a cache holds
        squares = part.movedim(lead, 1).square()
        inner = squares[:1, :1].numel() > 1
        found += (squares.flatten(2).sum(2) if inner else squares.flatten(1)).sum(1).to(found)
    return found


def _summed(members: Sequence[Member], chosen: Callable[[Member], bool]) -> Tensor | None:
    found = [_squares(one) for one in members if chosen(one)]
    return torch.stack(found).sum(0) if found else None


def _shares(members: Sequence[Member], use: str) -> Tensor | None:
    """Return every unit's share of the squares of the tensors of one use, ``None`` where there are none."""
    found = [_squares(one) for one in members if one.use == use]
    return torch.stack([one / one.sum().clamp_min(_LEAST) for one in found]).sum(0) if found else None


def narrowing_name(rule: str | Narrowing) -> str:
    """Return the name of a rule for a plan that is printed or stored."""
    return rule if isinstance(rule, str) else CUSTOM + getattr(rule, "__name__", "narrowing")


def check_narrowing(name: str) -> None:
    """Raise a :class:`~torchgraft.errors.SpecError` that lists the valid names where ``name`` is none."""
    choose(dict.fromkeys(RULE_NAMES), name, "narrowing")


def settle(plan: Plan, values: Callable[[str], Tensor], rule: Narrowing | None = None) -> Plan:
    """Return the plan with the units that its rules choose; itself, where nothing is left to choose.

    Equal scores: the unit of the lower number is kept.

    Args:
        plan: any plan.
        values: gives a source tensor by key.
        rule: the function behind a plan that was made with one of the user's own.

    Raises:
        ApplyError: that function is missing, or does not give one score for each unit.
    """
    found = _members(plan, values)
    maps = list(plan.maps)
    for number, members in found.items():
        maps[number] = _choose(maps[number], members, rule)
    return replace(plan, maps=tuple(maps)) if found else plan


def _choose(units: UnitMap, members: Sequence[Member], rule: Narrowing | None) -> UnitMap:
    own = units.how.startswith(CUSTOM)
    if own and rule is None:
        name = units.how.removeprefix(CUSTOM)
        raise ApplyError(
            f"the plan was made with a narrowing of your own, {name}: pass it again as narrowing={name}, or give the "
            "report's plan, which holds what was chosen"
        )
    function = rule if own and rule is not None else choose(NARROWING, units.how, "narrowing")
    scores = torch.as_tensor(function(members), dtype=torch.float64, device="cpu").detach()
    if scores.shape != (units.source,):
        told = "×".join(map(str, scores.shape)) or "one"
        raise ApplyError(
            f"{units.how} gave {told} scores for the {units.source} units of {members[0].key}: return one for each unit"
        )
    order = torch.sort(torch.nan_to_num(scores, nan=-torch.inf), descending=True, stable=True).indices
    return replace(units, chosen=tuple(order[: units.target].sort().values.tolist()))


def _members(plan: Plan, values: Callable[[str], Tensor]) -> dict[int, list[Member]]:
    """Return the source's tensors of every map that is not settled, by the map's number; each counts once."""
    left = {number for number, units in enumerate(plan.maps) if not is_settled(units)}
    found: dict[int, list[Member]] = {}
    met: set[tuple[int, str, int, int]] = set()
    for transfer in plan.transfers if left else ():
        for move in transfer.moves:
            if move.windows is not None:  # arithmetic on two shapes, so nothing is left to choose
                continue
            for axis, stretch, number in _stretches(move, left):
                place = number, move.source.key, axis, stretch.out_of
                if place not in met:
                    met.add(place)
                    load = partial(_units, values, move, axis, stretch, number, plan.maps)
                    use = _use(transfer.kind, move.source.role, axis)
                    member = Member(move.source.key, transfer.kind, move.source.role, use, load)
                    found.setdefault(number, []).append(member)
    return found


def _stretches(move: Move, left: set[int]) -> Iterator[tuple[int, Stretch, int]]:
    for axis, row in enumerate(move.layout):
        for stretch in row:
            for number in stretch.maps:
                if number in left:
                    yield axis, stretch, number


def _units(
    values: Callable[[str], Tensor], move: Move, axis: int, stretch: Stretch, number: int, maps: Sequence[UnitMap]
) -> Tensor:
    """Return the part of a source tensor that a stretch covers, with the units of one of its maps on the first axis."""
    sizes = [maps[one].source for one in stretch.maps]
    whole = part_of(values(move.source.key), move.source).narrow(axis, stretch.out_of, prod(sizes))
    return torch.unflatten(whole, axis, sizes).movedim(axis + stretch.maps.index(number), 0)


def _use(kind: str, role: str, axis: int) -> str:
    if input_axis(kind, role) is None:
        return "makes" if kind == "embedding" and axis == output_axis(kind, role) else "alone"
    return "reads" if axis == input_axis(kind, role) else "makes"

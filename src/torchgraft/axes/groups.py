"""Axis groups: which axes of which parameters and buffers must be changed together."""

from __future__ import annotations

__all__ = ["AxisGroups", "Group", "Member", "axis_groups"]

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from torchgraft.axes.rules import apply_rules
from torchgraft.axes.terms import Atom, Cat, Term, atoms_of, resolve, size_of
from torchgraft.axes.trace import Trace, trace

Index = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Member:
    """An axis of a stored tensor in which the units of a group stand, alone or among others."""

    key: str
    axis: int


@dataclass(frozen=True, slots=True)
class Group:
    """Units that stand for the same things wherever they occur: to move one is to move it in every member.

    ``locked`` says why they may not move at all (an input, an output, words looked up by number, an operator that no
    rule knows); ``marks`` holds ``"statistics"`` where a norm, a softmax or a mean couples the units.
    """

    number: int
    size: int
    locked: str
    marks: frozenset[str]
    members: tuple[Member, ...]


@dataclass(frozen=True, slots=True, eq=False)
class AxisGroups:
    """What :func:`axis_groups` found.

    ``axes`` tells what every axis of every stored tensor is made of; ``unknown`` counts the operators without a rule,
    whose axes are locked.
    """

    groups: tuple[Group, ...]
    axes: Mapping[str, tuple[Term, ...]]
    unknown: Mapping[str, int]

    def free(self) -> tuple[Group, ...]:
        """Return the groups whose units may move."""
        return tuple(group for group in self.groups if not group.locked)

    def index(self, member: Member, chosen: Mapping[int, Index]) -> Index:
        """Return which units of a member's axis to take, in order.

        Args:
            member: one of :attr:`Group.members`.
            chosen: units to take, by the number of their group; all units of the groups left out.
        """
        return _index(self.axes[member.key][member.axis], chosen)


def axis_groups(module: nn.Module, inputs: Sequence[Any], options: Mapping[str, Any] | None = None) -> AxisGroups:
    """Find the axis groups of a model by running it once without values.

    Args:
        module: any module that can run on the meta device; left as it is.
        inputs: positional arguments of a run, of which shapes alone count.
        options: keyword arguments.

    Raises:
        Exception: whatever the model raises on these inputs.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> for group in axis_groups(net, [torch.zeros(1, 4)]).free():
    ...     print(group.size, [(member.key, member.axis) for member in group.members])
    8 [('0.weight', 0), ('0.bias', 0), ('2.weight', 1)]
    """
    return _grouped(trace(module, inputs, apply_rules, options))


def _grouped(found: Trace) -> AxisGroups:
    axes = {key: tuple(map(resolve, row)) for key, row in found.axes.items()}
    members: dict[Atom, list[Member]] = {}
    for key, row in axes.items():
        for axis, term in enumerate(row):
            for atom in dict.fromkeys(atoms_of(term)):
                members.setdefault(atom, []).append(Member(key, axis))
    groups = tuple(
        Group(atom.number, atom.size, atom.locked, frozenset(atom.marks), tuple(held)) for atom, held in members.items()
    )
    return AxisGroups(groups, axes, found.unknown)


def _index(term: Term, chosen: Mapping[int, Index]) -> Index:
    if isinstance(term, Atom):
        return chosen.get(term.number, np.arange(term.size))
    if isinstance(term, Cat):
        return np.concatenate(list(_shifted(term.parts, chosen)))
    found = np.zeros(1, dtype=np.int64)
    for factor in term.factors:
        found = (found[:, None] * size_of(factor) + _index(factor, chosen)[None, :]).reshape(-1)
    return found


def _shifted(parts: Sequence[Term], chosen: Mapping[int, Index]) -> Iterator[Index]:
    start = 0
    for part in parts:
        yield start + _index(part, chosen)
        start += size_of(part)

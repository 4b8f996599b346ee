"""Axis groups: which axes of which parameters and buffers must be changed together."""

from __future__ import annotations

__all__ = ["AxisGroups", "Group", "Member", "axis_groups", "known_groups"]

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from torchgraft.axes.attention import Scores, attention_scales
from torchgraft.axes.branches import Branch, branches
from torchgraft.axes.closing import closing_keys
from torchgraft.axes.flow import Flow, flow_of, grouped_weights
from torchgraft.axes.gates import Gate, gates
from torchgraft.axes.links import Link, links
from torchgraft.axes.norms import Norm, PostNorm, Reader, norms, post_norms, readers
from torchgraft.axes.runs import architecture, traced
from torchgraft.axes.scales import embedding_scales, layer_scales
from torchgraft.axes.spans import Span, spans_of
from torchgraft.axes.sums import Sum, sums
from torchgraft.axes.terms import Atom, Cat, Term, atoms_of, resolve, size_of
from torchgraft.axes.trace import Trace
from torchgraft.fingerprint import Look, look_of
from torchgraft.network import unwrap
from torchgraft.recent import Recent

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
    rule knows); ``marks`` holds ``"statistics"`` where a norm, a softmax or a mean couples the units, ``"sum"`` where
    two computed values are added, ``"heads"`` where matrices are multiplied once for each unit.
    """

    number: int
    size: int
    locked: str
    marks: frozenset[str]
    members: tuple[Member, ...]

    @property
    def role(self) -> str:
        """``input``, ``output``, ``locked``, ``heads``, ``stream`` (into which sums write) or ``hidden``."""
        if self.locked:
            return {"an input": "input", "an output": "output"}.get(self.locked, "locked")
        return "heads" if "heads" in self.marks else "stream" if "sum" in self.marks else "hidden"


@dataclass(frozen=True, slots=True, eq=False)
class AxisGroups:
    """What :func:`axis_groups` found.

    ``axes`` tells what every axis of every stored tensor is made of, ``spans`` the same as rows of products of
    groups; ``unknown`` counts the operators without a rule, whose axes are locked; ``branches`` are the residual
    branches, those inside others first, ``sums`` all other sums, ``links`` the layers that mix units, ``gates``
    products with a sigmoid; ``norms`` those over all units of a group, by the key of their gain, ``shifts`` their
    biases, and ``normed`` the weights that read what such norms give, ``post_norms`` those of sums with what another
    norm gives; ``scales`` tell what attention scores are multiplied by, by the tensors that make the keys;
    ``layer_scales`` name the vector that multiplies what a layer gives, by the keys of its weight and bias,
    ``embedding_scales`` the number that multiplies what is looked up; ``grouped`` counts the groups of convolutions
    that have more than one, by the key of their weight; ``idle`` are the keys of tensors that no output is computed
    from; ``flow`` is the run itself.
    """

    groups: tuple[Group, ...]
    axes: Mapping[str, tuple[Term, ...]]
    spans: Mapping[str, tuple[tuple[Span, ...], ...]]
    unknown: Mapping[str, int]
    branches: tuple[Branch, ...]
    sums: tuple[Sum, ...]
    links: tuple[Link, ...]
    gates: tuple[Gate, ...]
    norms: Mapping[str, Norm]
    shifts: frozenset[str]
    normed: Mapping[str, Reader]
    post_norms: Mapping[str, PostNorm]
    scales: Mapping[str, Scores]
    layer_scales: Mapping[str, str]
    embedding_scales: Mapping[str, float]
    grouped: Mapping[str, int]
    idle: frozenset[str]
    flow: Flow

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


def axis_groups(
    module: nn.Module, inputs: Sequence[Any] | None = None, options: Mapping[str, Any] | None = None
) -> AxisGroups:
    """Find the axis groups of a model by running it once without values.

    Where the way of a run depends on values (boxes to keep, experts to ask), a copy with values is run. What was found
    is kept for the next model of the same architecture.

    Args:
        module: any module; left as it is.
        inputs: positional arguments of a run, of which shapes alone count;
            :func:`~torchgraft.axes.inputs.example_inputs` where there are none.
        options: keyword arguments.

    Raises:
        InputsError: no inputs were given, and the model runs on nothing that was tried.
        RunError: the model fails on the given inputs.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> for group in axis_groups(net).free():
    ...     print(group.size, [(member.key, member.axis) for member in group.members])
    8 [('0.weight', 0), ('0.bias', 0), ('2.weight', 1)]
    """
    module = unwrap(module)
    return known_groups(module, look_of(module), inputs, options)


def known_groups(
    module: nn.Module, look: Look | None, inputs: Sequence[Any] | None = None, options: Mapping[str, Any] | None = None
) -> AxisGroups:
    """Find the axis groups of a module, as :func:`axis_groups` does, by the look that it has just been read with."""
    key = architecture(look, inputs, options)
    kept = _KEPT.get(key) if key is not None else None
    if kept is not None:
        return kept
    found, hollow = traced(module, inputs, options)
    groups = _grouped(found, module)
    if key is not None and hollow:
        _KEPT[key] = groups
    return groups


# What was found before, by architecture.
_KEPT = Recent[tuple[Look, Look], AxisGroups](64)


def _grouped(found: Trace, module: nn.Module) -> AxisGroups:
    axes = {key: tuple(map(resolve, row)) for key, row in found.axes.items()}
    members: dict[Atom, list[Member]] = {}
    for key, row in axes.items():
        for axis, term in enumerate(row):
            for atom in dict.fromkeys(atoms_of(term)):
                members.setdefault(atom, []).append(Member(key, axis))
    groups = tuple(
        Group(atom.number, atom.size, atom.locked, frozenset(atom.marks), tuple(held)) for atom, held in members.items()
    )
    flow = flow_of(found)
    coupling = norms(flow, module)
    closing = closing_keys(flow)
    residual = branches(flow, closing)
    return AxisGroups(
        groups,
        axes,
        {key: tuple(map(spans_of, row)) for key, row in axes.items()},
        found.unknown,
        residual,
        sums(flow, residual, closing),
        links(flow, module),
        gates(flow),
        coupling,
        frozenset(norm.shift for norm in coupling.values() if norm.shift is not None),
        readers(flow, coupling),
        post_norms(flow, coupling, closing),
        attention_scales(flow),
        layer_scales(flow),
        embedding_scales(flow),
        grouped_weights(flow),
        found.idle,
        flow,
    )


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

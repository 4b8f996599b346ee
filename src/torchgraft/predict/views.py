"""Values that are the same part of what a layer gives, laid out alike by other operators.

A fused projection is viewed, permuted and unbound into queries, keys and values, three layers are each viewed and
transposed: what attention reads is the same. Both ways are followed as strides.
"""

from __future__ import annotations

__all__ = ["seen_alike"]

from dataclasses import dataclass

import torch
from torch import Tensor

from torchgraft.axes.flow import Flow
from torchgraft.axes.steps import Step
from torchgraft.predict.sides import Sides
from torchgraft.records import TensorSpec

# Operators that give a view of what they read, or the same values in another memory layout.
_VIEWS = frozenset((
    "view", "_unsafe_view", "permute", "transpose", "t", "unbind", "select", "slice", "split", "split_with_sizes",
    "squeeze", "unsqueeze", "alias", "detach",
))  # fmt: skip
_COPIES = frozenset(("clone", "contiguous"))


@dataclass(frozen=True, slots=True)
class _Seen:
    """Part of the ``value`` that a linear layer gives: ``size`` outputs from ``start`` on, of rows from ``row`` on.

    ``axes`` tell what every axis counts: rows, by the distance of two and how many, or units, by how many axes of units
    are faster.
    """

    value: int
    weight: str
    row: int
    start: int
    size: int
    axes: tuple[tuple[str, int, int], ...]


def seen_alike(sides: Sides, target: int, source: int) -> tuple[int, int] | None:
    """Return what the layers give that two values are views of, if both are the same part of it and lie alike.

    Args:
        sides: both networks and the plan.
        target: a value of the target's run.
        source: a value of the source's run.
    """
    mine, other = _seen(sides.target.flow, target), _seen(sides.source.flow, source)
    if mine is None or other is None or (mine.axes, mine.row) != (other.axes, other.row):
        return None
    for ballot in sides.ballots.get(mine.weight, ()):
        parts = [_outputs(spec) for spec in (ballot.move.target, ballot.move.source)]
        if ballot.move.source.key == other.weight and parts == [(one.start, one.size) for one in (mine, other)]:
            return mine.value, other.value
    return None


def _outputs(spec: TensorSpec) -> tuple[int, int]:
    """Return where the outputs of a weight start in the stored tensor, and how many they are."""
    return (0 if spec.part is None else spec.part.start), spec.shape[0]


def _seen(flow: Flow, value: int) -> _Seen | None:
    """Follow views back to a linear layer; ``None`` where something else lies between."""
    chain: list[tuple[Step, int]] = []
    while (step := flow.step(value)) is not None and flow.product(step) is None:
        if step.name not in _VIEWS | _COPIES or len(step.inputs) != 1:
            return None
        chain.append((step, step.outputs.index(value)))
        value = step.inputs[0]
    factors = flow.factors(step)
    if step is None or factors is None or len(step.shape) != 2:
        return None
    try:
        laid = _replayed(step, chain)
    except (RuntimeError, TypeError, IndexError):  # no view: a copy lay between, and its memory was seen otherwise
        return None
    return _described(laid, step.shape[1], value, factors[0])


def _replayed(step: Step, chain: list[tuple[Step, int]]) -> Tensor:
    """Return what the operators make of a layer's outputs, as a view without values."""
    laid = torch.empty(step.shape, device="meta")
    for one, place in reversed(chain):
        if one.name in _VIEWS:
            made = getattr(torch.ops.aten, one.name)(laid, *one.settings)
            laid = made if isinstance(made, Tensor) else made[place]
    return laid


def _described(laid: Tensor, width: int, value: int, weight: str) -> _Seen | None:
    """Tell rows from units, which have to lie side by side; axes that could be one axis are."""
    every: list[tuple[int, int]] = []
    for stride, count in zip(laid.stride(), laid.shape, strict=True):
        if every and every[-1][0] == stride * count != width:
            every[-1] = stride, every[-1][1] * count
        elif count > 1:
            every.append((stride, count))
    units = sorted(one for one in every if one[0] < width)
    size = 1
    for stride, count in units:
        if stride != size:
            return None
        size *= count
    if size > width or any(stride % width for stride, _ in every if stride >= width):
        return None
    axes = tuple(
        ("unit", units.index((stride, count)), 0) if stride < width else ("row", stride // width, count)
        for stride, count in every
    )
    row, start = divmod(int(laid.storage_offset()), width)
    return _Seen(value, weight, row, start, size, axes)

"""Running statistics follow what was cut: what the lost inputs gave on average is taken out of them.

A layer gives ``y = W x + b``, and the norm after it keeps mean and variance of ``y``. Where some inputs or taps are
cut, the mean loses ``W_cut E[x]``, and the variance the share of the cut weights' squares. ``E[x]`` is that of a
function of a normal variable where another batch norm stands before the layer (its shift is the mean, its gain the
deviation), times one number for the layer, which gates and poolings ask for; then it is moved as little as it takes to
explain the means ``E[y]`` that the source has measured, for all outputs at once.
"""

from __future__ import annotations

__all__ = ["follow"]

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from torchgraft.plan import Plan
from torchgraft.records import Followed, Move
from torchgraft.transfer.operators import part_of
from torchgraft.units import move_indices

Floats = NDArray[np.floating[Any]]
# Functions between a norm and the layer that reads it.
_FUNCTIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "": torch.clone,
    "relu": F.relu,
    "relu6": F.relu6,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "gelu": F.gelu,
    "silu": F.silu,
    "mish": F.mish,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
}
_DAMPING = 1e-2  # of the fit, in squares of the mean length of a row
_STEPS = 10  # of conjugate gradients
_LEAST = 1e-37  # of a divisor, which single precision holds


@cache
def _quadrature() -> tuple[Tensor, Tensor]:
    """Gauss-Hermite: E[f(z)] of a standard normal z is the sum of weights times f(nodes). Imported when needed."""
    from numpy.polynomial.hermite_e import hermegauss

    nodes, weights = (torch.from_numpy(one) for one in hermegauss(33))
    return nodes, weights / weights.sum()


def follow(plan: Plan, values: Callable[[str], Tensor], tensors: Mapping[str, Tensor]) -> None:
    """Correct the running statistics that a plan names, once everything is written.

    Args:
        plan: with its units chosen.
        values: gives a source tensor by key.
        tensors: the target's, by key.
    """
    asked = {key for one in plan.followed for key in (one.mean, one.variance, one.weight)}
    home = {move.target.key: move for transfer in plan.transfers for move in transfer.moves if move.target.key in asked}
    for one in plan.followed:
        into, out_of = (torch.from_numpy(places) for places in move_indices(home[one.mean], 0, plan.maps))
        mean, variance = (_exact(values(home[key].source.key)) for key in (one.mean, one.variance))
        shift, share = _lost(one, home[one.weight], plan, mean, values)
        for key, value in ((one.mean, mean - shift), (one.variance, variance * share)):
            tensor = tensors[key]
            tensor[into.to(tensor.device)] = value[out_of].to(tensor)


def _lost(
    one: Followed, move: Move, plan: Plan, mean: Tensor, values: Callable[[str], Tensor]
) -> tuple[Tensor, Tensor]:
    """Return what the mean of every output loses, and the share of its variance that stays."""
    weight = _exact(part_of(values(move.source.key), move.source))
    kept, chosen = weight, torch.from_numpy(move_indices(move, 1, plan.maps)[1])
    for axis in range(2, weight.ndim):
        taps = move_indices(move, axis, plan.maps)[1]
        if len(taps) < weight.shape[axis]:
            kept = kept.narrow(axis, int(taps[0]), len(taps))
    whole = _by_inputs(weight, one.groups)
    rest = whole if kept is weight else _by_inputs(kept, one.groups)
    given = mean.to(weight) - (_exact(values(one.bias)).to(weight) if one.bias else 0)
    expected, varying = _expected(one, values, whole.sums)
    means = given.view(one.groups, -1, 1).numpy()
    known = None if expected is None else expected.numpy()
    found = torch.from_numpy(_inputs(whole.sums.numpy(), means, known, varying.numpy()))
    cut = whole.sums.clone()
    cut[:, :, chosen] -= rest.sums[:, :, chosen]
    share = (rest.squares[:, :, chosen] @ varying[:, chosen]) / (whole.squares @ varying).clamp_min(_LEAST)
    return (cut @ found).flatten(), share.flatten()


def _exact(tensor: Tensor) -> Tensor:
    """Return a tensor of the source in at least single precision, in main memory."""
    tensor = tensor.detach().cpu()
    return tensor if tensor.dtype == torch.float64 else tensor.float()


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """What a weight does with its inputs, ``(groups, outputs of each, inputs of each)``, summed over its taps."""

    sums: Tensor
    squares: Tensor


def _by_inputs(weight: Tensor, groups: int) -> _Rows:
    """Sum a weight ``(out, in, ...)`` over its taps."""
    taps = tuple(range(2, weight.ndim))
    sums, squares = (weight.sum(taps), weight.square().sum(taps)) if taps else (weight, weight.square())
    shape = groups, -1, weight.shape[1]
    return _Rows(sums.reshape(shape), squares.reshape(shape))


def _expected(one: Followed, values: Callable[[str], Tensor], rows: Tensor) -> tuple[Tensor | None, Tensor]:
    """Return the means of all inputs, ``None`` where no norm before them tells; and 1 for those that vary, else 0."""
    shape = rows.shape[0], rows.shape[2], 1
    if not one.gain:
        return None, rows.new_ones(shape)
    gain, shift = (_exact(values(key)).double() for key in (one.gain, one.shift))
    nodes, weights = _quadrature()
    seen: Tensor = _FUNCTIONS[one.function](shift[:, None] + gain.abs()[:, None] * nodes) @ weights
    return seen.view(shape).to(rows), (gain != 0).view(shape).to(rows)


def _inputs(rows: Floats, means: Floats, expected: Floats | None, varying: Floats) -> Floats:
    """Return the means of the inputs, ``(groups, inputs, 1)``: the expected ones, fitted to the means of the outputs.

    Solves ``(A'A + d) e = A' (m - A p)`` by a few steps of conjugate gradients, each group for itself; in numpy, whose
    calls cost a quarter of torch's.

    Args:
        rows: ``A``, the sums over the taps of a weight, ``(groups, outputs, inputs)``.
        means: ``m``, of the outputs, ``(groups, outputs, 1)``.
        expected: ``p``, of all inputs, ``(groups, inputs, 1)``, or ``None``.
        varying: 0 for inputs that are constants, whose means are known, else 1, ``(groups, inputs, 1)``.
    """
    found = np.zeros_like(varying)
    if expected is not None:
        given = rows @ expected
        found = expected * ((given * means).sum() / max(np.square(given).sum(), _LEAST))
    across = rows.swapaxes(1, 2)
    damping = _DAMPING * np.square(rows).sum(2).mean()
    left = (across @ (means - rows @ found)) * varying
    way, size = left, np.square(left).sum(1, keepdims=True)
    for _ in range(min(_STEPS, rows.shape[2])):  # as many as there are inputs solve it
        ahead = (across @ (rows @ way) + damping * way) * varying
        length = size / np.maximum((way * ahead).sum(1, keepdims=True), _LEAST)
        found, left = found + length * way, left - length * ahead
        before, size = size, np.square(left).sum(1, keepdims=True)
        way = left + size / np.maximum(before, _LEAST) * way
    return found

"""New layers that give on what they read: written last, from the tensors that the target holds by then."""

from __future__ import annotations

__all__ = ["RANGES", "pass_on"]

from collections.abc import Callable, Mapping, Sequence
from math import exp, pi

import torch
from torch import Tensor

from torchgraft.records import Passage

Tensors = Mapping[str, Tensor]

#: By activation, from which value on ``f(x) = x``, to the last digit of a float64.
RANGES: Mapping[str, float] = {"relu": 0.0, "hardswish": 3.0, "gelu": 9.0, "silu": 40.0}

# How many deviations of its inputs a layer stays in the range of its activation.
_DEVIATIONS = 32.0
# The bias that opens a gate, and its value there.
_OPEN: Mapping[str, tuple[float, float]] = {"hardsigmoid": (3.0, 1.0), "sigmoid": (3.0, 1 / (1 + exp(-3.0)))}


def pass_on(passage: Passage, tensors: Tensors) -> None:
    """Let some outputs of a layer give what some of its inputs hold.

    Behind the layer, a batch norm takes the mean and variance that its inputs should have, so that it gives them on in
    train mode, too. An activation is passed in the range in which it is the identity: the norm before it adds as much
    as its inputs need to be there, the next one takes it away.

    Args:
        passage: what to write.
        tensors: the target's, by key.
    """
    weight = tensors[passage.weight]
    rows, columns = (torch.tensor(side, device=weight.device) for side in (passage.rows, passage.columns))
    if passage.gate:
        weight[rows] = 0
        tensors[passage.bias][rows] = _OPEN[passage.gate][0]
        return
    mean, variance = _history(passage.history, tensors)
    if isinstance(mean, Tensor) and isinstance(variance, Tensor):
        origin = torch.tensor(passage.origin, device=weight.device)
        mean, variance = mean.double()[origin], variance.double()[origin]
    before, after = (_lift(name, mean, variance) for name in passage.lifts)
    share = 1 / _OPEN[passage.gated][1] if passage.gated else 1.0
    if passage.added:
        _add(passage, tensors, rows, (mean, variance), before)
    else:
        _replace(passage, tensors, rows, (mean, variance), (before, after))
    places = [rows, columns % weight.shape[1], *(torch.tensor(size // 2) for size in weight.shape[2:])]
    weight[tuple(places)] = share


Value = Tensor | float


def _lift(name: str, mean: Value, variance: Value) -> Value:
    """Return what must be added to values so that an activation gives them on as they are."""
    if not name:
        return 0.0
    if isinstance(mean, Tensor) and isinstance(variance, Tensor):
        return RANGES[name] + mean.abs() + _DEVIATIONS * variance.sqrt()
    return RANGES[name] + _DEVIATIONS  # of a mean of 0 and a variance of 1


def _replace(
    passage: Passage, tensors: Tensors, rows: Tensor, moments: tuple[Value, Value], lifts: tuple[Value, Value]
) -> None:
    """Nothing but the passage goes through these outputs."""
    tensors[passage.weight][rows] = 0
    if passage.bias:
        _put(tensors[passage.bias], rows, 0.0 if passage.norm else lifts[1] - lifts[0])
    if passage.norm:
        (mean, variance), (before, after) = moments, lifts
        values = (variance + passage.epsilon) ** 0.5, mean + after, mean + before, variance
        for key, value in zip(passage.norm, values, strict=True):
            _put(tensors[key], rows, value)


def _add(passage: Passage, tensors: Tensors, rows: Tensor, moments: tuple[Value, Value], before: Value) -> None:
    """The passage is added to what these outputs give: the norm behind them is taken into the weight."""
    bias = tensors[passage.bias] if passage.bias else None
    if not passage.norm:
        if bias is not None:
            _put(bias, rows, bias[rows] - before)
        return
    gain, shift, mean, variance = (tensors[key] for key in passage.norm)
    factor = gain[rows] / (variance[rows] + passage.epsilon) ** 0.5
    for tensor in (tensors[passage.weight], *([] if bias is None else [bias])):
        tensor[rows] *= factor.view(-1, *(1 for _ in tensor.shape[1:]))
    spread = gain[rows] ** 2 + moments[1]
    _put(mean, rows, mean[rows] * factor + moments[0] + before)
    _put(shift, rows, shift[rows] + moments[0])
    _put(gain, rows, (spread + passage.epsilon) ** 0.5)
    _put(variance, rows, spread)


def _put(tensor: Tensor, rows: Tensor, value: Value) -> None:
    tensor[rows] = value.to(tensor) if isinstance(value, Tensor) else value


def _history(steps: Sequence[Sequence[str]], tensors: Tensors) -> tuple[Value, Value]:
    """Return mean and variance of what batch norms, sums and rectifiers make; 0 and 1 where nothing is known."""
    held: list[tuple[Tensor, Tensor]] = []
    for step in steps:
        if len(step) == 2:
            gain, shift = (tensors[key] for key in step)
            held.append((shift.double(), gain.double() ** 2))
        else:
            _APPLY[step[0]](held)
    return held[-1] if held else (0.0, 1.0)


def _sum(held: list[tuple[Tensor, Tensor]]) -> None:
    (a, b), (c, d) = held.pop(), held.pop()
    held.append((a + c, b + d))


def _rectified(held: list[tuple[Tensor, Tensor]]) -> None:
    """Mean and variance of the positive part of a normal variable."""
    mean, variance = held.pop()
    deviation = variance.sqrt().clamp_min(torch.finfo(variance.dtype).tiny)
    share = torch.special.ndtr(mean / deviation)
    density = torch.exp(-((mean / deviation) ** 2) / 2) / (2 * pi) ** 0.5
    first = mean * share + deviation * density
    second = (mean**2 + variance) * share + mean * deviation * density
    held.append((first, (second - first**2).clamp_min(0)))


_APPLY: Mapping[str, Callable[[list[tuple[Tensor, Tensor]]], None]] = {"+": _sum, "relu": _rectified}

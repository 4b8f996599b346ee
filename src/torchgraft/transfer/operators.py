"""Operators: how the tensors of one layer are written into another (arXiv:2212.13970 appendices A.2 and B.8).

An operator receives the tensors of both layers by role, each already narrowed to its part and in the layer's own axis
order (``(out, in, kh, kw)`` for a convolution), and writes into the target's in place.
"""

from __future__ import annotations

__all__ = [
    "CUSTOM",
    "OPERATORS",
    "PADS",
    "Operator",
    "along_outputs",
    "clip",
    "clip_normalized",
    "embed",
    "full",
    "leading",
    "magnitude",
    "part_of",
    "place",
    "place_units",
    "put_units",
    "seen",
    "take_units",
    "unit_places",
]

from collections.abc import Mapping, Sequence
from math import prod
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from torchgraft.kinds import output_axis
from torchgraft.records import Move, TensorSpec, Transfer, UnitMap, Window, Windows
from torchgraft.units import Index, copy_shares, move_indices
from torchgraft.windows import centred_windows, outputs_of

Tensors = Mapping[str, Tensor]


class Operator(Protocol):
    """Writes ``source`` into ``target``, both by role; draws, where it must, from ``generator``."""

    def __call__(self, target: Tensors, source: Tensors, transfer: Transfer, generator: torch.Generator) -> None: ...


def clip(target: Tensors, source: Tensors, transfer: Transfer, generator: torch.Generator) -> None:
    """Centre crop into centre crop, kernel included; the rim keeps the target's own values (appendix A.2)."""
    for move in transfer.moves:
        t, s, lead, _ = _aligned(target[move.target.role], source[move.target.role], move)
        place(t, s, centred_windows(tuple(t.shape), tuple(s.shape), lead, None))


def clip_normalized(target: Tensors, source: Tensors, transfer: Transfer, generator: torch.Generator) -> None:
    """Clip, then rescale the weight to the variance of a fresh one and the bias to the same deviation (appendix B.8).

    ``2 * groups / (out * kh * kw)`` for a convolution, ``1 / (3 * (in + out))`` for a linear layer. A tensor without
    spread (constant, or of one element) has no scale to normalize and stays as clipped.
    """
    clip(target, source, transfer, generator)
    weight = target.get("weight")
    if weight is None or weight.ndim < 2:
        return
    out = weight.shape[output_axis(transfer.kind, "weight") or 0]
    receptive = prod(weight.shape[2:])
    groups = max(1, out // weight.shape[1]) if weight.shape[1] == 1 else 1
    variance = 1 / (3 * sum(weight.shape)) if weight.ndim == 2 else 2 * groups / (out * receptive)
    for tensor in target.values():
        deviation = float(tensor.std()) if tensor.numel() > 1 else 0.0
        if deviation > 0:
            tensor.mul_(variance**0.5 / deviation)


def full(target: Tensors, source: Tensors, transfer: Transfer, generator: torch.Generator) -> None:
    """Fill the target entirely: a centre crop where the source is larger, random indices for the rim where smaller."""
    for move in transfer.moves:
        t, value = target[move.target.role], source[move.target.role]
        for axis, size in enumerate(t.shape):
            index = _stretched(size, value.shape[axis], axis in move.lead, generator)
            value = value.index_select(axis, index.to(value.device))
        t.copy_(value)


def _stretched(size: int, available: int, lead: bool, generator: torch.Generator) -> Tensor:
    if available >= size:
        start = 0 if lead else (available - size) // 2
        return torch.arange(start, start + size)
    indices = torch.randint(available, (size,), generator=generator)
    offset = 0 if lead else (size - available) // 2
    indices[offset : offset + available] = torch.arange(available)
    return indices


def magnitude(target: Tensors, source: Tensors, transfer: Transfer, generator: torch.Generator) -> None:
    """Keep the slices of largest absolute sum, in order, along axes 0 and 1; bias follows, kernel is centred."""
    kept: list[Tensor] = []
    for move in transfer.moves:
        t, s = target[move.target.role], source[move.target.role]
        for axis in range(min(2, t.ndim)):
            if axis in move.lead:
                s = s.narrow(axis, 0, min(s.shape[axis], t.shape[axis]))
            if s.shape[axis] > t.shape[axis]:
                follows = move.target.role != "weight" and axis < len(kept) and len(kept[axis]) == t.shape[axis]
                index = kept[axis] if follows else _largest(s, axis, t.shape[axis])
                if move.target.role == "weight":
                    kept.append(index)
                s = s.index_select(axis, index)
            elif move.target.role == "weight":
                kept.append(torch.arange(0))
        slices = [
            (slice(0, min(a, b)),) * 2 if axis < 2 else _centred(a, b)
            for axis, (a, b) in enumerate(zip(t.shape, s.shape, strict=True))
        ]
        t[tuple(a for a, _ in slices)].copy_(s[tuple(b for _, b in slices)])


def _largest(tensor: Tensor, axis: int, count: int) -> Tensor:
    others = [other for other in range(tensor.ndim) if other != axis]
    importance = tensor.abs().sum(others) if others else tensor.abs()
    return torch.sort(importance, descending=True, stable=True).indices[:count].sort().values


def embed(target: Tensors, source: Tensors, transfer: Transfer, generator: torch.Generator) -> None:
    """Place the source in the target so that the outputs it brings still compute what they did.

    Where the target is wider or its kernel larger, the new inputs and taps of those outputs are zero, so that fresh
    units do not disturb trained ones; the new outputs keep the target's own initialization, so that they can learn.
    Where the target is smaller, the centre is kept; heads and gates are cut as whole units.
    """
    for move in transfer.moves:
        t, s, lead, widths = _aligned(target[move.target.role], source[move.target.role], move)
        axis = outputs_of(transfer.kind, move.target.role)
        first = sum(widths[:axis])
        outputs = None if axis is None else tuple(range(first, first + widths[axis]))
        place(t, s, centred_windows(tuple(t.shape), tuple(s.shape), lead, outputs))


def leading(target: Tensors, source: Tensors, transfer: Transfer, generator: torch.Generator) -> None:
    """Write the first units of the source, kernels centred; other weights are zero (FNA, arXiv:2006.12986).

    Vectors (biases, gains, statistics) keep their own further entries. A new unit whose own and whose readers' weights
    are all zero has no gradient: that is the published rule.
    """
    for move in transfer.moves:
        t, s = target[move.target.role], source[move.target.role]
        units = min(2, t.ndim) if transfer.kind.startswith("conv") else t.ndim
        if t.ndim > 1:
            t.zero_()
        place(t, s, centred_windows(tuple(t.shape), tuple(s.shape), tuple(range(units)), None))


def place(target: Tensor, source: Tensor, windows: Windows) -> None:
    """Write one window of ``source`` into one of ``target``."""
    for rim in windows.silent:
        seen(target, rim).zero_()
    seen(target, windows.into).copy_(seen(source, windows.out_of))


def place_units(
    target: Tensor, source: Tensor, kind: str, move: Move, maps: Sequence[UnitMap], scale: Tensor | None = None
) -> None:
    """Write the units that a move's layout pairs, then what its pads ask for.

    The outputs that come from the source are silent but for what the source gives them, as in :func:`embed`. ``scale``
    is the source's layer scale that multiplies the outputs, by which a mean over them is weighed.
    """
    into, out_of = unit_places(target, source, move, maps)
    shares = {axis: copy_shares(move.layout[axis], maps) for axis, name in enumerate(move.pads) if name == "shared"}
    outputs = outputs_of(kind, move.target.role)
    inputs = [axis for axis in range(target.ndim) if axis != outputs and len(into[axis]) < target.shape[axis]]
    if outputs is not None and any(move.pads[axis : axis + 1] != ("fresh",) for axis in inputs):
        target.index_fill_(outputs, _on(target, into[outputs]), 0)
    step = max(1, _AT_ONCE * source.shape[0] // max(1, source.numel()))
    for start in range(0, len(into[0]), step):
        block = slice(start, start + step)
        values = take_units(source, [out_of[0][block], *out_of[1:]])
        for axis, share in shares.items():
            factors = torch.from_numpy(share[block] if axis == 0 else share).to(values)
            values = values * factors.view(*(-1 if a == axis else 1 for a in range(values.ndim)))
        places = [into[0][block], *into[1:]]
        plain = move.factor == 1 and not move.offset
        put_units(target, places, values if plain else values.to(target) * move.factor + move.offset)
    for axis, name in enumerate(move.pads):
        if name and name != "shared":
            PADS[name](target, axis, _on(target, into[axis]), scale)


# Elements of a tensor that are gathered at a time: what is gathered is held a second time.
_AT_ONCE = 1 << 18


def unit_places(target: Tensor, source: Tensor, move: Move, maps: Sequence[UnitMap]) -> tuple[list[Index], list[Index]]:
    """Return, for every axis, the places of the target that a move determines, and where they come from."""
    sizes = enumerate(zip(target.shape, source.shape, strict=True))
    pairs = [move_indices(move, axis, maps, both) for axis, both in sizes]
    return [into for into, _ in pairs], [out_of for _, out_of in pairs]


def take_units(source: Tensor, out_of: Sequence[Index]) -> Tensor:
    """Return the values of a source at places that are given axis by axis."""
    for axis, places in enumerate(out_of):
        source = _run(source, axis, places) if _is_run(places) else source.index_select(axis, _on(source, places))
    return source


def put_units(target: Tensor, into: Sequence[Index], values: Tensor) -> None:
    """Write values to the places of a target that are given axis by axis."""
    scattered = []
    for axis, places in enumerate(into):
        if _is_run(places):
            target = _run(target, axis, places)
        else:
            scattered.append(axis)
    if not scattered:
        target.copy_(values)
    elif len(scattered) == 1:
        target.index_copy_(scattered[0], _on(target, into[scattered[0]]), values.to(target))
    else:
        numbers = (into[axis] if axis in scattered else np.arange(size) for axis, size in enumerate(target.shape))
        target[torch.meshgrid(*(_on(target, one) for one in numbers), indexing="ij")] = values.to(target)


def _run(tensor: Tensor, axis: int, places: Index) -> Tensor:
    return tensor if len(places) == tensor.shape[axis] else tensor.narrow(axis, int(places[0]), len(places))


def _on(tensor: Tensor, places: Index) -> Tensor:
    return torch.from_numpy(places).to(tensor.device)


def _is_run(places: Index) -> bool:
    """Tell whether places follow each other without a gap."""
    size = len(places)
    return size > 0 and bool(places[-1] - places[0] == size - 1 and (places[1:] > places[:-1]).all())


def _mean(target: Tensor, axis: int, into: Tensor, scale: Tensor | None = None) -> None:
    rest, known = _rest(target, axis, into), target.index_select(axis, into)
    if scale is not None:
        known = known * scale.to(known).view(*(-1 if a == axis else 1 for a in range(target.ndim)))
    mean = known.mean(axis, keepdim=True)
    target.index_copy_(axis, rest, mean.expand(*(len(rest) if a == axis else n for a, n in enumerate(target.shape))))


def _zero(target: Tensor, axis: int, into: Tensor, scale: Tensor | None = None) -> None:
    target.index_fill_(axis, _rest(target, axis, into), 0)


def _one(target: Tensor, axis: int, into: Tensor, scale: Tensor | None = None) -> None:
    target.index_fill_(axis, _rest(target, axis, into), 1)


def _fresh(target: Tensor, axis: int, into: Tensor, scale: Tensor | None = None) -> None:
    """Nothing reaches these inputs, so they are left to learn."""


def _rest(target: Tensor, axis: int, into: Tensor) -> Tensor:
    left = torch.ones(target.shape[axis], dtype=torch.bool, device=target.device)
    left[into] = False
    return left.nonzero().flatten()


class Pad(Protocol):
    """Fills the units of an axis beyond those that the source determines.

    ``into`` are the places that it determines, ``scale`` weighs their units.
    """

    def __call__(self, target: Tensor, axis: int, into: Tensor, scale: Tensor | None = None) -> None: ...


#: What becomes of the units of an axis beyond those of the source, by name.
PADS: Mapping[str, Pad] = {
    "mean": _mean,
    "zero": _zero,
    "one": _one,
    "fresh": _fresh,
}


# Types whose memory is all theirs: a sharded tensor has no strides to speak of.
_PLAIN = (Tensor, nn.Parameter)


def along_outputs(scale: Tensor, tensor: Tensor, kind: str, move: Move) -> Tensor:
    """Return the values of a layer scale in the shape that multiplies the outputs of a tensor, or its only axis."""
    axis = outputs_of(kind, move.source.role) or 0
    return scale.reshape(*(-1 if one == axis else 1 for one in range(tensor.ndim)))


def part_of(tensor: Tensor, spec: TensorSpec) -> Tensor:
    """Return the view of a stored tensor that a layer sees: a part, a convolution as a matrix, transposed."""
    if spec.part is not None:
        tensor = tensor.narrow(spec.part.axis, spec.part.start, spec.part.stop - spec.part.start)
    if tensor.ndim != len(spec.shape):  # a convolution seen as a matrix, a layer scale (C, 1, 1) as a vector
        tensor = tensor.view(spec.shape)
    return tensor.t() if spec.transpose else tensor


def seen(tensor: Tensor, window: Window) -> Tensor:
    """Return the view of ``tensor`` through ``window``: in one step where it is contiguous, axis by axis elsewhere."""
    if not window.steps:
        return tensor
    if tensor.__class__ in _PLAIN and tensor.is_contiguous():
        return tensor.as_strided(window.shape, window.strides, tensor.storage_offset() + window.offset)
    for axis, start, length in window.steps:
        tensor = tensor.narrow(axis, start, length)
    return tensor


def _aligned(target: Tensor, source: Tensor, move: Move) -> tuple[Tensor, Tensor, tuple[int, ...], list[int]]:
    """Unfold the axes that hold whole units (heads, gates) on both sides, so that each factor is cut for itself.

    Returns both tensors, the unfolded axes that are aligned at their start, and how many axes each one became.
    """
    widths = [1] * target.ndim
    if move.target.units and move.source.units:
        for axis in reversed(range(target.ndim)):
            t, s = move.target.units[axis], move.source.units[axis]
            if len(t) == len(s) > 1 and prod(s) == source.shape[axis]:
                target, source = torch.unflatten(target, axis, t), torch.unflatten(source, axis, s)
                widths[axis] = len(t)
    starts = [sum(widths[:axis]) for axis in range(len(widths))]
    lead = tuple(starts[axis] + step for axis in move.lead for step in range(widths[axis]))
    return target, source, lead, widths


def _centred(target: int, source: int) -> tuple[slice, slice]:
    size = min(target, source)
    into, out_of = (target - size) // 2, (source - size) // 2
    return slice(into, into + size), slice(out_of, out_of + size)


#: What a plan puts before the name of an operator of the user's own.
CUSTOM = "custom: "

#: Operators by name.
OPERATORS: Mapping[str, Operator] = {
    "embed": embed,
    "clip": clip,
    "clip_normalized": clip_normalized,
    "full": full,
    "magnitude": magnitude,
    "leading": leading,
}

"""Operators: how the tensors of one layer are written into another (arXiv:2212.13970 appendices A.2 and B.8).

An operator receives the tensors of both layers by role, each already narrowed to its part and in the layer's own axis
order (``(out, in, kh, kw)`` for a convolution), and writes into the target's in place.
"""

from __future__ import annotations

__all__ = ["OPERATORS", "Operator", "clip", "clip_normalized", "embed", "full", "magnitude"]

from collections.abc import Mapping, Sequence
from math import prod
from typing import Protocol

import torch
from torch import Tensor

from torchgraft.kinds import input_axis, output_axis
from torchgraft.records import Move, Transfer

Tensors = Mapping[str, Tensor]


class Operator(Protocol):
    """Writes ``source`` into ``target``, both by role; draws, where it must, from ``generator``."""

    def __call__(self, target: Tensors, source: Tensors, transfer: Transfer, generator: torch.Generator) -> None: ...


def clip(target: Tensors, source: Tensors, transfer: Transfer, generator: torch.Generator) -> None:
    """Centre crop into centre crop, kernel included; the rim keeps the target's own values (appendix A.2)."""
    for move in transfer.moves:
        t, s = _aligned(target[move.target.role], source[move.target.role], move)
        slices = _slices(t, s, _unit_counts(target[move.target.role], t, move), move)
        t[tuple(a for a, _ in slices)].copy_(s[tuple(b for _, b in slices)])


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
        t, s = _aligned(target[move.target.role], source[move.target.role], move)
        widths = _unit_counts(target[move.target.role], t, move)
        slices = _slices(t, s, widths, move)
        into = tuple(a for a, _ in slices)
        if input_axis(transfer.kind, move.target.role) is not None and transfer.kind != "embedding":
            out = output_axis(transfer.kind, move.target.role) or 0
            first = sum(widths[:out])
            rows = [into[i] if first <= i < first + widths[out] else slice(None) for i in range(t.ndim)]
            if any(rows[i] != into[i] and t.shape[i] > s.shape[i] for i in range(t.ndim)):
                t[tuple(rows)].zero_()
        t[into].copy_(s[tuple(b for _, b in slices)])


def _aligned(target: Tensor, source: Tensor, move: Move) -> tuple[Tensor, Tensor]:
    """Unfold the axes that hold whole units (heads, gates) on both sides, so that each factor is cut for itself."""
    units = move.target.units, move.source.units
    if not units[0] or not units[1]:
        return target, source
    for axis in reversed(range(target.ndim)):
        t, s = units[0][axis], units[1][axis]
        if len(t) == len(s) > 1 and prod(s) == source.shape[axis]:
            target, source = torch.unflatten(target, axis, t), torch.unflatten(source, axis, s)
    return target, source


def _unit_counts(flat: Tensor, unfolded: Tensor, move: Move) -> Sequence[int]:
    """Number of unfolded axes that each axis of the stored tensor became."""
    if flat.ndim == unfolded.ndim:
        return [1] * flat.ndim
    pairs = zip(move.target.units, move.source.units, strict=True)
    return [len(t) if len(t) == len(s) else 1 for t, s in pairs]


def _slices(target: Tensor, source: Tensor, widths: Sequence[int], move: Move) -> list[tuple[slice, slice]]:
    """Where each unfolded axis is written and read; ``widths`` says how many of them each stored axis became."""
    lead = [number in move.lead for number, width in enumerate(widths) for _ in range(width)]
    sizes = zip(target.shape, source.shape, lead, strict=True)
    return [_leading(t, s) if leading else _centred(t, s) for t, s, leading in sizes]


def _centred(target: int, source: int) -> tuple[slice, slice]:
    size = min(target, source)
    into, out_of = (target - size) // 2, (source - size) // 2
    return slice(into, into + size), slice(out_of, out_of + size)


def _leading(target: int, source: int) -> tuple[slice, slice]:
    return (slice(0, min(target, source)),) * 2


#: Operators by name.
OPERATORS: Mapping[str, Operator] = {
    "embed": embed,
    "clip": clip,
    "clip_normalized": clip_normalized,
    "full": full,
    "magnitude": magnitude,
}

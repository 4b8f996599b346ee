"""The baselines' rules for one tensor: which source units the units of a wider or narrower target take.

Each is an operator of :mod:`torchgraft.transfer.operators`, so that every tensor of a layer, a batch norm's running
statistics too, follows the same rule. Every axis counts units but those of a convolution's kernel, which are cut, or
padded with zeros, around the centre, unless a rule says otherwise. The same sizes always take the same units, so that
layers which follow each other stay in step wherever their sizes agree.
"""

from __future__ import annotations

__all__ = ["centred_kernel", "cosine", "even_units", "evenly", "middle_units", "replicating", "tiled"]

from collections.abc import Callable, Iterator
from math import prod

import torch
from torch import Tensor
from torch.nn import functional

from torchgraft.kinds import input_axis
from torchgraft.records import Move, Transfer
from torchgraft.transfer.operators import Operator, Tensors


def centred_kernel(kernel: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Cut the last axes of ``kernel`` to ``sizes`` around the centre, or pad them with zeros.

    >>> centred_kernel(torch.arange(5.0), (3,)).tolist(), centred_kernel(torch.ones(1, 1, 1), (3, 3)).sum().item()
    ([1.0, 2.0, 3.0], 1.0)
    """
    pads: list[int] = []
    for have, want in reversed(list(zip(kernel.shape[kernel.ndim - len(sizes) :], sizes, strict=True))):
        before = (want - have) // 2 if want >= have else -((have - want) // 2)
        pads += [before, want - have - before]
    return functional.pad(kernel, pads) if any(pads) else kernel


def _pairs(target: Tensors, source: Tensors, transfer: Transfer) -> Iterator[tuple[Move, Tensor, Tensor]]:
    """Tensors to write and to read, the kernel of the latter already of the target's size."""
    for move in transfer.moves:
        t, s = target[move.target.role], source[move.target.role].to(target[move.target.role].device)
        yield move, t, centred_kernel(s, tuple(t.shape[len(_unit_axes(transfer, t)) :]))


def _unit_axes(transfer: Transfer, tensor: Tensor) -> range:
    """Axes that count units: all but those of a kernel."""
    return range(min(2, tensor.ndim) if transfer.kind.startswith("conv") else tensor.ndim)


def evenly(target: Tensors, source: Tensors, transfer: Transfer, generator: torch.Generator) -> None:
    """Weight selection: evenly spaced units of a larger source; a smaller one fills the first units of the target."""
    for _, t, s in _pairs(target, source, transfer):
        for axis in range(t.ndim):
            if s.shape[axis] > t.shape[axis]:
                s = s.index_select(axis, even_units(t.shape[axis], s.shape[axis]).to(s.device))
        _corner(t, s)


def even_units(count: int, available: int) -> Tensor:
    """Return ``count`` evenly spaced indices below ``available``: a stride where it divides, else rounded steps.

    >>> even_units(3, 9).tolist(), even_units(3, 8).tolist()
    ([0, 3, 6], [0, 4, 7])
    """
    if available % count == 0:
        return torch.arange(0, available, available // count)
    return torch.linspace(0, available - 1, count).round().long()


def tiled(target: Tensors, source: Tensors, transfer: Transfer, generator: torch.Generator) -> None:
    """Tile from the middle: the source in the centre of the target, repeated outwards until it is full."""
    for _, t, s in _pairs(target, source, transfer):
        for axis in _unit_axes(transfer, t):
            s = s.index_select(axis, middle_units(t.shape[axis], s.shape[axis]).to(s.device))
        _corner(t, s)


def middle_units(count: int, available: int) -> Tensor:
    """Return the source unit of each of ``count`` target units: the centre cut out, or repeated from the middle.

    >>> middle_units(6, 3).tolist(), middle_units(2, 4).tolist()
    ([2, 0, 1, 2, 0, 1], [1, 2])
    """
    if count <= available:
        return torch.arange(count) + (available - count) // 2
    return (torch.arange(count) - (count - available) // 2) % available


def cosine(target: Tensors, source: Tensors, transfer: Transfer, generator: torch.Generator) -> None:
    """Resize the whole tensor, kernel included, in the discrete cosine domain: cut high frequencies or pad with zeros.

    The orthonormal transform spreads a constant over the square root of the size: undone, so that values keep their
    level. A variance stays at least at the source's smallest.
    """
    from scipy.fft import dctn, idctn

    for move in transfer.moves:
        t, s = target[move.target.role], source[move.target.role]
        spectrum = torch.from_numpy(dctn(s.detach().cpu().double().numpy(), norm="ortho"))
        kept = torch.zeros(t.shape, dtype=torch.float64)
        _corner(kept, spectrum)
        value = torch.from_numpy(idctn(kept.numpy(), norm="ortho")) * (t.numel() / s.numel()) ** 0.5
        if move.target.role == "running_var":
            value = value.clamp_min(float(s.min()))
        t.copy_(value)


def replicating(seed: int, noise: float) -> Operator:
    """Net2WiderNet: further units copy random ones, and whoever reads them divides by the number of copies.

    The units that are copied depend on the two sizes alone, so that what one layer repeats the next one divides. Copies
    differ by normal ``noise``, in deviations of their tensor, so that training can tell them apart.
    """
    choose = _duplicates(seed)

    def net2net(target: Tensors, source: Tensors, transfer: Transfer, generator: torch.Generator) -> None:
        for move, t, s in _pairs(target, source, transfer):
            reads = None if transfer.kind == "embedding" else input_axis(transfer.kind, move.target.role)
            copies = torch.zeros(t.shape, dtype=torch.bool)
            for axis in _unit_axes(transfer, t):
                have, units = s.shape[axis], choose(t.shape[axis], s.shape[axis]).to(s.device)
                s = s.index_select(axis, units)
                if axis == reads:
                    number = torch.bincount(units)[units].to(s)
                    s = s / number.view(-1, *(1,) * (s.ndim - axis - 1))
                elif t.shape[axis] > have:
                    copies.narrow(axis, have, t.shape[axis] - have).fill_(True)
            t.copy_(s)
            if noise and t.ndim > 1:
                drawn = torch.randn(t.shape, generator=generator) * copies
                t.add_((drawn * noise * float(s.std(unbiased=False))).to(t))

    return net2net


def _duplicates(seed: int) -> Callable[[int, int], Tensor]:
    """Make the function that tells which source unit each of ``count`` target units copies, once for two sizes."""
    generator = torch.Generator().manual_seed(seed)
    known: dict[tuple[int, int], Tensor] = {}

    def choose(count: int, available: int) -> Tensor:
        key = count, available
        if key not in known:
            further = torch.randint(available, (max(0, count - available),), generator=generator)
            known[key] = torch.cat([torch.arange(min(count, available)), further])
        return known[key]

    return choose


def _corner(target: Tensor, source: Tensor) -> None:
    """Write as much of ``source`` as fits, from the first entry of every axis."""
    if prod(target.shape):
        window = tuple(slice(0, min(sizes)) for sizes in zip(target.shape, source.shape, strict=True))
        target[window].copy_(source[window])

"""One layer as several branches that compute it together (Cai et al. 2018, arXiv:1806.02639).

What a branch reads is the whole input (replicate) or a slice of its channels (split); what branches give is summed
(add) or put side by side (concat).
"""

from __future__ import annotations

__all__ = ["WAYS", "Branches", "Division", "divided"]

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import accumulate, pairwise
from operator import add
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import dropout, pooling
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from torchgraft.axes.shadow import copy_of
from torchgraft.errors import MorphError
from torchgraft.morph.edits.chain import is_activation


class Branches(nn.ModuleList):
    """Branches side by side, each a module of one tensor.

    Args:
        branches: the modules.
        sizes: channels that each of them reads; where there are none, every branch reads the whole input.
        merge: ``"add"``: the sum of what they give; ``"concat"``: their channels side by side.
        axis: of the channels.
        factors: what each output is multiplied by before it is added; none: by one.

    >>> Branches([nn.Identity(), nn.ReLU()], sizes=(2, 1), merge="concat")(torch.tensor([[-1.0, 2.0, -3.0]]))
    tensor([[-1.,  2.,  0.]])
    """

    def __init__(
        self,
        branches: Iterable[nn.Module],
        *,
        sizes: Sequence[int] = (),
        merge: str = "add",
        axis: int = 1,
        factors: Sequence[float] = (),
    ) -> None:
        super().__init__(branches)
        self.sizes, self.merge, self.axis, self.factors = tuple(sizes), merge, axis, tuple(factors)

    def forward(self, blob: Tensor) -> Tensor:
        """Return the sum, or the concatenation along the channels, of what the branches give."""
        reads = torch.split(blob, list(self.sizes), self.axis) if self.sizes else [blob] * len(self)
        made = [branch(reads[number]) for number, branch in enumerate(self)]
        if self.merge == "concat":
            return torch.cat(made, self.axis)
        if self.factors:
            made = [factor * one for factor, one in zip(self.factors, made, strict=True)]
        total: Tensor = reduce(add, made)
        return total

    def __repr__(self) -> str:
        return nn.Module.__repr__(self)

    def extra_repr(self) -> str:
        """Return what the branches read, and what becomes of their outputs."""
        told = f"allocate={'split' if self.sizes else 'replicate'}, merge={self.merge}"
        return told + (f", factors=({', '.join(f'{one:.3f}' for one in self.factors)})" if self.factors else "")


@dataclass(frozen=True, slots=True)
class Division:
    """How the layer at ``path`` is divided: the shapes that it ``read`` and ``gave`` in a run, and the ``shares``.

    There is one share for each branch; they add up to one.
    """

    path: str
    read: tuple[int, ...]
    gave: tuple[int, ...]
    shares: tuple[float, ...]

    def slices(self, count: int, what: str) -> list[tuple[int, int]]:
        """Return where each branch's part of ``count`` things starts and stops; parts differ by one at most."""
        parts = len(self.shares)
        if parts > count:
            raise MorphError(f"{self.path} has {count} {what}, too few for {parts} branches: give fewer parts")
        return list(pairwise(accumulate([count // parts + (n < count % parts) for n in range(parts)], initial=0)))


def divided(layer: nn.Module, division: Division, allocate: str, merge: str) -> Branches:
    """Return branches that together compute a layer.

    Args:
        layer: is copied. Any module can be replicated and added; the other ways need one of torch's own.
        division: among how many branches.
        allocate: ``"replicate"`` or ``"split"``: what a branch reads.
        merge: ``"add"`` or ``"concat"``: what becomes of their outputs.

    Raises:
        MorphError: such branches cannot compute the layer.
    """
    return WAYS[allocate, merge](layer, division)


def _replicate_add(layer: Any, division: Division) -> Branches:
    """Every branch is the layer times its share: in its weights where it is linear in them, else behind it."""
    made = [copy_of(layer) for _ in division.shares]
    if not _is_of(layer, _LINEAR_IN_WEIGHTS) or layer.weight is None:
        return Branches(made, factors=division.shares)
    for one, share in zip(made, division.shares, strict=True):
        _scale(one, share, "weight", "bias")
    return Branches(made)


def _replicate_concat(layer: Any, division: Division) -> Branches:
    """Every branch gives a slice of the outputs."""
    axis, (side, _), (count, _) = _axis(layer, division.gave), *_sides(layer, division.path)
    made = [copy_of(layer) for _ in division.shares]
    for one, part in zip(made, division.slices(division.gave[axis], "outputs"), strict=True):
        _cut(one, "weight", side, part)
        _cut(one, "bias", 0, part)
        vars(one)[count] = part[1] - part[0]
    return Branches(made, merge="concat", axis=axis)


def _split_add(layer: Any, division: Division) -> Branches:
    """Every branch reads a slice of the inputs."""
    axis, (_, side), (_, count) = _axis(layer, division.read), *_sides(layer, division.path)
    made = [copy_of(layer) for _ in division.shares]
    slices = division.slices(division.read[axis], "inputs")
    for one, part, share in zip(made, slices, division.shares, strict=True):
        _cut(one, "weight", side, part)
        _scale(one, share, "bias")
        vars(one)[count] = part[1] - part[0]
    return Branches(made, sizes=[stop - start for start, stop in slices], axis=axis)


def _split_concat(layer: Any, division: Division) -> Branches:
    """Every branch is the layer on a slice of the channels: whole groups, of a layer that has them."""
    axis = _axis(layer, division.read)
    channels = division.read[axis]
    groups = _groups(layer, channels, division.path)
    slices = [
        (start * channels // groups, stop * channels // groups) for start, stop in division.slices(groups, "groups")
    ]
    made = [copy_of(layer) for _ in slices]
    for one, (start, stop) in zip(made, slices, strict=True):
        for name in ("weight", "bias", "running_mean", "running_var"):
            held = getattr(one, name, None)
            if held is not None:
                rows = len(held)
                _cut(one, name, 0, (start * rows // channels, stop * rows // channels))
        for count in next((names for kind, names in _COUNTS.items() if isinstance(one, kind)), ()):
            vars(one)[count] = vars(one)[count] * (stop - start) // channels
    return Branches(made, sizes=[stop - start for start, stop in slices], merge="concat", axis=axis)


Way = Callable[[nn.Module, Division], Branches]

#: How branches that compute a layer are made: by allocation, then by merge.
WAYS: Mapping[tuple[str, str], Way] = {
    ("replicate", "add"): _replicate_add,
    ("replicate", "concat"): _replicate_concat,
    ("split", "add"): _split_add,
    ("split", "concat"): _split_concat,
}

#: Layers whose output is linear in their weight and bias.
_LINEAR_IN_WEIGHTS = (nn.Linear, _ConvNd, _NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)

#: Attributes of layers with groups that are as many as their channels, or a fraction of them.
_COUNTS: Mapping[type[nn.Module], tuple[str, ...]] = {
    _ConvNd: ("in_channels", "out_channels", "groups"),
    nn.GroupNorm: ("num_channels", "num_groups"),
    _NormBase: ("num_features",),
}

#: Layers without weights of which every channel is computed from itself.
_CHANNELWISE = (
    nn.Identity, dropout._DropoutNd, pooling._MaxPoolNd, pooling._AvgPoolNd, pooling._AdaptiveAvgPoolNd,
    pooling._AdaptiveMaxPoolNd, pooling._LPPoolNd,
)  # fmt: skip


def _is_of(layer: nn.Module, kinds: type[nn.Module] | tuple[type[nn.Module], ...]) -> bool:
    """Tell whether a layer is of torch's own kinds, and no subclass, hook or parametrization makes it another."""
    own = type(layer).__module__.startswith("torch.nn.modules.")
    return own and isinstance(layer, kinds) and not layer._forward_pre_hooks and not layer._forward_hooks


def _sides(layer: Any, path: str) -> tuple[tuple[int, int], tuple[str, str]]:
    """Return the axes of a dense layer's weight that count outputs and inputs, and the attributes that say how many.

    Raises:
        MorphError: it is none.
    """
    if _is_of(layer, nn.Linear):
        return (0, 1), ("out_features", "in_features")
    if type(layer).__name__ == "Conv1D" and hasattr(layer, "nf"):  # of transformers, stored (in, out)
        return (1, 0), ("nf", "nx")
    if _is_of(layer, _ConvNd) and layer.groups == 1:
        return (1, 0) if isinstance(layer, _ConvTransposeNd) else (0, 1), ("out_channels", "in_channels")
    raise MorphError(_refusal(layer, path))


def _groups(layer: Any, channels: int, path: str) -> int:
    """Return into how many parts the channels fall of which each is computed from itself.

    Raises:
        MorphError: into one.
    """
    groups = _own_groups(layer)
    if groups == 1:
        raise MorphError(_refusal(layer, path))
    return groups or channels


def _own_groups(layer: Any) -> int:
    """Return the groups of channels that a layer computes from themselves; 0 where that is every channel."""
    if _is_of(layer, _ConvNd):
        return int(layer.groups)
    if _is_of(layer, nn.GroupNorm):
        return int(layer.num_groups)
    return 0 if _is_of(layer, (_NormBase, *_CHANNELWISE)) or is_activation(layer) else 1


def _refusal(layer: Any, path: str) -> str:
    """Say why a layer cannot be divided so, and how it can be."""
    copies, slices = "allocate='replicate' with merge='add'", "allocate='split' with merge='concat'"
    what = f"{path} ({type(layer).__name__})"
    if _own_groups(layer) != 1:
        return f"every output of {what} is computed from its own channel or group alone: use {slices}, or {copies}"
    dense = _is_of(layer, (nn.Linear, _ConvNd))
    return f"every output of {what} depends on all of its inputs: use {copies if not dense else _DENSE}"


_DENSE = "allocate='replicate', or merge='add'"


def _axis(layer: nn.Module, shape: tuple[int, ...]) -> int:
    """Return the axis of the channels: the second one of images and batch norms, the last one of rows of tokens."""
    spatial = re.search(r"([123])d$", type(layer).__name__)
    if isinstance(layer, _NormBase | nn.GroupNorm):
        return 1
    if spatial:
        axis = -1 - int(spatial[1])
    else:
        tokens = len(shape) < 4 or isinstance(layer, nn.Linear) or type(layer).__name__ == "Conv1D"
        axis = -1 if tokens else 1
    return 1 if len(shape) + axis == 1 else axis


def _scale(layer: Any, share: float, *names: str) -> None:
    with torch.no_grad():
        for name in names:
            if getattr(layer, name, None) is not None:
                getattr(layer, name).mul_(share)


def _cut(layer: Any, name: str, axis: int, part: tuple[int, int]) -> None:
    """Leave of a tensor the places from the first to the one before the second."""
    held = getattr(layer, name, None)
    if held is not None:
        kept = held.detach().narrow(axis, part[0], part[1] - part[0]).clone()
        setattr(layer, name, nn.Parameter(kept, held.requires_grad) if isinstance(held, nn.Parameter) else kept)

"""What is done to a source tensor before it is placed: resampled, tiled over new inputs, sorted by a label map.

Resampling is timm's: a position embedding, a table of relative positions and a patch kernel are pictures of a grid,
and cropping one would move every position.
"""

from __future__ import annotations

__all__ = ["PREPARATIONS", "Preparation", "check_available"]

from collections.abc import Iterable, Mapping
from importlib import import_module
from math import isqrt
from typing import Any, Protocol

import torch
from torch import Tensor

from torchgraft.errors import ApplyError, SpecError
from torchgraft.io.vision import import_torchvision
from torchgraft.records import Move

Labels = tuple[tuple[int, int], ...]


class Preparation(Protocol):
    """Returns the source tensor in the form in which the operator places it."""

    def __call__(self, source: Tensor, target: Tensor, move: Move, labels: Labels) -> Tensor: ...


def select_labels(source: Tensor, target: Tensor, move: Move, labels: Labels) -> Tensor:
    """Sort the rows of a classifier by the label map ``target row -> source row``; unmapped rows stay the target's."""
    out_of = source.shape[0]
    wrong = [pair for pair in labels if not (0 <= pair[0] < target.shape[0] and 0 <= pair[1] < out_of)]
    if wrong:
        raise ApplyError(
            f"the label map pairs target row {wrong[0][0]} with source row {wrong[0][1]}, but {move.target.key} has "
            f"{target.shape[0]} rows and {move.source.key} has {out_of}"
        )
    sizes = [min(t, s) for t, s in zip(target.shape[1:], source.shape[1:], strict=True)]
    rows = target[(slice(None), *(_centre(t, n) for t, n in zip(target.shape[1:], sizes, strict=True)))].clone()
    kept = source[(slice(None), *(_centre(s, n) for s, n in zip(source.shape[1:], sizes, strict=True)))]
    into, origin = torch.tensor([pair[0] for pair in labels]), torch.tensor([pair[1] for pair in labels])
    rows[into] = kept[origin].to(rows)
    return rows


def _centre(size: int, kept: int) -> slice:
    start = (size - kept) // 2
    return slice(start, start + kept)


def tile_inputs(source: Tensor, target: Tensor, move: Move, labels: Labels) -> Tensor:
    """Change the number of input channels of the first convolution as timm does, keeping the response's magnitude.

    One channel sums all of the source's; more channels repeat them, rescaled by ``source / target`` channels.
    """
    have, want = source.shape[1], target.shape[1]
    if want == 1:
        return source.sum(1, keepdim=True)
    tiled = source.repeat(1, -(-want // have), *(1 for _ in source.shape[2:]))[:, :want]
    return tiled * (have / want)


def resample_position(source: Tensor, target: Tensor, move: Move, labels: Labels) -> Tensor:
    """Resample a position embedding ``(1, prefix + side * side, width)`` to another square grid."""
    from_side, to_side = isqrt(source.shape[1]), isqrt(target.shape[1])
    prefix = source.shape[1] - from_side**2, target.shape[1] - to_side**2
    function = _timm("pos_embed", "resample_abs_pos_embed", move)
    grid = function(source[:, prefix[0] :].float(), [to_side, to_side], [from_side, from_side], num_prefix_tokens=0)
    tokens = torch.zeros(1, prefix[1], source.shape[2], device=source.device)  # a further token stands nowhere yet
    shared = min(prefix)
    tokens[:, :shared] = source[:, :shared]
    return torch.cat([tokens, grid], 1)


def resample_relative(source: Tensor, target: Tensor, move: Move, labels: Labels) -> Tensor:
    """Resample a table of relative positions ``((2 h - 1) * (2 w - 1), heads)`` to another square window."""
    side = isqrt(target.shape[0])
    function = _timm("pos_embed_rel", "resize_rel_pos_bias_table", move)
    table: Tensor = function(source.float(), ((side + 1) // 2,) * 2, (target.shape[0], source.shape[1]))
    return table


def resample_patch(source: Tensor, target: Tensor, move: Move, labels: Labels) -> Tensor:
    """Resample a patch kernel ``(out, in, h, w)`` to another patch size (FlexiViT, arXiv:2212.08013)."""
    function = _timm("patch_embed", "resample_patch_embed", move)
    kernel: Tensor = function(source.float(), list(target.shape[2:]))
    return kernel


def _timm(module: str, function: str, move: Move) -> Any:
    try:
        import_torchvision()
        return getattr(import_module(f"timm.layers.{module}"), function)
    except (SpecError, ImportError):
        raise ApplyError(
            f"{move.target.key} is resampled with timm, which is not installed: pip install torchgraft[zoo]"
        ) from None


def check_available(moves: Iterable[Move]) -> None:
    """Raise an :class:`~torchgraft.errors.ApplyError` where a move needs timm and timm is not installed."""
    for move in moves:
        if any(name.startswith("resample") for name in move.prepare):
            _timm("pos_embed", "resample_abs_pos_embed", move)
            return


#: Preparations by name, in the order in which a plan lists them.
PREPARATIONS: Mapping[str, Preparation] = {
    "select_labels": select_labels,
    "tile_inputs": tile_inputs,
    "resample_patch": resample_patch,
    "resample_position": resample_position,
    "resample_relative": resample_relative,
}

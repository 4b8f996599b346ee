"""What is done to a source tensor before it is placed: resampled, tiled over new inputs, sorted by a label map.

Resampling is timm's: a position embedding, a table of relative positions and a patch kernel are pictures of a grid,
and cropping one would move every position.
"""

from __future__ import annotations

__all__ = ["PREPARATIONS", "Preparation", "check_available", "class_axis", "mapped_rows"]

import warnings
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
    """Pick the source's rows by the label map ``target row -> source row``, in the order of :func:`mapped_rows`."""
    return source.index_select(class_axis(move), torch.tensor([pair[1] for pair in labels], device=source.device))


def mapped_rows(target: Tensor, move: Move, labels: Labels) -> tuple[int, Tensor]:
    """Return the axis of the classes and the target's rows that the label map fills; all others keep their values."""
    return class_axis(move), torch.tensor([pair[0] for pair in labels], device=target.device)


def class_axis(move: Move) -> int:
    """Axis of the classes in a head's tensor."""
    return move.lead[0] if move.lead else 0


def tile_inputs(source: Tensor, target: Tensor, move: Move, labels: Labels) -> Tensor:
    """Change the number of input channels of the first convolution as timm does, keeping the response's magnitude.

    One channel sums all of the source's; more channels repeat them, rescaled by ``source / target`` channels.
    """
    have, want = source.shape[1], target.shape[1]
    wide = _widened(source)
    if want == 1:
        return wide.sum(1, keepdim=True)
    tiled = wide.repeat(1, -(-want // have), *(1 for _ in source.shape[2:]))[:, :want]
    return tiled * (have / want)


def _widened(source: Tensor) -> Tensor:
    """Half precisions are summed and interpolated in single precision, as timm does."""
    return source if source.is_complex() or source.dtype == torch.float64 else source.float()


def resample_position(source: Tensor, target: Tensor, move: Move, labels: Labels) -> Tensor:
    """Resample a position embedding ``(1, prefix + side * side, width)``, or one of rank 2, to another square grid."""
    if source.ndim == 2:
        return resample_position(source[None], target[None], move, labels)[0]
    from_side, to_side = isqrt(source.shape[1]), isqrt(target.shape[1])
    prefix = source.shape[1] - from_side**2, target.shape[1] - to_side**2
    function = _timm("pos_embed", "resample_abs_pos_embed", move)
    grid = function(source[:, prefix[0] :].float(), [to_side, to_side], [from_side, from_side], num_prefix_tokens=0)
    tokens = torch.zeros(1, prefix[1], source.shape[2], device=source.device)  # a further token stands nowhere yet
    shared = min(prefix)
    tokens[:, :shared] = source[:, :shared]
    return torch.cat([tokens, grid], 1)


def resample_plane(source: Tensor, target: Tensor, move: Move, labels: Labels) -> Tensor:
    """Resample a position embedding ``(1, h, w, width)`` or ``(1, width, h, w)`` to another square grid."""
    function = _timm("pos_embed", "resample_abs_pos_embed_nhwc", move)
    channels_first = source.shape[1] != source.shape[2]
    side = target.shape[2]
    plane: Tensor = source.float().permute(0, 2, 3, 1) if channels_first else source.float()
    plane = function(plane, [side, side])
    return plane.permute(0, 3, 1, 2) if channels_first else plane


def resample_relative(source: Tensor, target: Tensor, move: Move, labels: Labels) -> Tensor:
    """Resample a table of relative positions ``((2 h - 1) * (2 w - 1) + extra, heads)`` to another square window."""
    side = isqrt(target.shape[0])
    function = _timm("pos_embed_rel", "resize_rel_pos_bias_table", move)
    with warnings.catch_warnings():  # its interpolator indexes by lists, which torch warns of
        warnings.simplefilter("ignore", UserWarning)
        table: Tensor = function(source.float(), ((side + 1) // 2,) * 2, (target.shape[0], source.shape[1]))
    return table


def resample_patch(source: Tensor, target: Tensor, move: Move, labels: Labels) -> Tensor:
    """Resample a patch kernel ``(out, in, h, w)`` to another patch size (FlexiViT, arXiv:2212.08013)."""
    function = _timm("patch_embed", "resample_patch_embed", move)
    kernel: Tensor = function(source.float(), list(target.shape[2:]))
    return kernel


def share_slope(source: Tensor, target: Tensor, move: Move, labels: Labels) -> Tensor:
    """Give the one slope of a PReLU to every channel, or the mean of theirs to the one."""
    return source.mean(0, keepdim=True) if target.shape[0] == 1 else source.expand(target.shape)


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
    "resample_plane": resample_plane,
    "resample_relative": resample_relative,
    "share_slope": share_slope,
}

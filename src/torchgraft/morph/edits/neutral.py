"""New layers that change nothing: identities, antisymmetric pairs, residual blocks with a zero at their end."""

from __future__ import annotations

__all__ = ["NEUTRAL", "Residual", "default_kind", "odd"]

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from torchgraft.errors import MorphError
from torchgraft.morph.activation import Blend
from torchgraft.morph.edits.chain import is_idempotent, pair_factor
from torchgraft.morph.normalization import identity_norm

_CONVOLUTIONS: tuple[type[nn.Module], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Residual(nn.Module):
    """``x + body(x)``.

    >>> bool((Residual(nn.Identity())(torch.ones(2)) == 2).all())
    True
    """

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, blob: Tensor) -> Tensor:
        """Return the sum, for a tensor of any shape that the body keeps."""
        changed: Tensor = self.body(blob)
        return blob + changed


def default_kind(function: nn.Module) -> str:
    """Return the kind of new layer that a function lets be exact: the one that looks most like the layers around it."""
    return "identity" if is_idempotent(function) else "pair" if pair_factor(function) else "residual"


#: Makes new layers by kind: of a layer like ``layer``, with a norm like ``norm`` and the activation ``function``.
Maker = Callable[[nn.Module, nn.Module | None, nn.Module], list[nn.Module]]


def _identity(layer: nn.Module, norm: nn.Module | None, function: nn.Module) -> list[nn.Module]:
    if not is_idempotent(function):
        raise MorphError(f"an identity behind {function} would be changed by the next one: use {_others(function)}")
    return [*_plain(layer, norm), copy.deepcopy(function)]


def _blend(layer: nn.Module, norm: nn.Module | None, function: nn.Module) -> list[nn.Module]:
    return [*_plain(layer, norm), Blend(copy.deepcopy(function))]


def _plain(layer: nn.Module, norm: nn.Module | None) -> list[nn.Module]:
    """Return an identity, with a batch norm that is one where the layer has one."""
    made = _like(layer, _width(layer), _width(layer), bias=getattr(layer, "bias", None) is not None)
    _centre(made, torch.eye(_width(layer), dtype=torch.float64))
    if not isinstance(norm, _BatchNorm):
        return [made]
    count = torch.zeros(_width(layer), dtype=torch.float64)
    return [made, identity_norm("batchnorm", _dims(layer), count, count + 1)]


def _pair(layer: nn.Module, norm: nn.Module | None, function: nn.Module) -> list[nn.Module]:
    factor = pair_factor(function)
    if not factor:
        raise MorphError(f"{function}(x) - {function}(-x) is no multiple of x: use kind='residual' or kind='blend'")
    width = _width(layer)
    up, down = (_like(layer, a, b, dense=True) for a, b in ((width, 2 * width), (2 * width, width)))
    unit = torch.eye(width, dtype=torch.float64)
    _centre(up, torch.cat([unit, -unit]))
    _centre(down, torch.cat([unit, -unit], 1) / factor)
    return [up, copy.deepcopy(function), down]


def _residual(layer: nn.Module, norm: nn.Module | None, function: nn.Module) -> list[nn.Module]:
    width = _width(layer)
    first, last = (_like(layer, width, width, dense=True) for _ in range(2))
    _centre(last, torch.zeros(width, width))
    return [Residual(nn.Sequential(first, copy.deepcopy(function), last))]


#: Kinds of new layers that change nothing, by name.
NEUTRAL: Mapping[str, Maker] = {"identity": _identity, "pair": _pair, "residual": _residual, "blend": _blend}


def _others(function: nn.Module) -> str:
    return "kind='pair', 'residual' or 'blend'" if pair_factor(function) else "kind='residual' or 'blend'"


def _dims(layer: nn.Module) -> int:
    weight = _weight(layer)
    return weight.dim() - 2


def _weight(layer: nn.Module) -> Tensor:
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, Tensor) or not 2 <= weight.dim() <= 5 or isinstance(layer, nn.Embedding):
        raise MorphError(f"{type(layer).__name__} is no convolution and no linear layer: give the path of one")
    return weight


def _width(layer: Any) -> int:
    """Return how many units a layer gives."""
    for name in ("out_channels", "out_features", "nf"):
        if isinstance(getattr(layer, name, None), int):
            return int(getattr(layer, name))
    return _weight(layer).shape[0]


def _like(layer: Any, inputs: int, outputs: int, bias: bool = True, dense: bool = False) -> nn.Module:
    """Return a layer of the same sort that keeps the places: stride one, an odd kernel, as much padding as it takes.

    In float64 until it stands in the model, so that what is computed for it is rounded once.
    """
    dims = _dims(layer)
    if dims == 0:
        return nn.Linear(inputs, outputs, bias, dtype=torch.float64)
    window = tuple(odd(size) for size in layer.kernel_size)
    groups = layer.groups if not dense and inputs == outputs and inputs % layer.groups == 0 else 1
    mode = layer.padding_mode if layer.padding_mode != "reflect" else "zeros"
    return _CONVOLUTIONS[dims - 1](
        inputs,
        outputs,
        window,
        padding=tuple(size // 2 for size in window),
        groups=groups,
        bias=bias,
        padding_mode=mode,
        dtype=torch.float64,
    )


def odd(size: int) -> int:
    """Return the size of a new layer's kernel behind one of this size: three, or one where it has no centre.

    >>> odd(5), odd(1), odd(4)
    (3, 1, 1)
    """
    return min(size, 3) if size % 2 else 1


@torch.no_grad()
def _centre(layer: Any, matrix: Tensor) -> None:
    """Give a layer a matrix at the centre of its kernel, and zeros elsewhere; of groups, their blocks."""
    layer.weight.zero_()
    groups = getattr(layer, "groups", 1)
    blocks = torch.stack([
        part[:, number * part.shape[1] // groups : (number + 1) * part.shape[1] // groups]
        for number, part in enumerate(matrix.chunk(groups))
    ]).flatten(0, 1)  # fmt: skip
    centre = (slice(None), slice(None), *(size // 2 for size in layer.weight.shape[2:]))
    layer.weight[centre] = blocks.to(layer.weight.dtype)
    if layer.bias is not None:
        layer.bias.zero_()

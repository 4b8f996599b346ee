"""Runs of a model in float64 throughout, also where its code asks for less."""

from __future__ import annotations

__all__ = ["Precise"]

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

_REAL = (torch.float16, torch.bfloat16, torch.float32)


class Precise(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Compute in float64 what asks for a smaller type: norms that cast to float32, tables of angles."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._grouped_mm.default:
            return _grouped_product(*args[:3], **(kwargs or {}))
        args, kwargs = tree_map_only(torch.dtype, _wide, (tuple(args), kwargs or {}))
        if func.namespace == "aten" and func.overloadpacket in _MATCHED:
            args, kwargs = tree_map_only(Tensor, _double, (args, kwargs))
        return func(*args, **kwargs)


# Operators that do not mix types.
_MATCHED = frozenset((
    torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.bmm, torch.ops.aten.baddbmm, torch.ops.aten.convolution,
    torch.ops.aten.native_layer_norm, torch.ops.aten.native_group_norm, torch.ops.aten.grid_sampler_2d,
    torch.ops.aten.dot, torch.ops.aten.mv, torch.ops.aten.lerp,
))  # fmt: skip


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype in _REAL else torch.complex128 if dtype == torch.complex64 else dtype


def _double(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.dtype in _REAL else tensor


def _grouped_product(x: Tensor, weights: Tensor, ends: Tensor, **_: Any) -> Tensor:
    """Rows ``x (n, in)`` in turn through ``weights (experts, in, out)``: torch knows no such product in float64."""
    made = x.new_zeros((x.shape[0], weights.shape[-1]))
    start = 0
    for weight, end in zip(weights, ends.tolist(), strict=True):
        made[start:end] = x[start:end] @ weight
        start = end
    return made

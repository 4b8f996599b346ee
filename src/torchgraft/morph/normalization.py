"""Batch normalization that changes nothing in eval mode, and as little as its statistics allow in train mode."""

from __future__ import annotations

__all__ = ["NORMALIZATIONS", "BatchNorm", "calibrate", "identity_norm"]

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from torchgraft.errors import MorphError, choose

_CLASSES: Mapping[int, type[BatchNorm]] = {0: nn.BatchNorm1d, 1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


def _batch_norm(dims: int, mean: Tensor, variance: Tensor) -> nn.Module:
    norm = _CLASSES[dims](len(mean), dtype=mean.dtype)
    variance = torch.where(variance > 0, variance, torch.ones_like(variance))
    with torch.no_grad():
        norm.running_mean.copy_(mean)  # type: ignore[union-attr]
        norm.running_var.copy_(variance)  # type: ignore[union-attr]
        norm.weight.copy_((variance + norm.eps).sqrt())
        norm.bias.copy_(mean)
    return norm


#: Normalizations of a blob, by name: they take its spatial axes and the mean and variance of its channels.
NORMALIZATIONS: Mapping[str, Callable[[int, Tensor, Tensor], nn.Module]] = {"batchnorm": _batch_norm}


def identity_norm(name: str, dims: int, mean: Tensor, variance: Tensor) -> nn.Module:
    """Return a norm with these statistics whose gain and bias undo it: gain = sqrt(variance + eps), bias = mean."""
    return choose(NORMALIZATIONS, name, "normalization")(dims, mean, variance)


def calibrate(module: nn.Module, *inputs: Any) -> int:
    """Give every batch norm of ``module``, in place, the statistics of what it reads on ``inputs``; return how many.

    Gain and bias are changed so that the function in eval mode stays the same. On a batch like ``inputs`` train mode
    then computes it, too. Raises :class:`MorphError` for a batch norm that keeps no statistics or has no gain.

    >>> norm = nn.BatchNorm1d(2).eval()
    >>> blob = torch.tensor([[1.0, 2.0], [3.0, 6.0]])
    >>> before = norm(blob)
    >>> calibrate(norm, blob), norm.running_mean, torch.allclose(norm(blob), before, atol=1e-6)
    (1, tensor([2., 4.]), True)
    """
    norms = [child for child in module.modules() if isinstance(child, BatchNorm)]
    for norm in norms:
        if norm.running_mean is None or norm.weight is None:
            raise MorphError("a batch norm without statistics or gain cannot be calibrated: make it with both")
    seen: dict[BatchNorm, tuple[Tensor, Tensor]] = {}

    def look(norm: nn.Module, blobs: tuple[Tensor, ...]) -> None:
        blob = blobs[0].detach()
        axes = tuple(axis for axis in range(blob.dim()) if axis != 1)
        variance, mean = torch.var_mean(blob, axes, correction=0)
        assert isinstance(norm, BatchNorm)
        seen[norm] = mean, variance

    hooks = [norm.register_forward_pre_hook(look) for norm in norms]
    modes = [(child, child.training) for child in module.modules()]
    try:
        with torch.no_grad():
            module.eval()(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
        for child, training in modes:
            child.training = training
    for norm, (mean, variance) in seen.items():
        _restate(norm, mean, variance)
    return len(seen)


@torch.no_grad()
def _restate(norm: BatchNorm, mean: Tensor, variance: Tensor) -> None:
    assert norm.running_mean is not None and norm.running_var is not None
    slope = norm.weight / (norm.running_var + norm.eps).sqrt()
    norm.bias.add_(slope * (mean - norm.running_mean))
    norm.weight.copy_(slope * (variance + norm.eps).sqrt())
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)

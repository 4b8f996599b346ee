"""Copies of a model that can be run without harm: without values on the meta device, or with them."""

from __future__ import annotations

__all__ = ["plain_operators", "shadow_of"]

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel


def shadow_of(module: nn.Module, values: bool = False) -> nn.Module:
    """Return a copy in eval mode, on the meta device unless ``values`` are asked for; tied tensors stay tied."""
    memo: dict[int, Any] = {}
    if not values:
        for tensor in _tensors(module):
            if id(tensor) not in memo:
                hollow = torch.empty_like(tensor, device="meta")
                memo[id(tensor)] = nn.Parameter(hollow, False) if isinstance(tensor, nn.Parameter) else hollow
    return copy.deepcopy(module, memo).eval()


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()
    for part in module.modules():
        for value in vars(part).values():  # tensors that are plain attributes, alone or in a row
            if isinstance(value, Tensor):
                yield value
            elif isinstance(value, list | tuple):
                yield from (one for one in value if isinstance(one, Tensor))


@contextmanager
def plain_operators() -> Iterator[None]:
    """Keep torch from fusing what has rules into what has none."""
    fast, onednn = torch.backends.mha.get_fastpath_enabled(), torch._C._get_mkldnn_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    torch._C._set_mkldnn_enabled(False)  # its public switch warns of another setting
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        torch._C._set_mkldnn_enabled(onednn)

"""Models as the commands read and write them."""

from __future__ import annotations

__all__ = ["opened", "some", "state_of"]

from collections.abc import Sequence

import torch
from torch import nn

import torchgraft
from torchgraft.cli.terminal import say
from torchgraft.errors import SpecError, listed
from torchgraft.io import resolve, resolve_source

_NAMED = 4  # how many tensors a line names before it says "and N more"


def opened(source: str, factory: str | None, seed: int, loose: bool) -> tuple[str, nn.Module]:
    """Return the source as a module with its weights."""
    origin = resolve_source(source, factory, seed=seed, allow_nonfinite=loose)
    if origin.table is None:
        assert origin.module is not None
        return origin.name, origin.module
    if factory is None:
        raise SpecError(f"{source} has weights but no code to run: name its model, as in --source timm:resnet50")
    module = resolve(factory, role="target", seed=seed).module
    assert module is not None
    torchgraft.transfer(origin.table, module, factory=factory, allow_nonfinite=loose)
    return origin.name, module


def state_of(module: nn.Module, name: str) -> dict[str, torch.Tensor]:
    """Return the tensors of the state dict; the objects that a module may put there have no place in the format."""
    state = module.state_dict()
    left = [key for key, value in state.items() if not isinstance(value, torch.Tensor)]
    if left:
        say("warning", f"{name} keeps objects in its state dict that safetensors cannot hold, left out: {some(left)}")
    return {key: value for key, value in state.items() if key not in left}


def some(names: Sequence[str]) -> str:
    return listed(names, _NAMED)

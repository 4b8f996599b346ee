"""Weights that a module computes from other tensors (``torch.nn.utils.parametrize``): read them, and write through them."""

from __future__ import annotations

__all__ = ["computed_value", "is_determined", "renew_estimates", "set_computed", "unsettable"]

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

# Spectral norm keeps estimates of its singular vectors; so many iterations make them when it is registered.
_POWER_ITERATIONS = 15
_ESTIMATES = ("_u", "_v")


def computed_value(module: nn.Module, key: str) -> Tensor:
    """Return the tensor that ``module`` computes at ``key``, without advancing what its parametrization counts.

    >>> layer = torch.nn.utils.parametrizations.weight_norm(nn.Linear(2, 3))
    >>> computed_value(layer, "weight").shape
    torch.Size([3, 2])
    """
    path, _, name = key.rpartition(".")
    part = module.get_submodule(path)
    with torch.no_grad(), _mode(_parametrizations(module, key), False):
        value = getattr(part, name)
    assert isinstance(value, Tensor)
    return value.detach()


def set_computed(module: nn.Module, key: str, value: Tensor) -> None:
    """Give a computed tensor a value, through the inverses of its parametrizations as far as they have one.

    One without an inverse counts as the identity, as where torch registers it: a low-rank update starts at zero. A
    spectral norm estimates its singular vectors anew, for those of another weight would scale this one by chance.
    """
    chain = _parametrizations(module, key)
    assert chain is not None
    with torch.no_grad():
        inverse: Any = value
        for part in list(chain.children())[::-1]:
            right_inverse: Any = getattr(part, "right_inverse", None)
            if right_inverse is not None:
                try:
                    inverse = right_inverse(inverse)
                except NotImplementedError:  # torch registers such a parametrization as the identity, too
                    continue
        if isinstance(inverse, Tensor):
            chain.original.copy_(inverse)
        else:
            for number, tensor in enumerate(inverse):
                getattr(chain, f"original{number}").copy_(tensor)
        renew_estimates(chain)


def renew_estimates(chain: ParametrizationList) -> None:
    """Estimate the singular vectors of a spectral norm anew, by as many iterations as torch takes at first."""
    if any(name in part._buffers for part in chain.children() for name in _ESTIMATES):
        with torch.no_grad(), _mode(chain, True):
            for _ in range(_POWER_ITERATIONS):
                chain()


def unsettable(module: nn.Module, key: str) -> bool:
    """Tell whether a computed tensor cannot be written: it has several originals and no inverse that gives them."""
    chain = _parametrizations(module, key)
    return chain is None or (
        not chain.is_tensor and not any(hasattr(part, "right_inverse") for part in chain.children())
    )


def is_determined(stored: str) -> bool:
    """Tell whether setting a computed tensor sets ``stored``, the end of a key behind it: an original or an estimate."""
    return stored.startswith("original") or stored.endswith(tuple(f".{name}" for name in _ESTIMATES))


def _parametrizations(module: nn.Module, key: str) -> ParametrizationList | None:
    path, _, name = key.rpartition(".")
    chains = module.get_submodule(path)._modules.get("parametrizations")
    chain = chains._modules.get(name) if chains is not None else None
    return chain if isinstance(chain, ParametrizationList) else None


@contextmanager
def _mode(chain: nn.Module | None, training: bool) -> Iterator[None]:
    """Put every module of ``chain`` into training or evaluation mode, and back."""
    parts = list(chain.modules()) if chain is not None else []
    before = [part.training for part in parts]
    for part in parts:
        part.training = training
    try:
        yield
    finally:
        for part, mode in zip(parts, before, strict=True):
            part.training = mode

"""Weights that a module computes from other tensors: read them, and write through them.

Parametrizations (``torch.nn.utils.parametrize``) and the hooks that torch used before them
(``weight_g`` and ``weight_v`` of a weight norm, ``weight_orig`` of a spectral norm or a pruned layer).
"""

from __future__ import annotations

__all__ = [
    "combined",
    "computed_value",
    "determined_keys",
    "needs_code",
    "renew_estimates",
    "set_computed",
    "unsettable",
]

from collections.abc import Callable, Collection, Iterator
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
    chain = _parametrizations(module, key)
    with torch.no_grad(), _mode(chain, False):
        value = getattr(part, name) if chain is not None else combined(lambda one: _tensor(module, one), key)
    if not isinstance(value, Tensor):
        raise AttributeError(f"there is no tensor {key}, stored or computed")
    return value.detach()


def combined(load: Callable[[str], Tensor | None], key: str) -> Tensor | None:
    """Compute a weight from the tensors stored behind it, which ``load`` gives by key (``None`` for none)."""
    path, _, name = key.rpartition(".")
    chain = f"{path}.parametrizations.{name}." if path else f"parametrizations.{name}."
    for gain, direction in ((f"{key}_g", f"{key}_v"), (f"{chain}original0", f"{chain}original1")):
        g, v = load(gain), load(direction)
        if g is not None and v is not None:
            axis = next((axis for axis, size in enumerate(g.shape) if size > 1), 0) if g.ndim else -1
            return torch._weight_norm(v, g, axis)
    for original, stem in ((f"{key}_orig", f"{key}_"), (f"{chain}original", f"{chain}0._")):
        value = load(original)
        if value is not None:
            u, v, mask = load(f"{stem}u"), load(f"{stem}v"), load(f"{stem}mask")
            if u is not None and v is not None:
                matrix = value.flatten(1) if value.shape[0] == u.numel() else value.transpose(0, 1).flatten(1)
                return value / torch.dot(u, torch.mv(matrix, v))
            return value if mask is None else value * mask
    return None


def set_computed(module: nn.Module, key: str, value: Tensor) -> None:
    """Give a computed tensor a value, through the inverses of its parametrizations as far as they have one.

    One without an inverse counts as the identity, as where torch registers it: a low-rank update starts at zero. A
    spectral norm estimates its singular vectors anew, for those of another weight would scale this one by chance.
    """
    chain = _parametrizations(module, key)
    if chain is None:
        _set_hooked(module, key, value)
        return
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


def _set_hooked(module: nn.Module, key: str, value: Tensor) -> None:
    gain, direction, original = (_tensor(module, f"{key}_{end}") for end in ("g", "v", "orig"))
    with torch.no_grad():
        if original is not None:
            original.copy_(value)
        elif gain is not None and direction is not None:
            direction.copy_(value)
            axes = [axis for axis in range(value.ndim) if not gain.ndim or gain.shape[axis] == 1]
            gain.copy_(torch.linalg.vector_norm(value, dim=axes, keepdim=bool(gain.ndim)))
    path, _, name = key.rpartition(".")
    part = module.get_submodule(path)
    for hook in part._forward_pre_hooks.values():
        compute: Any = getattr(hook, "compute_weight", None)
        if compute is not None and getattr(hook, "name", None) == name and f"{name}_u" in part._buffers:
            for _ in range(_POWER_ITERATIONS):
                compute(part, do_power_iteration=True)


def renew_estimates(chain: ParametrizationList) -> None:
    """Estimate the singular vectors of a spectral norm anew, by as many iterations as torch takes at first."""
    if any(name in part._buffers for part in chain.children() for name in _ESTIMATES):
        with torch.no_grad(), _mode(chain, True):
            for _ in range(_POWER_ITERATIONS):
                chain()


def unsettable(module: nn.Module, key: str) -> bool:
    """Tell whether a computed tensor cannot be written: it has several originals and no inverse that gives them."""
    chain = _parametrizations(module, key)
    if chain is None:
        return _tensor(module, f"{key}_orig") is None and _tensor(module, f"{key}_g") is None
    return not chain.is_tensor and not any(hasattr(part, "right_inverse") for part in chain.children())


def determined_keys(key: str, stored: Collection[str]) -> list[str]:
    """Return the keys among ``stored`` that setting the computed tensor at ``key`` sets: its originals and estimates.

    >>> determined_keys("0.weight", ["0.bias", "0.weight_g", "0.weight_v"])
    ['0.weight_g', '0.weight_v']
    """
    path, _, name = key.rpartition(".")
    prefix = f"{path}.parametrizations.{name}." if path else f"parametrizations.{name}."
    hooked = {f"{key}_{end}" for end in ("g", "v", "orig", "u")}
    estimates = tuple(f".{name}" for name in _ESTIMATES)
    return [
        one
        for one in stored
        if one in hooked
        or (one.startswith(prefix) and (one.startswith(f"{prefix}original") or one.endswith(estimates)))
    ]


def needs_code(key: str, stored: Collection[str]) -> bool:
    """Tell whether the tensor at ``key`` depends on more than :func:`combined` knows of, a low-rank update say."""
    path, _, name = key.rpartition(".")
    prefix = f"{path}.parametrizations.{name}." if path else f"parametrizations.{name}."
    behind = {one.removeprefix(prefix) for one in stored if one.startswith(prefix)}
    return not any(behind <= known for known in ({"original0", "original1"}, {"original", "0._u", "0._v"}))


def _tensor(module: nn.Module, key: str) -> Tensor | None:
    """The parameter or buffer at ``key``, ``None`` where there is none."""
    path, _, name = key.rpartition(".")
    try:
        part = module.get_submodule(path)
    except AttributeError:
        return None
    found = part._parameters.get(name)
    return found if found is not None else part._buffers.get(name)


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

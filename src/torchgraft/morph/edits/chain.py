"""What runs behind a module: its norm, and its activation."""

from __future__ import annotations

__all__ = [
    "Chain",
    "chain_behind",
    "is_idempotent",
    "is_identity",
    "pair_factor",
    "regular_blocks",
    "shapes_at",
]

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from torchgraft.axes.runs import architecture
from torchgraft.axes.shadow import called, ours, plain_operators, shadow_of
from torchgraft.errors import MorphError, RunError
from torchgraft.fingerprint import Look, look_of
from torchgraft.morph.edits.draft import Draft
from torchgraft.recent import Recent


@dataclass(frozen=True, slots=True)
class Chain:
    """The paths of the ``norm`` and the ``activation`` behind a module, empty where there is none.

    ``last`` is the last module before the activation; ``alone``: the activation is a module that runs once.
    ``function`` is a copy of it, ``None`` where none is found.
    """

    last: str
    norm: str = ""
    activation: str = ""
    function: nn.Module | None = None
    alone: bool = False


Values = tuple[tuple[int, int, int], ...]


@dataclass(slots=True)
class _Calls:
    """The calls of modules in a run, by what they read and gave, and the shapes of that.

    A value is the memory of a tensor, how often it was written, and how much of it is seen: however it is laid out. All
    stay alive until the run is over, so that none is taken for another one.
    """

    made: list[tuple[str, Values, Values]] = field(default_factory=list)
    shapes: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    begun: list[Values] = field(default_factory=list)
    alive: list[Any] = field(default_factory=list)


# The calls in runs before, by architecture.
_KEPT = Recent[tuple[Look, Look], _Calls](32)


def _calls(draft: Draft) -> _Calls:
    """Run the source and note the calls of its modules; without values, what was found is kept by architecture."""
    values = not any(isinstance(leaf, Tensor) and leaf.is_meta for leaf in tree_leaves(draft.inputs))
    key = None if values else architecture(look_of(draft.source), *draft.inputs)
    kept = _KEPT.get(key) if key is not None else None
    if kept is not None:
        return kept
    shadow, calls = shadow_of(draft.source, values), _Calls()
    for path, part in shadow.named_modules():
        if not isinstance(part, torch.jit.ScriptModule):
            part.register_forward_pre_hook(partial(_begin, calls))
            part.register_forward_hook(partial(_note, calls, path))
    try:
        with torch.no_grad(), plain_operators():
            called(shadow, *draft.inputs)
    except RunError:  # nothing is known of it then
        calls = _Calls()
    calls.alive.clear()
    if key is not None:
        _KEPT[key] = calls
    return calls


@ours
def _begin(calls: _Calls, module: nn.Module, given: Any) -> None:
    calls.begun.append(_values(given, calls))


@ours
def _note(calls: _Calls, path: str, module: nn.Module, given: Any, result: Any) -> None:
    tensors = [[leaf for leaf in tree_leaves(one) if isinstance(leaf, Tensor)] for one in (given, result)]
    calls.made.append((path, calls.begun.pop(), _values(result, calls)))
    if all(tensors):
        calls.shapes[path] = tuple(tensors[0][0].shape), tuple(tensors[1][0].shape)


def _values(held: Any, calls: _Calls) -> Values:
    tensors = [leaf for leaf in tree_leaves(held) if isinstance(leaf, Tensor)]
    bases = [tensor if tensor._base is None else tensor._base for tensor in tensors]
    calls.alive.extend(bases)
    return tuple((id(base), one._version, one.numel()) for base, one in zip(bases, tensors, strict=True))


def chain_behind(draft: Draft, path: str) -> Chain:
    """Return what stands behind the module at ``path``, as far as modules tell; functions are found in the run."""
    parts = dict(draft.source.named_modules(remove_duplicate=False))
    single = {name for name, part in parts.items() if _is_norm(part) or not any(part.children())}
    calls = [call for call in _calls(draft).made if call[0] == path or call[0] in single]
    place = next((number for number, call in enumerate(calls) if call[0] == path), None)
    chain = Chain(path)
    if place is None:
        return chain
    values = set(calls[place][2])
    for name, given, result in calls[place + 1 :]:
        if not values.intersection(given[:1]):
            continue
        module = parts[name]
        alone = sum(call[0] == name for call in calls) == 1
        if not chain.norm and _is_norm(module):
            inner = next((part for part in module.children() if is_activation(part) and not is_identity(part)), None)
            if inner is not None:  # timm's norms hold their activation
                return Chain(name, name, name, inner, alone)
            chain = Chain(name, name)
        elif is_identity(module):
            chain = Chain(name, chain.norm)
        elif is_activation(module):
            return Chain(chain.last, chain.norm, name, module, alone)
        else:
            break
        values = set(result)
    after = next((link.after for link in draft.source_groups.links if link.weight == f"{path}.weight"), "")
    return Chain(chain.last, chain.norm, "", _FUNCTIONS[after]() if after in _FUNCTIONS else None)


def _is_norm(module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower()


# Functions of a run as modules of the same kind.
_FUNCTIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "hardswish": nn.Hardswish,
    "softplus": nn.Softplus,
    "leaky_relu": nn.LeakyReLU,
    "hardtanh": nn.ReLU6,
    "tanh": nn.Tanh,
    "elu": nn.ELU,
    "mish": nn.Mish,
}


def regular_blocks(draft: Draft, path: str) -> tuple[str, ...]:
    """Return the children of the module at ``path`` that give what they read in the same shape, in order."""
    prefix = f"{path}." if path else ""
    names = [prefix + name for name in draft.source.get_submodule(path)._modules]
    shapes = _calls(draft).shapes
    return tuple(name for name in names if name in shapes and shapes[name][0] == shapes[name][1])


def shapes_at(draft: Draft, path: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the shapes of the first tensors that the module at ``path`` reads and gives.

    Raises:
        MorphError: it does not run, or takes no tensor by its place.
    """
    shapes = _calls(draft).shapes
    if path not in shapes:
        raise MorphError(f"{path or 'the model'} is not run with a tensor: give the path of a module that is")
    read, gave = shapes[path]
    return tuple(map(int, read)), tuple(map(int, gave))


_GRID = torch.linspace(-7.0, 7.0, 1001, dtype=torch.float64)
_EQUAL = 1e-12


def _on_grid(module: nn.Module, values: Tensor) -> Tensor | None:
    """Return what a module without weights makes of a row of numbers, ``None`` where it takes none."""
    if next(module.parameters(), None) is not None or next(module.buffers(), None) is not None:
        return None
    try:
        with torch.no_grad():
            found = module(values.clone())
    except Exception:  # any module may refuse a row of numbers: then it is no function of single numbers
        return None
    return found if isinstance(found, Tensor) and found.shape == values.shape else None


def is_identity(module: nn.Module) -> bool:
    """Tell whether a module gives what it reads; dropout does, for what edits are about."""
    found = None if module.training and "drop" in type(module).__name__.lower() else _on_grid(module, _GRID)
    return "drop" in type(module).__name__.lower() or (found is not None and bool((found == _GRID).all()))


def is_activation(module: nn.Module) -> bool:
    """Tell whether a module is a function of single numbers: measured, so that a library's own ones are known too."""
    whole, part = _on_grid(module, _GRID), _on_grid(module, _GRID[100:300])
    return whole is not None and part is not None and torch.allclose(whole[100:300], part, rtol=0, atol=_EQUAL)


def is_idempotent(function: nn.Module) -> bool:
    """Tell whether a function leaves what it has made as it is.

    >>> is_idempotent(nn.ReLU6()), is_idempotent(nn.GELU())
    (True, False)
    """
    once = _on_grid(function, _GRID)
    again = None if once is None else _on_grid(function, once)
    return once is not None and again is not None and bool((once == again).all())


def pair_factor(function: nn.Module) -> float:
    """Return ``c`` where ``f(x) - f(-x) = c·x``, else 0.

    >>> pair_factor(nn.GELU()), pair_factor(nn.LeakyReLU(0.5)), pair_factor(nn.Mish())
    (1.0, 1.5, 0.0)
    """
    up, down = _on_grid(function, _GRID), _on_grid(function, -_GRID)
    if up is None or down is None:
        return 0.0
    factor = round(float((up - down) @ _GRID / (_GRID @ _GRID)), 12)
    return factor if torch.allclose(up - down, factor * _GRID, rtol=0, atol=_EQUAL) else 0.0

"""What the run of a model depends on beside its values, as something that can be compared and looked up."""

from __future__ import annotations

__all__ = ["UnknownError", "fingerprint"]

import enum
import types
import weakref
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


class UnknownError(Exception):
    """Something that cannot be compared by what it holds."""


_PLAIN = (int, float, complex, str, bytes, bool, type(None), torch.Size, torch.dtype, torch.device, torch.layout,
          torch.memory_format, enum.Enum, type, types.BuiltinFunctionType, types.CodeType, types.ModuleType, range,
          slice, PurePath, np.dtype, np.ufunc, type(Ellipsis), types.GenericAlias, types.UnionType)  # fmt: skip
# What nn.Module keeps in every instance; hooks count where there are any.
_IDLE = frozenset(("training", "_is_full_backward_hook", "call_super_init", "_parameters", "_buffers", "_modules"))


def fingerprint(value: Any) -> tuple[Any, ...]:
    """Return what a run depends on: of modules their classes, attributes, tensor shapes and uses in several places.

    Two fingerprints are equal where two modules compute alike but for the values of their tensors.

    Args:
        value: a module, or arguments of a run.

    Raises:
        UnknownError: something in it cannot be compared.
    """
    found: list[Any] = []
    walk = _Walk(found)
    if isinstance(value, nn.Module):
        walk.know(value)
    walk.add(value)
    return tuple(found)


class _Walk:
    """Writes one flat row; what was met before is written as its number."""

    def __init__(self, found: list[Any]) -> None:
        self._found = found
        self._seen: dict[int, int] = {}
        self._alive: list[Any] = []  # so that no identity is given to something else meanwhile

    def know(self, module: nn.Module) -> None:
        """Number the parameters and buffers, of which an attribute may hold more references (``nn.LSTM``)."""
        for tensor in (*module.parameters(), *module.buffers()):
            self._seen.setdefault(id(tensor), len(self._seen))

    def add(self, value: Any) -> None:
        kind = value.__class__
        if kind in _DIRECT:
            self._found += (kind, value)
            return
        if isinstance(value, type):
            self._found.append(_class(value))
            return
        if isinstance(value, _PLAIN):
            self._found += (kind, value)
            return
        if kind is tuple:  # equal ones may or may not be one object
            self._found.append(kind)
            self._row(value)
            return
        number = self._seen.get(id(value))
        if number is not None:
            self._found += ("met", number)
            return
        self._seen[id(value)] = len(self._seen)
        self._alive.append(value)
        self._found.append(_class(kind))
        self._inside(value)

    def _inside(self, value: Any) -> None:
        if isinstance(value, nn.Module):
            self._module(value)
        elif isinstance(value, Tensor):
            self._found += (value.shape, value.dtype, _values(value))
        elif isinstance(value, weakref.ref):
            self.add(value())
        elif isinstance(value, np.ndarray):
            self._found += (value.shape, value.dtype, value.tobytes())
        elif isinstance(value, Mapping):
            self._row([part for pair in value.items() for part in pair])
        elif isinstance(value, list | tuple):
            self._row(value)
        elif isinstance(value, set | frozenset):
            self._row(sorted(value, key=repr))
        elif callable(value) and isinstance(value, types.FunctionType | types.MethodType | partial):
            self._function(value)
        else:
            self._object(value)

    def _object(self, value: Any) -> None:
        names = [name for kind in type(value).__mro__ for name in _slots(kind) if hasattr(value, name)]
        if not names and not hasattr(value, "__dict__"):
            raise UnknownError(f"{type(value).__name__} cannot be compared")
        held = {name: getattr(value, name) for name in names} | getattr(value, "__dict__", {})
        self._row([part for pair in held.items() for part in pair])

    def _row(self, values: Iterable[Any]) -> None:
        values = list(values)
        self._found.append(len(values))
        for one in values:
            self.add(one)

    def _function(self, value: Callable[..., Any]) -> None:
        if isinstance(value, partial):
            self._row((value.func, value.args, value.keywords))
        elif isinstance(value, types.MethodType):
            self._row((value.__func__, value.__self__))
        elif isinstance(value, types.FunctionType):
            cells = [cell.cell_contents for cell in value.__closure__ or ()]
            self._row((value.__code__, value.__defaults__, value.__kwdefaults__, cells))

    def _module(self, module: nn.Module) -> None:
        found = self._found
        for name, value in vars(module).items():
            if name in _IDLE or (name[0] == "_" and not value and isinstance(value, dict | set)):
                continue
            found.append(name)
            if "_hooks" in name and isinstance(value, dict):
                self._row([] if "state_dict" in name else value.values())  # their keys count all hooks ever made
            else:
                self.add(value)
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                found.append(name)
                self._tensor(tensor)
            found.append(len(tensors))
        for name, child in module._modules.items():
            found.append(name)
            self.add(child)
        found.append(len(module._modules))

    def _tensor(self, tensor: Tensor | None) -> None:
        if tensor is None:
            self._found.append(None)
            return
        number = self._seen.setdefault(id(tensor), len(self._seen))
        self._found += (number, tensor.shape, tensor.dtype)


_DIRECT = frozenset((int, float, str, bool, type(None), torch.Size, torch.dtype))
_FEW = 4096


def _class(kind: type) -> Any:
    """A parametrized module has a class of its own, made from the one that it had before."""
    return ("parametrized", kind.__bases__) if kind.__module__ == "torch.nn.utils.parametrize" else kind


def _slots(kind: type) -> Iterable[str]:
    names = kind.__dict__.get("__slots__", ())
    return (name for name in ((names,) if isinstance(names, str) else names) if not name.startswith("__"))


def _values(tensor: Tensor) -> object:
    """A tensor that is a plain attribute may decide the way of a run."""
    if tensor.is_meta:
        return None
    if tensor.numel() > _FEW or tensor.layout != torch.strided:
        raise UnknownError("a large tensor among the attributes")
    return tuple(tensor.detach().flatten().tolist())

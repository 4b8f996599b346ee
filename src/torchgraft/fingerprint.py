"""What a model is beside its values, as something that can be compared and looked up."""

from __future__ import annotations

__all__ = ["LAZY", "Look", "UnknownError", "fingerprint", "look_of", "uniform"]

import enum
import types
import weakref
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import chain
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

Look = tuple[Any, ...]


class UnknownError(Exception):
    """Something that cannot be compared by what it holds."""


_PLAIN = (int, float, complex, str, bytes, bool, type(None), torch.Size, torch.dtype, torch.device, torch.layout,
          torch.memory_format, enum.Enum, type, types.BuiltinFunctionType, types.CodeType, types.ModuleType, range,
          slice, PurePath, np.dtype, np.ufunc, type(Ellipsis), types.GenericAlias, types.UnionType)  # fmt: skip
# Of these, equal values of one type are the same.
_DIRECT = frozenset((int, float, str, bool, type(None), torch.Size, torch.dtype))
_FLAT = _DIRECT | {tuple}
_FEW = 4096

# Tensors of lazy modules, which have no shape before the first forward pass. Asked for by class: their own isinstance
# runs in Python, at a microsecond a tensor.
LAZY = (UninitializedParameter, UninitializedBuffer)

# What nn.Module keeps in every instance, before its own attributes. Those between the first and the last that are not
# idle are hooks, and the names of buffers that are not stored: they count where there are any.
_STANDARD = tuple(vars(nn.Module()))
_IDLE = frozenset(("training", "_is_full_backward_hook", "_parameters", "_buffers", "_modules"))
_COUNTING = tuple(name for name in _STANDARD if name not in _IDLE)
_FIRST, _LAST = _STANDARD.index(_COUNTING[0]), _STANDARD.index(_COUNTING[-1]) + 1
_OWN = len(_STANDARD)


def look_of(value: Any) -> Look | None:
    """Return the fingerprint of a module or of arguments, ``None`` where something in it cannot be compared."""
    try:
        return fingerprint(value)
    except (UnknownError, RecursionError):  # the attributes of a model may be nested as deeply as they like
        return None


def fingerprint(value: Any) -> Look:
    """Return what a run depends on: of modules their classes, attributes, tensor shapes and uses in several places.

    Two fingerprints are equal where two modules compute alike but for the values of their tensors; of buffers that are
    not stored, it counts where they hold the same for all units.

    Args:
        value: a module, or arguments of a run.

    Raises:
        UnknownError: something in it cannot be compared.
    """
    found: list[Any] = []
    _Walk(found).add(value)
    return tuple(found)


class _Walk:
    """Writes one flat row; what was met before is written as its number."""

    def __init__(self, found: list[Any]) -> None:
        self._found = found
        self._seen: dict[int, int] = {}
        self._alive: list[Any] = []  # so that no identity is given to something else meanwhile

    def add(self, value: Any) -> None:
        kind = value.__class__
        if kind in _DIRECT:
            self._found += (kind, value)
        elif kind is tuple:  # equal ones may or may not be one object
            self._found.append(kind)
            self._row(value)
        elif kind is list:
            self._once(value, kind)
        elif isinstance(value, nn.Module):
            self._tree(value)
        elif isinstance(value, type):
            self._found.append(_class(value))
        elif isinstance(value, _PLAIN):
            self._found += (kind, value)
        else:
            self._once(value, kind)

    def _once(self, value: Any, kind: type) -> None:
        number = self._seen.get(id(value))
        if number is not None:
            self._found += ("met", number)
            return
        self._seen[id(value)] = len(self._seen)
        self._alive.append(value)
        self._found.append(_class(kind))
        self._inside(value)

    def _inside(self, value: Any) -> None:
        if isinstance(value, list | tuple):
            self._row(value)
        elif isinstance(value, Tensor):
            self._found += (value.shape, value.dtype, _values(value))
        elif isinstance(value, weakref.ref):
            self.add(value())
        elif isinstance(value, np.ndarray):
            self._found += (value.shape, value.dtype, value.tobytes())
        elif isinstance(value, Mapping):
            self._row([part for pair in value.items() for part in pair])
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
            cells = [_content(cell) for cell in value.__closure__ or ()]
            self._row((value.__code__, value.__defaults__, value.__kwdefaults__, cells))

    def _tree(self, root: nn.Module) -> None:
        """Write a module and all inside it: thousands of attributes, so they are gathered, and written in one go.

        They come last, since they may hold parameters once more (``nn.LSTM``), which are numbered by then.
        """
        found, seen = self._found, self._seen
        values: list[Any] = []
        stack: list[nn.Module | None] = [root]
        while stack:
            part = stack.pop()
            number = len(seen)
            if part is None or seen.setdefault(id(part), number) != number:
                found.append(None if part is None else seen[id(part)])
                continue
            held = vars(part)
            names, row = tuple(held), list(held.values())
            parameters, buffers, children = held["_parameters"], held["_buffers"], held["_modules"]
            kind = _class(part.__class__) if "parametrizations" in children else part.__class__
            found += (kind, len(names), len(parameters), len(buffers), len(children))
            usual = names[:_OWN] == _STANDARD
            if usual:
                found += names[_OWN:]
                values += row[_OWN:]
            if not usual or any(row[_FIRST:_LAST]):
                self._odd(held, usual, values)
            for name, tensor in (*parameters.items(), *buffers.items()) if parameters or buffers else ():
                if tensor is None:
                    found += (name, None)
                elif tensor.__class__ in LAZY:
                    raise UnknownError(f"{name} has no shape yet")
                else:
                    found += (name, seen.setdefault(id(tensor), len(seen)), tensor.shape, tensor.dtype)
            if children:
                found += children
                stack += children.values()
        self._values(values)

    def _odd(self, held: dict[str, Any], usual: bool, values: list[Any]) -> None:
        """Write what few modules have: hooks, buffers that are not stored, attributes that stand before torch's own."""
        own = {} if usual else {name: value for name, value in held.items() if name not in _STANDARD}
        some = [name for name in _COUNTING if held.get(name)]
        self._found.append((*own, "", *some))
        values += own.values()
        for name in some:
            if name == "_non_persistent_buffers_set":
                buffers = sorted(held[name])
                values += (tuple(buffers), tuple(uniform(held["_buffers"].get(one)) for one in buffers))
            elif "state_dict" not in name:
                values.append(tuple(held[name].values()))  # their keys count all hooks ever made

    def _values(self, values: list[Any]) -> None:
        """Write values, those first that are what they look like."""
        kinds: list[Any] = list(map(type, values))
        inner = list(map(type, chain.from_iterable(value for value in values if value.__class__ is tuple)))
        flat = _DIRECT.issuperset(inner)
        others = [place for place, kind in enumerate(kinds) if kind not in (_FLAT if flat else _DIRECT)]
        left = [values[place] for place in others]
        for place in others:
            kinds[place] = values[place] = None
        self._found += (len(values), *kinds, *values, *(inner if flat else ()))
        for value in left:
            self.add(value)


def _class(kind: type) -> Any:
    """A parametrized module has a class of its own, made from the one that it had before."""
    return ("parametrized", kind.__bases__) if kind.__module__ == "torch.nn.utils.parametrize" else kind


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a name that has no value yet
        return None


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


def uniform(tensor: Tensor | None) -> tuple[tuple[bool, ...], float | None]:
    """Tell along which axes a tensor holds the same for all units, which then have no place, and what it holds.

    The second is the value that all of it has, ``None`` where it has several.

    >>> uniform(torch.tensor([[1.0, 2.0, 1.0], [1.0, 2.0, 1.0]])), uniform(torch.zeros(2))
    (((True, False), None), ((True,), 0.0))
    """
    if tensor is None or tensor.is_meta or not tensor.numel() or tensor.is_complex() or tensor.layout != torch.strided:
        return (), None
    axes = tuple(_repeats(tensor, axis) for axis in range(tensor.ndim))
    return axes, float(tensor.flatten()[0]) if all(axes) else None


def _repeats(tensor: Tensor, axis: int) -> bool:
    first = tensor.narrow(axis, 0, 1)
    # The last unit tells of nearly all others that they differ.
    return torch.equal(first, tensor.narrow(axis, -1, 1)) and bool((tensor == first).all())

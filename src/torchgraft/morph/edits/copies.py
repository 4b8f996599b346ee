"""Deep copies of models, as ``copy.deepcopy`` makes them, without its cost for every attribute of every module."""

from __future__ import annotations

__all__ = ["copied"]

import copy
from collections import OrderedDict
from typing import Any

from torch import nn

from torchgraft.errors import MorphError, brief

# Values that a copy shares.
_SHARED = frozenset((int, float, complex, bool, str, bytes, type(None), type, type(Ellipsis)))
# How a class may ask to be copied otherwise; torch's own only fill in what older files lack.
_OWN_WAYS = ("__deepcopy__", "__reduce__", "__reduce_ex__", "__getstate__", "__getnewargs_ex__", "__getnewargs__")


def copied(model: nn.Module) -> nn.Module:
    """Return a deep copy of a model; tied tensors and shared modules stay so.

    Raises:
        MorphError: something that it holds cannot be copied.

    >>> layer = nn.Linear(2, 2)
    >>> one = copied(nn.Sequential(layer, layer))
    >>> one[0] is one[1], one[0] is layer, bool((one[0].weight == layer.weight).all())
    (True, False, True)
    """
    try:
        made: nn.Module = _copied(model, {})
    except Exception as error:  # what a model holds may refuse it: a file, a lock, a tensor that was computed
        raise MorphError(f"{type(model).__name__} cannot be copied ({brief(error)})") from error
    return made


def _copied(module: Any, memo: dict[int, Any]) -> Any:
    known = memo.get(id(module))
    if known is not None:
        return known
    kind: Any = type(module)
    if not _is_plain(kind):
        return copy.deepcopy(module, memo)
    made = memo[id(module)] = kind.__new__(kind)
    held = vars(made)
    for name, value in vars(module).items():
        if type(value) in _SHARED:
            held[name] = value
        elif name == "_modules":
            held[name] = type(value)(
                (key, part if part is None else _copied(part, memo)) for key, part in value.items()
            )
        elif type(value) is OrderedDict and not value:  # tables of hooks
            held[name] = memo[id(value)] = OrderedDict()
        else:
            held[name] = copy.deepcopy(value, memo)
    return made


def _is_plain(kind: Any) -> bool:
    """Tell whether a class is copied as any module is: attribute by attribute."""
    if any(getattr(kind, name, None) is not getattr(nn.Module, name, None) for name in _OWN_WAYS):
        return False
    return "__slots__" not in vars(kind) and kind.__new__ is object.__new__

"""Copies of a model that can be run without harm, and their runs, in which its faults are told from ours."""

from __future__ import annotations

__all__ = ["called", "copy_of", "hollow", "in_order", "ours", "plain_operators", "shadow_of"]

import copy
import copyreg
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from itertools import chain
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from torchgraft.errors import GraftError, RunError, brief

P = ParamSpec("P")
T = TypeVar("T")


# Values that a copy shares.
_SHARED = frozenset((int, float, complex, bool, str, bytes, type(None), type, type(Ellipsis)))
# What a module keeps its parts, hooks and names in.
_TABLES = frozenset((dict, OrderedDict, set))
# How a class may ask to be copied otherwise.
_OWN_WAYS = ("__deepcopy__", "__reduce__", "__reduce_ex__", "__getstate__", "__getnewargs_ex__", "__getnewargs__")


class _OwnError(BaseException):
    """Carries an error of our own through a model's code, which no ``except Exception`` of that may catch."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


def ours(function: Callable[P, T]) -> Callable[P, T]:
    """Mark a function that runs while a model runs (a hook, a dispatch mode): what it raises is no fault of the model.

    To be run by :func:`called`.
    """

    @wraps(function)
    def marked(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            raise _OwnError(error) from error

    return marked


def called(module: nn.Module, arguments: Sequence[Any], options: Mapping[str, Any]) -> Any:
    """Run a model.

    Args:
        module: run as it is.
        arguments: positional ones.
        options: keyword arguments.

    Raises:
        RunError: the model's own code failed; what it raised is the ``__cause__``.
        Exception: whatever a function marked by :func:`ours` raised meanwhile.
    """
    try:
        return module(*arguments, **options)
    except _OwnError as error:
        raise error.error from None
    except Exception as error:
        raise RunError(f"{type(module).__name__} failed with {brief(error)}") from error


def copy_of(module: nn.Module, made: Callable[[Tensor], Tensor] | None = None) -> nn.Module:
    """Return a deep copy whose tensors, plain attributes too, are what ``made`` makes of them; tied ones stay tied.

    The copy is that of ``copy.deepcopy``, without its cost for every attribute of every module.

    Args:
        module: left as it is.
        made: called once with every tensor; tensors are copied as they are where there is none.

    Raises:
        GraftError: the model cannot be copied.

    >>> layer = nn.Linear(2, 2)
    >>> one = copy_of(nn.Sequential(layer, layer))
    >>> one[0] is one[1], one[0] is layer, bool((one[0].weight == layer.weight).all())
    (True, False, True)
    """
    memo: dict[int, Any] = {}
    try:
        if made is not None:
            for tensor in _tensors(module):
                if id(tensor) not in memo:
                    value = made(tensor.detach())
                    memo[id(tensor)] = nn.Parameter(value, False) if isinstance(tensor, nn.Parameter) else value
        return _copied(module, memo)
    except Exception as error:  # what a model holds may refuse it: a file, a lock, a tensor that was computed
        raise GraftError(f"{type(module).__name__} cannot be copied ({brief(error)})") from error


def _copied(module: Any, memo: dict[int, Any]) -> nn.Module:
    """Copy a module and those inside it; ``memo`` is that of ``copy.deepcopy``."""
    known: nn.Module | None = memo.get(id(module))
    if known is not None:
        return known
    kind: Any = type(module)
    if not _is_plain(kind):
        return copy.deepcopy(module, memo)  # type: ignore[no-any-return]
    made = memo[id(module)] = kind.__new__(kind)
    state = module.__getstate__()
    for name, value in state.items():
        if type(value) in _SHARED:
            continue
        if name == "_modules" and type(value) in _TABLES:
            state[name] = memo[id(value)] = type(value)()
            state[name].update((key, part if part is None else _copied(part, memo)) for key, part in value.items())
        elif type(value) in _TABLES and not value:  # most hold no hook
            state[name] = memo[id(value)] = type(value)()
        else:
            state[name] = copy.deepcopy(value, memo)
    made.__setstate__(state)
    return made  # type: ignore[no-any-return]


def _is_plain(kind: Any) -> bool:
    """Tell whether a class is copied as any module is: attribute by attribute."""
    if any(getattr(kind, name, None) is not getattr(nn.Module, name, None) for name in _OWN_WAYS):
        return False
    return kind.__new__ is object.__new__ and kind not in copyreg.dispatch_table


def shadow_of(module: nn.Module, values: bool = False) -> nn.Module:
    """Return a copy in eval mode, on the meta device unless ``values`` are asked for; tied tensors stay tied.

    Raises:
        GraftError: the model cannot be copied.
    """
    return copy_of(module, None if values else hollow).eval()


def hollow(tensor: Tensor) -> Tensor:
    """Return a tensor without values, on the meta device, that is otherwise alike."""
    return torch.empty_like(tensor, device="meta")


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    for part in module.modules():
        own = part._parameters.values(), part._buffers.values(), vars(part).values()
        for value in chain.from_iterable(own):  # plain attributes may be tensors too, alone or in a row
            if isinstance(value, Tensor):
                yield value
            elif isinstance(value, list | tuple):
                yield from (one for one in value if isinstance(one, Tensor))


def in_order(_: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
    """Make what a linear layer reads contiguous: else it runs as a product of batches, not with its weight."""
    return tuple(one.contiguous() if isinstance(one, Tensor) else one for one in given)


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

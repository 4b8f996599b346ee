"""Copies of a model that can be run without harm, and their runs, in which its faults are told from ours."""

from __future__ import annotations

__all__ = ["called", "copy_of", "hollow", "ours", "plain_operators", "shadow_of"]

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from torchgraft.errors import GraftError, RunError, brief

P = ParamSpec("P")
T = TypeVar("T")


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

    Args:
        module: left as it is.
        made: called once with every tensor; tensors are copied as they are where there is none.

    Raises:
        GraftError: the model cannot be copied.
    """
    memo: dict[int, Any] = {}
    try:
        for tensor in () if made is None else _tensors(module):
            if made is not None and id(tensor) not in memo:
                value = made(tensor.detach())
                memo[id(tensor)] = nn.Parameter(value, False) if isinstance(tensor, nn.Parameter) else value
        return copy.deepcopy(module, memo)
    except Exception as error:  # what a model holds may refuse it: a file, a lock, a tensor that was computed
        raise GraftError(f"{type(module).__name__} cannot be copied ({brief(error)})") from error


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

"""Inputs that a model can be run on, found by trying: from the settings a library leaves behind, or from its layers."""

from __future__ import annotations

__all__ = ["arguments_of", "example_inputs", "examples", "first_that_runs", "real_dtype"]

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from itertools import count, islice
from typing import Any, TypeVar

import torch
from torch import nn

from torchgraft.axes.guesses import candidates
from torchgraft.axes.holes import Arguments, Candidate, drawn
from torchgraft.axes.shadow import called, plain_operators, shadow_of
from torchgraft.errors import InputsError, RunError, brief
from torchgraft.network import unwrap

T = TypeVar("T")

_MOST = 60  # candidates that are tried


def arguments_of(inputs: Any) -> Arguments:
    """Return inputs, as the public functions take them, as positional and keyword arguments.

    Args:
        inputs: a tuple of positional or a dict of keyword arguments; anything else is one argument, a list too, since
            models take lists (of pictures that differ in size).

    >>> arguments_of(1), arguments_of((1, 2)), arguments_of({"a": 1}), arguments_of([1, 2])
    (((1,), {}), ((1, 2), {}), ((), {'a': 1}), (([1, 2],), {}))
    """
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (inputs if isinstance(inputs, tuple) else (inputs,)), {}


def example_inputs(module: nn.Module, seed: int | None = None, *, small: bool = False) -> Arguments:
    """Return positional and keyword arguments that a model can be run on, a batch of one.

    Args:
        module: any module; left as it is. A copy without values is run; one with values where it needs them to run.
        seed: draw values with this seed, numbers from a normal distribution, tokens among the first thirty; tensors on
            the meta device where it is ``None``.
        small: prefer the smallest picture that the model can read to the one that it was made for.

    Raises:
        InputsError: the model runs on nothing that was tried.

    >>> example_inputs(nn.Sequential(nn.Linear(4, 8), nn.ReLU()))[0][0].shape
    torch.Size([1, 4])
    """
    module = unwrap(module)
    return drawn(_runnable(module, seed is not None, small), seed, real_dtype(module))


def examples(module: nn.Module) -> Iterator[Arguments]:
    """Yield what :func:`example_inputs` gives for the seeds 0, 1, and so on; the model is tried once.

    Raises:
        InputsError: the model runs on nothing that was tried.
    """
    module = unwrap(module)
    guess = _runnable(module, values=True)
    yield from (drawn(guess, seed, real_dtype(module)) for seed in count())


def _runnable(module: nn.Module, values: bool, small: bool = False) -> Candidate:
    """Return the first guess that a model runs on; where it has ``values``, with these too, if they are asked for."""
    real = cache(lambda: shadow_of(module, values=True))
    shadow = cache(lambda: shadow_of(module))
    sure = values and not _hollow(module)

    def run(guess: Candidate, values: bool) -> Candidate:
        if not values:
            _run(shadow(), guess, None)
        if values or sure:  # some look-ups fail only with values
            _run(real(), guess, 0)
        return guess

    return first_that_runs(module, run, small)


def first_that_runs(module: nn.Module, run: Callable[[Candidate, bool], T], small: bool = False) -> T:
    """Return what a run returns for the first guess on which the model does not fail.

    Args:
        module: the model, of which the guesses are.
        run: called with a guess, and whether it is to run with values; first all without, then all with them. It
            raises a :class:`~torchgraft.errors.RunError` where the model fails.
        small: small pictures first.

    Raises:
        InputsError: there is no such guess.
    """
    guesses = list(islice(candidates(module, small), _MOST))
    first = ""
    for values in (False,) if _hollow(module) else (False, True):
        for guess in guesses:
            try:
                return run(guess, values)
            except RunError as error:  # anything may go wrong in a model on inputs that are only guessed
                first = first or brief(error.__cause__ or error)
    raise InputsError(
        f"{type(module).__name__} ran on none of {len(guesses)} guessed inputs (the first failed with {first}): "
        "pass inputs=" + (", or build the model in memory where its way depends on values" if _hollow(module) else "")
    )


def _hollow(module: nn.Module) -> bool:
    return any(tensor.is_meta for tensor in module.parameters())


def _run(module: nn.Module, guess: Candidate, seed: int | None) -> None:
    arguments, options = drawn(guess, seed, real_dtype(module))
    with torch.no_grad(), plain_operators():
        called(module, arguments, options)


def real_dtype(module: nn.Module) -> torch.dtype:
    """Return the type of the numbers that a model computes with: that of its first parameter of real numbers."""
    return next((tensor.dtype for tensor in module.parameters() if tensor.is_floating_point()), torch.float32)

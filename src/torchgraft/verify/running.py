"""Run copies of two models on the same inputs, so that only their functions differ."""

from __future__ import annotations

__all__ = ["MODES", "Mode", "agreed_calls", "copied", "run", "told"]

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import interpolate
from torch.utils._pytree import tree_leaves, tree_map_only

from torchgraft.axes.holes import Arguments
from torchgraft.axes.inputs import arguments_of, examples
from torchgraft.axes.precise import Precise
from torchgraft.axes.shadow import called, copy_of
from torchgraft.errors import InputsError, RunError, brief

Mode = tuple[str, str]

#: Mode and precision of the runs; the first one also decides the inputs.
MODES: tuple[Mode, ...] = (("eval", "float32"), ("eval", "float64"), ("train", "float64"), ("train", "float32"))

_SIDES = ("source", "target")
# Numbers in an input, up to which there may be more than two examples.
_NUMBERS = 1 << 14


def copied(module: nn.Module, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """Return a deep copy whose floating tensors, plain attributes too, are of one type; tied tensors stay tied.

    Raises:
        GraftError: the model cannot be copied.
    """
    return copy_of(module, lambda one: one.to(device, dtype if one.is_floating_point() else one.dtype, copy=True))


def run(
    module: nn.Module, call: Arguments, mode: Mode, prepare: Callable[[nn.Module], None] | None = None, seed: int = 0
) -> Any:
    """Return what a copy of ``module`` gives; neither the module nor any global generator changes.

    In train mode norms take the statistics of the batch; dropout and stochastic depth are off.

    Args:
        module: left as it is.
        call: positional and keyword arguments.
        mode: ``eval`` or ``train``, ``float64`` or ``float32``.
        prepare: called with the copy, to watch it.
        seed: of what the model draws while it runs.

    Raises:
        RunError: the model fails.
    """
    training, double = mode[0] == "train", mode[1] == "float64"
    device = next((one.device for one in module.parameters()), torch.device("cpu"))
    device = device if device.type in ("cpu", "cuda") else torch.device("cpu")  # others have no float64
    dtype = torch.float64 if double else torch.float32
    model = copied(module, dtype, device).train(training)
    if training:
        _silence(model)
    if prepare is not None:
        prepare(model)
    arguments, options = tree_map_only(
        Tensor, lambda x: x.detach().clone().to(device, dtype if x.is_floating_point() else None), call
    )
    with torch.no_grad(), _settings(dtype, device, seed), Precise() if double else nullcontext():
        return called(model, arguments, options)


def _silence(model: nn.Module) -> None:
    """Set all rates of dropout and stochastic depth to zero, wherever libraries keep them."""
    for part in model.modules():
        noisy = any(word in type(part).__name__.lower() for word in ("drop", "stochastic"))
        for holder in (part, getattr(part, "config", None)):
            for name, value in getattr(holder, "__dict__", {}).items():
                if isinstance(value, float) and ("drop" in name or (noisy and name == "p")):
                    setattr(holder, name, 0.0)


@contextmanager
def _settings(dtype: torch.dtype, device: torch.device, seed: int) -> Iterator[None]:
    """Compute in the precision that is asked for, draw from seeded generators, and put everything back."""
    python, legacy, default = random.getstate(), np.random.get_state(), torch.get_default_dtype()
    precision, fast = torch.get_float32_matmul_precision(), torch.backends.mha.get_fastpath_enabled()
    cudnn = torch.backends.cudnn.flags(benchmark=False, deterministic=True, allow_tf32=False)
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices), cudnn, sdpa_kernel(SDPBackend.MATH):
        torch.backends.mha.set_fastpath_enabled(False)  # it goes past the modules that are watched
        for generator in (torch.default_generator, *(torch.cuda.default_generators[one.index or 0] for one in devices)):
            generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        torch.set_default_dtype(dtype)
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
            torch.set_float32_matmul_precision(precision)
            torch.set_default_dtype(default)
            random.setstate(python)
            np.random.set_state(legacy)


def agreed_calls(
    models: tuple[nn.Module, nn.Module], inputs: Any, most: int = 2
) -> tuple[tuple[Arguments, Arguments], tuple[Any, Any], list[str]]:
    """Find what both models run on; return it for each, what they gave in the first mode, and notes.

    Args:
        models: source and target.
        inputs: a tensor, a tuple of positional or a dict of keyword arguments; ``None`` to find them by trying.
        most: examples in a batch; fewer where they are large, but two.

    Raises:
        InputsError: one of the models does not run on them.
    """
    if inputs is not None:
        given = arguments_of(inputs)
        return (given, given), _both(models, (given, given)), []
    source, target = (_examples(model, most) for model in models)
    tries = [(call, call) for call in (*source, *target)]
    notes = []
    if source and target:
        tries += [(source[0], _fitted(source[0], target[0])), (_fitted(target[0], source[0]), target[0])]
        if told(source[0]) != told(target[0]):
            notes.append(f"the source is made for {told(source[0])}, the target for {told(target[0])}")
    failed: InputsError | None = None
    for calls in tries:
        try:
            outputs = _both(models, calls)
        except InputsError as error:
            failed = failed or error
            continue
        if calls[0] is not calls[1]:
            notes.append(f"no input fits both: the source was run on {told(calls[0])}, the target on {told(calls[1])}")
        return calls, outputs, notes
    raise failed or InputsError("no inputs are known on which either model runs: pass inputs= that both accept")


def _examples(model: nn.Module, most: int) -> list[Arguments]:
    """Return random inputs, a batch of at least two first; none where none are found."""
    try:
        rows = examples(model)
        first = next(rows)
        size = max(leaf.numel() for leaf in tree_leaves(first) if isinstance(leaf, Tensor))
        count = max(2, min(most, _NUMBERS // max(1, size)))
        batch = _stacked([first, *islice(rows, count - 1)])
    except InputsError:
        return []
    return [first] if batch is None else [batch, first]


def _both(models: tuple[nn.Module, nn.Module], calls: tuple[Arguments, Arguments]) -> tuple[Any, Any]:
    results = []
    for model, call, side in zip(models, calls, _SIDES, strict=True):
        try:
            results.append(run(model, call, MODES[0]))
        except RunError as error:
            raise InputsError(
                f"the {side} ({type(model).__name__}) does not run on {told(call)}: {brief(error.__cause__ or error)}; "
                "pass inputs= that both models accept"
            ) from error
    return results[0], results[1]


def _stacked(calls: Sequence[Arguments]) -> Arguments | None:
    """Make one batch, which batch statistics need, of batches of one."""
    leaves = ([leaf for leaf in tree_leaves(call) if isinstance(leaf, Tensor)] for call in calls)
    rows = list(zip(*leaves, strict=True))
    if not all(one.ndim > 1 and len(one) == 1 and one.shape == row[0].shape for row in rows for one in row):
        return None
    whole = iter([torch.cat(row) for row in rows])
    stacked: Arguments = tree_map_only(Tensor, lambda _: next(whole), calls[0])
    return stacked


def _fitted(call: Arguments, like: Arguments) -> Arguments:
    """Give the pictures of ``call`` the size and, where they are grey, the channels of those in ``like``."""
    others = iter(tree_leaves(like))

    def fit(picture: Tensor) -> Tensor:
        other = next(others, None)
        if not (isinstance(other, Tensor) and picture.ndim == other.ndim == 4 and picture.is_floating_point()):
            return picture
        if picture.shape[1] == 1:
            picture = picture.expand(-1, other.shape[1], -1, -1)
        same = picture.shape[2:] == other.shape[2:]
        return picture if same else interpolate(picture, other.shape[2:], mode="bilinear", antialias=True)

    fitted: Arguments = tree_map_only(Tensor, fit, call)
    return fitted


def told(call: Arguments) -> str:
    """Name the shapes of a call's tensors."""
    return ", ".join("×".join(map(str, leaf.shape)) for leaf in tree_leaves(call) if isinstance(leaf, Tensor))

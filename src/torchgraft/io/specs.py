"""From a spec on the command line to a model, a table of weights, or both."""

from __future__ import annotations

__all__ = ["ResolvedModel", "resolve", "resolve_source"]

import ast
import contextlib
import os
import random
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from torchgraft.errors import CheckpointError, GraftError, SpecError
from torchgraft.io.builders import BUILDERS, BuildOptions
from torchgraft.io.opening import SUFFIXES, open_table
from torchgraft.io.tables import TensorTable
from torchgraft.names import strip_wrappers

# Left out by many exporters, and filled in by torch: absent, it does not make a factory wrong.
_OPTIONAL = "num_batches_tracked"


@dataclass(frozen=True)
class ResolvedModel:
    """What a spec stands for: a module, a table of weights, or both: then the table alone has the values that count."""

    name: str
    module: nn.Module | None
    table: TensorTable | None


def resolve(
    spec: str | os.PathLike[str],
    *,
    role: Literal["source", "target"],
    seed: int = 0,
    meta: bool = False,
    allow_nonfinite: bool = False,
) -> ResolvedModel:
    """Build the model, or open the checkpoint, that a spec names.

    Args:
        spec: ``timm:NAME[,option=value...]``, ``torchvision:NAME[,...]``, ``hf:FOLDER-or-id``,
            ``python:package.module:factory[,...]``, or (for a source) the path of a checkpoint.
        role: ``"source"`` loads the weights of an ``hf:`` model; ``"target"`` draws fresh ones.
        seed: of the initial weights; the caller's random state is left as it was.
        meta: build on the meta device where the model allows it, shapes only; pretrained weights are then not fetched.
        allow_nonfinite: passed to :func:`open_table`.

    Raises:
        SpecError: the kind, the model or an option does not exist, or a package is missing.
        CheckpointError: the path cannot be opened.

    >>> resolve("python:torch.nn:Linear,in_features=3,out_features=2", role="target").module
    Linear(in_features=3, out_features=2, bias=True)
    """
    text = os.fspath(spec)
    prefix, colon, rest = text.partition(":")
    if colon and prefix in BUILDERS:
        name, options = _parse(text, rest)
        try:
            module = _build(text, prefix, name, options, BuildOptions(role, meta), seed)
        except SpecError:
            if not meta:
                raise
            # Some constructors compute with their values; a real error comes up again.
            module = _build(text, prefix, name, options, BuildOptions(role, False), seed)
        return ResolvedModel(text, module, None)
    if not _is_path(text):
        kinds = ", ".join(f"{kind}:NAME" for kind in BUILDERS)
        hint = f"unknown kind {prefix!r}" if colon else f"did you mean timm:{text}?"
        raise SpecError(f"{text!r} is neither a model spec nor a checkpoint: {hint} (valid: {kinds}, or a path)")
    if role == "target":
        raise SpecError(f"{text} has weights but no code: name the target's model, as in timm:NAME")
    table = open_table(text, allow_nonfinite=allow_nonfinite)
    return ResolvedModel(table.name, None, table)


def resolve_source(
    path_or_spec: str | os.PathLike[str],
    factory_spec: str | None = None,
    *,
    seed: int = 0,
    meta: bool = False,
    allow_nonfinite: bool = False,
) -> ResolvedModel:
    """Resolve a source, where ``factory_spec`` may name the model whose weights a checkpoint holds.

    With both, the module serves kinds and structure, on the meta device where its factory allows it, and the values
    stay in the table.

    Raises:
        SpecError: as for :func:`resolve`, or a factory is given beside a model spec.
        CheckpointError: fewer than half of the model's tensors are in the file with their shape. Where some are not,
            a warning names them.
    """
    if factory_spec is None:
        return resolve(path_or_spec, role="source", seed=seed, meta=meta, allow_nonfinite=allow_nonfinite)
    text = os.fspath(path_or_spec)
    if text.partition(":")[0] in BUILDERS:
        raise SpecError(f"{text} is a model already: give {factory_spec} only beside the path of a checkpoint")
    table = resolve(text, role="source", allow_nonfinite=allow_nonfinite).table
    module = resolve(factory_spec, role="target", seed=seed, meta=True).module
    if table is None or module is None:
        raise SpecError(f"{text} and {factory_spec} are no pair: give the path of a checkpoint and the spec of a model")
    _check_fit(table, module, factory_spec)
    return ResolvedModel(table.name, module, table)


def _is_path(text: str) -> bool:
    return os.path.exists(text) or os.sep in text or text.partition("#")[0].lower().endswith(SUFFIXES)


def _parse(spec: str, rest: str) -> tuple[str, dict[str, Any]]:
    """Split ``name,key=value,...``; values are Python literals, and whatever is none of them is a string."""
    name, _, tail = rest.partition(",")
    if not name:
        raise SpecError(f"{spec!r} names no model: write {spec.partition(':')[0]}:NAME")
    try:
        call = ast.parse(f"f({tail})", mode="eval").body
    except SyntaxError:
        call = None
    if not isinstance(call, ast.Call) or call.args or any(word.arg is None for word in call.keywords):
        raise SpecError(f"{spec!r}: options {tail!r} are not key=value,key=value: quote values with spaces")
    options: dict[str, Any] = {}
    for word in call.keywords:
        try:
            options[str(word.arg)] = ast.literal_eval(word.value)
        except ValueError:
            options[str(word.arg)] = ast.get_source_segment(f"f({tail})", word.value)
    return name, options


def _build(spec: str, prefix: str, name: str, options: dict[str, Any], build: BuildOptions, seed: int) -> nn.Module:
    try:
        with _seeded(seed):
            return BUILDERS[prefix](name, options, build)
    except GraftError:
        raise
    except SystemExit as error:
        raise SpecError(
            f"{spec}: a model's own code ended the program (exit {error.code}): guard it by __name__ == '__main__'"
        ) from error
    except Exception as error:  # foreign code: whatever it raises is about this spec
        reason = (str(error).strip().splitlines() or ["no reason given"])[0]
        where = " on the meta device" if build.meta else ""
        raise SpecError(f"{spec} cannot be built{where}: {type(error).__name__}: {reason}") from error


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed every generator that an initializer may draw from, and put them all back."""
    python, legacy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reach for the GPUs as well
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)


def _check_fit(table: TensorTable, module: nn.Module, factory: str) -> None:
    """Compare a checkpoint with the model that is said to have written it."""
    infos = table.infos()
    state = module.state_dict()
    names = strip_wrappers(state)
    shapes = {name: tuple(state[key].shape) for key, name in names.items() if isinstance(state[key], torch.Tensor)}
    missing = [name for name in shapes if name not in infos and not name.endswith(_OPTIONAL)]
    unexpected = [name for name in infos if name not in shapes]
    misshaped = [name for name in shapes if name in infos and infos[name].shape != shapes[name]]
    if not (missing or unexpected or misshaped):
        return
    counted = sum(not name.endswith(_OPTIONAL) or name in infos for name in shapes)
    fitting = counted - len(missing) - len(misshaped)
    found = "; ".join(
        f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for what, names in (("missing", missing), ("unexpected", unexpected), ("misshaped", misshaped))
        if names
    )
    summary = f"{table.name} fits {fitting} of the {counted} tensors of {factory}: {found}"
    if 2 * fitting < max(counted, len(infos)):
        raise CheckpointError(
            f"{summary}: by its names this file is of another model; give that one, or none, and the names do not count"
        )
    warnings.warn(summary, stacklevel=3)

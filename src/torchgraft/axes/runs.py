"""The run that axis groups are found in: its inputs, with or without values, and what two runs have in common."""

from __future__ import annotations

__all__ = ["architecture", "traced"]

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from torchgraft.axes.holes import Candidate, drawn
from torchgraft.axes.inputs import first_that_runs, real_dtype
from torchgraft.axes.rules import apply_rules
from torchgraft.axes.shadow import hollow
from torchgraft.axes.trace import Trace, trace
from torchgraft.errors import RunError
from torchgraft.fingerprint import Look, look_of


def architecture(
    look: Look | None, inputs: Sequence[Any] | None, options: Mapping[str, Any] | None
) -> tuple[Look, Look] | None:
    """Return all that a run without values depends on, or ``None`` where something in it cannot be compared."""
    if look is None:
        return None
    given = look_of(tree_map_only(Tensor, hollow, (None if inputs is None else tuple(inputs), dict(options or {}))))
    return None if given is None else (look, given)


def traced(module: nn.Module, inputs: Sequence[Any] | None, options: Mapping[str, Any] | None) -> tuple[Trace, bool]:
    """Run a model, on inputs found for it where none are given; return the trace, and whether it took no values."""
    if inputs is None:
        return first_that_runs(module, partial(_guessed, module))
    try:
        return trace(module, inputs, apply_rules, options), True
    except RunError:  # a way that depends on values; any other fault shows again
        given = tree_leaves((module.state_dict(), tuple(inputs), dict(options or {})))
        if any(isinstance(leaf, Tensor) and leaf.is_meta for leaf in given):
            raise
        return trace(module, inputs, apply_rules, options, values=True), False


def _guessed(module: nn.Module, guess: Candidate, values: bool) -> tuple[Trace, bool]:
    arguments, options = drawn(guess, 0 if values else None, real_dtype(module))
    return trace(module, arguments, apply_rules, options, values=values), not values

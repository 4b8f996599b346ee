"""The weights of an edited model in the target itself."""

from __future__ import annotations

__all__ = ["fill"]

from collections.abc import Collection

import torch
from torch import nn

from torchgraft.axes.holes import Arguments
from torchgraft.errors import MorphError
from torchgraft.morph.between.compare import compare
from torchgraft.morph.between.runs import agreed_runs
from torchgraft.network import unwrap


def fill(edited: nn.Module, target: nn.Module, attributes: Collection[str], inputs: Arguments | None = None) -> None:
    """Write the weights of an edited model into a target of the same architecture, whatever its names are.

    Args:
        edited: left as it is.
        target: tensors that no output is computed from keep its values, unless the edited model has them, too.
        attributes: names of attributes (epsilons) that the edits have set, and that the target gets, too.
        inputs: what both run on.

    Raises:
        MorphError: the target has another architecture, or no values.
    """
    target = unwrap(target)
    if any(tensor.is_meta for tensor in target.parameters()):
        raise MorphError(f"{type(target).__name__} is on the meta device: build it where its weights are to be")
    run, other, _ = agreed_runs(edited, target, inputs)
    found = compare(run, other, epsilons=False)
    if found.differences:
        raise MorphError(f"the edited model is no {type(target).__name__}: {found.differences[0]}")
    values, held = edited.state_dict(), target.state_dict()
    homes = {}
    with torch.no_grad():
        for key, mine in found.keys.items():
            held[key].copy_(values[mine])
            homes[key.rpartition(".")[0]] = mine.rpartition(".")[0]
    for path, mine in homes.items():
        parts = edited.get_submodule(mine), target.get_submodule(path)
        for name in attributes:
            if all(hasattr(part, name) for part in parts):
                setattr(parts[1], name, getattr(parts[0], name))

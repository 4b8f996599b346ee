"""Moving averages of weights are edited as the model is: the same units, in the same places."""

from __future__ import annotations

__all__ = ["averaged", "module_of"]

from collections.abc import Sequence

from torch import nn

from torchgraft._api import apply
from torchgraft.axes.shadow import copy_of
from torchgraft.errors import MorphError
from torchgraft.morph.edits import apply_edits
from torchgraft.morph.growing.records import Stage
from torchgraft.network import unwrap


def module_of(average: nn.Module) -> nn.Module:
    """Return what holds averaged weights: the module of torch's ``AveragedModel`` and its like, or the one given."""
    held = average._modules.get("module")
    return unwrap(average if held is None else held)


def averaged(average: nn.Module, stages: Sequence[Stage], seed: int) -> nn.Module:
    """Return the averaged weights after the edits, in a new module; what is new has the value that it has in the model.

    Args:
        average: the averaged weights before the edits.
        stages: of the model.
        seed: of the edits.

    Raises:
        MorphError: it has not the architecture of the model.
    """
    _check_alike(average, stages[0].source)
    frozen = not any(one.requires_grad for one in average.parameters())
    made = average
    for stage in stages:
        if _computes(stage):
            made = apply_edits(made, [stage.edit], certify=False, approximate=True, seed=seed).model
        else:
            source, made = made, copy_of(stage.target)
            apply(stage.report.plan, source, made)
    made.train(average.training)
    return made.requires_grad_(False) if frozen else made


def _computes(stage: Stage) -> bool:
    """Tell whether an edit computes new layers from the values of one that is gone, of which its plan knows nothing."""
    keys = dict(stage.source.named_parameters(remove_duplicate=False))
    moved = {id(keys[one]) for tensor in stage.report.plan.tensors for one in tensor.source if one in keys}
    return any(id(one) not in moved for one in keys.values())


def _check_alike(average: nn.Module, model: nn.Module) -> None:
    if type(average) is not type(model):
        kinds = f"the average is a {type(average).__name__} and the model a {type(model).__name__}"
        raise MorphError(f"{kinds}: give ema=, the average of this model")
    one, other = ({key: tuple(held.shape) for key, held in part.state_dict().items()} for part in (average, model))
    for key in (*one, *other):
        if one.get(key) != other.get(key):
            raise MorphError(
                f"the average and the model differ in {key}: give ema=, the average of this model, or build it anew"
            )

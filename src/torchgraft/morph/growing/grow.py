"""Grow now: the model, its optimizers, its average and its wrapper, all of them or none."""

from __future__ import annotations

__all__ = ["grow"]

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import Optimizer

from torchgraft.errors import GraftError
from torchgraft.morph.edits import Edit, apply_edits
from torchgraft.morph.edits.finish import swap
from torchgraft.morph.growing.average import averaged, module_of
from torchgraft.morph.growing.carry import Carried, Gradients, carried, gradients_of, put_gradients, put_state
from torchgraft.morph.growing.groups import heirs_of
from torchgraft.morph.growing.parallel import agree, check_whole, rewrap, wrapper_of
from torchgraft.morph.growing.records import Grown, Stage
from torchgraft.morph.growing.texts import Edits, edits_of
from torchgraft.network import unwrap


@dataclass(frozen=True, slots=True, eq=False)
class _Ready:
    """All that is to be written, once nothing can fail any more."""

    stages: Sequence[Stage]
    optimizers: Sequence[Carried]
    gradients: Gradients
    average: nn.Module | None
    averaged: nn.Module | None


def grow(
    model: nn.Module,
    optimizer: Optimizer | Sequence[Optimizer],
    edits: Edits,
    *,
    ema: nn.Module | None = None,
    inputs: Any = None,
    approximate: bool = False,
    certify: bool = True,
    seed: int = 0,
    fresh: str = "mean",
) -> Grown:
    """Edit a model in the middle of its training, in place, with everything that training holds beside the weights.

    All objects stay what they are, so that training loops and schedulers go on with them. What is inside is new: look
    layers and parameters up again. Groups of an optimizer keep their settings, and new parameters join the group of the
    last one of their sort before them. Gradients that wait for the optimizer's step move, too; new units have zeros.

    Args:
        model: in place; it may be inside ``torch.compile`` or ``DistributedDataParallel``, whose ranks all call this.
        optimizer: one or several that train it, in place.
        edits: an :class:`Edit`, its text (``"widen layer1.0.conv1 width=96"``), or a list of them, in order.
        ema: a moving average of its weights, in place: ``AveragedModel`` and its like, or a module of the same class.
        inputs: as for :func:`apply_edits`.
        approximate: as for :func:`apply_edits`.
        certify: as for :func:`apply_edits`.
        seed: of the draws of new weights.
        fresh: what second moments hold for new units (:func:`torchgraft.transfer_optimizer`).

    Raises:
        MorphError: an edit cannot be made, or not exactly; an optimizer or an average is not that of the model; ranks
            do not agree. Everything is as it was.
        SpecError: an unknown edit or value of ``fresh``.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> import torch
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    >>> model(torch.ones(1, 4)).sum().backward()
    >>> optimizer.step()
    >>> print(grow(model, optimizer, ["widen 0 width=12", "deepen 0"]))
    widen 0: width=12; deepen 0 (exact)
    SGD: 4 of 6 parameters have state from the source (momentum_buffer)
    none for 2.0.weight, 2.0.bias: silenced, gives on what it reads, to keep the function
    new in group 0: 2.0.weight, 2.0.bias
    """
    rows, wrapper = edits_of(edits), wrapper_of(model)
    ready, problem = None, None
    try:
        check_whole(model, wrapper)
        stages = _staged(unwrap(model), rows, inputs=inputs, approximate=approximate, certify=certify, seed=seed)
        ready = _made_ready(stages, [optimizer] if isinstance(optimizer, Optimizer) else optimizer, ema, seed, fresh)
    except GraftError as error:
        problem = error
    if wrapper is not None:
        made = None if ready is None else ready.stages[-1].target
        agree(wrapper, "; ".join(map(str, rows)), made, problem)
    if ready is None:
        assert problem is not None
        raise problem
    _write(ready, unwrap(model))
    if wrapper is not None:
        rewrap(wrapper)
    return _told(ready)


def _staged(model: nn.Module, rows: Sequence[Edit], **options: Any) -> list[Stage]:
    """Apply edits one after the other, each to a copy."""
    stages: list[Stage] = []
    for edit in rows:
        made = apply_edits(model, [edit], **options)
        stages.append(Stage(edit, model, made.model, made.report, made.certificate))
        model = made.model
    return stages


def _made_ready(
    stages: Sequence[Stage], optimizers: Sequence[Optimizer], ema: nn.Module | None, seed: int, fresh: str
) -> _Ready:
    average = None if ema is None else module_of(ema)
    return _Ready(
        stages,
        [carried(one, stages, fresh) for one in optimizers],
        gradients_of(stages),
        average,
        None if average is None else averaged(average, stages, seed),
    )


def _write(ready: _Ready, model: nn.Module) -> None:
    swap(model, ready.stages[-1].target)
    for one in ready.optimizers:
        put_state(one)
    put_gradients(ready.gradients)
    if ready.average is not None and ready.averaged is not None:
        swap(ready.average, ready.averaged)


def _new(stages: Sequence[Stage]) -> list[str]:
    """Return the parameters of the edited model that come from none of the first one."""
    new: list[str] = []
    for stage in stages:
        known = {heir for key, several in heirs_of(stage).items() if key not in new for heir in several[:1]}
        new = [key for key, _ in stage.target.named_parameters() if key not in known]
    return new


def _told(ready: _Ready) -> Grown:
    held = {slot.key for one in ready.optimizers for group in one.slots for slot in group}
    joined = {key: group for one in ready.optimizers for key, group in one.joined.items()}
    notes = [note for stage in ready.stages for note in stage.report.plan.notes]
    notes += [f"the gradient of {key} is gone with it" for key in ready.gradients.lost]
    alone = [key for key in _new(ready.stages) if key not in held]
    if alone and ready.optimizers:
        notes.append(f"no optimizer holds {', '.join(alone)}, nor the parameters that they stand beside")
    return Grown(
        tuple(stage.edit for stage in ready.stages),
        tuple(stage.certificate for stage in ready.stages),
        tuple(stage.report for stage in ready.stages),
        tuple(one.report for one in ready.optimizers),
        joined,
        tuple(dict.fromkeys(notes)),
    )

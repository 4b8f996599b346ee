"""Optimizer state and gradients go along the edits: computed first, written when all else has succeeded."""

from __future__ import annotations

__all__ = ["Carried", "Gradients", "carried", "gradients_of", "put_gradients", "put_state"]

import copy
import inspect
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from torchgraft.errors import MorphError
from torchgraft.morph.growing.groups import Slots, followed, heirs_of, parts_of, slots_of
from torchgraft.morph.growing.records import Stage
from torchgraft.optim import OptimizerReport, transfer_optimizer

State = Mapping[Tensor, dict[str, Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Carried:
    """What an optimizer will hold: the slots of its groups, their state, and which parameters are new in which group.

    ``prefix`` stands before the keys in the names of its parameters, where it has names.
    """

    optimizer: Optimizer
    slots: Slots
    state: State
    joined: Mapping[str, int]
    report: OptimizerReport
    prefix: str


@dataclass(frozen=True, slots=True, eq=False)
class Gradients:
    """Gradients of the edited model's parameters, and the parameters before it whose gradients have no place in it."""

    values: Mapping[Tensor, Tensor]
    lost: Sequence[str]


def carried(optimizer: Optimizer, stages: Sequence[Stage], fresh: str) -> Carried:
    """Return what an optimizer will hold after the edits; nothing is written.

    Raises:
        MorphError: it holds none of the model's parameters, or keeps some in places that are not known.
    """
    model, name = stages[0].source, type(optimizer).__name__
    slots = slots_of(optimizer, model)
    if not any(slot.key for group in slots for slot in group):
        raise MorphError(
            f"{name} trains no parameter of this {type(model).__name__}: give the optimizer that was built from its "
            "parameters, and if the model was edited since, build it anew"
        )
    _check_alone(optimizer)
    prefix = _prefix(optimizer, slots)
    joined: dict[str, int] = {}
    reports: list[OptimizerReport] = []
    held = _stand_in(optimizer, slots, optimizer.state)
    for stage in stages:
        heirs = heirs_of(stage)
        slots, new = followed(slots, stage)
        made = _stand_in(optimizer, slots, {})
        report = _transferred(stage, held, made, fresh)
        joined = {**{heir: group for key, group in joined.items() for heir in heirs[key][:1]}, **new}
        reports.append(_continued(reports[-1], report, heirs) if reports else report)
        held = made
    return Carried(optimizer, slots, _completed(optimizer, slots, held.state), joined, reports[-1], prefix)


def put_state(one: Carried) -> None:
    """Write what was computed into the optimizer; its groups keep their settings, other parameters their state."""
    for group, slots in zip(one.optimizer.param_groups, one.slots, strict=True):
        stay = {id(slot.parameter) for slot in slots}
        for parameter in group["params"]:
            if id(parameter) not in stay:
                one.optimizer.state.pop(parameter, None)
        if group.get("param_names"):
            names = {id(held): name for held, name in zip(group["params"], group["param_names"], strict=True)}
            group["param_names"] = [names.get(id(slot.parameter), f"{one.prefix}{slot.key}") for slot in slots]
        group["params"][:] = [slot.parameter for slot in slots]
    one.optimizer.state.update(one.state)


def gradients_of(stages: Sequence[Stage]) -> Gradients:
    """Return the gradients that wait in the model for an optimizer's step, as those of the edited one."""
    first = [(key, one, one.grad) for key, one in stages[0].source.named_parameters() if one.grad is not None]
    # A first moment is moved as the gradients are that it is a mean of.
    state: State = {one: {"exp_avg": grad} for _, one, grad in first if grad.layout == torch.strided}
    lost = [key for key, one, _ in first if one not in state]
    for stage in stages if state else ():
        before, after = (_bare(Optimizer, [{"params": list(one.parameters())}]) for one in (stage.source, stage.target))
        before.state.update(state)
        _transferred(stage, before, after, "zero")
        parameters = dict(stage.target.named_parameters())
        for key, heirs in heirs_of(stage).items():
            held = state.get(stage.source.get_parameter(key))
            if held and bool(held["exp_avg"].any()) and not any(parameters[one] in after.state for one in heirs):
                lost.append(key)
        state = after.state
    return Gradients({one: held["exp_avg"] for one, held in state.items()}, lost)


def put_gradients(gradients: Gradients) -> None:
    """Write gradients to the parameters that they are of."""
    for parameter, gradient in gradients.values.items():
        parameter.grad = gradient


def _transferred(stage: Stage, before: Optimizer, after: Optimizer, fresh: str) -> OptimizerReport:
    """Move the state of one optimizer along an edit; of a parameter that stays as it is, whatever it is."""
    source, target = stage.source, stage.target
    report = transfer_optimizer(stage.report, before, after, source=source, target=target, fresh=fresh)
    same = {one.key: one.source[0] for one in stage.report.plan.tensors if one.status == "copied" and not one.buffer}
    same |= parts_of(stage)
    whole: dict[str, dict[str, Any]] = {}
    for key in (key for key, _ in report.left if key in same):
        state = before.state.get(source.get_parameter(same[key]))
        if state:
            after.state[target.get_parameter(key)] = whole[key] = copy.deepcopy(state)
    left = tuple((key, reason) for key, reason in report.left if key not in whole)
    names = dict.fromkeys((*report.state, *(name for state in whole.values() for name in sorted(map(str, state)))))
    return replace(report, moved=(*report.moved, *whole), left=left, state=tuple(names))


def _check_alone(optimizer: Optimizer) -> None:
    """Refuse an optimizer that would go on with the old parameters, which it keeps beside its groups."""
    for name, value in vars(optimizer).items():
        if name not in ("param_groups", "state", "defaults") and any(
            isinstance(one, nn.Parameter | Optimizer) for one in _parts(value)
        ):
            raise MorphError(
                f"{type(optimizer).__name__} keeps parameters or an optimizer in .{name}, beside its groups: grow the "
                "model without it (optimizer=()), and build it anew"
            )


def _parts(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):
        return (*value, *value.values())
    return value if isinstance(value, list | tuple | set) else (value,)


def _prefix(optimizer: Optimizer, slots: Slots) -> str:
    for group, several in zip(optimizer.param_groups, slots, strict=True):
        for name, slot in zip(group.get("param_names") or (), several, strict=False):
            if slot.key is not None and name.endswith(slot.key):
                return str(name.removesuffix(slot.key))
    return ""


def _stand_in(optimizer: Optimizer, slots: Slots, state: State) -> Optimizer:
    """Return an optimizer of the same type that only holds: the model's parameters, group by group, and their state."""
    groups = [
        {**group, "params": [slot.parameter for slot in several if slot.key is not None]}
        for group, several in zip(optimizer.param_groups, slots, strict=True)
    ]
    made = _bare(type(optimizer), groups)
    made.state.update(state)
    return made


def _bare(kind: type[Optimizer], groups: list[dict[str, Any]]) -> Optimizer:
    made = object.__new__(kind)
    made.param_groups, made.state = groups, defaultdict(dict)
    return made


def _completed(optimizer: Optimizer, slots: Slots, state: State) -> State:
    """Add the state of parameters that have none, where an optimizer makes it as it is built (Adagrad)."""
    left = [slot.parameter for several in slots for slot in several if slot.parameter not in state]
    signature = inspect.signature(type(optimizer))
    known = {name: value for name, value in optimizer.defaults.items() if name in signature.parameters}
    groups = [{**group, "params": held} for group, held in _filled(optimizer, slots)]
    try:
        signature.bind(groups, **known)
        made = type(optimizer)(groups, **known).state if left else {}
    except Exception:  # a constructor that takes more: then state is made at the next step, as nearly all do
        return state
    return {**state, **{one: made[one] for one in left if made.get(one)}}


def _filled(optimizer: Optimizer, slots: Slots) -> Iterator[tuple[dict[str, Any], list[Tensor]]]:
    """Yield the groups that hold parameters of the model, without names, and these parameters."""
    for group, several in zip(optimizer.param_groups, slots, strict=True):
        held = [slot.parameter for slot in several if slot.key is not None]
        if held:
            yield {name: value for name, value in group.items() if name != "param_names"}, held


def _continued(before: OptimizerReport, now: OptimizerReport, heirs: Mapping[str, Sequence[str]]) -> OptimizerReport:
    """Return the report of an edit that came after another one: what was left behind then is left for that reason."""
    origin = {heir: key for key, several in heirs.items() for heir in several}
    reasons = dict(before.left)
    left = tuple((key, reasons.get(origin.get(key, ""), reason)) for key, reason in now.left)
    return replace(now, left=left, notes=tuple(dict.fromkeys(before.notes + now.notes)))

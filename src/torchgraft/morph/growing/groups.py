"""Which parameter group of an optimizer each parameter of the edited model is in, and in which place."""

from __future__ import annotations

__all__ = ["Slot", "Slots", "followed", "heirs_of", "parts_of", "slots_of"]

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.optim import Optimizer

from torchgraft.morph.edits import Branches
from torchgraft.morph.growing.records import Stage


@dataclass(frozen=True, slots=True, eq=False)
class Slot:
    """A place in a group: the ``key`` of the parameter in the model, ``None`` for one that is not the model's."""

    key: str | None
    parameter: Tensor


#: The slots of every group of an optimizer.
Slots = Sequence[Sequence[Slot]]


def slots_of(optimizer: Optimizer, model: nn.Module) -> Slots:
    """Return the slots of an optimizer as they are; a tied parameter has its first key."""
    keys = {id(parameter): key for key, parameter in model.named_parameters()}
    return [[Slot(keys.get(id(one)), one) for one in group["params"]] for group in optimizer.param_groups]


def followed(slots: Slots, stage: Stage) -> tuple[Slots, Mapping[str, int]]:
    """Return the slots after an edit, and the groups of parameters that are new.

    A parameter stays in the place of the one that it comes from. A new one joins the group of the parameter whose place
    it takes, or else of the last one of its sort before it, and stands there in the order of the model. Where the
    optimizer does not hold that one, it does not hold the new one either.
    """
    parameters, heirs = dict(stage.target.named_parameters()), heirs_of(stage)
    found: list[list[Slot]] = [[] for _ in slots]
    for group, made in zip(slots, found, strict=True):
        for slot in group:
            made += [slot] if slot.key is None else [Slot(key, parameters[key]) for key in heirs[slot.key][:1]]
    order = {key: place for place, key in enumerate(parameters)}
    origin = {key: source for source, several in heirs.items() for key in several}
    numbers = {slot.key: number for number, group in enumerate(slots) for slot in group if slot.key is not None}
    joined: dict[str, int] = {}
    placed = {slot.key for group in found for slot in group}
    for key in order:
        like = origin.get(key) or _replaced(key, parameters[key], heirs, stage.source)
        like = like or origin.get(_nearest(key, list(origin), parameters))
        if key not in placed and like in numbers:
            joined[key] = numbers[like]
            _insert(found[joined[key]], Slot(key, parameters[key]), order)
    return found, joined


def heirs_of(stage: Stage) -> Mapping[str, Sequence[str]]:
    """Return the parameters that come from each parameter of the source: the first one continues it, others are new.

    A tied parameter has its first key.
    """
    first = {id(one): key for key, one in stage.source.named_parameters()}
    keys = {key: first[id(one)] for key, one in stage.source.named_parameters(remove_duplicate=False)}
    found: dict[str, list[str]] = {key: [] for key in first.values()}
    planned = {one.key: one.source for one in stage.report.plan.tensors}
    planned.update({key: (source,) for key, source in parts_of(stage).items()})
    for key, _ in stage.target.named_parameters():
        sources = [keys[one] for one in planned.get(key, ()) if one in keys]
        if sources:
            found[sources[0]].append(key)
    return found


def parts_of(stage: Stage) -> Mapping[str, str]:
    """Return the parameters of layers whose sum stands in the place of one like them, each with that of the one.

    So each has its gradient.
    """
    before = {key: one.shape for key, one in stage.source.named_parameters()}
    made = stage.target.get_submodule(stage.edit.path) if stage.edit.name == "branch" else None
    name = _SHARE if isinstance(made, Branches) and not made.factors else _DIRECT
    after = {key: name.sub(".", key) for key, _ in stage.target.named_parameters() if name.search(key)}
    return {
        key: source
        for key, source in after.items()
        if before.get(source) == stage.target.get_parameter(key).shape and _owner(source) == stage.edit.path
    }


# The name that an edge from source to sink has in a module made of a layer.
_DIRECT = re.compile(r"\.edges\.s_t(_again)*\.")
# The name of a branch, which is the layer times its share.
_SHARE = re.compile(r"\.\d+\.(?=[^.]+$)")


def _replaced(key: str, parameter: Tensor, heirs: Mapping[str, Sequence[str]], source: nn.Module) -> str | None:
    """Return the parameter that is gone and in whose layer's place the one at ``key`` stands, if there is one."""
    gone = [one for one, several in heirs.items() if not several and key.startswith(f"{_owner(one)}.")]
    return min(gone, key=lambda one: _unlike(key, parameter, one, source.get_parameter(one)), default=None)


def _nearest(key: str, others: Sequence[str], parameters: Mapping[str, Tensor]) -> str:
    """Return the parameter of the same sort (a matrix or not, its name) that comes next before it, else next behind."""
    order = {one: place for place, one in enumerate(parameters)}

    def apart(other: str) -> tuple[tuple[bool, bool], bool, int]:
        behind = order[other] - order[key]
        return _unlike(key, parameters[key], other, parameters[other]), behind > 0, abs(behind)

    return min(others, key=apart, default="")


def _unlike(key: str, one: Tensor, other_key: str, other: Tensor) -> tuple[bool, bool]:
    return (one.ndim > 1) != (other.ndim > 1), _role(key) != _role(other_key)


def _insert(group: list[Slot], slot: Slot, order: Mapping[str, int]) -> None:
    """Put a slot behind the last one that comes before it in the model, so that a group in that order stays so."""
    places = [-1 if one.key is None else order[one.key] for one in group]
    before = [number for number, place in enumerate(places) if 0 <= place < order[str(slot.key)]]
    group.insert(max(before, key=places.__getitem__, default=-1) + 1, slot)


def _owner(key: str) -> str:
    return key.rpartition(".")[0]


def _role(key: str) -> str:
    return key.rpartition(".")[2]

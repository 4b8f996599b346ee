"""Which parameter of an optimizer is which tensor of a plan: by module, by recorded name, or by shape."""

from __future__ import annotations

__all__ = ["Held", "held_by"]

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from torchgraft.errors import ApplyError
from torchgraft.names import strip_wrappers
from torchgraft.network import unwrap
from torchgraft.records import Shape


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """A parameter of an optimizer: its key, itself, and the group that holds its hyperparameters."""

    key: str
    parameter: Tensor
    group: Mapping[str, Any]


def held_by(
    optimizer: Optimizer, module: nn.Module | None, shapes: Mapping[str, Shape], *, ordered: bool, side: str
) -> dict[str, Held]:
    """Return the parameters of ``optimizer`` by key; a tied one stands under each of its keys, the first one first.

    Args:
        optimizer: any optimizer, with any groups.
        module: the module that the plan was made for, if it is known.
        shapes: the plan's tensors on this side, by key.
        ordered: whether ``shapes`` holds all parameters of the network, in its order.
        side: ``"source"`` or ``"target"``, for messages.

    Raises:
        ApplyError: the parameters cannot be told apart, or belong to another network.
    """
    if module is not None:
        found = _by_module(optimizer, unwrap(module))
    elif all(len(group.get("param_names") or ()) == len(group["params"]) for group in optimizer.param_groups):
        found = _by_name(optimizer)
    else:
        found = _by_shape(optimizer, shapes, ordered, side)
    if shapes and not any(key in shapes for key in found):
        raise ApplyError(
            f"no parameter of the {side}'s optimizer is one of the plan's {side}: "
            f"pass {side}=, the module that the plan was made for and that the optimizer trains"
        )
    return found


def _held(optimizer: Optimizer) -> Iterator[tuple[Tensor, Mapping[str, Any]]]:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            yield parameter, group


def _by_module(optimizer: Optimizer, module: nn.Module) -> dict[str, Held]:
    keys: dict[int, list[str]] = {}
    for key, parameter in module.named_parameters(remove_duplicate=False):
        keys.setdefault(id(parameter), []).append(key)
    found: dict[str, Held] = {}
    for number, (held, group) in enumerate(_held(optimizer)):
        for key in keys.get(id(held), [_nameless(number)]):
            found[key] = Held(key, held, group)
    return found


def _by_name(optimizer: Optimizer) -> dict[str, Held]:
    names = [name for group in optimizer.param_groups for name in group["param_names"]]
    keys = strip_wrappers(names)
    pairs = zip(names, _held(optimizer), strict=True)
    return {keys[name]: Held(keys[name], parameter, group) for name, (parameter, group) in pairs if name in keys}


def _by_shape(optimizer: Optimizer, shapes: Mapping[str, Shape], ordered: bool, side: str) -> dict[str, Held]:
    """Tell parameters by their shape; several of one shape by their order, where it is that of the plan.

    That is so where one group holds them all, among others in the order of the network.
    """
    keys: dict[Shape, list[str]] = {}
    for key, shape in shapes.items():
        keys.setdefault(shape, []).append(key)
    held = list(_held(optimizer))
    homes: dict[Shape, list[int]] = {}
    for parameter, group in held:
        homes.setdefault(tuple(parameter.shape), []).append(id(group))
    settled = {id(group) for group in optimizer.param_groups if ordered and _is_in_order(group["params"], shapes)}
    for shape in homes.keys() & keys.keys():
        alone = len(homes[shape]) == len(keys[shape]) == 1
        if not alone and not (len(set(homes[shape])) == 1 and homes[shape][0] in settled):
            told = "×".join(map(str, shape)) or "a scalar"
            raise ApplyError(
                f"which of the {side}'s parameters of shape {told} is which cannot be told without their names: pass "
                f"{side}=, the module, or build the optimizer from named_parameters()"
            )
    found: dict[str, Held] = {}
    for number, (parameter, group) in enumerate(held):
        named = keys.get(tuple(parameter.shape))
        key = named.pop(0) if named else _nameless(number)
        found[key] = Held(key, parameter, group)
    return found


def _is_in_order(parameters: Sequence[Tensor], shapes: Mapping[str, Shape]) -> bool:
    """Tell whether a group holds every tensor of the plan that has one of its shapes, in the plan's order."""
    given = [tuple(parameter.shape) for parameter in parameters]
    return given == [shape for shape in shapes.values() if shape in set(given)]


def _nameless(number: int) -> str:
    return f"parameter {number} of the optimizer"

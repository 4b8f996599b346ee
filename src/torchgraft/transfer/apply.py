"""From a plan to weights: the only place, with ``initialise``, that writes into a target."""

from __future__ import annotations

__all__ = ["Values", "apply_plan", "stored_tensors"]

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from operator import attrgetter

import torch
from torch import Tensor, nn

from torchgraft.errors import ApplyError, choose
from torchgraft.plan import Plan, Report
from torchgraft.records import Shape, TensorPlan, TensorSpec, Transfer
from torchgraft.transfer.following import follow
from torchgraft.transfer.initialise import materialize
from torchgraft.transfer.narrowing import Narrowing, settle
from torchgraft.transfer.operators import CUSTOM, OPERATORS, Operator, along_outputs, part_of, place_units, seen
from torchgraft.transfer.parametrized import computed_value, set_computed, unsettable
from torchgraft.transfer.passages import pass_on
from torchgraft.transfer.prepare import PREPARATIONS, check_available, class_axis, mapped_rows
from torchgraft.transfer.rules import check_labels

#: Returns the tensor of a key, from a module, a state dict or a file.
Values = Callable[[str], Tensor]


def stored_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and persistent buffers of ``module`` by key: its state dict, not detached."""
    return _gathered(module)[0]


def _gathered(module: nn.Module) -> tuple[dict[str, Tensor], bool]:
    """Return the stored tensors by key, and whether any tensor, stored or not, is on the meta device."""
    tensors: dict[str, Tensor] = {}
    others: list[Tensor] = []
    stack = [("", module.__dict__)]  # asking the modules themselves would cost twice as much
    while stack:
        prefix, held = stack.pop()
        for name, parameter in held["_parameters"].items():
            if parameter is not None:
                tensors[prefix + name] = parameter
        for name, buffer in held["_buffers"].items():
            if buffer is not None and name not in held["_non_persistent_buffers_set"]:
                tensors[prefix + name] = buffer
            elif buffer is not None:
                others.append(buffer)
        for name, child in reversed(held["_modules"].items()):
            if child is not None:
                inner = child.__dict__
                if inner["_parameters"] or inner["_buffers"] or inner["_modules"]:
                    stack.append((f"{prefix}{name}.", inner))
    return tensors, any(map(attrgetter("is_meta"), (*tensors.values(), *others)))


def apply_plan(
    plan: Plan,
    values: Values,
    shape_of: Callable[[str], Shape | None],
    target: nn.Module,
    *,
    operator: Operator | None = None,
    narrowing: Narrowing | None = None,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Report:
    """Write the planned weights into ``target``.

    Args:
        plan: what to do.
        values: gives a source tensor by key.
        shape_of: gives the shape of a source tensor by key, ``None`` where there is none; the plan is checked against
            it before anything is written.
        target: the module to warm-start, in place; materialized where it is on the meta device.
        operator: the function behind a plan that was made with one of the user's own.
        narrowing: the same for the rule that says which units are kept.
        seed: seed of the draws of ``full`` and of a meta target's initialization.
        progress: called with the key of each finished target layer.

    Raises:
        ApplyError: the plan does not fit the source or the target, which is untouched then.
    """
    tensors, hollow = _gathered(target)
    _check_target(plan, tensors)
    _check_source(plan, shape_of)
    function = operator or _operator(plan)
    _check_moves(plan, target, tensors)
    with torch.no_grad():
        plan = settle(plan, values, narrowing)
    fresh: frozenset[str] = frozenset()
    if hollow:
        # What an operator of the user's own leaves out is not known, so everything is initialized before it.
        trusted = operator is None
        settled = {one.key for one in plan.tensors if one.source or one.status == "silenced"}
        served = {one.key for one in plan.tensors if trusted and one.key in settled and one.elements >= one.size}
        fresh = materialize(target, served, seed)
        tensors = stored_tensors(target)
    work = _Work(plan, function, torch.Generator().manual_seed(seed), values, tensors, target, progress)
    rest = plan.transfers if operator is not None else _place(work)
    with torch.no_grad():
        for transfer in rest:
            _operate(transfer, work)
            work.tell(transfer)
        for fill in plan.fills:
            tensors[fill.key].fill_(fill.value)
        for passage in plan.passages:
            pass_on(passage, tensors)
        follow(plan, values, tensors)
    for setting in plan.settings:
        setattr(target.get_submodule(setting.path), setting.attribute, setting.value)
    return Report(_outcome(plan.tensors, fresh) if fresh else plan.tensors, plan)


def _operator(plan: Plan) -> Operator:
    if plan.operator.startswith(CUSTOM):
        name = plan.operator.removeprefix(CUSTOM)
        raise ApplyError(f"the plan was made with an operator of your own, {name}: pass it again as operator={name}")
    return choose(OPERATORS, plan.operator, "operator")


def _outcome(tensors: Sequence[TensorPlan], fresh: frozenset[str]) -> tuple[TensorPlan, ...]:
    return tuple(
        replace(tensor, status="initialised", reason=f"{tensor.reason}; by the target's own code")
        if tensor.status == "kept" and tensor.key in fresh
        else tensor
        for tensor in tensors
    )


@dataclass(frozen=True, slots=True)
class _Work:
    """What stays the same from layer to layer while a plan is carried out."""

    plan: Plan
    operator: Operator
    generator: torch.Generator
    values: Values
    tensors: Mapping[str, Tensor]
    target: nn.Module
    progress: Callable[[str], None] | None

    def tell(self, transfer: Transfer) -> None:
        """Say that a layer is done."""
        if self.progress is not None:
            self.progress(transfer.target)


# Elements that may wait to be written: what waits of a file is held in memory, so it is a share that nobody misses.
_WAITING = 1 << 16


def _place(work: _Work) -> list[Transfer]:
    """Write the stored tensors whose place is plain arithmetic on two shapes, nearly all; return what is left to do.

    Torch is asked once for many of them: the calls would cost as much as the copies.
    """
    rest: list[Transfer] = []
    boxes: list[tuple[Tensor, Tensor]] = []
    silent: list[Tensor] = []
    waiting = 0
    stored, values = work.tensors.get, work.values
    with torch.inference_mode():  # where a view costs less
        for transfer in work.plan.transfers:
            left = []
            for move in transfer.moves:
                windows = move.windows
                whole = None if windows is None else stored(move.target.key)
                value = None if whole is None else values(move.source.key)
                if windows is None or whole is None or value is None or not whole.ndim == value.ndim == windows.rank:
                    left.append(move)  # a convolution seen as a matrix, say
                    continue
                for rim in windows.silent:
                    silent.append(seen(whole, rim))
                waiting += value.numel()  # all of it is held, however little is read
                if windows.into.steps:
                    whole = seen(whole, windows.into)
                if windows.out_of.steps:
                    value = seen(value, windows.out_of)
                boxes.append((whole, value))
            if waiting > _WAITING:
                _write(silent, boxes)
                waiting = 0
            if left:
                rest.append(replace(transfer, moves=tuple(left)))
            else:
                work.tell(transfer)
        _write(silent, boxes)
    return rest


def _write(silent: list[Tensor], boxes: list[tuple[Tensor, Tensor]]) -> None:
    """Set the first to zero and copy into the others, and forget them."""
    if silent:
        torch._foreach_zero_(silent)
    if boxes:
        torch._foreach_copy_([into for into, _ in boxes], [out_of for _, out_of in boxes])
    silent.clear()
    boxes.clear()


def _operate(transfer: Transfer, work: _Work) -> None:
    """Write the moves of a layer that need more: parts, units, preparations, computed weights, other operators."""
    into: dict[str, Tensor] = {}
    out_of: dict[str, Tensor] = {}
    finish: list[Callable[[], object]] = []
    moves = []
    for move in transfer.moves:
        whole = work.tensors.get(move.target.key)
        if whole is None:
            whole = computed_value(work.target, move.target.key).clone()
            finish.append(partial(set_computed, work.target, move.target.key, whole))
        view, value = part_of(whole, move.target), part_of(work.values(move.source.key), move.source)
        if move.fold:
            value = value.to(torch.promote_types(value.dtype, view.dtype))  # rounded once, when it is written
            value = value * along_outputs(work.values(move.fold).to(value), value, transfer.kind, move)
        if move.operator == "copy":
            view.copy_(value)
            continue
        if "select_labels" in move.prepare:
            axis, rows = mapped_rows(view, move, work.plan.labels)
            chosen = view.index_select(axis, rows)
            finish.insert(0, partial(view.index_copy_, axis, rows, chosen))
            view = chosen
        for name in move.prepare:
            value = PREPARATIONS[name](value, view, move, work.plan.labels)
        if move.layout:
            scale = work.values(move.scale).flatten() if move.scale else None
            place_units(view, value, transfer.kind, move, work.plan.maps, scale)
            continue
        into[move.target.role], out_of[move.target.role] = view, value
        moves.append(move)
    if moves:
        work.operator(into, out_of, replace(transfer, moves=tuple(moves)), work.generator)
    for step in finish:
        step()


def _check_target(plan: Plan, tensors: Mapping[str, Tensor]) -> None:
    if len(plan.tensors) == len(tensors) and all(
        one.key in tensors and tensors[one.key].shape == one.shape for one in plan.tensors
    ):
        return
    planned = {tensor.key: tensor.shape for tensor in plan.tensors}
    actual = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    key = next(key for key in (*planned, *actual) if planned.get(key) != actual.get(key))
    raise ApplyError(
        f"the plan was made for another target: {key} is {_told(planned.get(key))} in the plan and "
        f"{_told(actual.get(key))} in the model; make the plan anew"
    )


def _check_moves(plan: Plan, target: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Find before anything is written what a move would stumble over."""
    moves = [move for transfer in plan.transfers for move in transfer.moves]
    prepared = [move for move in moves if move.prepare]
    check_available(prepared)
    for move in prepared:
        if "select_labels" in move.prepare:
            check_labels(plan.labels, class_axis(move), move.target, move.source)
    for move in moves:
        if move.target.key not in tensors and unsettable(target, move.target.key):
            raise ApplyError(
                f"{move.target.key} is computed by a parametrization without right_inverse: "
                "give it one, or exclude the layer"
            )


def _check_source(plan: Plan, shape_of: Callable[[str], Shape | None]) -> None:
    for transfer in plan.transfers:
        for move in transfer.moves:
            lacking = next((one for one in (move.scale, move.fold) if one and shape_of(one) is None), None)
            actual = None if lacking else shape_of(move.source.key)
            if actual == move.source.shape:
                continue
            key = lacking or move.source.key
            if actual is None:
                raise ApplyError(f"the plan was made for another source: it has no tensor {key}; make the plan anew")
            shape = _stored_shape(move.source)
            if len(shape) == len(actual):
                fits = all(size in (None, other) for size, other in zip(shape, actual, strict=True))
            else:
                fits = prod(actual) == move.source.size
            if not fits:
                raise ApplyError(
                    f"the plan was made for another source: {key} is {_told(move.source.shape)} in the plan and "
                    f"{_told(actual)} in the source; make the plan anew"
                )


def _stored_shape(spec: TensorSpec) -> list[int | None]:
    """Shape of the stored tensor as far as the part tells it: the axis it was cut from may be longer."""
    shape: list[int | None] = list(spec.shape[::-1] if spec.transpose else spec.shape)
    if spec.part is not None:
        shape[spec.part.axis] = None
    return shape


def _told(shape: Sequence[int] | None) -> str:
    return "missing" if shape is None else "×".join(map(str, shape)) or "a scalar"

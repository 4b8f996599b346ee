"""Move an optimizer's state: everything is read, checked and computed first, then written."""

from __future__ import annotations

__all__ = ["transfer_optimizer"]

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from math import prod

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from torchgraft.errors import ApplyError, choose
from torchgraft.network import unwrap
from torchgraft.optim.holding import Held, held_by
from torchgraft.optim.moments import copies_of
from torchgraft.optim.report import OptimizerReport
from torchgraft.optim.states import FRESH, Fill, State, Work, state_of
from torchgraft.origin import module_weights
from torchgraft.plan import Plan, Report, as_plan
from torchgraft.records import Move, Shape, TensorSpec, Transfer
from torchgraft.transfer.narrowing import settle
from torchgraft.transfer.prepare import check_available
from torchgraft.transfer.rules import CENTRED

# Optimizers that keep the same state without one being derived from the other, up to torch 2.6.
_ALIKE = ({"Adam", "AdamW"},)


def transfer_optimizer(
    plan: Plan | Report,
    source_opt: Optimizer,
    target_opt: Optimizer,
    *,
    source: nn.Module | None = None,
    target: nn.Module | None = None,
    fresh: str = "mean",
) -> OptimizerReport:
    """Give the target's optimizer the momenta and second moments of the source's, by the moves of the weights.

    State tensors of a parameter's shape go where its elements go, scaled as their gradients are; new units start with
    zeros. Numbers such as ``step`` are copied. Hyperparameters stay, and so does state that nothing is moved into, so
    give an optimizer that has taken no steps. Neither model is read or written: apply the plan for itself.

    Args:
        plan: from :func:`torchgraft.plan`, or the report of the transfer. Units that a plan leaves to the weights are
            chosen by those that the source has now, so give the report where it has been trained on meanwhile.
        source_opt: optimizer of the source: SGD, Adam, AdamW, or any other one with state per parameter.
        target_opt: optimizer of the target of the same type, in place; its groups may be split in any other way.
        source: the module that ``source_opt`` trains. It may be left out where the optimizer was built from
            ``named_parameters()``, or where every shape occurs once.
        target: the module that ``target_opt`` trains. It may be left out in the same cases, or where the parameters of
            each shape are in one group, in their order.
        fresh: what second moments hold for new units: ``"mean"``, the mean of those that moved into the same tensor, or
            ``"zero"``. Adam divides by their root, so that after zero the first steps of new units are up to seven
            times as long as the learning rate.

    Raises:
        SpecError: ``fresh`` is neither.
        ApplyError: the two optimizers differ in type, their parameters cannot be told apart or are not those of the
            plan, or the plan's operator chooses units by the values of weights, tensor by tensor; nothing is changed
            then.

    >>> from torch import nn
    >>> import torchgraft as tg
    >>> small, wide = nn.Linear(4, 2), nn.Linear(4, 3)
    >>> first, second = (torch.optim.Adam(one.named_parameters()) for one in (small, wide))
    >>> small(torch.ones(1, 4)).sum().backward()
    >>> first.step()
    >>> print(tg.transfer_optimizer(tg.plan(small, wide), first, second))
    Adam: 2 of 2 parameters have state from the source (exp_avg, exp_avg_sq, step)
    >>> second.state[wide.bias]["exp_avg"]
    tensor([0.1000, 0.1000, 0.0000])
    """
    _check_types(source_opt, target_opt)
    fill = choose(FRESH, fresh, "value for new units")
    work = _prepare(plan, source_opt, target_opt, source, target, fill)
    made: dict[str, State] = {}
    left: list[tuple[str, str]] = []
    with torch.no_grad():
        for key, held in work.targets.items():
            state = state_of(key, held, work)
            if isinstance(state, str):
                left.append((key, state))
            else:
                made[key] = state
    for key, state in made.items():
        target_opt.state[work.targets[key].parameter] = state
    names = dict.fromkeys(name for state in made.values() for name in sorted(state))
    return OptimizerReport(type(target_opt).__name__, tuple(made), tuple(left), tuple(names), tuple(work.notes))


def _check_types(source: Optimizer, target: Optimizer) -> None:
    a, b = type(source), type(target)
    if issubclass(a, b) or issubclass(b, a) or any({a.__name__, b.__name__} <= names for names in _ALIKE):
        return
    raise ApplyError(
        f"the state of {a.__name__} means nothing to {b.__name__}: give both networks optimizers of the same type"
    )


def _prepare(
    plan: Plan | Report,
    source_opt: Optimizer,
    target_opt: Optimizer,
    source: nn.Module | None,
    target: nn.Module | None,
    fill: Fill,
) -> Work:
    plan = as_plan(plan)
    moves: dict[str, list[tuple[Transfer, Move]]] = {}
    shapes: dict[str, Shape] = {}
    for transfer, move in _moves(plan):
        moves.setdefault(move.target.key, []).append((transfer, move))
        shapes[move.source.key] = _stored(move.source)
        if move.fold:
            shapes[move.fold] = (move.source.shape[0],)
    check_available(move for several in moves.values() for _, move in several)
    planned = {one.key: one for one in plan.tensors if not one.buffer}
    own = {one.key: one.shape for one in planned.values() if one.tied is None}
    sources = held_by(source_opt, source, shapes, ordered=False, side="source")
    targets = held_by(target_opt, target, own, ordered=True, side="target")
    first = {id(held.parameter): key for key, held in reversed(targets.items())}
    targets = {key: held for key, held in targets.items() if first[id(held.parameter)] == key}
    for key, held in targets.items():
        if key in planned and planned[key].shape != held.parameter.shape:
            raise ApplyError(f"{key} has another shape in the plan than in the target's optimizer; make the plan anew")
    for _, move in _moves(plan):
        key = move.source.key
        if key in sources and not _fits(move.source, sources[key].parameter.shape):
            raise ApplyError(f"{key} has another shape in the plan than in the source's optimizer; make the plan anew")
    plan = settle(plan, partial(_value, sources) if source is None else module_weights(unwrap(source)).values)
    return Work(plan, sources, targets, moves, planned, copies_of(plan), source_opt.state, fill)


def _value(sources: Mapping[str, Held], key: str) -> Tensor:
    """Return a weight that decides which units are kept."""
    if key not in sources:
        raise ApplyError(
            f"which units are kept is decided by {key}, which the source's optimizer does not hold: give the report of "
            "the transfer as the plan, or pass source=, the module"
        )
    return sources[key].parameter


def _moves(plan: Plan) -> Iterator[tuple[Transfer, Move]]:
    """Yield the moves of parameters from layers that serve no other layer better.

    Raises:
        ApplyError: one chooses units by values that an optimizer does not know.
    """
    for transfer in plan.transfers:
        for move in transfer.moves:
            if move.target.buffer or transfer.reused:
                continue
            if move.operator not in CENTRED:  # what ``full`` draws at random starts at zero
                raise ApplyError(
                    f"the state of an optimizer cannot follow the operator {move.operator}, which does not put the "
                    f"centre into the centre: make the plan with one of {', '.join(sorted(CENTRED - {'copy'}))}"
                )
            yield transfer, move


def _stored(spec: TensorSpec) -> Shape:
    """Shape of the stored tensor; of one that is cut, ``(-1,)``, which no tensor has."""
    return (-1,) if spec.part is not None else spec.shape[::-1] if spec.transpose else spec.shape


def _fits(spec: TensorSpec, shape: Sequence[int]) -> bool:
    seen = spec.shape[::-1] if spec.transpose else spec.shape
    if len(seen) != len(shape):
        return prod(shape) == spec.size
    cut = spec.part
    return all(
        size == other or (cut is not None and axis == cut.axis and other >= cut.stop)
        for axis, (size, other) in enumerate(zip(seen, shape, strict=True))
    )

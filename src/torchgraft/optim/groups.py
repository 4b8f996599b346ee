"""Learning rates by origin: what came from the source may learn more slowly than what is new."""

from __future__ import annotations

__all__ = ["parameter_groups", "share_of", "transferred_keys"]

import math
from typing import Any

from torch import nn

from torchgraft.errors import ApplyError, SpecError
from torchgraft.kinds import DIMENSIONAL
from torchgraft.network import unwrap
from torchgraft.plan import Plan, Report, as_plan
from torchgraft.records import Transfer

_GENTLE = 0.25


def parameter_groups(
    report: Plan | Report, target: nn.Module, *, lr: float, transferred: float | None = None
) -> list[dict[str, Any]]:
    """Group the target's parameters for an optimizer: those from the source may get a share of the learning rate.

    A rate that suits freshly drawn weights makes a trained function forget in its first epoch what an exact start has
    kept; a quarter of it does not, and tensors that are new still learn at the full rate. Where the target does not
    compute the source's function, or has other classes, all weights have to learn, and one rate for all is better: both
    are measured (docs/results/trained.md), and the default follows.

    Args:
        report: of the transfer, or its plan.
        target: the module that the plan was made for.
        lr: the learning rate of what is new.
        transferred: the share of it for the rest; ``None``: a quarter where the plan is exact and the
            classes are the same, else all of it.

    Returns:
        At most two groups, ``{"params": [...], "lr": ...}``, for any optimizer of torch: what came from the source,
        then what is new. A tensor that is partly new is of the first; what needs no gradient is in neither. Schedulers
        keep the ratio.

    Raises:
        SpecError: a rate or a share that is not a positive number.
        ApplyError: the plan was made for another target.

    >>> import torch, torchgraft as tg
    >>> small = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> deep = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> report = tg.transfer(small, deep, inputs=torch.zeros(1, 4))
    >>> optimizer = torch.optim.AdamW(tg.parameter_groups(report, deep, lr=1e-3))
    >>> [(len(group["params"]), group["lr"]) for group in optimizer.param_groups]
    [(6, 0.00025)]
    """
    plan = as_plan(report)
    share = share_of(plan) if transferred is None else transferred
    for name, value in (("lr", lr), ("transferred", share)):
        if not (isinstance(value, int | float) and math.isfinite(value) and value > 0):
            raise SpecError(f"{name} is {value!r}: give a number above 0")
    planned = {one.key: one.shape for one in plan.tensors}
    keys = transferred_keys(plan)
    old, new = list[nn.Parameter](), list[nn.Parameter]()
    for key, parameter in unwrap(target).named_parameters():
        if planned.get(key) != tuple(parameter.shape):
            size = "×".join(map(str, parameter.shape)) or "one number"
            raise ApplyError(f"the plan was made for another target: it has no {key} of {size}; make the plan anew")
        if parameter.requires_grad:
            (old if key in keys else new).append(parameter)
    groups = [{"params": old, "lr": lr * share}, {"params": new, "lr": lr}]
    return [group for group in groups if group["params"]]


def share_of(report: Plan | Report) -> float:
    """Return the share of the learning rate that suits what was transferred: a quarter where nothing is to be learnt.

    >>> import torch, torchgraft as tg
    >>> def perceptron(width, classes):
    ...     return nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, classes))
    >>> targets = perceptron(12, 2), perceptron(6, 2), perceptron(12, 3)  # wider, narrower, of other classes
    >>> [share_of(tg.plan(perceptron(8, 2), target, inputs=torch.zeros(1, 4))) for target in targets]
    [0.25, 1.0, 1.0]
    """
    plan = as_plan(report)
    return _GENTLE if plan.exact and not any(map(_answers_more, plan.transfers)) else 1.0


def _answers_more(transfer: Transfer) -> bool:
    """Tell whether a head has other classes than the source's: it stays the same function of those that both have."""
    heads = [move for move in transfer.moves if 0 in move.lead or "select_labels" in move.prepare]
    return transfer.kind in DIMENSIONAL and any(one.target.shape[0] != one.source.shape[0] for one in heads)


def transferred_keys(report: Plan | Report) -> frozenset[str]:
    """Return the keys of the target's tensors that hold values of the source, or give on what these make.

    >>> import torchgraft as tg
    >>> sorted(transferred_keys(tg.plan(nn.Linear(4, 2), nn.Linear(4, 3))))
    ['bias', 'weight']
    """
    plan = as_plan(report)
    passing = {key for one in plan.passages if not one.gate for key in one.keys}
    return frozenset(one.key for one in plan.tensors if one.source or one.key in passing)

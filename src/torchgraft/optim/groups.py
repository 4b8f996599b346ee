"""Learning rates by origin: what came from the source may learn more slowly than what is new."""

from __future__ import annotations

__all__ = ["parameter_groups", "transferred_keys"]

import math
from typing import Any

from torch import nn

from torchgraft.errors import ApplyError, SpecError
from torchgraft.network import unwrap
from torchgraft.plan import Plan, Report


def parameter_groups(
    report: Plan | Report, target: nn.Module, *, lr: float, transferred: float = 0.25
) -> list[dict[str, Any]]:
    """Group the target's parameters for an optimizer: those from the source get a share of the learning rate.

    A rate that suits freshly drawn weights makes a trained function forget in its first epoch what an exact start has
    kept; a quarter of it does not, and new units and blocks still learn at the full rate. It is meant for the task of
    the source: where the head is new, all weights have to learn, and one rate for all is better (docs/optimizer.md has
    the figures of both).

    Args:
        report: of the transfer, or its plan.
        target: the module that the plan was made for.
        lr: the learning rate of what is new.
        transferred: the share of it for the rest.

    Returns:
        At most two groups, ``{"params": [...], "lr": ...}``, for any optimizer of torch: what came from the source,
        then what is new. A tensor that is partly new is of the first; what needs no gradient is in neither. Schedulers
        keep the ratio.

    Raises:
        SpecError: a rate or a share that is not a positive number.
        ApplyError: the plan was made for another target.

    >>> import torch, torchgraft as tg
    >>> small = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> deep = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.LayerNorm(8))
    >>> report = tg.transfer(small, deep, exclude_target=["2", "4"])
    >>> optimizer = torch.optim.AdamW(tg.parameter_groups(report, deep, lr=1e-3), lr=1e-3)
    >>> [(len(group["params"]), group["lr"]) for group in optimizer.param_groups]
    [(2, 0.00025), (6, 0.001)]
    """
    for name, value in (("lr", lr), ("transferred", transferred)):
        if not (isinstance(value, int | float) and math.isfinite(value) and value > 0):
            raise SpecError(f"{name} is {value!r}: give a number above 0")
    plan = report.plan if isinstance(report, Report) else report
    planned = {one.key: one.shape for one in plan.tensors}
    keys = transferred_keys(plan)
    old, new = list[nn.Parameter](), list[nn.Parameter]()
    for key, parameter in unwrap(target).named_parameters():
        if planned.get(key) != tuple(parameter.shape):
            raise ApplyError(f"the plan was made for another target: it does not know {key}; make the plan anew")
        if parameter.requires_grad:
            (old if key in keys else new).append(parameter)
    groups = [{"params": old, "lr": lr * transferred}, {"params": new, "lr": lr}]
    return [group for group in groups if group["params"]]


def transferred_keys(report: Plan | Report) -> frozenset[str]:
    """Return the keys of the target's tensors that hold values of the source, or give on what these make.

    >>> import torchgraft as tg
    >>> sorted(transferred_keys(tg.plan(nn.Linear(4, 2), nn.Linear(4, 3))))
    ['bias', 'weight']
    """
    plan = report.plan if isinstance(report, Report) else report
    passing = {key for one in plan.passages if not one.gate for key in one.keys}
    return frozenset(one.key for one in plan.tensors if one.source or one.key in passing)

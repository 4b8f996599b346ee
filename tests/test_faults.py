"""A failure of the model's own code is told apart from one of ours: the first costs a note, the second is raised."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import torchgraft as tg
from torchgraft.axes import axis_groups, groups, rules
from torchgraft.axes.shadow import called, copy_of, ours
from torchgraft.errors import GraftError, InputsError, RunError
from torchgraft.recent import Recent
from torchgraft.verify import places


class Failing(nn.Sequential):
    """Asks for something that no guess has."""

    def forward(self, x: Tensor) -> Tensor:
        raise ZeroDivisionError("of my own")


class Forgiving(nn.Sequential):
    """Catches what its layers raise."""

    def forward(self, x: Tensor) -> Tensor:
        try:
            return super().forward(x)
        except Exception:
            return x


def mlp(width: int, kind: type[nn.Sequential] = nn.Sequential) -> nn.Sequential:
    return kind(nn.Linear(3, width), nn.Tanh(), nn.Linear(width, 2))


def broken(*_: Any) -> None:
    raise KeyError("a fault of ours")


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "_KEPT", Recent(1))


def test_a_model_that_fails_is_cut_tensor_by_tensor_and_the_plan_says_why() -> None:
    found = tg.plan(mlp(4), mlp(8, Failing), inputs=torch.zeros(1, 3))
    assert found.coverage > 0
    assert found.notes == (
        "every tensor is cut for itself: the target could not be run: Failing failed with ZeroDivisionError: of my own",
    )
    assert tg.plan(mlp(4), mlp(8, Failing)).notes == (
        "every tensor is cut for itself: the target runs on no input that was guessed: pass inputs=",
    )


def test_the_error_of_a_model_is_the_cause() -> None:
    with pytest.raises(RunError, match="Failing failed with ZeroDivisionError: of my own") as caught:
        axis_groups(mlp(4, Failing), [torch.zeros(1, 3)])
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert issubclass(RunError, GraftError)
    with pytest.raises(InputsError, match=r"does not run on .*: ZeroDivisionError: of my own; pass inputs="):
        tg.verify(mlp(4), mlp(4, Failing), tg.plan(mlp(4), mlp(4, Failing), inputs=torch.zeros(1, 3)), torch.ones(2, 3))


def test_a_model_that_cannot_be_copied_is_cut_tensor_by_tensor() -> None:
    held = mlp(8)
    held.lock = threading.Lock()
    with pytest.raises(GraftError, match=r"Sequential cannot be copied \(TypeError: .*lock"):
        copy_of(held)
    (note,) = tg.plan(held, mlp(9)).notes
    assert "the source could not be run" in note
    assert "lock" in note


def test_an_error_in_our_own_code_is_raised_as_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "branches", broken)
    with pytest.raises(KeyError, match="a fault of ours") as caught:
        tg.plan(mlp(4), mlp(8))
    assert caught.value.__notes__ == ["torchgraft could not find the axis groups of the target: please report this"]


@pytest.mark.parametrize("kind", [nn.Sequential, Forgiving])
def test_an_error_of_ours_inside_the_run_of_a_model_is_raised_as_itself(
    monkeypatch: pytest.MonkeyPatch, kind: type[nn.Sequential]
) -> None:
    source, target = mlp(4, kind), mlp(8, kind)
    report = tg.transfer(source, target)
    monkeypatch.setattr(places, "_first", broken)
    with pytest.raises(KeyError, match="a fault of ours"):
        tg.verify(source, target, report, torch.ones(2, 3))


def test_a_mark_changes_nothing_else() -> None:
    @ours
    def double(number: int) -> int:
        """Twice."""
        return 2 * number

    assert double(3) == 6
    assert double.__doc__ == "Twice."
    assert called(nn.Identity(), [5], {}) == 5


def test_a_rule_that_fails_makes_its_operator_unknown_and_asks_for_a_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "RULES", {**rules.RULES, "pointwise": broken})
    with pytest.warns(UserWarning, match=r"the rule for the operator tanh failed \(KeyError: .a fault of ours.\)"):
        found = axis_groups(mlp(4))
    assert found.unknown == {"tanh": 1}
    assert not found.free()

"""Axis groups are kept by architecture: equal ones share them, and nothing that runs differently does."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchgraft.axes import axis_groups
from torchgraft.axes import groups as module_of_groups
from torchgraft.axes.fingerprint import UnknownError, fingerprint


class Block(nn.Module):
    """A branch that is added or not, with some function."""

    def __init__(
        self, width: int = 8, added: bool = True, act: Callable[[Tensor], Tensor] = F.relu, **rest: Any
    ) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, width), nn.Linear(width, width), nn.Linear(width, 3)
        self.added, self.act = added, act
        for name, value in rest.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.a(x))
        return self.c(x + self.b(x) if self.added else self.b(x))


class Renamed(Block):
    """The same but for its class."""


def test_equal_architectures_share_what_was_found() -> None:
    assert axis_groups(Block()) is axis_groups(Block())
    x = torch.zeros(2, 4)
    assert axis_groups(Block(), [x]) is axis_groups(Block(), [x + 1])


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.MultiheadAttention])
def test_layers_of_torch_can_be_compared(kind: type[nn.Module]) -> None:
    assert fingerprint(kind(8, 4)) == fingerprint(kind(8, 4)) != fingerprint(kind(16, 4))


def _scaled(factor: float) -> Callable[[Tensor], Tensor]:
    return lambda x: x * factor


OTHERS: dict[str, Callable[[], nn.Module]] = {
    "class": Renamed,
    "width": lambda: Block(9),
    "truth": lambda: Block(added=False),
    "function": lambda: Block(act=F.gelu),
    "partial": lambda: Block(act=partial(F.leaky_relu, negative_slope=0.1)),
    "closure": lambda: Block(act=_scaled(2.0)),
    "other closure": lambda: Block(act=_scaled(3.0)),
    "type": lambda: Block().double(),
    "attribute": lambda: Block(note="x"),
    "nested": lambda: Block(note={"x": [1, 2]}),
    "other nested": lambda: Block(note={"x": [1, 3]}),
    "truth and number": lambda: Block(note=True),
    "number": lambda: Block(note=1),
}


def test_other_architectures_do_not() -> None:
    prints = {name: fingerprint(build()) for name, build in {"plain": Block, **OTHERS}.items()}
    assert len(set(prints.values())) == len(prints)
    assert all(fingerprint(build()) == prints[name] for name, build in OTHERS.items())


def test_tied_tensors_and_shared_modules_count() -> None:
    tied, shared = Block(), Block()
    tied.b.weight = nn.Parameter(torch.zeros(8, 8))
    untied = fingerprint(tied)
    tied.b.bias = tied.a.bias
    assert fingerprint(tied) != untied
    twice = nn.Sequential(shared, shared)
    assert fingerprint(twice) != fingerprint(nn.Sequential(Block(), Block()))


def test_a_replaced_method_counts() -> None:
    changed = Block()
    changed.forward = lambda x: changed.c(changed.a(x))  # type: ignore[method-assign]
    assert axis_groups(changed, [torch.zeros(1, 4)]) is not axis_groups(Block(), [torch.zeros(1, 4)])


def test_hooks_count_but_not_how_many_there_ever_were() -> None:
    def hooked() -> nn.Module:
        block = Block()
        block.register_forward_pre_hook(_double)
        return block

    assert fingerprint(hooked()) == fingerprint(hooked()) != fingerprint(Block())


def _double(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (inputs[0] * 2,)


def test_what_cannot_be_compared_is_found_anew() -> None:
    odd = Block(note=iter([1]))
    with pytest.raises(UnknownError, match="cannot be compared"):
        fingerprint(odd)
    first, second = (axis_groups(Block(note=iter([1]))) for _ in range(2))
    assert first is not second and [g.size for g in first.groups] == [g.size for g in second.groups]


def test_the_oldest_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module_of_groups, "_KEPT", {})
    monkeypatch.setattr(module_of_groups, "_MOST_KEPT", 2)
    first = axis_groups(Block(5))
    axis_groups(Block(6))
    axis_groups(Block(7))
    assert len(module_of_groups._KEPT) == 2 and axis_groups(Block(5)) is not first


def test_buffers_with_one_value_everywhere_count() -> None:
    """Of a buffer that is not stored, the values decide whether its units have places."""

    def build(values: Tensor) -> nn.Module:
        block = Block()
        block.register_buffer("shift", values, persistent=False)
        return block

    assert axis_groups(build(torch.zeros(8))) is axis_groups(build(torch.zeros(8)))
    assert axis_groups(build(torch.zeros(8))) is not axis_groups(build(torch.arange(8.0)))

"""Axis groups are kept by architecture: equal ones share them, and nothing that runs differently does."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchgraft.axes import axis_groups
from torchgraft.axes import groups as module_of_groups
from torchgraft.fingerprint import UnknownError, fingerprint
from torchgraft.recent import Recent


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
    monkeypatch.setattr(module_of_groups, "_KEPT", Recent(2))
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


class Wide(nn.Linear):
    """A linear layer of another class."""


def _rich() -> Any:
    block = Block(
        rows=[1, 2], pair=(1, 2), note={"x": [1, {"y": 2}]}, config=SimpleNamespace(heads=2), deep=((1, 2), 3)
    )
    block.scale = torch.ones(2)
    block.factor = [2.0]
    factor = block.factor
    block.closed = lambda x: x * factor[0]
    block.register_buffer("seen", torch.zeros(8))
    return block


def _set(name: str, value: Any) -> Callable[[Any], None]:
    return lambda block: setattr(block, name, value)


CHANGES: dict[str, Callable[[Any], object]] = {
    "attribute": _set("added", False),
    "number for truth": _set("added", 1),
    "real for whole": _set("pair", (1.0, 2)),
    "truth in a tuple": _set("pair", (True, 2)),
    "truth in a tuple in a tuple": _set("deep", ((True, 2), 3)),
    "list for tuple": _set("pair", [1, 2]),
    "tuple for list": _set("rows", (1, 2)),
    "size for tuple": _set("pair", torch.Size((1, 2))),
    "longer list": lambda block: block.rows.append(3),
    "truth in a list": lambda block: block.rows.__setitem__(0, True),
    "nested": lambda block: block.note["x"][1].update(y=3),
    "object": _set("config", SimpleNamespace(heads=4)),
    "object in place": lambda block: setattr(block.config, "heads", 4),
    "closure in place": lambda block: block.factor.append(3.0),
    "value of a plain tensor": lambda block: block.scale.fill_(2),
    "new attribute": _set("further", None),
    "no attribute": lambda block: delattr(block, "rows"),
    "other name": lambda block: setattr(block, "lines", block.__dict__.pop("rows")),
    "attribute of a layer": lambda block: setattr(block.a, "in_features", 5),
    "forward": _set("forward", nn.Identity()),
    "forward of a layer": lambda block: setattr(block.a, "forward", torch.relu),
    "class of a layer": lambda block: setattr(block.b, "__class__", Wide),
    "hook": lambda block: block.b.register_forward_hook(_tell),
    "hook before": lambda block: block.register_forward_pre_hook(_double),
    "type": lambda block: block.half(),
    "type of a layer": lambda block: block.b.half(),
    "shape of a buffer": _set("seen", torch.zeros(9)),
    "shape in place": lambda block: setattr(block.seen, "data", torch.zeros(9)),
    "no bias": lambda block: block.b.register_parameter("bias", None),
    "tied": lambda block: setattr(block.b, "bias", block.a.bias),
    "shared layer": lambda block: setattr(block, "d", block.b),
    "other layer": _set("b", nn.Identity()),
    "no layer": _set("b", None),
    "layers in another order": lambda block: setattr(block, "a", block._modules.pop("a")),
    "buffer not stored": lambda block: block._non_persistent_buffers_set.add("seen"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_changes_in_place_is_noticed(change: Callable[[Any], object]) -> None:
    block = _rich()
    before = fingerprint(block)
    assert fingerprint(block) == before == fingerprint(_rich())
    change(block)
    assert fingerprint(block) != before


def _tell(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return output + 1


def test_what_a_run_does_not_see_is_left_out() -> None:
    block = _rich()
    before = fingerprint(block)
    block.train()
    with torch.no_grad():
        block.a.weight.add_(1)
        block.seen.add_(1)
    block.register_forward_hook(_tell).remove()
    assert fingerprint(block) == before


class Early(nn.Module):
    """Sets an attribute before torch's own, and holds a layer that is not one of its modules."""

    def __init__(self, width: int, aside: nn.Module) -> None:
        self.__dict__.update(width=width, aside=[aside])
        super().__init__()
        self.inner = nn.Linear(2, 2)


def test_attributes_count_wherever_they_stand() -> None:
    one = fingerprint(Early(1, nn.Linear(2, 2)))
    assert one == fingerprint(Early(1, nn.Linear(2, 2)))
    assert one != fingerprint(Early(2, nn.Linear(2, 2)))
    assert one != fingerprint(Early(1, nn.Linear(2, 3)))
    itself = Early(1, nn.Linear(2, 2))
    itself.__dict__["aside"][0] = itself.inner
    assert fingerprint(itself) != one
    itself.inner.register_forward_hook(_tell)
    hooked, other = fingerprint(itself), Early(1, nn.Linear(2, 2))
    other.__dict__["aside"][0].register_forward_hook(_tell)
    assert hooked != one != fingerprint(other)

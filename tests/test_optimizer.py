"""Optimizer state moves with the weights: what moved is what the target's own gradients would have made."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable
from functools import cache, partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import torchgraft as tg

CLASSES = 5


class ConvBlock(nn.Module):
    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, kernel, padding=kernel // 2, bias=False)
        self.norm2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))))


def conv(width: int, depth: int = 2, kernel: int = 3) -> nn.Module:
    stem = nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
    blocks = (ConvBlock(width, kernel) for _ in range(depth))
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, CLASSES))


class RMSNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = 1e-5

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


class MLPBlock(nn.Module):
    def __init__(self, width: int, hidden: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.norm, self.up, self.down = norm(width), nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(F.gelu(self.up(self.norm(x))))


def mlp(width: int, hidden: int, norm: Callable[[int], nn.Module] = nn.LayerNorm) -> nn.Module:
    blocks = (MLPBlock(width, hidden, norm) for _ in range(2))
    return nn.Sequential(nn.Linear(3, width), *blocks, norm(width), nn.Linear(width, CLASSES))


class Attention(nn.Module):
    """One layer of attention over the words of an embedding that is also the classifier."""

    def __init__(self, width: int, heads: int, tied: bool) -> None:
        super().__init__()
        self.heads = heads
        self.words = nn.Embedding(CLASSES, width)
        self.norm = nn.LayerNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.last = nn.LayerNorm(width)
        self.head = nn.Linear(width, CLASSES, bias=False)
        if tied:
            self.head.weight = self.words.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.words(x)
        normed = self.norm(x)
        split = (
            part(normed).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        x = x + self.out(F.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2))
        return self.head(self.last(x)).mean(1)


Pair = tuple[Callable[[], nn.Module], Callable[[], nn.Module]]

#: Pairs whose target computes the source's function, and the tensors whose gradient is not that of the source: what
#: writes a stream that a layer norm reads, for the norm's statistics share their gradient among all units.
PAIRS: dict[str, tuple[Pair, tuple[str, ...]]] = {
    "silent units": ((partial(conv, 4), partial(conv, 7)), ()),
    "deeper, larger kernels": ((partial(conv, 4), partial(conv, 6, 3, 5)), ()),
    "rms norm padded": ((partial(mlp, 4, 6, RMSNorm), partial(mlp, 7, 9, RMSNorm)), ()),
    "rms norm doubled": ((partial(mlp, 4, 6, RMSNorm), partial(mlp, 8, 9, RMSNorm)), ("0", "down")),
    "layer norm padded": ((partial(mlp, 4, 6), partial(mlp, 7, 9)), ("0", "down")),
    "layer norm tripled": ((partial(mlp, 4, 6), partial(mlp, 12, 7)), ("0", "down")),
    "larger heads": ((partial(Attention, 8, 2, False), partial(Attention, 15, 3, False)), ("words", "out")),
    "tied and doubled": ((partial(Attention, 8, 2, True), partial(Attention, 16, 4, True)), ("words", "out")),
}  # fmt: skip
INPUTS: dict[type, Callable[[], Tensor]] = {
    nn.Conv2d: lambda: torch.randn(6, 3, 6, 6, dtype=torch.float64),
    nn.Linear: lambda: torch.randn(9, 3, dtype=torch.float64),
    nn.Embedding: lambda: torch.randint(CLASSES, (9, 6)),
}


def randomized(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return module


def differentiate(module: nn.Module, inputs: Tensor, classes: Tensor) -> Tensor:
    module.zero_grad()
    loss = F.cross_entropy(module(inputs), classes)
    loss.backward()
    return loss.detach()


@cache
def planned(name: str) -> tg.Plan:
    source, target = PAIRS[name][0]
    return tg.plan(source(), target())


def grown(name: str, seed: int) -> tuple[tg.Plan, nn.Module, nn.Module, Tensor, Tensor]:
    """Return a plan, a random source, the target that it was transferred into, and a batch."""
    torch.manual_seed(seed)
    source, target = (make().double() for make in PAIRS[name][0])
    plan = planned(name)
    tg.apply(plan, randomized(source), target)
    first = next(part for part in source.modules() if type(part) in INPUTS)
    inputs = INPUTS[type(first)]()
    return plan, source, target, inputs, torch.randint(CLASSES, (len(inputs),))


def holding(module: nn.Module, values: Iterable[Tensor | None]) -> torch.optim.Optimizer:
    """Return an optimizer whose momenta are ``values``."""
    optimizer = torch.optim.SGD(module.parameters(), momentum=0.9)
    for parameter, value in zip(module.parameters(), values, strict=True):
        if value is not None:
            optimizer.state[parameter] = {"momentum_buffer": value.clone()}
    return optimizer


def moved(plan: tg.Plan, source: nn.Module, target: nn.Module, values: Iterable[Tensor | None]) -> dict[str, Tensor]:
    """Return what moves of ``values`` by key."""
    optimizer = torch.optim.SGD(target.parameters(), momentum=0.9)
    tg.transfer_optimizer(plan, holding(source, values), optimizer, source=source, target=target)
    named = {key: optimizer.state.get(parameter) for key, parameter in target.named_parameters()}
    return {key: state["momentum_buffer"] for key, state in named.items() if state}


def deviation(value: Tensor, wanted: Tensor) -> float:
    return float((value - wanted).abs().max() / wanted.abs().max().clamp_min(1e-6))


def writes_a_stream(key: str, name: str) -> bool:
    return any(f".{one}." in f".{key}" for one in PAIRS[name][1])


def gradients(module: nn.Module) -> dict[str, Tensor]:
    return {key: parameter.grad for key, parameter in module.named_parameters() if parameter.grad is not None}


def determined(plan: tg.Plan, source: nn.Module, target: nn.Module) -> dict[str, Tensor]:
    """Return the places of the target that a unit of the source stands in."""
    ones = moved(plan, source, target, [torch.ones_like(parameter) for parameter in source.parameters()])
    return {key: value != 0 for key, value in ones.items()}


def differentiated(name: str, seed: int) -> tuple[nn.Module, dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Return a source, its target's own gradients, the places that are determined there, and what moved into them.

    The losses of both are the same.
    """
    plan, source, target, inputs, classes = grown(name, seed)
    losses = [differentiate(module, inputs, classes) for module in (source, target)]
    torch.testing.assert_close(*losses, rtol=1e-10, atol=0)
    places = determined(plan, source, target)
    found = moved(plan, source, target, (parameter.grad for parameter in source.parameters()))
    return source, gradients(target), places, found


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", PAIRS)
def test_gradients_move_as_the_target_computes_them(name: str, seed: int) -> None:
    """The law: where the function is kept, the target's gradient is the moved gradient of the source."""
    _, own, places, found = differentiated(name, seed)
    for key, value in found.items():
        here = deviation(value[places[key]], own[key][places[key]])
        assert 1e-4 < here < 1 if writes_a_stream(key, name) else here < 1e-9, key
        assert not value[~places[key]].any()
    assert sum(writes_a_stream(key, name) for key in found) <= len(found) / 2
    for key in own.keys() - found.keys():  # a new block: only what closes it has a gradient
        closes = next(one.status == "silenced" for one in planned(name).tensors if one.key == key)
        assert bool(own[key].any()) == closes


@pytest.mark.parametrize("name", ["rms norm doubled", "layer norm tripled", "tied and doubled"])
def test_of_what_writes_copies_the_sum_is_exact(name: str) -> None:
    source, own, places, found = differentiated(name, 2)
    keys = [key for key in found if writes_a_stream(key, name)]
    assert keys
    for key in keys:
        axis = 1 if key.startswith("words") else 0
        shape = (found[key].shape[axis] // dict(source.named_parameters())[key].shape[axis], -1)
        sums = [(one * places[key]).unflatten(axis, shape).sum(axis) for one in (found[key], own[key])]
        assert deviation(*sums) < 1e-9, key


def test_of_what_writes_a_padded_stream_the_pads_hold_the_rest() -> None:
    """The pads are the mean of the others, so each of the others has its share of the gradient of all pads."""
    name = "layer norm padded"
    _, own, places, found = differentiated(name, 2)
    for key in (key for key in found if writes_a_stream(key, name)):
        whole = torch.cat([own[key][:4] + own[key][4:].sum(0, keepdim=True) / 4, own[key][4:]])
        assert deviation(found[key][places[key]], whole[places[key]]) < 1e-9, key


@pytest.mark.parametrize("name", ["silent units", "rms norm padded", "rms norm doubled", "larger heads"])
@pytest.mark.parametrize("amsgrad", [False, True])
def test_adam_stands_where_its_own_steps_would_have_led(name: str, amsgrad: bool) -> None:
    plan, source, target, inputs, classes = grown(name, 3)
    places = determined(plan, source, target)
    make = partial(torch.optim.AdamW, lr=1e-12, weight_decay=0.1, amsgrad=amsgrad)
    optimizers = make(source.named_parameters()), make(target.named_parameters())
    for optimizer, module in zip(optimizers, (source, target), strict=True):
        for batch in zip(inputs.chunk(3), classes.chunk(3), strict=True):
            differentiate(module, *batch)
            optimizer.step()
    fresh = make(target.named_parameters())
    report = tg.transfer_optimizer(plan, optimizers[0], fresh, fresh="zero")
    squares = {"exp_avg_sq"} | ({"max_exp_avg_sq"} if amsgrad else set())
    assert set(report.state) == {"exp_avg", "step"} | squares
    for key, parameter in target.named_parameters():
        if writes_a_stream(key, name):
            continue
        state, own = fresh.state[parameter], optimizers[1].state[parameter]
        assert state["step"] == 3
        for one in ("exp_avg", *squares):
            assert deviation(state[one][places[key]], own[one][places[key]]) < 1e-7, (key, one)


def small() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    return tuple(nn.Sequential(nn.Linear(4, n), nn.ReLU(), nn.Linear(n, 3)) for n in (5, 8))  # type: ignore[return-value]


def stepped(make: Callable[..., torch.optim.Optimizer], module: nn.Module, steps: int = 2) -> torch.optim.Optimizer:
    optimizer = make(module.named_parameters())
    torch.manual_seed(1)
    for _ in range(steps):
        optimizer.zero_grad()
        module(torch.randn(7, 4)).square().sum().backward()
        optimizer.step()
    return optimizer


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "SGD": partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True),
    "Adam": torch.optim.Adam,
    "AdamW": partial(torch.optim.AdamW, amsgrad=True),
    "Adam, capturable": partial(torch.optim.Adam, fused=True),
    "NAdam": torch.optim.NAdam,
    "RAdam": torch.optim.RAdam,
    "Adamax": torch.optim.Adamax,
    "Adagrad": torch.optim.Adagrad,
    "RMSprop": partial(torch.optim.RMSprop, centered=True, momentum=0.9),
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_next_step_finds_all_it_needs(name: str) -> None:
    source, target = small()
    first, own = (stepped(OPTIMIZERS[name], module) for module in (source, target))
    second = OPTIMIZERS[name](target.named_parameters())
    report = tg.transfer_optimizer(tg.plan(source, target), first, second)
    assert report.left == () and len(report.moved) == 4 and report.notes == ()
    for parameter in target.parameters():
        state = second.state[parameter]
        assert state.keys() == own.state[parameter].keys()
        for key, value in own.state[parameter].items():
            assert type(state[key]) is type(value)
            if isinstance(value, Tensor):
                assert (state[key].shape, state[key].dtype, state[key].device) == (
                    value.shape,
                    value.dtype,
                    value.device,
                )
    target(torch.randn(7, 4)).square().sum().backward()
    second.step()
    assert all(parameter.isfinite().all() for parameter in target.parameters())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_same_network_gets_the_same_state(name: str) -> None:
    source = small()[0]
    target = copy.deepcopy(source)
    first, second = stepped(OPTIMIZERS[name], source), OPTIMIZERS[name](target.named_parameters())
    tg.transfer_optimizer(tg.plan(source, target), first, second)
    for one, other in zip(source.parameters(), target.parameters(), strict=True):
        for key, value in first.state[one].items():
            moved = second.state[other][key]
            assert torch.equal(torch.as_tensor(moved), torch.as_tensor(value))
            assert not isinstance(value, Tensor) or moved.data_ptr() != value.data_ptr()


def test_groups_may_be_split_in_any_way_and_keep_their_hyperparameters() -> None:
    source, target = small()
    plan, first = tg.plan(source, target), stepped(torch.optim.AdamW, source)
    whole, split = torch.optim.AdamW(target.named_parameters()), torch.optim.AdamW([
        {"params": [one for one in target.parameters() if one.ndim < 2], "weight_decay": 0.0, "lr": 0.5},
        {"params": [one for one in target.parameters() if one.ndim > 1][::-1]},
    ])  # fmt: skip
    before = [{key: value for key, value in group.items() if key != "params"} for group in split.param_groups]
    tg.transfer_optimizer(plan, first, whole)
    report = tg.transfer_optimizer(plan, first, split, target=target)
    assert sorted(report.moved) == sorted(key for key, _ in target.named_parameters())
    assert before == [{key: value for key, value in group.items() if key != "params"} for group in split.param_groups]
    for parameter in target.parameters():
        assert torch.equal(whole.state[parameter]["exp_avg"], split.state[parameter]["exp_avg"])


@pytest.mark.parametrize("wrap", [partial(torch.compile, backend="eager"), nn.DataParallel])
def test_names_and_modules_may_be_those_of_a_wrapper(wrap: Callable[[nn.Module], nn.Module]) -> None:
    source, target = small()
    first, second = stepped(torch.optim.Adam, source), torch.optim.Adam(wrap(target).named_parameters())
    assert len(tg.transfer_optimizer(tg.plan(source, target), first, second).moved) == 4
    third = torch.optim.Adam(target.parameters())
    assert len(tg.transfer_optimizer(tg.plan(source, target), first, third, target=wrap(target)).moved) == 4


def test_without_names_shapes_tell_parameters_apart() -> None:
    source, target = small()
    first, second = torch.optim.Adam(source.parameters()), torch.optim.Adam([*target.parameters()][::-1])
    named = stepped(torch.optim.Adam, source)
    first.load_state_dict({**first.state_dict(), "state": named.state_dict()["state"]})
    assert tg.transfer_optimizer(tg.plan(source, target), first, second).moved == (
        "2.bias",
        "2.weight",
        "0.bias",
        "0.weight",
    )
    for parameter in target.parameters():
        assert second.state[parameter]["exp_avg"].shape == parameter.shape


def square(depth: int) -> nn.Module:
    return nn.Sequential(*(nn.Linear(4, 4) for _ in range(depth)))


def test_equal_shapes_are_told_apart_by_order_or_not_at_all() -> None:
    source, target = square(2), square(2)
    plan, first = tg.plan(source, target), stepped(torch.optim.Adam, source)
    in_order, second = torch.optim.Adam(target.parameters()), torch.optim.Adam(target.named_parameters())
    tg.transfer_optimizer(plan, first, in_order)
    tg.transfer_optimizer(plan, first, second)
    for parameter in target.parameters():
        assert torch.equal(in_order.state[parameter]["exp_avg"], second.state[parameter]["exp_avg"])
    shuffled = [{"params": list(layer.parameters())} for layer in target]
    for groups in (shuffled, [*target.parameters()][::-1], [target[1].weight]):
        with pytest.raises(tg.ApplyError, match=r"target's parameters of shape 4(×4)? .* pass target="):
            tg.transfer_optimizer(plan, first, torch.optim.Adam(groups))
    nameless = torch.optim.Adam(source.parameters())
    with pytest.raises(tg.ApplyError, match=r"source's parameters of shape 4(×4)? .* pass source="):
        tg.transfer_optimizer(plan, nameless, second)
    assert len(tg.transfer_optimizer(plan, stepped(torch.optim.Adam, source), second, source=source).moved) == 4


def test_what_does_not_move_has_a_reason() -> None:
    torch.manual_seed(0)
    source, target = conv(4), conv(6, 3)
    target[-1] = nn.Sequential(nn.Linear(6, 3, bias=False), nn.Linear(3, CLASSES))
    source[0].weight.requires_grad_(False)
    first = torch.optim.SGD((one for one in source.named_parameters() if one[1].requires_grad), momentum=0.9)
    differentiate(source, torch.randn(2, 3, 6, 6), torch.tensor([0, 1]))
    source[3].norm1.weight.grad = None
    first.step()
    extra = nn.Parameter(torch.zeros(3))
    plan = tg.plan(source, target, exclude_target=["1"])
    second = torch.optim.SGD([*target.named_parameters(), ("temperature", extra)], momentum=0.9)
    report = tg.transfer_optimizer(plan, first, second)
    left = dict(report.left)
    assert left.keys() | set(report.moved) == {"temperature", *dict(target.named_parameters())}
    assert left["0.weight"] == "the source's optimizer does not hold its source"
    assert left["3.norm1.weight"] == "the source's optimizer has no state for its source"
    assert left["1.weight"] == left["1.bias"] == "kept, excluded"
    assert left["temperature"] == "no parameter of the plan's target"
    planned = {one.key: one.status for one in plan.tensors}
    assert {planned[key] for key in report.moved} <= {"copied", "resized"}
    for key, reason in report.left:
        if planned.get(key) in ("silenced", "reused"):
            assert reason.startswith({"silenced": "silenced, ", "reused": "its source layer's"}[planned[key]])
    assert {"silenced", "reused"} <= {planned.get(key) for key in left}
    named = dict([*target.named_parameters(), ("temperature", extra)])
    assert not any(named[key] in second.state for key in left)
    assert str(report).splitlines()[0] == (
        f"SGD: {len(report.moved)} of {len(named)} parameters have state from the source (momentum_buffer)"
    )
    assert all(reason in str(report) for reason in left.values())
    assert json.loads(json.dumps(report.to_dict()))["left"] == left


class Rows(torch.optim.Optimizer):
    """Keeps one number for each row."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {})

    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for one in group["params"]:
                self.state[one]["rows" if one.ndim > 1 else "mine"] = (
                    one.detach().flatten(1).sum(1) if one.ndim > 1 else one.detach() * 0 + 1
                )


def test_state_of_another_layout_stays_and_says_so() -> None:
    source, target = small()
    second = Rows(target.named_parameters())
    report = tg.transfer_optimizer(tg.plan(source, target), stepped(Rows, source), second)
    assert report.moved == ("0.bias", "2.bias")
    assert dict(report.left)["0.weight"] == "its rows has not the shape of the parameter"
    assert report.notes == ("mine is not known: it is moved as a mean of gradients",)


@pytest.mark.parametrize(
    ("make", "other", "reason"),
    [
        (
            torch.optim.Adam,
            partial(torch.optim.Adam, amsgrad=True),
            "amsgrad is on here and off in the source's optimizer",
        ),
        (
            torch.optim.RMSprop,
            partial(torch.optim.RMSprop, centered=True),
            "centered is on here and off in the source's",
        ),
        (partial(torch.optim.SGD, lr=0.1), partial(torch.optim.SGD, momentum=0.9), "has no state for its source"),
        (torch.optim.Adadelta, torch.optim.Adadelta, "its acc_delta is no mean of gradients"),
        (torch.optim.Rprop, torch.optim.Rprop, "its step_size is no mean of gradients"),
        (torch.optim.ASGD, torch.optim.ASGD, "its ax is no mean of gradients"),
    ],
)
def test_state_that_would_break_the_next_step_does_not_move(make: Any, other: Any, reason: str) -> None:
    source, target = small()
    second = other(target.named_parameters())
    report = tg.transfer_optimizer(tg.plan(source, target), stepped(make, source), second)
    assert report.moved == () and all(reason in why for _, why in report.left) and len(report.left) == 4
    target(torch.randn(7, 4)).square().sum().backward()
    second.step()
    assert all(parameter.isfinite().all() for parameter in target.parameters())


def test_errors_change_nothing() -> None:
    source, target = small()
    plan, first = tg.plan(source, target), stepped(torch.optim.Adam, source)
    second = stepped(torch.optim.Adam, target)
    before = copy.deepcopy(second.state_dict())
    wider = nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 3))
    attempts: list[tuple[str, Callable[[], object]]] = [
        (
            "state of SGD means nothing to Adam",
            lambda: tg.transfer_optimizer(plan, stepped(torch.optim.SGD, source), second),
        ),
        ("the plan's target: pass target=", lambda: tg.transfer_optimizer(plan, first, second, target=wider)),
        ("the plan's source: pass source=", lambda: tg.transfer_optimizer(plan, first, second, source=wider)),
        ("in the target's optimizer", lambda: tg.transfer_optimizer(tg.plan(source, wider), first, second)),
        ("in the source's optimizer", lambda: tg.transfer_optimizer(tg.plan(wider, target), first, second)),
        (
            "cannot follow the operator magnitude, which does not",
            lambda: tg.transfer_optimizer(tg.plan(source, target, operator="magnitude"), first, second),
        ),
        ("unknown value for new units 'one'", lambda: tg.transfer_optimizer(plan, first, second, fresh="one")),
    ]
    for message, attempt in attempts:
        with pytest.raises(tg.GraftError, match=message):
            attempt()
    after = second.state_dict()
    assert after["param_groups"] == before["param_groups"]
    for number, state in before["state"].items():
        assert all(torch.equal(value, after["state"][number][key]) for key, value in state.items())


@pytest.mark.parametrize("operator", ["clip", "clip_normalized", "full"])
def test_other_operators_put_state_where_the_source_stands(operator: str) -> None:
    source, target = small()
    first, second = stepped(torch.optim.Adam, source), torch.optim.Adam(target.named_parameters())
    tg.transfer_optimizer(tg.plan(source, target, operator=operator), first, second)
    wanted = F.pad(first.state[source[0].weight]["exp_avg"], (0, 0, 1, 2))
    assert torch.equal(second.state[target[0].weight]["exp_avg"], wanted)


def test_new_units_start_with_the_mean_of_the_squares() -> None:
    source, target = small()
    first, zero, mean = (
        stepped(torch.optim.Adam, source),
        *(torch.optim.Adam(target.named_parameters()) for _ in range(2)),
    )
    plan = tg.plan(source, target)
    tg.transfer_optimizer(plan, first, zero, fresh="zero")
    tg.transfer_optimizer(plan, first, mean)
    weight = target[0].weight
    squares, empty = zero.state[weight]["exp_avg_sq"], zero.state[weight]["exp_avg_sq"] == 0
    assert empty.sum() == 12
    assert torch.equal(mean.state[weight]["exp_avg"], zero.state[weight]["exp_avg"])
    assert torch.equal(mean.state[weight]["exp_avg_sq"][~empty], squares[~empty])
    torch.testing.assert_close(mean.state[weight]["exp_avg_sq"][empty], squares[~empty].mean().expand(12))


def test_state_has_the_type_and_the_strides_of_the_targets_parameters() -> None:
    source, target = conv(4), conv(6).to(torch.bfloat16).to(memory_format=torch.channels_last)
    first, second = torch.optim.Adam(source.named_parameters()), torch.optim.Adam(target.named_parameters())
    differentiate(source, torch.randn(2, 3, 6, 6), torch.tensor([0, 1]))
    first.step()
    tg.transfer_optimizer(tg.plan(source, target), first, second)
    for parameter in target.parameters():
        state = second.state[parameter]
        assert state["exp_avg"].dtype == torch.bfloat16 and state["step"].dtype == torch.float32
        assert state["exp_avg"].stride() == parameter.stride()


def test_more_and_fewer_channels_of_a_picture_have_the_gradient_of_equal_channels() -> None:
    """A grey picture as three equal channels, and three channels twice over, are what the scaled kernels stand for."""
    for have, want in ((3, 1), (1, 3), (3, 6)):
        torch.manual_seed(0)
        source, target = (
            nn.Sequential(nn.Conv2d(n, 4, 3), nn.Flatten(), nn.Linear(64, CLASSES)).double() for n in (have, want)
        )
        plan = tg.plan(source, target)
        tg.apply(plan, source, target)
        few, classes = torch.randn(5, min(have, want), 6, 6, dtype=torch.float64), torch.arange(5)
        for module, channels in ((source, have), (target, want)):
            differentiate(module, few.repeat(1, channels // few.shape[1], 1, 1), classes)
        found = moved(plan, source, target, [parameter.grad for parameter in source.parameters()])
        for key, own in gradients(target).items():
            assert deviation(found[key], own) < 1e-9, (have, want, key)


@pytest.mark.parametrize(("have", "want"), [(1, 4), (4, 1)])
def test_the_one_slope_of_a_prelu_has_the_gradient_of_all(have: int, want: int) -> None:
    source, target = (nn.Sequential(nn.Linear(4, 4), nn.PReLU(n), nn.Linear(4, 3)) for n in (have, want))
    plan = tg.plan(source, target, operator="clip")
    values = [torch.full_like(parameter, 2.0) for parameter in source.parameters()]
    slope = moved(plan, source, target, values)["1.weight"]
    assert slope.sum() == values[2].sum() and slope.shape == (want,)
    first, second = torch.optim.Adam(source.named_parameters()), torch.optim.Adam(target.named_parameters())
    first.state[source[1].weight] = {"exp_avg_sq": torch.full((have,), 4.0)}
    tg.transfer_optimizer(plan, first, second)
    assert second.state[target[1].weight]["exp_avg_sq"].sqrt().sum() == values[2].sum()


def test_state_follows_a_map_of_labels() -> None:
    source, target = nn.Linear(4, 3), nn.Linear(4, 5)
    plan = tg.plan(source, target, labels={4: 0, 1: 2})
    values = [torch.arange(12.0).view(3, 4) + 1, torch.arange(3.0) + 1]
    found = moved(plan, source, target, values)
    assert found["bias"].tolist() == [0, 3, 0, 0, 1]
    assert torch.equal(found["weight"][4], values[0][0]) and not found["weight"][0].any()


class Fused(nn.Module):
    """Attention whose projection is stored fused, for as many heads."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.attention(x, x, x, need_weights=False)[0])


def test_parts_of_a_fused_tensor_go_to_their_parts() -> None:
    source, target = Fused(4), Fused(8)
    plan = tg.plan(source, target)
    assert any(move.target.part for transfer in plan.transfers for move in transfer.moves)
    values = [torch.full_like(one, number + 1.0) for number, one in enumerate(source.parameters())]
    values[0] = torch.arange(1.0, 4.0).repeat_interleave(4).unsqueeze(1).expand(12, 4)
    weight = moved(plan, source, target, values)["attention.in_proj_weight"]
    query, key, value = weight.chunk(3)
    assert [set(one[one != 0].tolist()) for one in (query, value)] == [{1.0}, {3.0}]
    assert key.any() and weight.shape == (24, 8)


class Separate(nn.Module):
    """The same attention with three projections."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        split = (part(x).unflatten(-1, (2, -1)).transpose(1, 2) for part in (self.q_proj, self.k_proj, self.v_proj))
        return self.head(self.out_proj(F.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)))


def test_a_fused_tensor_has_the_state_of_all_its_sources() -> None:
    source, target = Separate(4), Fused(4)
    plan = tg.plan(source, target)
    moves = [move for transfer in plan.transfers for move in transfer.moves if not transfer.reused]
    sources = [move.source.key for move in moves if move.target.key == "attention.in_proj_weight"]
    assert len(set(sources)) == 3
    first, second = torch.optim.Adam(source.named_parameters()), torch.optim.Adam(target.named_parameters())
    for number, (key, parameter) in enumerate(source.named_parameters()):
        state = {"step": torch.tensor(10.0 - number), "exp_avg": torch.full_like(parameter, number + 1.0)}
        first.state[parameter] = {} if key == sources[2] else state
    report = tg.transfer_optimizer(plan, first, second)
    state = second.state[target.attention.in_proj_weight]
    numbers = [list(dict(source.named_parameters())).index(key) for key in sources[:2]]
    assert state["step"] == 10 - min(numbers)
    assert [one.unique().tolist() for one in state["exp_avg"].chunk(3)] == [[numbers[0] + 1], [numbers[1] + 1], [0]]
    assert set(report.notes) >= {
        "the parts of attention.in_proj_weight differ in step: it has the largest",
        "a part of attention.in_proj_weight starts with zeros: the source's optimizer has no state for its source",
    }


def test_a_parametrized_weight_moves_by_its_originals_or_not_at_all() -> None:
    weight_norm = torch.nn.utils.parametrizations.weight_norm
    for target, expected in ((weight_norm(nn.Linear(4, 3)), 3), (weight_norm(nn.Linear(4, 6)), 1)):
        source = weight_norm(nn.Linear(4, 3))
        first, second = stepped(torch.optim.Adam, source), torch.optim.Adam(target.named_parameters())
        report = tg.transfer_optimizer(tg.plan(source, target), first, second)
        assert len(report.moved) == expected
        assert {reason for _, reason in report.left} <= {
            "computed by a parametrization, which state does not go through"
        }


def test_a_tied_parameter_moves_once() -> None:
    plan, source, target, inputs, classes = grown("tied and doubled", 0)
    differentiate(source, inputs, classes)
    first, second = (
        torch.optim.SGD(source.parameters(), momentum=0.9),
        torch.optim.SGD(target.parameters(), momentum=0.9),
    )
    first.step()
    report = tg.transfer_optimizer(plan, first, second, source=source, target=target)
    assert report.moved == tuple(key for key, _ in target.named_parameters()) and "head.weight" not in report.moved


def test_an_average_of_weights_moves_by_the_plan_itself() -> None:
    source, target = small()
    average = AveragedModel(source, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    for _ in range(2):
        randomized(source)
        average.update_parameters(source)
    plan = tg.plan(source, target)
    tg.apply(plan, source, target)
    grown_average = AveragedModel(target, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    tg.apply(plan, average.module, grown_average.module)
    grown_average.n_averaged.copy_(average.n_averaged)
    x = torch.randn(7, 4)
    torch.testing.assert_close(grown_average(x), average(x), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(grown_average(x), target(x), rtol=1e-2)
    grown_average.update_parameters(target)
    middle = average.module[2].bias / 2 + source[2].bias / 2
    torch.testing.assert_close(grown_average.module[2].bias, middle)


def test_a_plan_read_from_json_moves_the_same_state() -> None:
    plan, source, target, *_ = grown("larger heads", 0)
    values = [torch.randn_like(one) for one in source.parameters()]
    found, again = (moved(one, source, target, values) for one in (plan, tg.Plan.from_json(plan.to_json())))
    assert found.keys() == again.keys() and all(torch.equal(found[key], again[key]) for key in found)

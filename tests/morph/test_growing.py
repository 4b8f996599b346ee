"""Growth while a model trains: optimizer, schedule, average and gradients go on as if nothing had happened."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import LBFGS, SGD, Adadelta, Adafactor, Adagrad, Adam, AdamW, Optimizer, Rprop
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR, StepLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tests.builders import snapshot
from torchgraft import MorphError, SpecError, morph
from torchgraft.morph import Edit, Growth, grow

IMAGES = torch.randn(12, 2, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
LABELS = torch.arange(12) % 3
OLD = slice(2, 10)  # where the 8 units of the first layer stand once it has 12
NEW = [0, 1, 10, 11]


def net(seed: int = 0) -> nn.Sequential:
    """Two convolutions and a classifier, in float64."""
    torch.manual_seed(seed)
    first = nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()
    second = nn.Conv2d(8, 6, 3), nn.BatchNorm2d(6), nn.ReLU()
    return nn.Sequential(*first, *second, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 3)).double()


def loss_of(model: nn.Module, part: slice = slice(None)) -> Tensor:
    return F.cross_entropy(model(IMAGES[part]), LABELS[part])


def train(model: nn.Module, optimizer: Optimizer, steps: int, *after: Any) -> list[float]:
    """Train, call ``step`` of all that is given ``after`` each step, and return the losses."""
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        optimizer.step()
        for one in after:
            one.step()
        losses.append(float(loss.detach()))
    return losses


class Lion(Optimizer):
    """An optimizer of a user's own, with one moment (arXiv:2302.06675)."""

    def __init__(self, params: Any, lr: float = 1e-3) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for one in group["params"]:
                if one.grad is not None:
                    moment = self.state[one].setdefault("exp_avg", torch.zeros_like(one))
                    one.sub_(group["lr"] * torch.lerp(one.grad, moment, 0.9).sign())
                    moment.lerp_(one.grad, 0.01)


OPTIMIZERS: dict[str, Callable[[Iterable[Any]], Optimizer]] = {
    "SGD": lambda given: SGD(given, lr=0.02, momentum=0.9),
    "Nesterov": lambda given: SGD(given, lr=0.02, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "Adam": lambda given: Adam(given, lr=1e-3),
    "AdamW": lambda given: AdamW(given, lr=1e-3, amsgrad=True),
    "Lion": lambda given: Lion(given, lr=1e-4),
    "Adagrad": lambda given: Adagrad(given, lr=1e-2),
}


def silenced(model: nn.Sequential) -> None:
    """Take the gradients away from what widening the first layer has added: the new units stay silent."""
    for name, parameter in model.named_parameters():
        if name.startswith(("0.", "1.")):
            parameter.grad[NEW] = 0
        elif name == "3.weight":
            parameter.grad[:, NEW] = 0


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_was_there_goes_on_as_in_a_model_that_has_not_grown(name: str) -> None:
    plain, grown = net(), net()
    optimizers = [OPTIMIZERS[name](one.parameters()) for one in (plain, grown)]
    assert train(plain, optimizers[0], 5) == train(grown, optimizers[1], 5)
    assert grow(grown, optimizers[1], "widen 0 width=12").exact

    for _ in range(6):
        losses = []
        for model, optimizer in zip((plain, grown), optimizers, strict=True):
            optimizer.zero_grad()
            loss = loss_of(model)
            loss.backward()
            losses.append(float(loss.detach()))
            if model is grown:
                silenced(model)
            optimizer.step()
        assert losses[0] == pytest.approx(losses[1], rel=1e-12)

    assert torch.allclose(grown[0].weight[OLD], plain[0].weight, rtol=1e-10)
    assert torch.allclose(grown[3].weight[:, OLD], plain[3].weight, rtol=1e-10)
    for key, value in optimizers[0].state[plain[3].weight].items():
        held = optimizers[1].state[grown[3].weight][key]
        assert torch.allclose(held[:, OLD] if held.ndim else held, value, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_all_objects_stay_and_training_goes_on(name: str) -> None:
    model = net()
    optimizer = OPTIMIZERS[name](model.parameters())
    losses = train(model, optimizer, 5)
    groups, before = optimizer.param_groups, model

    report = grow(model, optimizer, ["widen 0 width=12", Edit("deepen", "3"), "expand_kernel 0 size=5"], certify=False)

    assert model is before and optimizer.param_groups is groups and model.training
    assert isinstance(model[6], nn.Sequential) and model[0].weight.shape == (12, 2, 5, 5)
    assert [id(one) for one in groups[0]["params"]] == [id(one) for one in model.parameters()]
    assert set(optimizer.state) <= set(model.parameters())
    assert set(report.joined) == {"6.0.weight", "6.0.bias", "6.1.weight", "6.1.bias"}
    assert len(report.optimizers[0].left) == 4 and report.optimizers[0].optimizer == type(optimizer).__name__
    assert all("silenced" in reason for _, reason in report.optimizers[0].left)
    more = train(model, optimizer, 5)
    assert more[-1] < losses[-1]
    assert all(one in optimizer.state for one in model.parameters())


@pytest.mark.parametrize("kind", [Adadelta, Adafactor, Rprop])
def test_state_of_any_shape_stays_where_a_parameter_does(kind: Any) -> None:
    model = net()
    optimizer = kind(model.parameters())
    train(model, optimizer, 3)
    before = copy.deepcopy(optimizer.state[model[8].weight])
    report = grow(model, optimizer, ["deepen 0", "widen 3.0 width=12"]).optimizers[0]
    assert {"0.weight", "9.weight"} <= set(report.moved) and {"3.0.weight", "4.weight"} <= {
        key for key, _ in report.left
    }
    after = optimizer.state[model[9].weight]
    assert after.keys() == before.keys()
    assert all(torch.equal(torch.as_tensor(after[key]), torch.as_tensor(value)) for key, value in before.items())
    train(model, optimizer, 2)
    assert all(one in optimizer.state for one in model.parameters())


def test_the_report_reads_well() -> None:
    model = net()
    optimizer = Adam(model.parameters())
    train(model, optimizer, 1)
    report = grow(model, optimizer, "deepen 0")
    assert str(report).splitlines() == [
        "deepen 0 (exact)",
        "Adam: 10 of 14 parameters have state from the source (exp_avg, exp_avg_sq, step)",
        "none for 3.0.weight, 3.0.bias, 3.1.weight and 1 more: silenced, gives on what it reads, to keep the function",
        "new in group 0: 3.0.weight, 3.0.bias, 3.1.weight and 1 more",
    ]
    assert repr(report) == "<Grown: deepen 0 (exact)>"
    assert grow(model, optimizer, "widen 0 width=9", certify=False).exact is None


def grouped(model: nn.Sequential) -> list[dict[str, Any]]:
    """Groups as many train: no decay for vectors, another rate for the classifier."""
    body = [(name, one) for name, one in model.named_parameters() if not name.startswith("8.")]
    return [
        {"params": [one for _, one in body if one.ndim > 1], "weight_decay": 0.1},
        {"params": [one for _, one in body if one.ndim == 1], "weight_decay": 0.0},
        {"params": list(model[8].parameters()), "lr": 0.5},
    ]


def keys_of(model: nn.Module, optimizer: Optimizer) -> list[list[str]]:
    names = {id(one): key for key, one in model.named_parameters()}
    return [[names[id(one)] for one in group["params"]] for group in optimizer.param_groups]


def test_new_parameters_join_the_group_of_their_sort() -> None:
    model = net()
    optimizer = SGD(grouped(model), lr=0.1, momentum=0.9)
    train(model, optimizer, 2)
    settings = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    report = grow(model, optimizer, ["deepen 0", "widen 4 width=10", "split 9 graph='s>t:1x1 s>t:1x1'"], certify=False)
    assert keys_of(model, optimizer) == [
        ["0.weight", "3.0.weight", "4.weight"],
        ["0.bias", "1.weight", "1.bias", "3.0.bias", "3.1.weight", "3.1.bias", "4.bias", "5.weight", "5.bias"],
        ["9.edges.s_t.weight", "9.edges.s_t.bias", "9.edges.s_t_again.weight"],
    ]
    names = ("3.0.weight", "3.0.bias", "3.1.weight", "3.1.bias", "9.edges.s_t_again.weight")
    assert report.joined == dict(zip(names, (0, 1, 1, 1, 2), strict=True))
    kept = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    assert kept == settings


def test_what_is_not_trained_is_not_trained_once_it_is_deeper_and_is_told() -> None:
    model = net()
    for part in model[:3]:
        part.requires_grad_(False)
    optimizer = SGD(model[3:].parameters(), lr=0.1, momentum=0.9)
    train(model, optimizer, 2)
    report = grow(model, optimizer, ["widen 0 width=12", "deepen 0"])
    assert keys_of(model, optimizer) == [["4.weight", "4.bias", "5.weight", "5.bias", "9.weight", "9.bias"]]
    assert not model[0].weight.requires_grad and not report.joined
    told = "no optimizer holds 3.0.weight, 3.0.bias, 3.1.weight, 3.1.bias, nor the parameters that they stand beside"
    assert report.notes == (told,)


def test_parameters_that_are_not_the_models_stay_with_their_state() -> None:
    model, temperature = net(), nn.Parameter(torch.ones((), dtype=torch.float64))
    optimizer = Adam([temperature, *model.parameters()])
    for _ in range(2):
        optimizer.zero_grad()
        (loss_of(model) * temperature.exp()).backward()
        optimizer.step()
    state = optimizer.state[temperature]
    grow(model, optimizer, "deepen 0")
    assert optimizer.param_groups[0]["params"][0] is temperature and optimizer.state[temperature] is state
    assert len(optimizer.state) == 11


def test_names_of_parameters_follow() -> None:
    model = net()
    named = [(f"module.{key}", one) for key, one in model.named_parameters()]
    optimizer = AdamW([{"params": named[:4]}, {"params": named[4:], "weight_decay": 0.0}])
    grow(model, optimizer, "deepen 0")
    names = [name for group in optimizer.param_groups for name in group["param_names"]]
    assert names == [f"module.{key}" for key, _ in model.named_parameters()]
    assert names[4:7] == ["module.3.0.weight", "module.3.0.bias", "module.3.1.weight"]


def test_several_optimizers() -> None:
    model = net()
    body, head = Adam(model[:6].parameters()), SGD(model[8].parameters(), lr=0.1, momentum=0.9)
    train(model, body, 1, head)
    report = grow(model, [body, head], ["deepen 3", "widen 0 width=9"], certify=False)
    assert [one.optimizer for one in report.optimizers] == ["Adam", "SGD"]
    assert [len(one.moved) for one in report.optimizers] == [8, 2] and not report.notes
    assert keys_of(model, head) == [["9.weight", "9.bias"]] and len(keys_of(model, body)[0]) == 12


SCHEDULERS: dict[str, Callable[[Optimizer], LRScheduler]] = {
    "step": lambda optimizer: StepLR(optimizer, 3, 0.5),
    "cosine": lambda optimizer: CosineAnnealingLR(optimizer, 12),
    "one cycle": lambda optimizer: OneCycleLR(optimizer, max_lr=[0.1, 0.2, 0.3], total_steps=12),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedules_go_on(name: str) -> None:
    rates = []
    for schedule in ({}, {4: "widen 0 width=12", 7: ["deepen 0"]}):
        model = net()
        optimizer = SGD(grouped(model), lr=0.1, momentum=0.9)
        scheduler = SCHEDULERS[name](optimizer)
        growth = Growth(model, optimizer, schedule, certify=False, rehearse=False)
        rates.append([])
        for _ in range(10):
            train(model, optimizer, 1, scheduler, growth)
            rates[-1].append([group["lr"] for group in optimizer.param_groups])
    assert rates[0] == rates[1] and len({one[0] for one in rates[0]}) > 3


def averaged(model: nn.Module) -> AveragedModel:
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)


@pytest.mark.parametrize(
    "edit",
    [
        "widen 0 width=12",
        "deepen 0",
        "split 3 graph='s>t:3x3 s>t:3x3'",
        "add_branch 3 graph='s>a:1x1 a>t:3x3'",
        "stack 6 depth=2",
    ],
)
def test_the_average_computes_what_it_did_and_goes_on(edit: str) -> None:
    model = net()
    model.insert(6, nn.Sequential(morph.Residual(nn.Sequential(nn.BatchNorm2d(6), nn.Conv2d(6, 6, 1)))).double())
    average, optimizer = averaged(model), Adam(model.parameters(), 1e-2)
    for _ in range(4):
        train(model, optimizer, 1)
        average.update_parameters(model)
    held, module = average.module, copy.deepcopy(average.module)
    with torch.no_grad():
        expected = average.eval()(IMAGES)
        average.train()
        before = model.eval()(IMAGES)
        model.train()
    assert (expected - before).abs().max() > 1e-3

    grow(model, optimizer, [edit, "widen 0 width=14"], ema=average)

    assert average.module is held and int(average.n_averaged) == 4
    with torch.no_grad():
        assert torch.allclose(average.eval()(IMAGES), expected, rtol=1e-9, atol=1e-11)
    shapes = [{key: one.shape for key, one in part.state_dict().items()} for part in (model, held)]
    assert shapes[0] == shapes[1] != {key: one.shape for key, one in module.state_dict().items()}
    average.update_parameters(model)
    assert int(average.n_averaged) == 5


def test_an_average_that_is_a_module_keeps_the_units_of_the_model() -> None:
    """Where units go, the model decides which."""
    model = net()
    average = copy.deepcopy(model).eval().requires_grad_(False)
    with torch.no_grad():
        model[3].weight[:, 5:7] *= 100  # read most in the model, least in the average
        average[3].weight[:, 5:7] = 0
    optimizer = SGD(model.parameters(), lr=0.1)
    grow(model, optimizer, "narrow 0 width=2", ema=average, approximate=True)
    assert average[3].weight.shape == (6, 2, 3, 3) and not average[3].weight.any() and model[3].weight.any()
    assert not average.training and not average[0].weight.requires_grad


def test_gradients_that_wait_for_a_step_move_too() -> None:
    plain, grown = net(), net()
    optimizers = [SGD(one.parameters(), lr=0.1, momentum=0.9) for one in (plain, grown)]
    for model, optimizer in zip((plain, grown), optimizers, strict=True):
        train(model, optimizer, 3)
        optimizer.zero_grad()
        loss_of(model.eval(), slice(0, 6)).backward()
        if model is grown:
            assert grow(model, optimizer, ["widen 0 width=12", "deepen 3"]).notes == ()
            assert model[0].weight.grad[NEW].abs().max() == 0 and model[6][0].weight.grad is None
        loss_of(model, slice(6, 12)).backward()
        optimizer.step()
    assert torch.allclose(grown[0].weight[OLD], plain[0].weight, rtol=1e-10)
    assert torch.allclose(grown[3].weight[:, OLD], plain[3].weight, rtol=1e-10)
    assert torch.allclose(grown[9].weight, plain[8].weight, rtol=1e-10)


@pytest.mark.parametrize(
    "edit", ["split 3 graph='s>t:3x3 s>t:3x3 s>t:3x3'", "branch 3 parts=3", "add_branch 3 graph=s>t:1x1"]
)
def test_parts_of_a_layer_have_its_gradient_and_its_state(edit: str) -> None:
    model = net()
    optimizer = Adam(model.parameters())
    train(model, optimizer, 3)
    old, state = model[3], copy.deepcopy(optimizer.state[model[3].weight])
    report = grow(model, optimizer, edit)
    parts = [one for one in getattr(model[3], "edges", model[3]).children() if one.kernel_size == (3, 3)]
    assert len(parts) == (1 if "add" in edit else 3) and not report.notes
    for part in parts:
        assert torch.equal(part.weight.grad, old.weight.grad)
        assert all(torch.equal(optimizer.state[part.weight][key], value) for key, value in state.items())
    assert [key for key, _ in report.optimizers[0].left] == (["3.edges.s_t_again.weight"] if "add" in edit else [])
    optimizer.zero_grad()
    loss_of(model).backward()
    assert torch.allclose(parts[0].weight.grad, parts[-1].weight.grad, rtol=1e-9)


def test_gradients_without_a_place_are_told() -> None:
    model = net()
    loss_of(model).backward()
    report = grow(model, (), Edit("split", "3", {"graph": "s>a:3x3 a>t:1x1"}))
    assert report.notes == tuple(f"the gradient of 3.{name} is gone with it" for name in ("weight", "bias"))
    assert model[8].weight.grad.abs().max() > 0 and report.optimizers == ()


def test_a_run_that_is_resumed_is_the_run() -> None:
    schedule = {3: ["widen 0 width=12", "deepen 0"], 8: "expand_kernel 0 size=5"}

    def start(seed: int) -> Any:
        model = net(seed)
        optimizer = AdamW(grouped(model), lr=1e-2)
        average = averaged(model)
        scheduler = CosineAnnealingLR(optimizer, 20)
        growth = Growth(model, optimizer, schedule, ema=average, certify=False)
        return model, optimizer, scheduler, average, growth

    def run(parts: Any, steps: int) -> None:
        model, optimizer, scheduler, average, growth = parts
        for _ in range(steps):
            train(model, optimizer, 1, scheduler)
            average.update_parameters(model)
            growth.step()

    whole = start(0)
    run(whole, 6)
    file = io.BytesIO()
    torch.save([one.state_dict() for one in whole], file)
    run(whole, 6)

    file.seek(0)
    again = start(1)
    states = torch.load(file, weights_only=True)
    for one, state in zip(reversed(again), reversed(states), strict=True):  # growth first
        one.load_state_dict(state)
    run(again, 6)

    assert again[-1].steps == whole[-1].steps == 12 and [step for step, _ in again[-1].done] == [3, 8]
    for one, other in ((whole[0], again[0]), (whole[3], again[3])):
        assert snapshot(one).keys() == snapshot(other).keys()
        assert all(
            torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True)
        )


def test_a_checkpoint_with_code_in_it_needs_the_schedule() -> None:
    block = nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU())
    schedule = {1: Edit("insert_block", "2", {"block": block})}
    model = net()
    growth = Growth(model, SGD(model.parameters(), lr=0.1), schedule)
    assert growth.step() is not None
    state, fresh = growth.state_dict(), net()
    with pytest.raises(MorphError, match="holds code, which no checkpoint holds: give the schedule with it at step 1"):
        Growth(fresh, SGD(fresh.parameters(), lr=0.1)).load_state_dict(state)
    Growth(fresh, SGD(fresh.parameters(), lr=0.1), schedule).load_state_dict(state)
    assert fresh.load_state_dict(model.state_dict())


def test_compiled_models_grow() -> None:
    model = net()
    compiled = torch.compile(model, backend="eager")
    optimizer = SGD(compiled.parameters(), lr=0.1, momentum=0.9)
    losses = train(compiled, optimizer, 2)
    with torch.no_grad():
        before = compiled.eval()(IMAGES)
        grow(compiled.train(), optimizer, ["widen 0 width=12", "deepen 0"])
        assert torch.allclose(compiled.eval()(IMAGES), before, rtol=1e-10) and compiled._orig_mod is model
    assert train(compiled.train(), optimizer, 3)[-1] < losses[0]


def test_members_are_hatched_from_copies() -> None:
    trunk = net()
    optimizer = Adam(trunk.parameters())
    train(trunk, optimizer, 3)
    before = snapshot(trunk)
    member, own = copy.deepcopy((trunk, optimizer))
    assert grow(member, own, "widen 0 width=12").exact
    train(member, own, 2)
    assert own.state[member[0].weight]["step"] == 5 and optimizer.state[trunk[0].weight]["step"] == 3
    assert all(torch.equal(before[key], value) for key, value in trunk.state_dict().items())


class Nested(SGD):
    """Keeps its parameters a second time, as some wrappers of optimizers do."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, lr=0.1)
        self.all = [one for group in self.param_groups for one in group["params"]]


WRONG: dict[str, tuple[Callable[[nn.Sequential, Optimizer], Any], type[Exception], str]] = {
    "path": (lambda model, optimizer: grow(model, optimizer, "widen body.0 width=9"), MorphError, "no module 'body.0'"),
    "text": (
        lambda model, optimizer: grow(model, optimizer, "widen 0 9"),
        MorphError,
        "write 'widen layer1.0.conv1 width=96'",
    ),
    "name": (lambda model, optimizer: grow(model, optimizer, "widden 0 width=9"), SpecError, "did you mean 'widen'"),
    "thing": (lambda model, optimizer: grow(model, optimizer, [3]), MorphError, "3 is no edit"),  # type: ignore[list-item]
    "nothing": (lambda model, optimizer: grow(model, optimizer, []), MorphError, "give at least one"),
    "not exact": (lambda model, optimizer: grow(model, optimizer, "narrow 0 width=4"), MorphError, "approximate=True"),
    "second fails": (
        lambda model, optimizer: grow(model, optimizer, ["widen 0 width=9", "widen 0 width=3"]),
        MorphError,
        "0 is 9 wide, and 3 is less",
    ),
    "foreign optimizer": (
        lambda model, optimizer: grow(model, SGD(net().parameters(), lr=0.1), "deepen 0"),
        MorphError,
        "SGD trains no parameter of this Sequential: give the optimizer that was built from its parameters",
    ),
    "nested": (lambda model, optimizer: grow(model, Nested(model.parameters()), "deepen 0"), MorphError, r"in \.all, "),
    "lbfgs": (lambda model, optimizer: grow(model, LBFGS(model.parameters()), "deepen 0"), MorphError, r"in \._params"),
    "average": (
        lambda model, optimizer: grow(model, optimizer, "deepen 0", ema=AveragedModel(net()[:6])),
        MorphError,
        "the average and the model differ in 8.weight",
    ),
    "average of another class": (
        lambda model, optimizer: grow(model, optimizer, "deepen 0", ema=nn.ModuleList(net())),
        MorphError,
        "the average is a ModuleList and the model a Sequential",
    ),
    "fresh": (
        lambda model, optimizer: grow(model, optimizer, "deepen 0", fresh="ones"),
        SpecError,
        "valid: zero, mean",
    ),
    "step 0": (lambda model, optimizer: Growth(model, optimizer, {0: "deepen 0"}), MorphError, "0 is no step"),
    "step in words": (
        lambda model, optimizer: Growth(model, optimizer, {"9": "deepen 0"}),
        MorphError,
        "'9' is no step",
    ),  # type: ignore[dict-item]
    "later": (
        lambda model, optimizer: Growth(model, optimizer, {5: "deepen 0", 9: "widen 99 width=8"}),
        MorphError,
        "at step 9: Sequential has no module '99'",
    ),
    "missed": (
        lambda model, optimizer: Growth(model, optimizer, {5: "deepen 0"}).load_state_dict({"steps": 7, "done": []}),
        MorphError,
        "step 5 of the schedule is past, the checkpoint is of step 7",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_use_is_refused_in_one_line_and_changes_nothing(name: str) -> None:
    model = net()
    optimizer = Adam(model.parameters())
    train(model, optimizer, 1)
    before, parameters = snapshot(model), list(model.parameters())
    call, error, words = WRONG[name]
    with pytest.raises(error, match=words) as raised:
        call(model, optimizer)
    assert "\n" not in str(raised.value)
    assert all(one is other for one, other in zip(model.parameters(), parameters, strict=True))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert list(optimizer.state) == optimizer.param_groups[0]["params"] == parameters


def test_a_model_with_other_edits_cannot_take_a_checkpoint() -> None:
    model = net()
    growth = Growth(model, SGD(model.parameters(), lr=0.1))
    growth.grow("deepen 0")
    state = growth.state_dict()
    growth.load_state_dict(state)
    assert len(growth.done) == 1
    other = net()
    second = Growth(other, SGD(other.parameters(), lr=0.1))
    second.grow("widen 0 width=9")
    with pytest.raises(MorphError, match="has had other edits"):
        second.load_state_dict(state)

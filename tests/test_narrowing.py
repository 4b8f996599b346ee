"""Narrowing: which units are kept, one choice for every tensor of a group, and what follows from what was cut."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from builders import filled, same_bits, snapshot
from safetensors.torch import save_file
from test_couple import PICTURE, WORDS, Block, Fused, Grouped, deviation, randomized, residual
from torch import Tensor, nn
from torch.nn import functional as F

import torchgraft as tg
from torchgraft.errors import ApplyError, PlanError, SpecError
from torchgraft.transfer.narrowing import Member


def kept(report: tg.Report) -> list[tuple[int, ...]]:
    """The units that were chosen, map by map."""
    return [units.chosen for units in report.plan.maps if units.chosen]


def weight(model: nn.Module, path: str) -> Tensor:
    return model.get_parameter(f"{path}.weight").detach()


def test_the_units_that_are_read_most_are_kept_in_every_tensor_of_the_group() -> None:
    source, target = randomized(residual(6, 8, 2)), randomized(residual(4, 8, 2), 1)
    report = tg.transfer(source, target)
    shares = sum(
        one.square().flatten(1).sum(1) / one.square().sum()
        for one in (weight(source, f"{path}.enter").transpose(0, 1) for path in ("2", "3"))
    )
    head = weight(source, "6")
    shares = shares + head.square().sum(0) / head.square().sum()
    best = shares.argsort(descending=True)[:4].sort().values
    assert kept(report) == [tuple(best.tolist())] != [(1, 2, 3, 4)]
    assert torch.equal(weight(target, "0"), weight(source, "0")[best])
    for path in ("2", "3"):
        assert torch.equal(weight(target, f"{path}.enter"), weight(source, f"{path}.enter")[:, best])
        assert torch.equal(weight(target, f"{path}.leave"), weight(source, f"{path}.leave")[best])
        for name in ("weight", "bias"):
            key = f"{path}.last.{name}"
            assert torch.equal(target.get_parameter(key), source.get_parameter(key)[best])
    assert torch.equal(weight(target, "6"), head[:, best])
    assert report.plan.notes == ("units of a group are chosen by readers: the target has fewer",)


class Depthwise(nn.Module):
    """An inverted block: expansion, depthwise convolution, squeeze-and-excitation, projection."""

    def __init__(self, hidden: int, squeezed: int) -> None:
        super().__init__()
        self.expand, self.norm = nn.Conv2d(3, hidden, 1, bias=False), nn.BatchNorm2d(hidden)
        self.depth, self.norm2 = (
            nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
        )
        self.reduce, self.excite = nn.Conv2d(hidden, squeezed, 1), nn.Conv2d(squeezed, hidden, 1)
        self.project, self.norm3 = nn.Conv2d(hidden, 5, 1, bias=False), nn.BatchNorm2d(5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.norm(self.expand(x)))
        x = F.relu6(self.norm2(self.depth(x)))
        x = x * self.excite(self.reduce(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
        return self.norm3(self.project(x))


def resnext(groups: int, each: int = 3) -> nn.Module:
    width = groups * each
    return nn.Sequential(
        nn.Conv2d(3, width, 1), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3, groups=groups),
        nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, 5, 1),
    )  # fmt: skip


class Recurrent(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(8, hidden, batch_first=True), nn.Linear(hidden, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0])


def perceptron(hidden: int) -> nn.Module:
    return nn.Sequential(nn.Linear(8, hidden), nn.GELU(), nn.Linear(hidden, 4))


def deaden(model: nn.Module, *places: tuple[str, int, Sequence[int]]) -> None:
    """Set some units of tensors to zero: key, axis, units."""
    tensors = dict(model.named_parameters())
    with torch.no_grad():
        for key, axis, units in places:
            tensors[key].index_fill_(axis, torch.tensor(units), 0)


DEAD: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module], Tensor, list[tuple[str, int, Sequence[int]]]]]
DEAD = {
    "the stream of a residual network": (
        lambda: residual(6, 8, 2), lambda: residual(4, 8, 2), PICTURE,
        [("2.enter.weight", 1, (0, 3)), ("3.enter.weight", 1, (0, 3)), ("6.weight", 1, (0, 3))],
    ),
    "hidden units that nothing reads": (
        lambda: residual(6, 8, 2), lambda: residual(6, 5, 2), PICTURE,
        [("2.leave.weight", 1, (0, 3, 7)), ("3.leave.weight", 1, (1, 2, 4))],
    ),
    "hidden units that a norm gives as zero": (
        lambda: residual(6, 8, 1), lambda: residual(6, 5, 1), PICTURE,
        [("2.norm.weight", 0, (0, 3, 7)), ("2.norm.bias", 0, (0, 3, 7))],
    ),
    "depthwise, squeeze-and-excitation": (
        lambda: Depthwise(8, 4), lambda: Depthwise(5, 3), PICTURE,
        [("project.weight", 1, (1, 2, 6)), ("reduce.weight", 1, (1, 2, 6)), ("excite.weight", 1, (0,))],
    ),
    "whole groups of a convolution": (
        lambda: resnext(4), lambda: resnext(3), PICTURE,
        [("3.weight", 0, (3, 4, 5)), ("6.weight", 1, (3, 4, 5)), ("4.weight", 0, (3, 4, 5)), ("4.bias", 0, (3, 4, 5))],
    ),
    "whole heads": (
        lambda: Fused(8, 3, 4), lambda: Fused(8, 2, 4), WORDS, [("out.weight", 1, (4, 5, 6, 7))],
    ),
    "groups of queries with their keys and values": (
        lambda: Grouped(6, 3, 2), lambda: Grouped(4, 2, 2), WORDS, [("out.weight", 1, (0, 1, 2, 3))],
    ),
    "units of a recurrent layer": (
        lambda: Recurrent(6), lambda: Recurrent(4), WORDS,
        [("rnn.weight_hh_l0", 1, (0, 4)), ("head.weight", 1, (0, 4))],
    ),
    "units without a norm": (
        lambda: perceptron(8), lambda: perceptron(6), WORDS, [("2.weight", 1, (2, 5))],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", DEAD)
def test_a_source_with_dead_units_keeps_its_function_without_them(case: str) -> None:
    small_source, small_target, inputs, dead = DEAD[case]
    source, target = randomized(small_source()), randomized(small_target(), 1)
    deaden(source, *dead)
    report = tg.transfer(source, target, inputs=inputs)
    assert deviation(source, target, inputs) < 1e-12
    for other in ("centre", "even"):
        blind = randomized(small_target(), 1)
        tg.transfer(source, blind, inputs=inputs, narrowing=other)
        if deviation(source, blind, inputs) > 1e-3:
            break
    else:
        pytest.fail("the check cannot fail: numbers alone find the dead units")
    certificate = tg.verify(source, target, report, inputs)
    assert certificate.exact and tg.verify(source, target, tg.plan(source, target, inputs=inputs), inputs).exact


def test_a_unit_that_is_the_same_for_all_inputs_goes_first() -> None:
    source, target = randomized(residual(6, 8, 1)), randomized(residual(6, 5, 1), 1)
    with torch.no_grad():
        source.get_buffer("2.norm.running_var")[[0, 3, 7]] = 1e-12
        source.get_parameter("2.leave.weight")[:, [0, 3, 7]] = 9.0  # a constant may be read as much as it likes
    assert kept(tg.transfer(source, target)) == [(1, 2, 4, 5, 6)]


def test_magnitude_leaves_out_units_that_are_zero_everywhere() -> None:
    source, target = randomized(perceptron(8)), randomized(perceptron(6), 1)
    deaden(source, ("0.weight", 0, (2, 5)), ("0.bias", 0, (2, 5)), ("2.weight", 1, (2, 5)))
    report = tg.transfer(source, target, narrowing="magnitude")
    assert kept(report) == [(0, 1, 3, 4, 6, 7)] and deviation(source, target, WORDS) < 1e-12


def test_norm_scale_keeps_the_largest_gains() -> None:
    source, target = randomized(residual(6, 8, 1)), randomized(residual(6, 3, 1), 1)
    with torch.no_grad():
        source.get_parameter("2.norm.weight").copy_(torch.tensor([1.0, -5, 2, 7, 0.5, 3, 1, 0]))
    assert kept(tg.transfer(source, target, narrowing="norm_scale")) == [(1, 3, 5)]
    plain = perceptron(8).double(), perceptron(6).double()
    assert kept(tg.transfer(*plain, narrowing="norm_scale")) == kept(tg.transfer(*plain, narrowing="magnitude"))


@pytest.mark.parametrize(("rule", "units"), [("centre", [2, 3, 4]), ("even", [0, 4, 7])])
def test_rules_that_need_no_weights(rule: str, units: list[int]) -> None:
    source, target = filled(perceptron(8)), perceptron(3)
    report = tg.transfer(source, target, narrowing=rule)
    assert torch.equal(weight(target, "0"), weight(source, "0")[units])
    assert torch.equal(weight(target, "2"), weight(source, "2")[:, units])
    assert kept(report) == [] and not report.plan.notes


def test_of_equal_units_the_first_are_kept() -> None:
    source, target = perceptron(8), perceptron(5)
    for layer in (source[0], source[2]):  # type: ignore[index]
        nn.init.constant_(layer.weight, 0.5)
    assert kept(tg.transfer(source, target)) == [(0, 1, 2, 3, 4)]


def test_locked_units_are_never_chosen_by_weights() -> None:
    """Classes, inputs and words keep their numbers."""

    def words(count: int, classes: int) -> nn.Module:
        return nn.Sequential(nn.Embedding(count, 4), nn.Flatten(), nn.Linear(4, classes))

    source, target = filled(words(9, 6)), words(7, 4)
    report = tg.transfer(source, target, inputs=torch.zeros(2, 1, dtype=torch.long))
    assert kept(report) == []
    assert torch.equal(weight(target, "0"), weight(source, "0")[:7])
    assert torch.equal(weight(target, "2"), weight(source, "2")[:4])


def test_a_rule_of_ones_own_sees_the_members_and_decides() -> None:
    seen: list[tuple[str, str, str, tuple[int, ...]]] = []

    def last(members: Sequence[Member]) -> Tensor:
        seen.extend((one.key, one.use, one.kind, tuple(one.values.shape)) for one in members)
        return torch.arange(len(members[0].values))

    source, target = filled(perceptron(8)), perceptron(6)
    report = tg.transfer(source, target, narrowing=last)
    assert kept(report) == [(2, 3, 4, 5, 6, 7)]
    assert seen == [
        ("0.weight", "makes", "linear", (8, 8)),
        ("0.bias", "alone", "linear", (8,)),
        ("2.weight", "reads", "linear", (8, 4)),
    ]
    plan = tg.plan(source, target, narrowing=last)
    before = snapshot(target)
    with pytest.raises(ApplyError, match="narrowing of your own, last: pass it again as narrowing=last"):
        tg.apply(plan, source, target)
    with pytest.raises(ApplyError, match=r"gave 3 scores for the 8 units of 0\.weight"):
        tg.apply(plan, source, target, narrowing=lambda members: [1.0, 2.0, 3.0])
    assert same_bits(before, snapshot(target)), "nothing is written before all units are chosen"
    again = perceptron(6)
    tg.apply(report.plan, source, again)
    assert torch.equal(weight(again, "0"), weight(target, "0")), "the report's plan holds what was chosen"


def test_heads_are_scored_by_all_their_channels() -> None:
    sizes: dict[str, tuple[int, ...]] = {}

    def look(members: Sequence[Member]) -> list[float]:
        sizes.update((f"{one.key} {one.use}", tuple(one.values.shape)) for one in members)
        return [0.0, 2.0, 1.0]

    source, target = randomized(Fused(8, 3, 4)), randomized(Fused(8, 2, 4), 1)
    tg.transfer(source, target, inputs=WORDS, narrowing=look)
    assert sizes["out.weight reads"] == (3, 8, 4)
    assert torch.equal(weight(target, "out"), weight(source, "out")[:, 4:])


def test_a_stored_plan_and_a_stored_choice_do_the_same() -> None:
    source = randomized(residual(6, 8, 2))
    targets = [randomized(residual(4, 5, 2), 1) for _ in range(3)]
    plan = tg.plan(source, targets[0])
    report = tg.apply(plan, source, targets[0])
    again, chosen = (tg.Plan.from_json(json.dumps(json.loads(one.to_json()))) for one in (plan, report.plan))
    assert again == plan and chosen == report.plan != plan
    assert report.fingerprint == plan.fingerprint() == chosen.fingerprint()
    tg.apply(again, source, targets[1])
    tg.apply(chosen, source, targets[2])
    assert same_bits(snapshot(targets[0]), snapshot(targets[1])) and same_bits(
        snapshot(targets[0]), snapshot(targets[2])
    )


def test_a_choice_that_cannot_be_is_refused() -> None:
    source, target = randomized(perceptron(8)), randomized(perceptron(6), 1)
    data = tg.transfer(source, target).plan.to_dict()
    for wrong in ([0, 1], [0, 1, 2, 3, 4, 8], [-1, 1, 2, 3, 4, 5]):
        data["maps"][0]["chosen"] = wrong
        with pytest.raises(PlanError, match="not a plan"):
            tg.Plan.from_json(json.dumps(data))
    plan = tg.plan(source, target)
    odd = plan.to_json().replace('"readers"', '"reader"')
    with pytest.raises(SpecError, match="did you mean 'readers'"):
        tg.apply(tg.Plan.from_json(odd), source, target)


def test_unknown_rules_and_rules_that_would_be_ignored_are_errors() -> None:
    source, target = perceptron(8), perceptron(6)
    with pytest.raises(SpecError, match=r"unknown narrowing 'reader'.*readers, magnitude, norm_scale, centre, even"):
        tg.plan(source, target, narrowing="reader")
    with pytest.raises(SpecError, match="dpiat cuts every tensor for itself"):
        tg.plan(source, target, method="dpiat", narrowing="readers")
    with pytest.raises(SpecError, match="with operator clip cuts every tensor for itself"):
        tg.plan(source, target, operator="clip", narrowing="readers")


def test_a_file_gives_what_the_module_gives(tmp_path: Path) -> None:
    source, targets = randomized(residual(6, 8, 2)), [randomized(residual(4, 5, 2), 1) for _ in range(2)]
    save_file(source.state_dict(), tmp_path / "source.safetensors")
    tg.transfer(source, targets[0])
    report = tg.transfer(tmp_path / "source.safetensors", targets[1], factory=lambda: residual(6, 8, 2))
    assert kept(report) and same_bits(snapshot(targets[0]), snapshot(targets[1]))


def test_momentum_follows_the_units_of_the_weights() -> None:
    source, target = randomized(residual(6, 8, 2)), randomized(residual(4, 5, 2), 1)
    old, new = (torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9) for model in (source, target))
    for parameter in source.parameters():
        old.state[parameter]["momentum_buffer"] = parameter.detach().clone()
    report = tg.transfer(source, target)
    for given in (report, report.plan, tg.plan(source, target)):
        new.state.clear()
        tg.transfer_optimizer(given, old, new, source=source, target=target)
        assert all(torch.equal(new.state[one]["momentum_buffer"], one) for one in target.parameters())
    nn.init.zeros_(source.get_parameter("6.weight"))  # training goes on, and other units are read most
    tg.transfer_optimizer(report, old, new, source=source, target=target)
    assert all(torch.equal(new.state[one]["momentum_buffer"], one) for one in target.parameters())


def test_an_optimizer_that_lacks_what_decides_asks_for_the_report() -> None:
    source, target = perceptron(8), perceptron(6)
    old = torch.optim.SGD(list(source.named_parameters())[:2], lr=0.1, momentum=0.9)
    new = torch.optim.SGD(target.named_parameters(), lr=0.1, momentum=0.9)
    for parameter in old.param_groups[0]["params"]:
        old.state[parameter]["momentum_buffer"] = parameter.detach().clone()
    with pytest.raises(ApplyError, match=r"decided by 2.weight.*give the report"):
        tg.transfer_optimizer(tg.plan(source, target), old, new)
    report = tg.transfer(source, target)
    assert tg.transfer_optimizer(report, old, new).moved == ("0.weight", "0.bias")
    assert torch.equal(new.state[target[0].weight]["momentum_buffer"], target[0].weight)  # type: ignore[index]


def test_growth_chooses_nothing_and_follows_nothing() -> None:
    source, target = randomized(residual(6, 8, 2)), randomized(residual(9, 11, 3), 1)
    report = tg.transfer(source, target)
    assert kept(report) == [] and report.plan.followed == ()
    assert not [note for note in report.plan.notes if "chosen by" in note]


def trained_statistics(model: nn.Module, inputs: Tensor) -> nn.Module:
    """Measure the running statistics of all norms on some inputs."""
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.reset_running_stats()
            part.momentum = None
    with torch.no_grad():
        model.train()(inputs)
    return model.eval()


class Kernel(nn.Module):
    def __init__(self, kernel: int, hidden: int = 8) -> None:
        super().__init__()
        self.one, self.norm = nn.Conv2d(3, hidden, 1), nn.BatchNorm2d(hidden)
        self.two, self.norm2 = nn.Conv2d(hidden, 12, kernel, padding=kernel // 2), nn.BatchNorm2d(12)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm2(self.two(self.norm(self.one(x)).relu()))


@pytest.mark.parametrize(
    ("large", "small"),
    [
        pytest.param(lambda: Kernel(3, 16), lambda: Kernel(3, 10), id="fewer inputs"),
        pytest.param(lambda: Kernel(5), lambda: Kernel(3), id="a smaller kernel"),
        pytest.param(lambda: Depthwise(16, 4), lambda: Depthwise(10, 4), id="gated inputs"),
        pytest.param(lambda: residual(12, 16, 2), lambda: residual(9, 12, 2), id="a stream"),
    ],
)
def test_running_statistics_follow_what_was_cut(large: Callable[[], nn.Module], small: Callable[[], nn.Module]) -> None:
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(64, 3, 16, 16, dtype=torch.float64, generator=generator)
    source, target = trained_statistics(randomized(large()), inputs), randomized(small(), 1)
    plan = tg.transfer(source, target).plan
    assert plan.followed
    followed = snapshot(target)
    stale = snapshot(target)
    for transfer in plan.transfers:
        for move in transfer.moves:
            if move.target.role in ("running_mean", "running_var"):
                units = [plan.maps[number].chosen for row in move.layout for one in row for number in one.maps]
                whole = source.state_dict()[move.source.key]
                stale[move.target.key] = whole[list(units[0])] if units else whole
    true = snapshot(trained_statistics(target, inputs))
    off = {name: [0.0, 0.0] for name in ("mean", "variance")}
    for one in plan.followed:
        for place, given in enumerate((followed, stale)):
            off["mean"][place] += float(((given[one.mean] - true[one.mean]) / true[one.variance].sqrt()).abs().mean())
            off["variance"][place] += float((given[one.variance] / true[one.variance]).log().abs().mean())
    assert off["mean"][0] < 0.7 * off["mean"][1], off
    assert off["variance"][0] < 0.8 * off["variance"][1], off


def test_statistics_that_follow_are_told() -> None:
    source, target = randomized(residual(6, 8, 1)), randomized(residual(6, 5, 1), 1)
    report = tg.transfer(source, target)
    told = {one.key: (one.status, one.reason) for one in report.tensors if "running" in one.key}
    assert told == {
        "2.norm.running_mean": ("resized", ""),
        "2.norm.running_var": ("resized", ""),
        "2.last.running_mean": ("resized", "without what was cut before it"),
        "2.last.running_var": ("resized", "without what was cut before it"),
    }


def test_statistics_of_another_layer_are_left_alone() -> None:
    """They follow where norm and layer belong together in the source, too; a norm of computed values has none."""

    class Late(nn.Module):
        def __init__(self, hidden: int) -> None:
            super().__init__()
            self.block, self.norm = Block(6, hidden), nn.BatchNorm2d(6)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.block(x))

    source, target = randomized(Late(8)), randomized(Late(5), 1)
    plan = tg.transfer(source, target, inputs=torch.zeros(1, 6, 5, 5, dtype=torch.float64)).plan
    assert [one.mean for one in plan.followed] == ["block.last.running_mean"]
    assert torch.equal(target.get_buffer("norm.running_mean"), source.get_buffer("norm.running_mean"))

"""Learning rates by origin: which tensors learn slowly, how slowly, and what that keeps."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import torchgraft as tg
from torchgraft.optim import share_of, transferred_keys


class Block(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(width, inner, 3, padding=1, bias=False), nn.BatchNorm2d(inner)
        self.conv2, self.norm2 = nn.Conv2d(inner, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))))


def network(inner: int, depth: int = 1, classes: int = 3, seed: int = 0, activation: type[nn.Module] = nn.ReLU) -> Any:
    torch.manual_seed(seed)
    blocks = (Block(4, inner) for _ in range(depth))
    stem = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), activation()
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes))


def rates(model: nn.Module, groups: list[dict[str, Any]]) -> Mapping[str, float]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {names[id(one)]: group["lr"] for group in groups for one in group["params"]}
    assert len(found) == sum(len(group["params"]) for group in groups)  # each of them once
    return found


def test_new_blocks_learn_at_the_full_rate_and_what_came_from_the_source_at_a_quarter() -> None:
    source, target = network(4), network(6, depth=2, seed=1)
    report = tg.transfer(source, target)
    found = rates(target, tg.parameter_groups(report, target, lr=0.1))
    served = {one.key for one in report.tensors if one.source and not one.buffer}
    assert report.plan.exact and set(found) == {name for name, _ in target.named_parameters()}
    assert found == {name: 0.025 if name in served else 0.1 for name in found}
    silenced = next(one.key for one in report.tensors if one.status == "silenced")
    assert found[silenced] == 0.1 and found["0.weight"] == 0.025
    assert rates(target, tg.parameter_groups(report.plan, target, lr=0.1)) == found


@pytest.mark.parametrize(
    ("target", "options"),
    [
        (network(6, classes=5), {}),
        (network(6, classes=5), {"labels": {4: 0, 3: 1, 2: 2}}),
        (network(2), {}),
        (network(6, activation=nn.SiLU), {}),
    ],
    ids=["more classes", "classes by a map", "fewer units", "another function"],
)
def test_where_there_is_something_to_learn_one_rate_serves_all(target: nn.Module, options: dict[str, Any]) -> None:
    report = tg.transfer(network(4), copy.deepcopy(target), **options)
    assert share_of(report) == 1
    assert set(rates(target, tg.parameter_groups(report, target, lr=0.1)).values()) == {0.1}


def test_the_same_classes_in_another_order_are_no_new_ones() -> None:
    assert share_of(tg.plan(network(4), network(6), labels={0: 2, 1: 1, 2: 0})) == 0.25


def test_a_share_may_be_given() -> None:
    source, target = network(4), network(6, depth=2)
    groups = tg.parameter_groups(tg.plan(source, target), target, lr=0.1, transferred=0.5)
    assert [group["lr"] for group in groups] == [0.05, 0.1]


def test_what_is_frozen_is_in_no_group_and_tied_weights_are_in_one() -> None:
    source, target = network(4), network(6)
    target[0].weight.requires_grad_(False)
    target[3].other = target[3].conv1
    plan = tg.plan(source, target)
    found = rates(target, tg.parameter_groups(plan, target, lr=0.1))
    assert any(one.tied for one in plan.tensors)
    assert set(found) == {name for name, _ in target.named_parameters()} - {"0.weight"}
    assert found["3.conv1.weight"] == 0.025


def test_new_layers_that_give_on_what_they_read_belong_to_what_is_kept() -> None:
    def plain(depth: int) -> nn.Module:
        layers = [
            module for _ in range(depth) for module in (nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        ]
        head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)
        return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), *layers, *head)

    plan = tg.plan(plain(1), plain(2))
    passing = {one.key for one in plan.tensors if one.status == "silenced" and not one.buffer}
    assert plan.exact and plan.passages and passing and passing <= transferred_keys(plan)


def test_it_keeps_more_of_the_function_than_one_rate_does() -> None:
    """The same steps by the same rate move what was transferred less far, and what is new as far."""
    source, start = network(4).eval(), network(6, depth=2, seed=1)
    report = tg.transfer(source, start)
    images, labels = torch.randn(32, 3, 8, 8), torch.arange(32) % 3
    moved = []
    for share in (1.0, 0.25):
        model = copy.deepcopy(start).train()
        optimizer = torch.optim.SGD(tg.parameter_groups(report, model, lr=0.1, transferred=share))
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
        moved.append({name: (one - start.get_parameter(name)).norm() for name, one in model.named_parameters()})
    keys = transferred_keys(report)
    torch.testing.assert_close(moved[1]["0.weight"] / moved[0]["0.weight"], torch.tensor(0.25))
    for name, distance in moved[0].items():
        torch.testing.assert_close(moved[1][name], distance * (0.25 if name in keys else 1.0), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 0.0}, "lr is 0.0: give a number above 0"),
        ({"lr": "much"}, "lr is 'much'"),
        ({"lr": 0.1, "transferred": -1}, "transferred is -1"),
        ({"lr": 0.1, "transferred": float("nan")}, "transferred is nan"),
    ],
)
def test_rates_that_cannot_be(options: dict[str, Any], message: str) -> None:
    plan = tg.plan(network(4), network(6))
    with pytest.raises(tg.SpecError, match=message):
        tg.parameter_groups(plan, network(6), **options)


def test_another_target_is_refused() -> None:
    plan = tg.plan(network(4), network(6))
    for other, key in ((network(8), "3.conv1.weight of 8×4×3×3"), (network(6, depth=2), "4.conv1.weight of 6×4×3×3")):
        with pytest.raises(tg.ApplyError, match=f"the plan was made for another target: it has no {key}; make"):
            tg.parameter_groups(plan, other, lr=0.1)

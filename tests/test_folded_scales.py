"""Layer scales that the target has no place for are multiplied into the weights before them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import torchgraft as tg
from torchgraft.errors import ApplyError


class Block(nn.Module):
    """A residual branch, with a layer scale (Touvron et al., 2021) or without."""

    def __init__(self, width: int, scaled: bool, bias: bool = True) -> None:
        super().__init__()
        self.norm, self.fc1, self.fc2 = nn.LayerNorm(width), nn.Linear(width, 16), nn.Linear(16, width, bias=bias)
        self.gamma = nn.Parameter(torch.ones(width)) if scaled else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc2(torch.relu(self.fc1(self.norm(x))))
        return x + (y if self.gamma is None else y * self.gamma)


def _network(width: int, scaled: tuple[bool, ...], seed: int, bias: bool = True) -> nn.Sequential:
    torch.manual_seed(seed)
    blocks = (Block(width, one, bias) for one in scaled)
    network = nn.Sequential(nn.Linear(5, width), *blocks, nn.LayerNorm(width), nn.Linear(width, 3)).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return network


X = torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2, 0, 1, 2])
BOTH = True, True


@pytest.mark.parametrize(
    ("width", "scaled"),
    [(8, (False, False)), (8, (False, False, False)), (12, (False, False)), (16, (False, False))],
    ids=["equal", "deeper", "wider", "twice as wide"],
)
@pytest.mark.parametrize("bias", [True, False])
def test_the_target_computes_the_same(width: int, scaled: tuple[bool, ...], bias: bool) -> None:
    source, target = _network(8, BOTH, 0, bias), _network(width, scaled, 1, bias)
    report = tg.transfer(source, target, inputs=X)
    assert report.plan.exact, report.plan.obstacles
    certificate = tg.verify(source, target, report, X)
    assert certificate.exact, certificate
    told = {one.key: one.reason for one in report.tensors}
    assert told["1.fc2.weight"] == "times 1.gamma, which has no place" and not told["1.fc1.weight"]


def test_scales_with_a_place_are_copied() -> None:
    source, target = _network(8, BOTH, 0), _network(8, BOTH, 1)
    report = tg.transfer(source, target, inputs=X)
    assert not any(move.fold for one in report.plan.transfers for move in one.moves)
    assert torch.equal(target[1].gamma, source[1].gamma) and torch.equal(target[1].fc2.weight, source[1].fc2.weight)


def test_some_blocks_of_the_target_have_scales() -> None:
    source, target = _network(8, BOTH, 0), _network(8, (True, False), 1)
    report = tg.transfer(source, target, inputs=X)
    assert tg.verify(source, target, report, X).exact == report.plan.exact
    assert report.plan.exact, report.plan.obstacles


def test_a_stored_plan_folds_too() -> None:
    source, target, other = _network(8, BOTH, 0), _network(8, (False, False), 1), _network(8, (False, False), 1)
    plan = tg.plan(source, target, inputs=X)
    read = tg.Plan.from_json(plan.to_json())
    assert read == plan and read.fingerprint() == plan.fingerprint()
    for made, one in ((plan, target), (read, other)):
        tg.apply(made, source, one)
    assert torch.equal(target(X), other(X)) and torch.allclose(other(X), source(X), rtol=1e-12)


def test_plans_without_scales_are_stored_as_before() -> None:
    plain = tg.plan(_network(8, (False, False), 0), _network(12, (False, False), 1), inputs=X)
    assert '"fold"' not in plain.to_json()


def test_a_source_without_the_scale_is_refused() -> None:
    source, target = _network(8, BOTH, 0), _network(8, (False, False), 1)
    plan = tg.plan(source, target, inputs=X)
    before = copy.deepcopy(target.state_dict())
    with pytest.raises(ApplyError, match=r"has no tensor 1\.gamma; make the plan anew"):
        tg.apply(plan, _network(8, (False, False), 0), target)
    assert all(torch.equal(before[key], one) for key, one in target.state_dict().items())


def test_what_is_rounded_in_float32_is_exact() -> None:
    source, target = _network(8, BOTH, 0).float(), _network(8, (False, False), 1).float()
    report = tg.transfer(source, target, inputs=X.float())
    certificate = tg.verify(source, target, report, X.float())
    assert certificate.exact, certificate


def test_another_reason_is_told_without_the_scales() -> None:
    source, target = _network(8, BOTH, 0), _network(8, (False, False), 1)
    report = tg.transfer(source, target, inputs=X)
    target[2].norm.eps = 0.1
    certificate = tg.verify(source, target, report, X)
    assert not certificate.exact and "epsilon" in certificate.reasons[0]
    assert not any("no place" in one for one in certificate.reasons), certificate.reasons


def test_float16_is_rounded_once() -> None:
    source, target = _network(8, BOTH, 0).half(), _network(8, (False, False), 1)
    tg.transfer(source, target, inputs=X)
    want = source[1].fc2.weight.double() * source[1].gamma.double()[:, None]
    assert torch.equal(target[1].fc2.weight, want)


class Pooled(nn.Module):
    """A residual branch without weights, which could take in no scale."""

    def __init__(self, scaled: bool) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(5, 8), nn.Linear(8, 3)
        self.gamma = nn.Parameter(torch.full((8,), 0.5)) if scaled else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = torch.softmax(x, -1)
        scores: Tensor = self.head(x + (y if self.gamma is None else y * self.gamma))
        return scores


def test_a_scale_that_no_weight_can_take_in_is_told() -> None:
    source, target = Pooled(True).double(), Pooled(False).double()
    report = tg.transfer(source, target, inputs=X)
    assert not tg.verify(source, target, report, X).exact
    assert not report.plan.exact and "no place" in report.plan.obstacles[0]


def test_dpiat_leaves_weights_as_they_are() -> None:
    source, target = _network(8, BOTH, 0), _network(8, (False, False), 1)
    tg.transfer(source, target, method="dpiat")
    assert torch.equal(target[1].fc2.weight, source[1].fc2.weight)


def _step(network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    nn.functional.cross_entropy(network(X), Y).backward()
    optimizer.step()


def test_moments_follow_the_gradient() -> None:
    """The gradient of a weight that holds the scale is that of the source's weight over it."""
    source, target = _network(8, BOTH, 0), _network(8, (False, False), 1)
    adam = torch.optim.Adam(source.parameters(), 0.0)
    _step(source, adam)
    report = tg.transfer(source, target, inputs=X)
    moved, fresh = (torch.optim.Adam(target.parameters(), 0.0) for _ in range(2))
    tg.transfer_optimizer(report, adam, moved, source=source, target=target)
    _step(target, fresh)
    for key, parameter in target.named_parameters():
        for name in ("exp_avg", "exp_avg_sq"):
            assert torch.allclose(moved.state[parameter][name], fresh.state[parameter][name], rtol=1e-9, atol=1e-18), (
                key
            )


def test_a_silenced_unit_has_no_gradient_to_tell() -> None:
    source, target = _network(8, BOTH, 0), _network(8, (False, False), 1)
    with torch.no_grad():
        source[1].gamma[3] = 0
    sgd = torch.optim.SGD(source.parameters(), 0.0, momentum=0.9)
    _step(source, sgd)
    report = tg.transfer(source, target, inputs=X)
    moved = torch.optim.SGD(target.parameters(), 0.0, momentum=0.9)
    tg.transfer_optimizer(report, sgd, moved, source=source, target=target)
    momentum = moved.state[target[1].fc2.weight]["momentum_buffer"]
    assert not momentum[3].any() and bool(momentum.isfinite().all()) and momentum[2].any()


def test_without_the_scale_the_state_stays_behind() -> None:
    source, target = _network(8, BOTH, 0), _network(8, (False, False), 1)
    some = [one for name, one in source.named_parameters() if "gamma" not in name]
    sgd = torch.optim.SGD(some, 0.0, momentum=0.9)
    _step(source, sgd)
    report = tg.transfer(source, target, inputs=X)
    moved = torch.optim.SGD(target.parameters(), 0.0, momentum=0.9)
    told = tg.transfer_optimizer(report, sgd, moved, source=source, target=target)
    assert target[1].fc2.weight not in moved.state and "1.gamma" in str(told)

"""Filters that no state dict holds and that are the same for every channel, as of anti-aliasing (Zhang, 2019)."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import torchgraft as tg
from torchgraft.axes import axis_groups


class Blur(nn.Module):
    """Halves the resolution behind a fixed filter; with ``odd`` the first channel has another one."""

    def __init__(self, width: int, row: tuple[float, ...] = (1.0, 2.0, 1.0), odd: bool = False) -> None:
        super().__init__()
        one = torch.tensor(row) / sum(row)
        filters = (one[:, None] * one).repeat(width, 1, 1, 1)
        if odd:
            filters[0] = 1 / 9
        self.register_buffer("filters", filters, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.filters, stride=2, padding=1, groups=x.shape[1])


def _network(width: int, blur: nn.Module, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    body = (nn.Conv2d(3, width, 3), nn.ReLU(), blur, nn.Conv2d(width, 6, 1), nn.ReLU(), nn.Flatten(), nn.LazyLinear(4))
    network = nn.Sequential(*body).double()
    network(torch.zeros(1, 3, 12, 12, dtype=torch.float64))
    return network


X = torch.randn(2, 3, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("odd", "free"), [(False, True), (True, False)], ids=["one filter", "another one"])
def test_channels_are_free_where_all_have_the_same_filter(odd: bool, free: bool) -> None:
    groups = axis_groups(_network(8, Blur(8, odd=odd), 0), (X,))
    held = {(member.key, member.axis) for group in groups.free() for member in group.members}
    assert {("0.weight", 0), ("3.weight", 1)} <= held if free else ("0.weight", 0) not in held


def test_wider_is_exact_and_the_plan_says_so() -> None:
    source, target = _network(8, Blur(8), 0), _network(11, Blur(11), 1)
    report = tg.transfer(source, target, inputs=X)
    assert report.plan.exact, report.plan.obstacles
    assert tg.verify(source, target, report, X).exact


def test_narrower_keeps_the_largest() -> None:
    source, target = _network(8, Blur(8), 0), _network(5, Blur(5), 1)
    with torch.no_grad():
        source[0].weight[[1, 4]] *= 1e-3
        source[0].bias[[1, 4]] *= 1e-3
        source[3].weight[:, [1, 4]] *= 1e-3
    tg.transfer(source, target, inputs=X)
    kept = [row for row in range(8) if any(torch.equal(source[0].weight[row], one) for one in target[0].weight)]
    assert len(kept) == 5 and not {1, 4} & set(kept)


@pytest.mark.parametrize(
    ("width", "blur"),
    [(11, Blur(11, (1.0, 3.0, 1.0))), (8, Blur(8, (1.0, 3.0, 1.0))), (8, Blur(8, odd=True))],
    ids=["wider", "as wide", "of one channel"],
)
def test_other_filters_are_an_obstacle(width: int, blur: nn.Module) -> None:
    source, target = _network(8, Blur(8), 0), _network(width, blur, 1)
    report = tg.transfer(source, target, inputs=X)
    assert not tg.verify(source, target, report, X).exact
    assert any("buffer 2.filters holds other values" in told for told in map(str, report.plan.obstacles))

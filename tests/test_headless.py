"""Networks without a head, as encoders and backbones are: their features grow, and serve and are served like others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import torchgraft as tg
from benchmarks.growth.measure import drawn, settle
from tests.growing import IMAGES
from torchgraft.axes import axis_groups
from torchgraft.couple.heads import without_head
from torchgraft.couple.holding import Side

ROWS = torch.randn(2, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(7))


class Encoder(nn.Module):
    """Residual blocks under layer norms, and a last norm; with a head, if there are classes."""

    def __init__(self, width: int, depth: int, classes: int = 0) -> None:
        super().__init__()
        self.stem = nn.Linear(6, width)
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(depth)])
        self.up = nn.ModuleList([nn.Linear(width, 2 * width) for _ in range(depth)])
        self.down = nn.ModuleList([nn.Linear(2 * width, width) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes) if classes else nn.Identity()

    def features(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for norm, up, down in zip(self.norms, self.up, self.down, strict=True):
            x = x + down(torch.nn.functional.gelu(up(norm(x))))
        return self.norm(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class Backbone(nn.Module):
    """Residual blocks of convolutions; with ``tail``, a convolution to more channels and classes."""

    def __init__(self, width: int, depth: int, tail: bool) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        blocks = [nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(depth)]
        self.blocks = nn.ModuleList([nn.Sequential(one, nn.BatchNorm2d(width)) for one in blocks])
        self.tail = nn.Sequential(nn.Conv2d(width, 40, 1, bias=False), nn.BatchNorm2d(40), nn.ReLU()) if tail else None
        self.head = nn.Linear(40, 7) if tail else None

    def features(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = torch.relu(x + block(x))
        return x

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        return x if self.tail is None or self.head is None else self.head(self.tail(x).mean((2, 3)))


@pytest.mark.parametrize(("width", "copies"), [(16, 2), (24, 3), (12, 1), (13, 1)])
def test_an_encoder_without_a_head_grows_exactly(width: int, copies: int) -> None:
    source, target = drawn(lambda: Encoder(8, 2), 0), drawn(lambda: Encoder(width, 3), 1)
    plan = tg.plan(source, target)
    report = tg.apply(plan, source, target)
    with torch.no_grad():
        before, after = source(ROWS), target(ROWS)
    assert plan.exact and tg.verify(source, target, report, ROWS).exact
    for copy in range(copies):  # the source's units are the first ones
        assert torch.allclose(after[..., copy * 8 : (copy + 1) * 8], before, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("width", [8, 16, 12])
@pytest.mark.parametrize("classes", [(5, 0), (0, 5)])
def test_features_do_not_depend_on_which_side_has_a_head(width: int, classes: tuple[int, int]) -> None:
    source, target = drawn(lambda: Encoder(8, 2, classes[0]), 0), drawn(lambda: Encoder(width, 4, classes[1]), 1)
    report = tg.transfer(source, target)
    with torch.no_grad():
        before, after = source.features(ROWS), target.features(ROWS)
    assert torch.allclose(after[..., :8], before, rtol=1e-10, atol=1e-12)
    found = tg.verify(source, target, report, ROWS)
    assert not found.exact and found.agreeing == found.compared > 5
    assert any("head" in reason for reason in found.reasons)
    assert not any("all zero" in note for note in found.notes)


@pytest.mark.parametrize("width", [8, 16])
def test_a_backbone_takes_what_comes_before_the_last_convolution_too(width: int) -> None:
    source, target = drawn(lambda: Backbone(8, 2, True), 0), drawn(lambda: Backbone(width, 3, False), 1)
    settle(source, IMAGES, seed=2)
    report = tg.transfer(source, target)
    with torch.no_grad():
        before, after = source.features(IMAGES), target.features(IMAGES)
    told = str(tg.verify(source, target, report, IMAGES))
    assert "not compared" in told and "nan" not in told and "all zero" not in told
    start = (width - 8) // 2  # outputs under no norm that couples them stand at the centre
    assert torch.allclose(after[:, start : start + 8], before, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("source", "target", "cuts"),
    [
        (lambda: Encoder(8, 2, 5), lambda: Encoder(8, 2, 0), 2),  # without the head, without the last norm too
        (lambda: Encoder(8, 2, 5), lambda: Encoder(8, 2, 9), 0),
        (lambda: Encoder(8, 2, 0), lambda: Encoder(8, 2, 0), 0),
        (lambda: Encoder(8, 2, 0), lambda: Encoder(8, 2, 5), 0),
        (lambda: nn.Sequential(*[nn.Linear(8, 8), nn.ReLU()] * 3, nn.Linear(8, 8)), lambda: nn.Linear(8, 8), 0),
    ],
)
def test_only_a_target_without_a_head_leaves_the_source_s_away(
    source: Callable[[], nn.Module], target: Callable[[], nn.Module], cuts: int
) -> None:
    groups = axis_groups(target()), axis_groups(source())
    layers: Any = range(9)  # only their number counts here
    side = Side(layers, {0: 1, 8: 0}, {}, {})
    found = list(without_head(*groups, side, [((0, 6), ())]))
    assert [list(one.spare) for one in found] == [[8], [7, 8]][:cuts]
    assert all(one.free == {0: 1} for one in found)

"""Exact growth of what needs a rule of its own: groups of other widths, layer scales, identities between layers."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn

import torchgraft as tg
from benchmarks.growth.measure import drawn, settle
from tests.growing import IMAGES, ROWS, Built, assert_grown, by_a_stored_plan, grown


class Grouped(nn.Module):
    """Convolutions of groups between dense ones, with a squeeze-and-excitation that sees all groups."""

    def __init__(self, inner: int, groups: int, outer: int = 0) -> None:
        super().__init__()
        outer = outer or inner
        self.stem, self.norm = nn.Conv2d(3, inner, 1), nn.BatchNorm2d(inner)
        self.conv, self.norm2 = nn.Conv2d(inner, outer, 3, padding=1, groups=groups), nn.BatchNorm2d(outer)
        self.reduce, self.expand = nn.Conv2d(outer, 3, 1), nn.Conv2d(3, outer, 1)
        self.head = nn.Linear(outer, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(self.norm2(self.conv(x)))
        x = x * torch.sigmoid(self.expand(torch.relu(self.reduce(x.mean((2, 3), keepdim=True)))))
        found: Tensor = self.head(x.mean((2, 3)))
        return found


class Scaled(nn.Module):
    """A stream under layer norms into which branches with layer scales write."""

    def __init__(self, width: int, depth: int = 2) -> None:
        super().__init__()
        self.stem = nn.Linear(6, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.up = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(depth))
        self.down = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(depth))
        self.gamma = nn.ParameterList(torch.ones(width) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for norm, up, down, gamma in zip(self.norms, self.up, self.down, self.gamma, strict=True):
            x = x + gamma * down(torch.relu(up(norm(x))))
        found: Tensor = self.head(self.norm(x))
        return found


def plain(widths: tuple[int, ...], norm: bool, activation: type[nn.Module] = nn.ReLU) -> nn.Module:
    """Convolutions in a row; a pooling wherever the width changes."""
    layers: list[nn.Module] = []
    before = 3
    for width in widths:
        if before not in (3, width):
            layers.append(nn.MaxPool2d(2))
        layers += [nn.Conv2d(before, width, 3, padding=1), *([nn.BatchNorm2d(width)] if norm else []), activation()]
        before = width
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(before * 16, 9), nn.ReLU(), nn.Linear(9, 5))


class Inverted(nn.Module):
    """Two inverted residual blocks; the second adds what it reads only where the widths are the same."""

    def __init__(self, first: int, second: int, hidden: int, gate: bool = True, depth: int = 1) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, first, 1), nn.BatchNorm2d(first)
        self.block = Bottle(first, second, hidden, gate)
        self.more = nn.ModuleList(Bottle(second, second, hidden, gate) for _ in range(depth))
        self.head = nn.Linear(second, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x))
        for block in (self.block, *self.more):
            found = block(x)
            x = x + found if x.shape == found.shape else found
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


class Bottle(nn.Module):
    def __init__(self, width: int, out: int, hidden: int, gate: bool) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, hidden, 1, bias=False), nn.BatchNorm2d(hidden)
        self.conv2 = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden, bias=False)
        self.bn2 = nn.BatchNorm2d(hidden)
        self.reduce, self.expand = (nn.Conv2d(hidden, 3, 1), nn.Conv2d(3, hidden, 1)) if gate else (None, None)
        self.conv3, self.bn3 = nn.Conv2d(hidden, out, 1, bias=False), nn.BatchNorm2d(out)
        self.act = nn.Hardswish()

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.bn2(self.conv2(self.act(self.bn1(self.conv1(x))))))
        if self.reduce is not None and self.expand is not None:
            x = x * nn.functional.hardsigmoid(self.expand(torch.relu(self.reduce(x.mean((2, 3), keepdim=True)))))
        found: Tensor = self.bn3(self.conv3(x))
        return found


class Paths(nn.Module):
    """Two paths of one layer each, added, and more of them."""

    def __init__(self, width: int, paths: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 1)
        self.paths = nn.ModuleList(
            nn.Sequential(nn.Conv2d(6, width, 3, padding=1), nn.BatchNorm2d(width)) for _ in range(paths)
        )
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        added = self.paths[0](x)
        for path in list(self.paths)[1:]:
            added = added + path(x)
        found: Tensor = self.head(torch.relu(added).mean((2, 3)))
        return found


class Dense(nn.Module):
    """Two dense blocks, of which the second is longer than the first, and a convolution between them."""

    def __init__(self, growth: int, depths: tuple[int, int]) -> None:
        super().__init__()
        self.stem, width = nn.Conv2d(3, 2 * growth, 3, padding=1), 2 * growth
        self.blocks, self.between = nn.ModuleList(), nn.ModuleList()
        for depth in depths:
            self.blocks.append(nn.ModuleList(DenseLayer(width + growth * one, growth) for one in range(depth)))
            width += growth * depth
            self.between.append(nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width // 2, 1)))
            width //= 2
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block, between in zip(self.blocks, self.between, strict=True):
            for layer in block:  # type: ignore[union-attr]
                x = torch.cat([x, layer(x)], 1)
            x = nn.functional.avg_pool2d(between(x), 2)
        found: Tensor = self.head(x.mean((2, 3)))
        return found


class DenseLayer(nn.Sequential):
    def __init__(self, width: int, growth: int) -> None:
        super().__init__(
            nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, 2 * growth, 1),
            nn.BatchNorm2d(2 * growth), nn.ReLU(), nn.Conv2d(2 * growth, growth, 3, padding=1),
        )  # fmt: skip


class Streams(nn.Module):
    """A stream under norms, into which blocks of several looks write; ``look`` says what is special in them."""

    def __init__(self, width: int, depth: int, look: str) -> None:
        super().__init__()
        self.look, self.width = look, width
        self.embed = nn.Embedding(11, width)
        self.norms = nn.ModuleList(self._norm(width) for _ in range(depth + 1))
        self.up = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(depth))
        self.down = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(depth))
        self.beside = nn.ModuleList(nn.Linear(width, width) for _ in range(depth)) if look == "parallel" else None
        self.stay = nn.ParameterList(torch.ones(width) for _ in range(depth)) if look == "scaled stream" else None
        self.head = nn.Linear(width, 5)
        if look == "tied":
            self.register_buffer("scale", torch.tensor(width**0.5), persistent=False)
            self.head = nn.Linear(width, 11, bias=False)
            self.head.weight = self.embed.weight

    def _norm(self, width: int) -> nn.Module:
        if self.look == "one group":
            return nn.GroupNorm(1, width)
        return Offset(width) if self.look == "tied" else nn.LayerNorm(width, eps=1e-12)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        x = x * self.scale if self.look == "tied" else x
        for number, (norm, up, down) in enumerate(zip(self.norms, self.up, self.down, strict=False)):
            if self.look == "behind":
                x = norm(x + down(torch.relu(up(x))))
                continue
            y = norm(x.transpose(1, 2)).transpose(1, 2) if self.look == "one group" else norm(x)
            added = down(torch.relu(up(y)))
            if self.stay is not None:
                x = x * self.stay[number]
            x = x + added
            if self.beside is not None:
                x = x + self.beside[number](y)
        if self.look == "one group":
            x = self.norms[-1](x.transpose(1, 2)).transpose(1, 2)
        elif self.look != "behind":
            x = self.norms[-1](x)
        found: Tensor = self.head(x).mean(1)
        return found


class Offset(nn.Module):
    """A root mean square norm whose gain is stored without the one that is added to it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.eps = 1e-6
        self.weight = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * (1.0 + self.weight)


class Merged(nn.Module):
    """Neighbours side by side under one norm, and a head that reads two means of the stream side by side."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem, self.norm = nn.Linear(6, width), nn.LayerNorm(width)
        self.wide, self.reduce = nn.LayerNorm(2 * width), nn.Linear(2 * width, 2 * width)
        self.last, self.head = nn.LayerNorm(2 * width), nn.Linear(4 * width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x))
        x = self.reduce(self.wide(x.reshape(len(x), -1, 2 * x.shape[-1])))
        x = self.last(x)
        found: Tensor = self.head(torch.cat([x[:, 0], x.mean(1)], -1))
        return found


class Attended(nn.Module):
    """Attention with norms over all heads of queries and keys, or keys and values that are made by one layer."""

    def __init__(self, width: int, heads: int, normed: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.stem, self.q, self.kv = nn.Linear(6, width), nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.k, self.norms = nn.Linear(width, width), nn.ModuleList(Offset(width) for _ in range(2 if normed else 0))
        self.v = nn.Linear(width, width)
        self.proj, self.head = nn.Linear(width, width), nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        if self.norms:
            q, k, v = self.norms[0](self.q(x)), self.norms[1](self.k(x)), self.v(x)
        else:
            q, (k, v) = self.q(x), self.kv(x).reshape(*x.shape[:2], 2, -1).unbind(2)
        q, k, v = (one.unflatten(-1, (self.heads, -1)).transpose(1, 2) for one in (q, k, v))
        weights = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1)
        found: Tensor = self.head(self.proj((weights @ v).transpose(1, 2).flatten(2)).mean(1))
        return found


TOKENS = torch.randint(11, (3, 6), generator=torch.Generator().manual_seed(7))
STEPS = torch.randn(3, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(7))


EXACT: dict[str, tuple[Built, Built, Tensor]] = {
    "two groups in one": (partial(Grouped, 12, 6), partial(Grouped, 16, 4), IMAGES),
    "two groups in one, one half empty": (partial(Grouped, 14, 7), partial(Grouped, 16, 4), IMAGES),
    "groups in wider ones": (partial(Grouped, 14, 7, 21), partial(Grouped, 20, 4, 28), IMAGES),
    "groups in a dense convolution": (partial(Grouped, 12, 4), partial(Grouped, 15, 1), IMAGES),
    "depthwise in groups": (partial(Grouped, 6, 6, 12), partial(Grouped, 9, 3, 18), IMAGES),
    "depthwise in a dense convolution": (partial(Grouped, 6, 6), partial(Grouped, 8, 1), IMAGES),
    "layer scale, padded": (partial(Scaled, 12), partial(Scaled, 17), ROWS),
    "layer scale, padded, deeper": (partial(Scaled, 12), partial(Scaled, 17, 3), ROWS),
    "deeper, without norms": (partial(plain, (4, 6), False), partial(plain, (4, 4, 6, 6, 6), False), IMAGES),
    "deeper, with batch norms": (partial(plain, (4, 6), True), partial(plain, (4, 4, 6, 6, 6), True), IMAGES),
    "deeper and wider": (partial(plain, (4, 6), True), partial(plain, (5, 5, 9, 9, 9), True), IMAGES),
    "deeper, ReLU6": (
        partial(plain, (4, 6), True, nn.ReLU6),
        partial(plain, (4, 4, 6, 6, 6), True, nn.ReLU6),
        IMAGES,
    ),
    "a sum that the target does not have": (partial(Inverted, 8, 8, 12), partial(Inverted, 9, 12, 24), IMAGES),
    "the same without gates, deeper": (
        partial(Inverted, 8, 8, 12, False),
        partial(Inverted, 9, 12, 24, False, 2),
        IMAGES,
    ),
    "more paths": (partial(Paths, 7, 2), partial(Paths, 9, 3), IMAGES),
    "residual blocks in a net without": (partial(Inverted, 7, 8, 12, depth=0), partial(Inverted, 7, 9, 15), IMAGES),
    "dense blocks, deeper": (partial(Dense, 4, (2, 3)), partial(Dense, 4, (3, 5)), IMAGES),
    "dense blocks, wider and deeper": (partial(Dense, 4, (2, 3)), partial(Dense, 7, (3, 5)), IMAGES),
    "behind the sum, deeper": (partial(Streams, 12, 2, "behind"), partial(Streams, 12, 4, "behind"), TOKENS),
    "parallel branches, deeper": (partial(Streams, 12, 2, "parallel"), partial(Streams, 17, 3, "parallel"), TOKENS),
    "a scaled stream, deeper": (
        partial(Streams, 12, 2, "scaled stream"),
        partial(Streams, 12, 3, "scaled stream"),
        TOKENS,
    ),
    "one group, doubled": (partial(Streams, 12, 2, "one group"), partial(Streams, 24, 3, "one group"), TOKENS),
    "gains with an offset, tied, padded": (partial(Streams, 12, 2, "tied"), partial(Streams, 17, 3, "tied"), TOKENS),
    "gains with an offset, tied, doubled": (partial(Streams, 12, 2, "tied"), partial(Streams, 24, 3, "tied"), TOKENS),
    "copies side by side": (partial(Merged, 8), partial(Merged, 16), STEPS),
    "keys and values of one layer": (partial(Attended, 12, 2), partial(Attended, 20, 2), STEPS),
    "norms over all heads": (partial(Attended, 12, 2, True), partial(Attended, 18, 3, True), STEPS),
    "layer scale, doubled": (partial(Scaled, 12), partial(Scaled, 24), ROWS),
}


@pytest.mark.parametrize("name", EXACT)
def test_a_larger_target_computes_the_source_s_function(name: str) -> None:
    plan = assert_grown(*EXACT[name], transfer=by_a_stored_plan).plan
    assert plan.exact, plan.obstacles


def test_a_sum_through_spare_units_is_told() -> None:
    plan = tg.plan(Inverted(8, 8, 12), Inverted(9, 12, 24))
    assert any("linear range" in note for note in plan.notes)


def test_new_layers_give_on_what_they_read_in_train_mode_too() -> None:
    source, target = drawn(partial(plain, (4, 6), True), 0), drawn(partial(plain, (4, 4, 6, 6, 6), True), 1)
    settle(source, IMAGES, seed=2)
    images = torch.randn(256, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(8))
    grown(source, target, images, by_a_stored_plan)
    with torch.no_grad():
        before, after = source.train()(images), target.train()(images)
    assert float((before - after).abs().max() / before.abs().max()) < 0.5  # of ones and zeros it would be more than one


def test_where_not_all_of_the_source_has_a_place_nothing_is_given_on() -> None:
    assert not tg.plan(plain((4, 6, 8), True), plain((4, 4, 6), True)).passages


@pytest.mark.parametrize("affine", [False, True])
def test_norms_without_parameters_and_statistics_grow(affine: bool) -> None:
    def build(width: int) -> nn.Module:
        norm = nn.InstanceNorm2d(width, affine=affine)
        body = nn.Conv2d(3, width, 3, padding=1), norm, nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)
        return nn.Sequential(*body, nn.BatchNorm2d(width, affine=False), nn.ReLU(), nn.Conv2d(width, 4, 1)).eval()

    torch.manual_seed(0)
    source, target = build(6), build(9)
    plan = tg.plan(source, target)
    tg.apply(plan, source, target)
    images = torch.randn(2, 3, 8, 8)
    assert plan.exact
    assert torch.allclose(source(images), target(images), atol=1e-5)
    assert tg.transfer(target, build(6)).counts().get("resized", 0) > 0

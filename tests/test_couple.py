"""Coupled units: one map for all tensors of a group, new blocks as identities, streams under norms at any width."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch
from builders import filled, stored
from torch import Tensor, nn

import torchgraft as tg


def randomized(model: nn.Module, seed: int = 0) -> nn.Module:
    """Draw all weights, gains and running statistics, in float64."""
    generator = torch.Generator().manual_seed(seed)
    model = model.double().eval()
    with torch.no_grad():
        for name, tensor in stored(model).items():
            noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            if name.endswith("running_var"):
                tensor.copy_(1 + 0.2 * noise.abs())
            elif tensor.is_floating_point():
                tensor.copy_(noise / max(1, tensor[0].numel()) ** 0.5 if tensor.ndim > 1 else 1 + 0.2 * noise)
    return model


def deviation(source: nn.Module, target: nn.Module, inputs: Tensor) -> float:
    with torch.no_grad():
        ours, theirs = target(inputs), source(inputs)
    return float((ours - theirs).abs().max() / theirs.abs().max())


class Block(nn.Module):
    """A residual block whose stream is written by two layers."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.enter, self.norm = nn.Conv2d(width, hidden, 3, padding=1), nn.BatchNorm2d(hidden)
        self.leave, self.last = nn.Conv2d(hidden, width, 1), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.last(self.leave(self.norm(self.enter(x)).relu()))).relu()


def residual(width: int, hidden: int, depth: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, width, 3),
        nn.ReLU(),
        *(Block(width, hidden) for _ in range(depth)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, 5),
    )


class Gated(nn.Module):
    """Squeeze and excitation before a projection, which alone reads what is gated, or behind a norm."""

    def __init__(self, gated: bool, behind: bool, width: int = 8) -> None:
        super().__init__()
        self.gated, self.behind = gated, behind
        self.enter, self.norm = nn.Conv2d(3, width, 3), nn.BatchNorm2d(width)
        if gated:
            self.reduce, self.expand = nn.Conv2d(width, 2, 1), nn.Conv2d(2, width, 1)
        self.leave, self.head = nn.Conv2d(width, 6, 1), nn.Linear(6, 5)

    def gate(self, x: Tensor) -> Tensor:
        return self.expand(self.reduce(x.mean((2, 3), keepdim=True)).relu()).sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.enter(x))
        if self.behind:
            x = (x * self.gate(x) if self.gated else x).tanh()
        else:
            x = torch.nn.functional.silu(x)
            x = x * self.gate(x) if self.gated else x
        return self.head(self.leave(x).relu().mean((2, 3)))


class Dense(nn.Module):
    """Every layer reads what all before it wrote."""

    def __init__(self, growth: int, depth: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 1)
        self.layers = nn.ModuleList(nn.Conv2d(6 + growth * i, growth, 3, padding=1) for i in range(depth))
        self.norm, self.head = nn.BatchNorm2d(6 + growth * depth), nn.Linear(6 + growth * depth, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        for layer in self.layers:
            x = torch.cat([x, layer(x).relu()], 1)
        return self.head(self.norm(x).relu().mean((2, 3)))


class Normed(nn.Module):
    """A stream that is read through norms alone."""

    def __init__(self, width: int, hidden: int, norm: Callable[[int], nn.Module], depth: int = 2) -> None:
        super().__init__()
        self.enter = nn.Linear(7, width)
        self.norms = nn.ModuleList(norm(width) for _ in range(depth))
        self.up = nn.ModuleList(nn.Linear(width, hidden) for _ in range(depth))
        self.down = nn.ModuleList(nn.Linear(hidden, width) for _ in range(depth))
        self.last, self.head = norm(width), nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        for norm, up, down in zip(self.norms, self.up, self.down, strict=True):
            x = x + down(torch.nn.functional.gelu(up(norm(x))))
        return self.head(self.last(x))


PICTURE = torch.randn(2, 3, 9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
ROWS = torch.randn(4, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(6))


def layer_norm(width: int) -> nn.Module:
    return nn.LayerNorm(width)


def rms_norm(width: int) -> nn.Module:
    return nn.RMSNorm(width, eps=1e-5)


@pytest.mark.parametrize(
    ("small", "large", "inputs"),
    [
        pytest.param(lambda: residual(6, 8, 2), lambda: residual(6, 8, 4), PICTURE, id="deeper"),
        pytest.param(lambda: residual(6, 8, 2), lambda: residual(11, 13, 3), PICTURE, id="wider and deeper"),
        pytest.param(lambda: Gated(False, False), lambda: Gated(True, False), PICTURE, id="a gate that is read"),
        pytest.param(lambda: Gated(False, True), lambda: Gated(True, True), PICTURE, id="a gate behind a norm"),
        pytest.param(lambda: Dense(4, 3), lambda: Dense(4, 4), PICTURE, id="one more part"),
        pytest.param(lambda: Dense(4, 3), lambda: Dense(6, 3), PICTURE, id="wider parts"),
        pytest.param(
            lambda: Normed(6, 9, layer_norm), lambda: Normed(12, 11, layer_norm), ROWS, id="layer norm, copies"
        ),
        pytest.param(
            lambda: Normed(6, 9, layer_norm), lambda: Normed(8, 11, layer_norm), ROWS, id="layer norm, padded"
        ),
        pytest.param(lambda: Normed(6, 9, rms_norm), lambda: Normed(12, 9, rms_norm), ROWS, id="rms norm, copies"),
        pytest.param(lambda: Normed(6, 9, rms_norm), lambda: Normed(7, 9, rms_norm, 3), ROWS, id="rms norm, padded"),
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_target_computes_what_the_source_does(
    small: Callable[[], nn.Module], large: Callable[[], nn.Module], inputs: Tensor, seed: int
) -> None:
    source, target = randomized(small(), seed), randomized(large(), seed + 10)
    report = tg.transfer(source, target)
    assert not [note for note in report.plan.notes if "cut for itself" in note]
    assert deviation(source, target, inputs) < 1e-12
    assert deviation(source, randomized(large(), seed + 10), inputs) > 0.1, "the check can fail"


class Fused(nn.Module):
    """Attention of a user's own: one weight for queries, keys and values."""

    def __init__(self, width: int, heads: int, size: int) -> None:
        super().__init__()
        self.heads, self.size = heads, size
        self.qkv, self.out = nn.Linear(width, 3 * heads * size), nn.Linear(heads * size, width)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.qkv(x).unflatten(-1, (3, self.heads, self.size)).permute(2, 0, 3, 1, 4)
        mixed = torch.nn.functional.scaled_dot_product_attention(*parts)
        return self.out(mixed.transpose(1, 2).flatten(2))


class Grouped(nn.Module):
    """Attention whose queries share keys and values."""

    def __init__(self, queries: int, groups: int, size: int = 4) -> None:
        super().__init__()
        self.shape = (queries, groups, size)
        self.q, self.k = nn.Linear(8, queries * size), nn.Linear(8, groups * size)
        self.v, self.out = nn.Linear(8, groups * size), nn.Linear(queries * size, 8)

    def forward(self, x: Tensor) -> Tensor:
        queries, groups, size = self.shape
        q = self.q(x).unflatten(-1, (queries, size)).transpose(1, 2)
        k, v = (layer(x).unflatten(-1, (groups, size)).transpose(1, 2) for layer in (self.k, self.v))
        k, v = (one[:, :, None].expand(-1, -1, queries // groups, -1, -1).flatten(1, 2) for one in (k, v))
        return self.out(torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


WORDS = torch.randn(2, 6, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize(
    ("small", "large"),
    [
        pytest.param(lambda: Fused(8, 2, 4), lambda: Fused(8, 3, 4), id="fused, more heads"),
        pytest.param(lambda: Grouped(4, 2), lambda: Grouped(6, 3), id="more groups"),
        pytest.param(lambda: Grouped(2, 2), lambda: Grouped(4, 2), id="queries that begin to share"),
        pytest.param(lambda: Grouped(4, 2), lambda: Grouped(8, 2), id="more queries share"),
        pytest.param(lambda: Grouped(4, 2, 4), lambda: Grouped(4, 2, 6), id="larger heads"),
    ],
)
def test_attention_grows_by_whole_heads(small: Callable[[], nn.Module], large: Callable[[], nn.Module]) -> None:
    source, target = randomized(small()), randomized(large(), 1)
    tg.transfer(source, target, inputs=WORDS)
    assert deviation(source, target, WORDS) < 1e-12


def test_one_slope_becomes_the_slope_of_every_channel() -> None:
    source, target = nn.Sequential(nn.Linear(3, 4), nn.PReLU(1)), nn.Sequential(nn.Linear(3, 4), nn.PReLU(4))
    nn.init.constant_(source[1].weight, 0.7)
    tg.transfer(source, target)
    assert target[1].weight.tolist() == pytest.approx([0.7] * 4)


def test_new_blocks_are_silenced_and_can_learn() -> None:
    source, target = randomized(residual(6, 8, 2)), randomized(residual(6, 8, 3), 1)
    report = tg.transfer(source, target)
    silenced = {tensor.key for tensor in report.tensors if tensor.status == "silenced"}
    assert len(silenced) == 2 and all(".last." in key for key in silenced)
    target.train()
    target(PICTURE).square().sum().backward()
    for key in silenced:
        assert target.get_parameter(key).grad.abs().sum() > 0  # type: ignore[union-attr]


def test_nothing_is_silenced_where_the_source_does_not_fit() -> None:
    source, target = filled(nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3))), residual(6, 8, 3)
    assert "silenced" not in tg.transfer(source, target).counts()
    assert "silenced" not in tg.transfer(filled(residual(6, 8, 4)), residual(6, 8, 2)).counts()


def test_a_target_without_branches_gets_layers_one_by_one() -> None:
    """A row of convolutions has no place for the source's branches, so the match stays as it is."""
    plain = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.Conv2d(16, 8, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )
    plan = tg.plan(residual(8, 12, 2), plain, inputs=torch.zeros(1, 3, 8, 8))
    assert ("0", "0") in plan.pairs() and not plan.fills
    assert plan.pairs() == tg.plan(residual(8, 12, 2), plain, operator="clip").pairs()


def test_trainable_leaves_new_gates_to_their_own_initialization() -> None:
    source, target = randomized(Gated(False, False)), randomized(Gated(True, False), 1)
    before = target.expand.weight.clone()  # type: ignore[union-attr, operator]
    assert "silenced" not in tg.transfer(source, target, trainable=True).counts()
    assert torch.equal(target.expand.weight, before)  # type: ignore[union-attr, arg-type]
    assert tg.transfer(source, target).counts()["silenced"] == 2


def test_new_gates_stay_as_drawn_where_the_function_is_cut_anyway() -> None:
    plans = [tg.plan(Gated(False, False, 8), Gated(True, False, width)) for width in (6, 8, 10)]
    assert [len(plan.fills) for plan in plans] == [0, 2, 2]


def test_copies_share_their_weight_unevenly() -> None:
    source, target = randomized(Normed(6, 9, layer_norm)), randomized(Normed(12, 9, layer_norm), 1)
    tg.transfer(source, target)
    first, second = target.head.weight.chunk(2, 1)  # type: ignore[union-attr, operator]
    assert torch.allclose(2 * first, second)
    assert torch.allclose(first + second, source.head.weight)  # type: ignore[arg-type]


def test_the_epsilon_of_a_padded_norm_follows_its_width_and_is_told() -> None:
    source, target = randomized(Normed(6, 9, layer_norm)), randomized(Normed(8, 9, layer_norm), 1)
    plan = tg.plan(source, target)
    assert {setting.path for setting in plan.settings} == {"norms.0", "norms.1", "last"}
    assert all(setting.value == pytest.approx(1e-5 * 6 / 8) for setting in plan.settings)
    assert any("epsilon" in note for note in plan.notes)
    assert target.last.eps == 1e-5, "planning changes nothing"
    tg.apply(plan, source, target)
    assert target.last.eps == pytest.approx(7.5e-6)


def test_a_stored_plan_does_the_same() -> None:
    source = randomized(Normed(6, 9, layer_norm))
    targets = [randomized(Normed(8, 9, layer_norm, 3), 1) for _ in range(2)]
    plan = tg.plan(source, targets[0])
    again = tg.Plan.from_json(json.dumps(json.loads(plan.to_json())))
    assert again == plan and again.fingerprint() == plan.fingerprint()
    tg.apply(plan, source, targets[0])
    tg.apply(again, source, targets[1])
    assert all(torch.equal(value, targets[1].state_dict()[key]) for key, value in targets[0].state_dict().items())


def test_a_model_that_cannot_be_run_is_cut_tensor_by_tensor_and_the_plan_says_so() -> None:
    class Odd(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, width), nn.Linear(width, 3)

        def forward(self, x: Tensor, scale: float) -> Tensor:
            return self.b(self.a(x)) * scale

    plan = tg.plan(Odd(4), Odd(6))
    assert [note for note in plan.notes if "pass inputs=" in note]
    assert not tg.plan(Odd(4), Odd(6), inputs={"x": torch.zeros(1, 4), "scale": 2.0}).notes
    assert not tg.plan(Odd(4), Odd(6), inputs=(torch.zeros(1, 4), 2.0)).notes
    assert [note for note in tg.plan(Odd(4).state_dict(), Normed(4, 4, layer_norm)).notes if "without code" in note]


def test_dpiat_knows_nothing_of_groups() -> None:
    plan = tg.plan(residual(6, 8, 2), residual(11, 13, 3), method="dpiat")
    assert not plan.maps and not plan.settings and "silenced" not in plan.counts()
    assert all(not move.layout for transfer in plan.transfers for move in transfer.moves)

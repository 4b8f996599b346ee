"""Axis groups of small networks, one for each kind of coupling: what is found, and its proof by running them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchgraft.axes import AxisGroups, axis_groups, probe


class Residual(nn.Module):
    """Two writers into one stream."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.branch = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.norm, self.head = nn.BatchNorm2d(8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        return self.head((x + self.norm(self.branch(x))).relu().mean((2, 3)))


class Dense(nn.Module):
    """A reader of a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 6, 1), nn.Conv2d(10, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x).relu()
        return self.c(torch.cat([a, self.b(a).relu()], 1)).mean((2, 3))


class Flat(nn.Module):
    """A linear layer that reads channels × rows × columns."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4 * 6 * 6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).relu().flatten(1))


class Excited(nn.Module):
    """Squeeze and excitation around a depthwise convolution, then a grouped one and a channel shuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depth = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.down, self.up = nn.Conv2d(8, 3, 1), nn.Conv2d(3, 8, 1)
        self.grouped, self.head = nn.Conv2d(8, 12, 1, groups=2), nn.Conv2d(12, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.depth(self.stem(x).relu()).relu()
        x = x * self.up(self.down(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
        x = self.grouped(x)
        x = x.view(x.shape[0], 2, 6, *x.shape[2:]).transpose(1, 2).flatten(1, 2)
        return self.head(x).mean((2, 3))


class Attention(nn.Module):
    """Fused query, key and value, two heads; a layer norm before and a gated feed-forward after."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 8)
        self.gate, self.down = nn.Linear(8, 20), nn.Linear(10, 8)

    def forward(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(n, length, 3, 2, width // 2).permute(2, 0, 3, 1, 4).unbind(0)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, length, width))
        a, b = self.gate(x).chunk(2, -1)
        return x + self.down(F.silu(a) * b)


class GroupedQueries(nn.Module):
    """Four query heads that share two key heads."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(3, 8)
        self.q, self.k, self.v, self.out = nn.Linear(8, 16), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        q, k, v = (part.unflatten(-1, (-1, 4)).transpose(1, 2) for part in (self.q(x), self.k(x), self.v(x)))
        k, v = (part.repeat_interleave(2, dim=1) for part in (k, v))
        return self.out((q @ k.transpose(-1, -2)).softmax(-1).matmul(v).transpose(1, 2).flatten(2))


class Recurrent(nn.Module):
    """A recurrent stack of two layers between two linear ones."""

    def __init__(self, kind: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(3, 6), nn.Linear(7, 5)
        self.stack = kind(6, 7, num_layers=2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stack(self.embed(x))[0])


PICTURE, WORDS = (2, 3, 8, 8), (2, 5, 3)
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "residual": (Residual, PICTURE),
    "dense": (Dense, PICTURE),
    "flat": (Flat, PICTURE),
    "excited": (Excited, PICTURE),
    "attention": (Attention, (2, 5, 8)),
    "grouped queries": (GroupedQueries, WORDS),
    "lstm": (lambda: Recurrent(nn.LSTM), WORDS),
    "gru": (lambda: Recurrent(nn.GRU), WORDS),
    "transposed": (lambda: nn.Sequential(nn.Conv2d(3, 6, 1), nn.ConvTranspose2d(6, 4, 2), nn.Conv2d(4, 5, 1)), PICTURE),
    "pixels": (lambda: nn.Sequential(nn.Conv2d(3, 8, 1), nn.PixelShuffle(2), nn.Conv2d(2, 5, 1)), PICTURE),
    "group norm": (lambda: nn.Sequential(nn.Conv2d(3, 8, 1), nn.GroupNorm(2, 8), nn.Conv2d(8, 5, 1)), PICTURE),
}  # fmt: skip


def found(name: str) -> tuple[nn.Module, AxisGroups, Tensor]:
    build, shape = CASES[name]
    module, x = build(), torch.randn(shape)
    return module, axis_groups(module, [x]), x


def members(groups: AxisGroups, key: str, axis: int) -> list[set[tuple[str, int]]]:
    """The members of every free group that stands in one axis of a tensor."""
    return [
        {(member.key, member.axis) for member in group.members}
        for group in groups.free()
        if any((member.key, member.axis) == (key, axis) for member in group.members)
    ]


@pytest.mark.parametrize("name", CASES)
def test_moving_units_together_does_not_show_and_alone_it_does(name: str) -> None:
    module, groups, x = found(name)
    proof = probe(module, groups, [x], singles=20)
    assert groups.unknown == {}
    assert proof.probed == len([group for group in groups.free() if group.size > 1]) > 0
    assert proof.deviation < 1e-12 and proof.silent == () and proof.holds


def test_a_residual_stream_is_one_group() -> None:
    _, groups, _ = found("residual")
    (stream,) = members(groups, "stem.weight", 0)
    assert stream == {
        ("stem.weight", 0), ("stem.bias", 0), ("branch.weight", 0), ("branch.weight", 1), ("branch.bias", 0),
        ("norm.weight", 0), ("norm.bias", 0), ("norm.running_mean", 0), ("norm.running_var", 0), ("head.weight", 1),
    }  # fmt: skip


def test_a_concatenation_is_read_part_by_part() -> None:
    _, groups, _ = found("dense")
    first, second = members(groups, "c.weight", 1)
    assert ("b.weight", 1) in first and ("a.weight", 0) in first
    assert second == {("b.weight", 0), ("b.bias", 0), ("c.weight", 1)}


def test_every_channel_owns_its_places() -> None:
    _, groups, _ = found("flat")
    (channels,) = [group for group in groups.free() if group.size == 4]
    member = next(member for member in channels.members if member.key == "head.weight")
    index = groups.index(member, {channels.number: torch.tensor([1, 0, 2, 3]).numpy()})
    assert index.tolist() == [*range(36, 72), *range(36), *range(72, 144)]


def test_queries_share_the_heads_of_their_keys() -> None:
    _, groups, _ = found("grouped queries")
    sizes = sorted(group.size for group in groups.free() if any(m.key == "q.weight" for m in group.members))
    assert sizes == [2, 2, 4, 8]  # heads of keys, queries of each, size of a head; inputs


def test_gates_of_an_lstm_move_together() -> None:
    _, groups, _ = found("lstm")
    (hidden,) = [group for group in groups.free() if any(m.key == "head.weight" for m in group.members)]
    member = next(m for m in hidden.members if (m.key, m.axis) == ("stack.weight_hh_l1", 0))
    order = torch.arange(7).roll(1).numpy()
    assert groups.index(member, {hidden.number: order}).tolist() == [
        7 * gate + int(i) for gate in range(4) for i in order
    ]


def test_inputs_outputs_and_words_are_locked() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.head = nn.Embedding(11, 6), nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.words(x))

    groups = axis_groups(Words(), [torch.zeros(1, 3, dtype=torch.long)])
    locked = {(m.key, m.axis): group.locked for group in groups.groups if group.locked for m in group.members}
    assert locked == {
        ("words.weight", 0): "looked up by number", ("head.weight", 0): "an output", ("head.bias", 0): "an output",
    }  # fmt: skip


def test_a_norm_marks_what_shares_its_statistics() -> None:
    _, groups, _ = found("attention")
    (stream,) = [group for group in groups.groups if any(m.key == "norm.weight" for m in group.members)]
    assert "statistics" in stream.marks


def test_an_operator_without_a_rule_is_told_and_locks_what_it_touches() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 6), nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.fft.fft(self.a(x)).real)

    groups = axis_groups(Odd(), [torch.zeros(2, 3)])
    assert "_fft_r2c" in groups.unknown
    assert groups.free() == ()


def test_the_model_is_left_as_it_was() -> None:
    module, x = Residual(), torch.randn(PICTURE)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    probe(module, axis_groups(module, [x]), [x])
    assert module.training and all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


def test_a_wrong_group_does_not_pass() -> None:
    """The probe can fail: groups of another network with equal tensors, without its residual sum."""

    class Plain(Residual):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.norm(self.branch(self.stem(x).relu())).relu().mean((2, 3)))

    x = torch.randn(PICTURE)
    groups = axis_groups(Plain(), [x])
    assert probe(Residual(), groups, [x]).deviation > 1e-3

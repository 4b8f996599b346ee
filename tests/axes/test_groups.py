"""Axis groups of small networks, one for each kind of coupling: what is found, and its proof by running them."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from torchgraft.axes import AxisGroups, Member, axis_groups, probe
from torchgraft.axes.trace import _Known


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


class Deformable(nn.Module):
    """Two heads that read a map at computed places."""

    def __init__(self) -> None:
        super().__init__()
        self.values, self.places = nn.Conv2d(3, 8, 1), nn.Linear(3, 2 * 5 * 2)
        self.weights, self.out = nn.Linear(3, 2 * 5), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[0]
        maps = self.values(x).reshape(n * 2, 4, *x.shape[2:])
        mean = x.mean((2, 3))
        places = self.places(mean).tanh().reshape(n * 2, 1, 5, 2)
        read = F.grid_sample(maps, places, align_corners=False)  # n * heads, size, 1, points
        read = (read * self.weights(mean).softmax(-1).reshape(n * 2, 1, 1, 5)).sum((2, 3))
        return self.out(read.reshape(n, 8))


class Indexed(nn.Module):
    """A table of biases read at stored places, as in windowed attention; the same by ``gather``."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Linear(3, 8), nn.Linear(8, 4)
        self.table, self.other = nn.Parameter(torch.randn(9, 2)), nn.Parameter(torch.randn(9, 5))
        self.register_buffer("places", torch.arange(25).reshape(5, 5) % 9)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        bias = self.table[self.places.view(-1)].view(5, 5, 2).permute(2, 0, 1)
        bias = bias + self.other.gather(0, self.places)
        heads = x.unflatten(-1, (2, 4)).transpose(1, 2)
        return self.out(((heads @ heads.transpose(-1, -2) + bias).softmax(-1) @ heads).transpose(1, 2).flatten(2))


class Experts(nn.Module):
    """Rows written to their places, and windows that overlap."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 6), nn.Linear(6, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        made = torch.zeros_like(x)
        rows = torch.arange(4, device=x.device)
        made[:, rows] = self.b(x[:, rows]).relu()
        n, length, width = made.shape
        windows = made.contiguous().as_strided((n, length - 1, 2, width), (length * width, width, width, 1))
        return self.c(windows.mean(2))


def normalized() -> nn.Module:
    """Weight norm around a hidden layer."""
    return nn.Sequential(weight_norm(nn.Linear(3, 6)), nn.ReLU(), weight_norm(nn.Linear(6, 4)))


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
    "deformable": (Deformable, PICTURE),
    "indexed": (Indexed, WORDS),
    "experts": (Experts, WORDS),
    "weight norm": (normalized, WORDS),
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


def test_what_the_run_does_not_read_is_locked() -> None:
    class Auxiliary(Residual):
        def __init__(self) -> None:
            super().__init__()
            self.auxiliary = nn.Linear(8, 5)

    locked = {m.key: g.locked for g in axis_groups(Auxiliary()).groups for m in g.members}
    assert locked["auxiliary.weight"] == locked["auxiliary.bias"] == "not read in the run"


def test_positions_that_only_longer_inputs_read_are_locked() -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.places, self.head = nn.Parameter(torch.randn(1, 9, 3)), nn.Linear(3, 2)
            self.fused = nn.Linear(3, 6)

        def forward(self, x: Tensor) -> Tensor:
            x = x + self.places[:, : x.shape[1]]
            x = self.fused(x)
            return self.head(x[..., :3] * x[..., 3:])

    groups = axis_groups(Positions(), [torch.zeros(1, 5, 3)])
    places = {g.size: g.locked for g in groups.groups if Member("places", 1) in g.members}
    assert places == {5: "an input", 4: "not read in the run"}
    assert [g.size for g in groups.free()] == [3] and Member("fused.weight", 0) in groups.free()[0].members


def test_groups_that_cannot_show_are_told_apart() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.thrown, self.summed, self.head = nn.Linear(3, 6), nn.Linear(3, 8), nn.Linear(3, 4)

        def forward(self, x: Tensor) -> Tensor:
            self.thrown(x)
            return self.head(x) + self.summed(x).sum(-1, keepdim=True)

    module, x = Odd(), torch.randn(2, 3)
    groups = axis_groups(module)
    proof = probe(module, groups, [x])
    keys = {group.number: group.members[0].key for group in groups.groups}
    assert [keys[number] for number in proof.idle] == ["thrown.weight"] and groups.idle >= {"thrown.weight"}
    assert [keys[number] for number in proof.alike] == ["summed.weight"]
    assert proof.silent == () and not proof.holds  # none of the two groups could show anything


def test_probing_is_exact_where_the_model_computes_in_less() -> None:
    class Rough(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 6), nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            h = self.a(x).float()
            return self.b((h * torch.rsqrt(h.square().mean(-1, keepdim=True) + 1e-6)).type_as(x))

    assert probe(Rough(), axis_groups(Rough()), [torch.randn(5, 3)]).deviation < 1e-13


@pytest.mark.parametrize(
    ("name", "key", "axis", "roles"),
    [
        ("residual", "stem.weight", 0, {"stream"}),
        ("residual", "stem.weight", 1, {"input"}),
        ("residual", "head.weight", 0, {"output"}),
        ("residual", "stem.weight", 2, {"locked"}),
        ("excited", "down.weight", 0, {"hidden"}),
        ("attention", "down.weight", 1, {"hidden"}),
        ("attention", "out.weight", 1, {"heads", "hidden"}),
        ("grouped queries", "k.weight", 0, {"heads", "hidden"}),
    ],
)
def test_roles(name: str, key: str, axis: int, roles: set[str]) -> None:
    _, groups, _ = found(name)
    assert {group.role for group in groups.groups if Member(key, axis) in group.members} == roles


def test_an_activation_that_adds_makes_no_stream() -> None:
    class Approximate(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * (1 + torch.tanh(x + 0.04 * x**3))

    (hidden,) = axis_groups(nn.Sequential(nn.Linear(3, 6), Approximate(), nn.Linear(6, 4))).free()
    assert hidden.role == "hidden"


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
            return self.b(torch.cdist(self.a(x)[None], self.a(x)[None]) @ self.a(x))

    groups = axis_groups(Odd(), [torch.zeros(2, 3)])
    assert set(groups.unknown) == {"_cdist_forward"}
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
    proof = probe(Residual(), groups, [x])
    assert proof.deviation > 1e-3 and proof.limit == 1e-10 and not proof.holds


@pytest.mark.parametrize("rough", [False, True])
def test_roundings_that_a_model_enlarges_are_measured_and_explain_no_fault(rough: bool) -> None:
    class Waves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 60), nn.Linear(60, 4)

        def forward(self, x: Tensor) -> Tensor:
            h = self.b(self.a(x).relu())
            return (1e8 * h).sin() if rough else h  # a last digit becomes the eighth

    module, x = Waves(), torch.randn(5, 3)
    groups = axis_groups(module)
    proof = probe(module, groups, [x])
    assert proof.holds and (proof.limit > 1e-10) == (proof.deviation > 1e-10) == rough
    torn = replace(groups, groups=tuple(replace(one, members=one.members[:1]) for one in groups.groups))
    assert not probe(module, torn, [x]).exact


def test_depth_does_not_silence_what_comes_first() -> None:
    blocks = [nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()) for _ in range(24)]
    module = nn.Sequential(nn.Conv2d(3, 8, 1), *blocks, nn.Conv2d(8, 4, 1))
    proof = probe(module, axis_groups(module), [torch.randn(1, 3, 8, 8)], singles=25)
    assert proof.probed == 25 and proof.holds


def test_values_of_a_run_stay_alive_once_they_have_a_number() -> None:
    """The identity of a tensor that is gone may be given to the next one, which would then be taken for it."""
    known, tensor = _Known(), torch.empty(1)
    seen = weakref.ref(tensor)
    known.number(tensor)
    del tensor
    assert seen() is not None

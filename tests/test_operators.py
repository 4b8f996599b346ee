"""Operators: each against its definition, and the property that embed is made for."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import torchgraft as tg
from torchgraft.records import Move, TensorSpec, Transfer
from torchgraft.transfer.operators import OPERATORS, clip, clip_normalized, embed, full, magnitude

Shapes = tuple[tuple[int, ...], tuple[int, ...]]


def spec(tensor: Tensor, role: str = "weight") -> TensorSpec:
    return TensorSpec(role, role, tuple(tensor.shape), "float32")


def write(
    operator: Any, target: dict[str, Tensor], source: dict[str, Tensor], kind: str = "conv2d", seed: int = 0
) -> None:
    moves = tuple(Move(spec(target[role], role), spec(source[role], role), "clip", 0) for role in target)
    operator(target, source, Transfer("t", "s", kind, 1.0, False, moves), torch.Generator().manual_seed(seed))


def numbered(shape: tuple[int, ...], start: float = 1.0) -> Tensor:
    return torch.arange(torch.Size(shape).numel(), dtype=torch.float64).reshape(shape) + start


@st.composite
def two_shapes(draw: st.DrawFn) -> Shapes:
    rank = draw(st.integers(1, 4))
    sizes = st.lists(st.integers(1, 5), min_size=rank, max_size=rank).map(tuple)
    return draw(sizes), draw(sizes)


def clip_by_definition(target: Tensor, source: Tensor) -> Tensor:
    """Appendix A.2 index by index: T[g(j, t, s)] = S[g(j, s, t)], g(j, x, y) = j + (x - y) // 2 if x > y else j."""

    def g(j: int, x: int, y: int) -> int:
        return j + (x - y) // 2 if x > y else j

    result = target.clone()
    shapes = list(zip(target.shape, source.shape, strict=True))
    for index in itertools.product(*(range(min(t, s)) for t, s in shapes)):
        into = tuple(g(j, t, s) for j, (t, s) in zip(index, shapes, strict=True))
        out_of = tuple(g(j, s, t) for j, (t, s) in zip(index, shapes, strict=True))
        result[into] = source[out_of]
    return result


@given(two_shapes())
@settings(max_examples=60, deadline=None)
def test_clip_is_the_papers_formula(shapes: Shapes) -> None:
    target, source = -numbered(shapes[0]), numbered(shapes[1])
    expected = clip_by_definition(target, source)
    write(clip, {"weight": target}, {"weight": source})
    assert torch.equal(target, expected)


@given(two_shapes(), st.sampled_from(["clip", "embed", "full"]), st.sampled_from(["conv2d", "linear", "prelu"]))
@settings(max_examples=60, deadline=None)
def test_shrink_after_grow_returns_the_start(shapes: Shapes, operator: str, kind: str) -> None:
    small = tuple(min(a, b) for a, b in zip(*shapes, strict=True))
    large = tuple(max(a, b) for a, b in zip(*shapes, strict=True))
    start, grown, back = numbered(small), -numbered(large), torch.zeros(small, dtype=torch.float64)
    write(OPERATORS[operator], {"weight": grown}, {"weight": start}, kind)
    write(OPERATORS[operator], {"weight": back}, {"weight": grown}, kind)
    assert torch.equal(back, start)


@given(two_shapes())
@settings(max_examples=40, deadline=None)
def test_full_leaves_no_value_of_the_target(shapes: Shapes) -> None:
    target, source = torch.full(shapes[0], -1.0, dtype=torch.float64), numbered(shapes[1])
    write(full, {"weight": target}, {"weight": source})
    assert set(target.flatten().tolist()) <= set(source.flatten().tolist())
    centre = [slice((t - min(t, s)) // 2, (t - min(t, s)) // 2 + min(t, s)) for t, s in zip(*shapes, strict=True)]
    kept = [slice((s - min(t, s)) // 2, (s - min(t, s)) // 2 + min(t, s)) for t, s in zip(*shapes, strict=True)]
    assert torch.equal(target[tuple(centre)], source[tuple(kept)])


def test_full_draws_whole_slices_and_follows_its_seed() -> None:
    source = numbered((2, 3))
    targets = [torch.zeros(5, 3, dtype=torch.float64) for _ in range(3)]
    for target, seed in zip(targets, (1, 1, 2), strict=True):
        write(full, {"weight": target}, {"weight": source}, seed=seed)
    assert torch.equal(targets[0], targets[1])
    assert all(any(torch.equal(row, other) for other in source) for row in targets[0])
    assert torch.equal(targets[0][1:3], source)


def test_magnitude_keeps_the_largest_slices_in_order_and_the_bias_follows() -> None:
    source = torch.tensor([[1.0, 0.0, 9.0], [-50.0, 0.0, 1.0], [2.0, 1.0, 2.0], [0.0, -1.0, 30.0]])
    bias = torch.tensor([10.0, 11.0, 12.0, 13.0])
    target, shift = torch.zeros(2, 2), torch.zeros(2)
    write(magnitude, {"weight": target, "bias": shift}, {"weight": source, "bias": bias}, "linear")
    assert target.tolist() == [[-50.0, 1.0], [0.0, 30.0]]  # rows 1 and 3; of those, columns 0 and 2
    assert shift.tolist() == [11.0, 13.0]


def test_magnitude_starts_at_the_front_where_the_source_is_smaller() -> None:
    target, shift = torch.zeros(3, 3, 3), torch.zeros(3)
    write(
        magnitude, {"weight": target, "bias": shift}, {"weight": torch.ones(2, 2, 1), "bias": torch.ones(2)}, "conv1d"
    )
    expected = torch.zeros(3, 3, 3)
    expected[:2, :2, 1] = 1  # the kernel is centred
    assert torch.equal(target, expected)
    assert shift.tolist() == [1.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("shape", "kind", "variance"),
    [
        ((16, 8, 3, 3), "conv2d", 2 / (16 * 9)),
        ((16, 1, 3, 3), "conv2d", 2 * 16 / (16 * 9)),
        ((16, 8), "linear", 1 / 72),
    ],
)
def test_clip_normalized_gives_weight_and_bias_the_variance_of_a_fresh_layer(
    shape: tuple[int, ...], kind: str, variance: float
) -> None:
    source = {"weight": torch.randn(shape), "bias": torch.randn(shape[0])}
    target = {"weight": torch.randn(shape), "bias": torch.randn(shape[0])}
    write(clip_normalized, target, source, kind)
    for role, tensor in target.items():
        assert float(tensor.var()) == pytest.approx(variance, rel=1e-4)
        assert torch.allclose(tensor / tensor.std(), source[role] / source[role].std(), atol=1e-6)


@pytest.mark.parametrize("bias", [torch.full((4,), 0.5), torch.zeros(4)])
def test_clip_normalized_leaves_a_constant_tensor_as_clipped(bias: Tensor) -> None:
    target = {"weight": torch.zeros(4, 2), "bias": torch.ones(4)}
    write(clip_normalized, target, {"weight": torch.ones(4, 2), "bias": bias}, "linear")
    assert target["weight"].tolist() == [[1.0, 1.0]] * 4
    assert torch.equal(target["bias"], bias)


def test_clip_normalized_of_one_element_is_finite() -> None:
    target = {"weight": torch.zeros(1, 1), "bias": torch.zeros(1)}
    write(clip_normalized, target, {"weight": torch.full((1, 1), 3.0), "bias": torch.ones(1)}, "linear")
    assert target["weight"].item() == 3.0
    assert target["bias"].item() == 1.0


def test_embed_zeroes_new_inputs_of_old_outputs_and_nothing_else() -> None:
    target, source = torch.full((4, 4, 3), -1.0), torch.full((2, 2, 1), 5.0)
    write(embed, {"weight": target}, {"weight": source}, "conv1d")
    expected = torch.full((4, 4, 3), -1.0)
    expected[1:3] = 0
    expected[1:3, 1:3, 1] = 5
    assert torch.equal(target, expected)


def test_embed_knows_that_a_transposed_convolution_counts_its_inputs_first() -> None:
    target, source = torch.full((4, 4, 1), -1.0), torch.full((2, 2, 1), 5.0)
    write(embed, {"weight": target}, {"weight": source}, "convtranspose1d")
    expected = torch.full((4, 4, 1), -1.0)
    expected[:, 1:3] = 0
    expected[1:3, 1:3] = 5
    assert torch.equal(target, expected)


class Chain(nn.Module):
    """A network without branches: every operator's favourite."""

    def __init__(self, a: int, b: int, kernel: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, a, kernel, padding=kernel // 2)
        self.norm = nn.BatchNorm2d(a)
        self.second = nn.Conv2d(a, b, kernel, padding=kernel // 2, bias=False)
        self.scale = nn.BatchNorm2d(b)
        self.head = nn.Linear(b, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x)).relu()
        return self.head(self.scale(self.second(x)).relu().mean((2, 3)))


@pytest.mark.parametrize(("a", "b", "kernel"), [(12, 20, 3), (7, 11, 3), (6, 10, 5), (12, 20, 5)])
def test_embed_keeps_the_function_of_a_chain_that_grows(a: int, b: int, kernel: int) -> None:
    source, target = Chain(6, 10, 3).double().eval(), Chain(a, b, kernel).double().eval()
    for model in (source, target):
        for norm in (model.norm, model.scale):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
    images = torch.randn(4, 3, 9, 9, dtype=torch.float64)
    assert not torch.allclose(target(images), source(images), atol=0.01)
    tg.transfer(source, target)
    assert torch.allclose(target(images), source(images), rtol=0, atol=1e-10)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_embed_keeps_the_function_of_a_recurrent_stack_that_grows(kind: Any, layers: int, bidirectional: bool) -> None:
    def build(width: int) -> nn.Module:
        return kind(5, width, layers, bidirectional=bidirectional, batch_first=True).double()

    source, target = build(4), build(9)
    sequence = torch.randn(2, 6, 5, dtype=torch.float64)
    tg.transfer(source, target)
    ours, theirs = target(sequence)[0], source(sequence)[0]
    for direction in range(1 + bidirectional):
        got = ours[..., direction * 9 + 2 : direction * 9 + 6]
        assert torch.allclose(got, theirs[..., direction * 4 : direction * 4 + 4], rtol=0, atol=1e-10)


def halved(target: Any, source: Any, transfer: Transfer, generator: torch.Generator) -> None:
    """An operator of a user's own."""
    for role, tensor in source.items():
        target[role].fill_(float(tensor.sum()) / 2)


def test_an_operator_of_ones_own_works_at_once_and_after_json() -> None:
    source, targets = nn.Linear(2, 2), [nn.Linear(2, 3) for _ in range(2)]
    report = tg.transfer(source, targets[0], operator=halved)
    plan = tg.plan(source, targets[1], operator=halved)
    assert plan.operator == "custom: halved"
    tg.apply(tg.Plan.from_json(plan.to_json()), source, targets[1], operator=halved)
    expected = float(source.weight.detach().sum()) / 2
    assert all(torch.equal(target.weight, torch.full((3, 2), expected)) for target in targets)
    assert report.counts() == {"resized": 2}


def test_an_operator_of_ones_own_is_missed_before_anything_is_written() -> None:
    source, target = nn.Linear(2, 2), nn.Linear(2, 3)
    plan = tg.Plan.from_json(tg.plan(source, target, operator=halved).to_json())
    before = target.weight.detach().clone()
    with pytest.raises(tg.ApplyError, match="pass it again as operator=halved"):
        tg.apply(plan, source, target)
    assert torch.equal(target.weight, before)


def test_an_operator_of_ones_own_never_sees_a_counter() -> None:
    source, target = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    source.num_batches_tracked.fill_(9)
    tg.transfer(source, target, operator=halved)
    assert target.num_batches_tracked.item() == 9
    assert target.running_var.tolist() == [1.5] * 3


@pytest.mark.parametrize("operator", sorted(OPERATORS))
def test_every_operator_serves_both_methods(operator: str) -> None:
    for method in ("graft", "dpiat"):
        source, target = Chain(6, 10, 3), Chain(9, 8, 5)
        report = tg.transfer(source, target, method=method, operator=operator)
        assert all(torch.isfinite(tensor).all() for tensor in target.state_dict().values())
        kept = [tensor.key for tensor in report.tensors if tensor.status == "kept"]
        assert kept == ([] if method == "graft" else [key for key, _ in target.named_buffers()])


def test_stages_of_ones_own() -> None:
    calls = []

    def standardizer(network: Any) -> Any:
        calls.append("standardize")
        layers = [layer for node in network.root.children for layer in node.layers]
        return tuple(tg.Element((layer,), False) for layer in layers)

    @tg.pairwise
    def scorer(target: tg.Layer, source: tg.Layer) -> float:
        calls.append("score")
        return float(target.kind == source.kind)

    def matcher(target: Any, source: Any, score: Any, **_: Any) -> tg.Match:
        calls.append("match")
        scores = score([e.layers[0] for e in target], [e.layers[0] for e in source])
        last = len(source) - 1
        return tg.Match(tuple(tg.Pair(i, last - i, float(scores[i, last - i])) for i in range(len(target))), 1.0)

    source, target = (nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)) for _ in range(2))
    plan = tg.plan(source, target, standardizer=standardizer, scorer=scorer, matcher=matcher)
    assert plan.pairs() == (("1", "0"), ("0", "1"))
    tg.apply(tg.Plan.from_json(plan.to_json()), source, target)
    assert torch.equal(target[0].weight, source[1].weight)
    assert torch.equal(target[1].bias, source[0].bias)
    assert set(calls) == {"standardize", "score", "match"}

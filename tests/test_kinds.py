"""Every kind of layer: what each of its tensors becomes, to the number."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import VOCABULARY, assert_identity, assert_ledger, grown, networks, snapshot
from hypothesis import HealthCheck, given, settings
from torch import Tensor, nn

import torchgraft as tg

Build = Callable[[int], nn.Module]


def inside(layer: nn.Module) -> nn.Module:
    """The layer, neither the first nor the last one of its network."""
    return nn.Sequential(nn.Linear(2, 2), layer, nn.LayerNorm(2))


def centre(vector: Tensor, size: int, rim: float = -1.0) -> list[float]:
    """The vector in the middle of ``size`` elements."""
    before = (size - len(vector)) // 2
    return [rim] * before + vector.tolist() + [rim] * (size - len(vector) - before)


@pytest.mark.parametrize("name", sorted(set(VOCABULARY) - {"relu"}))
@pytest.mark.parametrize("width", [1, 4])
def test_identity_of_every_kind(name: str, width: int) -> None:
    report = assert_identity(lambda: VOCABULARY[name](width))
    assert report.coverage == 1.0


@given(networks(), networks())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_report_adds_up(source: nn.Module, target: nn.Module) -> None:
    before = snapshot(target)
    report = tg.transfer(source, target)
    assert_ledger(report, target)
    after = snapshot(target)
    for tensor in report.tensors:
        assert after[tensor.key].isfinite().all()
        if tensor.status == "kept":
            assert torch.equal(after[tensor.key], before[tensor.key])


@given(networks(4), networks(4))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_plan_survives_json(source: nn.Module, target: nn.Module) -> None:
    plan = tg.plan(source, target)
    again = tg.Plan.from_json(plan.to_json())
    assert again == plan
    assert again.fingerprint() == plan.fingerprint()
    assert_ledger(tg.apply(again, source, target), target)


NORMS: dict[str, tuple[Build, Build]] = {
    "batchnorm": (nn.BatchNorm2d, nn.BatchNorm2d),
    "batchnorm of another rank": (nn.BatchNorm1d, nn.BatchNorm3d),
    "synchronized batchnorm": (nn.BatchNorm2d, nn.SyncBatchNorm),
    "without gains": (lambda w: nn.BatchNorm2d(w, affine=False), lambda w: nn.BatchNorm2d(w, affine=False)),
    "gains from none": (nn.BatchNorm2d, lambda w: nn.BatchNorm2d(w, affine=False)),
    "none from gains": (lambda w: nn.BatchNorm2d(w, affine=False), nn.BatchNorm2d),
    "without statistics": (lambda w: nn.BatchNorm2d(w, track_running_stats=False), nn.BatchNorm2d),
    "layernorm": (nn.LayerNorm, nn.LayerNorm),
    "layernorm without shift": (lambda w: nn.LayerNorm(w, bias=False), nn.LayerNorm),
    "groupnorm": (lambda w: nn.GroupNorm(1, w), lambda w: nn.GroupNorm(2, w)),
    "instancenorm": (
        lambda w: nn.InstanceNorm2d(w, affine=True, track_running_stats=True),
        lambda w: nn.InstanceNorm1d(w, affine=True, track_running_stats=True),
    ),
    "rmsnorm": (nn.RMSNorm, nn.RMSNorm),
}


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize(("small", "large"), [(4, 8), (3, 4), (4, 4)])
def test_norms_grow_around_their_centre_with_their_statistics(name: str, small: int, large: int) -> None:
    builds = NORMS[name]
    source, target, report = grown(builds[0](small), builds[1](large))
    assert set(source) & set(target)
    for key, value in target.items():
        if key == "num_batches_tracked":
            assert value.item() == (7 if key in source else 0)
        elif key in source:
            assert value.tolist() == centre(source[key], large)
        else:
            assert value.tolist() == [-1.0] * large
    assert {t.key for t in report.tensors if t.status == "kept"} == set(target) - set(source)


def test_norms_shrink_to_their_centre() -> None:
    source, target, _ = grown(nn.BatchNorm2d(8), nn.BatchNorm2d(3))
    assert all(
        target[key].tolist() == source[key][2:5].tolist() for key in ("weight", "bias", "running_mean", "running_var")
    )


def test_norms_over_several_axes() -> None:
    source, target, _ = grown(nn.LayerNorm((2, 3)), nn.LayerNorm((4, 3)))
    assert torch.equal(target["weight"][1:3], source["weight"])
    assert target["weight"][[0, 3]].eq(-1).all()


def test_root_mean_square_norms_of_transformers(zoo: Any) -> None:
    from transformers.models.llama.modeling_llama import LlamaRMSNorm
    from transformers.models.t5.modeling_t5 import T5LayerNorm

    for a, b in ((LlamaRMSNorm, T5LayerNorm), (T5LayerNorm, nn.RMSNorm), (nn.RMSNorm, LlamaRMSNorm)):
        source, target, report = grown(a(4), b(6))
        assert target["weight"].tolist() == centre(source["weight"], 6)
        assert report.counts() == {"resized": 1}


@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
@pytest.mark.parametrize(("rows", "more"), [(5, 9), (9, 5)])
def test_a_vocabulary_keeps_its_rows_by_position(kind: Any, rows: int, more: int) -> None:
    source, target, _ = grown(kind(rows, 4), kind(more, 4))
    shared = min(rows, more)
    assert torch.equal(target["weight"][:shared], source["weight"][:shared])
    assert target["weight"][shared:].eq(-1).all()


def test_a_vocabulary_that_gets_wider_keeps_its_rows_by_position() -> None:
    source, target, report = grown(nn.Embedding(5, 4), nn.EmbeddingBag(7, 8))
    assert torch.equal(target["weight"][:5, 2:6], source["weight"])
    untouched = target["weight"].clone()
    untouched[:5, 2:6] = -1
    assert untouched.eq(-1).all()
    assert report.tensors[0].elements == 20


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_convolutions_of_every_rank(rank: int) -> None:
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[rank - 1]
    source, target, _ = grown(inside(kind(4, 4, 3)), inside(kind(6, 8, 5)))
    expected = torch.full((8, 6) + (5,) * rank, -1.0)
    expected[2:6] = 0  # new inputs and taps of trained outputs are zero
    expected[(slice(2, 6), slice(1, 5), *(slice(1, 4),) * rank)] = source["1.weight"]
    assert torch.equal(target["1.weight"], expected)
    assert target["1.bias"].tolist() == centre(source["1.bias"], 8)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_transposed_convolutions_of_every_rank(rank: int) -> None:
    kind = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[rank - 1]
    source, target, _ = grown(inside(kind(4, 2, 2, 2)), inside(kind(8, 6, 2, 2)))  # stored (in, out, ...)
    expected = torch.full((8, 6) + (2,) * rank, -1.0)
    expected[:, 2:4] = 0
    expected[2:6, 2:4] = source["1.weight"]
    assert torch.equal(target["1.weight"], expected)
    assert target["1.bias"].tolist() == centre(source["1.bias"], 6)


def test_a_transposed_convolution_between_convolutions_keeps_its_units() -> None:
    def build(width: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1), nn.ConvTranspose2d(width, width, 2, 2), nn.Conv2d(width, 2, 1)
        )

    source, target = build(4).double(), build(10).double()
    images = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    tg.transfer(source, target)
    assert torch.allclose(target(images), source(images), rtol=0, atol=1e-10)


def test_a_depthwise_convolution_grows_channel_by_channel() -> None:
    source, target, _ = grown(inside(nn.Conv2d(4, 4, 3, groups=4)), inside(nn.Conv2d(6, 6, 5, groups=6)))
    expected = torch.full((6, 1, 5, 5), -1.0)
    expected[1:5] = 0
    expected[1:5, :, 1:4, 1:4] = source["1.weight"]
    assert torch.equal(target["1.weight"], expected)


def test_bilinear() -> None:
    source, target, _ = grown(inside(nn.Bilinear(2, 2, 2)), inside(nn.Bilinear(4, 2, 4)))
    expected = torch.full((4, 4, 2), -1.0)
    expected[1:3] = 0
    expected[1:3, 1:3] = source["1.weight"]
    assert torch.equal(target["1.weight"], expected)


@pytest.mark.parametrize(
    ("a", "b", "expected"), [(1, 3, [1.0] * 3), (3, 1, [2.0]), (2, 4, [-1.0, 1.0, 2.0, -1.0]), (3, 3, [1.0, 2.0, 3.0])]
)
def test_prelu_shares_its_one_slope(a: int, b: int, expected: list[float]) -> None:
    _, target, report = grown(nn.PReLU(a), nn.PReLU(b))
    assert target["weight"].tolist() == expected
    assert report.tensors[0].elements == sum(value > 0 for value in expected)


def gates(tensor: Tensor, count: int) -> Tensor:
    return tensor.unflatten(0, (count, -1))


@pytest.mark.parametrize(("kind", "count"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
def test_recurrent_layers_grow_gate_by_gate(kind: Any, count: int) -> None:
    source, target, _ = grown(kind(3, 2), kind(5, 6))
    for key in ("weight_ih_l0", "weight_hh_l0"):
        got, origin = gates(target[key], count), gates(source[key], count)
        columns = got.shape[2], origin.shape[2]
        expected = torch.full(tuple(got.shape), -1.0)
        expected[:, 2:4] = 0
        start = (columns[0] - columns[1]) // 2
        expected[:, 2:4, start : start + columns[1]] = origin
        assert torch.equal(got, expected), key
    for key in ("bias_ih_l0", "bias_hh_l0"):
        assert [row.tolist() for row in gates(target[key], count)] == [
            centre(row, 6) for row in gates(source[key], count)
        ]


def test_a_deeper_stack_reuses_the_layer_below() -> None:
    source, target, report = grown(nn.LSTM(4, 4), nn.LSTM(4, 4, 3))
    for depth in range(3):
        assert torch.equal(target[f"weight_ih_l{depth}"], source["weight_ih_l0"])
    status = {tensor.key: tensor.status for tensor in report.tensors}
    assert status["weight_hh_l0"] == "copied"
    assert status["weight_hh_l1"] == status["weight_hh_l2"] == "reused"


def test_a_bidirectional_stack_reads_both_directions_as_units() -> None:
    source, target, _ = grown(nn.GRU(3, 2, 2, bidirectional=True), nn.GRU(3, 4, 2, bidirectional=True))
    for tail in ("", "_reverse"):
        got, origin = target[f"weight_ih_l1{tail}"], source[f"weight_ih_l1{tail}"]
        expected = torch.full((3, 4, 2, 4), -1.0)
        expected[:, 1:3] = 0
        expected[:, 1:3, :, 1:3] = origin.reshape(3, 2, 2, 2)
        assert torch.equal(got.reshape(3, 4, 2, 4), expected)


def test_a_deeper_bidirectional_stack_keeps_its_directions() -> None:
    source, target, _ = grown(nn.GRU(4, 2, 2, bidirectional=True), nn.GRU(4, 2, 3, bidirectional=True))
    for depth, origin in ((0, 0), (1, 1), (2, 1)):
        for tail in ("", "_reverse"):
            assert torch.equal(target[f"weight_hh_l{depth}{tail}"], source[f"weight_hh_l{origin}{tail}"])


def test_a_network_that_ends_in_a_norm_has_no_classes() -> None:
    source, target, _ = grown(
        nn.Sequential(nn.Linear(2, 4), nn.LayerNorm(4)), nn.Sequential(nn.Linear(2, 8), nn.LayerNorm(8))
    )
    assert torch.equal(target["0.weight"], torch.cat((source["0.weight"],) * 2))  # a norm sees all units: each twice


def test_one_direction_takes_the_forward_one_of_two() -> None:
    source, target, _ = grown(nn.GRU(3, 2, 2, bidirectional=True), nn.GRU(3, 2, 2))
    assert torch.equal(target["weight_hh_l0"], source["weight_hh_l0"])
    assert torch.equal(target["weight_ih_l1"], source["weight_ih_l1"][:, :2])


def test_a_projected_lstm() -> None:
    source, target, _ = grown(nn.LSTM(3, 4, proj_size=2), nn.LSTM(3, 8, proj_size=4))
    expected = torch.full((4, 8), -1.0)
    expected[1:3] = 0
    expected[1:3, 2:6] = source["weight_hr_l0"]
    assert torch.equal(target["weight_hr_l0"], expected)
    got = gates(target["weight_hh_l0"], 4)
    assert torch.equal(got[:, 2:6, 1:3], gates(source["weight_hh_l0"], 4))
    assert got[:, 2:6, [0, 3]].eq(0).all()


@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
def test_a_cell_takes_from_a_stack_and_gives_to_it(name: str) -> None:
    stack, cell = getattr(nn, name), getattr(nn, f"{name}Cell")
    source, target, _ = grown(stack(3, 4), cell(3, 4))
    assert all(torch.equal(target[key], source[f"{key}_l0"]) for key in target)
    source, target, report = grown(cell(3, 4), stack(3, 4))
    assert all(torch.equal(target[f"{key}_l0"], source[key]) for key in source)
    assert report.counts() == {"copied": 4}


@pytest.mark.parametrize("build", [
    lambda: nn.utils.parametrizations.weight_norm(nn.LSTM(3, 4), "weight_hh_l0"),
    lambda: nn.utils.parametrizations.spectral_norm(nn.GRU(3, 4, 2), "weight_hh_l1"),
])  # fmt: skip
def test_a_recurrent_layer_with_a_parametrized_weight(build: Callable[[], nn.Module]) -> None:
    assert_identity(build)
    plain = type(build())  # a class made for the parametrized module, still a recurrent layer
    assert issubclass(plain, nn.RNNBase)
    report = tg.transfer(build(), nn.LSTM(3, 6) if issubclass(plain, nn.LSTM) else nn.GRU(3, 6, 2))
    assert "kept" not in report.counts()


def test_kinds_do_not_mix() -> None:
    pairs = [(nn.Linear(4, 4), nn.Embedding(4, 4)), (nn.LayerNorm(4), nn.BatchNorm1d(4)), (nn.LSTM(4, 4), nn.GRU(4, 4))]
    for source, target in pairs:
        before = snapshot(target)
        report = tg.transfer(source, target)
        assert set(report.counts()) == {"kept"}
        assert report.coverage == 0
        assert all(torch.equal(before[key], value) for key, value in target.state_dict().items())
        assert {tensor.reason for tensor in report.tensors} == {"no source layer"}


def test_no_kind_is_left_out_of_these_tests() -> None:
    from torchgraft.kinds import TYPES

    here = Path(__file__)
    text = here.read_text() + here.with_name("builders.py").read_text()
    missing = [kind.__name__ for kind, _ in TYPES if f"nn.{kind.__name__.removesuffix('Cell')}" not in text]
    assert missing == ["InstanceNorm3d"]

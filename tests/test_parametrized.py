"""Weights that are computed: parametrizations, old hooks, pruning, adapters; as modules and as bare tables."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from builders import assert_identity, assert_ledger, plain, same_bits, snapshot, statuses
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

import torchgraft as tg

# --- parametrizations --------------------------------------------------------------------------------------------


def weight_norm(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(3, width), parametrizations.weight_norm(nn.Conv1d(width, width, 3)), nn.LayerNorm(width)
    )


def spectral_norm(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(3, width), parametrizations.spectral_norm(nn.Conv1d(width, width, 3)), nn.LayerNorm(width)
    )


def weight(model: nn.Module) -> Tensor:
    """The weight that the model computes with, power iterations left where they are."""
    with torch.no_grad():
        return copy.deepcopy(model).eval()[1].weight.clone()


@pytest.mark.parametrize("source_width", [4, 8])
def test_plain_to_weight_norm_and_back(source_width: int) -> None:
    source, target = plain(source_width), weight_norm(6)
    own = weight(target)
    report = tg.transfer(source, target)
    assert_ledger(report, target)
    got, origin = weight(target), weight(source)
    if source_width == 4:
        assert torch.allclose(got[1:5, 1:5], origin, atol=1e-6)
        assert got[1:5, [0, 5]].abs().max() < 1e-6
        assert torch.allclose(got[[0, 5]], own[[0, 5]], atol=1e-6)
        assert {t.key: t.elements for t in report.tensors if "original0" in t.key} == {
            "1.parametrizations.weight.original0": 6 * (4 * 4 * 3) // (6 * 6 * 3)
        }
    else:
        assert torch.allclose(got, origin[1:7, 1:7], atol=1e-6)
    assert "kept" not in report.counts()
    back = plain(6)
    tg.transfer(target, back)
    assert torch.equal(back[1].weight, got)


def test_weight_norm_to_weight_norm_is_bitwise_and_grows_through_its_inverse() -> None:
    assert_identity(lambda: weight_norm(4))
    source, target = weight_norm(4), weight_norm(6)
    tg.transfer(source, target)
    assert torch.allclose(weight(target)[1:5, 1:5], weight(source), atol=1e-6)


def hooked(hook: Callable[..., Any], width: int, kind: Any = nn.Conv1d) -> nn.Module:
    return nn.Sequential(nn.Linear(3, width), hook(kind(width, width, 3)), nn.LayerNorm(width))


def effective(model: nn.Module) -> Tensor:
    """The weight that the second layer computes with in its next forward pass, in evaluation."""
    model.eval()
    with torch.no_grad():
        model[1](torch.zeros(1, model[1].in_channels, 5))
        weight = model[1].weight.clone()
    model.train()
    return weight


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("old", [nn.utils.weight_norm, nn.utils.spectral_norm])
@pytest.mark.parametrize("kind", [nn.Conv1d, nn.ConvTranspose1d])
def test_the_old_hooks_of_torch(old: Callable[..., Any], kind: Any) -> None:
    new = {nn.utils.weight_norm: parametrizations.weight_norm, nn.utils.spectral_norm: parametrizations.spectral_norm}[
        old
    ]
    source, target = hooked(old, 4, kind), hooked(old, 4, kind)
    report = tg.transfer(source, target)
    assert_ledger(report, target)
    assert same_bits(snapshot(target), snapshot(source))
    assert set(report.counts()) == {"copied"}
    before = snapshot(source)
    for build in (old, new, lambda layer: layer):
        for width in (4, 6):
            other = hooked(build, width, kind)
            report = tg.transfer(source, other)
            assert_ledger(report, other)
            assert "kept" not in report.counts()
            first = (width - 4) // 2
            got = effective(other)[first : first + 4, first : first + 4]
            ratio = got / effective(source)
            assert torch.allclose(ratio, ratio.mean().expand_as(ratio), rtol=1e-3)
            if build in (nn.utils.weight_norm, parametrizations.weight_norm) or width == 4:
                assert ratio.mean().item() == pytest.approx(1, rel=0.02) or kind is nn.ConvTranspose1d
    assert same_bits(snapshot(source), before)
    plain = hooked(lambda layer: layer, 4, kind)
    back = hooked(old, 4, kind)
    assert_ledger(tg.transfer(plain, back), back)
    ratio = effective(back) / plain[1].weight.detach()
    assert torch.allclose(ratio, ratio.mean().expand_as(ratio), rtol=1e-3)


@pytest.mark.parametrize("width", [4, 6])
def test_a_pruned_layer_gives_what_it_computes_with(width: int) -> None:
    from torch.nn.utils import prune

    assert_identity(lambda: hooked(lambda layer: prune.l1_unstructured(layer, "weight", 0.5), 4))
    source, target = hooked(lambda layer: prune.l1_unstructured(layer, "weight", 0.5), 4), plain(width)
    tg.transfer(source, target)
    first = (width - 4) // 2
    assert torch.equal(target[1].weight[first : first + 4, first : first + 4], source[1].weight)
    assert source[1].weight.eq(0).any()
    back = hooked(lambda layer: prune.l1_unstructured(layer, "weight", 0.5), 4)
    mask = back[1].weight_mask.clone()
    report = tg.transfer(plain(4), back)
    assert statuses(report)["1.weight_mask"] == "kept" and torch.equal(back[1].weight_mask, mask)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("make", [nn.utils.weight_norm, parametrizations.weight_norm, parametrizations.spectral_norm])
def test_a_bare_table_of_computed_weights(make: Callable[..., Any]) -> None:
    source, target = hooked(make, 4), hooked(make, 4)
    report = tg.transfer(source.state_dict(), target)
    assert same_bits(snapshot(target), snapshot(source))
    assert set(report.counts()) == {"copied"}
    for factory in (None, lambda: hooked(make, 4)):
        other = plain(6)
        assert (
            "kept" not in tg.transfer(source.state_dict(), other, **({"factory": factory} if factory else {})).counts()
        )
        assert torch.allclose(other[1].weight[1:5, 1:5], effective(source), atol=1e-6)


def test_a_bare_table_of_a_parametrization_that_needs_its_code() -> None:
    source, target = low_rank(), nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 8), nn.LayerNorm(8))
    before = snapshot(target)
    with pytest.raises(tg.ApplyError, match=r"parametrization of 1\.weight that only its code can compute"):
        tg.transfer(source.state_dict(), target)
    assert same_bits(snapshot(target), before)


def test_planning_and_reading_leave_a_power_iteration_where_it_is() -> None:
    source, target = spectral_norm(4).train(), spectral_norm(6).train()
    before = snapshot(source), snapshot(target)
    tg.plan(source, target)
    tg.similarity(source, target)
    assert same_bits(snapshot(source), before[0])
    assert same_bits(snapshot(target), before[1])
    tg.transfer(source, plain(4))
    tg.transfer(source, target)
    assert same_bits(snapshot(source), before[0])
    assert source[1].parametrizations.weight.training
    assert target[1].parametrizations.weight.training


def test_spectral_norm_identity_copies_its_buffers() -> None:
    report = assert_identity(lambda: spectral_norm(4))
    assert {t.key for t in report.tensors if t.buffer} == {
        "1.parametrizations.weight.0._u",
        "1.parametrizations.weight.0._v",
    }


def test_spectral_norm_estimates_the_norm_of_its_new_weight() -> None:
    source, target = plain(4), spectral_norm(4)
    with torch.no_grad():
        source[1].weight.normal_(0, 5)
    report = tg.transfer(source, target)
    assert_ledger(report, target)
    assert "kept" not in report.counts()
    matrix = source[1].weight.detach().flatten(1)
    expected = source[1].weight / torch.linalg.matrix_norm(matrix, 2)
    assert torch.allclose(weight(target), expected, rtol=0.02, atol=1e-3)
    back = plain(4)
    tg.transfer(target, back)
    assert torch.equal(back[1].weight, weight(target))


class LowRank(nn.Module):
    """A low-rank update beside a frozen weight, as LoRA does it; it has no inverse."""

    def __init__(self, out: int, width: int, rank: int) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(rank, width)), nn.Parameter(torch.zeros(out, rank))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.b @ self.a


def low_rank(rank: int = 2) -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 8), nn.LayerNorm(8))
    parametrize.register_parametrization(model[1], "weight", LowRank(8, 8, rank))
    return model


def test_plain_to_a_low_rank_update_fills_the_frozen_weight_alone() -> None:
    source, target = nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 8), nn.LayerNorm(8)), low_rank()
    before = target[1].parametrizations.weight[0].a.detach().clone()
    report = tg.transfer(source, target)
    assert_ledger(report, target)
    assert torch.equal(target[1].weight, source[1].weight)
    assert torch.equal(target[1].parametrizations.weight.original, source[1].weight)
    assert torch.equal(target[1].parametrizations.weight[0].a, before)
    kept = [key for key, status in statuses(report).items() if status == "kept"]
    assert kept == ["1.parametrizations.weight.0.a", "1.parametrizations.weight.0.b"]


def test_a_low_rank_update_is_merged_into_a_plain_weight() -> None:
    assert_identity(low_rank)
    source, target = low_rank(), nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 8), nn.LayerNorm(8))
    nn.init.normal_(source[1].parametrizations.weight[0].b)
    tg.transfer(source, target)
    assert torch.equal(target[1].weight, source[1].weight)
    other = low_rank(rank=4)
    tg.transfer(source, other)
    assert torch.equal(other[1].weight, source[1].weight)


class Product(nn.Module):
    """Two originals and no way back from their product."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a * b


def test_a_parametrization_without_a_way_back_is_an_error_before_anything_is_written() -> None:
    class Invertible(Product):
        def right_inverse(self, value: Tensor) -> tuple[Tensor, Tensor]:
            return value, torch.ones_like(value)

    source, target = plain(4), plain(4)
    parametrize.register_parametrization(target[1], "weight", Invertible())
    target[1].parametrizations.weight[0] = Product()
    before = snapshot(target)
    with pytest.raises(tg.ApplyError, match=r"1\.weight is computed by a parametrization without right_inverse"):
        tg.transfer(source, target)
    assert same_bits(snapshot(target), before)
    assert "kept" in tg.transfer(source, target, exclude_target=["1"]).counts()


class Adapter(nn.Module):
    """What PEFT wraps around a layer."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base_layer = base
        self.lora_A = nn.ModuleDict({"default": nn.Linear(base.in_features, rank, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(rank, base.out_features, bias=False)})
        nn.init.zeros_(self.lora_B["default"].weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + self.lora_B["default"](self.lora_A["default"](x))


class Attention(nn.Module):
    def __init__(self, rank: int | None = None) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(32, 32) for _ in range(4))
        if rank:
            self.q, self.v = Adapter(self.q, rank), Adapter(self.v, rank)


def test_a_wrapped_layer_takes_from_a_plain_one() -> None:
    source = nn.Sequential(*(Attention() for _ in range(3)), nn.LayerNorm(32))
    target = nn.Sequential(*(Attention(2) for _ in range(3)), nn.LayerNorm(32))
    report = tg.transfer(source, target)
    assert_ledger(report, target)
    for number in range(3):
        for letter in "qkvo":
            layer = getattr(target[number], letter)
            layer = getattr(layer, "base_layer", layer)
            assert torch.equal(layer.weight, getattr(source[number], letter).weight), (number, letter)
    assert all(statuses(report)[key] == "kept" for key in statuses(report) if "lora" in key)
    x = torch.randn(2, 32)
    assert torch.equal(target[1].q(x), source[1].q(x))  # the update is still zero

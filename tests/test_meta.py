"""Targets and sources on the meta device: planned without values, materialized, never left uninitialised."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from builders import VOCABULARY, assert_ledger, networks, same_bits, snapshot
from hypothesis import HealthCheck, given, settings
from torch import Tensor, nn

import torchgraft as tg


def on_meta(build: Callable[[], nn.Module]) -> Any:
    with torch.device("meta"):
        return build()


def body(width: int = 4) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.Flatten(), nn.Linear(width, 5))


def test_planning_needs_no_values() -> None:
    ours = tg.plan(on_meta(body), on_meta(lambda: body(8)))
    theirs = tg.plan(body(), body(8))
    assert ours == theirs


@pytest.mark.parametrize("width", [2, 4, 8])
def test_a_target_on_meta_is_materialized(width: int) -> None:
    source, target = body(), on_meta(lambda: body(width))
    report = tg.transfer(source, target)
    assert_ledger(report, target)
    assert not any(tensor.is_meta for tensor in target.state_dict().values())
    assert all(tensor.isfinite().all() for tensor in target.state_dict().values())
    assert target.eval()(torch.rand(2, 3, 3, 3)).isfinite().all()
    if width == 4:
        assert same_bits(snapshot(target), snapshot(source))


@given(networks(4), networks(4))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_nothing_is_left_uninitialised(source: nn.Module, target: nn.Module) -> None:
    hollow = target.to("meta")
    state = torch.random.get_rng_state()
    report = tg.transfer(source, hollow)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert_ledger(report, hollow)
    assert "kept" not in report.counts()
    assert all(value.isfinite().all() for value in hollow.state_dict().values())


@pytest.mark.parametrize("name", sorted(set(VOCABULARY) - {"relu"}))
def test_a_kind_that_nothing_serves_is_initialised(name: str) -> None:
    target = on_meta(lambda: VOCABULARY[name](4))
    other = "linear" if name in ("embedding", "bag") else "embedding"
    report = tg.transfer(VOCABULARY[other](4), target)
    assert_ledger(report, target)
    assert set(report.counts()) == {"initialised"}
    for key, value in target.state_dict().items():
        assert value.isfinite().all()
        small = value.float().abs().max() <= 4
        assert small, f"{key} is not what an initializer gives"


def test_torchs_own_initialization_is_used() -> None:
    target = on_meta(lambda: nn.Sequential(nn.Linear(100, 400), nn.BatchNorm1d(400), nn.LayerNorm(400)))
    tg.transfer(nn.Embedding(3, 3), target)
    bound = 1 / 100**0.5
    assert target[0].weight.abs().max() <= bound
    assert target[0].weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)
    assert target[1].running_var.eq(1).all()
    assert target[1].running_mean.eq(0).all()
    assert target[1].weight.eq(1).all()
    assert target[1].num_batches_tracked.item() == 0
    assert target[2].weight.eq(1).all()
    assert target[2].bias.eq(0).all()


def test_a_parametrized_layer_gets_torchs_own_initialization() -> None:
    target = on_meta(lambda: nn.utils.parametrizations.weight_norm(nn.Linear(100, 400)))
    tg.transfer(nn.Embedding(3, 3), target)
    assert target.weight.std().item() == pytest.approx(1 / 300**0.5, rel=0.05)


@pytest.mark.parametrize("wide", [6, 8])
def test_a_parametrized_layer_grows_on_meta(wide: int) -> None:
    def build(width: int) -> nn.Module:
        return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(width, width)), nn.LayerNorm(width))

    source, target = build(4), on_meta(lambda: build(wide))
    report = tg.transfer(source, target)
    assert_ledger(report, target)
    first = (wide - 4) // 2
    got = target[0].weight
    assert got.isfinite().all()
    assert got[0].abs().sum() > 0
    assert torch.allclose(got[first : first + 4, first : first + 4], source[0].weight, atol=1e-6)


def test_draws_follow_the_seed_and_leave_the_callers_generator_alone() -> None:
    def warm(seed: int) -> dict[str, Tensor]:
        target = on_meta(lambda: nn.Sequential(body(8), nn.ParameterList([torch.empty(1, 1, 6)])))
        torch.manual_seed(99)
        state = torch.random.get_rng_state()
        tg.transfer(source, target, seed=seed)
        assert torch.equal(torch.random.get_rng_state(), state)
        return snapshot(target)

    source = body()
    first = warm(1)
    assert same_bits(first, warm(1))
    torch.rand(5)
    assert same_bits(first, warm(1))
    assert not same_bits(first, warm(2))


def test_ties_and_gradient_flags_survive() -> None:
    def build() -> nn.Module:
        model = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 4), nn.Linear(4, 7, bias=False))
        model[2].weight = model[0].weight
        model[1].weight.requires_grad_(False)
        return model

    source, target = build(), on_meta(build)
    report = tg.transfer(source, target)
    assert_ledger(report, target)
    assert target[2].weight is target[0].weight
    assert isinstance(target[0].weight, nn.Parameter)
    assert not target[1].weight.requires_grad
    assert target[0].weight.requires_grad
    assert same_bits(snapshot(target), snapshot(source))


def test_shared_modules_survive() -> None:
    def build() -> nn.Module:
        shared = nn.Linear(4, 4)
        return nn.Sequential(shared, nn.ReLU(), shared, nn.LayerNorm(4))

    source, target = build(), on_meta(build)
    assert_ledger(tg.transfer(source, target), target)
    assert target[0] is target[2]
    assert same_bits(snapshot(target), snapshot(source))


def test_precisions_survive() -> None:
    target = on_meta(lambda: body(8).to(torch.bfloat16))
    tg.transfer(body(), target)
    assert {value.dtype for value in target.parameters()} == {torch.bfloat16}
    assert all(value.isfinite().all() for value in target.state_dict().values())


def test_complex_parameters_are_initialised() -> None:
    class Filter(nn.Module):
        def __init__(self, size: int) -> None:
            super().__init__()
            self.filter = nn.Parameter(torch.zeros(size, size, dtype=torch.complex64))
            self.norm = nn.LayerNorm(4)

    target = on_meta(lambda: Filter(6))
    report = tg.transfer(Filter(3), target)
    assert_ledger(report, target)
    assert torch.view_as_real(target.filter.detach()).isfinite().all()
    assert target.filter.abs().max() > 0


def test_what_is_in_memory_stays() -> None:
    target = body(8)
    target[3] = on_meta(lambda: nn.Linear(8, 5))
    before = snapshot(target[1])
    report = tg.transfer(nn.Embedding(3, 3), target)
    assert_ledger(report, target)
    status = {tensor.key: tensor.status for tensor in report.tensors}
    assert status["3.weight"] == "initialised"
    assert status["1.weight"] == "kept"
    assert same_bits(snapshot(target[1]), before)


@pytest.mark.parametrize("labels", [{0: 4, 5: 0}, {1: 1}])
def test_rows_that_a_label_map_leaves_out_are_initialised(labels: dict[int, int]) -> None:
    source, target = body(), on_meta(lambda: nn.Sequential(*body()[:3], nn.Linear(4, 6)))
    report = tg.transfer(source, target, labels=labels)
    assert_ledger(report, target)
    assert all(torch.equal(target[3].weight[t], source[3].weight[s]) for t, s in labels.items())
    assert target[3].weight.isfinite().all()
    assert target[3].weight[2].abs().sum() > 0


def test_an_operator_that_writes_nothing_leaves_nothing_uninitialised() -> None:
    target = on_meta(body)
    tg.transfer(body(), target, operator=lambda *_: None)
    assert all(value.isfinite().all() for value in target.state_dict().values())


@pytest.mark.parametrize("operator", ["embed", "clip", "clip_normalized", "full", "magnitude"])
def test_every_operator_fills_a_target_on_meta(operator: str) -> None:
    for width in (2, 4, 8):
        target = on_meta(lambda width=width: body(width))
        tg.transfer(body(), target, operator=operator)
        assert all(value.isfinite().all() for value in target.state_dict().values())


class Levels(nn.Module):
    """As Deformable DETR: a parameter by the legacy constructor, which heeds no device, initialized elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.level_embed = nn.Parameter(torch.Tensor(3, 4))

    def init_weights(self) -> None:
        nn.init.constant_(self.level_embed, 0.25)


def test_memory_that_the_legacy_constructor_left_as_it_was_is_initialised() -> None:
    target = on_meta(lambda: nn.ModuleDict({"levels": Levels(), "head": nn.Linear(4, 2)}))
    garbage = target["levels"].level_embed
    assert not garbage.is_meta
    garbage.data.fill_(float("inf"))
    report = tg.transfer(nn.Linear(4, 2), target)
    assert_ledger(report, target)
    assert torch.equal(target["levels"].level_embed, torch.full((3, 4), 0.25))
    assert {tensor.key: tensor.status for tensor in report.tensors}["levels.level_embed"] == "initialised"


def test_the_published_method_fills_a_target_on_meta() -> None:
    target = on_meta(lambda: body(8))
    report = tg.transfer(body(), target, method="dpiat")
    assert_ledger(report, target)
    assert target[1].running_var.eq(1).all()
    assert {t.status for t in report.tensors if t.buffer} == {"initialised"}


class Constructed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.arange(6.0), persistent=False)
        self.linear = nn.Linear(4, 4)


def test_a_tensor_that_only_a_constructor_knows_is_an_error() -> None:
    target = on_meta(Constructed)
    with pytest.raises(tg.ApplyError, match="table is computed in its constructor: build the target on the CPU"):
        tg.transfer(nn.Linear(4, 4), target)
    assert all(value.is_meta for value in target.state_dict().values())


@pytest.mark.parametrize("hollow", ["whole", "one layer", "parametrized"])
def test_a_source_on_meta_has_no_values_to_give(hollow: str) -> None:
    source, target = body(), body(8)
    if hollow == "whole":
        source = on_meta(body)
    elif hollow == "one layer":
        source[3] = on_meta(lambda: nn.Linear(4, 5))
    else:
        source[3] = on_meta(lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 5)))
    before = snapshot(target)
    plan = tg.plan(source, target)
    assert plan.coverage > 0
    with pytest.raises(tg.ApplyError, match=r"source's .* is on the meta device and has no values: load"):
        tg.apply(plan, source, target)
    with pytest.raises(tg.ApplyError, match="meta device"):
        tg.transfer(source, target)
    assert same_bits(snapshot(target), before)
    held = on_meta(lambda: body(8))
    with pytest.raises(tg.ApplyError, match="meta device"):
        tg.transfer(source, held)
    assert all(value.is_meta for value in held.state_dict().values())


def test_a_state_dict_on_meta_is_an_error_before_anything_is_written() -> None:
    target = body(8)
    before = snapshot(target)
    with pytest.raises(tg.GraftError, match="meta device"):
        tg.transfer(on_meta(body).state_dict(), target)
    assert same_bits(snapshot(target), before)


def test_meta_tensors_that_no_move_reads_do_no_harm() -> None:
    source = nn.Sequential(body(), on_meta(lambda: nn.Embedding(3, 3)))
    target = body()
    assert tg.transfer(source, target).counts() == {"copied": len(snapshot(target))}

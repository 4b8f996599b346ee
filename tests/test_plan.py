"""Plans and reports: complete, printable, storable, and checked against what they are applied to."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import torchgraft as tg


def net(width: int = 8, classes: int = 3) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Flatten(), nn.Linear(width, classes)
    )


def totals_add_up(ledger: tg.Plan | tg.Report, model: nn.Module) -> bool:
    state = model.state_dict()
    assert [tensor.key for tensor in ledger.tensors] == list(state)
    assert all(
        tensor.status in {"copied", "resized", "reused", "silenced", "initialised", "kept"} for tensor in ledger.tensors
    )
    unique = {id(tensor): tensor.numel() for tensor in model.state_dict(keep_vars=True).values()}
    assert sum(ledger.counts().values()) == len(state)
    assert all(0 <= tensor.elements <= tensor.size for tensor in ledger.tensors)
    return ledger.total == sum(unique.values())


@pytest.mark.parametrize("method", ["graft", "dpiat"])
def test_every_tensor_has_one_status_and_the_totals_add_up(method: str, zoo: Any) -> None:
    timm, _ = zoo
    names = (
        "resnet18",
        "vit_tiny_patch16_224",
        "mobilenetv3_small_050",
        "convnext_atto",
        "swin_tiny_patch4_window7_224",
    )
    with torch.device("meta"):
        models = [timm.create_model(name) for name in names]
    for source in models:
        for target in models:
            assert totals_add_up(tg.plan(source, target, method=method), target)


def test_a_plan_is_pure_on_meta_models_and_the_same_as_on_real_ones(zoo: Any) -> None:
    timm, _ = zoo
    names = ("mobilenetv3_small_050", "mobilenetv3_small_100")
    with torch.device("meta"):
        meta = [timm.create_model(name) for name in names]
    real = [timm.create_model(name) for name in names]
    before = {key: value.clone() for key, value in real[1].state_dict().items()}
    assert tg.plan(*meta) == tg.plan(*real)
    assert all(value.is_meta for model in meta for value in model.state_dict().values())
    assert all(torch.equal(before[key], value) for key, value in real[1].state_dict().items())


def test_json_round_trip_applies_like_the_original() -> None:
    source, targets = net(8), [net(12, 5) for _ in range(2)]
    targets[1].load_state_dict(targets[0].state_dict())
    plan = tg.plan(source, targets[0], labels={4: 0})
    again = tg.Plan.from_json(plan.to_json())
    assert again == plan and again.fingerprint() == plan.fingerprint()
    reports = [tg.apply(one, source, target) for one, target in zip((plan, again), targets, strict=True)]
    assert reports[0] == reports[1]
    a, b = (target.state_dict() for target in targets)
    assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"format": 99}', '{"format": 1, "tensors": 3}'])
def test_what_is_no_plan_is_refused(text: str) -> None:
    with pytest.raises(tg.PlanError):
        tg.Plan.from_json(text)


def test_a_plan_prints_one_line_per_tensor_and_the_totals() -> None:
    source, target = net(8), net(16)
    lines = str(tg.plan(source, target)).splitlines()
    body = [line for line in lines if line.split()[0] in {"copied", "resized", "kept", "reused"}]
    assert [line.split()[1] for line in body] == list(target.state_dict())
    totals = [line for line in lines if line.startswith(f"{len(target.state_dict())} tensors: ")]
    assert len(totals) == 1 and "coverage" in totals[0]


def test_a_report_is_plain_data() -> None:
    source, target = net(8), net(16)
    report = tg.transfer(source, target)
    data = json.loads(json.dumps(report.to_dict()))
    assert data["coverage"] == report.coverage and data["elements"] == report.total
    assert {entry["key"] for entry in data["tensors"]} == set(target.state_dict())
    assert totals_add_up(report, target)


def test_a_plan_for_another_target_or_source_is_refused_and_nothing_is_written() -> None:
    source, target = net(8), net(16)
    plan = tg.plan(source, target)
    for wrong_source, wrong_target, told in ((source, net(20), "another target"), (net(4), net(16), "another source")):
        before = {key: value.clone() for key, value in wrong_target.state_dict().items()}
        with pytest.raises(tg.ApplyError, match=told):
            tg.apply(plan, wrong_source, wrong_target)
        assert all(torch.equal(before[key], value) for key, value in wrong_target.state_dict().items())


def test_a_file_with_nan_leaves_the_target_untouched(tmp_path: Any) -> None:
    source, target = net(8), net(8)
    state = source.state_dict()
    state["4.bias"][0] = float("nan")
    save_file(state, tmp_path / "bad.safetensors")
    before = {key: value.clone() for key, value in target.state_dict().items()}
    with pytest.raises(tg.CheckpointError, match=r"bad\.safetensors.*4\.bias"):
        tg.transfer(tmp_path / "bad.safetensors", target)
    assert all(torch.equal(before[key], value) for key, value in target.state_dict().items())
    report = tg.transfer(tmp_path / "bad.safetensors", target, allow_nonfinite=True)
    assert report.coverage == 1.0 and target.state_dict()["4.bias"][0].isnan()


def test_unknown_names_list_the_valid_ones() -> None:
    source, target = net(), net()
    for option in ("method", "matcher", "operator", "scorer", "standardizer"):
        with pytest.raises(tg.SpecError, match=f"unknown {option} 'nope'.*valid: "):
            tg.plan(source, target, **{option: "nope"})
    with pytest.raises(tg.SpecError, match="unknown option 'metod'"):
        tg.plan(source, target, metod="graft")  # type: ignore[call-arg]
    with pytest.raises(tg.SpecError, match="unknown measure"):
        tg.similarity(source, target, measure="cos")


def test_a_target_without_code_cannot_be_written(tmp_path: Any) -> None:
    with pytest.raises(tg.SpecError, match="build the model first"):
        tg.transfer(net(), "timm:resnet18")  # type: ignore[arg-type]
    plan = tg.plan(net(), net().state_dict())
    assert plan.coverage == 1.0


def test_user_functions_replace_every_stage() -> None:
    calls = []

    def halves(target: Any, source: Any, transfer: Any, generator: Any) -> None:
        calls.append(transfer.target)
        for role, tensor in target.items():
            tensor.fill_(0.5 if role == "weight" else 0.25)

    same_kind = tg.pairwise(lambda target, source: float(target.kind == source.kind) / 2)
    target = net(16)
    report = tg.transfer(net(8), target, operator=halves, scorer=same_kind)
    assert calls == ["0", "1", "4"]
    assert target[0].weight.eq(0.5).all() and target[0].bias.eq(0.25).all()
    assert {tensor.score for tensor in report.tensors} == {0.5}


def test_rank_puts_the_best_source_first(zoo: Any) -> None:
    timm, _ = zoo
    with torch.device("meta"):
        target = timm.create_model("efficientnet_b1")
        sources = {name: timm.create_model(name) for name in ("resnet18", "efficientnet_b0", "mnasnet_100")}
    ranking = tg.rank(target, sources)
    assert [row.name for row in ranking] == ["efficientnet_b0", "mnasnet_100", "resnet18"]
    for row in ranking:
        assert row.similarity == pytest.approx(tg.similarity(sources[row.name], target))
        assert row.similarity == pytest.approx((row.serves_target * row.served_by_target) ** 0.5)
        assert row.coverage == pytest.approx(tg.plan(sources[row.name], target).coverage, abs=0.1)
    assert [row.index for row in tg.rank(target, list(sources.values()))] == [1, 2, 0]

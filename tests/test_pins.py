"""Pins and exclusions."""

from __future__ import annotations

import pytest
from torch import nn

import torchgraft as tg


def stage(width: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(*(nn.Sequential(nn.Conv2d(width, width, 3), nn.BatchNorm2d(width)) for _ in range(blocks)))


class Body(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3)
        self.early, self.late = stage(width, 2), stage(width, 2)
        self.head = nn.Linear(width, 4)


def origins(plan: tg.Plan) -> dict[str, tuple[str, ...]]:
    return {tensor.key: tensor.source for tensor in plan.tensors}


def test_a_pinned_subtree_takes_its_weights_from_there() -> None:
    plan = tg.plan(Body(), Body(), pins={"early": "late"})
    found = origins(plan)
    assert found["early.0.0.weight"] == ("late.0.0.weight",)
    assert found["early.1.1.running_var"] == ("late.1.1.running_var",)
    assert found["stem.weight"] == ("stem.weight",) and found["head.weight"] == ("head.weight",)


def test_pins_that_cross_both_hold() -> None:
    found = origins(tg.plan(Body(), Body(), pins={"early": "late", "late": "early"}))
    assert found["early.0.0.weight"] == ("late.0.0.weight",) and found["late.1.0.weight"] == ("early.1.0.weight",)
    assert found["stem.weight"] == ("stem.weight",)


def test_one_source_may_be_pinned_to_two_targets() -> None:
    plan = tg.plan(Body(), Body(), pins={"early.0": "late.1", "early.1": "late.1"})
    found = origins(plan)
    assert found["early.0.0.weight"] == found["early.1.0.weight"] == ("late.1.0.weight",)
    assert [t.status for t in plan.tensors if t.key in ("early.0.0.weight", "early.1.0.weight")] == ["copied", "reused"]


@pytest.mark.parametrize(
    ("pins", "told"),
    [
        ({"erly": "late"}, "the target has no such path.*did you mean 'early'"),
        ({"early": "lates"}, "the source has no such path.*did you mean 'late'"),
        ({"stem": "head"}, "conv2d cannot take weights from linear"),
        ({"early": "late", "early.0": "late.0"}, "overlap in the target"),
    ],
)
def test_a_pin_that_cannot_hold_says_why(pins: dict[str, str], told: str) -> None:
    with pytest.raises(tg.PinError, match=told):
        tg.plan(Body(), Body(), pins=pins)


def test_excluded_targets_keep_their_own_and_excluded_sources_serve_nothing() -> None:
    plan = tg.plan(Body(), Body(), exclude_target=["head"], exclude_source=["late"])
    found = {tensor.key: tensor for tensor in plan.tensors}
    assert found["head.weight"].status == "kept" and found["head.weight"].reason == "excluded"
    assert not any(source.startswith("late") for tensor in plan.tensors for source in tensor.source)
    with pytest.raises(tg.PinError, match="nothing to exclude at target path 'haed': did you mean 'head'"):
        tg.plan(Body(), Body(), exclude_target=["haed"])
    with pytest.raises(tg.PinError, match="it is excluded"):
        tg.plan(Body(), Body(), pins={"head": "head"}, exclude_target=["head"])


def test_options_of_another_type_are_refused_by_name() -> None:
    source, target = (nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)) for _ in range(2))
    with pytest.raises(tg.SpecError, match="pins are a dict"):
        tg.plan(source, target, pins=[("0", "0")])  # type: ignore[arg-type]
    with pytest.raises(tg.SpecError, match="labels are a dict"):
        tg.plan(source, target, labels=[(0, 1)])  # type: ignore[arg-type]
    with pytest.raises(tg.SpecError, match="the sources are a list or a dict"):
        tg.rank(target, "timm:resnet18")
    assert tg.plan(source, target, exclude_target="0", pins=None, labels=None).pairs() == (("1", "1"),)  # type: ignore[arg-type]

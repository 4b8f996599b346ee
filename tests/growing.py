"""Exact growth, as several test files check it: a larger target computes the source's function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import torchgraft as tg
from benchmarks.growth.measure import drawn, settle, varied
from torchgraft.axes.outputs import outputs_of

Built = Callable[[], nn.Module]
Transfer = Callable[[nn.Module, nn.Module], tg.Report]

IMAGES = torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
ROWS = torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(7))


def by_a_stored_plan(source: nn.Module, target: nn.Module) -> tg.Report:
    """Transfer by way of the text of a plan."""
    return tg.apply(tg.Plan.from_json(tg.plan(source, target).to_json()), source, target)


def grown(
    source: nn.Module, target: nn.Module, inputs: Any, transfer: Transfer = tg.transfer
) -> tuple[float, tg.Report]:
    """Transfer, run both once, and return the relative deviation; the source stays as it is."""
    state = {key: value.clone() for key, value in source.state_dict().items()}
    report = transfer(source, target)
    assert all(torch.equal(value, state[key]) for key, value in source.state_dict().items())
    outputs = []
    for model in (source, target):
        with torch.no_grad():
            found = model(**inputs) if isinstance(inputs, dict) else model(inputs)
        outputs.append(outputs_of(found)[0])
    before, after = outputs[0], outputs[1][..., : outputs[0].shape[-1]]  # features of more units: the first ones
    return float((before - after).abs().max() / before.abs().max()), report


def assert_grown(build: Built, larger: Built, inputs: Tensor, transfer: Transfer = tg.transfer) -> tg.Report:
    """A larger target computes the source's function, whatever both were drawn as; the report adds up."""
    source, target = drawn(build, 0), drawn(larger, 1)
    if inputs is IMAGES:
        settle(source, inputs, seed=2)
    assert varied(source, inputs) > 0.01, "a constant function would show nothing"
    deviation, report = grown(source, target, inputs, transfer)
    assert deviation <= 1e-10, f"it deviates by {deviation:.1e}"
    assert sum(one.size for one in report.tensors if one.tied is None) == report.total
    return report

"""Method fna: parameters are remapped by depth, width and kernel, as Fang et al. (arXiv:2006.12986) do it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import torchgraft as tg


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.expand, self.norm = nn.Conv2d(inputs, 2 * inputs, 1), nn.BatchNorm2d(2 * inputs)
        self.depthwise = nn.Conv2d(2 * inputs, 2 * inputs, kernel, padding=kernel // 2, groups=2 * inputs)
        self.project = nn.Conv2d(2 * inputs, outputs, 1)

    def forward(self, blob: Tensor) -> Tensor:
        inner = self.depthwise(self.norm(self.expand(blob)).relu())
        out = self.project(inner)
        return out if out.shape != blob.shape else blob + out


class Network(nn.Module):
    def __init__(self, widths: tuple[int, ...], depths: tuple[int, ...], kernel: int = 3) -> None:
        super().__init__()
        torch.manual_seed(sum(widths) + sum(depths))
        self.stem = nn.Conv2d(3, 4, 3)
        self.stages, before = nn.ModuleList(), 4
        for width, depth in zip(widths, depths, strict=True):
            row = [Block(before if place == 0 else width, width, kernel) for place in range(depth)]
            self.stages.append(nn.Sequential(*row))
            before = width
        self.head = nn.Linear(before, 5)

    def forward(self, images: Tensor) -> Tensor:
        blob = self.stem(images)
        for stage in self.stages:
            blob = stage(blob)
        return self.head(blob.mean((2, 3)))


@pytest.mark.parametrize("widths", [(6, 8), (8, 12), (4, 6)], ids=["as wide", "wider", "narrower"])
def test_new_blocks_of_a_stage_take_its_last_one(widths: tuple[int, ...]) -> None:
    source, target = Network((6, 8), (2, 3)), Network(widths, (4, 2), kernel=5)
    report = tg.transfer(source, target, method="fna")
    served = {one.key: one.source for one in report.tensors if one.key.endswith("depthwise.weight")}
    origins = {0: [0, 1, 1, 1], 1: [0, 1]}
    assert served == {
        f"stages.{stage}.{place}.depthwise.weight": (f"stages.{stage}.{one}.depthwise.weight",)
        for stage, row in origins.items()
        for place, one in enumerate(row)
    }
    assert not report.plan.exact


def test_first_units_and_centred_kernels_and_zeros() -> None:
    source, target = Network((6, 8), (1, 2)), Network((8, 12), (1, 2), kernel=5)
    torch.nn.init.uniform_(source.stages[1][0].norm.running_var)
    fresh = target.stages[1][0].norm.running_var.clone()
    tg.transfer(source, target, method="fna")
    old, new = source.stages[1][0], target.stages[1][0]
    expected = torch.zeros(new.depthwise.weight.shape)
    expected[:12, :, 1:4, 1:4] = old.depthwise.weight.detach()
    assert torch.equal(new.depthwise.weight, expected)
    dense = torch.zeros(new.project.weight.shape)
    dense[:8, :12] = old.project.weight.detach()
    assert torch.equal(new.project.weight, dense)
    assert torch.equal(new.norm.running_var[:12], old.norm.running_var)
    assert torch.equal(new.norm.running_var[12:], fresh[12:])


def test_a_deviation_is_told() -> None:
    source, target = Network((6, 8), (2, 2)), Network((6, 8), (2, 3))
    report = tg.transfer(source, target, method="fna")
    certificate = tg.verify(source, target, report, torch.randn(2, 3, 16, 16))
    measured = certificate.deviation()
    assert not certificate.exact and measured is not None and measured.relative > 1e-3


def test_the_same_architecture_is_copied() -> None:
    source, target = Network((6, 8), (2, 2)), Network((6, 8), (2, 2))
    report = tg.transfer(source, target, method="fna")
    assert set(report.counts()) == {"copied"} and report.coverage == 1
    assert all(torch.equal(one, target.state_dict()[key]) for key, one in source.state_dict().items())


def test_stages_that_do_not_pair_are_matched_by_votes() -> None:
    source, target = Network((6, 8), (2, 2)), Network((6, 8, 10), (2, 3, 1))
    report = tg.transfer(source, target, method="fna")
    served = {one.key: one.source for one in report.tensors if one.key.endswith("depthwise.weight")}
    assert served["stages.1.2.depthwise.weight"] == ("stages.1.1.depthwise.weight",)

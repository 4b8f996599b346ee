"""The experiments with checkpoints that others have trained: what prepares them, and their files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.growth.checkpoints import CheckpointFile
from benchmarks.trained.__main__ import DEVIATION, MEAN, refit
from torchgraft.lab.experiments import load_experiment
from torchgraft.lab.networks import build

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks" / "trained"


@pytest.mark.parametrize("bias", [True, False])
def test_a_network_reads_pictures_that_are_normalized_otherwise(bias: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3, bias=bias), nn.BatchNorm2d(6), nn.ReLU()).double()
    model(torch.randn(8, 3, 9, 9, dtype=torch.float64))
    model.eval()
    file = CheckpointFile(lambda: model, "cifar10", (0.5, 0.4, 0.3), (0.5, 0.25, 0.2))
    pixels = torch.rand(2, 3, 9, 9, dtype=torch.float64)

    def read(mean: tuple[float, ...], deviation: tuple[float, ...]) -> torch.Tensor:
        one, other = (torch.tensor(values, dtype=torch.float64).view(1, 3, 1, 1) for values in (mean, deviation))
        return (pixels - one) / other

    before = model(read(file.mean, file.deviation))
    assert not torch.allclose(before, model(read(MEAN, DEVIATION)))
    torch.testing.assert_close(refit(model, file)(read(MEAN, DEVIATION)), before, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("name", "pairs"), [("cifar10", 30), ("narrow", 2)])
def test_the_experiments_are_whole(name: str, pairs: int) -> None:
    experiment = load_experiment(FOLDER / f"{name}.toml")
    chosen = experiment.pairs or tuple(
        (source.name, target) for source in experiment.sources for target in experiment.targets or experiment.networks
    )
    assert sum(source != target for source, target in chosen) == pairs
    for network, spec in experiment.networks.items():
        assert build(spec, 10, size=32), network

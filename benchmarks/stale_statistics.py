"""How much of a low accuracy is due to BatchNorm's running statistics alone: ``python -m benchmarks.stale_statistics``.

Trains timm's tiny test_resnet on digits, starts its test_efficientnet from it, and after every epoch measures accuracy
twice: as it is, and on a copy whose running statistics were measured anew on the training images. Weights are the same
in both. ``stale`` is the largest ratio, over the norms, of the median running variance to the median true one.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import torch
from torch import nn

from torchgraft.demo.training import recalibrated
from torchgraft.lab.data import open_data
from torchgraft.lab.initializations import initialize
from torchgraft.lab.networks import build
from torchgraft.lab.records import Data, Recipe
from torchgraft.lab.training import evaluate, train
from torchgraft.lab.weights import read_state, write_state

SOURCE, TARGET = "timm:test_resnet", "timm:test_efficientnet"
RECIPE = Recipe(epochs=1, batch=32, augment="crop", rate=2e-3, final_rate=2e-4, horizon=10)
EPOCHS, SEED = 4, 0


def stale(network: nn.Module, measured: nn.Module) -> float:
    """Return the largest ratio of a median running variance to the one that was measured."""
    true = dict(measured.named_modules())
    ratios = [
        float(part.running_var.median() / true[name].running_var.median().clamp_min(1e-12))
        for name, part in network.named_modules()
        if isinstance(part, nn.modules.batchnorm._BatchNorm)
    ]
    return max(ratios)


def main() -> int:
    """Print one row per initialization and epoch."""
    torch.set_num_threads(1)
    whole, images = open_data(Data("digits", size=32)), open_data(Data("digits", size=32, train=600))
    source = build(SOURCE, 10, SEED + 1)
    trained = train(source, whole, replace(RECIPE, epochs=10, keep="best"), seed=SEED)
    assert trained.state is not None
    source = read_state(source.to(memory_format=torch.contiguous_format), write_state(trained.state), "the source")
    print("| initialization | epoch | accuracy | recalibrated | running / true variance |\n|---|---|---|---|---|")
    for name in ("random", "dpiat", "graft"):
        target = build(TARGET, 10, SEED)
        initialize(name, source, target, seed=SEED)
        for epoch in range(EPOCHS + 1):
            if epoch:
                train(target, images, RECIPE, seed=SEED + epoch)
            batches = images.train(128, "none", torch.Generator().manual_seed(SEED), "cpu")
            measured = recalibrated(target, (pictures for pictures, _ in batches))
            accuracies = [evaluate(one, images, RECIPE)[0] for one in (target, measured)]
            print(f"| {name} | {epoch} | {accuracies[0]:.1f} | {accuracies[1]:.1f} | {stale(target, measured):.2g} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())

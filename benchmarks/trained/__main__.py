"""Write trained checkpoints of the evaluation data as the lab reads them, all for pictures normalized alike.

    python -m benchmarks.trained ../shared/data lab-data

Every checkpoint was trained on pictures normalized in its own way. The lab has one way for all networks of an
experiment, so the difference is folded into the first convolution and what follows it. Behind a border of zeros that
is not exact: the accuracy of what is written is measured, and told beside that of the original.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from safetensors.torch import save
from torch import nn

from benchmarks.growth.checkpoints import CHECKPOINTS, CheckpointFile, load, pictures
from benchmarks.growth.real import accuracy
from torchgraft.io import atomic_write

LIKE = "cifar10_resnet20"  # reads pictures as the lab's "imagenet" gives them
MEAN, DEVIATION = CHECKPOINTS[LIKE].mean, CHECKPOINTS[LIKE].deviation
NAMES = tuple(name for name in CHECKPOINTS if name.startswith("cifar10_"))


def refit(model: nn.Module, file: CheckpointFile) -> nn.Module:
    """Let a network read pictures normalized by ``MEAN`` and ``DEVIATION``; written in place, and returned.

    With x the picture as the network knows it and z as it comes, x = z · scale + shift, channel by channel.
    """
    own_mean, own_deviation = torch.tensor(file.mean), torch.tensor(file.deviation)
    scale = torch.tensor(DEVIATION) / own_deviation
    shift = (torch.tensor(MEAN) - own_mean) / own_deviation
    parts = list(model.modules())
    first = next(part for part in parts if isinstance(part, nn.Conv2d))
    norm = next(part for part in parts if isinstance(part, nn.BatchNorm2d))
    with torch.no_grad():
        constant = (first.weight.sum((2, 3)) * shift).sum(1)
        first.weight *= scale.view(1, 3, 1, 1)
        if first.bias is not None:
            first.bias += constant
        elif norm.running_mean is not None:
            norm.running_mean -= constant
    return model


def main(arguments: list[str] | None = None) -> int:
    """Convert all of them; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trained", description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="folder of the evaluation data")
    parser.add_argument("output", type=Path, help="folder to write to")
    parser.add_argument("--test", type=int, default=2000, help="test pictures to measure by")
    chosen = parser.parse_args(arguments)
    chosen.output.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        file, model = CHECKPOINTS[name], load(name, chosen.folder)
        before = accuracy(model, pictures(name, chosen.folder, chosen.test))
        after = accuracy(refit(model, file), pictures(LIKE, chosen.folder, chosen.test))
        path = chosen.output / f"{name}.safetensors"
        atomic_write(path, save({key: value.contiguous() for key, value in model.state_dict().items()}))
        print(f"{path}: {before:.2f} % as published, {after:.2f} % as written, of {chosen.test} test pictures")
    return 0


if __name__ == "__main__":
    sys.exit(main())

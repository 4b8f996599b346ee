"""The experiment of arXiv:1701.03281 section 5, "Modularized Morphing of Neural Networks", on CIFAR-10.

Every shortcut of a residual network that is an identity, or every second one (``-half``), becomes a module of layers
that computes the same.

    python -m benchmarks.morph_residual kept  --images 10000
    python -m benchmarks.morph_residual trained --data npz:lab-data/cifar10.npz

``kept`` reads pictures with trained checkpoints before and after the morph (it needs the evaluation data); ``trained``
trains a small parent, morphs it and trains on, beside the morphed architecture from scratch and the parent, both for as
many epochs in all.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.growth.checkpoints import load, pictures
from benchmarks.growth.networks import CifarResNet
from torchgraft import morph
from torchgraft.lab.data import open_data
from torchgraft.lab.records import Data, Recipe
from torchgraft.lab.training import Images, train

#: As the paper names them; ``-half`` says that every second shortcut is morphed.
MODULES = ("1c1-half", "1c1", "3c1", "3c3", "two-branch")
CHECKPOINTS = ("cifar10_resnet20", "cifar10_resnet56")
FOLDER = Path("../shared/data")
RECIPE = Recipe(epochs=1, batch=128, optimizer="sgd", rate=0.1, final_rate=1e-3, augment="crop_flip", weight_decay=1e-4)


def identities(model: nn.Module) -> list[Any]:
    """Return the residual blocks whose shortcut is the identity, in their order."""
    blocks: list[Any] = [block for stage in model.children() if isinstance(stage, nn.Sequential) for block in stage]
    return [block for block in blocks if block.conv1.in_channels == block.conv2.out_channels and block.stride == 1]


def morphed(model: nn.Module, name: str, images: Tensor, seed: int = 0) -> nn.Module:
    """Return a copy in whose shortcuts a module stands, with its norms calibrated.

    Args:
        model: a :class:`CifarResNet`; left as it is.
        name: one of :data:`MODULES`.
        images: ``(n, 3, height, width)``, to measure statistics on.
        seed: of the factors that the module starts from.
    """
    grown = copy.deepcopy(model)
    blocks = identities(grown)
    for number, block in enumerate(blocks[:: 2 if name.endswith("-half") else 1]):
        width = block.conv2.out_channels
        shortcut = nn.Conv2d(width, width, 1, bias=False)
        nn.init.dirac_(shortcut.weight)
        kind = name.removesuffix("-half")
        block.downsample = morph.module(
            shortcut, kind, normalization="batchnorm", activation="relu", padding="same", seed=seed + number
        )
    morph.calibrate(grown.eval(), images)
    return grown


def fresh(model: nn.Module, seed: int) -> nn.Module:
    """Return a copy of the architecture with the initialization of its layers; learned activations start as ReLU."""
    copied = copy.deepcopy(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for part in copied.modules():
            if isinstance(part, nn.PReLU):
                nn.init.zeros_(part.weight)
            elif isinstance(part, nn.Conv2d | nn.BatchNorm2d | nn.Linear):
                part.reset_parameters()
    return copied


def right(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[int, Tensor]:
    """Return how many pictures are read right, and all outputs."""
    with torch.inference_mode():
        outputs = torch.cat([model(part) for part in torch.split(images, 100)])
    return int((outputs.argmax(1) == labels).sum()), outputs


def kept(count: int) -> Iterator[str]:
    """Yield a row for every checkpoint and module: right answers before and after, and how far outputs are apart."""
    yield "| checkpoint | module | morphed | parameters | right before | right after | changed | deviation | ms |"
    yield "|---|---|---:|---:|---:|---:|---:|---:|---:|"
    for checkpoint in CHECKPOINTS:
        model = load(checkpoint, FOLDER)
        shown = pictures(checkpoint, FOLDER, count)
        before, old = right(model, shown.images, shown.labels)
        for name in MODULES:
            start = time.perf_counter()
            grown = morphed(model, name, shown.images[:64])
            spent = time.perf_counter() - start
            after, new = right(grown, shown.images, shown.labels)
            places = len(identities(model)[:: 2 if name.endswith("-half") else 1])
            changed = int((new.argmax(1) != old.argmax(1)).sum())
            apart = float((new - old).abs().max() / old.abs().max())
            sizes = f"{size(model):,} → {size(grown):,}"
            told = checkpoint, name, places, sizes, before, after, changed, f"{apart:.1e}", f"{spent * 1e3:.0f}"
            yield "| " + " | ".join(map(str, told)) + " |"


def size(model: nn.Module) -> int:
    """Count the parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def trained(images: Images, depth: int, epochs: tuple[int, int], seeds: int) -> Iterator[str]:
    """Yield a row for every module: accuracy in percent of the parent, the child and their rivals, mean over seeds."""
    first, more = epochs
    whole = first + more
    yield f"| module | parent, {first} | at the morph | child, + {more} | from scratch, {whole} | parent, {whole} |"
    yield "|---|---:|---:|---:|---:|---:|"
    recipes = [replace(RECIPE, epochs=count, horizon=count) for count in (first, more, whole)]
    rows: dict[str, list[list[float]]] = {name: [] for name in MODULES}
    for seed in range(seeds):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            start = CifarResNet(depth=depth)
        parent, long = copy.deepcopy(start), copy.deepcopy(start)
        before = train(parent, images, recipes[0], seed=seed).curve[-1].accuracy
        rival = train(long, images, recipes[2], seed=seed).curve[-1].accuracy
        batch = next(iter(images.train(256, "none", torch.Generator().manual_seed(seed), "cpu")))[0]
        for name in MODULES:
            child = morphed(parent, name, batch, seed)
            scratch = fresh(child, seed)
            curve = train(child, images, replace(recipes[1], rate=RECIPE.rate / 5), seed=seed).curve
            other = train(scratch, images, recipes[2], seed=seed).curve[-1].accuracy
            rows[name].append([before, curve[0].accuracy, curve[-1].accuracy, other, rival])
            print(f"{name}, seed {seed}: {rows[name][-1]}", file=sys.stderr, flush=True)
    for name, found in rows.items():
        means = torch.tensor(found).mean(0).tolist()
        yield f"| {name} | " + " | ".join(f"{value:.2f}" for value in means) + " |"


def main(arguments: Sequence[str]) -> int:
    """Print one of the two tables.

    Args:
        arguments: of the command line.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.morph_residual", description=__doc__.partition("\n")[0])
    parser.add_argument("table", choices=("kept", "trained"))
    parser.add_argument("--images", type=int, default=10_000, help="pictures to read")
    parser.add_argument("--data", default="npz:lab-data/cifar10.npz", help="what to train on, as in the lab")
    parser.add_argument("--train", type=int, default=5_000, help="pictures to train on")
    parser.add_argument("--depth", type=int, default=2, help="blocks in each of the three stages")
    parser.add_argument("--epochs", type=int, nargs=2, default=(6, 4), help="of the parent, and after the morph")
    parser.add_argument("--seeds", type=int, default=1)
    chosen = parser.parse_args(arguments)
    if chosen.table == "kept":
        rows = kept(chosen.images)
    else:
        images = open_data(Data(chosen.data, size=32, train=chosen.train, test=2_000))
        rows = trained(images, chosen.depth, tuple(chosen.epochs), chosen.seeds)
    for row in rows:
        print(row, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

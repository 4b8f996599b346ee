"""Which blocks a shallower network keeps: the first ones, the last ones, or some from all over the row.

    python -m benchmarks.trained.blocks ../shared/data/text/tinyshakespeare.txt

Residual networks trained on CIFAR-10 (``python -m benchmarks.trained`` writes them to lab-data): accuracy before
training, with statistics of batch norms measured anew on the training pictures, and along the recipe of
``cifar10.toml``. And a small GPT-2 that is trained here, before any further training. The choice is made by pins;
without any, ``graft`` takes the first ones.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean

import torch

import torchgraft as tg
from benchmarks.trained.letters import gpt2, loss_of, read, train_source
from benchmarks.trained.networks import resnet
from torchgraft.demo.training import recalibrated
from torchgraft.lab.data import open_data
from torchgraft.lab.experiments import load_experiment
from torchgraft.lab.training import evaluate, train
from torchgraft.lab.weights import load_network

#: Blocks of a stage, of source and target.
RESNETS = ((5, 3), (9, 5), (9, 3))
LAYERS, FEWER = 8, (6, 4, 2)
ROWS = ("layer1", "layer2", "layer3")


def _spread(count: int, length: int) -> list[int]:
    """Choose at equal distances, both ends among them."""
    return [round(number * (length - 1) / (count - 1)) for number in range(count)]


WAYS: Mapping[str, Callable[[int, int], Sequence[int]]] = {
    "first": lambda count, length: range(count),
    "last": lambda count, length: range(length - count, length),
    "spread": _spread,
}


def _pins(chosen: Sequence[int]) -> dict[str, str]:
    """Pin block by block; the first of the second and third stage halves the picture, and has no other place."""
    return {
        f"{row}.{number}": f"{row}.{0 if row != ROWS[0] and not number else block}"
        for row in ROWS
        for number, block in enumerate(chosen)
    }


def _residual(seeds: int) -> None:
    experiment = load_experiment(Path(__file__).with_name("cifar10.toml"))
    images = open_data(experiment.data)
    batches = [pictures for pictures, _ in images.train(250, "none", torch.Generator())]
    weights = {source.name: source.weights for source in experiment.sources}
    print("| from | into | blocks of a stage | before training | after epochs 1 to 4 |\n|---|---|---|---:|---|")
    for depth, fewer in RESNETS:
        name = f"resnet{6 * depth + 2}"
        source = load_network(experiment.networks[name], weights[name])
        for way, choose in WAYS.items():
            curves = []
            for seed in range(seeds):
                torch.manual_seed(seed)
                target = resnet(fewer)
                tg.transfer(source, target, pins=_pins(choose(fewer, depth)))
                before = evaluate(recalibrated(target, batches), images, experiment.recipe)[0]
                curve = train(target, images, experiment.recipe, seed=seed).curve
                curves.append((before, *(point.accuracy for point in curve[1:])))
            told = [f"{mean(points):.1f}" for points in zip(*curves, strict=True)]
            blocks = " ".join(map(str, choose(fewer, depth)))
            print(
                f"| {name} | resnet{6 * fewer + 2} | {way}: {blocks} | {told[0]} | {', '.join(told[1:])} |", flush=True
            )


def _language(path: Path, steps: int) -> None:
    text = read(path)
    source, _ = train_source(text, LAYERS, steps)
    print(f"\nGPT-2 of {LAYERS} layers, {steps} steps: {loss_of(source, text):.3f} nats a character\n")
    print("| into | layers | nats a character |\n|---|---|---:|")
    for fewer in FEWER:
        for way, choose in WAYS.items():
            target = gpt2(fewer).eval()
            chosen = choose(fewer, LAYERS)
            tg.transfer(source, target, pins={f"transformer.h.{t}": f"transformer.h.{s}" for t, s in enumerate(chosen)})
            print(f"| {fewer} layers | {way}: {' '.join(map(str, chosen))} | {loss_of(target, text):.3f} |")


def main(arguments: list[str] | None = None) -> int:
    """Print both tables; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trained.blocks", description=__doc__.partition("\n")[0])
    parser.add_argument("text", type=Path, help="what the language model learns")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=1500, help="of training the language model")
    chosen = parser.parse_args(arguments)
    _residual(chosen.seeds)
    _language(chosen.text, chosen.steps)
    return 0


if __name__ == "__main__":
    sys.exit(main())

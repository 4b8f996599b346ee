"""Train a grown GPT-2 on, from several starts.

    python -m benchmarks.trained.language ../shared/data/text/tinyshakespeare.txt

The source has 4 layers of 96 units and is trained here; the target has 6 layers of 144 units and 6 heads.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any

import torch

import torchgraft as tg
from benchmarks.trained.letters import Text, batch_of, gpt2, learn, loss_of, read, train_source

LAYERS, TARGET = 4, {"layers": 6, "width": 144, "heads": 6}
RATE, LOOKS = 1e-3, (50, 100, 200, 300)  # steps after which the loss is told

#: By name: the method, the share of the rate for what was transferred, and whether the optimizer's state moves.
#: ``dpiat`` is left out: its layers are convolutions and linear ones, and GPT-2 has none that are not tied.
STARTS: Mapping[str, tuple[str, float | None, bool]] = {
    "random": ("", 1.0, False),
    "graft (exact)": ("graft", 1.0, False),
    "**graft, `parameter_groups`' default**": ("graft", None, False),
    "graft, state moved": ("graft", 1.0, True),
    "graft, state moved, `parameter_groups`' default": ("graft", None, True),
}


def _curve(
    source: Any, adam: torch.optim.AdamW, text: Text, start: tuple[str, float | None, bool], seed: int
) -> list[float]:
    """Return the test losses before training and after each of the looks."""
    method, share, moved = start
    torch.manual_seed(seed)
    target = gpt2(**TARGET)
    groups: Any = target.parameters()
    if method:
        report = tg.transfer(source, target, method=method, seed=seed)
        groups = tg.parameter_groups(report, target, lr=RATE, transferred=share)
    optimizer = torch.optim.AdamW(groups, lr=RATE)
    if moved:
        tg.transfer_optimizer(report, adam, optimizer, source=source, target=target)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, LOOKS[-1], eta_min=0.0)
    generator, losses = torch.Generator().manual_seed(seed), [loss_of(target, text)]
    for step in range(1, LOOKS[-1] + 1):
        learn(target, batch_of(text.learnt, generator), optimizer, schedule)
        losses += [loss_of(target, text)] if step in LOOKS else []
    return losses


def main(arguments: list[str] | None = None) -> int:
    """Print the table; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trained.language")
    parser.add_argument("text", type=Path, help="what the language model learns")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=1500, help="of training the source")
    chosen = parser.parse_args(arguments)
    text = read(chosen.text)
    source, adam = train_source(text, LAYERS, chosen.steps)
    print(f"the source: {loss_of(source, text):.3f} nats a letter\n")
    print("| start | " + " | ".join(map(str, (0, *LOOKS))) + " |")
    print("|---|" + "---:|" * (len(LOOKS) + 1))
    for name, start in STARTS.items():
        curves = [_curve(source, adam, text, start, seed) for seed in range(chosen.seeds)]
        print(f"| {name} | " + " | ".join(f"{mean(one):.3f}" for one in zip(*curves, strict=True)) + " |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Train the demo's target from an exact start and from a trainable one: ``python -m benchmarks.exact_start``."""

from __future__ import annotations

import statistics

import torchgraft as tg
from torchgraft.demo.networks import source_network, target_network
from torchgraft.demo.training import FINE_RATE, RATE, load_digits, seeded, single_thread, train

SEEDS, EPOCHS, SOURCE_EPOCHS = 4, 3, 8


def main() -> None:
    """Print the test accuracies after every epoch, mean over seeds, and those of every seed after the last."""
    digits = load_digits(0)
    source = seeded(source_network, 0)
    told = train(source, digits, SOURCE_EPOCHS, RATE, 0)[-1]
    print(f"source {told:.1f} %\n\n| start | " + " | ".join(map(str, range(EPOCHS + 1))) + " | last, by seed |")
    print("|---|" + "---|" * (EPOCHS + 2))
    for trainable in (False, True):
        curves = []
        for seed in range(SEEDS):
            target = seeded(target_network, seed + 1000)
            tg.transfer(source, target, trainable=trainable)
            curves.append(train(target, digits, EPOCHS, FINE_RATE, seed))
        means = " | ".join(f"{statistics.mean(column):.1f}" for column in zip(*curves, strict=True))
        last = ", ".join(f"{curve[-1]:.1f}" for curve in curves)
        print(f"| {'trainable' if trainable else 'exact'} | {means} | {last} |")


if __name__ == "__main__":
    with single_thread():
        main()

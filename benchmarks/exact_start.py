"""Train the demo's target on from an exact start, in several ways: ``python -m benchmarks.exact_start``."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from torch import nn
from torch.optim import SGD, Adam, Optimizer

import torchgraft as tg
from torchgraft.demo.networks import source_network, target_network
from torchgraft.demo.training import FINE_RATE, RATE, Digits, load_digits, seeded, single_thread, train

SEEDS, EPOCHS, SOURCE_EPOCHS, SGD_RATE = 4, 3, 8, 0.01


@dataclass(frozen=True)
class Source:
    """The trained source and its optimizer."""

    network: nn.Module
    adam: Adam


Start = Callable[[Source, int], tuple[nn.Module, Optimizer, float]]


def itself(source: Source, seed: int) -> tuple[nn.Module, Optimizer, float]:
    """The control: the source, trained on by the same recipe."""
    network = copy.deepcopy(source.network)
    return network, Adam(network.parameters(), lr=FINE_RATE), FINE_RATE


def grown(
    source: Source,
    seed: int,
    *,
    trainable: bool = False,
    method: str = "graft",
    fresh: str = "",
    share: float | None = 1.0,
    make: Callable[..., Optimizer] = Adam,
    rate: float = FINE_RATE,
) -> tuple[nn.Module, Optimizer, float]:
    """The target by graft; ``fresh`` moves the optimizer's state, and says what second moments of new units hold.

    What was transferred is trained at a ``share`` of the rate; ``None``: at what ``parameter_groups`` chooses.
    """
    target = seeded(target_network, seed + 1000)
    plan = tg.plan(source.network, target, method=method, trainable=trainable)
    tg.apply(plan, source.network, target)
    optimizer = make(tg.parameter_groups(plan, target, lr=rate, transferred=share), lr=rate)
    if fresh:
        tg.transfer_optimizer(plan, source.adam, optimizer, source=source.network, target=target, fresh=fresh)
    return target, optimizer, rate


STARTS: Mapping[str, Start] = {
    "the source itself": itself,
    "exact (the default)": grown,
    "exact, a tenth of the rate": partial(grown, rate=FINE_RATE / 10),
    "exact, a quarter of the rate for what was transferred (`parameter_groups`' default)": partial(grown, share=None),
    "exact, a tenth for what was transferred": partial(grown, share=0.1),
    "exact, state moved, zeros for new units": partial(grown, fresh="zero"),
    "**exact, state moved** (`transfer_optimizer`'s default)": partial(grown, fresh="mean"),
    "exact, state moved, a quarter": partial(grown, fresh="mean", share=None),
    "`trainable=True`": partial(grown, trainable=True),
    "`trainable=True`, state moved": partial(grown, trainable=True, fresh="mean"),
    "dpiat": partial(grown, method="dpiat"),
    "dpiat, state moved": partial(grown, method="dpiat", fresh="mean"),
    "exact, SGD": partial(grown, make=partial(SGD, momentum=0.9), rate=SGD_RATE),
    "exact, SGD, a quarter": partial(grown, share=None, make=partial(SGD, momentum=0.9), rate=SGD_RATE),
    "exact, SGD at five times the rate": partial(grown, make=partial(SGD, momentum=0.9), rate=5 * SGD_RATE),
    "exact, SGD at five times the rate, a quarter": partial(
        grown, share=None, make=partial(SGD, momentum=0.9), rate=5 * SGD_RATE
    ),
    "`trainable=True`, SGD": partial(grown, trainable=True, make=partial(SGD, momentum=0.9), rate=SGD_RATE),
    "dpiat, SGD": partial(grown, method="dpiat", make=partial(SGD, momentum=0.9), rate=SGD_RATE),
}


def main() -> None:
    """Print the test accuracies after every epoch, mean over seeds, and those of every seed after the last."""
    digits = load_digits(0)
    network = seeded(source_network, 0)
    source = Source(network, Adam(network.parameters(), lr=RATE))
    told = train(network, digits, SOURCE_EPOCHS, RATE, 0, optimizer=source.adam)[-1]
    print(f"source {told:.1f} %\n\n| start | " + " | ".join(map(str, range(EPOCHS + 1))) + " | last, by seed |")
    print("|---|" + "---|" * (EPOCHS + 2))
    for name, start in STARTS.items():
        curves = [curve(source, digits, start, seed) for seed in range(SEEDS)]
        means = " | ".join(f"{statistics.mean(column):.1f}" for column in zip(*curves, strict=True))
        last = ", ".join(f"{one[-1]:.1f}" for one in curves)
        print(f"| {name} | {means} | {last} |", flush=True)


def curve(source: Source, digits: Digits, start: Start, seed: int) -> list[float]:
    """Train one start; return the test accuracies, the first from before any training."""
    network, optimizer, rate = start(source, seed)
    return train(network, digits, EPOCHS, rate, seed, optimizer=optimizer)


if __name__ == "__main__":
    with single_thread():
        main()

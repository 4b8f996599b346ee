"""Rows made up for the tests of analysis and report, so that every figure is known beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torchgraft.lab.records import Epoch, Experiment, Initialized, Row, Source

STEPS = 50  # per epoch
SECONDS = 10.0  # per epoch


def experiment(nets: Sequence[str] = ("a", "b"), **changes: Any) -> Experiment:
    """All ordered pairs of the given networks."""
    values: dict[str, Any] = {
        "name": "made-up",
        "title": "Made-up runs",
        "networks": {net: f"timm:{net}" for net in nets},
        "sources": tuple(Source(net, net) for net in nets),
        "targets": tuple(nets),
        "initializations": ("random", "dpiat", "graft"),
    }
    return Experiment(**{**values, **changes})


def curve(*accuracies: float) -> tuple[Epoch, ...]:
    """One point per epoch, from epoch 0."""
    return tuple(Epoch(e, e * STEPS, value, 1.0, seconds=e * SECONDS) for e, value in enumerate(accuracies))


def run(
    initialization: str,
    source: str,
    target: str,
    seed: int,
    accuracies: Sequence[float],
    similarity: float | None = None,
    **changes: Any,
) -> Row:
    """One run of a target."""
    alike = {} if similarity is None else {"dpiat": similarity, "graft": similarity}
    key = f"{initialization}-{source}-{target}-{seed}"
    start = Initialized(0.5, "hash", alike)
    setting = {"torch": "2.13.0", "device": "cpu", "commit": "abc"}
    values = {"parameters": 1000, "seconds": 1.0, "setting": setting, **changes}
    return Row(key, "target", target, source, initialization, seed, {}, curve(*accuracies), start, **values)


def runs(
    initialization: str, source: str, target: str, finals: Sequence[float], similarity: float | None = None
) -> list[Row]:
    """One run per seed 0, 1, ..., with the given last accuracies after two epochs."""
    return [
        run(initialization, source, target, seed, (1.0, final / 2, final), similarity)
        for seed, final in enumerate(finals)
    ]


def known() -> tuple[Experiment, list[Row]]:
    """Two networks, three seeds: graft is at 1.6 and 0.5, dpiat at 0.8 and 1.0."""
    rows = [
        *runs("random", "", "b", (20.0, 20.0, 20.0)),
        *runs("random", "", "a", (38.0, 40.0, 42.0)),
        *runs("graft", "a", "b", (30.0, 34.0, 32.0), 0.7),
        *runs("graft", "b", "a", (18.0, 20.0, 22.5), 0.4),
        *runs("dpiat", "a", "b", (15.0, 16.0, 17.0), 0.7),
        *runs("dpiat", "b", "a", (42.0, 40.0, 38.0), 0.4),
    ]
    return experiment(thresholds=(10.0, 25.0)), rows

"""Learning curves: mean and spread of the accuracy by epoch, per target and over all pairs."""

from __future__ import annotations

__all__ = ["Curve", "pair_curves", "target_curves"]

from collections.abc import Sequence
from dataclasses import dataclass

from torchgraft.lab.analysis.runs import RANDOM, Runs
from torchgraft.lab.analysis.statistics import deviation, mean
from torchgraft.lab.records import Row


@dataclass(frozen=True, slots=True)
class Curve:
    """Accuracy in percent by epoch: means and sample deviations (``None`` for ``n`` of 1) over ``n`` members.

    ``target`` is empty for the curve over all pairs.
    """

    initialization: str
    target: str
    epochs: tuple[int, ...]
    means: tuple[float, ...]
    spreads: tuple[float | None, ...]
    n: int


def target_curves(runs: Runs) -> tuple[Curve, ...]:
    """Return one curve per target and initialization, over all its runs (seeds and sources together)."""
    members: dict[tuple[str, str], list[Row]] = {}
    for case, rows in runs.by_case.items():
        members.setdefault((case.target, case.initialization), []).extend(rows)
    epochs = _epochs(runs)
    return tuple(
        _curve(initialization, target, epochs, [_held(row, epochs) for row in rows])
        for (target, initialization), rows in members.items()
    )


def pair_curves(runs: Runs) -> tuple[Curve, ...]:
    """Return one curve per initialization over all pairs, each pair being the mean of its seeds.

    An initialization without a source takes part in every pair of its target, so that all curves weigh targets alike.
    """
    epochs = _epochs(runs)
    found = []
    for initialization in dict.fromkeys((RANDOM, *runs.experiment.initializations)):
        cases = [rows for source, target in runs.pairs if (rows := runs.of(initialization, source, target))]
        if cases:
            found.append(_curve(initialization, "", epochs, [_average(rows, epochs) for rows in cases]))
    return tuple(found)


def _epochs(runs: Runs) -> tuple[int, ...]:
    return tuple(sorted({point.epoch for rows in runs.by_case.values() for row in rows for point in row.curve}))


def _held(row: Row, epochs: Sequence[int]) -> list[float]:
    """Return the accuracy at every epoch; a run that ended early counts as it was last measured."""
    by_epoch = {point.epoch: point.accuracy for point in row.curve}
    values, last = [], row.curve[0].accuracy
    for epoch in epochs:
        last = by_epoch.get(epoch, last)
        values.append(last)
    return values


def _average(rows: Sequence[Row], epochs: Sequence[int]) -> list[float]:
    return [mean(values) for values in zip(*(_held(row, epochs) for row in rows), strict=True)]


def _curve(initialization: str, target: str, epochs: tuple[int, ...], members: Sequence[Sequence[float]]) -> Curve:
    columns = list(zip(*members, strict=True))
    means, spreads = tuple(mean(values) for values in columns), tuple(deviation(values) for values in columns)
    return Curve(initialization, target, epochs, means, spreads, len(members))
